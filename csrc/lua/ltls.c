/* TLS: contexts from options, and start_tls.
 * What this is not: what is known of a session (ltlsinfo.c), handshakes of accepted connections
 * (lhandshake.c), the protocol (core). */
#include "ltls.h"

#include <math.h>
#include <string.h>

#include "../core/link_tls.h"

#define CONTEXT_NAME "lunewire.Context"

static const double HANDSHAKE_TIMEOUT = 10; /* seconds */

struct lcontext {
  struct tls_context *c; /* NULL while it is being made */
};

/* ---- options -> context --------------------------------------------------------------- */

/* start_tls takes the first two, too. */
static const struct opt start_keys[] = {
    {"timeout", OPT_ANY, 0},
    {"role", OPT_ANY, 0},
    {"cert", OPT_ANY, 0},
    {"key", OPT_ANY, 0},
    {"password", OPT_ANY, 0},
    {"ca", OPT_ANY, 0},
    {"servername", OPT_ANY, 0},
    {"alpn", OPT_ANY, 0},
    {"verify", OPT_ANY, 0},
    {"insecure", OPT_BOOL, offsetof(struct tls_opts, insecure)},
    {"min_version", OPT_ANY, 0},
    {"max_version", OPT_ANY, 0},
    {"ciphers", OPT_ANY, 0},
    {"ciphersuites", OPT_ANY, 0},
    {"sni", OPT_ANY, 0},
    {"session", OPT_BOOL, offsetof(struct tls_opts, session)},
    {"keylog", OPT_ANY, 0},
    {"handshake_timeout", OPT_SECONDS, offsetof(struct tls_opts, handshake_timeout)},
    {NULL, OPT_ANY, 0}};
static const struct opt *const tls_keys = start_keys + 2;

/* The text of an option, left on the stack so that it lives as long as the call; or NULL.
 * [-0, +1] */
static const char *text_option(lua_State *L, int idx, const char *name) {
  size_t n;
  if (lua_getfield(L, idx, name) == LUA_TNIL) return NULL;
  if (lua_type(L, -1) != LUA_TSTRING)
    luaL_error(L, "option '%s' must be a string, not %s", name, luaL_typename(L, -1));
  const char *text = lua_tolstring(L, -1, &n);
  if (strlen(text) != n) luaL_error(L, "option '%s' has a zero byte in it", name);
  return text;
}

static void add_protocol(lua_State *L, luaL_Buffer *b, int idx) {
  size_t n = 0;
  const char *name = lua_type(L, idx) == LUA_TSTRING ? lua_tolstring(L, idx, &n) : NULL;
  if (n < 1 || n > 255)
    luaL_error(L, "option 'alpn' must be names of protocols, 1 to 255 bytes each");
  luaL_addchar(b, (char)n);
  luaL_addlstring(b, name, n);
}

/* "h2" or {"h2", "http/1.1"}, as it goes over the wire: [-0, +1] */
static void alpn_option(lua_State *L, int idx, struct tls_opts *o) {
  luaL_Buffer b;
  int type = lua_getfield(L, idx, "alpn"), at = lua_gettop(L);
  if (type == LUA_TNIL) return;
  lua_Integer n = type == LUA_TTABLE ? (lua_Integer)lua_rawlen(L, at) : 1;
  lua_pushnil(L); /* the name at hand: below the buffer's own place */
  luaL_buffinit(L, &b);
  for (lua_Integer i = 1; i <= n; i++) {
    if (type == LUA_TTABLE)
      lua_rawgeti(L, at, i);
    else
      lua_pushvalue(L, at);
    lua_replace(L, at + 1);
    add_protocol(L, &b, at + 1);
  }
  luaL_pushresult(&b);
  o->alpn = (const unsigned char *)lua_tolstring(L, -1, &o->alpn_len);
}

static void verify_option(lua_State *L, int idx, struct tls_opts *o) {
  int type = lua_getfield(L, idx, "verify");
  if (type == LUA_TBOOLEAN)
    o->verify = lua_toboolean(L, -1) ? TLS_VERIFY_REQUIRED : TLS_VERIFY_NONE;
  else if (type == LUA_TSTRING && strcmp(lua_tostring(L, -1), "optional") == 0)
    o->verify = TLS_VERIFY_OPTIONAL;
  else if (type != LUA_TNIL)
    luaL_error(L, "option 'verify' must be a boolean or \"optional\"");
  lua_pop(L, 1);
}

static enum tls_version version_option(lua_State *L, int idx, const char *name,
                                       enum tls_version otherwise) {
  const char *text = text_option(L, idx, name);
  enum tls_version v = otherwise;
  if (text && strcmp(text, "TLSv1.3") == 0)
    v = TLS_1_3;
  else if (text && strcmp(text, "TLSv1.2") == 0)
    v = TLS_1_2;
  else if (text)
    luaL_error(L, "option '%s' must be \"TLSv1.2\" or \"TLSv1.3\"; older ones are not safe", name);
  lua_pop(L, 1);
  return v;
}

static void version_options(lua_State *L, int idx, struct tls_opts *o) {
  o->min_version = version_option(L, idx, "min_version", TLS_1_2);
  o->max_version = version_option(L, idx, "max_version", TLS_1_3);
  if (o->min_version > o->max_version)
    luaL_error(L, "option 'max_version' is older than 'min_version'");
}

/* All of them; their texts stay on the stack. */
static void read_opts(lua_State *L, int idx, const struct opt *keys, struct tls_opts *o) {
  opts_read(L, idx, keys, o);
  luaL_checkstack(L, 24, "tls options");
  o->cert = text_option(L, idx, "cert");
  o->key = text_option(L, idx, "key");
  o->password = text_option(L, idx, "password");
  o->ca = text_option(L, idx, "ca");
  o->servername = text_option(L, idx, "servername");
  if (o->servername && (!*o->servername || *o->servername == '.'))
    luaL_error(L, "option 'servername' must be a name or an IP address, not '%s'", o->servername);
  o->ciphers = text_option(L, idx, "ciphers");
  o->ciphersuites = text_option(L, idx, "ciphersuites");
  o->keylog = text_option(L, idx, "keylog");
  alpn_option(L, idx, o);
  verify_option(L, idx, o);
  version_options(L, idx, o);
  if (!o->cert != !o->key) luaL_error(L, "options 'cert' and 'key' belong together");
}

/* [name's options] -> [options]  What they leave out is as in the outer ones at idx: a client must
 * not get around a verification by the name that it asks for. */
static void inherit(lua_State *L, int idx) {
  int own = lua_gettop(L);
  lua_newtable(L);
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, own + 1);
  }
  lua_pushnil(L);
  lua_setfield(L, own + 1, "sni");
  for (lua_pushnil(L); lua_next(L, own); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, own + 1);
  }
  lua_replace(L, own);
}

/* [..., name, options or context] */
static int add_name(lua_State *L, struct rt *rt, int idx, struct lcontext *lc, const char **why) {
  int value = lua_gettop(L), name = value - 1;
  if (lua_type(L, name) != LUA_TSTRING)
    luaL_error(L, "option 'sni' must be a table {name = options}");
  if (lua_istable(L, value)) inherit(L, idx);
  int r = ltls_context(L, rt, value, why);
  if (r) return r;
  const struct lcontext *other = lua_touserdata(L, -1);
  if (!tls_context_has_cert(other->c))
    luaL_error(L, "option 'sni': '%s' has no 'cert' and 'key'", lua_tostring(L, name));
  return tls_context_add_name(lc->c, lua_tostring(L, name), other->c);
}

/* The contexts of `sni` = {name = options or context}: [context] -> [context] */
static int add_names(lua_State *L, struct rt *rt, int idx, int context, const char **why) {
  struct lcontext *lc = lua_touserdata(L, context);
  if (lua_getfield(L, idx, "sni") == LUA_TNIL) return 0;
  if (!lua_istable(L, -1)) luaL_error(L, "option 'sni' must be a table {name = options}");
  int names = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, names); lua_settop(L, names + 1)) {
    int r = add_name(L, rt, idx, lc, why);
    if (r) return r;
  }
  return 0;
}

/* [-0, +1] A new context of the options table at idx -> 0; or a code and *why, and what was pushed
 * means nothing. */
static int make_context(lua_State *L, struct rt *rt, int idx, const struct opt *keys,
                        const char **why) {
  struct tls_opts o = {.min_version = TLS_1_2,
                       .max_version = TLS_1_3,
                       .handshake_timeout = HANDSHAKE_TIMEOUT,
                       .session = true};
  char text[TLS_WHY] = "";
  struct lcontext *lc = lua_newuserdatauv(L, sizeof *lc, 0);
  int context = lua_gettop(L);
  lc->c = NULL;
  luaL_setmetatable(L, CONTEXT_NAME);
  if (lua_istable(L, idx)) read_opts(L, idx, keys, &o);
  int r = tls_context_new(&rt->turn, &o, &lc->c, text);
  if (r) {
    *why = lua_pushstring(L, text);
    lua_replace(L, context);
    lua_settop(L, context);
    return r;
  }
  if (lua_istable(L, idx)) r = add_names(L, rt, idx, context, why);
  lua_settop(L, context + (r ? 1 : 0));
  return r;
}

static const char default_key; /* registry: the context of tls = true */

static int default_context(lua_State *L, struct rt *rt, int idx, const char **why) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &default_key) != LUA_TNIL) return 0;
  lua_pop(L, 1);
  int r = make_context(L, rt, idx, tls_keys, why);
  if (r) return r;
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &default_key);
  return 0;
}

int ltls_context(lua_State *L, struct rt *rt, int idx, const char **why) {
  idx = lua_absindex(L, idx);
  *why = NULL;
  if (luaL_testudata(L, idx, CONTEXT_NAME)) {
    lua_pushvalue(L, idx);
    return 0;
  }
  if (lua_istable(L, idx)) return make_context(L, rt, idx, tls_keys, why);
  if (lua_isboolean(L, idx) && lua_toboolean(L, idx)) return default_context(L, rt, idx, why);
  return luaL_error(L,
                    "option 'tls' must be true, a table of options or a context of "
                    "wire.tls_context, not %s",
                    luaL_typename(L, idx));
}

struct tls_context *ltls_to_context(lua_State *L, int idx) {
  const struct lcontext *lc = lua_touserdata(L, idx);
  return lc ? lc->c : NULL;
}

int ltls_option(lua_State *L, struct rt *rt, int opts, const char **why) {
  *why = NULL;
  if (!lua_istable(L, opts)) {
    lua_pushnil(L);
    return 0;
  }
  int type = lua_getfield(L, opts, "tls"), at = lua_gettop(L);
  if (type == LUA_TNIL || (type == LUA_TBOOLEAN && !lua_toboolean(L, at))) {
    lua_pushnil(L);
    lua_replace(L, at);
    return 0;
  }
  int r = ltls_context(L, rt, at, why);
  lua_replace(L, at);
  lua_settop(L, at);
  return r;
}

void ltls_check_server(lua_State *L, const struct tls_context *c) {
  if (!tls_context_has_cert(c))
    luaL_error(L, "tls: a server needs a certificate: give 'cert' and 'key'");
}

const char *ltls_host(lua_State *L, const struct tls_context *c, const char *host) {
  const struct tls_opts *o = tls_context_opts(c);
  if (o->servername) return o->servername;
  if (host && *host) return host;
  if (!o->insecure)
    luaL_error(L, "tls: whom is the peer's certificate to be for? give 'servername'");
  return NULL;
}

/* ---- contexts -------------------------------------------------------------------------- */

/***
Makes a TLS context once, for many connections.
`connect`, `serve`, `listen`, `pipe` and `start_tls` take it, or the same options, or true, as their
`tls`. Sessions are resumed among the connections of one context. A client verifies the chain and
the name, always; TLS 1.2 is the oldest version; renegotiation and compression are off.
@function wire.tls_context
@tparam[opt] table opts its keys; a certificate or key is the name of a PEM file or the PEM text:
 - `cert`, `key`, `password`: ours; all certificates behind the first are sent with it
 - `ca`: whom to trust, a file, directory or text (the system's authorities)
 - `servername`: whom a client expects (the host that it connects to)
 - `alpn`: a protocol, or a list of them by preference
 - `verify`: a server asks for client certificates: true, or "optional"
 - `insecure`: true, and a client verifies nothing
 - `min_version` ("TLSv1.2"), `max_version` ("TLSv1.3"), `ciphers`, `ciphersuites`: as OpenSSL takes
   them (its own, or its configuration's; in TLS 1.3 AES-128 goes first unless that says otherwise)
 - `sni`: {name = options or context}, what a server shows to who asks for a name or a pattern as
   "*.example.org"; what the options of a name leave out is as outside
 - `session` (true): a client resumes sessions
 - `keylog`: a file to which the sessions' secrets are appended
 - `handshake_timeout` (10): seconds for the handshake of an accepted connection
@treturn Context
@codes ETLS (what is in a file cannot be used), ENOENT, EACCES and others of a file
@waits never
@raise for unknown options and wrong types
@follows RFC 8446, RFC 5246
*/
static int l_tls_context(lua_State *L) {
  struct rt *rt = rt_of(L);
  const char *why;
  lua_settop(L, 1);
  refuse_in_finalizer(L, "tls_context");
  if (!lua_isnil(L, 1)) luaL_checktype(L, 1, LUA_TTABLE);
  int r = make_context(L, rt, 1, tls_keys, &why);
  return r ? push_failure(L, "tls_context", NULL, why, r) : 1;
}

/***
Reads the files of certificates, keys and authorities again, those of `sni` too.
New connections use what they say now; on failure all stays as it was.
@function Context:reload
@treturn boolean true
@codes as of `tls_context`
@waits never
*/
static int l_reload(lua_State *L) {
  struct lcontext *lc = luaL_checkudata(L, 1, CONTEXT_NAME);
  char why[TLS_WHY];
  rt_of(L);
  int r = tls_context_reload(lc->c, why);
  if (r) return push_failure(L, "reload", NULL, why, r);
  lua_pushboolean(L, true);
  return 1;
}

static int lcontext_gc(lua_State *L) {
  const struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  struct lcontext *lc = lua_touserdata(L, 1);
  if (!rt->closed) tls_context_drop(lc->c);
  lc->c = NULL;
  return 0;
}

/* ---- start_tls -------------------------------------------------------------------------- */

enum { ARG_CONN = 1, ARG_OPTS, ARG_CONTEXT };

/* The session takes the link's place; what is to be sent in plain has gone before. */
static int begin_session(lua_State *L, struct op *o) {
  struct conn *c = o->on;
  struct tls_context *context = ltls_to_context(L, ARG_CONTEXT);
  struct link_tls_opts with = {
      .context = context, .server = o->server, .host = tls_context_opts(context)->servername};
  int r = conn_secure(c, &with);
  o->index = r == 0;
  return r;
}

/* Half a session is of no use to anybody. */
static void abandon(lua_State *L, struct op *o) {
  (void)L;
  if (o->index) conn_close(o->on);
}

/* It stands in the line of senders until the plain output is gone, then in that of receivers, so
 * that no byte of the handshake goes to anybody else. */
static void stand_in(struct rt *rt, struct op *o, struct waitq *q, const double *deadline) {
  if (o->q == q) return;
  op_done(rt, o);
  o->q = q;
  o->deadline = deadline;
  o->waited = false;
}

static int start_tls_try(lua_State *L, struct rt *rt, struct op *o) {
  struct conn *c = o->on;
  if (!conn_is_open(c)) return ERR_CLOSED;
  if (o->index) return conn_handshake(c);
  if (c->out_end || c->fin_wanted) return c->out_end ? c->out_end : ERR_PIPE;
  conn_flush_now(c);
  if (conn_unsent(c)) {
    stand_in(rt, o, &c->writers, &c->send_deadline);
    return ERR_AGAIN;
  }
  stand_in(rt, o, &c->readers, &c->recv_deadline);
  int r = op_turn(L, rt, o);
  return r ? r : begin_session(L, o);
}

static int start_tls_run(lua_State *L, struct rt *rt, struct op *o) {
  int r;
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) r = start_tls_try(L, rt, o);
    if (r == 0 && !conn_is_up(o->on)) r = ERR_AGAIN;
    if (r != ERR_AGAIN) break;
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  if (r) {
    abandon(L, o);
    return conn_failed(L, o->on, o->what, r);
  }
  lua_pushboolean(L, true);
  return 1;
}

/* The options' role, or the one that a connection has by its origin. */
static bool is_server_role(lua_State *L, const struct conn *c) {
  if (!lua_istable(L, ARG_OPTS) || lua_getfield(L, ARG_OPTS, "role") == LUA_TNIL)
    return c->accepted;
  const char *role = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  bool server = strcmp(role, "server") == 0;
  if (!server && strcmp(role, "client") != 0)
    luaL_error(L, "option 'role' must be \"server\" or \"client\"");
  return server;
}

static double handshake_time(lua_State *L, const struct tls_context *c) {
  double timeout = tls_context_opts(c)->handshake_timeout;
  if (!lua_istable(L, ARG_OPTS)) return timeout;
  int type = lua_getfield(L, ARG_OPTS, "timeout");
  if (type != LUA_TNIL && type != LUA_TNUMBER)
    luaL_error(L, "option 'timeout' must be a number of seconds, not %s", luaL_typename(L, -1));
  return opt_seconds(L, lua_gettop(L), timeout);
}

/***
Upgrades a live connection to TLS.
What was sent before goes out in plain; bytes that are buffered already belong to the handshake and
never come out as data. A failure closes the connection.
@function Conn:start_tls
@tparam boolean|table|Context opts as the option `tls` of `connect` and `serve`, a table also with
`role` ("server" for an accepted connection and the second end of a pipe, otherwise "client") and
`timeout` (handshake_timeout); a client names whom it expects by `servername`
@treturn boolean true
@codes ETLS, ECERT, ETIMEDOUT, ECLOSED, ECONNRESET, EPIPE
@waits until the handshake is over
@raise for a connection that has TLS already, a server without a certificate, a client that does
not say whom it expects
@follows RFC 8446; RFC 3207 for the use of it
*/
static int l_start_tls(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, ARG_CONN);
  const char *why = NULL;
  lua_settop(L, ARG_OPTS);
  if (c->link && link_is_tls(c->link))
    return luaL_error(L, "start_tls: the connection has TLS already");
  int r = lua_istable(L, ARG_OPTS) ? make_context(L, rt, ARG_OPTS, start_keys, &why)
                                   : ltls_context(L, rt, ARG_OPTS, &why);
  if (r) return push_failure(L, "start_tls", NULL, why, r);
  const struct tls_context *context = ltls_to_context(L, ARG_CONTEXT);
  struct op o = {.run = start_tls_run,
                 .what = "start_tls",
                 .q = &c->writers,
                 .deadline = &c->send_deadline,
                 .timeout = handshake_time(L, context),
                 .on = c,
                 .server = is_server_role(L, c),
                 .abandon = abandon,
                 .outside = c->link && c->link->outside};
  if (o.server)
    ltls_check_server(L, context);
  else
    ltls_host(L, context, NULL);
  lua_settop(L, ARG_CONTEXT);
  return start_tls_run(L, rt, &o);
}

const luaL_Reg ltls_methods[] = {{"start_tls", l_start_tls}, {NULL, NULL}};

void ltls_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"tls_context", l_tls_context}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"reload", l_reload}, {NULL, NULL}};
  rt_metatable(L, rt, CONTEXT_NAME, methods, lcontext_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
