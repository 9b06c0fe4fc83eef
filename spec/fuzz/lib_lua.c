/* Lua states for fuzz targets: see lib_lua.h. */
#include "lib_lua.h"

#include <glob.h>
#include <lualib.h>

#include "fuzz.h"

int luaopen_lunewire_core(lua_State *L);

/* ---- the arena ------------------------------------------------------------------------ */

/* What a state holds before the first input lies here, so that it can be put back; and of what
 * comes later, while fuzzing, the objects that are Lua's alone.  What C holds in its hands (texts,
 * userdata, buffers) is malloc's, which the sanitizer watches; and in the replay, which has no
 * hurry, everything is. */
/* libFuzzer looks for inputs that take new paths; how Lua's memory lies is none. */
#ifdef __clang__
#define UNSEEN __attribute__((no_sanitize("coverage")))
#else
#define UNSEEN
#endif

enum { ARENA = 4 << 20, GRAIN = 16, SMALL_MOST = 512 };

struct piece {
  struct piece *next;
};

static struct {
  size_t used, held; /* bytes of mem; bytes of all that the state has, wherever they lie */
  struct piece *spare[SMALL_MOST / GRAIN + 1];
  _Alignas(GRAIN) char mem[ARENA];
} arena;

static char *first_arena; /* as it was before the first input; NULL: it is being made */
static size_t first_size;

UNSEEN static bool in_arena(const void *p) {
  return (const char *)p >= arena.mem && (const char *)p < arena.mem + ARENA;
}

UNSEEN static size_t grains(size_t n) { return (n + GRAIN - 1) / GRAIN; }

/* -> NULL: it is full. */
UNSEEN static void *take_from_arena(size_t n) {
  struct piece **spare = &arena.spare[n <= SMALL_MOST ? grains(n) : 0], *p = *spare;
  if (p) {
    *spare = p->next;
    return p;
  }
  if (n > ARENA - GRAIN || arena.used + grains(n) * GRAIN > ARENA) return NULL;
  p = (void *)(arena.mem + arena.used);
  arena.used += grains(n) * GRAIN;
  return p;
}

UNSEEN static void give_to_arena(struct piece *p, size_t n) {
  if (n > SMALL_MOST) return;
  p->next = arena.spare[grains(n)];
  arena.spare[grains(n)] = p;
}

static void keep_arena(void) {
  first_size = (size_t)(arena.mem - (char *)&arena) + arena.used;
  first_arena = fuzz_copy((char *)&arena, first_size, 0);
}

/* ---- memory --------------------------------------------------------------------------- */

/* NOLINTNEXTLINE(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): libFuzzer's name */
int LLVMFuzzerRunDriver(int *argc, char ***argv, void *callback) __attribute__((weak));

/* Where Lua asks for a new object, it tells the type in the place of the old size; those of inner
 * kinds come behind the types that the API knows. */
UNSEEN static bool is_luas_alone(size_t type) {
  return type == LUA_TTABLE || type == LUA_TFUNCTION || type >= LUA_NUMTYPES;
}

UNSEEN static void *take(size_t n, size_t type) {
  if (!first_arena) {
    void *p = take_from_arena(n);
    FUZZ_CHECK(p);
    return p;
  }
  void *p = NULL;
  if (LLVMFuzzerRunDriver && n <= SMALL_MOST && is_luas_alone(type)) p = take_from_arena(n);
  return p ? p : malloc(n);
}

UNSEEN static void give_back(void *p, size_t n) {
  if (!p) return;
  arena.held -= n;
  if (in_arena(p)) {
    give_to_arena(p, n);
  } else {
    free(p);
  }
}

/* lua_Alloc.  Moves always, so that who keeps the old address is found out. */
UNSEEN static void *allocate(void *ud, void *p, size_t old, size_t new) {
  (void)ud;
  if (new == 0) {
    give_back(p, old);
    return NULL;
  }
  void *q = take(new, p ? 0 : old);
  if (!q) return NULL;
  arena.held += new;
  if (p) memcpy(q, p, old < new ? old : new);
  give_back(p, old);
  return q;
}

/* ---- the first state ------------------------------------------------------------------ */

static void give_up(lua_State *L) {
  fprintf(stderr, "%s\n", lua_tostring(L, -1));
  abort();
}

/* [preload] -> [preload]  lua/lunewire/x.lua becomes the loader of "lunewire.x", and
 * spec/fuzz/x.lua that of "spec.fuzz.x". */
static void preload(lua_State *L, const char *file) {
  const char *name = strncmp(file, "lua/", 4) == 0 ? file + 4 : file;
  if (luaL_loadfile(L, file) != LUA_OK) give_up(L);
  lua_pushlstring(L, name, strlen(name) - strlen(".lua"));
  luaL_gsub(L, lua_tostring(L, -1), "/", ".");
  lua_remove(L, -2);
  lua_insert(L, -2);
  lua_settable(L, -3);
}

static void preload_all(lua_State *L, const char *pattern) {
  glob_t found;
  if (glob(pattern, 0, NULL, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; i++) preload(L, found.gl_pathv[i]);
  globfree(&found);
}

static void set_loaders(lua_State *L, const char *name) {
  char pattern[128];
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_lunewire_core);
  lua_setfield(L, -2, "lunewire.core");
  preload_all(L, "lua/lunewire/*.lua");
  lua_getfield(L, -1, "lunewire.init");
  lua_setfield(L, -2, "lunewire");
  snprintf(pattern, sizeof pattern, "spec/fuzz/%s.lua", name);
  preload_all(L, pattern);
  snprintf(pattern, sizeof pattern, "spec/fuzz/%s_*.lua", name);
  preload_all(L, pattern);
  lua_pop(L, 1);
}

/* An error in a finalizer: ours let none out. */
static void on_warning(void *ud, const char *text, int more) {
  (void)ud;
  fprintf(stderr, "%s%s", text, more ? "" : "\n");
  if (!more) abort();
}

static lua_State *make_state(const char *name, void (*prepare)(lua_State *L)) {
  lua_State *L = lua_newstate(allocate, NULL);
  FUZZ_CHECK(L);
  lua_setwarnf(L, on_warning, NULL);
  luaL_openlibs(L);
  set_loaders(L, name);
  if (prepare) prepare(L);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCCOLLECT);
  keep_arena();
  return L;
}

/* ---- one input ------------------------------------------------------------------------ */

static int on_error(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

void fuzz_lua_run(const char *name, void (*prepare)(lua_State *L), const void *data, size_t size) {
  static lua_State *L;
  if (L)
    memcpy(&arena, first_arena, first_size);
  else
    L = make_state(name, prepare);
  lua_pushcfunction(L, on_error);
  lua_getglobal(L, "require");
  lua_pushfstring(L, "spec.fuzz.%s", name);
  if (lua_pcall(L, 1, 1, 1) != LUA_OK) give_up(L);
  lua_pushlstring(L, data, size);
  if (lua_pcall(L, 1, 0, 1) != LUA_OK) give_up(L);
  lua_close(L);
  FUZZ_CHECK(arena.held == 0);
}
