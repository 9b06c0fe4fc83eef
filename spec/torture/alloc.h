/* Allocators that fail on command and keep books: of Lua, of libuv, of OpenSSL, and the core's own
 * malloc, which the linker puts in the place of malloc in the module's objects (--wrap).
 * What this is not: it knows nothing of scenarios; it decides about one allocation at a time. */
#ifndef LUNEWIRE_TORTURE_ALLOC_H
#define LUNEWIRE_TORTURE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

enum { FAMILY_LUA, FAMILY_UV, FAMILY_OPENSSL, FAMILY_CORE, FAMILIES };
enum mode { MODE_PAIR, MODE_SINGLE, MODE_FROM, MODES };
enum { ALLOC_FRAMES = 16 };

struct balance {
  long blocks[FAMILIES], bytes[FAMILIES];
};

/* Before libuv and OpenSSL are used for anything. */
void alloc_install(void);
/* From now on allocations of these families (a set of bits) are counted, and the k-th fails: it and
 * the next one, it alone, or all from it on.  k = 0: none. */
void alloc_arm(unsigned families, enum mode mode, long k);
/* All succeed again -> how many were counted. */
long alloc_disarm(void);
/* What is allocated now. */
struct balance alloc_balance(void);
/* The places of allocations are noted from now on, or not. */
void alloc_note_places(bool on);
/* Divides what was allocated before from what comes: for alloc_held. */
unsigned long alloc_mark(void);
/* The frames of the i-th block that was allocated since the mark and is still held -> its family,
 * or -1: there are no more. */
int alloc_held(unsigned long mark, int i, size_t *size, void *frames[ALLOC_FRAMES]);
/* For lua_newstate. */
void *alloc_lua(void *ud, void *old, size_t old_size, size_t size);

#endif
