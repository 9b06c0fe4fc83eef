/* How much memory a process holds that is not Lua's, to the byte: what stands in the place of
 * malloc (LD_PRELOAD) and counts, and a Lua module that tells.
 *
 *   heap.held()   bytes in use now
 *   heap.mark()   from here on the most is counted anew
 *   heap.peak()   the most that was in use at once since then
 *
 * What this is not: part of the library. It knows glibc only. */
#include <elf.h>
#include <link.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <lauxlib.h>

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

static atomic_llong held, peak;

/* ---- Lua's own ---------------------------------------------------------------------- */

/* The interpreter is the program itself, and what its allocator takes it gives back itself. */
static uintptr_t program_begin, program_end;

static int find_program(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type != PT_LOAD || !(p->p_flags & PF_X)) continue;
    program_begin = info->dlpi_addr + p->p_vaddr;
    program_end = program_begin + p->p_memsz;
  }
  return 1; /* the program comes first */
}

__attribute__((constructor)) static void begin(void) { dl_iterate_phdr(find_program, NULL); }

static int is_lua(void *caller) {
  return (uintptr_t)caller >= program_begin && (uintptr_t)caller < program_end;
}

/* ---- counting ----------------------------------------------------------------------- */

static void note(void *caller, long long bytes) {
  if (bytes == 0 || is_lua(caller)) return;
  long long now = atomic_fetch_add(&held, bytes) + bytes, most = atomic_load(&peak);
  while (now > most && !atomic_compare_exchange_weak(&peak, &most, now)) continue;
}

static long long size_of(void *p) { return p ? (long long)malloc_usable_size(p) : 0; }

#define CALLER __builtin_return_address(0)

void *malloc(size_t n) {
  void *p = __libc_malloc(n);
  note(CALLER, size_of(p));
  return p;
}

void *calloc(size_t n, size_t size) {
  void *p = __libc_calloc(n, size);
  note(CALLER, size_of(p));
  return p;
}

/* Both pieces may be there for a moment; the system moves large ones without that. */
void *realloc(void *old, size_t n) {
  long long before = size_of(old);
  void *p = __libc_realloc(old, n);
  if (p || n == 0) note(CALLER, size_of(p) - before);
  return p;
}

void *memalign(size_t align, size_t n) {
  void *p = __libc_memalign(align, n);
  note(CALLER, size_of(p));
  return p;
}

int posix_memalign(void **to, size_t align, size_t n) {
  *to = __libc_memalign(align, n);
  note(CALLER, size_of(*to));
  return *to ? 0 : 12; /* ENOMEM */
}

void *aligned_alloc(size_t align, size_t n) {
  void *p = __libc_memalign(align, n);
  note(CALLER, size_of(p));
  return p;
}

void free(void *p) {
  note(CALLER, -size_of(p));
  __libc_free(p);
}

/* ---- the module --------------------------------------------------------------------- */

static int l_held(lua_State *L) {
  lua_pushinteger(L, atomic_load(&held));
  return 1;
}

static int l_mark(lua_State *L) {
  (void)L;
  atomic_store(&peak, atomic_load(&held));
  return 0;
}

static int l_peak(lua_State *L) {
  lua_pushinteger(L, atomic_load(&peak));
  return 1;
}

int luaopen_heap(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"held", l_held}, {"mark", l_mark}, {"peak", l_peak}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
