/* The modes length, line, bulk and tls: D messages in flight on each of C connections, all on one
 * thread.  A connection holds no bytes: what it has to send is made when the system takes it, what
 * comes in is checked slice by slice, so a message may be of any size.
 * What this is not: it does not know what a message looks like (pattern.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "load.h"
#include "tls.h"

enum {
  OPENING_MOST = 128,     /* connections that the server does not answer yet */
  IN_ROOM = 256 * 1024,   /* for one receive, of all connections */
  PLAIN_ROOM = 16 * 1024, /* a record */
  PAGE = 128 * 1024,      /* where what is to be sent is put together */
  COPY_MOST = 2048,       /* more lies in the pattern and is sent from there */
  PARTS = 64,             /* of one send */
};

/* Messages that became due at once. */
struct batch {
  uint64_t at;
  uint32_t count;
};

struct conn {
  int fd;
  bool blocked;  /* the system took less than was offered */
  bool is_ready; /* its handshake is over, if there is one */
  uint32_t id;
  uint32_t due, sent, seen; /* whole messages; due: sent or to be sent as soon as may be */
  size_t sent_at, seen_at;  /* bytes of the next one */
  struct batch *batches;    /* a ring of D */
  uint32_t oldest, newest;
  struct session *session;
};

struct stream {
  struct conn *conns;
  int count;
  struct tls *tls;
  uint32_t paged_most; /* whole messages that are put together at once; none if they are long */
  char in[IN_ROOM], plain[PLAIN_ROOM], page[PAGE];
};

/* Bytes about to be sent; those that had to be put together are in the page. */
struct outgoing {
  struct iovec part[PARTS];
  size_t parts, paged, bytes;
};

/* ---- what is due ----------------------------------------------------------------- */

static uint32_t next_in_ring(const struct load *l, uint32_t i) {
  return i + 1 == (uint32_t)l->depth ? 0 : i + 1;
}

/* In flight are up to D messages; while connections are opened, each sends one in all. */
static uint32_t allowed(const struct load *l, const struct conn *c) {
  if (l->phase == RUNNING) return (uint32_t)l->depth - (c->due - c->seen);
  return l->phase == OPENING && c->due == 0;
}

static void conn_refill(const struct load *l, struct conn *c) {
  uint32_t count = c->is_ready ? allowed(l, c) : 0;
  if (!count) return;
  c->batches[c->newest] = (struct batch){.at = l->now, .count = count};
  c->newest = next_in_ring(l, c->newest);
  c->due += count;
}

static void conn_note_seen(struct load *l, struct conn *c, uint32_t count) {
  c->seen += count;
  l->total += count;
  while (count) {
    struct batch *b = &c->batches[c->oldest];
    uint32_t n = b->count < count ? b->count : count;
    histogram_add(&l->times, l->now - b->at, n);
    b->count -= n;
    count -= n;
    if (!b->count) c->oldest = next_in_ring(l, c->oldest);
  }
}

/* ---- receiving ------------------------------------------------------------------- */

static void __attribute__((noreturn)) die_wrong(const struct conn *c, uint32_t number) {
  if (number == c->due) die("connection %u: more came back than was sent", c->id);
  die("connection %u: message %u came back wrong", c->id, number);
}

/* A part of one message: its beginning, its end, or both are elsewhere. */
static size_t conn_check_part(struct load *l, struct conn *c, const char *in, size_t n) {
  size_t rest = l->pattern.len - c->seen_at;
  if (n > rest) n = rest;
  if (c->seen == c->due || !pattern_is(&l->pattern, c->id, c->seen, c->seen_at, in, n))
    die_wrong(c, c->seen);
  c->seen_at += n;
  if (n < rest) return n;
  c->seen_at = 0;
  conn_note_seen(l, c, 1);
  return n;
}

static size_t conn_check_whole(struct load *l, struct conn *c, const char *in, size_t n) {
  size_t whole = n / l->pattern.len, due = c->due - c->seen;
  uint32_t count = (uint32_t)(whole < due ? whole : due);
  uint32_t right = pattern_right(&l->pattern, c->id, c->seen, count, in);
  if (right < count) die_wrong(c, c->seen + right);
  conn_note_seen(l, c, count);
  return count * l->pattern.len;
}

static void conn_check(struct load *l, struct conn *c, const char *in, size_t n) {
  size_t at = c->seen_at ? conn_check_part(l, c, in, n) : 0;
  if (at < n) at += conn_check_whole(l, c, in + at, n - at);
  if (at < n) conn_check_part(l, c, in + at, n - at);
}

static void __attribute__((noreturn)) die_ended(const struct conn *c) {
  die("connection %u: ended early, after %u messages", c->id, c->seen);
}

static void conn_unseal(struct load *l, struct conn *c, size_t n) {
  struct stream *s = l->state;
  int some;
  session_feed(c->session, s->in, n);
  if (!c->is_ready) c->is_ready = session_shake(c->session);
  if (!c->is_ready) return;
  while ((some = session_read(c->session, s->plain, PLAIN_ROOM)) > 0)
    conn_check(l, c, s->plain, (size_t)some);
  if (some < 0) die_ended(c);
}

static void conn_receive(struct load *l, struct conn *c) {
  struct stream *s = l->state;
  ssize_t n = recv(c->fd, s->in, IN_ROOM, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n < 0) die("connection %u: %s", c->id, strerror(errno));
  if (n == 0) die_ended(c);
  l->now = now_ns();
  if (c->session)
    conn_unseal(l, c, (size_t)n);
  else
    conn_check(l, c, s->in, (size_t)n);
}

/* ---- sending --------------------------------------------------------------------- */

static size_t taken(const struct conn *c, ssize_t n) {
  if (n < 0 && errno != EAGAIN) die("connection %u: %s", c->id, strerror(errno));
  return n > 0 ? (size_t)n : 0;
}

static void conn_advance(const struct load *l, struct conn *c, size_t n) {
  n += c->sent_at;
  c->sent += (uint32_t)(n / l->pattern.len);
  c->sent_at = n % l->pattern.len;
}

/* Each of these -> false if the system took less than was offered. */

static bool conn_send_whole(struct load *l, struct conn *c) {
  struct stream *s = l->state;
  uint32_t count = c->due - c->sent;
  if (count > s->paged_most) count = s->paged_most;
  size_t bytes = count * l->pattern.len;
  pattern_put(&l->pattern, c->id, c->sent, count, s->page);
  if (c->session) session_write(c->session, s->page, bytes);
  size_t n = c->session ? bytes : taken(c, send(c->fd, s->page, bytes, MSG_NOSIGNAL));
  if (n == bytes)
    c->sent += count;
  else
    conn_advance(l, c, n);
  return c->session ? session_flush(c->session, c->fd) : n == bytes;
}

/* What follows the part before it in the page becomes one with it. */
static void outgoing_copy(struct outgoing *o, char *to, const char *bytes, size_t n) {
  struct iovec *last = o->parts ? &o->part[o->parts - 1] : NULL;
  memcpy(to, bytes, n);
  o->paged += n;
  if (last && (char *)last->iov_base + last->iov_len == to)
    last->iov_len += n;
  else
    o->part[o->parts++] = (struct iovec){.iov_base = to, .iov_len = n};
}

static void outgoing_add(struct stream *s, struct outgoing *o, const char *bytes, size_t n) {
  o->bytes += n;
  if (n <= COPY_MOST)
    outgoing_copy(o, s->page + o->paged, bytes, n);
  else
    o->part[o->parts++] = (struct iovec){.iov_base = (char *)(uintptr_t)bytes, .iov_len = n};
}

static bool has_room(const struct outgoing *o) {
  return o->parts < PARTS && o->paged <= PAGE - COPY_MOST;
}

static bool conn_send_slices(struct load *l, struct conn *c) {
  char scratch[PATTERN_HEAD_MOST];
  size_t at = c->sent_at, n;
  struct outgoing o;
  o.parts = o.paged = o.bytes = 0;
  for (uint32_t number = c->sent; number != c->due && has_room(&o); number++, at = 0)
    for (; at < l->pattern.len && has_room(&o); at += n) {
      const char *bytes;
      n = pattern_slice(&l->pattern, c->id, number, at, scratch, &bytes);
      outgoing_add(l->state, &o, bytes, n);
    }
  struct msghdr m = {.msg_iov = o.part, .msg_iovlen = o.parts};
  n = taken(c, sendmsg(c->fd, &m, MSG_NOSIGNAL));
  conn_advance(l, c, n);
  return n == o.bytes;
}

/* A session never has to begin within a message: it keeps what the system does not take. */
static bool conn_send_some(struct load *l, struct conn *c) {
  const struct stream *s = l->state;
  bool whole = c->sent_at == 0 && s->paged_most;
  return whole ? conn_send_whole(l, c) : conn_send_slices(l, c);
}

static void conn_send(struct load *l, struct conn *c) {
  bool blocked = c->session && !session_flush(c->session, c->fd);
  while (!blocked && c->sent != c->due) blocked = !conn_send_some(l, c);
  if (blocked == c->blocked) return;
  c->blocked = blocked;
  loop_watch(l, EPOLL_CTL_MOD, c->fd, EPOLLIN | (blocked ? EPOLLOUT : 0u), c);
}

static void conn_serve(struct load *l, void *who, uint32_t events) {
  struct conn *c = who;
  if (events & ~(uint32_t)EPOLLOUT) conn_receive(l, c);
  conn_refill(l, c);
  if (!c->blocked || c->session || events & EPOLLOUT) conn_send(l, c);
}

/* ---- all of them ----------------------------------------------------------------- */

static void conn_open(struct load *l, struct conn *c, uint32_t id) {
  struct stream *s = l->state;
  c->id = id;
  c->fd = dial(l, SOCK_STREAM);
  c->batches = allocate((size_t)l->depth, sizeof *c->batches);
  loop_watch(l, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
  if (s->tls) c->session = session_new(s->tls, id);
  c->is_ready = !c->session;
  conn_serve(l, c, EPOLLOUT);
}

void stream_prepare(struct load *l, int most, bool tls, bool idle) {
  struct stream *s = allocate(1, sizeof *s);
  s->conns = allocate((size_t)most, sizeof *s->conns);
  s->paged_most = tls || l->pattern.len <= COPY_MOST ? (uint32_t)(PAGE / l->pattern.len) : 0;
  if (tls) s->tls = tls_new(getenv("BENCH_CERT"), idle);
  l->state = s;
  l->serve = conn_serve;
  loop_open(l);
}

/* Never so many at once that the server's queue of connections could overflow. */
void stream_open(struct load *l, int to) {
  struct stream *s = l->state;
  l->phase = OPENING;
  while (l->total < (uint64_t)to) {
    l->now = now_ns();
    while (s->count < to && (uint64_t)s->count - l->total < OPENING_MOST) {
      conn_open(l, &s->conns[s->count], (uint32_t)s->count);
      s->count++;
    }
    loop_turn(l);
  }
}

static bool is_drained(const struct load *l) {
  const struct stream *s = l->state;
  for (int i = 0; i < s->count; i++)
    if (s->conns[i].seen != s->conns[i].due) return false;
  return true;
}

static void run(struct load *l, bool tls) {
  stream_prepare(l, l->conns, tls, false);
  stream_open(l, l->conns);
  struct stream *s = l->state;
  l->phase = RUNNING;
  l->is_drained = is_drained;
  for (int i = 0; i < s->count; i++) conn_serve(l, &s->conns[i], EPOLLOUT);
  measure(l);
}

void run_length(struct load *l) { run(l, false); }

void run_tls(struct load *l) { run(l, true); }
