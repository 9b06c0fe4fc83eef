/* Arguments: options tables, counts, seconds, addresses, and the failures that are returned.
 * What this is not: what any option means. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "rt.h"

/* ---- did you mean? ---------------------------------------------------------------- */

enum { NAME_MAX_LEN = 32 };

static size_t min3(size_t a, size_t b, size_t c) {
  size_t m = a < b ? a : b;
  return m < c ? m : c;
}

/* Edits that turn a into b; both short. */
static size_t distance(const char *a, const char *b) {
  size_t row[NAME_MAX_LEN + 1], nb = strlen(b);
  if (strlen(a) > NAME_MAX_LEN || nb > NAME_MAX_LEN) return SIZE_MAX;
  for (size_t j = 0; j <= nb; j++) row[j] = j;
  for (size_t i = 1; a[i - 1]; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= nb; j++) {
      size_t up = row[j];
      row[j] = min3(up + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
      diagonal = up;
    }
  }
  return row[nb];
}

static int unknown_option(lua_State *L, const char *key, const struct opt *list) {
  const char *best = NULL;
  size_t least = 3; /* further off it is no slip of the pen */
  for (const struct opt *o = list; o->name; o++) {
    size_t d = distance(key, o->name);
    if (d < least) {
      least = d;
      best = o->name;
    }
  }
  if (best) return luaL_error(L, "unknown option '%s' (did you mean '%s'?)", key, best);
  return luaL_error(L, "unknown option '%s'", key);
}

/* ---- one value -------------------------------------------------------------------- */

/* A number of the wrong kind is named by its value: 2.5, nan. */
static const char *what_it_is(lua_State *L) {
  if (lua_type(L, -1) != LUA_TNUMBER) return luaL_typename(L, -1);
  return luaL_tolstring(L, -1, NULL);
}

static int wrong_type(lua_State *L, const char *name, const char *expected) {
  return luaL_error(L, "option '%s' must be %s, not %s", name, expected, what_it_is(L));
}

static size_t size_option(lua_State *L, const char *name) {
  int whole;
  lua_Integer n = lua_tointegerx(L, -1, &whole);
  if (lua_type(L, -1) == LUA_TNUMBER && isinf(lua_tonumber(L, -1)) && lua_tonumber(L, -1) > 0)
    return SIZE_MAX;
  if (!whole || lua_type(L, -1) != LUA_TNUMBER) wrong_type(L, name, "a whole number");
  if (n < 1) luaL_error(L, "option '%s' must be at least 1", name);
  return (size_t)n;
}

static double seconds_option(lua_State *L, const char *name) {
  double s = lua_tonumber(L, -1);
  if (lua_type(L, -1) != LUA_TNUMBER || isnan(s)) wrong_type(L, name, "a number of seconds");
  return s;
}

static int int_option(lua_State *L, const char *name) {
  int whole;
  lua_Integer n = lua_tointegerx(L, -1, &whole);
  if (!whole || lua_type(L, -1) != LUA_TNUMBER) wrong_type(L, name, "a whole number");
  if (n < 0 || n > INT32_MAX) luaL_error(L, "option '%s' is out of range", name);
  return (int)n;
}

/* The value is at the top. */
static void set_option(lua_State *L, const struct opt *o, void *into) {
  if (o->type == OPT_ANY) return; /* `into` may be NULL */
  char *at = (char *)into + o->offset;
  switch (o->type) {
  case OPT_SECONDS:
    *(double *)(void *)at = seconds_option(L, o->name);
    break;
  case OPT_SIZE:
    *(size_t *)(void *)at = size_option(L, o->name);
    break;
  case OPT_INT:
    *(int *)(void *)at = int_option(L, o->name);
    break;
  case OPT_BOOL:
    if (!lua_isboolean(L, -1)) wrong_type(L, o->name, "a boolean");
    *(bool *)(void *)at = lua_toboolean(L, -1);
    break;
  case OPT_ANY:
    break;
  }
}

static const struct opt *find_option(lua_State *L, const struct opt *list) {
  if (lua_type(L, -2) != LUA_TSTRING)
    luaL_error(L, "options are named: unexpected key of type %s", luaL_typename(L, -2));
  size_t n;
  const char *key = lua_tolstring(L, -2, &n);
  for (const struct opt *o = list; o->name; o++)
    if (strlen(o->name) == n && memcmp(o->name, key, n) == 0) return o;
  unknown_option(L, key, list);
  return NULL;
}

enum { NAMES_MAX = 15 };

size_t check_name(lua_State *L, int idx, const void *table, size_t size, size_t n) {
  struct opt names[NAMES_MAX + 1] = {{NULL, OPT_ANY, 0}};
  const char *name = luaL_checkstring(L, idx);
  for (size_t i = 0; i < n && i < NAMES_MAX; i++) {
    names[i].name = *(const char *const *)(const void *)((const char *)table + i * size);
    if (strcmp(names[i].name, name) == 0) return i;
  }
  return (size_t)unknown_option(L, name, names);
}

int check_between(lua_State *L, int idx, lua_Integer least, lua_Integer most) {
  lua_Integer n = luaL_checkinteger(L, idx);
  if (n < least || n > most) {
    lua_pushfstring(L, "must be from %I to %I", least, most);
    luaL_argerror(L, idx, lua_tostring(L, -1));
  }
  return (int)n;
}

void opts_read(lua_State *L, int idx, const struct opt *list, void *into) {
  int type = lua_type(L, idx);
  if (type == LUA_TNONE || type == LUA_TNIL) return;
  if (type == LUA_TNUMBER && strcmp(list->name, "timeout") == 0) {
    lua_pushvalue(L, idx);
    set_option(L, list, into);
    lua_pop(L, 1);
    return;
  }
  if (type != LUA_TTABLE) luaL_typeerror(L, idx, "options table");
  for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) set_option(L, find_option(L, list), into);
}

double opts_retry(lua_State *L, int idx, double timeout) {
  struct retry {
    int count;
    double interval;
  } retry = {0, 0.1};
  static const struct opt keys[] = {{"count", OPT_INT, offsetof(struct retry, count)},
                                    {"interval", OPT_SECONDS, offsetof(struct retry, interval)},
                                    {NULL, OPT_ANY, 0}};
  if (!lua_istable(L, idx)) return timeout;
  if (lua_getfield(L, idx, "retry") != LUA_TNIL) {
    if (!lua_istable(L, -1)) wrong_type(L, "retry", "a table");
    opts_read(L, lua_gettop(L), keys, &retry);
  }
  lua_pop(L, 1);
  double first = timeout > 0 ? timeout : 0;
  return retry.count ? first + retry.count * (first + retry.interval) : timeout;
}

void call_opts_parse(lua_State *L, int idx, const struct opt *list, struct call_opts *o) {
  opts_read(L, idx, list, o);
  o->timeout = opts_retry(L, idx, o->timeout);
  if (o->header < 1 || o->header > 4) luaL_error(L, "option 'header' must be from 1 to 4");
}

void refuse_in_finalizer(lua_State *L, const char *what) {
  if (in_finalizer(L))
    luaL_error(L, "%s: cannot be called in a finalizer; start a task with wire.spawn", what);
}

bool is_callable(lua_State *L, int idx) {
  if (lua_isfunction(L, idx)) return true;
  if (luaL_getmetafield(L, idx, "__call") == LUA_TNIL) return false;
  lua_pop(L, 1);
  return true;
}

void check_callable(lua_State *L, int idx) {
  if (!is_callable(L, idx)) luaL_typeerror(L, idx, "function");
}

size_t check_count(lua_State *L, int idx) {
  if (lua_type(L, idx) != LUA_TNUMBER) luaL_typeerror(L, idx, "count of bytes");
  lua_Integer n = luaL_checkinteger(L, idx);
  luaL_argcheck(L, n >= 0, idx, "a count cannot be negative");
  return (size_t)n;
}

double opt_seconds(lua_State *L, int idx, double otherwise) {
  if (lua_isnoneornil(L, idx)) return otherwise;
  if (lua_type(L, idx) != LUA_TNUMBER) luaL_typeerror(L, idx, "number of seconds");
  double s = lua_tonumber(L, idx);
  luaL_argcheck(L, !isnan(s), idx, "not a number of seconds");
  return s;
}

/* ---- addresses -------------------------------------------------------------------- */

/* {host=, port=}: the host is only ever a name or an IP address. */
static int table_address(lua_State *L, int idx, char host[ADDR_HOST_MAX], uint16_t *port,
                         const char **why) {
  static const struct opt keys[] = {{"host", OPT_ANY, 0}, {"port", OPT_ANY, 0}, {NULL, OPT_ANY, 0}};
  size_t n;
  opts_read(L, idx, keys, NULL);
  if (lua_getfield(L, idx, "host") != LUA_TSTRING)
    luaL_error(L, "address: 'host' must be a string, not %s", luaL_typename(L, -1));
  if (lua_getfield(L, idx, "port") != LUA_TNUMBER || !lua_isinteger(L, -1))
    luaL_error(L, "address: 'port' must be a whole number, not %s", what_it_is(L));
  const char *text = lua_tolstring(L, -2, &n);
  lua_Integer p = lua_tointeger(L, -1);
  const char *shown = lua_pushfstring(L, strchr(text, ':') ? "[%s]:%I" : "%s:%I", text, p);
  (void)shown;
  lua_replace(L, -3);
  lua_pop(L, 1);
  *why = p < 0 || p > 65535             ? "port out of range"
         : n == 0                       ? "empty host"
         : n >= ADDR_HOST_MAX           ? "host too long"
         : strlen(text) != n            ? "zero byte in the host"
         : strpbrk(text, "/@[] \t\r\n") ? "not a host name or IP address"
                                        : NULL;
  if (*why) return ERR_INVAL;
  memcpy(host, text, n + 1);
  *port = (uint16_t)p;
  return 0;
}

/* It stands for its own host. */
static int unix_address(const char *text, size_t n, char host[ADDR_HOST_MAX], uint16_t *port,
                        const char **why) {
  int r = addr_check_unix(text, n, why);
  *port = 0;
  if (r == 0) memcpy(host, text, n + 1);
  return r;
}

int check_address(lua_State *L, int idx, char host[ADDR_HOST_MAX], uint16_t *port,
                  const char **why) {
  *why = NULL;
  if (lua_istable(L, idx)) return table_address(L, idx, host, port, why);
  if (lua_type(L, idx) != LUA_TSTRING)
    luaL_error(L, "an address is a string (\"host:port\") or a table {host=, port=}, not %s",
               luaL_typename(L, idx));
  size_t n;
  const char *text = lua_tolstring(L, idx, &n);
  lua_pushvalue(L, idx);
  return addr_is_unix(text) ? unix_address(text, n, host, port, why)
                            : addr_split(text, n, host, port, why);
}

/* ---- failures --------------------------------------------------------------------- */

int push_failure(lua_State *L, const char *what, const char *who, const char *detail, int code) {
  lua_pushnil(L);
  lua_pushfstring(L, "%s%s%s: %s", what, who ? " " : "", who ? who : "",
                  detail ? detail : err_text(code));
  lua_pushstring(L, err_name(code));
  return 3;
}
