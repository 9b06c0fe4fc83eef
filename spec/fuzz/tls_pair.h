/* The two ends of a TLS session over links in memory, with the wire between them in the hands of
 * the input; and what must hold of them at any time.
 *
 * What this is not: the script (fuzz_tls.c). */
#ifndef LUNEWIRE_FUZZ_TLS_PAIR_H
#define LUNEWIRE_FUZZ_TLS_PAIR_H

#include <openssl/err.h>

#include "fuzz.h"
#include "lib_openssl.h"
#include "lib_world.h"
#include "link_tls.h"
#include "tls_session.h"
#include "turn_probe.h"

/* One end: the application's side and the wire's. */
struct tls_end {
  struct probe app, wire;  /* the session; the other end of the link below it */
  struct buf passing;      /* what it wrote, on its way to the other */
  uint64_t sent, received; /* bytes of data */
  bool shut;               /* by the application */
  bool notified;           /* and its handshake was done: the other is told */
  bool eager;              /* reads whenever something is reported */
  int ended;               /* what a read said last: sticky */
  bool over;               /* it said so */
  int state;               /* of the handshake, as last seen */
};

struct tls_pair {
  struct turn turn;
  struct tls_context *client_context, *server_context, *named;
  const char *host;
  struct tls_end client, server;
  bool clean;       /* the wire did nothing but pass bytes on, and nobody closed */
  bool up;          /* both handshakes are done: from then on a clean wire brings all there is */
  unsigned updates; /* of keys, which too many of end a session */
};

/* With contexts that the next bytes of the input describe.  There is one at a time. */
struct tls_pair *pair_open(struct input *in);
/* Nothing of it is left but what is the same for all inputs. */
void pair_close(struct tls_pair *p);

/* A connection: both ends. */
void pair_connect(struct tls_pair *p, bool early);
void pair_disconnect(struct tls_pair *p);

static inline struct tls_end *pair_other(struct tls_pair *p, const struct tls_end *e) {
  return e == &p->client ? &p->server : &p->client;
}

/* What the application does.  Harmless when the end is gone. */
void pair_write(struct tls_end *e, size_t n, unsigned pieces);
void pair_read(struct tls_pair *p, struct tls_end *e, size_t room);
void pair_shut(struct tls_end *e);
void pair_end(struct tls_pair *p, struct tls_end *e, bool reset);
void pair_ask_facts(const struct tls_end *e);
void pair_update_keys(struct tls_pair *p, struct tls_end *e);

/* What the wire does: up to n bytes that this end wrote come nearer to the other. */
void pair_carry(struct tls_pair *p, struct tls_end *from, size_t n);
void pair_inject(struct tls_pair *p, struct tls_end *to, const char *data, size_t n);
/* One of the bytes that are on their way is changed. */
void pair_flip(struct tls_pair *p, struct tls_end *from, size_t at, uint8_t with);
void pair_drop(struct tls_pair *p, struct tls_end *from, size_t n);
void pair_cut(struct tls_pair *p, struct tls_end *to, bool reset);

/* Whatever was done so far. */
void pair_check(struct tls_pair *p);
/* The wire was honest: all that was sent has come, and no handshake hangs. */
void pair_settle(struct tls_pair *p);

#endif
