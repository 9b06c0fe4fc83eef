/* Collects all garbage of a Lua state at nasty moments; lua5.4 loads it before its script:
 *
 *   LUA_INIT_5_4="assert(package.loadlib('gc_hooks.so', 'gc_hooks'))()"
 *
 * It is a debug hook, which every coroutine inherits from the one that makes it.  It collects
 * every GC_HOOKS_COUNT instructions (1000, varied by half of it), and puts calls of the module's
 * functions under pressure: until the next hook, every allocation of Lua's is a full collection,
 * so also in what follows when the call yields.  That is each function's first GC_HOOKS_FIRST
 * calls (8) and then one in GC_HOOKS_CALLS (64), drawn by GC_HOOKS_SEED.
 * What this is not: part of the library; .ci/suite compiles it.  Finalizers have no hooks. */
#include <dlfcn.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
  FUNCTIONS = 1024, /* a power of two above the number of C functions that are called */
  DEEP = 500        /* levels of calls, more than any script has that is to go well */
};

struct function {
  lua_CFunction f;
  bool ours;
  unsigned calls;
};

static struct function functions[FUNCTIONS];
static unsigned count = 1000, first = 8, calls = 64;
static uint64_t seed = 1;
static bool pressed;

static void number(const char *name, unsigned *value) {
  const char *text = getenv(name);
  if (text && *text) *value = (unsigned)strtoul(text, NULL, 10);
}

static unsigned below(unsigned n) {
  seed = seed * 6364136223846793005U + 1442695040888963407U;
  return (unsigned)(seed >> 33) % n;
}

/* A collection that a script has stopped stays so.  On the way to a stack overflow each would look
 * at a hundred thousand frames: one in 50 will do. */
static bool may_collect(lua_State *L) {
  lua_Debug ar;
  return lua_gc(L, LUA_GCISRUNNING) == 1 && (!lua_getstack(L, DEEP, &ar) || below(50) == 0);
}

/* Without a pause between cycles, of which each is one step (of 2^40 bytes), an allocation is a
 * collection. */
static void press(lua_State *L, bool hard) {
  if (pressed == hard) return;
  pressed = hard;
  if (hard) {
    lua_gc(L, LUA_GCINC, 1, 1000, 40);
    lua_gc(L, LUA_GCCOLLECT);
  } else {
    lua_gc(L, LUA_GCINC, 200, 100, 13);
  }
}

static bool is_ours(lua_CFunction f) {
  Dl_info info;
  return dladdr((void *)f, &info) && info.dli_fname && strstr(info.dli_fname, "lunewire/core.so");
}

/* The place of f, or NULL when there are too many. */
static struct function *function(lua_CFunction f) {
  size_t start = ((uintptr_t)f >> 4) * 2654435761U;
  for (size_t i = 0; i < 32; i++) {
    struct function *place = &functions[(start + i) % FUNCTIONS];
    if (!place->f) *place = (struct function){.f = f, .ours = is_ours(f)};
    if (place->f == f) return place;
  }
  return NULL;
}

static bool is_chosen(lua_State *L, lua_Debug *ar) {
  lua_getinfo(L, "f", ar);
  lua_CFunction f = lua_tocfunction(L, -1);
  lua_pop(L, 1);
  struct function *place = f ? function(f) : NULL;
  return place && place->ours && (place->calls++ < first || below(calls) == 0);
}

static void hook(lua_State *L, lua_Debug *ar);

static void set_hook(lua_State *L) {
  lua_sethook(L, hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT,
              (int)(count / 2 + 1 + below(count)));
}

static void hook(lua_State *L, lua_Debug *ar) {
  bool counted = ar->event == LUA_HOOKCOUNT;
  bool called = ar->event == LUA_HOOKCALL || ar->event == LUA_HOOKTAILCALL;
  bool chosen = called && is_chosen(L, ar);
  bool collects = (counted || chosen) && may_collect(L);
  press(L, chosen && collects);
  if (!counted || !collects) return; /* to set a hook costs as much as the stack is deep */
  lua_gc(L, LUA_GCCOLLECT);
  if (lua_gethook(L) == hook) set_hook(L); /* and not that with which lua5.4 obeys a SIGINT */
}

int gc_hooks(lua_State *L) {
  unsigned start = 1;
  number("GC_HOOKS_COUNT", &count);
  number("GC_HOOKS_FIRST", &first);
  number("GC_HOOKS_CALLS", &calls);
  number("GC_HOOKS_SEED", &start);
  seed = start;
  set_hook(L);
  return 0;
}
