/* The heap of timers: see timer.h.
 *
 * A binary heap of pointers; each timer knows its place, so that moving and disarming cost
 * O(log n) and never a search.
 * What this is not: a wheel; a deadline is exact. */
#include "timer.h"

#include <math.h>
#include <stdlib.h>

#include "err.h"

enum { FIRST_CAP = 16 };

/* Armed for the same instant: half the numbers are later than a given one. */
static bool armed_before(const struct timer *a, const struct timer *b) {
  return (int32_t)(a->seq - b->seq) < 0;
}

static bool fires_before(const struct timer *a, const struct timer *b) {
  return a->due < b->due || (a->due == b->due && armed_before(a, b));
}

static void heap_put(struct timers *ts, size_t i, struct timer *t) {
  ts->heap[i] = t;
  t->at = (uint32_t)(i + 1);
}

/* t belongs at i or nearer to the top: the later ones on the way step down. */
static size_t sift_up(struct timers *ts, size_t i, const struct timer *t) {
  while (i > 0) {
    size_t parent = (i - 1) / 2;
    if (!fires_before(t, ts->heap[parent])) break;
    heap_put(ts, i, ts->heap[parent]);
    i = parent;
  }
  return i;
}

/* t belongs at i or further down: the earlier ones on the way step up. */
static size_t sift_down(struct timers *ts, size_t i, const struct timer *t) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= ts->n) break;
    if (child + 1 < ts->n && fires_before(ts->heap[child + 1], ts->heap[child])) child++;
    if (!fires_before(ts->heap[child], t)) break;
    heap_put(ts, i, ts->heap[child]);
    i = child;
  }
  return i;
}

/* Puts t where it belongs, place i being free. */
static void heap_settle(struct timers *ts, size_t i, struct timer *t) {
  i = sift_up(ts, i, t);
  heap_put(ts, sift_down(ts, i, t), t);
}

static int heap_grow(struct timers *ts) {
  size_t cap = ts->cap ? 2 * ts->cap : FIRST_CAP;
  if (cap > PTRDIFF_MAX / sizeof *ts->heap || cap > UINT32_MAX) return ERR_NOMEM;
  struct timer **heap = realloc(ts->heap, cap * sizeof *heap);
  if (!heap) return ERR_NOMEM;
  ts->heap = heap;
  ts->cap = cap;
  return 0;
}

int timers_arm(struct timers *ts, struct timer *t, double due) {
  if (!timer_armed(t)) {
    if (ts->n == ts->cap && heap_grow(ts) != 0) return ERR_NOMEM;
    t->at = (uint32_t)++ts->n;
  }
  t->due = due;
  t->seq = ++ts->seq;
  heap_settle(ts, t->at - 1, t);
  return 0;
}

void timers_disarm(struct timers *ts, struct timer *t) {
  if (!timer_armed(t)) return;
  size_t hole = t->at - 1;
  struct timer *last = ts->heap[--ts->n];
  t->at = 0;
  if (last != t) heap_settle(ts, hole, last);
}

double timers_next(const struct timers *ts) { return ts->n ? ts->heap[0]->due : INFINITY; }

struct timer *timers_pop(struct timers *ts, double now) {
  if (ts->n == 0 || ts->heap[0]->due > now) return NULL;
  struct timer *t = ts->heap[0];
  timers_disarm(ts, t);
  return t;
}

void timers_fini(struct timers *ts) {
  for (size_t i = 0; i < ts->n; i++) ts->heap[i]->at = 0;
  free(ts->heap);
  *ts = (struct timers){0};
}
