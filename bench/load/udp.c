/* The mode udp: D datagrams in flight on each of C connected sockets, answered in any order.  One
 * that is not answered within a while is counted as lost, and another sent in its place.
 * What this is not: it does not blame anybody for what was lost, as long as something comes. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "load.h"

enum {
  BATCH = 64,       /* datagrams to a system call */
  SLOT_BITS = 16,   /* the low part of a number is the place in flight */
  LOST_MS = 200,    /* longer than any answer takes on this host */
  BUFFER = 4 << 20, /* of the system for a socket, if it permits */
};

/* One place in flight. */
struct slot {
  uint32_t number;
  bool is_out;
  uint64_t sent_at;
};

struct peer {
  int fd;
  uint32_t id;
  uint64_t lost, late; /* late: came after they had been counted as lost */
  struct slot *slots;
};

struct udp {
  struct peer *peers;
  uint64_t next_look;
  int out_count; /* put together, not yet sent */
  struct mmsghdr in[BATCH], out[BATCH];
  struct iovec in_part[BATCH], out_part[BATCH];
};

/* ---- sending --------------------------------------------------------------------- */

/* What the system does not take is as lost as what it drops later. */
static void peer_flush(struct load *l, struct peer *p) {
  struct udp *u = l->state;
  int n = u->out_count ? sendmmsg(p->fd, u->out, (unsigned)u->out_count, 0) : 0;
  if (n < 0 && errno != EAGAIN && errno != ENOBUFS) die("socket %u: %s", p->id, strerror(errno));
  u->out_count = 0;
}

static void peer_send(struct load *l, struct peer *p, struct slot *slot) {
  struct udp *u = l->state;
  slot->number += 1u << SLOT_BITS;
  slot->is_out = true;
  slot->sent_at = l->now;
  pattern_put(&l->pattern, p->id, slot->number, 1, u->out_part[u->out_count].iov_base);
  if (++u->out_count == BATCH) peer_flush(l, p);
}

/* ---- receiving ------------------------------------------------------------------- */

/* Two answers to one datagram are wrong, unless it was taken for lost. */
static void peer_take_late(struct peer *p, uint32_t number) {
  if (p->late == p->lost) die("socket %u: datagram %u came back unawaited", p->id, number);
  p->late++;
}

static void peer_take(struct load *l, struct peer *p, const char *in, size_t n) {
  uint32_t id, number;
  if (n != l->pattern.len) die("socket %u: a datagram came back with another length", p->id);
  pattern_read_stamp(in, &id, &number);
  uint32_t place = number & ((1u << SLOT_BITS) - 1);
  if (id != p->id || place >= (uint32_t)l->depth ||
      pattern_right(&l->pattern, id, number, 1, in) != 1)
    die("socket %u: a datagram came back wrong", p->id);
  struct slot *slot = &p->slots[place];
  if (!slot->is_out || slot->number != number) {
    peer_take_late(p, number);
    return;
  }
  slot->is_out = false;
  l->total++;
  histogram_add(&l->times, l->now - slot->sent_at, 1);
  if (l->phase == RUNNING) peer_send(l, p, slot);
}

static void peer_serve(struct load *l, void *who, uint32_t events) {
  struct udp *u = l->state;
  struct peer *p = who;
  int n = recvmmsg(p->fd, u->in, BATCH, MSG_TRUNC, NULL);
  (void)events;
  if (n < 0 && errno == EAGAIN) return;
  if (n < 0) die("socket %u: %s", p->id, strerror(errno));
  l->now = now_ns();
  for (int i = 0; i < n; i++) peer_take(l, p, u->in_part[i].iov_base, u->in[i].msg_len);
  peer_flush(l, p);
}

/* ---- what was lost --------------------------------------------------------------- */

static void peer_look(struct load *l, struct peer *p) {
  for (int i = 0; i < l->depth; i++) {
    struct slot *slot = &p->slots[i];
    if (!slot->is_out || l->now - slot->sent_at < LOST_MS * UINT64_C(1000000)) continue;
    slot->is_out = false;
    p->lost++;
    l->lost++;
    if (l->phase == RUNNING) peer_send(l, p, slot);
  }
  peer_flush(l, p);
}

static void look(struct load *l) {
  struct udp *u = l->state;
  if (l->now < u->next_look) return;
  u->next_look = l->now + TICK_MS * UINT64_C(1000000);
  for (int i = 0; i < l->conns; i++) peer_look(l, &u->peers[i]);
}

static bool is_drained(const struct load *l) {
  const struct udp *u = l->state;
  for (int i = 0; i < l->conns; i++)
    for (int slot = 0; slot < l->depth; slot++)
      if (u->peers[i].slots[slot].is_out) return false;
  return true;
}

/* ---- all of them ----------------------------------------------------------------- */

/* The message's stamp must be whole, since it says which it is. */
static void peer_open(struct load *l, struct peer *p, uint32_t id) {
  int buffer = BUFFER;
  p->id = id;
  p->fd = dial(l, SOCK_DGRAM);
  p->slots = allocate((size_t)l->depth, sizeof *p->slots);
  setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  loop_watch(l, EPOLL_CTL_ADD, p->fd, EPOLLIN, p);
  for (int i = 0; i < l->depth; i++) {
    p->slots[i].number = (uint32_t)i;
    peer_send(l, p, &p->slots[i]);
  }
  peer_flush(l, p);
}

static void batch_open(const struct load *l, struct mmsghdr *m, struct iovec *part) {
  size_t len = l->pattern.len;
  char *page = allocate(BATCH, len);
  for (size_t i = 0; i < BATCH; i++) {
    part[i] = (struct iovec){.iov_base = page + i * len, .iov_len = len};
    m[i].msg_hdr = (struct msghdr){.msg_iov = &part[i], .msg_iovlen = 1};
  }
}

void run_udp(struct load *l) {
  struct udp *u = allocate(1, sizeof *u);
  u->peers = allocate((size_t)l->conns, sizeof *u->peers);
  batch_open(l, u->in, u->in_part);
  batch_open(l, u->out, u->out_part);
  l->state = u;
  l->serve = peer_serve;
  l->tick = look;
  l->is_drained = is_drained;
  l->phase = RUNNING;
  loop_open(l);
  l->now = now_ns();
  for (int i = 0; i < l->conns; i++) peer_open(l, &u->peers[i], (uint32_t)i);
  measure(l);
}
