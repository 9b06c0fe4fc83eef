/* Server userdata: what scripts call of a server.
 * What this is not: beginning to listen (llisten.c), the life of a server and of its connections
 * (lserve.c), when to accept (core/server.c). */
#include "lhandshake.h"

#include <math.h>
#include <string.h>

static struct lserver *check_server(lua_State *L) { return luaL_checkudata(L, 1, SERVER_NAME); }

/* The first address stands for the server. */
static const struct addr *address_of(const struct lserver *ls) { return &ls->s.listeners[0].at; }

static int server_failed(lua_State *L, const struct lserver *ls, const char *what, int code) {
  char text[ADDR_TEXT_MAX];
  addr_print(address_of(ls), text);
  return push_failure(L, what, text, NULL, code);
}

/* ---- accept ------------------------------------------------------------------------ */

/* [server, Conn]  One whose handshake is over. */
static int accept_secured(lua_State *L, struct lserver *ls) {
  while (hello_pop(L, ls)) {
    if (conn_is_open(check_conn(L, ls->rt, 3))) {
      lua_replace(L, 2);
      return 0;
    }
    lua_settop(L, 2);
  }
  return ERR_AGAIN;
}

/* [server, Conn]  A Conn that on_accept refused, or that begins its handshake, is replaced by a
 * new one. */
static int accept_try(lua_State *L, struct lserver *ls) {
  struct link *l;
  struct addr peer;
  int r;
  if (accept_secured(L, ls) == 0) return 0;
  for (int i = 0; i < SERVER_BATCH && (r = server_accept(&ls->s, &l, &peer)) == 0; i++) {
    r = serve_admit(L, ls, 1, 2, l, &peer);
    if (r != ERR_AGAIN) return r;
    lua_settop(L, 1);
    lconn_new(L, ls->rt);
  }
  return r == 0 ? ERR_AGAIN : r;
}

static int accept_run(lua_State *L, struct rt *rt, struct op *o) {
  struct lserver *ls = o->on;
  int r;
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) r = accept_try(L, ls);
    if (r != ERR_AGAIN) break;
    server_want(&ls->s);
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  if (r) return server_failed(L, ls, "accept", r);
  lua_settop(L, 2);
  return 1;
}

/***
Takes the next connection of a server without a handler.
@function Server:accept
@tparam[opt=math.huge] number timeout seconds
@treturn Conn the connection
@codes ETIMEDOUT, ECLOSED (the server was closed)
@waits for a connection
@raise for a server with a handler, which gets every connection
*/
static int l_accept(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct lserver *ls = check_server(L);
  struct op o = {.run = accept_run,
                 .what = "accept",
                 .on = ls,
                 .q = &ls->s.accepters,
                 .timeout = opt_seconds(L, 2, INFINITY),
                 .outside = true};
  lua_getiuservalue(L, 1, SERVER_HANDLER);
  if (!lua_isnil(L, -1))
    return luaL_error(L, "accept: this server has a handler, which gets every connection; use "
                         "wire.listen for a server to accept from");
  lua_settop(L, 1);
  lconn_new(L, rt); /* now, so that no accepted link is lost if memory runs out */
  if (o.timeout <= 0 && server_is_open(&ls->s)) server_look(&ls->s);
  return accept_run(L, rt, &o);
}

/***
Treats a connection, a pipe's end say, as one that the server accepted.
It passes on_accept and is handled in a task of its own.
@function Server:handle
@tparam Conn conn the connection
@treturn Task the handler's
@codes ECLOSED (the connection or the server is closed), ECONNREFUSED (on_accept refused it)
@waits never
@raise for a server without a handler, or a connection that belongs to a server
*/
static int l_handle(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct lserver *ls = check_server(L);
  struct conn *c = check_conn(L, rt, 2);
  lua_settop(L, 2);
  if (lua_getiuservalue(L, 1, SERVER_HANDLER) == LUA_TNIL)
    return luaL_error(L, "handle: this server has no handler; make it with wire.serve");
  if (!conn_is_open(c) || !server_is_open(&ls->s))
    return server_failed(L, ls, "handle", ERR_CLOSED);
  if (c->keeper) return luaL_error(L, "handle: the connection belongs to a server already");
  if (serve_handle(L, 1, 2) != 0)
    return push_failure(L, "handle", NULL, "refused by on_accept", ERR_REFUSED);
  return 1;
}

/* ---- ends -------------------------------------------------------------------------- */

/***
Stops listening; established connections live on.
@function Server:close
@treturn boolean true
@waits never
*/
static int l_close(lua_State *L) {
  serve_stop(check_server(L));
  lua_pushboolean(L, true);
  return 1;
}

/* Is the caller one of its handlers or hooks? */
static bool is_own_task(const struct lserver *ls) {
  return ls->rt->running && ls->rt->running->serves == ls;
}

/* The caller's own connection, if it is the server's, or NULL. */
static struct conn *own_conn(const struct lserver *ls) {
  struct conn *c = ls->rt->running->own;
  return c && c->keeper == &ls->keeper && c->state != CONN_CLOSED ? c : NULL;
}

/* Who calls from within is not waited for, by himself or by another who does the same. */
static void step_aside(struct lserver *ls) {
  struct conn *c = own_conn(ls);
  ls->stoppers++;
  if (!c || c->spared) return;
  c->spared = true;
  ls->spared++;
}

static void step_back(struct lserver *ls) {
  struct conn *c = own_conn(ls);
  ls->stoppers--;
  if (!c || !c->spared) return;
  c->spared = false;
  ls->spared--;
}

static void abandon(lua_State *L, struct op *o) {
  (void)L;
  step_back(o->on);
}

static void drain_all(struct lserver *ls) {
  hello_drain(ls);
  for (struct conn *c = ls->rt->turn.first_conn; c; c = c->next)
    if (c->keeper == &ls->keeper) conn_drain(c);
}

/* [server]  What came before is still accepted and served.  on_shutdown stands in line before the
 * handlers that end now. */
static void begin_shutdown(lua_State *L, struct lserver *ls) {
  bool ended = ls->ref == LUA_NOREF;
  if (ls->begun) return;
  ls->begun = true;
  if (ended) return;
  if (lua_getiuservalue(L, 1, SERVER_ON_SHUTDOWN) != LUA_TNIL) {
    lua_pushvalue(L, 1);
    serve_spawn_hook(L, ls, 1, 0);
  }
  lua_settop(L, 1);
  if (server_is_open(&ls->s) && ls->s.on_ready) {
    server_look(&ls->s);
    for (int i = 0; i < ls->s.n; i++) serve_backlog(L, ls, ls->backlog);
  }
  serve_stop(ls);
  drain_all(ls);
}

/* Resets what is open or has not got everything -> was there anything?  Connections that only
 * wait for the peer's end are left to that. */
static bool reset_all(struct lserver *ls) {
  bool any = false;
  for (struct conn *c = ls->rt->turn.first_conn; c; c = c->next) {
    if (c->keeper != &ls->keeper || c->spared || (!conn_is_open(c) && conn_is_flushed(c))) continue;
    conn_reset(c);
    any = true;
  }
  return hello_reset_all(ls) || any;
}

static bool is_shut_down(const struct lserver *ls) {
  return ls->alive <= ls->spared && ls->handlers <= ls->stoppers;
}

static int shutdown_run(lua_State *L, struct rt *rt, struct op *o) {
  struct lserver *ls = o->on;
  int r = 0;
  while (r == 0 && (op_spent(L, rt, o) || !is_shut_down(ls))) r = op_wait(L, rt, o);
  op_done(rt, o);
  bool busy = ls->handlers > ls->stoppers, left = reset_all(ls);
  if (o->abandon) step_back(ls);
  lua_pushboolean(L, !busy && !left);
  return 1;
}

/***
Ends the server gracefully: what has come is served, and nothing more is awaited.
Connections in the backlog are still accepted, then it stops listening. A receive that is
between messages returns ECLOSED; what arrived before is still received. Called from a handler it
does not wait for that handler.
@function Server:shutdown
@tparam[opt=drain_timeout] number timeout seconds; then what is left is reset
@treturn boolean true if all ended by themselves
@waits until the handlers have returned and the connections are closed
@follows http.Server.Shutdown of Go
*/
static int l_shutdown(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct lserver *ls = check_server(L);
  struct op o = {.run = shutdown_run,
                 .what = "shutdown",
                 .on = ls,
                 .q = &ls->watchers,
                 .timeout = opt_seconds(L, 2, ls->drain_timeout),
                 .outside = true};
  lua_settop(L, 1);
  begin_shutdown(L, ls);
  if (is_own_task(ls)) {
    step_aside(ls);
    o.abandon = abandon;
  }
  return shutdown_run(L, rt, &o);
}

/***
Has the server been told to end?
@function Server:closing
@treturn boolean true once it was closed or its shutdown has begun
@waits never
*/
static int l_closing(lua_State *L) {
  lua_pushboolean(L, !server_is_open(&check_server(L)->s));
  return 1;
}

static bool has_exited(void *p) {
  const struct lserver *ls = p;
  return ls->exited || ls->rt->stopped;
}

static int exit_run(lua_State *L, struct rt *rt, struct op *o) {
  const struct lserver *ls = o->on;
  int r = 0;
  while (r == 0 && (op_spent(L, rt, o) || !ls->exited)) r = op_wait(L, rt, o);
  op_done(rt, o);
  if (r) return server_failed(L, ls, "run", r);
  lua_pushboolean(L, true);
  return 1;
}

/***
Waits until the server has stopped and its last handler has returned.
Outside any task it runs the loop as `wire.run` does, signals and `wire.stop` included.
@function Server:run
@treturn boolean true
@waits for the exit
*/
static int l_run(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct lserver *ls = check_server(L);
  struct op o = {.run = exit_run,
                 .what = "run",
                 .on = ls,
                 .q = &ls->watchers,
                 .timeout = INFINITY,
                 .outside = true};
  lua_settop(L, 1);
  if (rt_in_task(rt) || rt->driver || rt->in_hook) return exit_run(L, rt, &o);
  refuse_in_finalizer(L, "run");
  rt->stopped = false;
  rt->turn.holds++; /* somebody may still connect, or close it */
  rt_run(L, rt, has_exited, ls);
  rt->turn.holds--;
  lua_pushboolean(L, true);
  return 1;
}

/* ---- hooks ------------------------------------------------------------------------- */

static void set_hook(lua_State *L, int which) {
  check_server(L);
  luaL_checkany(L, 2);
  if (!lua_isnil(L, 2)) check_callable(L, 2);
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, which);
}

/***
Sets what runs once the server has stopped and its last handler has returned.
@function Server:on_exit
@tparam function|nil fn `fn(server)`, in a task of its own; at once if that was before; replaces an
earlier one
@waits never
*/
static int l_on_exit(lua_State *L) {
  struct lserver *ls = check_server(L);
  if (ls->exited && !lua_isnoneornil(L, 2)) {
    check_callable(L, 2);
    lua_settop(L, 2);
    lua_pushvalue(L, 1);
    task_spawn(L, ls->rt, 1, 0);
    return 0;
  }
  set_hook(L, SERVER_ON_EXIT);
  return 0;
}

/***
Sets where errors of the server's handlers and of on_accept go, instead of `wire.on_error`.
@function Server:on_error
@tparam function|nil fn `fn(err, traceback, conn)`; nil: `wire.on_error` again
@waits never
*/
static int l_on_error(lua_State *L) {
  set_hook(L, SERVER_ON_ERROR);
  return 0;
}

/* ---- facts ------------------------------------------------------------------------- */

/***
The address that the server listens on, the first of several.
@function Server:addr
@treturn string "host:port" as connect takes it, with the real port
@waits never
*/
static int l_addr(lua_State *L) {
  char text[ADDR_TEXT_MAX];
  lua_pushlstring(L, text, addr_print(address_of(check_server(L)), text));
  return 1;
}

/***
All addresses that the server listens on.
@function Server:addrs
@treturn {string,...} in the order in which they were given
@waits never
*/
static int l_addrs(lua_State *L) {
  const struct lserver *ls = check_server(L);
  char text[ADDR_TEXT_MAX];
  lua_createtable(L, ls->s.n, 0);
  for (int i = 0; i < ls->s.n; i++) {
    lua_pushlstring(L, text, addr_print(&ls->s.listeners[i].at, text));
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/***
The port of the first address.
@function Server:port
@treturn integer never 0, but for a Unix socket
@waits never
*/
static int l_port(lua_State *L) {
  lua_pushinteger(L, address_of(check_server(L))->port);
  return 1;
}

/***
How many of its connections are open.
@function Server:conn_num
@treturn integer connections accepted and not yet closed
@waits never
*/
static int l_conn_num(lua_State *L) {
  lua_pushinteger(L, check_server(L)->conns);
  return 1;
}

/***
Its open connections.
@function Server:conns
@treturn {Conn,...} in no particular order
@waits never
*/
static int l_conns(lua_State *L) {
  struct lserver *ls = check_server(L);
  lua_Integer n = 0;
  lua_createtable(L, (int)ls->conns, 0);
  for (const struct conn *c = ls->rt->turn.first_conn; c; c = c->next) {
    if (c->keeper != &ls->keeper || !conn_is_open(c)) continue;
    lconn_push(L, ls->rt, c);
    if (lua_isnil(L, -1))
      lua_pop(L, 1); /* it is being collected */
    else
      lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int lserver_gc(lua_State *L) {
  struct lserver *ls = lua_touserdata(L, 1);
  if (!ls->rt->closed) serve_fini(ls);
  return 0;
}

static int l_tostring(lua_State *L) {
  const struct lserver *ls = check_server(L);
  char text[ADDR_TEXT_MAX];
  addr_print(address_of(ls), text);
  lua_pushfstring(L, "Server (%s, %s)", text, server_is_open(&ls->s) ? "listening" : "closed");
  return 1;
}

void lserver_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg methods[] = {{"accept", l_accept},       {"handle", l_handle},
                                     {"close", l_close},         {"shutdown", l_shutdown},
                                     {"closing", l_closing},     {"run", l_run},
                                     {"on_exit", l_on_exit},     {"on_error", l_on_error},
                                     {"addr", l_addr},           {"addrs", l_addrs},
                                     {"port", l_port},           {"conn_num", l_conn_num},
                                     {"conns", l_conns},         {"__close", l_close},
                                     {"__tostring", l_tostring}, {NULL, NULL}};
  rt_metatable(L, rt, SERVER_NAME, methods, lserver_gc);
  lua_pop(L, 1);
}
