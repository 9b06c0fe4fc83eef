/* Datagram sockets: see udp.h. */
#include "udp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "err.h"

/* A datagram, or a failure to be told in its place. */
struct early {
  struct early *next;
  struct datagram d;
  int code;
  char bytes[];
};

static void on_ready(struct dgram *d, unsigned events);
static void show_interest(struct udp *u);

/* ---- life ------------------------------------------------------------------------ */

static void enlist(struct udp *u) {
  struct turn *t = u->turn;
  u->next = t->first_udp;
  if (u->next) u->next->prev = u;
  t->first_udp = u;
  t->udps++;
}

struct udp *udp_open(struct turn *t, const struct addr *at, const struct dgram_opts *opts,
                     int *code) {
  struct udp *u = calloc(1, sizeof *u);
  *code = u ? t->world->ops->datagrams(t->world, at, opts, &u->dgram) : ERR_NOMEM;
  if (*code) {
    free(u);
    return NULL;
  }
  u->turn = t;
  u->max = UDP_MAX;
  u->timeout = u->recv_deadline = u->send_deadline = INFINITY;
  u->dgram->owner = u;
  u->dgram->ready = on_ready;
  u->local = *at;
  u->dgram->ops->name(u->dgram, false, &u->local);
  enlist(u);
  return u;
}

/* Its bytes stay until the next one is taken. */
static struct early *take_early(struct udp *u) {
  struct early *e = u->first_early;
  u->first_early = e->next;
  if (!u->first_early) u->last_early = NULL;
  u->queued--;
  if (!e->code) u->lost++; /* until it is in the caller's hands */
  free(u->in_hand);
  return u->in_hand = e;
}

static void forget_early(struct udp *u) {
  while (u->first_early) take_early(u);
  free(u->in_hand);
  u->in_hand = NULL;
}

void udp_close(struct udp *u) {
  if (!u->dgram) return;
  u->drops = u->dgram->ops->drops(u->dgram);
  u->dgram->ops->close(u->dgram);
  u->dgram = NULL;
  if (u->held) u->turn->holds--;
  u->held = false;
  forget_early(u);
  waitq_wake_all(&u->readers, ERR_CLOSED);
  waitq_wake_all(&u->writers, ERR_CLOSED);
}

void udp_release(struct udp *u) {
  struct turn *t = u->turn;
  udp_close(u);
  if (u->prev)
    u->prev->next = u->next;
  else
    t->first_udp = u->next;
  if (u->next) u->next->prev = u->prev;
  t->udps--;
  waitq_wake_all(&u->readers, ERR_CLOSED); /* a call that only gave way may still stand there */
  waitq_wake_all(&u->writers, ERR_CLOSED);
  free(u);
}

void udp_free_all(struct turn *t) {
  for (struct udp *next, *u = t->first_udp; u; u = next) {
    next = u->next;
    udp_release(u);
  }
}

void udp_hold(struct udp *u) {
  if (u->held || !u->dgram) return;
  u->held = true;
  u->turn->holds++;
}

void udp_join(struct udp *u) { u->workers++; }

void udp_leave(struct udp *u) {
  if (--u->workers == 0) udp_close(u);
}

int udp_connect(struct udp *u, const struct addr *peer) {
  if (!u->dgram) return ERR_CLOSED;
  int r = u->dgram->ops->connect(u->dgram, peer);
  if (r) return r;
  if (u->dgram->ops->name(u->dgram, true, &u->peer) != 0) u->peer = *peer;
  u->dgram->ops->name(u->dgram, false, &u->local); /* the system has chosen an interface */
  return 0;
}

/* ---- receiving ------------------------------------------------------------------- */

/* What came before the connect may be from anybody. */
static bool is_stranger(const struct udp *u, const struct addr *from) {
  return u->peer.kind != ADDR_NONE && (from->kind != u->peer.kind || from->port != u->peer.port ||
                                       memcmp(from->ip, u->peer.ip, sizeof from->ip) != 0);
}

/* One from the system, into the page; nobody keeps that. */
static int receive(struct udp *u, struct datagram *d) {
  struct turn *t = u->turn;
  if (u->dry) return ERR_AGAIN;
  int r = t->borrower ? conn_spill(t->borrower) : 0;
  if (r) return r;
  ptrdiff_t n = u->dgram->ops->recv(u->dgram, t->page, u->max, &d->about);
  u->dry = n == ERR_AGAIN;
  if (n < 0) return (int)n;
  d->base = t->page;
  d->len = (size_t)n;
  u->lost++; /* until it is in the caller's hands */
  return 0;
}

static int next_datagram(struct udp *u, struct datagram *d) {
  if (!u->first_early) return receive(u, d);
  const struct early *e = take_early(u);
  *d = e->d;
  return e->code;
}

int udp_take(struct udp *u, struct datagram *d) {
  if (!u->dgram) return ERR_CLOSED;
  for (;;) {
    int r = next_datagram(u, d);
    if (r || !is_stranger(u, &d->about.from)) return r;
  }
}

void udp_took(struct udp *u, const struct datagram *d) {
  u->lost--;
  u->datagrams_in++;
  u->bytes_in += d->len;
  if (u->ahead) show_interest(u); /* there may be room again */
}

/* ---- reading ahead --------------------------------------------------------------- */

static int keep_early(struct udp *u, int code, const struct datagram *d) {
  size_t n = code ? 0 : d->len;
  struct early *e = malloc(sizeof *e + n);
  if (!e) return ERR_NOMEM;
  *e = (struct early){.code = code, .d = *d};
  if (n) memcpy(e->bytes, d->base, n);
  e->d.base = e->bytes;
  *(u->last_early ? &u->last_early->next : &u->first_early) = e;
  u->last_early = e;
  u->queued++;
  if (!code) u->lost--;
  return 0;
}

/* A turn's worth; what is left is reported again. */
static void read_ahead(struct udp *u) {
  struct datagram d = {.len = 0};
  for (int i = 0; i < TURN_BUDGET && u->queued < u->ahead; i++) {
    int r = receive(u, &d);
    if (r == ERR_AGAIN || r == ERR_NOMEM || keep_early(u, r, &d) != 0) return;
  }
}

/* Who waits is served from what was read ahead as well: no datagram overtakes another. */
static bool wants_input(const struct udp *u) {
  return u->queued < u->ahead || (u->readers.first && !u->queued);
}

static void want(struct udp *u, bool in, bool out) {
  if (!u->dgram) return;
  u->dgram->ops->want(u->dgram, (in ? (unsigned)DGRAM_IN : 0u) | (out ? (unsigned)DGRAM_OUT : 0u));
}

static void show_interest(struct udp *u) { want(u, wants_input(u), u->writers.first != NULL); }
void udp_want_input(struct udp *u) { want(u, true, u->writers.first != NULL); }
void udp_want_output(struct udp *u) { want(u, wants_input(u), true); }
void udp_set_ahead(struct udp *u, size_t n) {
  u->ahead = n;
  show_interest(u);
}

/* A report is taken back while nobody can act on it: it would come on every poll. */
static void on_ready(struct dgram *dgram, unsigned events) {
  struct udp *u = dgram->owner;
  if (events & DGRAM_IN) {
    u->dry = false;
    if (u->ahead) read_ahead(u);
    waitq_wake_first(&u->readers);
  }
  if (events & DGRAM_OUT) waitq_wake_first(&u->writers);
  show_interest(u);
}

/* ---- sending --------------------------------------------------------------------- */

int udp_send(struct udp *u, const void *data, size_t n, const struct addr *to) {
  if (!u->dgram) return ERR_CLOSED;
  if (!to && u->peer.kind == ADDR_NONE) return ERR_NOTCONN;
  int r = u->dgram->ops->send(u->dgram, data, n, to);
  if (r) return r;
  u->datagrams_out++;
  u->bytes_out += n;
  return 0;
}

/* ---- times and facts ------------------------------------------------------------- */

void udp_set_deadline(struct udp *u, unsigned which, double at) {
  if (which & UDP_RECV) {
    u->recv_deadline = at;
    waitq_set_deadline(&u->readers, at);
  }
  if (which & UDP_SEND) {
    u->send_deadline = at;
    waitq_set_deadline(&u->writers, at);
  }
}

uint64_t udp_drops(const struct udp *u) {
  return u->lost + (u->dgram ? u->dgram->ops->drops(u->dgram) : u->drops);
}
