/* Links: what a socket and a pipe promise alike, and a link over them that misbehaves. */

#include "link_fault.h"
#include "probe.h"

enum { BIG = 256 * 1024, LEAST_ROOM = 64 * 1024 };

static struct fault_plan plan;
static struct fault_tally tally;

static void put_fault(struct world *w, struct probe *p) {
  struct link *l = NULL;
  REQUIRE(link_fault_open(w, p->link, &plan, 1, &tally, NULL, &l) == 0);
  probe_watch(p, l);
}

static void fault_pair(struct world *w, struct probe *a, struct probe *b) {
  probe_pair(w, a, b);
  put_fault(w, a);
  put_fault(w, b);
}

static void fault_pipe(struct world *w, struct probe *a, struct probe *b) {
  probe_pipe(w, a, b);
  put_fault(w, a);
  put_fault(w, b);
}

/* The faults are those with which a call still does all that it can. */
static void over_all(probe_scenario *scenario) {
  probe_run(probe_pair, scenario);
  probe_run(probe_pipe, scenario);
  for (unsigned late = 0; late <= 3; late += 3) {
    plan = FAULT_NOTHING;
    plan.late_polls = late;
    probe_run(fault_pair, scenario);
    probe_run(fault_pipe, scenario);
  }
}

static void await_in(struct world *w, struct probe *p) {
  probe_want(p, LINK_IN);
  AWAIT(w, p->seen & LINK_IN);
}

static void echo(struct world *w, struct probe *a, struct probe *b) {
  char none[8];
  CHECK_EQ(a->link->ops->state(a->link), 0);
  CHECK_EQ(probe_read(a, none, sizeof none), ERR_AGAIN);
  CHECK_EQ(probe_send(a, "ping"), 4);
  await_in(w, b);
  CHECK_READ(b, "ping");
  CHECK_EQ(probe_read(b, none, sizeof none), ERR_AGAIN);
  CHECK_EQ(probe_send(b, "pong!"), 5);
  await_in(w, a);
  CHECK_READ(a, "pong!");
  probe_close_both(a, b);
}

TEST(bytes_travel_both_ways) { over_all(echo); }

static void gather(struct world *w, struct probe *a, struct probe *b) {
  struct iovec v[] = {{(void *)(uintptr_t) "one", 3}, {NULL, 0}, {(void *)(uintptr_t) "two", 3}};
  CHECK_EQ(a->link->ops->write(a->link, v, 3), 6);
  await_in(w, b);
  CHECK_READ(b, "onetwo");
  probe_close_both(a, b);
}

TEST(a_vector_arrives_in_order) { over_all(gather); }

static void repeat_reports(struct world *w, struct probe *a, struct probe *b) {
  char one;
  probe_want(b, LINK_IN);
  CHECK_EQ(probe_send(a, "xy"), 2);
  CHECK_EQ(b->reports, 0);
  AWAIT(w, b->reports >= 3);
  CHECK_EQ(b->seen, LINK_IN);
  CHECK_EQ(probe_read(b, &one, 1), 1);
  b->reports = 0;
  AWAIT(w, b->reports >= 2);
  probe_want(b, 0);
  for (int i = 0; i < 3; i++) w->ops->poll(w, w->ops->now(w));
  CHECK_EQ(b->reports, 0);
  probe_want(b, LINK_IN | LINK_OUT);
  AWAIT(w, b->seen == (LINK_IN | LINK_OUT));
  probe_close_both(a, b);
}

TEST(reports_repeat_while_it_is_so_and_wanted) { over_all(repeat_reports); }

static void drain(struct world *w, struct probe *p, size_t total) {
  static char sink[BIG];
  probe_want(p, LINK_IN);
  while (total > 0) {
    ptrdiff_t r = probe_read(p, sink, sizeof sink);
    if (r == ERR_AGAIN) {
      w->ops->poll(w, w->ops->now(w) + 1);
      continue;
    }
    REQUIRE(r > 0 && (size_t)r <= total);
    total -= (size_t)r;
  }
  probe_want(p, 0);
}

static void back_pressure(struct world *w, struct probe *a, struct probe *b) {
  size_t total = probe_fill(a, BIG);
  CHECK(total >= LEAST_ROOM);
  probe_want(a, LINK_OUT);
  w->ops->poll(w, w->ops->now(w));
  CHECK_EQ(a->reports, 0);
  drain(w, b, total);
  AWAIT(w, a->seen == LINK_OUT);
  CHECK_EQ(probe_send(a, "more"), 4);
  probe_close_both(a, b);
}

TEST(a_full_link_takes_more_once_the_peer_has_read) { over_all(back_pressure); }

static void half_close(struct world *w, struct probe *a, struct probe *b) {
  char c;
  CHECK_EQ(probe_send(a, "last"), 4);
  CHECK_EQ(a->link->ops->shut(a->link), 0);
  CHECK_EQ(a->link->ops->shut(a->link), 0);
  CHECK_EQ(probe_send(a, "x"), ERR_PIPE);
  await_in(w, b);
  CHECK_READ(b, "last");
  await_in(w, b);
  CHECK_EQ(probe_read(b, &c, 1), 0);
  CHECK_EQ(probe_read(b, &c, 1), 0);
  CHECK_EQ(probe_send(b, "answer"), 6);
  CHECK_EQ(b->link->ops->shut(b->link), 0);
  await_in(w, a);
  CHECK_READ(a, "answer");
  await_in(w, a);
  CHECK_EQ(probe_read(a, &c, 1), 0);
  AWAIT(w, a->link->ops->in_flight(a->link) == 0);
  AWAIT(w, b->link->ops->in_flight(b->link) == 0);
  probe_close_both(a, b);
}

TEST(each_direction_ends_by_itself) { over_all(half_close); }

static void eof_after_close(struct world *w, struct probe *a, struct probe *b) {
  char c;
  CHECK_EQ(probe_send(a, "bye"), 3);
  probe_close(a, false);
  CHECK_EQ(a->ended, 0);
  AWAIT(w, a->ended == 1);
  await_in(w, b);
  CHECK_READ(b, "bye");
  await_in(w, b);
  CHECK_EQ(probe_read(b, &c, 1), 0);
  AWAIT(w, probe_send(b, "x") == ERR_PIPE);
  probe_close(b, false);
}

TEST(what_was_written_before_a_close_is_read_before_the_end) { over_all(eof_after_close); }

static void reset_after_data(struct world *w, struct probe *a, struct probe *b) {
  char c;
  CHECK_EQ(probe_send(a, "data"), 4);
  AWAIT(w, a->link->ops->in_flight(a->link) == 0);
  probe_close(a, true);
  probe_want(b, LINK_IN);
  AWAIT(w, b->reports >= 3);
  CHECK_READ(b, "data");
  b->reports = 0;
  AWAIT(w, b->reports >= 3);
  CHECK_EQ(probe_read(b, &c, 1), ERR_RESET);
  CHECK_EQ(probe_read(b, &c, 1), ERR_RESET);
  CHECK_EQ(probe_send(b, "x"), ERR_RESET);
  CHECK(b->link->ops->shut(b->link) != 0);
  probe_close(b, false);
}

TEST(bytes_before_a_reset_are_read_before_it) { over_all(reset_after_data); }

/* The write is told first; the system then shows the reader an orderly end. */
static void reset_seen_by_write(struct world *w, struct probe *a, struct probe *b) {
  char c;
  probe_want(b, LINK_OUT);
  AWAIT(w, b->reports);
  probe_want(b, 0);
  CHECK_EQ(probe_send(a, "data"), 4);
  AWAIT(w, a->link->ops->in_flight(a->link) == 0);
  probe_close(a, true);
  probe_want(b, LINK_IN);
  AWAIT(w, b->reports >= 3);
  AWAIT(w, probe_send(b, "x") == ERR_RESET);
  CHECK_EQ(probe_send(b, "x"), ERR_RESET);
  probe_want(b, LINK_OUT);
  AWAIT(w, b->reports >= 3 && b->seen == LINK_OUT);
  CHECK_READ(b, "data");
  CHECK_EQ(probe_read(b, &c, 1), ERR_RESET);
  probe_close(b, true);
}

TEST(a_reset_that_a_write_saw_is_a_reset_for_the_reader_too) { over_all(reset_seen_by_write); }

static void close_itself(struct probe *p) { probe_close(p, false); }

static void close_in_ready(struct world *w, struct probe *a, struct probe *b) {
  b->hook = close_itself;
  probe_want(b, LINK_IN | LINK_OUT);
  CHECK_EQ(probe_send(a, "x"), 1);
  AWAIT(w, b->ended == 1);
  CHECK_EQ(b->reports, 1);
  w->ops->poll(w, w->ops->now(w));
  CHECK_EQ(b->ended, 1);
  probe_close(a, false);
}

TEST(ready_may_close_its_own_link) { over_all(close_in_ready); }

static struct probe *victim;

static void close_victim(struct probe *p) {
  p->link->ops->want(p->link, 0);
  if (!victim) return;
  probe_close(victim, true);
  victim = NULL;
}

/* Both are ready in the same poll; whoever is told first silences the other. */
static void close_other(struct world *w, struct probe *a, struct probe *b) {
  CHECK_EQ(probe_send(a, "x"), 1);
  CHECK_EQ(probe_send(b, "x"), 1);
  AWAIT(w, a->link->ops->in_flight(a->link) == 0 && b->link->ops->in_flight(b->link) == 0);
  a->hook = close_victim;
  victim = b;
  probe_want(a, LINK_IN);
  probe_want(b, LINK_OUT);
  b->hook = NULL;
  AWAIT(w, a->reports > 0);
  unsigned before = b->reports;
  AWAIT(w, b->ended == 1);
  CHECK_EQ(b->reports, before);
  probe_close(a, false);
}

TEST(a_closed_link_reports_no_more) { over_all(close_other); }

static void close_unwanted(struct world *w, struct probe *a, struct probe *b) {
  a->link->closed = NULL;
  b->link->ready = NULL;
  probe_close_both(a, b);
  AWAIT(w, b->ended == 1);
  CHECK_EQ(a->ended, 0);
}

TEST(a_link_nobody_watches_closes_silently) { over_all(close_unwanted); }

static void free_orders(struct world *w, struct probe *a, struct probe *b) {
  probe_close(b, false);
  AWAIT(w, b->ended == 1);
  CHECK_EQ(w->ops->open(w), 1);
  probe_close(a, true);
  CHECK_EQ(w->ops->open(w), 1);
  AWAIT(w, a->ended == 1);
}

TEST(either_end_may_be_freed_first) { over_all(free_orders); }
