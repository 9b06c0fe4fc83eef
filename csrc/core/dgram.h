/* One socket for datagrams: receive, send, connect, join, close.  What links are for streams.
 *
 * Receiving is pulled: the owner receives when somebody wants a datagram; until then the
 * system keeps them, in a queue of bounded size, and drops what has no room there.
 * What this is not: it has no buffers for its owner, no deadlines and no waiters. */
#ifndef LUNEWIRE_DGRAM_H
#define LUNEWIRE_DGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"

enum { DGRAM_IN = 1, DGRAM_OUT = 2 };

enum dgram_option {
  DGRAM_BROADCAST,
  DGRAM_TTL,
  DGRAM_MULTICAST_TTL,
  DGRAM_MULTICAST_LOOP,
  DGRAM_RECV_BUFFER,
  DGRAM_SEND_BUFFER,
  DGRAM_TOS,
  DGRAM_FD /* get only: the descriptor */
};

struct dgram_opts {
  bool reuse_port, reuse_addr, broadcast;
  bool ipv6_only;               /* "::" takes IPv4 as well without it */
  int recv_buffer, send_buffer; /* bytes; 0: the system's default */
};

/* What is known of a received datagram beside its bytes. */
struct dgram_from {
  struct addr from;
  bool truncated; /* it was longer than the room for it; the rest is lost */
};

struct dgram;

struct dgram_ops {
  /* The next datagram -> its length as far as there is room, 0 included; ERR_AGAIN.  Another
   * code is not final: what an earlier datagram met with (ICMP), told once. */
  ptrdiff_t (*recv)(struct dgram *, void *to, size_t room, struct dgram_from *);
  /* One datagram, whole or not at all -> 0; ERR_AGAIN: await ready(OUT); ERR_MSGSIZE;
   * another code, not final either.  to: NULL for the peer.  Never raises a signal. */
  int (*send)(struct dgram *, const void *data, size_t n, const struct addr *to);
  /* From now on the system gives only what comes from this peer. */
  int (*connect)(struct dgram *, const struct addr *peer);
  /* Replaces the interest (DGRAM_IN | DGRAM_OUT); level-triggered, as of links. */
  void (*want)(struct dgram *, unsigned events);
  /* Joins or leaves a multicast group.  interface: its name, its number or an address of it;
   * NULL: the system chooses. */
  int (*member)(struct dgram *, bool join, const struct addr *group, const char *interface);
  /* The interface by which multicast leaves. */
  int (*multicast_by)(struct dgram *, const char *interface);
  /* Reads (set = false) or sets *value.  ERR_INVAL: there is none such. */
  int (*option)(struct dgram *, enum dgram_option, bool set, int *value);
  int (*name)(struct dgram *, bool peer, struct addr *);
  /* Can it send to this kind of address? */
  bool (*reaches)(const struct dgram *, const struct addr *);
  /* Datagrams that the system has dropped so far for lack of room; 0 where it does not tell. */
  uint32_t (*drops)(const struct dgram *);
  /* Silences ready at once; frees itself in a later poll. */
  void (*close)(struct dgram *);
};

/* ready runs only inside the world's poll, never inside one of the calls above; it may call
 * anything, close included. */
struct dgram {
  const struct dgram_ops *ops;
  void (*ready)(struct dgram *, unsigned events);
  void *owner;
};

#endif
