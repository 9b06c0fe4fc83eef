/* Every deadline of the library: a heap of intrusive timers ordered by (due, sequence), so
 * that timers due at the same instant fire in the order in which they were armed.
 *
 * What this is not: it knows no clock and calls nobody; the turn asks what is due. */
#ifndef LUNEWIRE_TIMER_H
#define LUNEWIRE_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timer {
  double due;   /* seconds on the world's clock; meaningful while armed */
  uint32_t seq; /* modulo 2^32 */
  uint32_t at;  /* 1 + its index in the heap; 0: not armed */
  void (*fire)(struct timer *);
};

/* All zero is an empty heap. */
struct timers {
  struct timer **heap;
  size_t n, cap;
  uint32_t seq;
};

static inline bool timer_armed(const struct timer *t) { return t->at != 0; }

/* Arms, or moves an armed timer. 0, or ERR_NOMEM (never when it was armed) with nothing
 * changed. */
int timers_arm(struct timers *ts, struct timer *t, double due);

/* Harmless when not armed. */
void timers_disarm(struct timers *ts, struct timer *t);

/* When the first one is due; INFINITY without any. */
double timers_next(const struct timers *ts);

/* Takes the first timer with due <= now out of the heap; NULL: none. */
struct timer *timers_pop(struct timers *ts, double now);

/* Frees the heap; the timers belong to their owners and are left disarmed. */
void timers_fini(struct timers *ts);

#endif
