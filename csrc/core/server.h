/* Listening sockets of one server: when to accept and when to pause.
 *
 * Two ways of use: with on_ready set, the server announces that connections can be taken and
 * whoever listens takes them; without, callers wait in `accepters`.
 * What this is not: it runs no handler and owns no connection. */
#ifndef LUNEWIRE_SERVER_H
#define LUNEWIRE_SERVER_H

#include <stdbool.h>

#include "turn.h"

enum { SERVER_BATCH = 64 }; /* connections accepted in one turn */

struct server;

struct listener {
  struct acceptor *acceptor; /* NULL once closed */
  struct server *server;
  struct addr at;
  bool ready; /* the system may have connections for us */
};

struct server {
  struct turn *turn;
  struct listener *listeners; /* n of them, all open or all closed */
  int n, next;                /* next: the one to be asked first, so that each gets its turn */
  struct waitq accepters;
  struct timer pause; /* after a failure to accept: accepting rests */
  void (*on_ready)(struct server *);
  /* Accepting failed with this code and rests for a moment. Only marks. May be NULL. */
  void (*on_pause)(struct server *, int code);
  bool open, full;
};

/* Listens on all n >= 1 addresses or on none: 0, or a code and the index of the address that
 * failed.  Every port that was 0 is known afterwards. */
int server_open(struct server *s, struct turn *t, const struct addr *at, int n,
                const struct listen_opts *opts, int *failed);
/* From now on on_ready announces connections, and the server keeps the loop alive. */
void server_serve(struct server *s, void (*on_ready)(struct server *));
/* 0 and a link with its peer's address; ERR_AGAIN: await on_ready or stand in accepters;
 * ERR_CLOSED.  Being out of descriptors is ERR_AGAIN after a pause that began. */
int server_accept(struct server *s, struct link **l, struct addr *peer);
/* Somebody stands in accepters now. */
void server_want(struct server *s);
/* The next server_accept asks the system, whatever it reported. */
void server_look(struct server *s);
/* full: no connection is taken; they wait in the backlog. */
void server_set_full(struct server *s, bool full);
/* Stops listening; who waits gets ERR_CLOSED; connections live on. Idempotent. */
void server_close(struct server *s);
/* Closed, and its addresses are forgotten. */
void server_fini(struct server *s);
static inline bool server_is_open(const struct server *s) { return s->open; }

#endif
