/* One datagram socket: who receives and who sends, until when, what was lost.
 *
 * Pulled as connections are: a datagram is taken from the system when a receiver asks for it,
 * so that the system's queue is the queue.  With `ahead` more of them are read ahead of the
 * receivers; what comes beyond that waits with the system again.  Either queue is bounded: the
 * system drops what has no room, and counts it.
 * What this is not: it knows no tasks (only waits), no names, and runs no handler. */
#ifndef LUNEWIRE_UDP_H
#define LUNEWIRE_UDP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dgram.h"
#include "turn.h"

enum { UDP_MAX = 65535 }; /* no longer datagram is received: as IP has it */

/* One that was received. Read ahead: the bytes follow it. */
struct datagram {
  const char *base;
  size_t len;
  struct dgram_from about;
};

struct early;

struct udp {
  struct turn *turn;
  struct dgram *dgram; /* NULL once closed */
  struct udp *prev, *next;
  struct waitq readers, writers;
  struct early *first_early, *last_early; /* read ahead */
  struct early *in_hand;                  /* the one of them that was taken last */
  size_t max;                             /* longest datagram received, at most UDP_MAX */
  size_t ahead, queued;                   /* how many may be read ahead; how many are */
  double timeout;                         /* default of each call; INFINITY */
  double recv_deadline, send_deadline;
  struct addr local, peer; /* peer: ADDR_NONE until connected */
  uint64_t datagrams_in, datagrams_out, bytes_in, bytes_out;
  uint64_t lost;    /* taken from the system and not handed over */
  uint32_t drops;   /* of the system; once closed */
  bool dry;         /* the system had none when last asked, and has reported none since */
  bool held;        /* counts among turn.holds */
  unsigned workers; /* udp_join: who serves it */
};

/* A socket bound to an address. NULL: *code says why. */
struct udp *udp_open(struct turn *t, const struct addr *at, const struct dgram_opts *opts,
                     int *code);
/* Closes, and frees it. */
void udp_release(struct udp *u);
/* Who waits gets ERR_CLOSED. Idempotent. */
void udp_close(struct udp *u);
static inline bool udp_is_open(const struct udp *u) { return u->dgram != NULL; }
/* So many datagrams may be read ahead. */
void udp_set_ahead(struct udp *u, size_t n);
/* It keeps the loop alive until it is closed. */
void udp_hold(struct udp *u);
/* Somebody serves it from now on, or no longer, however that came: the last to leave closes it. */
void udp_join(struct udp *u);
void udp_leave(struct udp *u);

/* Only what comes from there is received from now on. 0 or a code. */
int udp_connect(struct udp *u, const struct addr *peer);

/* The next datagram, valid until the next call on anything of the loop, and not the caller's
 * before udp_took().  0; ERR_AGAIN: await it (udp_want_input); ERR_CLOSED; another code: what
 * an earlier datagram met with, told once; ERR_NOMEM with nothing taken. */
int udp_take(struct udp *u, struct datagram *d);
/* The datagram that udp_take gave is in the caller's hands. */
void udp_took(struct udp *u, const struct datagram *d);
/* Somebody is about to wait for input. */
void udp_want_input(struct udp *u);
/* A call that will not wait: the next udp_take asks the system though it reported nothing. */
static inline void udp_ask_system(struct udp *u) { u->dry = false; }

/* One datagram, to an address or (NULL) the peer.  0; ERR_AGAIN: await room
 * (udp_want_output); ERR_CLOSED; ERR_MSGSIZE; another code: nothing was sent. */
int udp_send(struct udp *u, const void *data, size_t n, const struct addr *to);
void udp_want_output(struct udp *u);

enum { UDP_RECV = 1, UDP_SEND = 2 };
/* Absolute; INFINITY clears; reaches the calls that are waiting. which: UDP_RECV | UDP_SEND. */
void udp_set_deadline(struct udp *u, unsigned which, double at);

/* Datagrams that came for this socket and that nobody will receive: dropped by the system for
 * lack of room, or taken from it and not handed over (memory ran out; from somebody else than
 * the peer; read ahead when the socket was closed). */
uint64_t udp_drops(const struct udp *u);

/* The turn's: with the state that owned them. */
void udp_free_all(struct turn *t);

#endif
