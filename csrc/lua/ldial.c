/* connect, adopt and pipe: where connections come from when nobody accepts them.
 * What this is not: trying addresses (core/dial.c). */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../core/dial.h"
#include "../core/link_tls.h"
#include "ltls.h"

#define DIAL_NAME "lunewire.Dial"

static const double CONNECT_TIMEOUT = 30;

enum { ATTEMPTS_SHOWN = 8 /* in a message; the others are counted */ };

/* Lives on the stack of the call, so that whatever ends it gives up the dial. */
struct ldial {
  struct dial *d;
  struct conn *c; /* connected, in its TLS handshake */
  struct conn_opts opts;
  char host[ADDR_HOST_MAX]; /* whom TLS expects */
  bool numeric;             /* the address as given says all about the one that is tried */
  /* Stack indices: the address as given, the local address as given, the framing, the TLS
   * context or nil, the Conn. */
  int text, local, framing, tls, conn;
};

struct dial_opts {
  double timeout;
  bool nodelay;
};

static const struct opt connect_keys[] = {
    {"timeout", OPT_SECONDS, offsetof(struct dial_opts, timeout)},
    {"nodelay", OPT_BOOL, offsetof(struct dial_opts, nodelay)},
    {"keepalive", OPT_ANY, 0},
    {"local_addr", OPT_ANY, 0},
    {"framing", OPT_ANY, 0},
    {"limits", OPT_ANY, 0},
    {"tls", OPT_ANY, 0},
    {NULL, OPT_ANY, 0}};

static void ldial_end(struct ldial *ld) {
  dial_release(ld->d);
  ld->d = NULL;
}

static int ldial_gc(lua_State *L) {
  const struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  if (!rt->closed) ldial_end(lua_touserdata(L, 1));
  return 0;
}

static void abandon(lua_State *L, struct op *o) {
  (void)L;
  struct ldial *ld = o->on;
  ldial_end(ld);
  if (ld->c) conn_reset(ld->c);
}

/* ---- what went wrong -------------------------------------------------------------- */

static void add_attempt(lua_State *L, luaL_Buffer *b, const struct ldial *ld,
                        const struct attempt *a) {
  char text[ADDR_TEXT_MAX];
  bool silent = a->code == ERR_AGAIN || a->code == ERR_TIMEDOUT;
  luaL_addlstring(b, text, addr_print(&a->to, text));
  if (attempt_failed_here(a)) {
    luaL_addstring(b, ": local_addr ");
    luaL_addstring(b, lua_tostring(L, ld->local));
  }
  luaL_addstring(b, ": ");
  luaL_addstring(b, silent ? "no answer" : err_text(a->code));
}

static void add_count(luaL_Buffer *b, const char *before, int n, const char *after) {
  char text[40];
  if (n == 0) return;
  luaL_addlstring(b, text, (size_t)snprintf(text, sizeof text, "; %s%d %s", before, n, after));
}

/* Each attempt and what became of it; before them why it is over, if they do not say so. */
static const char *push_attempts(lua_State *L, const struct ldial *ld, int code) {
  const struct dial *d = ld->d;
  int shown = d->begun < ATTEMPTS_SHOWN ? d->begun : ATTEMPTS_SHOWN;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  if (code != d->code || code != d->attempts[d->n - 1].code) {
    luaL_addstring(&b, err_text(code));
    luaL_addstring(&b, "; tried ");
  }
  for (int i = 0; i < shown; i++) {
    if (i > 0) luaL_addstring(&b, "; ");
    add_attempt(L, &b, ld, &d->attempts[i]);
  }
  add_count(&b, "and ", d->begun - shown, "more");
  add_count(&b, "", d->n - d->begun, "not tried");
  luaL_pushresult(&b);
  return lua_tostring(L, -1);
}

/* Pushes at most one value. */
static const char *push_detail(lua_State *L, const struct ldial *ld, int code) {
  const struct dial *d = ld->d;
  if (d && d->looking && code == ERR_TIMEDOUT) return "timed out looking up the name";
  if (d && code == ERR_NOFAMILY && d->n == 0)
    return lua_pushfstring(L, "no address of the family of local_addr %s",
                           lua_tostring(L, ld->local));
  if (!d || d->begun == 0 || d->winner) return err_text(code);
  if (!ld->numeric) return push_attempts(L, ld, code);
  if (!attempt_failed_here(d->attempts)) return err_text(code);
  return lua_pushfstring(L, "local_addr %s: %s", lua_tostring(L, ld->local), err_text(code));
}

static int connect_failed(lua_State *L, struct ldial *ld, int code) {
  const char *detail = push_detail(L, ld, code);
  int n = push_failure(L, "connect", lua_tostring(L, ld->text), detail, code);
  ldial_end(ld);
  return n;
}

/* ---- connect ---------------------------------------------------------------------- */

/* The Conn takes the link; with TLS its handshake begins. */
static int take_link(lua_State *L, struct rt *rt, struct ldial *ld) {
  struct addr peer = dial_address(ld->d);
  struct link *l = dial_take(ld->d);
  conn_opts_apply(l, &ld->opts);
  int r = lconn_open(L, rt, ld->conn, l, &peer, &ld->opts, ld->framing);
  ldial_end(ld);
  if (r || lua_isnil(L, ld->tls)) return r;
  ld->c = check_conn(L, rt, ld->conn);
  struct link_tls_opts o = {.context = ltls_to_context(L, ld->tls)};
  o.host = ltls_host(L, o.context, ld->host);
  if ((r = conn_secure(ld->c, &o)) != 0) conn_reset(ld->c);
  return r;
}

static int dial_wait(lua_State *L, struct rt *rt, struct op *o) {
  const struct ldial *ld = o->on;
  int r = 0;
  while ((op_spent(L, rt, o) || ld->d->code == ERR_AGAIN) && r == 0) r = op_wait(L, rt, o);
  op_done(rt, o);
  return ld->d->code == ERR_AGAIN ? r : ld->d->code;
}

static int handshake_failed(lua_State *L, struct ldial *ld, int code) {
  const struct conn *c = ld->c;
  const char *detail = err_text(code);
  if (c->detail) detail = lua_pushfstring(L, "%s: %s", detail, c->detail);
  conn_close(ld->c); /* behind the alert that says why */
  return push_failure(L, "connect", lua_tostring(L, ld->text), detail, code);
}

static int handshake_wait(lua_State *L, struct rt *rt, struct op *o) {
  struct ldial *ld = o->on;
  int r;
  while ((r = op_turn(L, rt, o) ? ERR_AGAIN : conn_handshake(ld->c)) == ERR_AGAIN)
    if ((r = op_wait(L, rt, o)) != 0) break;
  op_done(rt, o);
  if (r) return handshake_failed(L, ld, r);
  lua_settop(L, ld->conn);
  return 1;
}

/* From here the same call waits for its handshake, on what is left of its time. */
static int connect_run(lua_State *L, struct rt *rt, struct op *o) {
  struct ldial *ld = o->on;
  if (ld->c) return handshake_wait(L, rt, o);
  int r = dial_wait(L, rt, o);
  if (r == 0) r = take_link(L, rt, ld);
  if (r) return connect_failed(L, ld, r);
  if (!ld->c) {
    lua_settop(L, ld->conn);
    return 1;
  }
  o->q = &ld->c->readers;
  o->waited = false;
  return handshake_wait(L, rt, o);
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

static bool ip_alone(lua_State *L, int idx, struct addr *a) {
  size_t n;
  const char *text = lua_tolstring(L, idx, &n);
  return strlen(text) == n && addr_from_ip(a, text, 0) == 0;
}

/* The address at the top, which is replaced by its text: an address as any other, or an IP
 * address alone.  Without a host it is the port of any address (ADDR_NONE). 0, or ERR_INVAL and
 * *why. */
static int check_local(lua_State *L, struct addr *a, const char **why) {
  char host[ADDR_HOST_MAX];
  int idx = lua_gettop(L), type = lua_type(L, idx);
  uint16_t port = 0;
  *a = (struct addr){.kind = ADDR_NONE};
  if (type != LUA_TSTRING && type != LUA_TTABLE)
    luaL_error(L, "option 'local_addr' must be an address, not %s", luaL_typename(L, idx));
  if (type == LUA_TSTRING && ip_alone(L, idx, a)) return 0;
  int r = check_address(L, idx, host, &port, why);
  lua_replace(L, idx);
  a->port = port;
  if (r || !*host || addr_from_ip(a, host, port) == 0) return r;
  *why = "not an IP address";
  return ERR_INVAL;
}

/* Pushes the text of the option local_addr of the table at idx, or nil. [-0, +1] 0, or a code and
 * *why. */
static int read_local(lua_State *L, int idx, struct addr *a, const char **why) {
  if (lua_istable(L, idx))
    lua_getfield(L, idx, "local_addr");
  else
    lua_pushnil(L);
  return lua_isnil(L, -1) ? 0 : check_local(L, a, why);
}

static int bad_local(lua_State *L, const struct ldial *ld, const char *why) {
  const char *detail = lua_pushfstring(L, "local_addr %s: %s", lua_tostring(L, ld->local), why);
  return push_failure(L, "connect", lua_tostring(L, ld->text), detail, ERR_INVAL);
}

/* The name that TLS expects: that of the address, without the dot of a name that is absolute; no
 * name is this host.  Raises if it must verify and knows nobody. */
static void expect_host(lua_State *L, struct ldial *ld, const char *host) {
  size_t n = addr_is_unix(host) ? 0 : strlen(host);
  if (n || !*host) memcpy(ld->host, n ? host : "localhost", n ? n + 1 : sizeof "localhost");
  if (n > 1 && host[n - 1] == '.') ld->host[n - 1] = '\0';
  if (!lua_isnil(L, ld->tls)) ltls_host(L, ltls_to_context(L, ld->tls), ld->host);
}

/***
Connects to an address; every address of a name is tried, and the first that answers is taken.

The attempts begin in the order of the system's resolver, IPv6 and IPv4 in turns, each 250 ms after
the one before or at once when one fails, and go on side by side, at most 8 at a time (a further
one takes the place of the oldest). `timeout` is one budget for the lookup and all attempts. A
message about several attempts, or about a name, lists them; its code is the last one's.

`local_addr` is where the connection comes from: `"ip:port"`, `":port"`, `"ip"` or
`{host=, port=}`; its host is numeric, and port 0 stands for any. With an IP address in it, the
addresses of the other family are not tried.
@function wire.connect
@tparam string|table addr `"host:port"`, `"[::1]:80"`, `":80"` (this host), `"unix:/path"` or
`{host=, port=}`
@tparam[opt] table|number opts a timeout, or a table:
@tparam[opt=30] number opts.timeout seconds
@tparam[opt] string|table opts.local_addr
@tparam[opt=true] boolean opts.nodelay
@tparam[opt=true] boolean opts.keepalive
@tparam[opt] framing opts.framing
@tparam[opt] table opts.limits
@tparam[opt] boolean|table|Context opts.tls true, options (see TLS), or a context
@treturn Conn
@codes EINVAL (no address), ENOTFOUND, EAI_AGAIN (the name servers do not answer), ETIMEDOUT,
EAFNOSUPPORT (no address of `local_addr`'s family), EADDRINUSE and EADDRNOTAVAIL (also of
`local_addr`), ECONNREFUSED and whatever else the system says; ETLS, ECERT
@waits until a connection is there, its TLS handshake included, or all attempts have failed
@raise options that do not exist or have another type; where Lua cannot yield
@follows RFC 8305; net.Dialer of Go
*/
static int l_connect(lua_State *L) {
  struct rt *rt = rt_of(L);
  char host[ADDR_HOST_MAX];
  const char *why, *why_local = NULL;
  struct addr from, to;
  uint16_t port;
  lua_settop(L, 2);
  refuse_in_finalizer(L, "connect");
  struct ldial *ld = ldial_new(L);
  struct op o = {
      .run = connect_run, .what = "connect", .on = ld, .outside = true, .abandon = abandon};
  o.timeout = read_connect_opts(L, 2, &ld->opts);
  ld->framing = lua_gettop(L);
  int r = ltls_option(L, rt, 2, &why);
  if (r) return push_failure(L, "connect", NULL, why, r);
  ld->tls = lua_gettop(L);
  int bad = read_local(L, 2, &from, &why_local);
  ld->local = lua_gettop(L);
  r = check_address(L, 1, host, &port, &why);
  ld->text = lua_gettop(L);
  if (r) return push_failure(L, "connect", lua_tostring(L, -1), why, r);
  if (bad) return bad_local(L, ld, why_local);
  ld->numeric = addr_is_unix(host) || addr_from_ip(&to, host, port) == 0;
  expect_host(L, ld, host);
  ld->conn = lconn_new(L, rt); /* now, so that no link is lost if memory runs out */
  ld->d = dial_new(&rt->turn, host, port, lua_isnil(L, ld->local) ? NULL : &from);
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
@tparam[opt] number|table opts `timeout` and `idle_timeout` (seconds, of each call as by
  `set_timeout` and `set_idle_timeout`), `nodelay` (true), `keepalive` (true, false or `{idle=,
  interval=, count=}`), `framing`, `limits`
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
  int idx = lconn_new(L, rt), off = 0;
  int r = adopt_link(rt, fd, &l);
  if (r) return adopt_failed(L, fd, r);
  if (!o.keepalive.on) l->ops->option(l, LINK_KEEPALIVE, true, &off); /* others may have set it */
  conn_opts_apply(l, &o);
  r = lconn_open(L, rt, idx, l, NULL, &o, idx - 1);
  return r ? adopt_failed(L, fd, r) : 1;
}

/* ---- pipe ------------------------------------------------------------------------- */

static const struct opt pipe_keys[] = {
    {"framing", OPT_ANY, 0}, {"limits", OPT_ANY, 0}, {"tls", OPT_ANY, 0}, {NULL, OPT_ANY, 0}};

/* Both ends are at hand: each takes a step in turn until nothing moves any more.  One that is up
 * may have last words that the other waits for. */
static int greet(struct conn *first, struct conn *second) {
  int r1 = ERR_AGAIN, r2 = ERR_AGAIN;
  for (int idle = 0; idle < 16 && (r1 == ERR_AGAIN || r2 == ERR_AGAIN); idle++) {
    bool moved1, moved2;
    r1 = conn_advance(first, &moved1);
    r2 = conn_advance(second, &moved2);
    if (moved1 || moved2) idle = 0;
  }
  return r1 ? r1 : r2;
}

/* The first end is the client. */
static int secure_pair(lua_State *L, struct rt *rt, int first, int second, int tls) {
  struct link_tls_opts o = {.context = ltls_to_context(L, tls), .server = true};
  if (!o.context) return 0;
  ltls_check_server(L, o.context);
  const char *host = ltls_host(L, o.context, NULL);
  int r = conn_secure(check_conn(L, rt, second), &o);
  o.server = false;
  o.host = host;
  if (r == 0) r = conn_secure(check_conn(L, rt, first), &o);
  return r ? r : greet(check_conn(L, rt, first), check_conn(L, rt, second));
}

static int open_pair(lua_State *L, struct rt *rt, const struct conn_opts *o, int framing, int tls) {
  int first = lconn_new(L, rt), second = lconn_new(L, rt);
  struct link *a, *b;
  int r = link_pipe_open(rt->turn.world, &a, &b);
  if (r) return r;
  int r1 = lconn_open(L, rt, first, a, NULL, o, framing);
  int r2 = lconn_open(L, rt, second, b, NULL, o, framing);
  if (r1 || r2) return ERR_NOMEM;
  check_conn(L, rt, second)->accepted = true;
  return secure_pair(L, rt, first, second, tls);
}

/***
Makes two connections that are connected to each other, in memory.
They have all methods, limits and deadlines of other connections, and need no system call. What
each flush ends is received as a piece of its own, so that a test may choose the cuts.
@function wire.pipe
@tparam[opt] table opts `framing`, `limits`, of both ends; `tls`: options or a context with a
certificate and the `servername` that the first end, the client, expects
@treturn Conn one end
@treturn Conn the other, which counts as the accepted one
@codes ENOMEM, ETLS, ECERT
@waits never, the handshakes are over when it returns
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
  const char *why;
  int r = ltls_option(L, rt, 1, &why);
  if (r) return push_failure(L, "pipe", NULL, why, r);
  r = open_pair(L, rt, &o, 2, 3);
  if (r == 0) return 2;
  const struct lconn *first = luaL_testudata(L, 4, "lunewire.Conn");
  const char *detail = first && first->c ? first->c->detail : NULL;
  if (detail) detail = lua_pushfstring(L, "%s: %s", err_text(r), detail);
  return push_failure(L, "pipe", NULL, detail, r);
}

void ldial_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"connect", l_connect}, {"adopt", l_adopt}, {"pipe", l_pipe}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{NULL, NULL}};
  rt_metatable(L, rt, DIAL_NAME, methods, ldial_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
