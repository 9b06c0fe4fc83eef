/* The allocator of an interpreter that is built for tests (.ci/apicheck): a block that changes its
 * size always moves, and one that is given back is filled, so that an old pointer into a stack, a
 * string or a userdata finds nothing there.
 * What this is not: part of the library, or of any use with another C library than GNU's. */
#undef realloc /* the interpreter's own are named otherwise, */
#undef free    /* on the command line */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *moving_realloc(void *block, size_t size);
void moving_free(void *block);

/* The compiler leaves out what is written to a block just before free(), unless it cannot tell. */
static void *(*volatile fill)(void *, int, size_t) = memset;

void moving_free(void *block) {
  if (!block) return;
  fill(block, 0x55, malloc_usable_size(block));
  free(block);
}

void *moving_realloc(void *block, size_t size) {
  void *moved = malloc(size);
  if (!moved || !block) return moved;
  size_t had = malloc_usable_size(block);
  memcpy(moved, block, had < size ? had : size);
  moving_free(block);
  return moved;
}
