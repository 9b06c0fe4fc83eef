/* The runtime of one Lua state, and what the rooms of csrc/lua have of each other.
 *
 * Every function that is exported to Lua carries the runtime as its first upvalue.  Tasks are
 * resumed by the driver alone (task.c); everything else parks or wakes.
 * What this is not: anything that Lua scripts see, or that the core knows. */
#ifndef LUNEWIRE_RT_H
#define LUNEWIRE_RT_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "../core/conn.h"
#include "../core/err.h"
#include "../core/framing.h"
#include "../core/server.h"
#include "../core/turn.h"

struct hello;
struct lserver;
struct rt;
struct udp;

/* A call that may have to wait: its arguments, parsed once.  Lives on the C stack until it
 * must wait in a task, then in the task. */
struct op {
  /* What the call is: tries, waits, and pushes the results -> how many.  Begun by the method,
   * begun again after each wait in a task. */
  int (*run)(lua_State *L, struct rt *rt, struct op *o);
  const char *what;       /* the call's name, for messages */
  struct waitq *q;        /* where it stands in line, or NULL */
  const double *deadline; /* the connection's, or NULL */
  double timeout;         /* the call's own budget in seconds; INFINITY */
  double due;             /* timeout as a time, once the call had to wait */
  void *on;               /* what it is about: a connection, a task, ... */
  struct framing f;       /* receiving: what; sending a message: how */
  /* Run when the call ends by an error, or NULL. */
  void (*abandon)(lua_State *L, struct op *o);
  int args, index;            /* arguments on the stack; how many of them are dealt with */
  uint32_t ticket;            /* send_recv: which of the connection's requests it has sent */
  uint8_t style;              /* receiving: enum recv_style */
  bool outside : 1;           /* something outside the process may end the wait */
  bool waited : 1, spent : 1; /* it has waited; it waits because its task's turn is over */
  bool skip : 1, peek : 1;    /* receiving: discard what is too long; leave it where it is */
  bool keeps_place : 1;       /* receiving: success does not end the call */
  bool gathers : 1;           /* receiving: what is there, with the connection's buffer wait */
  bool as_file : 1;           /* sending: the result is the connection, as of a Lua file */
  bool framed : 1;            /* sending: one message of f */
  bool server : 1;            /* start_tls: our role */
};

struct waiter {
  struct wait wait; /* first: a wait is its waiter */
  struct op op;
};

enum task_status { TASK_READY, TASK_RUNNING, TASK_WAITING, TASK_DONE, TASK_FAILED, TASK_CANCELED };

enum { TASK_THREAD = 1, TASK_OWN, TASK_VALUES = TASK_OWN }; /* user values */

/* A coroutine that may wait.  Anchored in the runtime until it ends. */
struct task {
  struct waiter w;
  struct rt *rt;
  lua_State *co;
  struct waitq joiners;
  struct lserver *serves;  /* whose handler or hook it is, or NULL */
  struct conn *own;        /* what ends with it, or NULL: that of TASK_OWN */
  struct udp *works;       /* whose datagrams it handles, or NULL: that of TASK_OWN */
  struct conn *guards;     /* what is reset unless it ends well, or NULL: that of TASK_OWN */
  int ref;                 /* its anchor */
  int traceback;           /* anchor of the traceback of its death, or LUA_NOREF */
  uint16_t calls;          /* served in this turn without waiting */
  uint8_t status, outcome; /* outcome: the status that its end will give it */
  bool started, canceled;
  bool reporting; /* its on_error function runs, or it runs one for another */
  bool awaited;   /* wire.run returns its results: its error is not an uncaught one */
};

/* A job for a signal, which must not be lost for want of memory: lsignal.c. */
struct errand {
  struct job job;
  struct timer timer; /* until it is tried again */
  struct rt *rt;
  bool told; /* it has failed, and that was said */
};

/* What ends wire.run from outside: lsignal.c. */
struct quit {
  struct signal_watch watches[2]; /* SIGINT, SIGTERM */
  struct errand errand;
  unsigned replaced[2]; /* how many handlers of the user's there are for each */
  int fn;               /* registry reference of what runs then, or LUA_NOREF */
  bool running, begun;
};

struct rt {
  struct turn turn;
  struct waiter main_waiter;          /* of calls outside any task */
  struct task *running;               /* whose turn it is */
  lua_State *current;                 /* the coroutine that may yield to the driver now */
  lua_State *driver;                  /* who drives, or NULL */
  int conn_metatable, task_metatable; /* registry references */
  int message_handler;                /* registry reference: of the bodies of tasks */
  int anchors;     /* registry reference: a table of what lives without its user, and of numbers */
  int anchored;    /* places in it, */
  int free_anchor; /* and the first that is free, or 0 */
  int conns;       /* registry reference: connection -> its Conn, weak */
  int on_error;    /* registry reference of the user's function, or LUA_NOREF */
  unsigned tasks, timers;
  uint16_t main_calls;
  bool main_woken, stopped, closed;
  bool in_hook;                           /* a function of the user's runs that must not wait */
  struct lserver *servers;                /* that have not ended */
  struct owned *first_owned;              /* all */
  struct hello *first_hello, *last_hello; /* handshakes of accepted connections, oldest first */
  unsigned hellos;
  struct quit quit;
};

/* Raises once the state is closing and the loop is gone: a finalizer of the user's may run after
 * ours. */
static inline struct rt *rt_of(lua_State *L) {
  struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  if (rt->closed) luaL_error(L, "the Lua state is closing");
  return rt;
}
/* Is this a finalizer?  There no task may be switched, and what it makes might outlive the
 * state that is being closed. */
static inline bool in_finalizer(lua_State *L) { return lua_gc(L, LUA_GCCOUNT) < 0; }
void refuse_in_finalizer(lua_State *L, const char *what);

/* ---- rt.c ------------------------------------------------------------------------ */

/* The runtime of this Lua state, made if it is not there yet. */
struct rt *rt_open(lua_State *L);
/* What is not to go with a userdata unnoticed: freed by its finalizer, or with the state, for Lua
 * drops a finalizer that it has no memory or no C stack to run. */
struct owned {
  struct owned *next, **at;    /* in the runtime's list */
  void (*end)(struct owned *); /* frees what it has, but not itself */
};
/* -> `size` bytes, zero but for the struct owned that they begin with.  Raises without memory. */
void *owned_new(lua_State *L, struct rt *rt, size_t size, void (*end)(struct owned *));
void owned_free(struct owned *o);
/* The same for a call: freed with a userdata on its stack, so whatever ends it. [-0, +1] */
void *owned_by_call(lua_State *L, struct rt *rt, size_t size, void (*end)(struct owned *));
/* Keeps the value at the top alive until released: [-1, +0] -> reference. */
int rt_anchor(lua_State *L, struct rt *rt);
void rt_release(lua_State *L, struct rt *rt, int ref);
/* [-0, +1] The value that is kept there. */
void rt_push_anchored(lua_State *L, const struct rt *rt, int ref);
/* [userdata] As luaL_setmetatable, by a registry reference. */
static inline void rt_set_metatable(lua_State *L, int ref) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
  lua_setmetatable(L, -2);
}
/* [-nargs, +0] Runs f(p, arguments) with errors kept from the caller: they are reported. For jobs,
 * on the driver. false: it failed, maybe for want of memory before it began. */
bool rt_protect(lua_State *L, lua_CFunction f, void *p, int nargs);
/* The same, but the error is pushed if it fails. */
bool rt_try(lua_State *L, lua_CFunction f, void *p, int nargs);
/* Runs turns until done(arg), outside any task. */
void rt_drive_until(lua_State *L, struct rt *rt, bool (*done)(void *), void *arg);
/* The same as wire.run does it: signals end it. */
void rt_run(lua_State *L, struct rt *rt, bool (*done)(void *), void *arg);
/* Is the caller a task, or something that a task runs? */
static inline bool rt_in_task(const struct rt *rt) { return rt->running != NULL; }

/* ---- task.c ---------------------------------------------------------------------- */

/* [-(1 + nargs), +1]  Pops a function and its arguments, pushes a new Task, ready to run.
 * closes: stack index of the Conn that is closed when the task ends, or 0. */
struct task *task_spawn(lua_State *L, struct rt *rt, int nargs, int closes);
/* [owner, function, arguments...] -> [owner, Task]: a new task, which keeps its owner alive. */
struct task *task_spawn_for(lua_State *L, struct rt *rt);
/* [-0, +1] The Conn that ends with the task, or nil. */
void task_push_own_conn(lua_State *L, const struct task *t);
/* [-0, +1] The text of the error at index 1, whose __tostring may raise in its turn. */
const char *task_push_error_text(lua_State *L);
/* [-0, +1] What an uncaught error goes to. */
void task_push_reporter(lua_State *L, const struct rt *rt);
static inline bool task_ended(const struct task *t) { return t->status >= TASK_DONE; }

/* ---- lserve.c --------------------------------------------------------------------- */

/* The server's on_error function: [-0, +1], or false and nothing is pushed. */
bool serve_push_on_error(lua_State *L, const struct lserver *ls);
/* The task of a handler or hook has ended. */
void serve_task_ended(struct lserver *ls);

/* ---- op.c ------------------------------------------------------------------------ */

/* Is the call's time over? */
bool op_expired(struct rt *rt, struct op *o);
/* How many calls this turn of the caller's has served without waiting. */
static inline uint16_t *op_calls(struct rt *rt) {
  return rt->running ? &rt->running->calls : &rt->main_calls;
}
/* So many calls more, which have moved so many bytes, were served. */
static inline void op_charge(struct rt *rt, unsigned more, size_t bytes) {
  uint16_t *calls = op_calls(rt);
  size_t cost = *calls + more + bytes / TURN_CALL_BYTES;
  *calls = cost < TURN_BUDGET ? (uint16_t)cost : TURN_BUDGET;
}
/* Can the caller wait here, so that op_self() is its own? */
bool op_may_wait(lua_State *L, const struct rt *rt);
/* May a call be served at once, without an op? */
static inline bool op_at_once(struct rt *rt, const struct waitq *q) {
  return !q->first && *op_calls(rt) < TURN_BUDGET;
}
/* Has the caller's turn lasted long enough?  Then op_wait() gives way once. */
bool op_spent(lua_State *L, struct rt *rt, struct op *o);
/* A call that works for long in one go ends its turn early; false: it cannot give way. */
bool op_give_way(lua_State *L, struct rt *rt, struct op *o);
/* Does nobody stand before the caller?  What the loop runs itself, such as a hook, has no place:
 * the main chunk's, which waits meanwhile, is not its own. */
bool op_is_first(struct rt *rt, const struct waitq *q);
/* May this call try now?  ERR_AGAIN: others stand before it, or its turn is over. */
int op_turn(lua_State *L, struct rt *rt, struct op *o);
/* ERR_AGAIN: waits.  In a task it does not return: o->run begins again when there is something to
 * try.  Outside it returns 0 then.  Otherwise why the wait is over (ERR_TIMEDOUT, ERR_CLOSED, ...).
 * Raises wire.CANCELED, a deadlock, and where Lua cannot yield. */
int op_wait(lua_State *L, struct rt *rt, struct op *o);
/* The call is over: the next in line may try. */
void op_done(struct rt *rt, struct op *o);
/* The wait of the caller: its task's, or the main chunk's. */
struct wait *op_self(struct rt *rt);
/* What ended the wait of this call; 0: it did not wait yet, or was woken to look again. */
static inline int op_why(struct rt *rt, const struct op *o) {
  return o->waited ? op_self(rt)->why : 0;
}

/* ---- lopts.c --------------------------------------------------------------------- */

enum opt_type { OPT_SECONDS, OPT_SIZE, OPT_INT, OPT_BOOL, OPT_ANY };

/* One key of an options table and where its value goes (nowhere: OPT_ANY). */
struct opt {
  const char *name;
  enum opt_type type;
  size_t offset;
};

/* The option "retry" = {count=, interval=0.1} of the options table at idx, if there is one, as
 * the time that all tries take together: a call that is tried again goes on where it stopped,
 * so tries are one longer wait. */
double opts_retry(lua_State *L, int idx, double timeout);

/* Reads the options table at idx (none or nil: nothing; a number: the option "timeout", which
 * must be first in the list) into the struct at into.  Unknown keys and wrong types raise. */
void opts_read(lua_State *L, int idx, const struct opt *list, void *into);

/* The name at idx is one of the n entries of a table, which begin with their names, each of so many
 * bytes -> its index; any other raises, and says which may be meant. */
size_t check_name(lua_State *L, int idx, const void *table, size_t size, size_t n);
/* A whole number at idx within these bounds; raises otherwise. */
int check_between(lua_State *L, int idx, lua_Integer least, lua_Integer most);

/* The options of receiving and sending calls; each call has a list of those that it takes. */
struct call_opts {
  double timeout;
  size_t max;
  int header;
  bool keep, skip;
};
#define OPT_TIMEOUT                                                                                \
  { "timeout", OPT_SECONDS, offsetof(struct call_opts, timeout) }
#define OPT_MAX                                                                                    \
  { "max", OPT_SIZE, offsetof(struct call_opts, max) }
#define OPT_HEADER                                                                                 \
  { "header", OPT_INT, offsetof(struct call_opts, header) }
#define OPT_KEEP                                                                                   \
  { "keep", OPT_BOOL, offsetof(struct call_opts, keep) }
#define OPT_SKIP                                                                                   \
  { "skip", OPT_BOOL, offsetof(struct call_opts, skip) }
#define OPT_RETRY                                                                                  \
  { "retry", OPT_ANY, 0 }
#define OPT_END                                                                                    \
  { NULL, OPT_ANY, 0 }

void call_opts_parse(lua_State *L, int idx, const struct opt *list, struct call_opts *o);
/* Those at idx (0: there are none); without any, the connection's timeout and a header of 2
 * bytes. */
static inline void call_opts_read(lua_State *L, int idx, const struct conn *c,
                                  const struct opt *list, struct call_opts *o) {
  *o = (struct call_opts){.timeout = c->timeout, .header = 2};
  if (idx != 0 && !lua_isnoneornil(L, idx)) call_opts_parse(L, idx, list, o);
}

/* A count at idx: an integer >= 0; nil, negative and other types raise. */
size_t check_count(lua_State *L, int idx);
bool is_callable(lua_State *L, int idx);
/* A function or something callable at idx; raises otherwise. */
void check_callable(lua_State *L, int idx);
/* Seconds at idx; nan raises. none or nil: otherwise. */
double opt_seconds(lua_State *L, int idx, double otherwise);

/* The address at idx -> host and port; the text for messages is pushed: [-0, +1].  A wrong
 * type raises; a bad address is ERR_INVAL, and *why says what is wrong. */
int check_address(lua_State *L, int idx, char host[ADDR_HOST_MAX], uint16_t *port,
                  const char **why);

/* [-0, +3] nil, "what who: text", "CODE" -> 3.  who or detail may be NULL. */
int push_failure(lua_State *L, const char *what, const char *who, const char *detail, int code);

/* ---- lconn.c, lfacts.c, lconnopt.c, lrecv.c, lsend.c, lframing.c ----------------------- */

enum { CONN_FRAMING = 1, CONN_VALUES = CONN_FRAMING }; /* user values */

/* No other userdata of this size has the mark where this has it, so that two calls of Lua's tell a
 * Conn, and its runtime; to compare its metatable takes five. */
struct lconn {
  struct conn *c; /* NULL while it is being made, and once it is finalized */
  struct rt *rt;
  const char *mark; /* lconn_mark */
};
extern const char lconn_mark;

struct keepalive {
  bool on;
  int idle, interval, count; /* seconds, seconds, probes; 0: as the system has it */
};

/* What connect, serve, listen, adopt and pipe take for their connections. */
struct conn_opts {
  struct conn_limits limits;
  double timeout, idle_timeout;
  struct keepalive keepalive;
  bool nodelay;
};

struct conn_opts conn_opts_default(void);
/* The options table at idx may have "limits", "keepalive" and "framing": reads the first two,
 * pushes the framing or nil.  [-0, +1] */
void conn_opts_rest(lua_State *L, int idx, struct conn_opts *o);
/* What is the socket's among them, at most LISTEN_SETTINGS -> how many. */
int conn_opts_settings(const struct conn_opts *o, struct link_setting *list);
/* Sets those; accepted links have them. */
void conn_opts_apply(struct link *l, const struct conn_opts *o);
/* A boolean or a table of times at idx; raises otherwise. */
struct keepalive check_keepalive(lua_State *L, int idx);

/* The Conn at idx, or NULL if it is none. */
static inline const struct lconn *to_lconn(lua_State *L, int idx) {
  const struct lconn *lc = lua_touserdata(L, idx);
  bool is = lc && lua_rawlen(L, idx) == sizeof *lc && lc->mark == &lconn_mark && lc->c;
  return is ? lc : NULL;
}
static inline const struct lconn *check_lconn(lua_State *L, int idx) {
  const struct lconn *lc = to_lconn(L, idx);
  if (lc) return lc;
  luaL_typeerror(L, idx, "Conn");
  __builtin_unreachable(); /* that raised */
}
/* The Conn at idx, open or not; raises for anything else. */
static inline struct conn *check_conn(lua_State *L, const struct rt *rt, int idx) {
  (void)rt; /* whoever has it knows that the state is not closing */
  return check_lconn(L, idx)->c;
}
/* The Conn that a method was called with, and its runtime; raises like rt_of() and check_conn(). */
static inline struct conn *check_self(lua_State *L, struct rt **rt) {
  const struct lconn *lc = check_lconn(L, 1);
  *rt = lc->rt;
  if (lc->rt->closed) luaL_error(L, "the Lua state is closing");
  return lc->c;
}
/* A new Conn without a link; give it one with lconn_open. [-0, +1] -> its index */
int lconn_new(lua_State *L, const struct rt *rt);
/* Gives the new Conn at stack index idx its link, which is taken over in any case, and the
 * framing at index f (nil: none). 0 or ERR_NOMEM. */
int lconn_open(lua_State *L, struct rt *rt, int idx, struct link *l, const struct addr *peer,
               const struct conn_opts *o, int f);
/* The Conn at idx can be found again by its connection, as long as it is alive. */
void lconn_remember(lua_State *L, struct rt *rt, int idx);
/* [-0, +1] The Conn of a connection that ends with a task or was remembered, or nil. */
void lconn_push(lua_State *L, struct rt *rt, const struct conn *c);
/* [-0, +2] message, code of its last failure, or nil, nil. */
void conn_push_failure(lua_State *L, const struct conn *c);
/* Attaches the framing at idx (userdata, table or nil) to the Conn at conn_idx. */
void lconn_set_framing(lua_State *L, int conn_idx, int idx);

/* nil, "recv 127.0.0.1:80: text", code; remembers the failure. -> 3 */
int conn_failed(lua_State *L, struct conn *c, const char *what, int code);

/* Raises unless idx is a framing. none and nil are allowed if optional. */
void check_framing(lua_State *L, int idx);
/* The C framing at idx, or NULL if it is one in Lua. */
const struct framing *to_framing(lua_State *L, int idx);
/* [-0, +1] A new framing, all zero but its kind. */
struct framing *lframing_new(lua_State *L, enum framing_kind kind);

/* ---- receiving: recv.c */

/* How results look: nil, message, code | an iterator's end | a file's read */
enum recv_style { AS_METHOD, AS_ITERATOR, AS_FILE };

static inline bool recv_has_terminator(const struct framing *f) {
  return f->kind == FRAMING_LINE || f->kind == FRAMING_DELIMITER;
}

/* The first try of a call, made before anything is prepared for a wait: most messages of a busy
 * connection are there.  -> how many values were pushed; 0: it has to go the long way, recv_op().
 */
int recv_at_once(lua_State *L, struct rt *rt, struct conn *c, const struct framing *f);

/* The run of a call that receives one message. */
int recv_one(lua_State *L, struct rt *rt, struct op *o);
/* Waits for one message of o->f. 0: *m is it, not yet consumed; otherwise why not. In a task
 * that must wait it does not return. */
int recv_wait(lua_State *L, struct rt *rt, struct op *o, struct message *m);
/* Pushes the message (and what its framing gives beside it), then consumes it: no byte is lost if
 * memory runs out.  [-0, +(1|2)] -> how many values
 * 0: a finalizer took those bytes while they were pushed; nothing is pushed, try again. */
int recv_push(lua_State *L, struct rt *rt, struct conn *c, const struct framing *f,
              const struct message *m, bool peek);
/* nil, message, code[, partial] as o->style wants it */
int recv_failed(lua_State *L, struct op *o, int code);
/* What had come of a message that the end of the stream cut off is handed over. [-0, +0 or +1] */
int recv_push_partial(lua_State *L, struct conn *c);
/* The op of a receiving call on c, with the connection's own timeout. */
struct op recv_op(struct conn *c, const char *what, const struct framing *f);
/* The framing of packages. */
static inline void recv_set_pkg(struct framing *f, const struct conn *c,
                                const struct call_opts *o) {
  *f = (struct framing){.kind = FRAMING_LENGTH,
                        .size = (uint8_t)o->header,
                        .strip = (uint32_t)o->header,
                        .max = o->max ? o->max : c->limits->frame};
}

/* recv_frame with the framing in Lua of the Conn at stack index 1; raises if it has none. */
int lframing_recv(lua_State *L, struct rt *rt, const char *what, const struct call_opts *ro,
                  enum recv_style style);
/* [conn, data, opts]: data is replaced by what the Conn's framing in Lua makes of it; raises if
 * it has none. */
void lframing_encode(lua_State *L, const char *what);

/* ---- lvalues.c */

/* Writes the arguments [2, last] to `out` (NULL: only measures) -> bytes.  Raises for what cannot
 * be sent. */
size_t values_gather(lua_State *L, int last, char *out);

/* ---- lframing_counted.c */

enum { VARINT_OFFSET_MAX = 255 };

static inline bool framing_brings_more(const struct framing *f) {
  return f->kind == FRAMING_VARINT || f->kind == FRAMING_HEADER;
}
/* What a message brings beside its data, copied: the type of HEADER, the head of VARINT. */
struct beside {
  uint8_t kind, type;
  size_t head_len;
  char head[VARINT_OFFSET_MAX];
};
void beside_copy(struct beside *b, const struct framing *f, const struct message *m);
/* [-0, +(0|1)] -> how many values */
int beside_push(lua_State *L, const struct beside *b);
/* The option "type" of a message to be sent among those at idx; 0 without. */
uint8_t type_option(lua_State *L, int idx, const struct framing *f);
extern const luaL_Reg lframing_counted[];

extern const luaL_Reg lfacts_methods[], lrecv_methods[], lsend_methods[], lfile_methods[];
extern const luaL_Reg lconnopt_methods[], ltimer_methods[];
/* The iterators, entered into the table at the top. */
void lrecv_set_iterators(lua_State *L, struct rt *rt);

/* ---- each room enters its names into the module at the top of the stack ------------ */

/* Sets functions with the runtime as upvalue 1. [-0, +0] */
void rt_setfuncs(lua_State *L, struct rt *rt, const luaL_Reg *l);
/* A metatable `name` with methods, __gc and __close (may be NULL); left at the top. */
void rt_metatable(lua_State *L, struct rt *rt, const char *name, const luaL_Reg *methods,
                  lua_CFunction gc);

void rt_register(lua_State *L, struct rt *rt);
void task_register(lua_State *L, struct rt *rt);
void lrest_register(lua_State *L, struct rt *rt);
void lwatch_register(lua_State *L, struct rt *rt);
void ltask_register(lua_State *L, struct rt *rt);
void lco_register(lua_State *L, struct rt *rt);
void lconn_register(lua_State *L, struct rt *rt);
void ldial_register(lua_State *L, struct rt *rt);
void lfile_register(lua_State *L, struct rt *rt);
void lresolve_register(lua_State *L, struct rt *rt);
void llisten_register(lua_State *L, struct rt *rt);
void lserver_register(lua_State *L, struct rt *rt);
void ltls_register(lua_State *L, struct rt *rt);
void lsignal_register(lua_State *L, struct rt *rt);
void ltimer_register(lua_State *L, struct rt *rt);
void lframing_register(lua_State *L, struct rt *rt);
void lchannel_register(lua_State *L, struct rt *rt);
void lsemaphore_register(lua_State *L, struct rt *rt);
void ludp_register(lua_State *L, struct rt *rt);

#endif
