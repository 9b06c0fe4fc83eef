/* One listening socket: when to accept and when to pause.
 *
 * Two ways of use: with on_ready set, the server announces that connections can be taken and
 * whoever listens takes them; without, callers wait in `accepters`.
 * What this is not: it runs no handler and owns no connection. */
#ifndef LUNEWIRE_SERVER_H
#define LUNEWIRE_SERVER_H

#include <stdbool.h>

#include "turn.h"

enum { SERVER_BATCH = 64 }; /* connections accepted in one turn */

struct server {
  struct turn *turn;
  struct acceptor *acceptor; /* NULL once closed */
  struct waitq accepters;
  struct timer pause; /* out of descriptors: accepting rests */
  struct addr at;
  void (*on_ready)(struct server *);
  void *owner;
  bool ready; /* the system may have connections for us */
};

/* 0 or a code. Every port that was 0 is known afterwards. */
int server_open(struct server *s, struct turn *t, const struct addr *at,
                const struct listen_opts *opts);
/* From now on on_ready announces connections, and the server keeps the loop alive. */
void server_serve(struct server *s, void (*on_ready)(struct server *));
/* 0 and a link with its peer's address; ERR_AGAIN: await on_ready or stand in accepters;
 * ERR_CLOSED.  Being out of descriptors is ERR_AGAIN after a pause that began. */
int server_accept(struct server *s, struct link **l, struct addr *peer);
/* Somebody stands in accepters now. */
void server_want(struct server *s);
/* Stops listening; who waits gets ERR_CLOSED; connections live on. Idempotent. */
void server_close(struct server *s);
static inline bool server_is_open(const struct server *s) { return s->acceptor != NULL; }

#endif
