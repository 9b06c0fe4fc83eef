/* What can be sent: strings, numbers and lists of them, nested or not.
 * What this is not: when it is sent (lsend.c). */
#include <stdio.h>
#include <string.h>

#include "rt.h"

enum { LIST_DEPTH = 32, NUMBER_TEXT = 64 };

/* As tostring() would, but without touching Lua: no collection may run between measuring and
 * copying. */
static size_t number_text(lua_State *L, int idx, char out[NUMBER_TEXT]) {
  if (lua_isinteger(L, idx))
    return (size_t)snprintf(out, NUMBER_TEXT, LUA_INTEGER_FMT, lua_tointeger(L, idx));
  size_t n = (size_t)snprintf(out, NUMBER_TEXT, LUA_NUMBER_FMT, lua_tonumber(L, idx));
  if (out[strspn(out, "-0123456789")] == '\0') {
    memcpy(out + n, ".0", 3);
    n += 2;
  }
  return n;
}

/* Writes the value at idx to `out` (NULL: only measures) -> bytes. */
static size_t gather(lua_State *L, int idx, char *out, int depth);

/* What looks like options where there are none must not be taken for an empty list. */
static void check_no_keys(lua_State *L, int idx) {
  lua_pushnil(L);
  if (lua_next(L, idx))
    luaL_error(L, "a table with keys is no list; options come last, and only where a call has any");
}

static size_t gather_list(lua_State *L, int idx, char *out, int depth) {
  size_t total = 0, n = lua_rawlen(L, idx);
  if (depth >= LIST_DEPTH) luaL_error(L, "lists are nested too deep (more than %d)", LIST_DEPTH);
  luaL_checkstack(L, 3, "lists are nested too deep");
  if (n == 0) check_no_keys(L, idx);
  for (size_t i = 1; i <= n; i++) {
    lua_rawgeti(L, idx, (lua_Integer)i);
    total += gather(L, lua_gettop(L), out ? out + total : NULL, depth + 1);
    lua_pop(L, 1);
  }
  return total;
}

static size_t gather(lua_State *L, int idx, char *out, int depth) {
  char text[NUMBER_TEXT];
  const char *p = text;
  size_t n;
  switch (lua_type(L, idx)) {
  case LUA_TSTRING:
    p = lua_tolstring(L, idx, &n);
    break;
  case LUA_TNUMBER:
    n = number_text(L, idx, text);
    break;
  case LUA_TTABLE:
    return gather_list(L, idx, out, depth);
  default:
    luaL_error(L, "cannot send a %s; strings, numbers and lists of them can be sent",
               luaL_typename(L, idx));
    return 0;
  }
  if (out) memcpy(out, p, n);
  return n;
}

size_t values_gather(lua_State *L, int last, char *out) {
  size_t total = 0;
  for (int i = 2; i <= last; i++) total += gather(L, i, out ? out + total : NULL, 0);
  return total;
}
