/* A connection's life and input: see conn.h.  Its output and its end are in conn_out.c. */
#include "conn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conn_internal.h"
#include "err.h"
#include "link_tls.h"

static void on_ready(struct link *l, unsigned events);
static void on_closed(struct link *l);

/* ---- life ------------------------------------------------------------------------ */

static void take_link(struct conn *c, struct link *l, const struct addr *peer) {
  c->link = l;
  l->owner = c;
  l->ready = on_ready;
  l->closed = on_closed;
  if (peer)
    c->peer = *peer;
  else if (l->ops->name(l, true, &c->peer) != 0)
    c->peer.kind = ADDR_NONE;
  l->ops->want(l, LINK_IN);
}

struct conn *conn_open(struct turn *t, struct link *l, const struct addr *peer) {
  struct conn *c = calloc(1, sizeof *c);
  if (!c) {
    l->ready = NULL;
    l->closed = NULL;
    l->ops->close(l, true);
    return NULL;
  }
  c->turn = t;
  c->limits = &conn_default_limits;
  c->timeout = c->recv_deadline = c->send_deadline = c->recv_due = INFINITY;
  c->idle_timeout = INFINITY;
  c->holders = CONN_OF_LOOP | CONN_OF_OWNER;
  c->opened = c->last_active = t->now;
  t->conns++;
  c->next = t->first_conn;
  if (c->next) c->next->prev = c;
  t->first_conn = c;
  take_link(c, l, peer);
  return c;
}

static void conn_free(struct conn *c) {
  struct turn *t = c->turn;
  if (c->prev)
    c->prev->next = c->next;
  else
    t->first_conn = c->next;
  if (c->next) c->next->prev = c->prev;
  t->conns--;
  waitq_wake_all(&c->readers, ERR_CLOSED); /* a call that only gave way may still stand there */
  waitq_wake_all(&c->writers, ERR_CLOSED);
  timers_disarm(&t->timers, &c->timer);
  buf_fini(&c->in);
  buf_fini(&c->out);
  conn_drop_limits(c);
  free(c);
}

void conn_drop(struct conn *c, enum conn_holder holder) {
  if (holder == CONN_OF_OWNER) conn_close(c);
  c->holders &= (uint8_t) ~(unsigned)holder;
  if (!c->holders) conn_free(c);
}

/* An owner that died without a word (a finalizer that had no stack to run on) does not count. */
void conn_free_all(struct turn *t) {
  for (struct conn *next, *c = t->first_conn; c; c = next) {
    next = c->next;
    conn_free(c);
  }
}

static void on_closed(struct link *l) {
  struct conn *c = l->owner;
  c->link = NULL;
  c->state = CONN_CLOSED;
  c->turn->holds--; /* of leave_open() */
  if (c->keeper) c->keeper->gone(c->keeper, c);
  conn_drop(c, CONN_OF_LOOP);
}

void conn_forget_keeper(struct turn *t, const struct keeper *k) {
  for (struct conn *next, *c = t->first_conn; c; c = next) {
    next = c->next;
    if (c->keeper != k) continue;
    c->keeper = NULL;
    if (c->holders & CONN_OF_KEEPER) conn_drop(c, CONN_OF_KEEPER);
  }
}

/* ---- the page -------------------------------------------------------------------- */

static inline bool has_page(const struct conn *c) { return c->turn->borrower == c; }

static void page_lend(struct turn *t, struct conn *c, size_t end) {
  t->borrower = c;
  t->page_at = 0;
  t->page_end = end;
}

void conn_forget_page(struct conn *c) {
  if (has_page(c)) c->turn->borrower = NULL;
}

int conn_spill(struct conn *c) {
  struct turn *t = c->turn;
  if (!has_page(c)) return 0;
  if (t->page_end > t->page_at) {
    int r = buf_append(&c->in, t->page + t->page_at, t->page_end - t->page_at);
    if (r) return r;
  }
  t->borrower = NULL;
  return 0;
}

/* Everything buffered is in one place, so that it is one slice: the page or `in`. */
const char *conn_input(const struct conn *c, size_t *n) {
  const struct turn *t = c->turn;
  if (has_page(c)) {
    *n = t->page_end - t->page_at;
    return t->page + t->page_at;
  }
  *n = buf_len(&c->in);
  return *n ? buf_data(&c->in) : "";
}

bool conn_has_begun(const struct conn *c) {
  size_t n;
  conn_input(c, &n);
  return n || (conn_is_open(c) && c->link->ops->midway && c->link->ops->midway(c->link));
}

/* Only what a long message grew to becomes a spare.  The little that is read ahead was not taken
 * from there: it would fill them up, piece by piece, until a long message finds no room. */
static void empty_input(struct conn *c) {
  if (c->in.cap > PAGE_SIZE_BYTES)
    buf_recycle(&c->in, &c->turn->spares);
  else
    buf_fini(&c->in);
}

/* The page becomes this connection's, with what it has buffered at the front. */
static int page_gather(struct conn *c) {
  struct turn *t = c->turn;
  size_t n;
  if (has_page(c)) {
    n = t->page_end - t->page_at;
    if (t->page_at) memmove(t->page, t->page + t->page_at, n);
  } else {
    if (t->borrower) {
      int r = conn_spill(t->borrower);
      if (r) return r;
    }
    n = buf_len(&c->in);
    if (n) memcpy(t->page, buf_data(&c->in), n);
    empty_input(c);
  }
  page_lend(t, c, n);
  return 0;
}

/* ---- idleness -------------------------------------------------------------------- */

static void update_recv_due(struct conn *c) {
  double idle = c->heard + (double)c->idle_timeout;
  c->recv_due = idle < c->recv_deadline ? idle : c->recv_deadline;
}

/* Whoever receives this sees the new time when it waits again; those behind it are parked. */
static void note_heard(struct conn *c) {
  if (c->turn->now > c->heard) c->heard = c->turn->now;
  update_recv_due(c);
  if (c->readers.first != c->readers.last) waitq_set_deadline(&c->readers, c->recv_due);
}

static inline bool counts_idleness(const struct conn *c) { return c->idle_timeout < INFINITY; }

/* What is read outside the usual course came now, however long ago the poll was. */
static void freshen_now(const struct conn *c) {
  if (counts_idleness(c)) c->turn->now = turn_now(c->turn);
}

void conn_try_link(struct conn *c) {
  c->readable = true;
  freshen_now(c);
}

void conn_set_idle_timeout(struct conn *c, double seconds) {
  if (!conn_is_open(c)) return;
  c->idle_timeout = (float)seconds;
  c->heard = turn_now(c->turn);
  update_recv_due(c);
  waitq_set_deadline(&c->readers, c->recv_due);
}

/* ---- reading --------------------------------------------------------------------- */

static void note_end(struct conn *c, ptrdiff_t r) {
  c->in_end = r == 0 ? ERR_EOF : (int)r;
  conn_note_detail(c);
  c->readable = false;
  conn_interest(c);
}

/* One read into memory for `room` bytes. Fewer than that: the link is dry. */
static int read_once(struct conn *c, char *to, size_t room, size_t *got) {
  ptrdiff_t r = c->link->ops->read(c->link, to, room);
  *got = 0;
  if (r == ERR_AGAIN) {
    c->readable = false;
    return ERR_AGAIN;
  }
  if (r <= 0) {
    note_end(c, r);
    return 0;
  }
  *got = (size_t)r;
  c->bytes_in += *got;
  if (c->by_byte && counts_idleness(c)) note_heard(c);
  if (*got < room) c->readable = false;
  return 0;
}

static int fill_page(struct conn *c) {
  struct turn *t = c->turn;
  int r = page_gather(c);
  if (r) return r;
  size_t got;
  r = read_once(c, t->page + t->page_end, PAGE_SIZE_BYTES - t->page_end, &got);
  t->page_end += got;
  if (t->page_end == 0) t->borrower = NULL;
  return r;
}

/* What is in the page of a long message goes to memory that is large enough at once, if there is
 * some. */
static int spill_into_spare(struct conn *c, size_t most) {
  if (has_page(c) && !buf_reserve_with(&c->in, PAGE_SIZE_BYTES, most, &c->turn->spares))
    return ERR_NOMEM;
  return conn_spill(c);
}

/* So little of a long message came that memory of its size is for others: an announcement costs its
 * sender nothing. */
static void make_small(struct conn *c) {
  struct buf small = {0};
  if (buf_append(&small, buf_data(&c->in), buf_len(&c->in)) != 0) return;
  buf_recycle(&c->in, &c->turn->spares);
  c->in = small;
}

/* A long message goes where it will stay: memory grows as it comes, and never past its end. */
static int fill_tail(struct conn *c, size_t have, size_t most) {
  int r = spill_into_spare(c, most);
  if (r) return r;
  size_t left = most - have, step = have < PAGE_SIZE_BYTES ? PAGE_SIZE_BYTES : have;
  char *to = buf_reserve_with(&c->in, step < left ? step : left, most, &c->turn->spares);
  if (!to) return ERR_NOMEM;
  size_t got, room = buf_room(&c->in);
  r = read_once(c, to, room < left ? room : left, &got);
  buf_commit(&c->in, got);
  if (got && have + got < CONN_BEGUN && !c->readable) make_small(c);
  return r;
}

/* Reads once, so that a message which needs `need` bytes in all can become complete: into the
 * page if it fits there or has hardly begun, else to where it will stay. `limit` bounds a message
 * whose length is not known yet. */
static int fill(struct conn *c, size_t have, size_t need, size_t limit) {
  if (c->in_end) return c->in_end;
  if (!c->readable) return ERR_AGAIN;
  bool begun = have == 0 || have >= CONN_BEGUN;
  if (have < PAGE_SIZE_BYTES && (need <= PAGE_SIZE_BYTES || !begun)) return fill_page(c);
  return fill_tail(c, have, need > limit ? need : limit);
}

/* How many bytes a message whose end is not in sight may make us hold. */
static size_t hold_limit(const struct framing *f, size_t need) {
  const size_t terminator = f->kind == FRAMING_DELIMITER ? f->delimiter_len : 2;
  if ((f->kind == FRAMING_FIXED && !f->at_least) || framing_is_counted(f)) return need;
  return f->max > SIZE_MAX - terminator - 1 ? SIZE_MAX : f->max + terminator + 1;
}

void conn_begin(struct conn *c, const struct framing *f) {
  if (f->kind == FRAMING_DELIMITER) c->scan = (struct scan){0, 0};
}

/* What was looked at counts only for the same search; the others look at headers alone. */
static void scan_for(struct conn *c, const struct framing *f) {
  bool same = f->kind == c->scan_kind &&
              (f->kind == FRAMING_LINE ||
               (f->kind == FRAMING_DELIMITER && f->delimiter == c->scan_delimiter));
  if (same) return;
  c->scan = (struct scan){0, 0};
  c->scan_kind = f->kind;
  c->scan_delimiter = f->delimiter;
}

int conn_find(struct conn *c, const struct framing *f, struct message *m) {
  if (!conn_is_open(c)) return ERR_CLOSED;
  if (c->desync && framing_is_counted(f)) return ERR_PROTO;
  scan_for(c, f);
  c->by_byte = f->by_byte;
  int r;
  do {
    size_t n;
    m->base = conn_input(c, &n);
    if (n == 0 && !c->in_end && f->kind != FRAMING_FIXED) { /* it could not be found in nothing */
      if ((r = fill(c, 0, 1, 1)) != 0) break;
      m->base = conn_input(c, &n);
    }
    r = framing_cut(f, &c->scan, m->base, n, c->in_end == ERR_EOF, &m->cut);
    if (r != ERR_AGAIN && r != ERR_EOF) return r;
    if (c->in_end) return c->in_end;
    r = fill(c, n, c->scan.need, hold_limit(f, c->scan.need));
  } while (r == 0);
  return r;
}

int conn_take(struct conn *c, const struct framing *f, struct message *m) {
  int r = conn_find(c, f, m);
  if (framing_is_counted(f) && (r == ERR_MSGSIZE || r == ERR_PROTO)) c->desync = true;
  return r;
}

void conn_consume(struct conn *c, size_t n) {
  struct turn *t = c->turn;
  c->scan = (struct scan){0, 0};
  c->consumed += n;
  c->skipping = 0; /* whoever takes bytes decides anew where a line begins */
  if (!has_page(c)) {
    if (n < buf_len(&c->in))
      buf_consume(&c->in, n);
    else
      empty_input(c);
    return;
  }
  size_t have = t->page_end - t->page_at;
  t->page_at += n < have ? n : have;
  if (t->page_at == t->page_end) t->borrower = NULL;
}

void conn_took(struct conn *c, const struct cut *cut) {
  if (!conn_is_open(c)) return; /* closed by a finalizer while the message was pushed */
  conn_consume(c, cut->take);
  c->messages_in++;
  if (cut->take > 0 && counts_idleness(c)) note_heard(c);
}

int conn_skip(struct conn *c, const struct framing *f) {
  struct framing any = *f;
  struct message m;
  any.max = PAGE_SIZE_BYTES / 2;
  conn_begin(c, &any);
  int r = conn_take(c, &any, &m);
  if (r == 0 || r == ERR_MSGSIZE) /* no terminator begins in the first max bytes */
    conn_consume(c, r ? any.max : m.cut.take);
  c->skipping = r ? f->kind : 0;
  return r;
}

/* ---- readiness ------------------------------------------------------------------- */

/* Nobody waits for input: a little is read ahead, which also shows the peer's end early.
 * Past that, interest is dropped, and the peer feels it. false: no memory, it is dropped now. */
static bool read_ahead(struct conn *c) {
  struct turn *t = c->turn;
  if (t->borrower && conn_spill(t->borrower) != 0) {
    c->link->ops->want(c->link, c->blocked ? LINK_OUT : 0u); /* until somebody asks again */
    return false;
  }
  size_t have = buf_len(&c->in), got;
  if (have < CONN_READ_AHEAD && !c->in_end) {
    if (read_once(c, t->page, CONN_READ_AHEAD - have, &got) != 0) return true;
    if (buf_append_within(&c->in, t->page, got, CONN_READ_AHEAD) != 0) note_end(c, ERR_NOMEM);
  }
  return true;
}

bool conn_reads_ahead(const struct conn *c) {
  size_t n;
  conn_input(c, &n);
  return n < CONN_READ_AHEAD;
}

void conn_look(struct conn *c) {
  if (!conn_is_open(c) || c->in_end || c->readers.first) return;
  conn_try_link(c);
  if (read_ahead(c)) conn_interest(c);
}

void conn_want_input(struct conn *c) {
  if (conn_is_open(c) && !c->in_end)
    c->link->ops->want(c->link, LINK_IN | (c->blocked ? LINK_OUT : 0u));
}

/* Looks at the link once more: what the peer sent before is not lost. */
void conn_drain(struct conn *c) {
  if (!conn_is_open(c)) return;
  c->draining = true;
  conn_try_link(c);
  waitq_wake_first(&c->readers);
}

int conn_unread(struct conn *c, const char *data, size_t n) {
  int r = conn_spill(c);
  c->scan = (struct scan){0, 0};
  return r || n == 0 ? r : buf_prepend(&c->in, data, n);
}

/* The keeper hears of it once, whatever the outcome; it may close the connection, whose last words
 * then go out before anything is read. */
static bool is_up(struct conn *c) {
  if (!c->handshaking) return true;
  if (c->link->ops->state(c->link) == ERR_AGAIN) return false;
  c->handshaking = false;
  if (c->keeper && c->keeper->up) c->keeper->up(c->keeper, c);
  return conn_is_open(c);
}

/* What nobody waits for is read ahead when it is reported again: a call that comes until then reads
 * it without a copy. */
static void on_ready(struct link *l, unsigned events) {
  struct conn *c = l->owner;
  turn_freshen(c->turn);
  c->last_active = c->turn->now;
  if (!is_up(c)) return;
  if (events & LINK_OUT) conn_unblock(c);
  if (c->link_closed || !(events & LINK_IN) || c->in_end) return;
  bool again = c->readable;
  c->readable = true;
  if (c->state == CONN_CLOSING) {
    conn_discard(c);
  } else if (c->readers.first) {
    waitq_wake_first(&c->readers);
  } else if (again && read_ahead(c)) {
    conn_interest(c);
    conn_disturb(c);
  }
}

/* ---- TLS ------------------------------------------------------------------------- */

int conn_secure(struct conn *c, const struct link_tls_opts *o) {
  struct link_tls_opts with = *o;
  struct link *l;
  with.early = conn_input(c, &with.early_len);
  int r = link_tls_open(c->turn, c->link, &with, &l);
  if (r) return r;
  conn_forget_page(c);
  buf_fini(&c->in);
  c->bytes_in -= with.early_len; /* they are none of the stream's */
  c->link = l;
  l->owner = c;
  l->ready = on_ready;
  l->closed = on_closed;
  c->scan = (struct scan){0, 0};
  c->in_end = 0;
  c->readable = false;
  c->handshaking = true;
  conn_interest(c);
  return 0;
}

int conn_advance(struct conn *c, bool *moved) {
  bool any = link_tls_advance(c->link);
  if (moved) *moved = any;
  return conn_handshake(c);
}

int conn_handshake(struct conn *c) {
  int r = c->link->ops->state(c->link);
  if (r != ERR_AGAIN) c->handshaking = false;
  if (r && r != ERR_AGAIN) conn_note_detail(c);
  return r;
}

/* ---- times ------------------------------------------------------------------------ */

void conn_set_deadline(struct conn *c, unsigned which, double at) {
  if (which & CONN_RECV) {
    c->recv_deadline = at;
    if (conn_is_open(c)) update_recv_due(c);
    waitq_set_deadline(&c->readers, c->recv_due);
  }
  if (which & CONN_SEND) {
    c->send_deadline = at;
    waitq_set_deadline(&c->writers, at);
  }
}
