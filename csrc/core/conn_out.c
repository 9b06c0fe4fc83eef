/* A connection's output, its end, and what is known of it: see conn.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "conn_internal.h"
#include "err.h"

enum { CLOSE_STALL = 10, CLOSE_LINGER = 2 }; /* seconds */
static const double CLOSE_LOOK = 0.2;

/* CLOSING, in `left`: what the peer had not taken was not asked yet. */
static const size_t NEVER_LOOKED = SIZE_MAX;

/* ---- interest -------------------------------------------------------------------- */

static bool wants_input(const struct conn *c) {
  if (c->in_end) return false;
  if (c->state == CONN_CLOSING) return c->fin_wanted;
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

void conn_note_detail(struct conn *c) {
  const struct link_ops *ops = c->link->ops;
  if (ops->explain && !c->detail) c->detail = ops->explain(c->link);
}

static void write_failed(struct conn *c, int code) {
  c->out_end = code;
  conn_note_detail(c);
  buf_fini(&c->out);
  note_blocked(c, false);
  waitq_wake_first(&c->writers);
  conn_tell_end(c);
}

/* Interest in the link's readiness follows what it takes, and changes no more than it must: a
 * change costs system calls. */
static void write_done(struct conn *c, size_t done) {
  if (done == buf_len(&c->out))
    buf_recycle(&c->out, &c->turn->spares);
  else
    buf_consume(&c->out, done);
  if (!c->blocked)
    buf_settle(&c->out, CONN_WRITE_NOW); /* it may stay for as long as the peer likes */
  note_blocked(c, buf_len(&c->out) > 0 || conn_held(c) > 0);
  if (c->writers.first) waitq_wake_first(&c->writers);
}

/* false: the link has failed, and so has all output. */
static bool link_takes(struct conn *c, const struct iovec *v, int count, size_t *taken) {
  ptrdiff_t r = c->link->ops->write(c->link, v, count);
  *taken = r < 0 ? 0 : (size_t)r;
  c->bytes_out += *taken;
  if (r >= 0 || r == ERR_AGAIN) return true;
  write_failed(c, (int)r);
  return false;
}

static struct iovec unsent_piece(const struct conn *c) {
  size_t n = buf_len(&c->out);
  return (struct iovec){.iov_base = n ? c->out.mem + c->out.head : NULL, .iov_len = n};
}

/* With nothing left to write, what the link held may have failed all the same. */
static void write_out(struct conn *c) {
  struct iovec v = unsent_piece(c);
  size_t taken = 0;
  bool any = v.iov_len > 0, asks = any || c->link->ops->held;
  if (!asks || link_takes(c, &v, any, &taken)) write_done(c, taken);
}

/* Copies the pieces to `to`, but for the first `skip` bytes -> how many that are. */
static size_t copy_pieces(char *to, const struct iovec *v, int count, size_t skip) {
  const char *begin = to;
  for (int i = 0; i < count; i++) {
    size_t past = skip < v[i].iov_len ? skip : v[i].iov_len;
    memcpy(to, (const char *)v[i].iov_base + past, v[i].iov_len - past);
    to += v[i].iov_len - past;
    skip -= past;
  }
  return (size_t)(to - begin);
}

/* Memory for all of it is reserved first, and costs little as long as it is not written to; taken
 * whole, it is a spare afterwards, and otherwise shrinks to what is left. */
int conn_send_long(struct conn *c, const struct iovec *v, int count) {
  struct iovec all[1 + CONN_PIECES] = {unsent_piece(c)};
  size_t before = all[0].iov_len, taken = 0, total = 0;
  int first = before ? 0 : 1;
  for (int i = 0; i < count; i++) total += (all[1 + i] = v[i]).iov_len;
  char *room = conn_reserve(c, total);
  if (!room) return ERR_NOMEM;
  all[0] = unsent_piece(c);
  c->messages_out++;
  if (!c->blocked && !link_takes(c, all + first, count + 1 - first, &taken)) return 0;
  size_t rest = copy_pieces(room, v, count, taken > before ? taken - before : 0);
  if (rest) buf_commit(&c->out, rest);
  write_done(c, taken < before ? taken : before);
  return 0;
}

static inline bool output_is_over(const struct conn *c) { return c->out_end || c->fin_sent; }

/* What follows the output: FIN, which the link puts behind what it holds. */
static void shut_when_written(struct conn *c) {
  if (!c->fin_wanted || output_is_over(c) || buf_len(&c->out) > 0) return;
  int r = c->link->ops->shut(c->link);
  c->out_end = r < 0 ? r : 0;
  c->fin_sent = r == 0;
  if (conn_held(c)) note_blocked(c, true);
}

static void close_step(struct conn *c);

static void push_out(struct conn *c) {
  if (buf_len(&c->out) > 0 && !c->blocked && !c->out_end) write_out(c);
  shut_when_written(c);
  if (c->state == CONN_CLOSING) close_step(c);
}

/* Writes although it is still marked as blocked; the mark follows what the link takes. */
void conn_unblock(struct conn *c) {
  if (!c->blocked) return;
  write_out(c);
  push_out(c);
}

char *conn_reserve(struct conn *c, size_t n) {
  return buf_reserve_with(&c->out, n, SIZE_MAX, &c->turn->spares);
}

void conn_commit(struct conn *c, size_t n, bool at_once) {
  buf_commit(&c->out, n);
  c->messages_out++;
  if (c->blocked) return;
  if (at_once || buf_len(&c->out) >= CONN_WRITE_NOW)
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
  if (c->link && !c->link_closed) push_out(c);
  conn_drop(c, CONN_OF_VISIT);
}

/* ---- the end --------------------------------------------------------------------- */

static void forget_delay(struct conn *c) {
  if (!c->delayed) return;
  c->delayed = false;
  c->turn->holds--;
  timers_disarm(&c->turn->timers, &c->timer);
}

void conn_attach(struct conn *c, struct attachment *a) {
  a->next = c->ending;
  a->at = &c->ending;
  if (a->next) a->next->at = &a->next;
  c->ending = a;
}

void conn_detach(struct attachment *a) {
  if (!a->at) return;
  *a->at = a->next;
  if (a->next) a->next->at = a->at;
  a->at = NULL;
}

static void end_attached(struct conn *c) {
  for (struct attachment *a; (a = c->ending);) {
    conn_detach(a);
    a->ended(a);
  }
}

/* Nobody can use it any more; what is left is between the loop and the link. */
static void leave_open(struct conn *c) {
  struct addr local = {.kind = ADDR_NONE};
  c->link->ops->name(c->link, false, &local);
  c->state = CONN_CLOSING;
  c->left = 0;
  if (c->in_end == ERR_TLS || c->in_end == ERR_CERT)
    c->in_end = 0; /* below it the stream goes on */
  forget_delay(c);
  conn_end_rest(c);
  end_attached(c);
  c->turn->holds++; /* until the link is gone: on_closed() */
  conn_forget_page(c);
  buf_fini(&c->in);
  waitq_wake_all(&c->readers, ERR_CLOSED);
  waitq_wake_all(&c->writers, ERR_CLOSED);
  c->local = local;
  if (c->keeper) c->keeper->ended(c->keeper, c);
}

static void close_link(struct conn *c, bool reset) {
  if (c->link_closed) return;
  c->link_closed = true;
  buf_fini(&c->out);
  note_blocked(c, false);
  timers_disarm(&c->turn->timers, &c->timer);
  c->link->ops->close(c->link, reset);
}

static struct conn *conn_of_timer(struct timer *d) {
  return (struct conn *)(void *)((char *)d - offsetof(struct conn, timer));
}

static void on_close_due(struct timer *d);

/* Without memory for the timer there is no lingering. */
static void close_at(struct conn *c, double due) {
  c->timer.fire = on_close_due;
  if (timers_arm(&c->turn->timers, &c->timer, due) != 0) close_link(c, conn_unsent(c) > 0);
}

static void close_after(struct conn *c, double seconds) {
  close_at(c, turn_now(c->turn) + seconds);
}

/* What the peer has still to take: unsent, or in the system's buffers behind the FIN. */
static size_t close_left(const struct conn *c) {
  return c->fin_sent ? c->link->ops->in_flight(c->link) : conn_unsent(c);
}

/* Nothing tells when the system's buffers have become empty. */
static double next_look(const struct conn *c) {
  return c->fin_sent && c->left > 0 ? CLOSE_LOOK : CLOSE_LINGER;
}

/* Notes what is left -> did the peer take something since the last look? */
static bool close_progress(struct conn *c) {
  size_t left = close_left(c);
  bool progress = left != c->left;
  c->left = left;
  if (progress) c->last_active = turn_now(c->turn);
  return progress;
}

/* As long as the peer takes bytes, it gets them; when it has all, it has CLOSE_LINGER seconds to
 * end its side. */
static void on_close_due(struct timer *d) {
  struct conn *c = conn_of_timer(d);
  double waited = c->left == NEVER_LOOKED ? CLOSE_LOOK : 0; /* since the FIN */
  bool progress = close_progress(c);
  bool stalled = turn_now(c->turn) - c->last_active >= CLOSE_STALL;
  if (progress || (c->left > 0 && !stalled)) {
    close_after(c, next_look(c) - (c->left == 0 ? waited : 0));
    return;
  }
  if (c->left > 0 && !c->out_end) c->out_end = ERR_ABORTED;
  close_link(c, c->left > 0);
}

/* Called when a closing connection may have come a step further.  Most peers have ended before the
 * first look, which is spared them. */
static void close_step(struct conn *c) {
  if (c->link_closed) return;
  if (c->out_end || (c->fin_sent && !conn_held(c) && (c->in_end || !c->link->outside))) {
    close_link(c, c->out_end != 0);
    return;
  }
  if (c->fin_sent && !timer_armed(&c->timer)) {
    c->left = NEVER_LOOKED;
    close_at(c, c->turn->now + CLOSE_LOOK);
  } else if (close_progress(c) || !timer_armed(&c->timer)) {
    close_after(c, next_look(c));
  }
  if (!c->link_closed) conn_interest(c);
}

void conn_close(struct conn *c) {
  if (!conn_is_open(c)) return;
  leave_open(c);
  c->fin_wanted = true;
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
  if (t->borrower && conn_spill(t->borrower) != 0) {
    c->link->ops->want(c->link, c->blocked ? LINK_OUT : 0u); /* no memory: the timer ends it */
    return;
  }
  ptrdiff_t r = c->link->ops->read(c->link, t->page, PAGE_SIZE_BYTES);
  if (r > 0 || r == ERR_AGAIN) return;
  c->in_end = r == 0 ? ERR_EOF : (int)r;
  if (c->in_end != ERR_EOF && !c->fin_sent) write_failed(c, c->in_end);
  if (output_is_over(c)) close_step(c);
  if (!c->link_closed) conn_interest(c);
}

int conn_close_write(struct conn *c) {
  if (!conn_is_open(c)) return ERR_CLOSED;
  if (c->out_end || c->fin_wanted) return c->out_end;
  c->fin_wanted = true;
  conn_ask_visit(c);
  waitq_wake_first(&c->writers); /* their answer is known now */
  return 0;
}

bool conn_is_flushed(const struct conn *c) {
  return c->state == CONN_CLOSED || c->link_closed || c->out_end || (c->fin_sent && !conn_held(c));
}

/* ---- facts ----------------------------------------------------------------------- */

void conn_name(const struct conn *c, bool peer, struct addr *a) {
  if (peer)
    *a = c->peer;
  else if (!c->link || c->state != CONN_OPEN || c->link->ops->name(c->link, false, a) != 0)
    *a = c->local;
}

/* Adopting is rare enough for a look at all of them. */
bool conn_owns(const struct turn *t, int fd) {
  for (const struct conn *c = t->first_conn; c; c = c->next) {
    int own = -1;
    if (c->link && !c->link_closed) c->link->ops->option(c->link, LINK_FD, false, &own);
    if (own == fd && own >= 0) return true;
  }
  return false;
}

/* ---- when the state that owned everything goes away ------------------------------ */

static bool is_settled(const struct conn *c) {
  return c->link_closed || (c->fin_sent && c->link->ops->in_flight(c->link) == 0);
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
