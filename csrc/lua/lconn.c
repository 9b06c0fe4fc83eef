/* Conn userdata: its life, addresses, times and facts.
 * What this is not: receiving (lrecv.c), sending (lsend.c), dialling (ldial.c), the options of
 * its socket (lconnopt.c). */
#include <math.h>
#include <string.h>

#include "rt.h"

#define CONN_NAME "lunewire.Conn"

struct conn_opts conn_opts_default(void) {
  return (struct conn_opts){.limits = conn_default_limits,
                            .timeout = INFINITY,
                            .idle_timeout = INFINITY,
                            .nodelay = true,
                            .keepalive.on = true};
}

/* ---- life ------------------------------------------------------------------------- */

struct conn *check_conn(lua_State *L, struct rt *rt, int idx) {
  struct lconn *lc = lua_touserdata(L, idx);
  if (lc && lua_getmetatable(L, idx)) {
    bool is_conn = lua_topointer(L, -1) == rt->conn_metatable;
    lua_pop(L, 1);
    if (is_conn && lc->c) return lc->c;
  }
  luaL_typeerror(L, idx, "Conn");
  return NULL;
}

int lconn_new(lua_State *L) {
  struct lconn *lc = lua_newuserdatauv(L, sizeof *lc, CONN_VALUES);
  lc->c = NULL;
  luaL_setmetatable(L, CONN_NAME);
  return lua_gettop(L);
}

int lconn_open(lua_State *L, struct rt *rt, int idx, struct link *l, const struct addr *peer,
               const struct conn_opts *o, int f) {
  struct lconn *lc = lua_touserdata(L, idx);
  struct conn *c = conn_open(&rt->turn, l, peer);
  if (!c) return ERR_NOMEM;
  lc->c = c;
  c->limits = o->limits;
  c->timeout = o->timeout;
  if (o->idle_timeout != INFINITY) conn_set_idle_timeout(c, o->idle_timeout);
  conn_opts_apply(l, o);
  if (!lua_isnil(L, f)) lconn_set_framing(L, idx, f);
  return 0;
}

void lconn_set_framing(lua_State *L, int conn_idx, int idx) {
  struct lconn *lc = lua_touserdata(L, conn_idx);
  lua_pushvalue(L, idx);
  lua_setiuservalue(L, conn_idx, CONN_FRAMING);
  lc->c->framing = to_framing(L, idx);
}

/* A Conn whose server has still to hear of its end lives on until then. */
static bool lives_on(lua_State *L, struct rt *rt, struct lconn *lc) {
  conn_close(lc->c);
  if (!(lc->c->holders & CONN_OF_KEEPER)) return false;
  luaL_setmetatable(L, CONN_NAME); /* to be finalized again */
  lconn_remember(L, rt, 1);
  return true;
}

static int lconn_gc(lua_State *L) {
  struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  struct lconn *lc = lua_touserdata(L, 1);
  lua_settop(L, 1);
  if (!lc->c || (!rt->closed && lives_on(L, rt, lc))) return 0;
  if (!rt->closed) conn_drop(lc->c, CONN_OF_OWNER);
  lc->c = NULL;
  return 0;
}

void lconn_remember(lua_State *L, struct rt *rt, int idx) {
  struct lconn *lc = lua_touserdata(L, idx);
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->conns);
  lua_pushvalue(L, idx);
  lua_rawsetp(L, -2, lc->c);
  lua_pop(L, 1);
}

void lconn_push(lua_State *L, struct rt *rt, const struct conn *c) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->conns);
  lua_rawgetp(L, -1, c);
  lua_remove(L, -2);
}

/* ---- options of whoever makes connections ----------------------------------------- */

void conn_opts_rest(lua_State *L, int idx, struct conn_opts *o) {
  static const struct opt keys[] = {
      {"line", OPT_SIZE, offsetof(struct conn_limits, line)},
      {"frame", OPT_SIZE, offsetof(struct conn_limits, frame)},
      {"all", OPT_SIZE, offsetof(struct conn_limits, all)},
      {"high_water", OPT_SIZE, offsetof(struct conn_limits, high_water)},
      {NULL, OPT_ANY, 0}};
  if (!lua_istable(L, idx)) {
    lua_pushnil(L);
    return;
  }
  if (lua_getfield(L, idx, "limits") != LUA_TNIL) {
    if (!lua_istable(L, -1))
      luaL_error(L, "option 'limits' must be a table, not %s", luaL_typename(L, -1));
    opts_read(L, lua_gettop(L), keys, &o->limits);
  }
  lua_pop(L, 1);
  if (lua_getfield(L, idx, "keepalive") != LUA_TNIL)
    o->keepalive = check_keepalive(L, lua_gettop(L));
  lua_pop(L, 1);
  if (lua_getfield(L, idx, "framing") != LUA_TNIL) check_framing(L, lua_gettop(L));
}

/* ---- failures --------------------------------------------------------------------- */

static void push_text(lua_State *L, const struct conn *c, const struct conn_failure *f) {
  char who[ADDR_TEXT_MAX];
  addr_print(&c->peer, who);
  lua_pushfstring(L, "%s %s: %s", f->what, who, err_text(f->code));
}

int conn_failed(lua_State *L, struct conn *c, const char *what, int code) {
  c->failure = (struct conn_failure){code, what};
  lua_pushnil(L);
  push_text(L, c, &c->failure);
  lua_pushstring(L, err_name(code));
  return 3;
}

void conn_push_failure(lua_State *L, const struct conn *c) {
  if (!c->failure.code) {
    lua_pushnil(L);
    lua_pushnil(L);
    return;
  }
  push_text(L, c, &c->failure);
  lua_pushstring(L, err_name(c->failure.code));
}

/* conn:last_error() -> message, code of the last receive that failed; nothing after a clean end */
static int l_last_error(lua_State *L) {
  const struct conn *c = check_conn(L, rt_of(L), 1);
  if (!c->recv_failure.code) return 0;
  push_text(L, c, &c->recv_failure);
  lua_pushstring(L, err_name(c->recv_failure.code));
  return 2;
}

/* conn:strerror() -> the message of the last failure, or nil */
static int l_strerror(lua_State *L) {
  const struct conn *c = check_conn(L, rt_of(L), 1);
  if (c->failure.code)
    push_text(L, c, &c->failure);
  else
    lua_pushnil(L);
  return 1;
}

/* ---- ends ------------------------------------------------------------------------- */

static bool is_flushed(void *c) { return conn_is_flushed(c); }

static int end_later(lua_State *L, struct conn *c, double delay, bool reset) {
  int r = delay == INFINITY ? 0 : conn_close_in(c, delay, reset);
  if (r) return conn_failed(L, c, reset ? "reset" : "close", r);
  lua_pushboolean(L, true);
  return 1;
}

/* conn:close([delay]) -> true | nil, message, code of a write that had failed.
 * Outside a task it turns the loop until everything was handed to the system. */
static int l_close(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  double delay = opt_seconds(L, 2, 0);
  if (delay > 0) return end_later(L, c, delay, false);
  bool was_open = conn_is_open(c);
  conn_close(c);
  if (was_open && !rt_in_task(rt) && !rt->driver && !in_finalizer(L))
    rt_drive_until(L, rt, is_flushed, c);
  if (was_open && c->out_end) return conn_failed(L, c, "close", c->out_end);
  lua_pushboolean(L, true);
  return 1;
}

/* __close: the end of a <close> variable's block. Never waits. */
static int l_scope_end(lua_State *L) {
  conn_close(check_conn(L, rt_of(L), 1));
  return 0;
}

/* conn:reset([delay]) -> true */
static int l_reset(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  double delay = opt_seconds(L, 2, 0);
  if (delay > 0) return end_later(L, c, delay, true);
  conn_reset(c);
  lua_pushboolean(L, true);
  return 1;
}

/* conn:close_write() -> true | nil, message, code */
static int l_close_write(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  int r = conn_close_write(c);
  if (r) return conn_failed(L, c, "close_write", r);
  if (!rt_in_task(rt)) conn_flush_now(c);
  lua_pushboolean(L, true);
  return 1;
}

/* conn:closed() -> boolean */
static int l_closed(lua_State *L) {
  lua_pushboolean(L, !conn_is_open(check_conn(L, rt_of(L), 1)));
  return 1;
}

/* ---- times ------------------------------------------------------------------------ */

static int set_deadline(lua_State *L, unsigned which) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  conn_set_deadline(c, which, opt_seconds(L, 2, INFINITY));
  return 0;
}

/* conn:set_deadline(t | nil), set_recv_deadline, set_send_deadline: seconds of wire.now() */
static int l_set_deadline(lua_State *L) { return set_deadline(L, CONN_RECV | CONN_SEND); }
static int l_set_recv_deadline(lua_State *L) { return set_deadline(L, CONN_RECV); }
static int l_set_send_deadline(lua_State *L) { return set_deadline(L, CONN_SEND); }

/* conn:set_timeout(s | nil) */
static int l_set_timeout(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  c->timeout = opt_seconds(L, 2, INFINITY);
  return 0;
}

/***
Lets receives time out while the peer is idle.

A receive returns `ETIMEDOUT` once `s` seconds have passed since the last message was received:
since a whole line, package or frame, so that a peer that sends a byte now and then of a line
without end counts as idle; where bytes are received (`recv`, `recv_some`, `peek`, `chunks`,
`read` of a count or of everything), since the last byte.  What is sent does not count.  Nothing
is closed and no byte is lost.  Setting it begins to count anew, also for a call that is waiting:
whoever got `ETIMEDOUT`, asks the peer for a sign of life and sets it again waits as long again.
A timeout or deadline that comes earlier stays in force, and what is buffered is received even
when the time is over.
@function Conn:set_idle_timeout
@tparam ?number s seconds; `math.huge` or `nil` for none, as a connection begins
@waits never
@raise what is no number
*/
static int l_set_idle_timeout(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  conn_set_idle_timeout(c, opt_seconds(L, 2, INFINITY));
  return 0;
}

/***
Lets `recv()` without a count, and `chunks`, wait until the line is quiet.

The first byte is awaited as usual.  Then the call goes on until nothing has come for `s`
seconds, or until its timeout, a deadline, `max` (without it `limits.all`) or the end of the
stream: what is there then is its result.
@function Conn:set_recv_buffer_wait
@tparam ?number s seconds; 0 or `nil` for none, as a connection begins
@waits never
@raise what is no number
@follows SetRecvBufferWait of gtcp
*/
static int l_set_recv_buffer_wait(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  double s = opt_seconds(L, 2, 0);
  c->buffer_wait = s > 0 ? (float)s : 0;
  return 0;
}

/* ---- facts ------------------------------------------------------------------------ */

static int push_name(lua_State *L, bool peer) {
  const struct conn *c = check_conn(L, rt_of(L), 1);
  char text[ADDR_TEXT_MAX];
  struct addr a;
  conn_name(c, peer, &a);
  lua_pushlstring(L, text, addr_print(&a, text));
  if (a.kind == ADDR_PIPE || a.kind == ADDR_UNIX) return 1;
  lua_pushlstring(L, text, addr_print_host(&a, text));
  lua_pushinteger(L, a.port);
  return 3;
}

/* conn:local_addr(), conn:remote_addr() -> "host:port", host, port */
static int l_local_addr(lua_State *L) { return push_name(L, false); }
static int l_remote_addr(lua_State *L) { return push_name(L, true); }

/* conn:socket() -> descriptor, -1 once closed */
static int l_socket(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  int fd = -1;
  if (conn_is_open(c)) c->link->ops->option(c->link, LINK_FD, false, &fd);
  lua_pushinteger(L, fd);
  return 1;
}

static void set_number(lua_State *L, const char *name, lua_Integer n) {
  lua_pushinteger(L, n);
  lua_setfield(L, -2, name);
}

/* conn:stats() -> table */
static int l_stats(lua_State *L) {
  struct rt *rt = rt_of(L);
  const struct conn *c = check_conn(L, rt, 1);
  double now = turn_now(&rt->turn);
  lua_createtable(L, 0, 7);
  set_number(L, "bytes_in", (lua_Integer)c->bytes_in);
  set_number(L, "bytes_out", (lua_Integer)c->bytes_out);
  set_number(L, "messages_in", (lua_Integer)c->messages_in);
  set_number(L, "messages_out", (lua_Integer)c->messages_out);
  set_number(L, "unsent", (lua_Integer)conn_unsent(c));
  lua_pushnumber(L, now - c->opened);
  lua_setfield(L, -2, "age");
  lua_pushnumber(L, now > c->last_active ? now - c->last_active : 0);
  lua_setfield(L, -2, "idle");
  return 1;
}

/* conn:set_framing(framing | nil) -> conn */
static int l_set_framing(lua_State *L) {
  check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  if (!lua_isnil(L, 2)) check_framing(L, 2);
  lconn_set_framing(L, 1, 2);
  lua_settop(L, 1);
  return 1;
}

static int l_tostring(lua_State *L) {
  static const char *const states[] = {"open", "closing", "closed"};
  const struct lconn *lc = lua_touserdata(L, 1);
  char local[ADDR_TEXT_MAX], peer[ADDR_TEXT_MAX];
  struct addr a;
  if (!lc || !lc->c) {
    lua_pushliteral(L, "Conn (collected)");
    return 1;
  }
  conn_name(lc->c, false, &a);
  addr_print(&a, local);
  addr_print(&lc->c->peer, peer);
  lua_pushfstring(L, "Conn (%s -> %s, %s)", local, peer, states[lc->c->state]);
  return 1;
}

static const luaL_Reg methods[] = {{"close", l_close},
                                   {"reset", l_reset},
                                   {"close_write", l_close_write},
                                   {"closed", l_closed},
                                   {"set_deadline", l_set_deadline},
                                   {"set_recv_deadline", l_set_recv_deadline},
                                   {"set_send_deadline", l_set_send_deadline},
                                   {"set_timeout", l_set_timeout},
                                   {"set_idle_timeout", l_set_idle_timeout},
                                   {"set_recv_buffer_wait", l_set_recv_buffer_wait},
                                   {"set_framing", l_set_framing},
                                   {"local_addr", l_local_addr},
                                   {"remote_addr", l_remote_addr},
                                   {"socket", l_socket},
                                   {"stats", l_stats},
                                   {"last_error", l_last_error},
                                   {"strerror", l_strerror},
                                   {"__tostring", l_tostring},
                                   {"__close", l_scope_end},
                                   {NULL, NULL}};

void lconn_register(lua_State *L, struct rt *rt) {
  rt_metatable(L, rt, CONN_NAME, methods, lconn_gc);
  rt->conn_metatable = lua_topointer(L, -1);
  lua_getfield(L, -1, "__index");
  rt_setfuncs(L, rt, lrecv_methods);
  rt_setfuncs(L, rt, lsend_methods);
  rt_setfuncs(L, rt, lconnopt_methods);
  rt_setfuncs(L, rt, ltimer_methods);
  rt_setfuncs(L, rt, lfile_methods);
  lrecv_set_iterators(L, rt);
  lua_setfield(L, -3, "conn_methods"); /* what wraps a connection has them all */
  lua_pop(L, 1);
}
