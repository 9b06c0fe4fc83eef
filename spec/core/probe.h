/* What the tests of worlds and links share: a watcher that counts what a link reports, waiting
 * with a limit, and two connected links.
 *
 * What this is not: a link or a world of its own. */
#ifndef LUNEWIRE_PROBE_H
#define LUNEWIRE_PROBE_H

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "addr.h"
#include "err.h"
#include "link.h"
#include "test.h"
#include "world.h"

struct probe {
  struct link *link;
  unsigned seen;           /* of the last report */
  unsigned reports, ended; /* how often ready and closed came */
  void (*hook)(struct probe *);
};

static inline void probe_on_ready(struct link *l, unsigned events) {
  struct probe *p = l->owner;
  p->seen = events;
  p->reports++;
  if (p->hook) p->hook(p);
}

static inline void probe_on_closed(struct link *l) {
  struct probe *p = l->owner;
  p->ended++;
  p->link = NULL;
}

static inline void probe_watch(struct probe *p, struct link *l) {
  *p = (struct probe){.link = l};
  l->owner = p;
  l->ready = probe_on_ready;
  l->closed = probe_on_closed;
}

/* Polls until the condition holds; after some seconds that is a failure.  What the condition
 * does is done once a poll, and last when it holds. */
#define AWAIT(w, condition)                                                                        \
  do {                                                                                             \
    double limit_ = (w)->ops->now(w) + 10;                                                         \
    bool held_;                                                                                    \
    while (!(held_ = (condition)) && (w)->ops->now(w) < limit_)                                    \
      (w)->ops->poll((w), (w)->ops->now(w) + 0.01);                                                \
    (void)test_true(held_, __FILE__, __LINE__, #condition);                                        \
  } while (0)

static inline struct world *probe_world(void) {
  struct world *w = NULL;
  CHECK_EQ(world_uv_open(&w), 0);
  return w;
}

/* Everything was closed: nothing may be left. */
static inline void probe_world_end(struct world *w) {
  AWAIT(w, w->ops->open(w) == 0);
  w->ops->close(w);
}

static inline void probe_close(struct probe *p, bool reset) { p->link->ops->close(p->link, reset); }

static inline void probe_want(struct probe *p, unsigned events) {
  p->reports = p->seen = 0;
  p->link->ops->want(p->link, events);
}

static inline ptrdiff_t probe_write(struct probe *p, const void *data, size_t n) {
  struct iovec v = {.iov_base = (void *)(uintptr_t)data, .iov_len = n};
  return p->link->ops->write(p->link, &v, 1);
}

static inline ptrdiff_t probe_send(struct probe *p, const char *text) {
  return probe_write(p, text, strlen(text));
}

static inline ptrdiff_t probe_read(struct probe *p, void *to, size_t n) {
  return p->link->ops->read(p->link, to, n);
}

/* The next read gives exactly this text. */
#define CHECK_READ(p, text)                                                                        \
  do {                                                                                             \
    char got_[256];                                                                                \
    ptrdiff_t n_ = probe_read((p), got_, sizeof got_);                                             \
    CHECK_MEM(got_, n_ < 0 ? 0 : (size_t)n_, (text), strlen(text));                                \
  } while (0)

static inline struct addr probe_ip(const char *host, uint16_t port) {
  struct addr a = {.kind = ADDR_NONE};
  CHECK_EQ(addr_from_ip(&a, host, port), 0);
  return a;
}

/* An acceptor on a free port of this host, and its address. */
static inline struct acceptor *probe_listen(struct world *w, const char *host, struct addr *at) {
  const struct listen_opts opts = {.backlog = 64};
  struct acceptor *a = NULL;
  *at = probe_ip(host, 0);
  CHECK_EQ(w->ops->listen(w, at, &opts, &a), 0);
  CHECK_EQ(w->ops->accept_name(a, at), 0);
  return a;
}

/* Connects p; polls until it is known how that ended. */
static inline int probe_dial(struct world *w, struct probe *p, const struct addr *to) {
  struct link *l;
  int r = w->ops->dial(w, to, NULL, &l);
  *p = (struct probe){.link = NULL};
  if (r) return r;
  probe_watch(p, l);
  probe_want(p, LINK_OUT);
  AWAIT(w, l->ops->state(l) != ERR_AGAIN);
  probe_want(p, 0);
  return l->ops->state(l);
}

static inline int probe_accept(struct world *w, struct acceptor *a, struct probe *p,
                               struct addr *peer) {
  struct link *l = NULL;
  int r = ERR_AGAIN;
  AWAIT(w, (r = w->ops->accept(a, &l, peer)) != ERR_AGAIN);
  if (r == 0) probe_watch(p, l);
  return r;
}

/* Two connected sockets: the one that dialled, the one that was accepted. */
static inline void probe_pair(struct world *w, struct probe *dialled, struct probe *accepted) {
  struct addr at, peer;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at);
  CHECK_EQ(probe_dial(w, dialled, &at), 0);
  CHECK_EQ(probe_accept(w, a, accepted, &peer), 0);
  w->ops->accept_close(a);
}

/* Two links in memory. */
static inline void probe_pipe(struct world *w, struct probe *a, struct probe *b) {
  struct link *x, *y;
  CHECK_EQ(link_pipe_open(w, &x, &y), 0);
  probe_watch(a, x);
  probe_watch(b, y);
}

static inline void probe_close_both(struct probe *a, struct probe *b) {
  probe_close(a, false);
  probe_close(b, false);
}

typedef void probe_opener(struct world *, struct probe *, struct probe *);
typedef void probe_scenario(struct world *, struct probe *, struct probe *);

/* Runs a scenario on two connected links, in a world in which nothing may be left. */
static inline void probe_run(probe_opener *open, probe_scenario *scenario) {
  struct probe a, b;
  struct world *w = probe_world();
  open(w, &a, &b);
  scenario(w, &a, &b);
  probe_world_end(w);
}

/* Writes n bytes again and again until no more is taken -> how many were. */
static inline size_t probe_fill(struct probe *p, size_t n) {
  char *data = calloc(1, n);
  size_t total = 0;
  ptrdiff_t r;
  while ((r = probe_write(p, data, n)) > 0) total += (size_t)r;
  CHECK_EQ(r, ERR_AGAIN);
  free(data);
  return total;
}

/* Leaves no descriptor; returns the limit as it was. */
static inline struct rlimit leave_no_descriptors(void) {
  struct rlimit before, tight;
  int lowest = dup(0);
  close(lowest);
  getrlimit(RLIMIT_NOFILE, &before);
  tight = before;
  tight.rlim_cur = (rlim_t)lowest;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  return before;
}

/* It lets the system accept, then closes what is over the limit: that client is lost. */
static inline bool under_valgrind(void) {
  const char *preloaded = getenv("LD_PRELOAD");
  return preloaded && strstr(preloaded, "vgpreload");
}

#endif
