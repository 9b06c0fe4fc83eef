/* A Lua state for one input: see lib_lua.h.
 *
 * To compile the library takes longer than most inputs; so each file is compiled once, and loaded
 * from what that gave. */
#include "lib_lua.h"

#include <lualib.h>

#include "fuzz.h"

int luaopen_lunewire_core(lua_State *L);

/* ---- memory --------------------------------------------------------------------------- */

static size_t allocated;

/* lua_Alloc */
static void *allocate(void *ud, void *p, size_t old, size_t new) {
  (void)ud;
  if (!p) old = 0;
  if (new == 0) {
    free(p);
    allocated -= old;
    return NULL;
  }
  void *q = realloc(p, new);
  if (q) allocated += new - old;
  return q;
}

/* ---- modules -------------------------------------------------------------------------- */

enum { MODULES_MOST = 32 };

struct module {
  char name[64];
  char *code;
  size_t len;
};

static struct module modules[MODULES_MOST];

static void give_up(lua_State *L) {
  fprintf(stderr, "%s\n", lua_tostring(L, -1));
  abort();
}

static int add_code(lua_State *L, const void *p, size_t n, void *ud) {
  struct module *m = ud;
  (void)L;
  m->code = realloc(m->code, m->len + n);
  FUZZ_CHECK(m->code);
  memcpy(m->code + m->len, p, n);
  m->len += n;
  return 0;
}

static void compile(struct module *m, const char *name) {
  char file[128], path[64];
  snprintf(path, sizeof path, "%s", name);
  for (char *c = path; *c; c++)
    if (*c == '.') *c = '/';
  snprintf(file, sizeof file, "%s%s%s", strncmp(path, "spec", 4) == 0 ? "" : "lua/", path,
           strcmp(path, "lunewire") == 0 ? "/init.lua" : ".lua");
  lua_State *L = luaL_newstate();
  if (luaL_loadfile(L, file) != LUA_OK) give_up(L);
  lua_dump(L, add_code, m, 0);
  lua_close(L);
  snprintf(m->name, sizeof m->name, "%s", name);
}

static const struct module *module_of(const char *name) {
  struct module *m = modules;
  while (m->code && strcmp(m->name, name) != 0) m++;
  FUZZ_CHECK(m < modules + MODULES_MOST);
  if (!m->code) compile(m, name);
  return m;
}

/* A searcher of `require`. */
static int l_find(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  if (strncmp(name, "lunewire", 8) != 0 && strncmp(name, "spec.fuzz.", 10) != 0) return 0;
  const struct module *m = module_of(name);
  if (luaL_loadbuffer(L, m->code, m->len, name) != LUA_OK) lua_error(L);
  return 1;
}

static void set_searchers(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchers");
  lua_pushcfunction(L, l_find);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 2);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_lunewire_core);
  lua_setfield(L, -2, "lunewire.core");
  lua_pop(L, 1);
}

/* ---- the state ------------------------------------------------------------------------ */

/* An error in a finalizer: ours let none out. */
static void on_warning(void *ud, const char *text, int more) {
  (void)ud;
  fprintf(stderr, "%s%s", text, more ? "" : "\n");
  if (!more) abort();
}

lua_State *fuzz_lua_open(void) {
  lua_State *L = lua_newstate(allocate, NULL);
  FUZZ_CHECK(L);
  lua_setwarnf(L, on_warning, NULL);
  luaL_openlibs(L);
  set_searchers(L);
  return L;
}

static int on_error(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

void fuzz_lua_run(lua_State *L, const char *name, const void *data, size_t size) {
  lua_pushcfunction(L, on_error);
  lua_getglobal(L, "require");
  lua_pushfstring(L, "spec.fuzz.%s", name);
  if (lua_pcall(L, 1, 1, 1) != LUA_OK) give_up(L);
  lua_pushlstring(L, data, size);
  if (lua_pcall(L, 1, 0, 1) != LUA_OK) give_up(L);
  lua_settop(L, 0);
}

void fuzz_lua_close(lua_State *L) {
  lua_close(L);
  FUZZ_CHECK(allocated == 0);
}
