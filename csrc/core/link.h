/* One end of a transport: read, write, shut, close.  The only way by which bytes enter and
 * leave the library.
 *
 * Reading is pulled: the owner reads when it wants bytes; the link only reports readiness.
 * What this is not: it has no buffers for its owner, no deadlines and no messages. */
#ifndef LUNEWIRE_LINK_H
#define LUNEWIRE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "addr.h"

enum { LINK_IN = 1, LINK_OUT = 2 };

enum link_option {
  LINK_NODELAY,
  LINK_KEEPALIVE,
  LINK_KEEP_IDLE, /* seconds */
  LINK_KEEP_INTERVAL,
  LINK_KEEP_COUNT,
  LINK_LINGER, /* seconds, -1: off */
  LINK_RECV_BUFFER,
  LINK_SEND_BUFFER,
  LINK_TOS,
  LINK_FD /* get only: the descriptor, -1 if there is none */
};

/* An option that a link is to have. */
struct link_setting {
  enum link_option what;
  int value;
};

struct link;
struct world;

struct link_ops {
  /* 0 up; ERR_AGAIN still connecting; otherwise why it failed. */
  int (*state)(struct link *);
  /* 1..n bytes read (n > 0); 0: the peer's end; ERR_AGAIN; another code.  End and codes are
   * sticky and come after all earlier bytes.  Fewer than n bytes: dry, await ready(IN). */
  ptrdiff_t (*read)(struct link *, void *, size_t n);
  /* Takes a prefix of at least one byte of the vector (not empty) -> how many; nothing stays
   * borrowed.  ERR_AGAIN: await ready(OUT).  Another code: writing is over, reading stays
   * possible.  Never raises a signal. */
  ptrdiff_t (*write)(struct link *, const struct iovec *, int count);
  /* Replaces the interest (LINK_IN | LINK_OUT).  Level-triggered: reports come on every poll
   * while it is so; false reports are allowed.  Cheap when nothing changes. */
  void (*want)(struct link *, unsigned events);
  /* FIN behind the written bytes; reading lives on; idempotent. */
  int (*shut)(struct link *);
  /* Bytes written that are not in the peer's hands yet, which closing now could lose; 0 also
   * where nobody can tell. */
  size_t (*in_flight)(struct link *);
  /* Bytes taken by write that the system has not taken yet; ready(LINK_OUT) comes when there are
   * none, and a write of nothing (count = 0) tells whether they failed: 0 or a code.  NULL: there
   * never are any. */
  size_t (*held)(struct link *);
  /* Has a part of something come, which becomes bytes to read once the rest is there?  NULL: it
   * never is so. */
  bool (*midway)(struct link *);
  /* More than its code about the failure of this link, or NULL; a static text.  NULL: never. */
  const char *(*explain)(struct link *);
  /* Silences ready at once; closed() is called once, in a later poll; the link frees itself
   * behind it.  reset: the peer sees a reset and nothing stays behind (no TIME_WAIT). */
  void (*close)(struct link *, bool reset);
  int (*name)(struct link *, bool peer, struct addr *);
  /* Reads (set = false) or sets *value.  ERR_NOTSUP: not of this transport; ERR_INVAL: no
   * value that the system takes. */
  int (*option)(struct link *, enum link_option, bool set, int *value);
};

/* ready and closed run only inside the world's poll, never inside one of the calls above.
 * ready may call anything, close included. */
struct link {
  const struct link_ops *ops;
  void (*ready)(struct link *, unsigned events);
  void (*closed)(struct link *); /* may be NULL */
  void *owner;                   /* the owner's own, for its callbacks */
  bool outside; /* somebody outside this process can make it ready: a socket, not a pipe */
};

/* Two connected links in memory.  Each write is delivered as a piece of its own: a read never
 * joins two of them.  At most 64 KiB wait in each direction.  Closing one end (reset = false)
 * leaves what was written readable, then the end; writing to a closed or shut peer that
 * cannot read is ERR_PIPE; after a reset both directions are ERR_RESET, behind the earlier
 * bytes.  0 or ERR_NOMEM. */
int link_pipe_open(struct world *w, struct link **a, struct link **b);

#endif
