/* What the fuzz targets share: reading an input as a row of decisions, and checks.
 *
 * A target is spec/fuzz/fuzz_NAME.c with one function, LLVMFuzzerTestOneInput, which is called once
 * for each input, must end with everything freed, and must do the same for the same bytes: no
 * clock, no chance but what the input brings.  Further files of it are spec/fuzz/NAME_*.c; what all
 * targets may use is spec/fuzz/lib_*.c.  Its inputs lie in spec/fuzz/corpus/NAME.  It is linked
 * with libFuzzer by `make fuzz` and with replay.c, which runs the corpus, by `make test`.
 * What this is not: it knows no target. */
#ifndef LUNEWIRE_FUZZ_H
#define LUNEWIRE_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What does not hold ends the program: the input is a finding. */
#define FUZZ_CHECK(e)                                                                              \
  do {                                                                                             \
    if (e) break;                                                                                  \
    fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #e);                              \
    abort();                                                                                       \
  } while (0)

/* The rest of an input.  Past its end every number is 0: an input is never too short. */
struct input {
  const uint8_t *at;
  size_t left;
};

static inline uint8_t input_byte(struct input *in) {
  if (!in->left) return 0;
  in->left--;
  return *in->at++;
}

static inline bool input_bool(struct input *in) { return input_byte(in) & 1; }

/* 0 to n - 1; n > 0. */
static inline uint32_t input_below(struct input *in, uint32_t n) {
  uint32_t v = input_byte(in);
  if (n > 256) v = v << 8 | input_byte(in);
  if (n > 65536) v = v << 8 | input_byte(in);
  return v % n;
}

static inline uint64_t input_bytes(struct input *in, unsigned n) {
  uint64_t v = 0;
  while (n-- > 0) v = v << 8 | input_byte(in);
  return v;
}

/* At most n bytes, as they lie in the input -> *len. */
static inline const char *input_take(struct input *in, size_t n, size_t *len) {
  const char *p = (const char *)in->at;
  *len = n < in->left ? n : in->left;
  if (*len) in->at += *len;
  in->left -= *len;
  return p;
}

/* n bytes in memory of exactly that size, so that the sanitizer sees a byte too far; `more` bytes
 * of it are for the caller. To be freed. */
static inline char *fuzz_copy(const char *p, size_t n, size_t more) {
  char *copy = calloc(1, n + more ? n + more : 1);
  FUZZ_CHECK(copy);
  if (n) memcpy(copy, p, n);
  return copy;
}

/* Numbers that depend on nothing but the seed. */
static inline uint32_t fuzz_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

#endif
