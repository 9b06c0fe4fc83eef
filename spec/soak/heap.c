/* soak.heap, a Lua module: the bytes that malloc has handed out in this process and not got back,
 * Lua's and OpenSSL's among them.  To be exact about small pieces it needs glibc without its
 * caches of each thread (GLIBC_TUNABLES=glibc.malloc.tcache_count=0).
 * What this is not: what the system counts as the process's memory, of which malloc keeps some. */
#include <lauxlib.h>
#include <lua.h>
#include <stddef.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* Of the runtime of AddressSanitizer, which has a malloc of its own. */
extern size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t in_use(void) {
  if (__sanitizer_get_current_allocated_bytes) return __sanitizer_get_current_allocated_bytes();
#ifdef __GLIBC__
  struct mallinfo2 m = mallinfo2();
  return m.uordblks + m.hblkhd;
#else
  return 0;
#endif
}

/* heap.in_use() -> bytes; 0 where nobody counts them */
static int l_in_use(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)in_use());
  return 1;
}

/* heap.trim(): the system gets back what it can. */
static int l_trim(lua_State *L) {
  (void)L;
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  return 0;
}

__attribute__((visibility("default"))) int luaopen_soak_heap(lua_State *L);

int luaopen_soak_heap(lua_State *L) {
  static const luaL_Reg functions[] = {{"in_use", l_in_use}, {"trim", l_trim}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
