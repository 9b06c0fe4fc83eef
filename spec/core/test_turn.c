/* The turn: generations of jobs, and waiting. */
#include "turn_probe.h"

enum { LOG_MAX = 32 };

/* ---- jobs ------------------------------------------------------------------------ */

struct errand {
  struct job job;
  struct turn *turn;
  char name, *log;
  struct job *to_queue, *to_remove;
};

static void note(char *log, char name) {
  size_t n = strlen(log);
  if (n + 1 < LOG_MAX) log[n] = name;
}

static void errand_run(struct job *j) {
  struct errand *e = (struct errand *)(void *)j;
  note(e->log, e->name);
  if (e->to_queue) job_queue(e->turn, e->to_queue);
  if (e->to_remove) job_remove(e->turn, e->to_remove);
}

/* Errands with the names a, b, c, ... that share a log. */
static void errands_init(struct errand *es, int n, struct turn *t, char *log) {
  memset(log, 0, LOG_MAX);
  for (int i = 0; i < n; i++)
    es[i] = (struct errand){.job.run = errand_run, .turn = t, .name = (char)('a' + i), .log = log};
}

TEST(jobs_run_in_order_and_once) {
  struct turn t;
  struct errand e[3];
  char log[LOG_MAX];
  turn_open(&t);
  errands_init(e, 3, &t, log);
  const int order[] = {2, 0, 2, 1, 0};
  for (size_t i = 0; i < 5; i++) job_queue(&t, &e[order[i]].job);
  CHECK_STR(log, "");
  CHECK(turn_alive(&t));
  CHECK(turn_step(&t, true));
  CHECK_STR(log, "cab");
  CHECK(!turn_alive(&t));
  CHECK(turn_step(&t, false));
  CHECK_STR(log, "cab");
  turn_end(&t);
}

TEST(a_job_queued_by_a_job_runs_in_the_next_turn) {
  struct turn t;
  struct errand e[3];
  char log[LOG_MAX];
  turn_open(&t);
  errands_init(e, 3, &t, log);
  e[0].to_queue = &e[0].job;
  e[1].to_queue = &e[2].job;
  job_queue(&t, &e[0].job);
  job_queue(&t, &e[1].job);
  turn_step(&t, true);
  CHECK_STR(log, "ab");
  e[0].to_queue = NULL;
  turn_step(&t, true);
  CHECK_STR(log, "abac");
  turn_step(&t, false);
  CHECK_STR(log, "abac");
  turn_end(&t);
}

TEST(a_job_may_remove_the_next_and_the_last) {
  struct turn t;
  struct errand e[3];
  char log[LOG_MAX];
  turn_open(&t);
  errands_init(e, 3, &t, log);
  for (int last = 1; last <= 2; last++) {
    e[0].to_remove = &e[last].job;
    for (int i = 0; i < 3; i++) job_queue(&t, &e[i].job);
    turn_step(&t, true);
  }
  CHECK_STR(log, "acab");
  job_remove(&t, &e[0].job);
  turn_end(&t);
}

TEST(a_turn_that_nothing_can_end_does_not_sleep) {
  struct turn t;
  turn_open(&t);
  CHECK(!turn_step(&t, true));
  CHECK(turn_step(&t, false));
  turn_end(&t);
}

/* ---- places in a queue ----------------------------------------------------------- */

TEST(who_waits_is_served_in_order) {
  struct turn t;
  struct waitq q = {NULL, NULL};
  struct waiter w[3];
  turn_open(&t);
  for (int i = 0; i < 3; i++) {
    waiter_init(&w[i], &t);
    waiter_park(&w[i], &q, INFINITY, true);
  }
  CHECK_EQ(t.waits, 3);
  for (int i = 0; i < 3; i++) {
    CHECK(waitq_open(&q, &w[i].wait));
    if (i == 0) waitq_wake_first(&q);
    CHECK_EQ(w[i].runs, 0);
    turn_step(&t, true);
    CHECK_EQ(w[i].runs, 1);
    CHECK_EQ(w[i].why, 0);
    if (i < 2) CHECK(!waitq_open(&q, &w[i + 1].wait));
    wait_leave(&w[i].wait); /* wakes the next */
  }
  CHECK(!q.first && !q.last);
  turn_end(&t);
}

TEST(a_wake_in_vain_costs_no_place) {
  struct turn t;
  struct waitq q = {NULL, NULL};
  struct waiter a, b;
  turn_open(&t);
  waiter_init(&a, &t);
  waiter_init(&b, &t);
  waiter_park(&a, &q, INFINITY, false);
  waiter_park(&b, &q, INFINITY, false);
  for (int i = 1; i <= 3; i++) {
    waitq_wake_first(&q);
    waitq_wake_first(&q);
    turn_step(&t, true);
    CHECK_EQ(a.runs, i);
    waiter_park(&a, &q, INFINITY, false);
    CHECK(q.first == &a.wait && q.last == &b.wait);
  }
  CHECK_EQ(b.runs, 0);
  wait_fini(&a.wait);
  wait_fini(&b.wait);
  turn_end(&t);
}

TEST(all_are_told_the_reason_in_order) {
  struct turn t;
  struct waitq q = {NULL, NULL};
  struct waiter w[3];
  turn_open(&t);
  for (int i = 0; i < 3; i++) {
    waiter_init(&w[i], &t);
    waiter_park(&w[i], &q, INFINITY, true);
  }
  waitq_wake_all(&q, ERR_CLOSED);
  CHECK(!q.first && !q.last);
  CHECK(t.ready.first == &w[0].wait.job && t.ready.last == &w[2].wait.job);
  turn_step(&t, true);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(w[i].runs, 1);
    CHECK_EQ(w[i].why, ERR_CLOSED);
  }
  turn_end(&t);
}

TEST(the_first_reason_stays) {
  struct turn t;
  struct waiter w;
  turn_open(&t);
  waiter_init(&w, &t);
  waiter_park(&w, NULL, INFINITY, false);
  wait_wake(&w.wait, 0);
  wait_wake(&w.wait, ERR_CLOSED);
  wait_wake(&w.wait, ERR_TIMEDOUT);
  wait_wake(&w.wait, 0);
  wait_set_due(&w.wait, 0);
  turn_step(&t, true);
  CHECK_EQ(w.runs, 1);
  CHECK_EQ(w.why, ERR_CLOSED);
  wait_wake(&w.wait, ERR_EOF); /* it does not wait any more */
  turn_step(&t, false);
  CHECK_EQ(w.runs, 1);
  waiter_park(&w, NULL, INFINITY, false);
  CHECK_EQ(w.wait.why, 0);
  wait_fini(&w.wait);
  turn_end(&t);
}

/* ---- time ------------------------------------------------------------------------ */

TEST(a_wait_ends_when_it_is_due_and_not_before) {
  struct turn t;
  struct waitq q = {NULL, NULL};
  struct waiter w[3];
  turn_open(&t);
  double due = turn_now(&t) + 0.02;
  for (int i = 0; i < 3; i++) {
    waiter_init(&w[i], &t);
    waiter_park(&w[i], &q, i == 1 ? due : INFINITY, false);
  }
  CHECK(turn_step(&t, true));
  CHECK(turn_now(&t) >= due);
  CHECK_EQ(w[1].runs, 1);
  CHECK_EQ(w[1].why, ERR_TIMEDOUT);
  CHECK(w[0].wait.next == &w[2].wait && w[2].wait.prev == &w[0].wait);
  for (int i = 0; i < 3; i++) wait_fini(&w[i].wait);
  CHECK_EQ(w[0].runs + w[2].runs, 0);
  turn_end(&t);
}

TEST(the_timer_of_an_earlier_wait_ends_no_later_one) {
  struct turn t;
  struct waiter w;
  turn_open(&t);
  waiter_init(&w, &t);
  double early = turn_now(&t) + 0.02, late = early + 0.04;
  waiter_park(&w, NULL, early, false);
  wait_wake(&w.wait, 0);
  turn_step(&t, true);
  CHECK_EQ(w.runs, 1);
  CHECK(timer_armed(&w.wait.timer));
  waiter_park(&w, NULL, late, false);
  CHECK(w.wait.timer.due == early);
  TURN_UNTIL(&t, turn_now(&t) >= early && w.wait.timer.due == late);
  CHECK_EQ(w.runs, 1);
  TURN_UNTIL(&t, w.runs == 2);
  CHECK(turn_now(&t) >= late);
  CHECK_EQ(w.why, ERR_TIMEDOUT);
  turn_end(&t);
}

TEST(a_stale_timer_lets_a_wait_without_end_wait) {
  struct turn t;
  struct waiter w;
  turn_open(&t);
  waiter_init(&w, &t);
  waiter_park(&w, NULL, turn_now(&t) + 0.01, false);
  wait_wake(&w.wait, 0);
  turn_step(&t, true);
  waiter_park(&w, NULL, INFINITY, false);
  CHECK_EQ(t.holds, 0);
  TURN_UNTIL(&t, !timer_armed(&w.wait.timer));
  CHECK_EQ(w.runs, 1);
  CHECK(w.wait.parked);
  wait_fini(&w.wait);
  turn_end(&t);
}

TEST(a_changed_deadline_reaches_a_parked_wait) {
  struct turn t;
  struct waiter w;
  turn_open(&t);
  waiter_init(&w, &t);
  wait_set_due(&w.wait, 0); /* nobody waits */
  waiter_park(&w, NULL, INFINITY, false);
  double due = turn_now(&t) + 0.02;
  wait_set_due(&w.wait, due + 100);
  wait_set_due(&w.wait, due);
  CHECK(turn_step(&t, true));
  CHECK_EQ(w.why, ERR_TIMEDOUT);
  CHECK(turn_now(&t) >= due);
  due = turn_now(&t) + 0.02;
  waiter_park(&w, NULL, due, false);
  wait_set_due(&w.wait, due + 0.02);
  TURN_UNTIL(&t, w.runs == 2);
  CHECK(turn_now(&t) >= due + 0.02);
  waiter_park(&w, NULL, INFINITY, true);
  wait_set_due(&w.wait, -INFINITY);
  turn_step(&t, false);
  CHECK_EQ(w.runs, 3);
  CHECK_EQ(w.why, ERR_TIMEDOUT);
  turn_end(&t);
}

/* ---- what keeps the loop alive --------------------------------------------------- */

TEST(a_wait_holds_the_loop_if_anything_can_end_it) {
  struct turn t;
  struct waiter w;
  turn_open(&t);
  for (unsigned i = 0; i < 4; i++) {
    bool outside = i & 1, timed = i & 2;
    waiter_init(&w, &t);
    waiter_park(&w, NULL, timed ? turn_now(&t) + 100 : INFINITY, outside);
    CHECK_EQ(t.waits, 1);
    CHECK_EQ(t.holds, outside || timed);
    CHECK_EQ(turn_alive(&t), outside || timed);
    wait_set_due(&w.wait, turn_now(&t) + 50);
    CHECK_EQ(t.holds, 1);
    wait_set_due(&w.wait, INFINITY);
    CHECK_EQ(t.holds, outside);
    wait_resume(&w.wait);
    CHECK_EQ(t.waits + t.holds, 0);
    wait_fini(&w.wait);
  }
  turn_end(&t);
}

static void post_nothing(struct post *p) { (void)p; }

TEST(what_is_posted_keeps_the_loop_alive) {
  struct turn t;
  struct post p = {.run = post_nothing};
  turn_open(&t);
  CHECK(!turn_alive(&t));
  world_post(t.world, &p);
  CHECK(turn_alive(&t));
  CHECK(turn_step(&t, true));
  turn_end(&t);
}

TEST(nothing_else_ends_a_wait_that_was_served) {
  struct turn t;
  struct waitq q = {NULL, NULL};
  struct waiter a, b;
  turn_open(&t);
  waiter_init(&a, &t);
  waiter_init(&b, &t);
  waiter_park(&a, &q, turn_now(&t), false);
  waiter_park(&b, &q, INFINITY, false);
  CHECK(waitq_waiting(&q) == &a.wait);
  wait_wake(&a.wait, 0);
  wait_serve(&a.wait);
  CHECK(waitq_waiting(&q) == &b.wait);
  wait_wake(&a.wait, ERR_CANCELED);
  waitq_wake_all(&q, ERR_CLOSED);
  turn_step(&t, true);
  CHECK_EQ(a.runs, 1);
  CHECK_EQ(a.why, WAIT_SERVED);
  CHECK_EQ(b.why, ERR_CLOSED);
  CHECK(waitq_waiting(&q) == NULL);
  wait_fini(&a.wait);
  wait_fini(&b.wait);
  turn_end(&t);
}

TEST(who_is_served_leaves_the_others_asleep) {
  struct turn t;
  struct waitq q = {NULL, NULL};
  struct waiter a, b;
  turn_open(&t);
  waiter_init(&a, &t);
  waiter_init(&b, &t);
  waiter_park(&a, &q, INFINITY, false);
  waiter_park(&b, &q, INFINITY, false);
  wait_serve(&a.wait);
  turn_step(&t, true);
  CHECK_EQ(a.runs, 1);
  CHECK_EQ(b.runs, 0);
  CHECK(q.first == &b.wait && q.last == &b.wait);
  wait_fini(&b.wait);
  turn_end(&t);
}

TEST(who_runs_while_it_stands_in_line_does_not_wait_there) {
  struct turn t;
  struct waitq q = {NULL, NULL};
  struct waiter a, b;
  turn_open(&t);
  waiter_init(&a, &t);
  waiter_init(&b, &t);
  waiter_park(&a, &q, INFINITY, false);
  waiter_park(&b, &q, INFINITY, false);
  wait_resume(&a.wait);
  CHECK(waitq_waiting(&q) == &b.wait);
  CHECK(a.wait.q == NULL);
  CHECK(q.first == &b.wait && q.last == &b.wait);
  wait_resume(&b.wait);
  CHECK(waitq_waiting(&q) == NULL);
  CHECK(!q.first && !q.last);
  turn_end(&t);
}

/* ---- the end of a waiter --------------------------------------------------------- */

enum { FRESH, PARKED, TIMED, WOKEN, ENDED, RESUMED, STATES };

static void waiter_bring(struct waiter *w, struct waitq *q, int state) {
  struct turn *t = w->wait.turn;
  if (state == FRESH) return;
  waiter_park(w, q, state == PARKED ? INFINITY : turn_now(t) + 100, true);
  if (state == WOKEN) wait_wake(&w->wait, 0);
  if (state == ENDED) wait_wake(&w->wait, ERR_CLOSED);
  if (state == RESUMED) wait_resume(&w->wait);
}

/* Whoever stood behind it has its turn then. */
TEST(a_wait_can_end_in_every_state) {
  for (int state = FRESH; state < STATES; state++) {
    struct turn t;
    struct waitq q = {NULL, NULL};
    struct waiter w, behind;
    turn_open(&t);
    waiter_init(&w, &t);
    waiter_init(&behind, &t);
    waiter_bring(&w, &q, state);
    waiter_park(&behind, &q, INFINITY, true);
    wait_fini(&w.wait);
    wait_fini(&w.wait);
    CHECK(q.first == &behind.wait && q.last == &behind.wait);
    CHECK_EQ(t.waits, 1);
    CHECK_EQ(t.timers.n, 0);
    turn_step(&t, false);
    CHECK_EQ(w.runs, 0);
    CHECK_EQ(behind.runs, state != FRESH && state != ENDED);
    wait_fini(&behind.wait);
    turn_end(&t);
  }
}

static struct waiter *waiter_of_timer(struct timer *d) {
  return (struct waiter *)(void *)((char *)d - offsetof(struct waiter, wait.timer));
}

static void wake_owner(struct timer *d) { wait_wake(&waiter_of_timer(d)->wait, ERR_EOF); }

TEST(who_a_timer_woke_runs_in_the_same_turn) {
  struct turn t;
  struct waiter w;
  turn_open(&t);
  waiter_init(&w, &t);
  w.wait.timer.fire = wake_owner;
  waiter_park(&w, NULL, turn_now(&t) + 0.01, false);
  CHECK(turn_step(&t, true));
  CHECK_EQ(w.runs, 1);
  CHECK_EQ(w.why, ERR_EOF);
  turn_end(&t);
}
