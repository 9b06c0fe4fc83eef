/* The world of the fuzz target `api`: see api_world.h. */
#include "api_world.h"

#include "err.h"
#include "fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { BACKLOG = 8, FIRST_PORT = 1024, FIRST_EPHEMERAL = 40000 };
enum { POLLS_MOST = 100000 }; /* more than that in one input: something spins */

/* Something that happens at a time, inside the poll.  Intrusive. */
struct event {
  struct event *next;
  double at;
  bool armed;
  void (*fire)(struct event *);
};

struct api_world {
  struct world world;
  double now;
  struct event *events; /* the soonest first */
  struct api_acceptor *acceptors;
  struct signal_watch *watches[8];
  int raised; /* the signal to be told, or 0 */
  unsigned open, refuse;
  uint16_t next_port, next_ephemeral;
  uint32_t seed;
  unsigned long polls;
};

static struct api_world *latest;

static struct api_world *world_of(struct world *w) { return (struct api_world *)(void *)w; }

/* ---- time ------------------------------------------------------------------------ */

static void event_arm(struct api_world *w, struct event *e, double delay) {
  struct event **at = &w->events;
  e->at = w->now + delay;
  e->armed = true;
  while (*at && (*at)->at <= e->at) at = &(*at)->next;
  e->next = *at;
  *at = e;
}

static void event_disarm(struct api_world *w, struct event *e) {
  if (!e->armed) return;
  e->armed = false;
  struct event **at = &w->events;
  while (*at != e) at = &(*at)->next;
  *at = e->next;
}

static bool fire_events(struct api_world *w) {
  bool any = false;
  for (struct event *e; (e = w->events) && e->at <= w->now; any = true) {
    event_disarm(w, e);
    e->fire(e);
  }
  return any;
}

static bool tell_signal(struct api_world *w) {
  int signum = w->raised;
  w->raised = 0;
  for (size_t i = 0; signum && i < sizeof w->watches / sizeof *w->watches; i++)
    if (w->watches[i] && (intptr_t)w->watches[i]->handle == signum)
      w->watches[i]->fired(w->watches[i]);
  return signum != 0;
}

static double api_now(struct world *w) { return world_of(w)->now; }

/* Nobody sleeps: the clock jumps to what is next. */
static bool api_poll(struct world *base, double until) {
  struct api_world *w = world_of(base);
  FUZZ_CHECK(++w->polls < POLLS_MOST);
  bool busy = world_run_posts(base);
  busy = fire_events(w) || busy;
  busy = tell_signal(w) || busy;
  if (busy || until <= w->now) return true;
  if (w->events && w->events->at < until) until = w->events->at;
  if (until == INFINITY) return false;
  w->now = until;
  fire_events(w);
  return true;
}

/* ---- links ------------------------------------------------------------------------- */

/* One that was dialled or accepted.  `inner` is an end of a pipe, once it is up. */
struct api_link {
  struct link link;
  struct link *inner;
  struct api_world *world;
  struct event outcome; /* of connecting */
  struct post post;
  struct addr local, peer;
  int state;
  unsigned wanted;
  bool closing;
};

struct api_acceptor {
  struct acceptor acceptor;
  struct api_world *world;
  struct api_acceptor *next;
  struct post post;
  struct addr at;
  struct api_link *queue[BACKLOG];
  int n;
  bool wanted, closing;
};

static struct api_link *link_of(struct link *l) { return (struct api_link *)(void *)l; }

static int link_state(struct link *l) { return link_of(l)->state; }

static ptrdiff_t link_read(struct link *l, void *to, size_t n) {
  struct api_link *a = link_of(l);
  return a->state ? a->state : a->inner->ops->read(a->inner, to, n);
}

static ptrdiff_t link_write(struct link *l, const struct iovec *v, int count) {
  struct api_link *a = link_of(l);
  return a->state ? a->state : a->inner->ops->write(a->inner, v, count);
}

static void link_want(struct link *l, unsigned events) {
  struct api_link *a = link_of(l);
  a->wanted = events;
  if (a->inner)
    a->inner->ops->want(a->inner, events);
  else if (events && a->state != ERR_AGAIN)
    world_post(&a->world->world, &a->post);
}

static int link_shut(struct link *l) {
  struct api_link *a = link_of(l);
  return a->state ? a->state : a->inner->ops->shut(a->inner);
}

static size_t link_in_flight(struct link *l) {
  (void)l;
  return 0;
}

static void link_finish(struct api_link *a) {
  if (a->link.closed) a->link.closed(&a->link);
  a->world->open--;
  free(a);
}

static void link_close(struct link *l, bool reset) {
  struct api_link *a = link_of(l);
  FUZZ_CHECK(!a->closing);
  a->closing = true;
  event_disarm(a->world, &a->outcome);
  if (a->inner)
    a->inner->ops->close(a->inner, reset);
  else
    world_post(&a->world->world, &a->post);
}

static int link_name(struct link *l, bool peer, struct addr *to) {
  *to = peer ? link_of(l)->peer : link_of(l)->local;
  return 0;
}

static int link_option(struct link *l, enum link_option what, bool set, int *value) {
  (void)l;
  if (!set) *value = what == LINK_FD || what == LINK_LINGER ? -1 : 0;
  return 0;
}

static const struct link_ops api_link_ops = {
    .state = link_state,
    .read = link_read,
    .write = link_write,
    .want = link_want,
    .shut = link_shut,
    .in_flight = link_in_flight,
    .close = link_close,
    .name = link_name,
    .option = link_option,
};

/* Before it is up, or when it never will be. */
static void on_link_post(struct post *p) {
  struct api_link *a = (struct api_link *)(void *)((char *)p - offsetof(struct api_link, post));
  if (a->closing)
    link_finish(a);
  else if (a->wanted && !a->inner)
    a->link.ready(&a->link, a->wanted);
}

static void on_inner_ready(struct link *inner, unsigned events) {
  struct api_link *a = inner->owner;
  a->link.ready(&a->link, events);
}

static void on_inner_closed(struct link *inner) { link_finish(inner->owner); }

static struct api_link *link_new(struct api_world *w) {
  struct api_link *a = calloc(1, sizeof *a);
  FUZZ_CHECK(a);
  a->link = (struct link){.ops = &api_link_ops, .outside = true};
  a->post.run = on_link_post;
  a->state = ERR_AGAIN;
  a->world = w;
  w->open++;
  return a;
}

static void link_come_up(struct api_link *a, struct link *inner) {
  a->inner = inner;
  a->state = 0;
  inner->owner = a;
  inner->ready = on_inner_ready;
  inner->closed = on_inner_closed;
}

/* ---- dialling ---------------------------------------------------------------------- */

static bool same_address(const struct addr *a, const struct addr *b) {
  if (a->kind == ADDR_UNIX || b->kind == ADDR_UNIX)
    return a->kind == b->kind && strcmp(a->path, b->path) == 0;
  return a->port == b->port;
}

static struct api_acceptor *acceptor_at(struct api_world *w, const struct addr *at) {
  struct api_acceptor *a = w->acceptors;
  while (a && !same_address(&a->at, at)) a = a->next;
  return a;
}

static void post_acceptor(struct api_acceptor *a) {
  if (a->closing || (a->wanted && a->n)) world_post(&a->world->world, &a->post);
}

/* Somebody listens there and has room: two ends of a pipe. */
static int meet(struct api_link *a) {
  struct api_acceptor *to = acceptor_at(a->world, &a->peer);
  struct link *x, *y;
  if (!to || to->n == BACKLOG) return ERR_REFUSED;
  FUZZ_CHECK(link_pipe_open(&a->world->world, &x, &y) == 0);
  struct api_link *b = link_new(a->world);
  b->local = a->peer;
  b->peer = a->local;
  link_come_up(a, x);
  link_come_up(b, y);
  to->queue[to->n++] = b;
  post_acceptor(to);
  return 0;
}

static void on_outcome(struct event *e) {
  struct api_link *a = (struct api_link *)(void *)((char *)e - offsetof(struct api_link, outcome));
  a->state = meet(a);
  if (a->wanted) link_want(&a->link, a->wanted);
}

/* Seconds until it is known what becomes of it; < 0: never. */
static double patience_for(const struct addr *to) {
  const double seconds[8] = {0, 0, 0, 0.05, -1, 0, 0.3, 0};
  return to->kind == ADDR_IP4 ? seconds[to->ip[3] & 7] : 0;
}

static bool refuses(const struct addr *to) {
  int how = to->kind == ADDR_IP4 ? to->ip[3] & 7 : 1;
  return how == 5 || how == 6;
}

static int api_dial(struct world *base, const struct addr *to, const struct addr *from,
                    struct link **out) {
  struct api_world *w = world_of(base);
  int how = to->kind == ADDR_IP4 ? to->ip[3] & 7 : 1;
  if (how == 0 || how == 7) return UV_EHOSTUNREACH;
  if (how == 5) return ERR_REFUSED;
  struct api_link *a = link_new(w);
  a->outcome.fire = on_outcome;
  a->peer = *to;
  if (from) a->local = *from;
  if (a->local.kind == ADDR_NONE) a->local = (struct addr){.kind = ADDR_IP4, .ip = {127, 0, 0, 1}};
  if (!a->local.port) a->local.port = w->next_ephemeral++;
  if (refuses(to)) a->peer.port = 0; /* where nobody listens */
  double wait = patience_for(to);
  if (how == 1)
    a->state = meet(a);
  else if (wait >= 0)
    event_arm(w, &a->outcome, wait);
  *out = &a->link;
  return 0;
}

/* ---- accepting --------------------------------------------------------------------- */

static struct api_acceptor *acceptor_of(struct acceptor *a) {
  return (struct api_acceptor *)(void *)a;
}

static void on_acceptor_post(struct post *p) {
  struct api_acceptor *a =
      (struct api_acceptor *)(void *)((char *)p - offsetof(struct api_acceptor, post));
  if (a->closing) {
    a->world->open--;
    free(a);
  } else if (a->wanted && a->n) {
    world_post(&a->world->world, &a->post); /* as long as it is so */
    a->acceptor.ready(&a->acceptor);
  }
}

static int api_listen(struct world *base, const struct addr *at, const struct listen_opts *opts,
                      struct acceptor **out) {
  struct api_world *w = world_of(base);
  (void)opts;
  if (at->kind == ADDR_UNIX || at->port)
    if (acceptor_at(w, at)) return UV_EADDRINUSE;
  struct api_acceptor *a = calloc(1, sizeof *a);
  FUZZ_CHECK(a);
  a->world = w;
  a->post.run = on_acceptor_post;
  a->at = *at;
  if (at->kind != ADDR_UNIX && !at->port) a->at.port = w->next_port++;
  a->next = w->acceptors;
  w->acceptors = a;
  w->open++;
  *out = &a->acceptor;
  return 0;
}

static int api_accept(struct acceptor *base, struct link **out, struct addr *peer) {
  struct api_acceptor *a = acceptor_of(base);
  if (a->n == 0) return ERR_AGAIN;
  if (a->world->refuse > 0) {
    a->world->refuse--;
    return UV_EMFILE;
  }
  struct api_link *l = a->queue[0];
  a->n--;
  memmove(a->queue, a->queue + 1, (size_t)a->n * sizeof *a->queue);
  *peer = l->peer;
  *out = &l->link;
  return 0;
}

static void api_accept_want(struct acceptor *base, bool wanted) {
  acceptor_of(base)->wanted = wanted;
  post_acceptor(acceptor_of(base));
}

static int api_accept_name(struct acceptor *base, struct addr *at) {
  *at = acceptor_of(base)->at;
  return 0;
}

static void api_accept_close(struct acceptor *base) {
  struct api_acceptor *a = acceptor_of(base), **at = &a->world->acceptors;
  while (*at != a) at = &(*at)->next;
  *at = a->next;
  for (int i = 0; i < a->n; i++) link_close(&a->queue[i]->link, true);
  a->closing = true;
  post_acceptor(a);
}

/* ---- names ------------------------------------------------------------------------- */

struct api_lookup {
  struct event event;
  struct api_world *world;
  struct lookup *lookup;
  const char *hosts; /* the last number of each address, modulo 8 */
};

static void on_answer(struct event *e) {
  struct api_lookup *q = (struct api_lookup *)(void *)e;
  struct addr list[8];
  int n = 0;
  for (const char *h = q->hosts; *h; h++)
    list[n++] = (struct addr){.kind = ADDR_IP4, .ip = {127, 0, 0, (uint8_t)(*h - '0')}};
  q->lookup->request = NULL;
  q->lookup->done(q->lookup, n ? 0 : ERR_NOTFOUND, n ? list : NULL, n);
  q->world->open--;
  free(q);
}

/* one, many: at once; slow: a second later; never; all others do not exist. */
static int api_resolve(struct world *base, const char *host, struct lookup *l) {
  struct api_world *w = world_of(base);
  struct api_lookup *q = calloc(1, sizeof *q);
  FUZZ_CHECK(q);
  char c = host[0];
  q->event.fire = on_answer;
  q->world = w;
  q->lookup = l;
  q->hosts = c == 'o' ? "2" : c == 'm' ? "746523" : c == 's' ? "3" : "";
  l->request = q;
  w->open++;
  if (c != 'n') event_arm(w, &q->event, c == 's' ? 1 : 0);
  return 0;
}

static void api_resolve_drop(struct world *w, struct lookup *l) {
  struct api_lookup *q = l->request;
  if (!q) return;
  l->request = NULL;
  event_disarm(world_of(w), &q->event);
  world_of(w)->open--;
  free(q);
}

/* ---- numbers and signals --------------------------------------------------------- */

static uint32_t api_random(struct world *w) { return fuzz_random(&world_of(w)->seed); }

static int api_signal_start(struct world *base, struct signal_watch *s, int signum, bool once) {
  struct api_world *w = world_of(base);
  (void)once;
  for (size_t i = 0; i < sizeof w->watches / sizeof *w->watches; i++) {
    if (w->watches[i]) continue;
    w->watches[i] = s;
    s->handle = (void *)(intptr_t)signum;
    return 0;
  }
  return ERR_NOMEM;
}

static void api_signal_stop(struct world *base, struct signal_watch *s) {
  struct api_world *w = world_of(base);
  for (size_t i = 0; i < sizeof w->watches / sizeof *w->watches; i++)
    if (w->watches[i] == s) w->watches[i] = NULL;
  s->handle = NULL;
}

/* ---- life ------------------------------------------------------------------------ */

static unsigned api_open_count(struct world *w) { return world_of(w)->open + w->pipes; }

/* Whoever is still there now was forgotten. */
static void api_close(struct world *base) {
  struct api_world *w = world_of(base);
  while (world_run_posts(base)) continue;
  FUZZ_CHECK(api_open_count(base) == 0);
  FUZZ_CHECK(!w->events && !w->acceptors);
  latest = NULL;
  free(w);
}

static const struct world_ops api_world_ops = {
    .now = api_now,
    .poll = api_poll,
    .dial = api_dial,
    .listen = api_listen,
    .accept = api_accept,
    .accept_want = api_accept_want,
    .accept_name = api_accept_name,
    .accept_close = api_accept_close,
    .resolve = api_resolve,
    .resolve_drop = api_resolve_drop,
    .random = api_random,
    .signal_start = api_signal_start,
    .signal_stop = api_signal_stop,
    .open = api_open_count,
    .close = api_close,
};

/* Linked in the place of the real one. */
int world_uv_open(struct world **out) {
  struct api_world *w = calloc(1, sizeof *w);
  FUZZ_CHECK(w && !latest);
  w->world.ops = &api_world_ops;
  w->now = 1000;
  w->next_port = FIRST_PORT;
  w->next_ephemeral = FIRST_EPHEMERAL;
  latest = w;
  *out = &w->world;
  return 0;
}

double api_world_now(void) { return latest->now; }
void api_world_advance(double seconds) { latest->now += seconds; }
void api_world_refuse_accepts(unsigned n) { latest->refuse = n; }
void api_world_signal(int signum) { latest->raised = signum; }
unsigned long api_world_polls(void) { return latest ? latest->polls : 0; }
