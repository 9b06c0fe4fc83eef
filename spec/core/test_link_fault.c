/* The link that misbehaves: that it does, that it keeps the contract of links all the same, and
 * that no byte is lost.  What this is not: a test of the library above it (make test-faults). */
#include <math.h>

#include "link_fault.h"
#include "probe.h"

enum { PLENTY = 300 * 1000 };

static struct fault_tally tally;
static struct fault_plan plan;
static struct fault_sleepers sleepers;

static void misbehave(struct world *w, struct probe *p) {
  struct link *l = NULL;
  REQUIRE(link_fault_open(w, p->link, &plan, 7, &tally, NULL, &l) == 0);
  probe_watch(p, l);
}

static void fault_pair(struct world *w, struct probe *a, struct probe *b) {
  probe_pair(w, a, b);
  misbehave(w, a);
  misbehave(w, b);
}

static void fault_pipe(struct world *w, struct probe *a, struct probe *b) {
  probe_pipe(w, a, b);
  misbehave(w, a);
  misbehave(w, b);
}

static void over_both(struct fault_plan p, probe_scenario *scenario) {
  plan = p;
  tally = (struct fault_tally){0};
  probe_run(fault_pair, scenario);
  probe_run(fault_pipe, scenario);
}

/* ---- bytes that find their way --------------------------------------------------- */

static char pattern(size_t at) { return (char)(at * 7 + at / 251); }

static size_t write_on(struct probe *p, size_t at, size_t end) {
  static char data[PLENTY];
  for (size_t i = 0; i < PLENTY && data[1] == 0; i++)
    data[PLENTY - 1 - i] = pattern(PLENTY - 1 - i);
  struct iovec v[] = {{data + at, (end - at) / 2}, {NULL, 0}, {data + at + (end - at) / 2, 0}};
  v[2].iov_len = end - at - v[0].iov_len;
  ptrdiff_t r = p->link->ops->write(p->link, v, 3);
  CHECK(r > 0 || r == ERR_AGAIN);
  return r > 0 ? (size_t)r : 0;
}

static size_t read_on(struct probe *p, size_t at, bool *end) {
  static char data[8192];
  ptrdiff_t r = probe_read(p, data, sizeof data);
  *end = r == 0;
  CHECK(r >= 0 || r == ERR_AGAIN);
  for (ptrdiff_t i = 0; i < r; i++)
    if (!test_true(data[i] == pattern(at + (size_t)i), __FILE__, __LINE__, "the same byte")) break;
  return r > 0 ? (size_t)r : 0;
}

/* Each side acts on a report only, as the contract has it, and once for each. */
static void stream(struct world *w, struct probe *a, struct probe *b) {
  size_t out = 0, in = 0;
  double limit = w->ops->now(w) + 10;
  bool end = false;
  probe_want(a, LINK_OUT);
  probe_want(b, LINK_IN);
  while (!end && w->ops->now(w) < limit) {
    w->ops->poll(w, w->ops->now(w) + 1);
    if (a->reports && out < PLENTY) out += write_on(a, out, PLENTY);
    if (b->reports) in += read_on(b, in, &end);
    a->reports = b->reports = 0;
    if (out < PLENTY) continue;
    a->link->ops->want(a->link, 0);
    CHECK_EQ(a->link->ops->shut(a->link), 0);
  }
  CHECK_EQ(in, PLENTY);
  CHECK_EQ(probe_read(b, &end, 1), 0);
  probe_close_both(a, b);
}

static struct fault_plan plan_of(unsigned reads, unsigned writes, unsigned again, unsigned late) {
  struct fault_plan p = FAULT_NOTHING;
  p.read_most = reads;
  p.write_most = writes;
  p.again = again;
  p.late_polls = late;
  return p;
}

TEST(a_link_without_faults_is_the_link_below) {
  over_both(FAULT_NOTHING, stream);
  CHECK_EQ(tally.links, 4);
  CHECK_EQ(tally.reads + tally.writes + tally.agains + tally.lates + tally.resets, 0);
}

TEST(reads_of_a_byte_lose_nothing) {
  over_both(plan_of(1, 0, 0, 0), stream);
  CHECK(tally.reads > 4 * 1024);
}

TEST(reads_of_any_size_lose_nothing) {
  over_both(plan_of(500, 0, 0, 0), stream);
  CHECK(tally.reads > 100);
}

TEST(writes_of_a_byte_lose_nothing) {
  over_both(plan_of(0, 1, 0, 0), stream);
  CHECK(tally.writes > 4 * 1024);
}

TEST(storms_of_again_end) {
  over_both(plan_of(0, 0, 4, 0), stream);
  CHECK(tally.agains > 10);
}

TEST(late_reports_come) {
  over_both(plan_of(0, 0, 0, 5), stream);
  CHECK(tally.lates > 10);
}

TEST(all_faults_together_lose_nothing) {
  over_both(plan_of(3000, 3000, 4, 5), stream);
  CHECK(tally.reads > 0 && tally.writes > 0 && tally.agains > 0 && tally.lates > 0);
}

/* ---- single calls ---------------------------------------------------------------- */

static void one_byte(struct world *w, struct probe *a, struct probe *b) {
  CHECK_EQ(probe_send(a, "abc"), 1);
  CHECK_EQ(probe_send(a, "bc"), 1);
  probe_want(b, LINK_IN);
  AWAIT(w, b->reports);
  CHECK_READ(b, "a");
  b->reports = 0;
  AWAIT(w, b->reports); /* though fewer came than were asked for, and none came since */
  CHECK_READ(b, "b");
  probe_close_both(a, b);
}

TEST(what_a_short_read_left_is_reported_again) { over_both(plan_of(1, 1, 0, 0), one_byte); }

static void storm(struct world *w, struct probe *a, struct probe *b) {
  char c;
  unsigned agains = 0;
  CHECK_EQ(probe_read(b, &c, 1), ERR_AGAIN);
  AWAIT(w, probe_send(a, "x") == 1);
  AWAIT(w, a->link->ops->in_flight(a->link) == 0);
  probe_want(b, LINK_IN);
  do {
    b->reports = 0;
    AWAIT(w, b->reports);
  } while (probe_read(b, &c, 1) == ERR_AGAIN && agains++ < 100);
  CHECK(agains <= 8);
  probe_close_both(a, b);
}

TEST(after_each_again_comes_a_report) { over_both(plan_of(0, 0, 8, 0), storm); }

/* ---- reports that are late by time ----------------------------------------------- */

/* -> did it sleep, as some do? */
static bool sleeps(uint32_t seed) {
  struct world *w = probe_world();
  struct probe a, b;
  struct link *l = NULL;
  plan = plan_of(0, 0, 0, 1);
  plan.late = 0.02;
  probe_pair(w, &a, &b);
  CHECK_EQ(link_fault_open(w, b.link, &plan, seed, &tally, &sleepers, &l), 0);
  probe_watch(&b, l);
  probe_want(&b, LINK_IN);
  CHECK_EQ(probe_send(&a, "x"), 1);
  AWAIT(w, b.reports || sleepers.first);
  double due = fault_sleepers_next(&sleepers);
  for (int polls = 0; polls < 10 && !b.reports; polls++) {
    w->ops->poll(w, due);
    CHECK(!b.reports);
    fault_sleepers_wake(&sleepers, w->ops->now(w));
    if (!sleepers.first) AWAIT(w, b.reports);
  }
  CHECK(b.reports > 0);
  CHECK(due == INFINITY || w->ops->now(w) >= due);
  probe_close_both(&a, &b);
  CHECK(!sleepers.first);
  probe_world_end(w);
  return due < INFINITY;
}

TEST(a_report_sleeps_until_its_time) {
  uint32_t seed = 1;
  while (seed < 50 && !sleeps(seed)) seed++;
  CHECK(seed < 50);
}

static void close_late(struct world *w, struct probe *a, struct probe *b) {
  CHECK_EQ(probe_send(a, "x"), 1);
  CHECK_EQ(probe_send(b, "x"), 1);
  probe_want(b, LINK_IN);
  w->ops->poll(w, w->ops->now(w) + 1);
  probe_close_both(a, b);
  unsigned before = b->reports;
  AWAIT(w, b->ended == 1);
  CHECK_EQ(b->reports, before);
}

TEST(a_closed_link_forgets_its_late_report) { over_both(plan_of(0, 0, 0, 9), close_late); }

/* ---- resets ---------------------------------------------------------------------- */

static void check_broken(struct world *w, struct probe *p) {
  struct addr name;
  char c;
  probe_want(p, LINK_IN | LINK_OUT);
  AWAIT(w, p->reports >= 3 && p->seen == (LINK_IN | LINK_OUT));
  CHECK_EQ(probe_read(p, &c, 1), ERR_RESET);
  CHECK_EQ(probe_send(p, "x"), ERR_RESET);
  CHECK_EQ(p->link->ops->shut(p->link), ERR_RESET);
  CHECK_EQ(p->link->ops->in_flight(p->link), 0);
  CHECK_EQ(p->link->ops->name(p->link, true, &name), 0);
  CHECK_EQ(tally.resets, 1);
}

static struct probe *breaks; /* the end that does */

static void break_one(struct world *w, probe_opener *open, struct fault_plan p, bool first,
                      struct probe *a, struct probe *b) {
  plan = p;
  tally = (struct fault_tally){0};
  open(w, a, b);
  breaks = first ? a : b;
  misbehave(w, breaks);
}

static void reset_by_read(probe_opener *open) {
  struct world *w = probe_world();
  struct probe a, b;
  char got[8];
  struct fault_plan p = FAULT_NOTHING;
  p.reset_in = 3;
  break_one(w, open, p, false, &a, &b);
  CHECK_EQ(probe_send(&a, "abcde"), 5);
  probe_want(&b, LINK_IN);
  AWAIT(w, b.reports);
  CHECK_EQ(probe_read(&b, got, sizeof got), 3);
  check_broken(w, &b);
  AWAIT(w, probe_read(&a, got, 1) == ERR_RESET);
  probe_close_both(&a, &b);
  probe_world_end(w);
}

TEST(it_breaks_once_so_many_bytes_were_read) {
  reset_by_read(probe_pair);
  reset_by_read(probe_pipe);
}

static void reset_by_write(probe_opener *open) {
  struct world *w = probe_world();
  struct probe a, b;
  char c;
  struct fault_plan p = FAULT_NOTHING;
  p.reset_out = 3;
  break_one(w, open, p, true, &a, &b);
  CHECK_EQ(probe_send(&a, "abcde"), 3);
  probe_want(&b, LINK_IN);
  AWAIT(w, b.reports);
  CHECK_READ(&b, "abc");
  AWAIT(w, probe_read(&b, &c, 1) == ERR_RESET);
  check_broken(w, &a);
  probe_close_both(&a, &b);
  probe_world_end(w);
}

TEST(it_breaks_once_so_many_bytes_were_written_and_have_arrived) {
  reset_by_write(probe_pair);
  reset_by_write(probe_pipe);
}

static void broken_and_closed(probe_opener *open, bool at_once) {
  struct world *w = probe_world();
  struct probe a, b;
  struct fault_plan p = FAULT_NOTHING;
  p.reset_in = 0;
  break_one(w, open, p, true, &a, &b);
  probe_want(&a, LINK_IN);
  if (!at_once) AWAIT(w, w->ops->open(w) == 1);
  probe_close(&a, false);
  AWAIT(w, a.ended == 1);
  probe_close(&b, false);
  probe_world_end(w);
}

TEST(a_broken_link_closes_before_and_after_the_one_below_is_gone) {
  broken_and_closed(probe_pair, true);
  broken_and_closed(probe_pair, false);
  broken_and_closed(probe_pipe, true);
  broken_and_closed(probe_pipe, false);
}
