/* A connection that nobody uses for now: at rest, when somebody may use it again (a pool's idle
 * ones), and who is told that it is over.
 * What this is not: who keeps it, and whether it is used again. */
#include <math.h>

#include "conn.h"
#include "err.h"

int conn_ended(const struct conn *c) {
  size_t n;
  if (!conn_is_open(c)) return ERR_CLOSED;
  if (c->out_end) return c->out_end;
  conn_input(c, &n);
  return n == 0 ? c->in_end : 0;
}

/* Between two messages, in both directions, and nothing has ever gone wrong. */
static bool is_clean(const struct conn *c) {
  size_t n;
  conn_input(c, &n);
  bool used = c->readers.first || c->writers.first || c->delayed;
  bool midway = n > 0 || c->in_end || c->asked != c->answered || c->skipping || c->desync;
  return !used && !midway && !c->failure.code && conn_cannot_send(c) == 0;
}

static void on_rest_over(struct timer *d) {
  conn_close((struct conn *)(void *)((char *)d - offsetof(struct conn, timer)));
}

bool conn_rest(struct conn *c, double seconds) {
  double due = turn_now(c->turn) + seconds;
  conn_look(c);
  if (!is_clean(c)) return false;
  c->timer.fire = on_rest_over;
  if (due < INFINITY && timers_arm(&c->turn->timers, &c->timer, due) != 0) return false;
  c->resting = true;
  return true;
}

void conn_tell_end(struct conn *c) {
  if (!conn_is_open(c) || conn_ended(c) == 0) return;
  for (struct attachment *next, *a = c->ending; a; a = next) {
    next = a->next;
    if (!a->early) continue;
    conn_detach(a);
    a->ended(a);
  }
}

void conn_disturb(struct conn *c) {
  if (c->resting && !is_clean(c)) conn_close(c);
  conn_tell_end(c);
}

void conn_end_rest(struct conn *c) {
  if (!c->resting) return;
  c->resting = false;
  timers_disarm(&c->turn->timers, &c->timer);
}

bool conn_resume(struct conn *c) {
  bool rested = c->resting;
  if (rested) conn_look(c);
  conn_end_rest(c);
  return rested && is_clean(c);
}
