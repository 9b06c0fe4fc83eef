/* Signals of the world on libuv: reports, and what the process does before and afterwards. */
#include <math.h>
#include <signal.h>

#include "probe.h"

struct seen {
  struct signal_watch watch;
  struct world *world;
  int times;
};

static void count(struct signal_watch *w) { ((struct seen *)w->owner)->times++; }

static void stop(struct signal_watch *w) {
  struct seen *s = w->owner;
  s->times++;
  s->world->ops->signal_stop(s->world, w);
}

static void seen_init(struct seen *s, struct world *w, void (*fired)(struct signal_watch *)) {
  *s = (struct seen){.world = w};
  s->watch = (struct signal_watch){.fired = fired, .owner = s};
}

static int start(struct seen *s, int signum, bool once) {
  return s->world->ops->signal_start(s->world, &s->watch, signum, once);
}

static void finish(struct seen *s) { s->world->ops->signal_stop(s->world, &s->watch); }

static void (*action_of(int signum))(int) {
  struct sigaction a;
  CHECK_EQ(sigaction(signum, NULL, &a), 0);
  return a.sa_handler;
}

static void ours(int signum) { (void)signum; }

TEST(each_arrival_of_a_signal_is_reported_to_all) {
  struct world *w = probe_world();
  struct seen a, b;
  seen_init(&a, w, count);
  seen_init(&b, w, count);
  CHECK_EQ(start(&a, SIGUSR1, false), 0);
  CHECK_EQ(start(&b, SIGUSR1, false), 0);
  for (int i = 1; i <= 2; i++) {
    CHECK_EQ(raise(SIGUSR1), 0);
    AWAIT(w, a.times == i && b.times == i);
  }
  finish(&a);
  CHECK_EQ(raise(SIGUSR1), 0);
  AWAIT(w, b.times == 3);
  CHECK_EQ(a.times, 2);
  finish(&b);
  finish(&b);
  probe_world_end(w);
}

TEST(a_signal_keeps_no_poll_waiting) {
  struct world *w = probe_world();
  struct seen s;
  seen_init(&s, w, count);
  CHECK_EQ(start(&s, SIGUSR1, false), 0);
  CHECK(!w->ops->poll(w, INFINITY));
  finish(&s);
  probe_world_end(w);
}

TEST(after_the_only_one_the_default_action_holds) {
  struct world *w = probe_world();
  struct seen s;
  seen_init(&s, w, count);
  CHECK_EQ(start(&s, SIGUSR1, true), 0);
  CHECK(action_of(SIGUSR1) != SIG_DFL);
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK(action_of(SIGUSR1) == SIG_DFL); /* before anybody polled */
  AWAIT(w, s.times == 1);
  finish(&s);
  probe_world_end(w);
}

TEST(what_the_process_did_before_holds_again) {
  struct world *w = probe_world();
  struct seen a, b;
  signal(SIGUSR2, ours);
  seen_init(&a, w, count);
  seen_init(&b, w, count);
  CHECK_EQ(start(&a, SIGUSR2, false), 0);
  CHECK_EQ(start(&b, SIGUSR2, true), 0);
  finish(&a);
  CHECK(action_of(SIGUSR2) != ours);
  finish(&b);
  CHECK(action_of(SIGUSR2) == ours);
  signal(SIGUSR2, SIG_DFL);
  probe_world_end(w);
}

TEST(a_watch_may_stop_itself_when_it_fires) {
  struct world *w = probe_world();
  struct seen s;
  seen_init(&s, w, stop);
  CHECK_EQ(start(&s, SIGUSR1, false), 0);
  CHECK_EQ(raise(SIGUSR1), 0);
  AWAIT(w, s.times == 1);
  CHECK(action_of(SIGUSR1) == SIG_DFL);
  probe_world_end(w);
}

TEST(a_signal_that_cannot_be_caught_is_refused) {
  struct world *w = probe_world();
  struct seen s;
  seen_init(&s, w, count);
  CHECK(start(&s, SIGKILL, false) < 0);
  CHECK(s.watch.handle == NULL);
  probe_world_end(w);
}

TEST(a_world_closes_with_its_watches) {
  struct world *w = probe_world();
  struct seen s;
  seen_init(&s, w, count);
  CHECK_EQ(start(&s, SIGUSR1, false), 0);
  w->ops->close(w);
  CHECK(s.watch.handle == NULL);
  CHECK(action_of(SIGUSR1) == SIG_DFL);
}

/* Two Lua states in one process, say. */
TEST(two_worlds_that_stop_in_the_order_of_their_start_leave_the_default) {
  struct world *w = probe_world(), *other = probe_world();
  struct seen a, b;
  seen_init(&a, w, count);
  seen_init(&b, other, count);
  CHECK_EQ(start(&a, SIGUSR1, false), 0);
  CHECK_EQ(start(&b, SIGUSR1, false), 0);
  finish(&a);
  CHECK(action_of(SIGUSR1) != SIG_DFL);
  finish(&b);
  CHECK(action_of(SIGUSR1) == SIG_DFL);
  probe_world_end(w);
  probe_world_end(other);
}

TEST(a_poll_that_only_looks_sees_signals_though_nothing_is_open) {
  struct world *w = probe_world();
  struct seen s;
  seen_init(&s, w, count);
  CHECK_EQ(start(&s, SIGUSR1, false), 0);
  CHECK_EQ(raise(SIGUSR1), 0);
  for (int i = 0; i < 3; i++) w->ops->poll(w, -INFINITY);
  CHECK_EQ(s.times, 1);
  finish(&s);
  probe_world_end(w);
}
