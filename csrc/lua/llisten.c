/* Beginning to listen: options, addresses, and the Server that comes of them.
 * What this is not: argument habits of serve and names of hosts (init.lua), what a Server does
 * (lserver.c). */
#include <string.h>

#include "lserver.h"

struct serve_opts {
  struct conn_opts conn;
  struct listen_opts listen;
  double drain_timeout;
  size_t max_conns;
};

static const struct serve_opts defaults = {
    .listen = {.backlog = 511, .mode = -1}, .drain_timeout = 10, .max_conns = 10000};

static const struct opt serve_keys[] = {
    {"backlog", OPT_INT, offsetof(struct serve_opts, listen.backlog)},
    {"reuse_port", OPT_BOOL, offsetof(struct serve_opts, listen.reuse_port)},
    {"ipv6_only", OPT_BOOL, offsetof(struct serve_opts, listen.ipv6_only)},
    {"mode", OPT_INT, offsetof(struct serve_opts, listen.mode)},
    {"max_conns", OPT_SIZE, offsetof(struct serve_opts, max_conns)},
    {"nodelay", OPT_BOOL, offsetof(struct serve_opts, conn.nodelay)},
    {"keepalive", OPT_ANY, 0},
    {"timeout", OPT_SECONDS, offsetof(struct serve_opts, conn.timeout)},
    {"idle_timeout", OPT_SECONDS, offsetof(struct serve_opts, conn.idle_timeout)},
    {"drain_timeout", OPT_SECONDS, offsetof(struct serve_opts, drain_timeout)},
    {"framing", OPT_ANY, 0},
    {"limits", OPT_ANY, 0},
    {"tls", OPT_ANY, 0},
    {"on_accept", OPT_ANY, 0},
    {"on_close", OPT_ANY, 0},
    {"on_shutdown", OPT_ANY, 0},
    {NULL, OPT_ANY, 0}};

/* ---- addresses ---------------------------------------------------------------------- */

/* Where to listen: as many as the script gives. */
struct places {
  struct addr *list;
  bool *any; /* all interfaces: IPv4 alone will do on a system without IPv6 */
  int n;
};

static bool is_list(lua_State *L, int idx) { return lua_istable(L, idx) && lua_rawlen(L, idx) > 0; }

/* [-0, +1] The i-th address as it was given. */
static void push_given(lua_State *L, int idx, int i) {
  if (is_list(L, idx))
    lua_rawgeti(L, idx, i + 1);
  else
    lua_pushvalue(L, idx);
}

static int unix_place(lua_State *L, struct addr *a, const char *name) {
  *a = addr_from_unix(turn_keep(&rt_of(L)->turn, strchr(name, ':') + 1));
  return a->path ? 0 : luaL_error(L, "listen: not enough memory");
}

/* [-0, +1] The text of the i-th address -> 0 and the address, or ERR_INVAL and why. */
static int place_at(lua_State *L, int idx, int i, struct places *p, const char **why) {
  char host[ADDR_HOST_MAX];
  uint16_t port;
  push_given(L, idx, i);
  int r = check_address(L, lua_gettop(L), host, &port, why);
  lua_remove(L, -2);
  if (r) return r;
  p->any[i] = !*host;
  if (addr_is_unix(host)) return unix_place(L, &p->list[i], host);
  if (addr_from_ip(&p->list[i], *host ? host : "::", port) == 0) return 0;
  *why = "not an IP address";
  return ERR_INVAL;
}

/* [-0, +1] The addresses at idx, in a userdata; or nil, message, code: [-0, +3] and false. */
static bool read_places(lua_State *L, int idx, struct places *p) {
  const char *why;
  p->n = is_list(L, idx) ? (int)lua_rawlen(L, idx) : 1;
  size_t n = (size_t)p->n;
  p->list = lua_newuserdatauv(L, n * (sizeof *p->list + sizeof *p->any), 0);
  p->any = (bool *)(p->list + n);
  for (int i = 0; i < p->n; i++) {
    int r = place_at(L, idx, i, p, &why);
    if (r) {
      push_failure(L, "listen", lua_tostring(L, -1), why, r);
      return false;
    }
    lua_pop(L, 1);
  }
  return true;
}

/* All of them, or none and the index of the one that failed. */
static int open_places(struct lserver *ls, struct places *p, const struct listen_opts *o,
                       int *failed) {
  for (;;) {
    int r = server_open(&ls->s, &ls->rt->turn, p->list, p->n, o, failed);
    if (r != ERR_NOFAMILY || !p->any[*failed]) return r;
    p->any[*failed] = false;
    addr_from_ip(&p->list[*failed], "0.0.0.0", p->list[*failed].port);
  }
}

/* ---- listen ------------------------------------------------------------------- */

/* The option is a function or something callable, and becomes a user value of the server at
 * the top. */
static bool keep_hook(lua_State *L, int opts, const char *name, int which) {
  int ls_idx = lua_gettop(L);
  if (!lua_istable(L, opts) || lua_getfield(L, opts, name) == LUA_TNIL) {
    lua_settop(L, ls_idx);
    return false;
  }
  if (!is_callable(L, -1))
    luaL_error(L, "option '%s' must be a function, not %s", name, luaL_typename(L, -1));
  lua_setiuservalue(L, ls_idx, which);
  return true;
}

/* [addr, opts, handler] -> [addr, opts, handler, server] */
static struct lserver *lserver_new(lua_State *L, struct rt *rt, struct serve_opts *so) {
  struct lserver *ls = lua_newuserdatauv(L, sizeof *ls, SERVER_VALUES);
  serve_init(ls, rt);
  luaL_setmetatable(L, SERVER_NAME);
  conn_opts_rest(L, 2, &so->conn);
  lua_setiuservalue(L, 4, SERVER_FRAMING);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, 4, SERVER_HANDLER);
  keep_hook(L, 2, "on_accept", SERVER_ON_ACCEPT);
  ls->tells_close = keep_hook(L, 2, "on_close", SERVER_ON_CLOSE);
  keep_hook(L, 2, "on_shutdown", SERVER_ON_SHUTDOWN);
  ls->opts = so->conn;
  so->listen.settings_n = conn_opts_settings(&so->conn, so->listen.settings);
  ls->drain_timeout = so->drain_timeout;
  ls->max_conns = so->max_conns;
  ls->backlog = so->listen.backlog;
  return ls;
}

/* [addr, opts, handler, server] */
static int use_tls(lua_State *L, struct lserver *ls, const char **why) {
  int r = ltls_option(L, ls->rt, 2, why);
  if (r) return r;
  ls->tls = ltls_to_context(L, -1);
  if (ls->tls) ltls_check_server(L, ls->tls);
  lua_setiuservalue(L, 4, SERVER_TLS);
  return 0;
}

/* core.listen(addr | list of them, opts | nil[, handler]) -> Server */
static int l_listen(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct serve_opts so = defaults;
  struct places p;
  int failed;
  lua_settop(L, 3);
  refuse_in_finalizer(L, "listen");
  if (!lua_isnil(L, 2)) luaL_checktype(L, 2, LUA_TTABLE);
  so.conn = conn_opts_default();
  opts_read(L, 2, serve_keys, &so);
  struct lserver *ls = lserver_new(L, rt, &so);
  const char *why = NULL;
  int r = use_tls(L, ls, &why);
  if (r) return push_failure(L, "listen", NULL, why, r);
  if (!read_places(L, 1, &p)) return 3;
  r = open_places(ls, &p, &so.listen, &failed);
  if (r) {
    place_at(L, 1, failed, &p, &why);
    return push_failure(L, "listen", lua_tostring(L, -1), NULL, r);
  }
  serve_begin(L, ls, 4);
  lua_settop(L, 4);
  return 1;
}

/* core.servers() -> list of those that have not ended: they listen, or have connections or handlers
 */
static int l_servers(lua_State *L) {
  struct rt *rt = rt_of(L);
  lua_newtable(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->anchors);
  for (const struct lserver *ls = rt->servers; ls; ls = ls->next) {
    lua_rawgeti(L, 2, ls->ref);
    lua_rawseti(L, 1, (lua_Integer)lua_rawlen(L, 1) + 1);
  }
  lua_settop(L, 1);
  return 1;
}

void llisten_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"listen", l_listen}, {"servers", l_servers}, {NULL, NULL}};
  rt_setfuncs(L, rt, functions);
}
