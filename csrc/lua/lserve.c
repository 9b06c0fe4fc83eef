/* The life of a server and of its connections: who is admitted, who handles them, who is told of
 * their end, and when the server itself has ended.
 * What this is not: listening and what scripts call (lserver.c), when to accept (core/server.c). */
#include <stdio.h>
#include <string.h>

#include "lhandshake.h"

/* [-0, +1] Its userdata; it must be anchored. */
static int push_server(lua_State *L, const struct lserver *ls) {
  rt_push_anchored(L, ls->rt, ls->ref);
  return lua_gettop(L);
}

static bool push_hook(lua_State *L, int ls_idx, int which) {
  if (lua_getiuservalue(L, ls_idx, which) != LUA_TNIL) return true;
  lua_pop(L, 1);
  return false;
}

/* ---- errors of its handlers -------------------------------------------------------- */

bool serve_push_on_error(lua_State *L, const struct lserver *ls) {
  bool has = push_hook(L, push_server(L, ls), SERVER_ON_ERROR);
  lua_remove(L, has ? -2 : -1);
  return has;
}

/* A message handler: [err] -> [{err, traceback}] */
static int keep_traceback(lua_State *L) {
  lua_createtable(L, 2, 0);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 1);
  luaL_traceback(L, L, task_push_error_text(L), 1);
  lua_rawseti(L, 2, 2);
  lua_settop(L, 2);
  return 1;
}

/* [{err, traceback}] -> []  To the server's on_error, or that of wire.  Without memory there was no
 * message handler, and the error is a string. */
static void report_hook(lua_State *L, struct lserver *ls, int ls_idx, int idx) {
  int e = lua_gettop(L);
  if (!push_hook(L, ls_idx, SERVER_ON_ERROR)) task_push_reporter(L, ls->rt);
  for (int i = 1; i <= 2; i++) {
    if (lua_istable(L, e))
      lua_rawgeti(L, e, i);
    else
      lua_pushvalue(L, e);
  }
  lua_pushvalue(L, idx);
  task_spawn(L, ls->rt, 3, 0)->reporting = true;
  lua_settop(L, e - 1);
}

/* ---- admission --------------------------------------------------------------------- */

/* [conn's on_accept] -> []  It must not wait: it would hold up all the others. */
static bool run_on_accept(lua_State *L, struct lserver *ls, int ls_idx, int idx) {
  int fn = lua_gettop(L);
  lua_pushcfunction(L, keep_traceback);
  lua_insert(L, fn);
  lua_pushvalue(L, idx);
  bool inside = ls->rt->in_hook; /* of another server's */
  ls->rt->in_hook = true;
  bool failed = lua_pcall(L, 1, 1, fn) != LUA_OK;
  ls->rt->in_hook = inside;
  bool refused = failed || (lua_isboolean(L, -1) && !lua_toboolean(L, -1));
  if (failed) report_hook(L, ls, ls_idx, idx);
  lua_settop(L, fn - 1);
  return !refused;
}

static bool is_accepted(lua_State *L, struct lserver *ls, int ls_idx, int idx) {
  return !push_hook(L, ls_idx, SERVER_ON_ACCEPT) || run_on_accept(L, ls, ls_idx, idx);
}

static void note_change(struct lserver *ls) {
  waitq_wake_all(&ls->watchers, 0);
  job_queue(&ls->rt->turn, &ls->settle_job);
}

/* Those that a handler is about to get are found by its task, all others must be remembered. */
static bool must_remember(const struct lserver *ls) {
  return ls->tells_close || ls->tls || !ls->s.on_ready;
}

static void note_fullness(struct lserver *ls) {
  server_set_full(&ls->s, ls->alive >= ls->max_conns);
}

static int adopt(lua_State *L, struct lserver *ls, int ls_idx, int idx) {
  struct conn *c = check_conn(L, ls->rt, idx);
  bool accepted = is_accepted(L, ls, ls_idx, idx);
  if (c->keeper) return ERR_AGAIN; /* on_accept gave it to a server itself */
  if (!conn_is_open(c)) return ERR_AGAIN;
  if (!accepted) {
    conn_reset(c);
    return ERR_AGAIN;
  }
  if (must_remember(ls)) lconn_remember(L, ls->rt, idx);
  c->keeper = &ls->keeper;
  ls->collected = false;
  ls->conns++;
  ls->alive++;
  note_fullness(ls);
  if (ls->begun) conn_drain(c);
  return 0;
}

void serve_spawn_hook(lua_State *L, struct lserver *ls, int nargs, int closes) {
  task_spawn(L, ls->rt, nargs, closes)->serves = ls;
  ls->handlers++;
}

/* [-0, +1] The handler runs with the Conn at idx, in a task that closes it when it ends. */
static void spawn_handler(lua_State *L, struct lserver *ls, int ls_idx, int idx) {
  lua_getiuservalue(L, ls_idx, SERVER_HANDLER);
  lua_pushvalue(L, idx);
  lua_pushvalue(L, ls_idx);
  serve_spawn_hook(L, ls, 2, idx);
}

/* Protected: [server, Conn, is it to be secured] -> [code, the handler's task | nil] */
static int enter(lua_State *L) {
  struct lserver *ls = lua_touserdata(L, 1);
  bool secured = lua_toboolean(L, 3);
  int r = adopt(L, ls, 1, 2);
  if (r == 0 && secured && (r = hello_begin(L, ls, 2)) == 0) r = ERR_AGAIN;
  lua_pushinteger(L, r);
  if (r == 0 && ls->s.on_ready)
    spawn_handler(L, ls, 1, 2);
  else
    lua_pushnil(L);
  return 2;
}

/* [-0, +1] the handler's task or nil -> code  An error is passed on, and costs the connection at
 * once: nobody would come to close it until the collector does. */
static int enter_or_reset(lua_State *L, int ls_idx, int idx, bool secured) {
  lua_pushcfunction(L, enter);
  lua_pushvalue(L, ls_idx);
  lua_pushvalue(L, idx);
  lua_pushboolean(L, secured);
  if (lua_pcall(L, 3, 2, 0) != LUA_OK) {
    const struct lconn *lc = lua_touserdata(L, idx);
    conn_reset(lc->c);
    return lua_error(L);
  }
  int r = (int)lua_tointeger(L, -2);
  lua_remove(L, -2);
  return r;
}

int serve_admit(lua_State *L, struct lserver *ls, int ls_idx, int idx, struct link *l,
                const struct addr *peer) {
  lua_getiuservalue(L, ls_idx, SERVER_FRAMING);
  int r = lconn_open(L, ls->rt, idx, l, peer, &ls->opts, lua_gettop(L));
  lua_pop(L, 1);
  if (r) return r;
  check_conn(L, ls->rt, idx)->accepted = true;
  r = enter_or_reset(L, ls_idx, idx, ls->tls != NULL);
  lua_pop(L, 1);
  return r;
}

int serve_handle(lua_State *L, int ls_idx, int idx) {
  return enter_or_reset(L, ls_idx, idx, false);
}

void serve_task_ended(struct lserver *ls) {
  ls->handlers--;
  note_change(ls);
}

/* ---- accepting --------------------------------------------------------------------- */

/* What is between accept() and the Conn that owns the link, should memory run out. */
struct incoming {
  struct lserver *ls;
  struct link *link;
  struct addr peer;
  int most; /* connections still to be accepted */
};

static void accept_one(lua_State *L, struct incoming *in, int ls_idx) {
  struct lserver *ls = in->ls;
  int idx = lconn_new(L, ls->rt);
  struct link *l = in->link;
  in->link = NULL;
  int r = serve_admit(L, ls, ls_idx, idx, l, &in->peer);
  if (r == ERR_NOMEM) luaL_error(L, "accept: not enough memory");
  lua_settop(L, ls_idx);
}

/* -> is there another one? */
static bool next_incoming(struct incoming *in) {
  if (in->most <= 0) return false;
  in->most--;
  if (server_accept(&in->ls->s, &in->link, &in->peer) == 0) return true;
  in->most = 0;
  return false;
}

/* Protected: with one at hand.  An error ends it, and costs the connection that is at hand then. */
static int accept_some(lua_State *L) {
  struct incoming *in = lua_touserdata(L, 1);
  int ls_idx = push_server(L, in->ls);
  do accept_one(L, in, ls_idx);
  while (next_incoming(in));
  return 0;
}

static void drop_incoming(struct incoming *in) {
  if (!in->link) return;
  in->link->ready = NULL;
  in->link->closed = NULL;
  in->link->ops->close(in->link, true);
  in->link = NULL;
}

/* The first is taken before Lua may fail: were it left in the backlog for want of memory, the
 * listener would call for it turn after turn. */
void serve_backlog(lua_State *L, struct lserver *ls, int most) {
  struct incoming in = {.ls = ls, .most = most};
  while (next_incoming(&in)) {
    rt_protect(L, accept_some, &in, 0);
    drop_incoming(&in);
  }
}

/* A batch a turn; what is left is announced again. */
static void accept_batch(struct job *j) {
  struct lserver *ls = (struct lserver *)(void *)((char *)j - offsetof(struct lserver, accept_job));
  serve_backlog(ls->rt->driver, ls, SERVER_BATCH);
}

static struct lserver *lserver_of(struct server *s) {
  return (struct lserver *)(void *)((char *)s - offsetof(struct lserver, s));
}

static void on_ready(struct server *s) { job_queue(s->turn, &lserver_of(s)->accept_job); }

/* ---- exhaustion -------------------------------------------------------------------- */

static void on_pause(struct server *s, int code) {
  lserver_of(s)->pause_code = code;
  job_queue(s->turn, &lserver_of(s)->settle_job);
}

/* Protected: garbage may hold descriptors.  Once, until accepting succeeds again. */
static int collect(lua_State *L) {
  struct lserver *ls = lua_touserdata(L, 1);
  ls->collected = true;
  lua_gc(L, LUA_GCCOLLECT);
  return 0;
}

static void complain(const struct lserver *ls) {
  char text[ADDR_TEXT_MAX];
  addr_print(&ls->s.listeners[0].at, text);
  fprintf(stderr, "lunewire: accept %s: %s; accepting rests while %u connections are open\n", text,
          err_text(ls->pause_code), ls->alive);
}

static void deal_with_pause(struct lserver *ls) {
  double now = turn_now(&ls->rt->turn);
  if (ls->pause_code && now - ls->noted >= 1) {
    ls->noted = now;
    complain(ls);
  }
  if (ls->pause_code && !ls->collected) rt_protect(ls->rt->driver, collect, ls, 0);
  ls->pause_code = 0;
}

/* ---- ends -------------------------------------------------------------------------- */

static void on_conn_ended(struct keeper *k, struct conn *c) {
  struct lserver *ls = (struct lserver *)(void *)k;
  ls->conns--;
  if (ls->tells_close) {
    c->holders |= CONN_OF_KEEPER;
    c->next_ended = NULL;
    *(ls->last_ended ? &ls->last_ended->next_ended : &ls->first_ended) = c;
    ls->last_ended = c;
  }
  note_change(ls);
}

static void on_conn_gone(struct keeper *k, struct conn *c) {
  struct lserver *ls = (struct lserver *)(void *)k;
  ls->alive--;
  if (c->spared) ls->spared--;
  note_fullness(ls);
  note_change(ls);
}

/* [-0, +1] The Conn of a connection that has ended.  A collection under way may have taken it off
 * the table while its finalizer, which puts it back, has still to run: then that is awaited. */
static void push_ended(lua_State *L, const struct lserver *ls, const struct conn *c) {
  lconn_push(L, ls->rt, c);
  if (!lua_isnil(L, -1)) return;
  lua_pop(L, 1);
  lua_gc(L, LUA_GCCOLLECT);
  lconn_push(L, ls->rt, c);
}

/* Protected: [server, connection]  on_close(conn, message, code) in a task of its own. */
static int tell_close(lua_State *L) {
  struct lserver *ls = lua_touserdata(L, 1);
  const struct conn *c = lua_touserdata(L, 2);
  push_hook(L, push_server(L, ls), SERVER_ON_CLOSE);
  push_ended(L, ls, c);
  conn_push_failure(L, c);
  serve_spawn_hook(L, ls, 3, 0);
  return 0;
}

/* Whether that can be told or not, the connection is the server's no more. */
static void deal_with_ended(lua_State *L, struct lserver *ls) {
  struct conn *c = ls->first_ended;
  ls->first_ended = c->next_ended;
  if (!ls->first_ended) ls->last_ended = NULL;
  lua_pushlightuserdata(L, c);
  rt_protect(L, tell_close, ls, 1);
  conn_drop(c, CONN_OF_KEEPER);
}

/* Protected. */
static int tell_exit(lua_State *L) {
  struct lserver *ls = lua_touserdata(L, 1);
  int ls_idx = push_server(L, ls);
  if (push_hook(L, ls_idx, SERVER_ON_EXIT)) {
    lua_pushvalue(L, ls_idx);
    task_spawn(L, ls->rt, 1, 0);
  }
  return 0;
}

/* Protected: [server, Conn]  Its handshake is over. */
static int tell_hello(lua_State *L) {
  struct lserver *ls = lua_touserdata(L, 1);
  spawn_handler(L, ls, push_server(L, ls), 2);
  return 0;
}

/* [Conn] -> [] */
static void serve_secured(lua_State *L, struct lserver *ls) {
  struct conn *c = ((const struct lconn *)lua_touserdata(L, -1))->c;
  if (!conn_is_open(c))
    lua_pop(L, 1);
  else if (!rt_protect(L, tell_hello, ls, 1))
    conn_reset(c); /* nobody else would come to close it */
  else if (ls->begun)
    conn_drain(c);
}

/* With a handler they are served; otherwise they wait for who accepts, as long as that may be. */
static void deal_with_hellos(struct lserver *ls) {
  if (ls->s.on_ready)
    while (hello_pop(ls->rt->driver, ls)) serve_secured(ls->rt->driver, ls);
  else if (server_is_open(&ls->s))
    waitq_wake_first(&ls->s.accepters);
  else
    hello_drop_all(ls->rt->driver, ls);
}

static void leave_servers(struct lserver *ls) {
  if (ls->ref == LUA_NOREF) return;
  if (ls->prev)
    ls->prev->next = ls->next;
  else
    ls->rt->servers = ls->next;
  if (ls->next) ls->next->prev = ls->prev;
  ls->prev = ls->next = NULL;
}

/* What callbacks only marked. */
static void settle(struct job *j) {
  struct lserver *ls = (struct lserver *)(void *)((char *)j - offsetof(struct lserver, settle_job));
  struct rt *rt = ls->rt;
  deal_with_pause(ls);
  if (ls->first_hello) deal_with_hellos(ls);
  while (ls->first_ended) deal_with_ended(rt->driver, ls);
  if (server_is_open(&ls->s) || ls->handlers) return;
  if (!ls->exited) {
    ls->exited = true;
    rt_protect(rt->driver, tell_exit, ls, 0);
    waitq_wake_all(&ls->watchers, 0);
  }
  if (ls->alive) return;
  leave_servers(ls);
  rt_release(rt->driver, rt, ls->ref);
  ls->ref = LUA_NOREF;
}

/* ---- beginning and end of all ------------------------------------------------------- */

void serve_init(struct lserver *ls, struct rt *rt) {
  memset(ls, 0, sizeof *ls);
  ls->rt = rt;
  ls->ref = LUA_NOREF;
  ls->keeper = (struct keeper){.ended = on_conn_ended, .gone = on_conn_gone};
  ls->accept_job.run = accept_batch;
  ls->settle_job.run = settle;
}

void serve_begin(lua_State *L, struct lserver *ls, int idx) {
  struct rt *rt = ls->rt;
  lua_pushvalue(L, idx);
  ls->ref = rt_anchor(L, rt);
  ls->next = rt->servers;
  if (ls->next) ls->next->prev = ls;
  rt->servers = ls;
  ls->s.on_pause = on_pause;
  lua_getiuservalue(L, idx, SERVER_HANDLER);
  if (!lua_isnil(L, -1)) server_serve(&ls->s, on_ready);
  lua_pop(L, 1);
}

void serve_stop(struct lserver *ls) {
  if (!server_is_open(&ls->s)) return;
  server_close(&ls->s);
  job_remove(&ls->rt->turn, &ls->accept_job);
  note_change(ls);
}

void serve_fini(struct lserver *ls) {
  serve_stop(ls);
  leave_servers(ls);
  server_fini(&ls->s);
  waitq_wake_all(&ls->watchers, ERR_CLOSED);
  job_remove(&ls->rt->turn, &ls->settle_job);
  hello_forget_all(ls);
  if (ls->alive || ls->first_ended) conn_forget_keeper(&ls->rt->turn, &ls->keeper);
}
