/* The outside: clock, poll, dial, listen, accept, resolve, random.  Everything that the
 * library asks of the system but the bytes of a link goes through here, so that a simulated
 * world can stand in its place.
 *
 * What this is not: it decides nothing and holds no state of a connection. */
#ifndef LUNEWIRE_WORLD_H
#define LUNEWIRE_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "addr.h"
#include "dgram.h"
#include "link.h"

struct world;

/* Something to be run inside the next poll: how links in memory report.  Intrusive. */
struct post {
  struct post *prev, *next;
  bool queued;
  void (*run)(struct post *);
};

enum { LISTEN_SETTINGS = 5 };

struct listen_opts {
  int backlog;
  bool reuse_port;
  bool ipv6_only;
  int mode; /* permissions of a Unix socket's file; -1: as the process makes files */
  /* What accepted links begin with; those that their transport does not take are none. */
  struct link_setting settings[LISTEN_SETTINGS];
  int settings_n;
};

/* One listening socket.  ready runs only inside poll, while wanted and something waits. */
struct acceptor {
  void (*ready)(struct acceptor *);
  void *owner;
};

/* One question for addresses.  The caller owns it until done() has run or it was dropped. */
struct lookup {
  /* Runs once, inside poll.  code 0: n >= 1 addresses, port 0, valid during the call;
   * otherwise ERR_NOTFOUND or another code and n = 0. */
  void (*done)(struct lookup *, int code, const struct addr *list, int n);
  void *owner;
  void *request; /* the world's own */
};

/* Signals of the process.  The caller owns it until it was stopped. */
struct signal_watch {
  void (*fired)(struct signal_watch *); /* inside poll */
  void *owner;
  void *handle; /* the world's own; NULL: not watching */
};

struct world_ops {
  double (*now)(struct world *); /* monotonic seconds */
  /* Waits until something happens or the clock reads `until` (in the past: only looks), and
   * runs posts, ready, closed and done callbacks.  false: nothing is open or nothing of it is
   * wanted, so nothing can ever come, and `until` was INFINITY. */
  bool (*poll)(struct world *, double until);
  /* A link that is connecting, or up already; the outcome is in state().  Failures that are
   * known at once are returned.  from may be NULL. */
  int (*dial)(struct world *, const struct addr *to, const struct addr *from, struct link **);
  /* A link that is up, over a connected stream socket that somebody else made.  A descriptor
   * that is anything else, or a link's already: a code, and it is left alone. */
  int (*adopt)(struct world *, int fd, struct link **);
  int (*listen)(struct world *, const struct addr *, const struct listen_opts *,
                struct acceptor **);
  /* 0 and a link that is up; ERR_AGAIN; UV_EMFILE, UV_ENFILE, ... are not final. */
  int (*accept)(struct acceptor *, struct link **, struct addr *peer);
  void (*accept_want)(struct acceptor *, bool);
  int (*accept_name)(struct acceptor *, struct addr *);
  /* Stops listening at once; frees itself in a later poll. */
  void (*accept_close)(struct acceptor *);
  /* A socket for datagrams, bound to an IP address. 0 or a code. */
  int (*datagrams)(struct world *, const struct addr *at, const struct dgram_opts *,
                   struct dgram **);
  /* 0: done() will run; otherwise it will not. */
  int (*resolve)(struct world *, const char *host, struct lookup *);
  /* done() will not run; harmless after it has. */
  void (*resolve_drop)(struct world *, struct lookup *);
  uint32_t (*random)(struct world *);
  /* Reports each arrival of the signal; keeps no poll waiting.  once: only the first, from
   * whose arrival on the system's default action holds again, however busy this process is.
   * 0 or a code. */
  int (*signal_start)(struct world *, struct signal_watch *, int signum, bool once);
  /* fired() will not run; what the process did about the signal before holds again. Harmless
   * when not watching. */
  void (*signal_stop)(struct world *, struct signal_watch *);
  /* How many links, acceptors, datagram sockets and lookups are not yet freed. */
  unsigned (*open)(struct world *);
  /* Everything must have been closed before; what is closing is waited for.  Frees it. */
  void (*close)(struct world *);
};

struct world {
  const struct world_ops *ops;
  struct post *first_post, *last_post;
  struct post post_mark; /* stands behind those that the running poll has to run */
  unsigned pipes;        /* links in memory not yet freed, counted by open() */
};

/* Queues p for the next poll; once, however often asked. */
void world_post(struct world *w, struct post *p);
void world_unpost(struct world *w, struct post *p);
/* For the worlds: runs what was posted before this call; what is posted meanwhile waits for
 * the next poll.  true if anything ran. */
bool world_run_posts(struct world *w);

/* The real one, on libuv with a loop of its own. 0 or a code. */
int world_uv_open(struct world **out);

#endif
