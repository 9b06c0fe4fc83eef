/* What the two halves of framing share: see framing.h.
 * What this is not: for anybody else. */
#ifndef LUNEWIRE_FRAMING_INTERNAL_H
#define LUNEWIRE_FRAMING_INTERNAL_H

#include <string.h>

#include "err.h"
#include "framing.h"

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static inline int found(struct cut *cut, size_t at, size_t len, size_t take) {
  *cut = (struct cut){at, len, take};
  return 0;
}

static inline int not_yet(struct scan *s, size_t need, bool ended) {
  if (ended) return ERR_EOF;
  s->need = need;
  return ERR_AGAIN;
}

static inline char *put(char *out, const char *data, size_t n) {
  if (n) memcpy(out, data, n);
  return out + n;
}

/* framing_counted.c: the same for the counted kinds as the functions of framing.h */
int counted_cut(const struct framing *f, struct scan *s, const char *p, size_t n, bool ended,
                struct cut *cut);
void length_header(const struct framing *f, size_t n, const char *head, char *out);
int counted_size(const struct framing *f, size_t n, size_t *total);
void counted_encode(const struct framing *f, const char *data, size_t n, const char *head,
                    char *out);

#endif
