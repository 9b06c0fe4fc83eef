/* What lserver.c (listening, accepting, what scripts call) and lserve.c (the life of a server
 * and of its connections) have of each other; nobody else includes this. */
#ifndef LUNEWIRE_LSERVER_H
#define LUNEWIRE_LSERVER_H

#include "ltls.h"
#include "rt.h"

#define SERVER_NAME "lunewire.Server"

/* User values of the userdata. */
enum {
  SERVER_HANDLER = 1,
  SERVER_FRAMING,
  SERVER_ON_ACCEPT,
  SERVER_ON_CLOSE,
  SERVER_ON_SHUTDOWN,
  SERVER_ON_EXIT,
  SERVER_ON_ERROR,
  SERVER_TLS, /* the context: kept alive */
  SERVER_VALUES = SERVER_TLS
};

/* Anchored while anything may still happen to it: it listens, a handler runs, or a connection
 * of its own is not gone; its connections refer to it. */
struct lserver {
  struct keeper keeper; /* first: of its connections */
  struct server s;
  struct job accept_job; /* accepts a batch */
  struct job settle_job; /* deals with what ended */
  struct rt *rt;
  struct lserver *prev, *next; /* in rt.servers, from listen to its end */
  struct conn_opts opts;
  struct waitq watchers;                  /* of shutdown and run; woken at every change */
  struct tls_context *tls;                /* NULL: plain */
  struct hello *first_hello, *last_hello; /* their handshakes are over */
  struct conn *first_ended, *last_ended;  /* on_close is still to be called */
  double drain_timeout, noted;            /* noted: when it last complained of exhaustion */
  size_t max_conns;
  int ref, backlog;
  int pause_code;            /* why accepting rests; 0: dealt with */
  unsigned conns, alive;     /* open; not gone: their descriptors are in use */
  unsigned handlers;         /* not ended: tasks of the handler and of hooks, handshakes */
  unsigned stoppers, spared; /* of those, tasks that wait in shutdown; of alive, their own */
  bool tells_close, begun;   /* has an on_close; shutdown has begun */
  bool collected;            /* for lack of descriptors, and none was had since */
  bool exited;               /* stopped, and the last handler has returned */
};

/* ---- lserve.c --------------------------------------------------------------------- */

void serve_init(struct lserver *ls, struct rt *rt);
/* Joins the open servers and lives without its user: [server at idx]. */
void serve_begin(lua_State *L, struct lserver *ls, int idx);
/* Stops listening. Idempotent. */
void serve_stop(struct lserver *ls);
/* The userdata goes away. */
void serve_fini(struct lserver *ls);
/* The link becomes that of the new Conn at idx, a connection of the server at ls_idx, unless
 * on_accept refuses it; its handler begins, if the server has one.  0; ERR_AGAIN: it was refused,
 * or its handshake has begun, and the Conn at idx is not the caller's; ERR_NOMEM. */
int serve_admit(lua_State *L, struct lserver *ls, int ls_idx, int idx, struct link *l,
                const struct addr *peer);
/* The same for a Conn that has its link, which is not secured: [-0, +1] the handler's task, or nil.
 * Both reset the connection if they raise an error. */
int serve_handle(lua_State *L, int ls_idx, int idx);
/* [-(1 + nargs), +1] Runs a function in a task that the server waits for at its end. closes: as of
 * task_spawn. */
void serve_spawn_hook(lua_State *L, struct lserver *ls, int nargs, int closes);
/* Takes what is in the backlog, `most` connections at most. */
void serve_backlog(lua_State *L, struct lserver *ls, int most);

#endif
