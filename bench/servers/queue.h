/* The bytes of one connection of a floor in C: what has come of a message that is not complete
 * yet, and what the system did not take.
 *
 * All connections read into one page, and complete messages go back from there without a copy.
 * A short beginning of a message is put in front of the next read; behind a long one the rest is
 * read in place.  A connection between two messages holds no memory.
 * What this is not: it knows no socket. */
#ifndef BENCH_QUEUE_H
#define BENCH_QUEUE_H

#include "framing.h"
#include "program.h"

enum {
  SHORT = 4 * 1024,      /* so much is cheaper to move than to read apart */
  READ_ROOM = 64 * 1024, /* of one read into the page */
  PAGE = SHORT + READ_ROOM,
};

/* The beginning of a message; len 0: none.  cap > len: the rest is read in place. */
struct input {
  char *kept;
  size_t len, cap;
};

/* memory NULL: none.  The bytes from at to len are unsent. */
struct output {
  char *memory;
  size_t at, len;
};

/* Where the next read's message begins: the read goes behind what was kept. */
static inline char *input_base(const struct input *in, char *page) {
  if (in->cap > in->len) return in->kept;
  if (in->len) memcpy(page, in->kept, in->len);
  return page;
}

static inline size_t input_room(const struct input *in) {
  return in->cap > in->len ? in->cap - in->len : READ_ROOM;
}

static inline struct input input_begin(const char *bytes, size_t n, size_t need) {
  struct input in = {.len = n, .cap = n >= SHORT || need > PAGE ? need : n};
  if (!n) return (struct input){.kept = NULL};
  in.kept = allocate(in.cap);
  memcpy(in.kept, bytes, n);
  return in;
}

/* Keeps what stands behind the whole messages of n bytes at base.  -> the memory that the whole
 * messages stand in, which is now the caller's to free; NULL: there is nothing to free. */
static inline char *input_keep(struct input *in, char *base, size_t n, struct cut cut) {
  char *before = in->kept;
  if (before == base && !cut.whole) {
    in->len = n;
    return NULL;
  }
  *in = input_begin(base + cut.whole, n - cut.whole, cut.need);
  if (before == base) return before;
  free(before);
  return NULL;
}

/* Keeps the n bytes at base from at on; memory is what input_keep() gave. */
static inline void output_keep(struct output *out, char *memory, const char *base, size_t at,
                               size_t n) {
  *out = (struct output){memory, at, n};
  if (memory) return;
  *out = (struct output){allocate(n - at), 0, n - at};
  memcpy(out->memory, base + at, n - at);
}

static inline void output_clear(struct output *out) {
  free(out->memory);
  *out = (struct output){.memory = NULL};
}

#endif
