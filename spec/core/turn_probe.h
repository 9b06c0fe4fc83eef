/* What the tests of the turn and of what lives in it share: turns with a limit, a waiter that
 * counts how often it ran, and a connection whose peer is a bare link.
 *
 * What this is not: a driver of tasks; a waiter only notes that it was run. */
#ifndef LUNEWIRE_TURN_PROBE_H
#define LUNEWIRE_TURN_PROBE_H

#include <math.h>

#include "conn.h"
#include "probe.h"
#include "turn.h"

/* ---- turns ----------------------------------------------------------------------- */

static inline void turn_open(struct turn *t) { CHECK_EQ(turn_init(t, probe_world()), 0); }

static inline unsigned turn_things(struct turn *t) { return t->world->ops->open(t->world); }

static inline void pace_over(struct timer *d) { (void)d; }

/* A turn that sleeps a little if nothing happens. */
static inline void turn_once(struct turn *t) {
  struct timer pace = {.fire = pace_over};
  CHECK_EQ(timers_arm(&t->timers, &pace, turn_now(t) + 0.01), 0);
  turn_step(t, true);
  timers_disarm(&t->timers, &pace);
}

/* As AWAIT, in whole turns. */
#define TURN_UNTIL(t, condition)                                                                   \
  do {                                                                                             \
    double limit_ = turn_now(t) + 10;                                                              \
    bool held_;                                                                                    \
    while (!(held_ = (condition)) && turn_now(t) < limit_) turn_once(t);                           \
    (void)test_true(held_, __FILE__, __LINE__, #condition);                                        \
  } while (0)

static inline void turn_for(struct turn *t, double seconds) {
  double end = turn_now(t) + seconds;
  while (turn_now(t) < end) turn_once(t);
}

/* Nothing that is wanted is ready: a poll sleeps for as long as it may.  A report that was
 * under way may still come once. */
static inline bool turn_is_calm(struct turn *t) {
  turn_step(t, false);
  double end = turn_now(t) + 0.03;
  t->world->ops->poll(t->world, end);
  return turn_now(t) >= end;
}

/* Everything was closed: nothing may be left, and nobody be counted. */
static inline void turn_end(struct turn *t) {
  TURN_UNTIL(t, turn_things(t) == 0 && !t->ready.first && !t->first_visit);
  CHECK_EQ(t->holds, 0);
  CHECK_EQ(t->waits, 0);
  CHECK_EQ(t->conns, 0);
  CHECK_EQ(t->servers, 0);
  CHECK_EQ(t->udps, 0);
  CHECK_EQ(t->dials, 0);
  CHECK(!t->first_conn && !t->borrower);
  CHECK(!turn_alive(t));
  turn_fini(t, 0);
}

/* ---- waiters --------------------------------------------------------------------- */

struct waiter {
  struct wait wait; /* begins with the job */
  char name;        /* for the tests that look at the order */
  int runs, why;    /* how often it ran, and the reason that it then saw */
  void (*hook)(struct waiter *);
};

static inline void waiter_run(struct job *j) {
  struct waiter *w = (struct waiter *)(void *)j;
  wait_resume(&w->wait);
  w->runs++;
  w->why = w->wait.why;
  if (w->hook) w->hook(w);
}

static inline void waiter_init(struct waiter *w, struct turn *t) {
  *w = (struct waiter){.name = '?'};
  wait_init(&w->wait, t, waiter_run);
}

static inline void waiter_park(struct waiter *w, struct waitq *q, double due, bool outside) {
  CHECK_EQ(wait_park(&w->wait, q, due, outside), 0);
}

/* ---- a connection and its peer --------------------------------------------------- */

struct rig {
  struct turn turn;
  struct conn *conn; /* NULL: the scenario let it go */
  struct probe peer;
  struct waiter reader;
  const char *feed; /* what the peer has still to write */
  size_t feed_len;
};

typedef void rig_scenario(struct rig *);

static inline struct conn *rig_connect(struct turn *t, probe_opener *open, struct probe *peer) {
  struct probe own;
  open(t->world, &own, peer);
  struct conn *c = conn_open(t, own.link, NULL);
  CHECK(c != NULL);
  return c;
}

static inline void rig_let_go(struct rig *r) {
  if (r->conn) conn_drop(r->conn, CONN_OF_OWNER);
  r->conn = NULL;
}

static inline void rig_run(probe_opener *open, rig_scenario *scenario) {
  struct rig r = {.conn = NULL};
  turn_open(&r.turn);
  waiter_init(&r.reader, &r.turn);
  r.conn = rig_connect(&r.turn, open, &r.peer);
  scenario(&r);
  rig_let_go(&r);
  if (r.peer.link) probe_close(&r.peer, false);
  wait_fini(&r.reader.wait);
  turn_end(&r.turn);
}

static inline void rig_over_both(rig_scenario *scenario) {
  rig_run(probe_pair, scenario);
  rig_run(probe_pipe, scenario);
}

static inline void rig_feed(struct rig *r) {
  ptrdiff_t n = r->feed_len ? probe_write(&r->peer, r->feed, r->feed_len) : 0;
  if (n <= 0) return;
  r->feed += n;
  r->feed_len -= (size_t)n;
}

/* Waits as a receiving call does, while the peer writes what it has to. */
static inline int rig_take(struct rig *r, const struct framing *f, struct message *m) {
  double limit = turn_now(&r->turn) + 10;
  int code;
  conn_begin(r->conn, f);
  while ((code = conn_take(r->conn, f, m)) == ERR_AGAIN && turn_now(&r->turn) < limit) {
    waiter_park(&r->reader, &r->conn->readers, INFINITY, true);
    conn_want_input(r->conn);
    for (int before = r->reader.runs; before == r->reader.runs && turn_now(&r->turn) < limit;) {
      rig_feed(r);
      turn_once(&r->turn);
    }
  }
  wait_resume(&r->reader.wait);
  wait_leave(&r->reader.wait);
  return code;
}

/* The next message is exactly this text. */
#define CHECK_TAKE(r, f, text)                                                                     \
  do {                                                                                             \
    struct message m_ = {.base = ""};                                                              \
    CHECK_EQ(rig_take((r), (f), &m_), 0);                                                          \
    CHECK_MEM(m_.base + m_.cut.at, m_.cut.len, (text), strlen(text));                              \
    conn_took((r)->conn, &m_.cut);                                                                 \
  } while (0)

#endif
