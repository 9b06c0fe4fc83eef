/* Bytes delivered to a framing in pieces: what it answers must not depend on where they are cut.
 * What this is not: it knows no kind of framing. */
#ifndef LUNEWIRE_FRAMING_PROBE_H
#define LUNEWIRE_FRAMING_PROBE_H

#include <stdlib.h>
#include <string.h>

#include "../../csrc/core/err.h"
#include "../../csrc/core/framing.h"
#include "test.h"

/* One answer of framing_cut; the last one of a stream has a code. */
struct answer {
  int code;
  struct cut cut;
};

enum { ANSWERS = 32 };

struct answers {
  struct answer list[ANSWERS];
  size_t n;
};

static inline bool answers_equal(const struct answers *a, const struct answers *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++) {
    const struct answer *x = &a->list[i], *y = &b->list[i];
    if (x->code != y->code || x->cut.at != y->cut.at || x->cut.len != y->cut.len ||
        x->cut.take != y->cut.take)
      return false;
  }
  return true;
}

/* Asks about a copy of exactly n bytes, so that the sanitizer sees a byte too far. */
static inline struct answer ask(const struct framing *f, struct scan *s, const char *p, size_t n,
                                bool ended) {
  struct answer a = {0};
  char *copy = n ? malloc(n) : NULL;
  if (n) memcpy(copy, p, n);
  a.code = framing_cut(f, s, copy, n, ended, &a.cut);
  free(copy);
  return a;
}

/* need: more than there is, not more than completes the message that is to come. */
static inline void check_need(const struct framing *f, size_t need, const char *p, size_t n,
                              size_t whole) {
  struct answer a = ask(f, &(struct scan){0}, p, whole, false);
  CHECK(need > n);
  CHECK(a.code != 0 || need <= a.cut.take);
}

struct stream {
  const struct framing *f;
  const char *p;
  size_t n, at;
  struct scan scan;
  struct answers got;
};

/* Takes every message in the bytes before `end`. false: the stream is over. */
static inline bool take_all(struct stream *st, size_t end, bool ended) {
  while (st->got.n < ANSWERS) {
    struct answer a = ask(st->f, &st->scan, st->p + st->at, end - st->at, ended);
    if (a.code == ERR_AGAIN) {
      check_need(st->f, st->scan.need, st->p + st->at, end - st->at, st->n - st->at);
      return true;
    }
    st->got.list[st->got.n++] = a;
    if (a.code) return false;
    st->at += a.cut.take;
    st->scan = (struct scan){0};
  }
  return false;
}

/* Bit i of `cuts`: a read ends behind byte i. */
static inline struct answers deliver(const struct framing *f, const char *p, size_t n,
                                     uint32_t cuts) {
  struct stream st = {.f = f, .p = p, .n = n};
  bool on = true;
  for (size_t end = 1; on && end < n; end++)
    if (cuts >> (end - 1) & 1) on = take_all(&st, end, false);
  if (on) take_all(&st, n, true);
  return st.got;
}

static inline void check_every_split(const struct framing *f, const char *p, size_t n) {
  struct answers whole = deliver(f, p, n, 0);
  for (uint32_t cuts = 1; cuts < 1u << (n ? n - 1 : 0); cuts++) {
    struct answers pieces = deliver(f, p, n, cuts);
    CHECK(answers_equal(&whole, &pieces));
  }
}

/* For streams too long for every split: each one cut, bytes one by one, and cuts at random. */
static inline void check_many_splits(const struct framing *f, const char *p, size_t n) {
  struct answers whole = deliver(f, p, n, 0);
  uint32_t state = 1;
  for (unsigned i = 0; i < 300; i++) {
    uint32_t cuts = i == 0 ? UINT32_MAX : i < n ? 1u << (i - 1) : test_random(&state);
    struct answers pieces = deliver(f, p, n, cuts);
    CHECK(answers_equal(&whole, &pieces));
  }
}

#endif
