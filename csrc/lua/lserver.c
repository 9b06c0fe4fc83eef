/* Server userdata: listen, accept, and a handler's task for each connection.
 * What this is not: when to accept (core/server.c), argument habits of serve (init.lua). */
#include <math.h>
#include <string.h>

#include "rt.h"

#define SERVER_NAME "lunewire.Server"

/* Userdata: user value 1 the handler or nil, 2 the framing or nil.  Anchored while it listens;
 * its connections refer to it. */
struct lserver {
  struct server s; /* first */
  struct job job;  /* accepts a batch */
  struct rt *rt;
  struct conn_opts opts;
  int ref;
  unsigned conns; /* open, accepted or handed over */
};

struct serve_opts {
  struct conn_opts conn;
  struct listen_opts listen;
};

static const struct opt serve_keys[] = {
    {"backlog", OPT_INT, offsetof(struct serve_opts, listen.backlog)},
    {"reuse_port", OPT_BOOL, offsetof(struct serve_opts, listen.reuse_port)},
    {"ipv6_only", OPT_BOOL, offsetof(struct serve_opts, listen.ipv6_only)},
    {"nodelay", OPT_BOOL, offsetof(struct serve_opts, conn.nodelay)},
    {"keepalive", OPT_ANY, 0},
    {"timeout", OPT_SECONDS, offsetof(struct serve_opts, conn.timeout)},
    {"framing", OPT_ANY, 0},
    {"limits", OPT_ANY, 0},
    {NULL, OPT_ANY, 0}};

static struct lserver *check_server(lua_State *L) { return luaL_checkudata(L, 1, SERVER_NAME); }

static int server_failed(lua_State *L, const struct lserver *ls, const char *what, int code) {
  char text[ADDR_TEXT_MAX];
  addr_print(&ls->s.at, text);
  return push_failure(L, what, text, NULL, code);
}

/* ---- connections of a server ------------------------------------------------------- */

static void on_conn_close(struct conn *c) {
  struct lserver *ls = c->server;
  ls->conns--;
}

/* The Conn at idx belongs to the server at ls_idx from now on. */
static void adopt_conn(lua_State *L, struct lserver *ls, int ls_idx, struct conn *c, int idx) {
  lua_pushvalue(L, ls_idx);
  lua_setiuservalue(L, idx, 2); /* the server outlives its connections */
  c->server = ls;
  c->on_close = on_conn_close;
  ls->conns++;
}

/* The new Conn at idx gets an accepted link. 0 or ERR_NOMEM. */
static int give_link(lua_State *L, struct lserver *ls, int ls_idx, int idx, struct link *l,
                     const struct addr *peer) {
  lua_getiuservalue(L, ls_idx, 2);
  int r = lconn_open(L, ls->rt, idx, l, peer, &ls->opts, lua_gettop(L));
  lua_pop(L, 1);
  if (r) return r;
  struct conn *c = check_conn(L, ls->rt, idx);
  c->accepted = true;
  adopt_conn(L, ls, ls_idx, c, idx);
  return 0;
}

/* The handler runs with the Conn at idx, in a task that closes it when it ends. */
static void spawn_handler(lua_State *L, struct lserver *ls, int ls_idx, int idx) {
  lua_getiuservalue(L, ls_idx, 1);
  lua_pushvalue(L, idx);
  lua_pushvalue(L, ls_idx);
  task_spawn(L, ls->rt, 2, idx);
  lua_pop(L, 1);
}

/* What is between accept() and the Conn that owns the link, should memory run out. */
struct incoming {
  struct lserver *ls;
  struct link *link;
  struct addr peer;
};

static int accept_one(lua_State *L) {
  struct incoming *in = lua_touserdata(L, 1);
  struct lserver *ls = in->ls;
  lua_rawgeti(L, LUA_REGISTRYINDEX, ls->rt->anchors);
  lua_rawgeti(L, -1, ls->ref);
  int ls_idx = lua_gettop(L), idx = lconn_new(L);
  struct link *l = in->link;
  in->link = NULL;
  if (give_link(L, ls, ls_idx, idx, l, &in->peer) != 0)
    return luaL_error(L, "accept: not enough memory");
  spawn_handler(L, ls, ls_idx, idx);
  return 0;
}

static void drop_incoming(struct incoming *in) {
  if (!in->link) return;
  in->link->ready = NULL;
  in->link->closed = NULL;
  in->link->ops->close(in->link, true);
}

/* A batch a turn; what is left is announced again. */
static void accept_batch(struct job *j) {
  struct lserver *ls = (struct lserver *)(void *)((char *)j - offsetof(struct lserver, job));
  struct incoming in = {.ls = ls};
  for (int i = 0; i < SERVER_BATCH; i++) {
    if (server_accept(&ls->s, &in.link, &in.peer) != 0) return;
    rt_protect(ls->rt, accept_one, &in);
    drop_incoming(&in);
    in.link = NULL;
  }
}

static void on_server_ready(struct server *s) {
  struct lserver *ls = (struct lserver *)(void *)s;
  job_queue(s->turn, &ls->job);
}

/* ---- listen, serve ------------------------------------------------------------------ */

static void lserver_end(lua_State *L, struct lserver *ls) {
  if (!server_is_open(&ls->s)) return;
  server_close(&ls->s);
  job_remove(&ls->rt->turn, &ls->job);
  rt_release(L, ls->rt, ls->ref);
}

static int lserver_gc(lua_State *L) {
  struct lserver *ls = lua_touserdata(L, 1);
  lserver_end(L, ls);
  if (ls->conns) conn_forget_server(&ls->rt->turn, ls);
  return 0;
}

static struct lserver *lserver_new(lua_State *L, struct rt *rt) {
  struct lserver *ls = lua_newuserdatauv(L, sizeof *ls, 2);
  memset(ls, 0, sizeof *ls);
  ls->rt = rt;
  ls->ref = LUA_NOREF;
  ls->job.run = accept_batch;
  luaL_setmetatable(L, SERVER_NAME);
  return ls;
}

/* The address to listen on: numeric or none; a name was resolved before. */
static int listen_address(const char *host, uint16_t port, struct addr *a) {
  return addr_from_ip(a, *host ? host : "::", port);
}

static int try_listen(struct lserver *ls, const struct addr *at, bool any,
                      const struct listen_opts *o) {
  struct addr ip4;
  int r = server_open(&ls->s, &ls->rt->turn, at, o);
  if (!any || r != ERR_NOFAMILY || addr_from_ip(&ip4, "0.0.0.0", at->port) != 0) return r;
  return server_open(&ls->s, &ls->rt->turn, &ip4, o); /* a system without IPv6 */
}

/* core.listen(addr, opts | nil[, handler]) -> Server */
static int l_listen(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct serve_opts so = {.conn = conn_opts_default(), .listen = {.backlog = 511}};
  char host[ADDR_HOST_MAX];
  struct addr at;
  const char *why;
  uint16_t port;
  lua_settop(L, 3);
  refuse_in_finalizer(L, "listen");
  if (!lua_isnil(L, 2)) luaL_checktype(L, 2, LUA_TTABLE);
  opts_read(L, 2, serve_keys, &so);
  struct lserver *ls = lserver_new(L, rt);
  conn_opts_rest(L, 2, &so.conn);
  lua_setiuservalue(L, 4, 2);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, 4, 1);
  ls->opts = so.conn;
  int r = check_address(L, 1, host, &port, &why);
  if (r == 0 && (r = listen_address(host, port, &at)) != 0) why = "not an IP address";
  if (r == 0) r = try_listen(ls, &at, !*host, &so.listen);
  if (r) return push_failure(L, "listen", lua_tostring(L, 5), why, r);
  if (!lua_isnil(L, 3)) server_serve(&ls->s, on_server_ready);
  lua_pushvalue(L, 4);
  ls->ref = rt_anchor(L, rt);
  lua_settop(L, 4);
  return 1;
}

/* ---- accept ------------------------------------------------------------------------ */

static int accept_run(lua_State *L, struct rt *rt, struct op *o) {
  struct lserver *ls = o->on;
  struct link *l = NULL;
  struct addr peer;
  int r;
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) r = server_accept(&ls->s, &l, &peer);
    if (r != ERR_AGAIN) break;
    server_want(&ls->s);
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  if (r == 0) r = give_link(L, ls, 1, 2, l, &peer);
  if (r) return server_failed(L, ls, "accept", r);
  lua_settop(L, 2);
  return 1;
}

/* server:accept([timeout]) -> Conn */
static int l_accept(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct lserver *ls = check_server(L);
  struct op o = {.run = accept_run,
                 .what = "accept",
                 .on = ls,
                 .q = &ls->s.accepters,
                 .timeout = opt_seconds(L, 2, INFINITY),
                 .outside = true};
  lua_getiuservalue(L, 1, 1);
  if (!lua_isnil(L, -1))
    return luaL_error(L, "accept: this server has a handler, which gets every connection; use "
                         "wire.listen for a server to accept from");
  lua_settop(L, 1);
  lconn_new(L); /* now, so that no accepted link is lost if memory runs out */
  if (o.timeout <= 0) ls->s.ready = true; /* it will not wait: look at least once */
  return accept_run(L, rt, &o);
}

/* ---- the rest ---------------------------------------------------------------------- */

/* server:handle(conn) -> Task: the connection is treated as accepted */
static int l_handle(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct lserver *ls = check_server(L);
  struct conn *c = check_conn(L, rt, 2);
  lua_settop(L, 2);
  if (lua_getiuservalue(L, 1, 1) == LUA_TNIL)
    return luaL_error(L, "handle: this server has no handler; make it with wire.serve");
  if (!conn_is_open(c)) return server_failed(L, ls, "handle", ERR_CLOSED);
  if (c->server) return luaL_error(L, "handle: the connection belongs to a server already");
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 1);
  task_spawn(L, rt, 2, 2);
  adopt_conn(L, ls, 1, c, 2);
  return 1;
}

/* server:close() -> true: stops accepting; established connections live on */
static int l_close(lua_State *L) {
  lserver_end(L, check_server(L));
  lua_pushboolean(L, true);
  return 1;
}

/* server:addr() -> "host:port", as connect takes it */
static int l_addr(lua_State *L) {
  const struct lserver *ls = check_server(L);
  char text[ADDR_TEXT_MAX];
  lua_pushlstring(L, text, addr_print(&ls->s.at, text));
  return 1;
}

/* server:port() -> number */
static int l_port(lua_State *L) {
  lua_pushinteger(L, check_server(L)->s.at.port);
  return 1;
}

/* server:conn_num() -> connections accepted and not yet closed */
static int l_conn_num(lua_State *L) {
  lua_pushinteger(L, check_server(L)->conns);
  return 1;
}

static int l_tostring(lua_State *L) {
  const struct lserver *ls = check_server(L);
  char text[ADDR_TEXT_MAX];
  addr_print(&ls->s.at, text);
  lua_pushfstring(L, "Server (%s, %s)", text, server_is_open(&ls->s) ? "listening" : "closed");
  return 1;
}

void lserver_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"listen", l_listen}, {NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"accept", l_accept}, {"handle", l_handle},       {"close", l_close},
      {"addr", l_addr},     {"port", l_port},           {"conn_num", l_conn_num},
      {"__close", l_close}, {"__tostring", l_tostring}, {NULL, NULL}};
  rt_metatable(L, rt, SERVER_NAME, methods, lserver_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
