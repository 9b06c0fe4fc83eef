/* The loop and the course of a measurement; see load.h.
 * What this is not: it knows nothing of what the connections carry. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "load.h"

enum { EVENTS = 256 }; /* reports taken at once */

/* Seconds before counting begins, or as many as are counted if those are fewer. */
static const double WARM_UP = 0.2;

void loop_open(struct load *l) {
  l->epoll = epoll_create1(0);
  if (l->epoll < 0) die("epoll_create1: %s", strerror(errno));
  l->heard = now_ns();
}

void loop_watch(struct load *l, int how, int fd, uint32_t events, void *who) {
  struct epoll_event e = {.events = events, .data.ptr = who};
  if (epoll_ctl(l->epoll, how, fd, &e) != 0) die("epoll_ctl: %s", strerror(errno));
}

static void check_patience(const struct load *l) {
  if (l->now - l->heard > to_ns(l->patience)) die("no reply for %g s", l->patience);
}

void loop_turn(struct load *l) {
  struct epoll_event events[EVENTS];
  int n = epoll_wait(l->epoll, events, EVENTS, TICK_MS);
  if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
  l->now = now_ns();
  for (int i = 0; i < n; i++) l->serve(l, events[i].data.ptr, events[i].events);
  if (n > 0) l->heard = l->now;
  if (n == 0) check_patience(l);
  if (l->tick) l->tick(l);
}

static void loop_until(struct load *l, uint64_t end) {
  while (l->now < end) loop_turn(l);
}

static void drain(struct load *l) {
  l->phase = DRAINING;
  while (!l->is_drained(l)) loop_turn(l);
}

static void print_result(const struct load *l, const struct histogram *h, double seconds) {
  double rate = (double)h->total / seconds;
  printf("conns=%d depth=%d size=%zu seconds=%.3f messages=%llu messages_per_s=%.0f "
         "mb_per_s=%.1f p50_us=%.1f p99_us=%.1f p999_us=%.1f max_us=%.1f total=%llu",
         l->conns, l->depth, l->pattern.size, seconds, (unsigned long long)h->total, rate,
         rate * (double)l->pattern.size / 1e6, histogram_us(h, 0.5), histogram_us(h, 0.99),
         histogram_us(h, 0.999), (double)h->max / 1e3, (unsigned long long)l->total);
  if (l->tick) printf(" lost=%llu", (unsigned long long)l->lost);
  printf("\n");
}

void measure(struct load *l) {
  l->now = now_ns();
  loop_until(l, l->now + to_ns(l->seconds < WARM_UP ? l->seconds : WARM_UP));
  memset(&l->times, 0, sizeof l->times);
  uint64_t begin = l->now;
  loop_until(l, begin + to_ns(l->seconds));
  double seconds = (double)(l->now - begin) / 1e9;
  struct histogram counted = l->times;
  drain(l);
  print_result(l, &counted, seconds);
}
