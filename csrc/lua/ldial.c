/* connect, adopt and pipe: where connections come from when nobody accepts them.
 * What this is not: trying addresses (core/dial.c). */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "../core/dial.h"
#include "rt.h"

#define DIAL_NAME "lunewire.Dial"

static const double CONNECT_TIMEOUT = 30;

/* Lives on the stack of the call, so that whatever ends it gives up the dial. */
struct ldial {
  struct dial *d;
  struct conn_opts opts;
  int text, framing; /* stack indices: the address as given, the framing */
};

struct dial_opts {
  double timeout;
  bool nodelay;
};

static const struct opt connect_keys[] = {
    {"timeout", OPT_SECONDS, offsetof(struct dial_opts, timeout)},
    {"nodelay", OPT_BOOL, offsetof(struct dial_opts, nodelay)},
    {"keepalive", OPT_ANY, 0},
    {"framing", OPT_ANY, 0},
    {"limits", OPT_ANY, 0},
    {NULL, OPT_ANY, 0}};

static int ldial_gc(lua_State *L) {
  struct ldial *ld = lua_touserdata(L, 1);
  dial_release(ld->d);
  ld->d = NULL;
  return 0;
}

static void abandon(struct op *o) {
  struct ldial *ld = o->on;
  dial_release(ld->d);
  ld->d = NULL;
}

static int connect_failed(lua_State *L, struct ldial *ld, int code) {
  dial_release(ld->d);
  ld->d = NULL;
  return push_failure(L, "connect", lua_tostring(L, ld->text), NULL, code);
}

static int connect_done(lua_State *L, struct rt *rt, struct ldial *ld) {
  int idx = lconn_new(L);
  struct addr peer = dial_address(ld->d);
  int r = lconn_open(L, rt, idx, dial_take(ld->d), &peer, &ld->opts, ld->framing);
  if (r) return connect_failed(L, ld, r);
  dial_release(ld->d);
  ld->d = NULL;
  return 1;
}

static int connect_run(lua_State *L, struct rt *rt, struct op *o) {
  struct ldial *ld = o->on;
  int r = 0;
  while ((op_spent(L, rt, o) || ld->d->code == ERR_AGAIN) && r == 0) r = op_wait(L, rt, o);
  op_done(rt, o);
  if (ld->d->code != ERR_AGAIN) r = ld->d->code;
  return r ? connect_failed(L, ld, r) : connect_done(L, rt, ld);
}

static struct ldial *ldial_new(lua_State *L) {
  struct ldial *ld = lua_newuserdatauv(L, sizeof *ld, 0);
  memset(ld, 0, sizeof *ld);
  ld->opts = conn_opts_default();
  luaL_setmetatable(L, DIAL_NAME);
  return ld;
}

/* The options at idx; pushes the framing or nil. [-0, +1] */
static double read_connect_opts(lua_State *L, int idx, struct conn_opts *o) {
  struct dial_opts opts = {.timeout = CONNECT_TIMEOUT, .nodelay = true};
  opts_read(L, idx, connect_keys, &opts);
  o->nodelay = opts.nodelay;
  conn_opts_rest(L, idx, o);
  return opts.timeout;
}

/* connect(addr[, opts]) -> Conn */
static int l_connect(lua_State *L) {
  struct rt *rt = rt_of(L);
  char host[ADDR_HOST_MAX];
  const char *why;
  uint16_t port;
  lua_settop(L, 2);
  refuse_in_finalizer(L, "connect");
  struct ldial *ld = ldial_new(L);
  struct op o = {
      .run = connect_run, .what = "connect", .on = ld, .outside = true, .abandon = abandon};
  o.timeout = read_connect_opts(L, 2, &ld->opts);
  ld->framing = lua_gettop(L);
  int r = check_address(L, 1, host, &port, &why);
  ld->text = lua_gettop(L);
  if (r) return push_failure(L, "connect", lua_tostring(L, -1), why, r);
  ld->d = dial_new(&rt->turn, host, port, NULL);
  if (!ld->d) return connect_failed(L, ld, ERR_NOMEM);
  o.q = &ld->d->waiters;
  return connect_run(L, rt, &o);
}

/* ---- adopt ------------------------------------------------------------------------ */

static const struct opt adopt_keys[] = {
    {"timeout", OPT_SECONDS, offsetof(struct conn_opts, timeout)},
    {"idle_timeout", OPT_SECONDS, offsetof(struct conn_opts, idle_timeout)},
    {"nodelay", OPT_BOOL, offsetof(struct conn_opts, nodelay)},
    {"keepalive", OPT_ANY, 0},
    {"framing", OPT_ANY, 0},
    {"limits", OPT_ANY, 0},
    {NULL, OPT_ANY, 0}};

static int adopt_link(struct rt *rt, lua_Integer fd, struct link **l) {
  struct world *w = rt->turn.world;
  if (fd < 0 || fd > INT_MAX) return ERR_BADF;
  if (conn_owns(&rt->turn, (int)fd)) return ERR_EXIST;
  return w->ops->adopt(w, (int)fd, l);
}

static int adopt_failed(lua_State *L, lua_Integer fd, int code) {
  const char *who = lua_pushfstring(L, "descriptor %I", fd);
  const char *detail = code == ERR_EXIST       ? "a connection has it already"
                       : code == ERR_PROTOTYPE ? "not a stream socket"
                                               : NULL;
  return push_failure(L, "adopt", who, detail, code);
}

/***
Makes a connection of a connected stream socket that somebody else opened.

It may be a TCP or a Unix socket: standard input under inetd or socat, one inherited from
systemd, one end of a socketpair.  The descriptor belongs to the connection from then on, which
closes it; it no longer blocks and is not inherited further.  (That it does not block is seen
by every process that shares the socket.)  Where adopting fails, the descriptor stays open and as
it was.  The connection counts as dialled, not as accepted.
@function wire.adopt
@tparam integer fd the descriptor
@param[opt] opts `timeout` and `idle_timeout` (seconds, of each call as by `set_timeout` and
  `set_idle_timeout`), `nodelay` (true), `keepalive` (true, false or `{idle=, interval=,
  count=}`), `framing`, `limits`; a number is the `timeout`
@treturn Conn the connection
@codes EBADF (no descriptor), ENOTSOCK (a file), EPROTOTYPE (not a stream socket), ENOTCONN (not
  connected, or listening), EEXIST (a connection's already)
@waits never
@raise an unknown option, a wrong type, in a finalizer
*/
static int l_adopt(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn_opts o = conn_opts_default();
  struct link *l;
  lua_settop(L, 2);
  refuse_in_finalizer(L, "adopt");
  lua_Integer fd = luaL_checkinteger(L, 1);
  opts_read(L, 2, adopt_keys, &o);
  conn_opts_rest(L, 2, &o);
  int idx = lconn_new(L), off = 0;
  int r = adopt_link(rt, fd, &l);
  if (r) return adopt_failed(L, fd, r);
  if (!o.keepalive.on) l->ops->option(l, LINK_KEEPALIVE, true, &off); /* others may have set it */
  r = lconn_open(L, rt, idx, l, NULL, &o, idx - 1);
  return r ? adopt_failed(L, fd, r) : 1;
}

/* ---- pipe ------------------------------------------------------------------------- */

static const struct opt pipe_keys[] = {
    {"framing", OPT_ANY, 0}, {"limits", OPT_ANY, 0}, {NULL, OPT_ANY, 0}};

static int open_pair(lua_State *L, struct rt *rt, const struct conn_opts *o, int framing) {
  int first = lconn_new(L), second = lconn_new(L);
  struct link *a, *b;
  int r = link_pipe_open(rt->turn.world, &a, &b);
  if (r) return r;
  int r1 = lconn_open(L, rt, first, a, NULL, o, framing);
  int r2 = lconn_open(L, rt, second, b, NULL, o, framing);
  if (r1 || r2) return ERR_NOMEM;
  check_conn(L, rt, second)->accepted = true;
  return 0;
}

/* pipe([opts]) -> Conn, Conn: connected in memory. opts: framing, limits */
static int l_pipe(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn_opts o = conn_opts_default();
  lua_settop(L, 1);
  if (!lua_isnil(L, 1)) luaL_checktype(L, 1, LUA_TTABLE);
  opts_read(L, 1, pipe_keys, NULL);
  conn_opts_rest(L, 1, &o);
  int r = open_pair(L, rt, &o, 2);
  return r ? push_failure(L, "pipe", NULL, NULL, r) : 2;
}

void ldial_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"connect", l_connect}, {"adopt", l_adopt}, {"pipe", l_pipe}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{NULL, NULL}};
  rt_metatable(L, rt, DIAL_NAME, methods, ldial_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
