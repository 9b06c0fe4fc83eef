/* The loop and the course of a measurement; see load.h.
 * What this is not: it knows nothing of what the connections carry. */
#include <errno.h>
#include <inttypes.h>
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

/* What was counted while messages were. */
struct result {
  struct histogram times;
  struct cpu cpu;
  double seconds;
};

static void print_result(const struct load *l, const struct result *r) {
  const struct histogram *h = &r->times;
  double seconds = r->seconds;
  double rate = (double)h->total / seconds;
  printf("conns=%d depth=%d size=%zu seconds=%.3f messages=%llu messages_per_s=%.0f "
         "mb_per_s=%.1f p50_us=%.1f p99_us=%.1f p999_us=%.1f max_us=%.1f total=%llu",
         l->conns, l->depth, l->pattern.size, seconds, (unsigned long long)h->total, rate,
         rate * (double)l->pattern.size / 1e6, histogram_us(h, 0.5), histogram_us(h, 0.99),
         histogram_us(h, 0.999), (double)h->max / 1e3, (unsigned long long)l->total);
  if (l->pid) printf(" cpu_ns=%" PRId64 " waited_ns=%" PRId64, r->cpu.ran, r->cpu.waited);
  if (l->tick) printf(" lost=%llu", (unsigned long long)l->lost);
  printf("\n");
}

static struct cpu cpu_of_server(const struct load *l) {
  return l->pid ? read_cpu(l->pid) : (struct cpu){0, 0};
}

static struct result count(struct load *l) {
  struct cpu before = cpu_of_server(l);
  uint64_t begin = now_ns();
  memset(&l->times, 0, sizeof l->times);
  loop_until(l, begin + to_ns(l->seconds));
  double seconds = (double)(l->now - begin) / 1e9;
  struct cpu after = cpu_of_server(l);
  return (struct result){
      .times = l->times,
      .cpu = {.ran = after.ran - before.ran, .waited = after.waited - before.waited},
      .seconds = seconds};
}

void measure(struct load *l) {
  l->now = now_ns();
  loop_until(l, l->now + to_ns(l->seconds < WARM_UP ? l->seconds : WARM_UP));
  struct result counted = count(l);
  drain(l);
  print_result(l, &counted);
}
