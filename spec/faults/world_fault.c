/* Puts faulty links under the library: the real world's functions that make links are replaced, in
 * the world itself, and link_pipe_open() and world_uv_open() by the linker (--wrap).  Nothing in
 * csrc/ knows.
 *
 * What this is not: a world of its own; clock, names and signals stay the real ones. */
#include <math.h>
#include <stdlib.h>

#include "err.h"
#include "faults.h"
#include "world.h"

int __real_world_uv_open(struct world **out);
int __wrap_world_uv_open(struct world **out);
int __real_link_pipe_open(struct world *w, struct link **a, struct link **b);
int __wrap_link_pipe_open(struct world *w, struct link **a, struct link **b);

struct world_fault {
  struct world_ops ops; /* found again through the world's pointer to it */
  const struct world_ops *real;
  struct fault_sleepers sleepers;
};

struct acceptor_fault {
  struct acceptor acceptor;
  struct acceptor *below;
  struct world *world;
};

static struct world_fault *fault_of(struct world *w) {
  return (struct world_fault *)(void *)(uintptr_t)w->ops;
}

static struct acceptor_fault *acceptor_of(struct acceptor *a) {
  return (struct acceptor_fault *)(void *)a;
}

/* ---- time ------------------------------------------------------------------------ */

/* Reports that are late end a poll. */
static bool poll_and_wake(struct world *w, double until) {
  struct world_fault *f = fault_of(w);
  fault_sleepers_wake(&f->sleepers, f->real->now(w));
  double next = fault_sleepers_next(&f->sleepers);
  bool more = f->real->poll(w, next < until ? next : until);
  return more || next < INFINITY;
}

/* ---- links ----------------------------------------------------------------------- */

static int put(struct world *w, enum fault_end end, struct link **l) {
  return faults_put(w, &fault_of(w)->sleepers, end, &faults_tally, l);
}

static int dial(struct world *w, const struct addr *to, const struct addr *from, struct link **l) {
  int r = fault_of(w)->real->dial(w, to, from, l);
  return r ? r : put(w, FAULT_FIRST, l);
}

static int adopt(struct world *w, int fd, struct link **l) {
  int r = fault_of(w)->real->adopt(w, fd, l);
  return r ? r : put(w, FAULT_SECOND, l);
}

int __wrap_link_pipe_open(struct world *w, struct link **a, struct link **b) {
  int r = __real_link_pipe_open(w, a, b);
  if (r == 0 && (r = faults_put(w, NULL, FAULT_FIRST, &faults_tally, a)) != 0)
    (*b)->ops->close(*b, true);
  if (r == 0 && (r = faults_put(w, NULL, FAULT_SECOND, &faults_tally, b)) != 0)
    (*a)->ops->close(*a, true);
  return r;
}

/* ---- accepting: as ever, but for the links --------------------------------------- */

static void on_acceptable(struct acceptor *below) {
  struct acceptor_fault *a = below->owner;
  a->acceptor.ready(&a->acceptor);
}

static int listen_at(struct world *w, const struct addr *at, const struct listen_opts *opts,
                     struct acceptor **out) {
  struct acceptor_fault *a = calloc(1, sizeof *a);
  int r = a ? fault_of(w)->real->listen(w, at, opts, &a->below) : ERR_NOMEM;
  if (r) {
    free(a);
    return r;
  }
  a->world = w;
  a->below->owner = a;
  a->below->ready = on_acceptable;
  *out = &a->acceptor;
  return 0;
}

static int accept_one(struct acceptor *base, struct link **l, struct addr *peer) {
  struct acceptor_fault *a = acceptor_of(base);
  int r = fault_of(a->world)->real->accept(a->below, l, peer);
  return r ? r : put(a->world, FAULT_SECOND, l);
}

static void accept_want(struct acceptor *base, bool wanted) {
  struct acceptor_fault *a = acceptor_of(base);
  fault_of(a->world)->real->accept_want(a->below, wanted);
}

static int accept_name(struct acceptor *base, struct addr *at) {
  struct acceptor_fault *a = acceptor_of(base);
  return fault_of(a->world)->real->accept_name(a->below, at);
}

/* The one below is silent at once, so nothing comes here any more. */
static void accept_close(struct acceptor *base) {
  struct acceptor_fault *a = acceptor_of(base);
  fault_of(a->world)->real->accept_close(a->below);
  free(a);
}

/* ---- life ------------------------------------------------------------------------ */

static void close_world(struct world *w) {
  struct world_fault *f = fault_of(w);
  f->real->close(w);
  free(f);
}

int __wrap_world_uv_open(struct world **out) {
  struct world_fault *f = calloc(1, sizeof *f);
  int r = f ? __real_world_uv_open(out) : ERR_NOMEM;
  if (r) {
    free(f);
    return r;
  }
  f->real = (*out)->ops;
  f->ops = *f->real;
  f->ops.poll = poll_and_wake;
  f->ops.dial = dial;
  f->ops.adopt = adopt;
  f->ops.listen = listen_at;
  f->ops.accept = accept_one;
  f->ops.accept_want = accept_want;
  f->ops.accept_name = accept_name;
  f->ops.accept_close = accept_close;
  f->ops.close = close_world;
  (*out)->ops = &f->ops;
  return 0;
}
