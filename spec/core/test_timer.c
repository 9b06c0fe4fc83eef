/* The heap of timers against a list that is searched.
 *
 * What this is not: a test of time; the clock is a number here. */
#include "../../csrc/core/timer.h"

#include <math.h>
#include <stdlib.h>

#include "../../csrc/core/err.h"
#include "test.h"

enum { MANY = 200, STEPS = 10000 };

static bool heap_is_sound(const struct timers *ts) {
  for (size_t i = 0; i < ts->n; i++) {
    const struct timer *t = ts->heap[i], *up = ts->heap[i ? (i - 1) / 2 : 0];
    if (t->at != i + 1 || up->due > t->due || (up->due == t->due && up->seq > t->seq)) return false;
  }
  return true;
}

/* What should fire first: the earliest; among equals the one armed first. */
static struct timer *expected_first(struct timer *list, const unsigned *order) {
  struct timer *best = NULL;
  for (size_t i = 0; i < MANY; i++) {
    struct timer *t = &list[i];
    if (!timer_armed(t)) continue;
    if (!best || t->due < best->due ||
        (t->due == best->due && order[i] < order[(size_t)(best - list)]))
      best = t;
  }
  return best;
}

TEST(starts_empty) {
  struct timers ts = {0};
  CHECK(isinf(timers_next(&ts)));
  CHECK(timers_pop(&ts, INFINITY) == NULL);
  timers_fini(&ts);
}

TEST(fires_equal_dues_in_the_order_armed) {
  struct timers ts = {0};
  struct timer t[MANY] = {0};
  for (size_t i = 0; i < MANY; i++) CHECK_EQ(timers_arm(&ts, &t[i * 7 % MANY], 5), 0);
  for (size_t i = 0; i < MANY; i++) CHECK(timers_pop(&ts, 5) == &t[i * 7 % MANY]);
  CHECK(timers_pop(&ts, 5) == NULL);
  timers_fini(&ts);
}

TEST(keeps_that_order_when_the_numbers_begin_anew) {
  struct timers ts = {.seq = UINT32_MAX - MANY / 2};
  struct timer t[MANY] = {0};
  for (size_t i = 0; i < MANY; i++) CHECK_EQ(timers_arm(&ts, &t[i], 5), 0);
  CHECK(ts.seq < MANY);
  for (size_t i = 0; i < MANY; i++) CHECK(timers_pop(&ts, 5) == &t[i]);
  timers_fini(&ts);
}

TEST(puts_a_moved_timer_behind_its_equals) {
  struct timers ts = {0};
  struct timer a = {0}, b = {0};
  timers_arm(&ts, &a, 1);
  timers_arm(&ts, &b, 1);
  timers_arm(&ts, &a, 1);
  CHECK(timers_pop(&ts, 1) == &b);
  CHECK(timers_pop(&ts, 1) == &a);
  timers_fini(&ts);
}

TEST(pops_only_what_is_due) {
  struct timers ts = {0};
  struct timer a = {0}, b = {0};
  timers_arm(&ts, &a, 2);
  timers_arm(&ts, &b, INFINITY);
  CHECK(timers_next(&ts) == 2);
  CHECK(timers_pop(&ts, 1.999) == NULL);
  CHECK(timers_pop(&ts, 2) == &a);
  CHECK(!timer_armed(&a));
  CHECK(timers_pop(&ts, 1e300) == NULL);
  timers_disarm(&ts, &a);
  timers_disarm(&ts, &b);
  CHECK_EQ(ts.n, 0);
  timers_fini(&ts);
}

TEST(leaves_timers_disarmed_at_the_end) {
  struct timers ts = {0};
  struct timer t[3] = {0};
  for (size_t i = 0; i < 3; i++) timers_arm(&ts, &t[i], 1);
  timers_fini(&ts);
  for (size_t i = 0; i < 3; i++) CHECK(!timer_armed(&t[i]));
  CHECK_EQ(timers_arm(&ts, &t[0], 1), 0);
  timers_fini(&ts);
}

/* Heaps that cannot grow: no address space is so large, or no object. */
TEST(changes_nothing_without_memory) {
  static const size_t caps[] = {PTRDIFF_MAX / 64, SIZE_MAX / 16};
  for (size_t i = 0; i < 2; i++) {
    struct timers ts = {.n = caps[i], .cap = caps[i]};
    struct timer t = {0};
    CHECK_EQ(timers_arm(&ts, &t, 1), ERR_NOMEM);
    CHECK(!timer_armed(&t));
    CHECK_EQ(ts.n, caps[i]);
  }
}

TEST(agrees_with_a_searched_list) {
  struct timers ts = {0};
  struct timer t[MANY] = {0};
  unsigned order[MANY] = {0}, clock = 0;
  uint32_t rnd = 1;
  for (int step = 0; step < STEPS; step++) {
    size_t i = test_random(&rnd) % MANY;
    struct timer *first;
    switch (test_random(&rnd) % 5) {
    case 0:
      timers_disarm(&ts, &t[i]);
      break;
    case 1:
      first = expected_first(t, order);
      REQUIRE(timers_pop(&ts, INFINITY) == first);
      break;
    default:
      REQUIRE(timers_arm(&ts, &t[i], test_random(&rnd) % 50) == 0);
      order[i] = ++clock;
    }
    first = expected_first(t, order);
    REQUIRE(first ? timers_next(&ts) == first->due : isinf(timers_next(&ts)));
    REQUIRE(heap_is_sound(&ts));
  }
  timers_fini(&ts);
}
