/* The turn: see turn.h.  The order of the steps in turn_step() is the promise of this file. */
#include "turn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "dial.h"
#include "err.h"
#include "tls.h"
#include "udp.h"

int turn_init(struct turn *t, struct world *w) {
  *t = (struct turn){.world = w};
  t->now = turn_now(t);
  t->page = malloc(PAGE_SIZE_BYTES);
  return t->page ? 0 : ERR_NOMEM;
}

double turn_now(struct turn *t) { return t->world->ops->now(t->world); }

void turn_freshen(struct turn *t) {
  if (!t->polling) return;
  t->polling = false;
  t->now = turn_now(t);
}

/* What is on its way in memory counts as what the outside may bring. */
bool turn_alive(const struct turn *t) {
  return t->ready.first || t->first_visit || t->holds > 0 || t->world->first_post;
}

/* ---- texts that are kept --------------------------------------------------------- */

struct text {
  struct text *next;
  char chars[];
};

const char *turn_keep(struct turn *t, const char *text) {
  for (const struct text *k = t->texts; k; k = k->next)
    if (strcmp(k->chars, text) == 0) return k->chars;
  size_t n = strlen(text) + 1;
  struct text *k = malloc(sizeof *k + n);
  if (!k) return NULL;
  memcpy(k->chars, text, n);
  k->next = t->texts;
  t->texts = k;
  return k->chars;
}

static void free_texts(struct turn *t) {
  for (struct text *k; (k = t->texts);) {
    t->texts = k->next;
    free(k);
  }
}

/* ---- jobs ------------------------------------------------------------------------ */

void job_queue(struct turn *t, struct job *j) {
  if (j->queued) return;
  j->queued = true;
  j->next = NULL;
  j->prev = t->ready.last;
  if (j->prev)
    j->prev->next = j;
  else
    t->ready.first = j;
  t->ready.last = j;
}

void job_remove(struct turn *t, struct job *j) {
  if (!j->queued) return;
  j->queued = false;
  if (j->prev)
    j->prev->next = j->next;
  else
    t->ready.first = j->next;
  if (j->next)
    j->next->prev = j->prev;
  else
    t->ready.last = j->prev;
}

/* Runs what is ready now; what becomes ready meanwhile waits for the next turn.  The marker
 * stands behind this generation, so that jobs may leave the queue while it runs. */
static void run_generation(struct turn *t) {
  if (!t->ready.first) return;
  struct job end = {.run = NULL};
  job_queue(t, &end);
  for (struct job *j; (j = t->ready.first) != &end;) {
    job_remove(t, j);
    j->run(j);
  }
  job_remove(t, &end);
}

/* ---- the turn -------------------------------------------------------------------- */

static void fire_timers(struct turn *t) {
  t->now = turn_now(t);
  t->polling = false;
  for (struct timer *d; (d = timers_pop(&t->timers, t->now));) d->fire(d);
}

static void make_visits(struct turn *t) {
  for (struct conn *c; (c = conn_next_visit(t));) conn_visit(c);
}

bool turn_step(struct turn *t, bool may_sleep) {
  t->count++;
  t->polling = true;
  bool busy = t->ready.first || t->first_visit || !may_sleep;
  bool open = t->world->ops->poll(t->world, busy ? -INFINITY : timers_next(&t->timers));
  fire_timers(t);
  run_generation(t);
  make_visits(t);
  return open || busy;
}

/* A turn without jobs: the state that they belong to is going away. */
static void drain_step(struct turn *t, double until) {
  t->count++;
  double next = timers_next(&t->timers);
  t->polling = true;
  t->world->ops->poll(t->world, next < until ? next : until);
  fire_timers(t);
  make_visits(t);
}

void turn_fini(struct turn *t, double seconds) {
  const double recheck = 0.01; /* nothing tells when the peer has acknowledged */
  double end = turn_now(t) + seconds;
  make_visits(t);
  while (!conn_all_settled(t) && turn_now(t) < end) {
    double soon = turn_now(t) + recheck;
    drain_step(t, soon < end ? soon : end);
  }
  dial_free_all(t);
  conn_abandon_all(t);
  udp_free_all(t);
  t->world->ops->close(t->world);
  conn_free_all(t);
  timers_fini(&t->timers);
  tls_root_close(t->tls);
  free_texts(t);
  spares_fini(&t->spares);
  free(t->page);
}

/* ---- waiting --------------------------------------------------------------------- */

static struct wait *wait_of_timer(struct timer *d) {
  return (struct wait *)(void *)((char *)d - offsetof(struct wait, timer));
}

static void wait_expire(struct wait *w) { wait_wake(w, w->stays ? 0 : ERR_TIMEDOUT); }

/* Timers are re-armed lazily: one that was armed for an earlier wait moves on. */
static void on_wait_due(struct timer *d) {
  struct wait *w = wait_of_timer(d);
  if (!w->parked || w->due == INFINITY) return;
  if (turn_now(w->turn) < w->due)
    timers_arm(&w->turn->timers, d, w->due); /* its place in the heap was just freed */
  else
    wait_expire(w);
}

void wait_init(struct wait *w, struct turn *t, void (*run)(struct job *)) {
  *w = (struct wait){.turn = t, .due = INFINITY, .call_due = INFINITY};
  w->job.run = run;
  w->timer.fire = on_wait_due;
}

static void wait_unlink(struct wait *w) {
  struct waitq *q = w->q;
  if (!q) return;
  w->q = NULL;
  if (w->prev)
    w->prev->next = w->next;
  else
    q->first = w->next;
  if (w->next)
    w->next->prev = w->prev;
  else
    q->last = w->prev;
}

static void wait_link(struct wait *w, struct waitq *q) {
  if (w->q == q) return;
  w->q = q;
  w->next = NULL;
  w->prev = q->last;
  if (w->prev)
    w->prev->next = w;
  else
    q->first = w;
  q->last = w;
}

static void wait_hold(struct wait *w, bool on) {
  if (w->held == on) return;
  w->held = on;
  w->turn->holds += on ? 1u : -1u;
}

static void wait_unpark(struct wait *w) {
  if (!w->parked) return;
  w->parked = false;
  w->turn->waits--;
  wait_hold(w, false);
}

static int wait_arm(struct wait *w, double due) {
  if (due == INFINITY || (timer_armed(&w->timer) && w->timer.due <= due)) return 0;
  return timers_arm(&w->turn->timers, &w->timer, due);
}

int wait_park(struct wait *w, struct waitq *q, double due, bool outside) {
  int r = wait_arm(w, due);
  if (r) return r;
  w->due = due;
  w->why = 0;
  w->parked = true;
  w->turn->waits++;
  w->outside = outside;
  wait_hold(w, outside || due != INFINITY);
  if (q) wait_link(w, q);
  return 0;
}

void wait_wake(struct wait *w, int why) {
  if (!w->parked) return;
  if (why && !w->why) {
    w->why = why;
    wait_leave(w);
  }
  job_queue(w->turn, &w->job);
}

void wait_resume(struct wait *w) { wait_unpark(w); }

void wait_leave(struct wait *w) {
  struct waitq *q = w->q;
  if (!q) return;
  bool was_first = q->first == w;
  wait_unlink(w);
  if (was_first) waitq_wake_first(q);
}

void wait_set_due(struct wait *w, double due) {
  if (!w->parked || w->why) return;
  if (wait_arm(w, due) != 0) due = turn_now(w->turn); /* no memory for a timer: end it now */
  w->due = due;
  wait_hold(w, w->outside || due != INFINITY);
  if (due <= turn_now(w->turn)) wait_expire(w);
}

void wait_fini(struct wait *w) {
  job_remove(w->turn, &w->job);
  wait_unpark(w);
  wait_leave(w);
  timers_disarm(&w->turn->timers, &w->timer);
}

struct wait *waitq_waiting(struct waitq *q) {
  while (q->first && !q->first->parked) wait_unlink(q->first);
  return q->first;
}

void wait_serve(struct wait *w) {
  wait_unlink(w);
  wait_wake(w, WAIT_SERVED);
}

void waitq_set_deadline(struct waitq *q, double at) {
  for (struct wait *next, *w = q->first; w; w = next) {
    next = w->next;
    wait_set_due(w, w->call_due < at ? w->call_due : at);
  }
}

void waitq_wake_first(struct waitq *q) {
  if (q->first) wait_wake(q->first, 0);
}

void waitq_wake_all(struct waitq *q, int why) {
  for (struct wait *w; (w = q->first);) {
    wait_unlink(w);
    wait_wake(w, why);
  }
}
