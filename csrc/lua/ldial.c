/* connect and pipe: where connections come from when nobody accepts them.
 * What this is not: trying addresses (core/dial.c). */
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
  bool nodelay, keepalive;
};

static const struct opt connect_keys[] = {
    {"timeout", OPT_SECONDS, offsetof(struct dial_opts, timeout)},
    {"nodelay", OPT_BOOL, offsetof(struct dial_opts, nodelay)},
    {"keepalive", OPT_BOOL, offsetof(struct dial_opts, keepalive)},
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
  struct dial_opts opts = {.timeout = CONNECT_TIMEOUT, .nodelay = true, .keepalive = true};
  opts_read(L, idx, connect_keys, &opts);
  o->nodelay = opts.nodelay;
  o->keepalive = opts.keepalive;
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

/***
Makes two connections that are connected to each other, in memory.
They have all methods, limits and deadlines of other connections, and need no system call. What
each flush ends is received as a piece of its own, so that a test may choose the cuts.
@function wire.pipe
@tparam[opt] table opts `framing`, `limits`, of both ends
@treturn Conn one end
@treturn Conn the other, which counts as the accepted one
@codes ENOMEM
@waits never
@follows net.Pipe of Go, with buffers
@usage
local a, b = wire.pipe()
a:send "to the other end\n"
print(b:recv_line())
*/
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
  static const luaL_Reg functions[] = {{"connect", l_connect}, {"pipe", l_pipe}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{NULL, NULL}};
  rt_metatable(L, rt, DIAL_NAME, methods, ldial_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
