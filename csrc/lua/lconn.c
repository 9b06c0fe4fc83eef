/* Conn userdata: its life, its failures and its ends.
 * What this is not: its times and facts (lfacts.c), receiving (lrecv.c), sending (lsend.c),
 * dialling (ldial.c), the options of its socket (lconnopt.c). */
#include <math.h>

#include "ltls.h"

#define CONN_NAME "lunewire.Conn"

struct conn_opts conn_opts_default(void) {
  return (struct conn_opts){.limits = conn_default_limits,
                            .timeout = INFINITY,
                            .idle_timeout = INFINITY,
                            .nodelay = true,
                            .keepalive.on = true};
}

/* ---- life ------------------------------------------------------------------------- */

const char lconn_mark;

int lconn_new(lua_State *L, const struct rt *rt) {
  struct lconn *lc = lua_newuserdatauv(L, sizeof *lc, CONN_VALUES);
  *lc = (struct lconn){NULL, NULL, NULL};
  rt_set_metatable(L, rt->conn_metatable);
  return lua_gettop(L);
}

int lconn_open(lua_State *L, struct rt *rt, int idx, struct link *l, const struct addr *peer,
               const struct conn_opts *o, int f) {
  struct lconn *lc = lua_touserdata(L, idx);
  struct conn *c = conn_open(&rt->turn, l, peer);
  if (!c) return ERR_NOMEM;
  *lc = (struct lconn){c, rt, &lconn_mark};
  if (conn_set_limits(c, &o->limits) != 0) {
    conn_reset(c);
    return ERR_NOMEM;
  }
  c->timeout = o->timeout;
  if (o->idle_timeout != INFINITY) conn_set_idle_timeout(c, o->idle_timeout);
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
  rt_set_metatable(L, rt->conn_metatable); /* to be finalized again */
  lconn_remember(L, rt, 1);
  return true;
}

static int lconn_gc(lua_State *L) {
  struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  struct lconn *lc = lua_touserdata(L, 1);
  lua_settop(L, 1);
  if (!lc->c || (!rt->closed && lives_on(L, rt, lc))) return 0;
  if (!rt->closed) conn_drop(lc->c, CONN_OF_OWNER);
  *lc = (struct lconn){NULL, NULL, NULL};
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
  if (c->user) {
    task_push_own_conn(L, c->user);
    return;
  }
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

/***
One end of a stream: TCP or in memory, accepted or dialled; what it can do does not depend on that.
Every method may be called from any task. Receiving and sending have sections of their own; here are
its ends, times and facts. `limits`, an option of whoever makes connections, is a table with any of
`line` (64 KiB), `frame` (1 MiB), `all` (16 MiB, of `read "a"`), `high_water` (256 KiB unsent). A
Conn is enough of a Lua file that code written for one works on it.
@type Conn
*/

/* ---- failures --------------------------------------------------------------------- */

static void push_text(lua_State *L, const struct conn *c, const struct conn_failure *f) {
  char who[ADDR_TEXT_MAX];
  addr_print(&c->peer, who);
  bool detailed = c->detail && (f->code == ERR_TLS || f->code == ERR_CERT);
  lua_pushfstring(L, "%s %s: %s%s%s", f->what, who, err_text(f->code), detailed ? ": " : "",
                  detailed ? c->detail : "");
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

/***
Why the last receive failed: after an iterator's end it tells which end that was.
@function Conn:last_error
@treturn string the message; nothing after a clean end
@treturn string the code
@waits never
*/
static int l_last_error(lua_State *L) {
  const struct conn *c = check_conn(L, rt_of(L), 1);
  if (!c->recv_failure.code) return 0;
  push_text(L, c, &c->recv_failure);
  lua_pushstring(L, err_name(c->recv_failure.code));
  return 2;
}

/***
The message of the last failure, of whichever call.
@function Conn:strerror
@treturn string|nil the message, nil if nothing has failed
@waits never
*/
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

/***
Closes the connection; whoever waits for it, and each later call, gets ECLOSED.
Behind it the rest is written as long as the peer takes some (10 s without progress reset), then
FIN, then input is thrown away until the peer's end, or for 2 s. Closing twice is harmless;
`<close>` and the garbage collection close it too.
@function Conn:close
@tparam[opt=0] number delay seconds, until which it works as before
@treturn boolean true
@codes EPIPE, ECONNRESET (a write had failed)
@waits never in a task; outside until all is handed to the system
@follows lingering_close of nginx
*/
static int l_close(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  double delay = opt_seconds(L, 2, 0);
  if (delay > 0) return end_later(L, c, delay, false);
  bool was_open = conn_is_open(c);
  conn_close(c);
  if (was_open && !rt_in_task(rt) && !rt->driver && !rt->in_hook && !in_finalizer(L))
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

/***
Ends the connection at once by a reset, and throws away what is unsent.
@function Conn:reset
@tparam[opt=0] number delay seconds, until which it works as before
@treturn boolean true
@waits never
*/
static int l_reset(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  double delay = opt_seconds(L, 2, 0);
  if (delay > 0) return end_later(L, c, delay, true);
  conn_reset(c);
  lua_pushboolean(L, true);
  return 1;
}

/***
Ends our output behind what was sent; the other direction lives on.
@function Conn:close_write
@treturn boolean true
@codes ECLOSED, EPIPE, ECONNRESET
@waits never
@follows net.TCPConn.CloseWrite of Go
*/
static int l_close_write(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  int r = conn_close_write(c);
  if (r) return conn_failed(L, c, "close_write", r);
  if (!rt_in_task(rt)) conn_flush_now(c);
  lua_pushboolean(L, true);
  return 1;
}

/***
Has this side closed the connection?
@function Conn:closed
@treturn boolean true once it has
@waits never
*/
static int l_closed(lua_State *L) {
  lua_pushboolean(L, !conn_is_open(check_conn(L, rt_of(L), 1)));
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

static const luaL_Reg methods[] = {
    {"close", l_close},         {"reset", l_reset},           {"close_write", l_close_write},
    {"closed", l_closed},       {"last_error", l_last_error}, {"strerror", l_strerror},
    {"__tostring", l_tostring}, {"__close", l_scope_end},     {NULL, NULL}};

void lconn_register(lua_State *L, struct rt *rt) {
  rt_metatable(L, rt, CONN_NAME, methods, lconn_gc);
  lua_pushvalue(L, -1);
  rt->conn_metatable = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_getfield(L, -1, "__index");
  rt_setfuncs(L, rt, lfacts_methods);
  rt_setfuncs(L, rt, lrecv_methods);
  rt_setfuncs(L, rt, lsend_methods);
  rt_setfuncs(L, rt, ltls_methods);
  rt_setfuncs(L, rt, ltlsinfo_methods);
  rt_setfuncs(L, rt, lconnopt_methods);
  rt_setfuncs(L, rt, ltimer_methods);
  rt_setfuncs(L, rt, lfile_methods);
  lrecv_set_iterators(L, rt);
  lua_setfield(L, -3, "conn_methods"); /* what wraps a connection has them all */
  lua_pop(L, 1);
}
