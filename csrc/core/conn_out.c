/* A connection's output and its end: see conn.h. */
#include <math.h>
#include <stdlib.h>

#include "conn.h"
#include "conn_internal.h"
#include "err.h"

enum { CLOSE_STALL = 10, CLOSE_LINGER = 2 }; /* seconds */

/* ---- interest -------------------------------------------------------------------- */

static bool wants_input(const struct conn *c) {
  if (c->in_end) return false;
  if (c->state == CONN_CLOSING) return c->shut;
  return c->readers.first != NULL || conn_reads_ahead(c);
}

void conn_interest(struct conn *c) {
  unsigned events = (wants_input(c) ? LINK_IN : 0u) | (c->blocked ? LINK_OUT : 0u);
  c->link->ops->want(c->link, events);
}

/* ---- writing --------------------------------------------------------------------- */

/* Unsent output of a connection that the outside reads keeps the loop alive. */
static void note_blocked(struct conn *c, bool blocked) {
  if (c->blocked == blocked) return;
  c->blocked = blocked;
  if (c->link->outside) c->turn->holds += blocked ? 1u : -1u;
  conn_interest(c);
}

static void write_failed(struct conn *c, int code) {
  c->out_end = code;
  buf_fini(&c->out);
  note_blocked(c, false);
  waitq_wake_first(&c->writers);
}

/* Interest in the link's readiness follows what it takes, and changes no more than it must: a
 * change costs system calls. */
static void write_out(struct conn *c) {
  size_t n = buf_len(&c->out);
  struct iovec v = {.iov_base = c->out.mem + c->out.head, .iov_len = n};
  ptrdiff_t r = c->link->ops->write(c->link, &v, 1);
  if (r < 0 && r != ERR_AGAIN) {
    write_failed(c, (int)r);
    return;
  }
  size_t done = r < 0 ? 0 : (size_t)r;
  c->bytes_out += done;
  buf_consume(&c->out, done);
  note_blocked(c, done < n);
  if (c->writers.first) waitq_wake_first(&c->writers);
}

static inline bool output_is_over(const struct conn *c) { return c->out_end || c->fin; }

/* What follows the output: FIN. */
static void shut_when_written(struct conn *c) {
  if (!c->shut || output_is_over(c) || conn_unsent(c) > 0) return;
  int r = c->link->ops->shut(c->link);
  c->out_end = r < 0 ? r : 0;
  c->fin = r == 0;
}

static void close_step(struct conn *c);

static void push_out(struct conn *c) {
  if (conn_unsent(c) > 0 && !c->blocked && !c->out_end) write_out(c);
  shut_when_written(c);
  if (c->state == CONN_CLOSING) close_step(c);
}

void conn_unblock(struct conn *c) {
  if (!c->blocked) return;
  write_out(c);
  push_out(c);
}

int conn_cannot_send(const struct conn *c) {
  if (!conn_is_open(c)) return ERR_CLOSED;
  return c->out_end ? c->out_end : c->shut ? ERR_PIPE : 0;
}

char *conn_reserve(struct conn *c, size_t n) { return buf_reserve(&c->out, n, SIZE_MAX); }

void conn_commit(struct conn *c, size_t n, bool at_once) {
  buf_commit(&c->out, n);
  c->messages_out++;
  if (c->blocked) return;
  if (at_once || conn_unsent(c) >= CONN_WRITE_NOW)
    push_out(c);
  else
    conn_ask_visit(c);
}

void conn_flush_now(struct conn *c) {
  if (conn_is_open(c)) push_out(c);
}

/* ---- visits ---------------------------------------------------------------------- */

void conn_ask_visit(struct conn *c) {
  struct turn *t = c->turn;
  if (c->holders & CONN_OF_VISIT) return;
  c->holders |= CONN_OF_VISIT;
  c->next_visit = NULL;
  if (t->last_visit)
    t->last_visit->next_visit = c;
  else
    t->first_visit = c;
  t->last_visit = c;
}

struct conn *conn_next_visit(struct turn *t) {
  struct conn *c = t->first_visit;
  if (!c) return NULL;
  t->first_visit = c->next_visit;
  if (!t->first_visit) t->last_visit = NULL;
  return c;
}

void conn_visit(struct conn *c) {
  if (c->link && !c->gone) push_out(c);
  conn_drop(c, CONN_OF_VISIT);
}

/* ---- the end --------------------------------------------------------------------- */

static void forget_delay(struct conn *c) {
  if (!c->delayed) return;
  c->delayed = false;
  c->turn->holds--;
  timers_disarm(&c->turn->timers, &c->timer);
}

/* Nobody can use it any more; what is left is between the loop and the link. */
static void leave_open(struct conn *c) {
  c->link->ops->name(c->link, false, &c->local);
  c->state = CONN_CLOSING;
  forget_delay(c);
  c->turn->holds++; /* until the link is gone: on_closed() */
  conn_forget_page(c);
  buf_fini(&c->in);
  waitq_wake_all(&c->readers, ERR_CLOSED);
  waitq_wake_all(&c->writers, ERR_CLOSED);
  if (c->on_close) c->on_close(c);
  c->on_close = NULL;
}

static void close_link(struct conn *c, bool reset) {
  if (c->gone) return;
  c->gone = true;
  buf_fini(&c->out);
  note_blocked(c, false);
  timers_disarm(&c->turn->timers, &c->timer);
  c->link->ops->close(c->link, reset);
}

static struct conn *conn_of_timer(struct timer *d) {
  return (struct conn *)(void *)((char *)d - offsetof(struct conn, timer));
}

static void on_close_due(struct timer *d) {
  struct conn *c = conn_of_timer(d);
  close_link(c, conn_unsent(c) > 0);
}

/* Without memory for the timer there is no lingering. */
static void close_after(struct conn *c, double seconds) {
  c->timer.fire = on_close_due;
  if (timers_arm(&c->turn->timers, &c->timer, turn_now(c->turn) + seconds) != 0)
    close_link(c, conn_unsent(c) > 0);
}

/* Called after every progress of a closing connection. */
static void close_step(struct conn *c) {
  if (c->gone) return;
  if (c->out_end || (c->fin && (c->in_end || !c->link->outside))) {
    close_link(c, c->out_end != 0);
    return;
  }
  close_after(c, c->fin ? CLOSE_LINGER : CLOSE_STALL);
  if (!c->gone) conn_interest(c);
}

void conn_close(struct conn *c) {
  if (!conn_is_open(c)) return;
  leave_open(c);
  c->shut = true;
  conn_ask_visit(c);
}

void conn_reset(struct conn *c) {
  if (conn_is_open(c)) leave_open(c);
  if (c->state == CONN_CLOSING) close_link(c, true);
}

static void on_delayed_close(struct timer *d) { conn_close(conn_of_timer(d)); }
static void on_delayed_reset(struct timer *d) { conn_reset(conn_of_timer(d)); }

int conn_close_in(struct conn *c, double seconds, bool reset) {
  if (!conn_is_open(c)) return 0;
  forget_delay(c);
  int r = timers_arm(&c->turn->timers, &c->timer, turn_now(c->turn) + seconds);
  if (r) return r;
  c->timer.fire = reset ? on_delayed_reset : on_delayed_close;
  c->delayed = true;
  c->turn->holds++;
  return 0;
}

/* Bounded per report: a peer that floods us must not hold up the poll. */
void conn_discard(struct conn *c) {
  struct turn *t = c->turn;
  if (t->borrower && conn_spill(t->borrower) != 0) return;
  ptrdiff_t r = c->link->ops->read(c->link, t->page, PAGE_SIZE_BYTES);
  if (r > 0 || r == ERR_AGAIN) return;
  c->in_end = r == 0 ? ERR_EOF : (int)r;
  conn_interest(c);
  if (c->in_end != ERR_EOF && !c->fin) write_failed(c, c->in_end);
  if (output_is_over(c)) close_step(c);
}

int conn_close_write(struct conn *c) {
  if (!conn_is_open(c)) return ERR_CLOSED;
  if (c->out_end || c->shut) return c->out_end;
  c->shut = true;
  conn_ask_visit(c);
  return 0;
}

bool conn_is_flushed(const struct conn *c) {
  return c->state == CONN_CLOSED || c->gone || output_is_over(c);
}

/* ---- when the state that owned everything goes away ------------------------------ */

static bool is_settled(const struct conn *c) {
  return c->gone || (c->fin && c->link->ops->settled(c->link));
}

bool conn_all_settled(struct turn *t) {
  for (struct conn *c = t->first_conn; c; c = c->next)
    if (c->state == CONN_CLOSING && !is_settled(c)) return false;
  return true;
}

void conn_abandon_all(struct turn *t) {
  for (struct conn *c = t->first_conn; c; c = c->next) {
    if (conn_is_open(c)) conn_reset(c);
    if (c->state == CONN_CLOSING) close_link(c, conn_unsent(c) > 0);
  }
}
