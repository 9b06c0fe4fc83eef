/* Listening sockets: see server.h. */
#include "server.h"

#include <stdlib.h>

#include "err.h"

static const double PAUSE = 0.1; /* seconds without accepting after a failure */

static const struct world_ops *ops_of(const struct server *s) { return s->turn->world->ops; }

/* Nobody wants a report while accepting rests. */
static void want_all(struct server *s, bool wanted) {
  bool on = wanted && !s->full && !timer_armed(&s->pause);
  for (int i = 0; i < s->n; i++) ops_of(s)->accept_want(s->listeners[i].acceptor, on);
}

/* A report is taken back while nobody can act on it: it would come on every poll. */
static void on_acceptable(struct acceptor *a) {
  struct listener *l = a->owner;
  struct server *s = l->server;
  l->ready = true;
  if (s->on_ready)
    s->on_ready(s);
  else if (s->accepters.first)
    waitq_wake_first(&s->accepters);
  else
    ops_of(s)->accept_want(a, false);
}

static void on_pause_over(struct timer *t) {
  struct server *s = (struct server *)(void *)((char *)t - offsetof(struct server, pause));
  want_all(s, true);
}

/* ---- life ------------------------------------------------------------------------ */

static int listener_open(struct server *s, struct listener *l, const struct listen_opts *opts) {
  int r = s->turn->world->ops->listen(s->turn->world, &l->at, opts, &l->acceptor);
  if (r) return r;
  l->server = s;
  l->acceptor->owner = l;
  l->acceptor->ready = on_acceptable;
  ops_of(s)->accept_name(l->acceptor, &l->at);
  return 0;
}

static void close_first(struct server *s, int n) {
  for (int i = 0; i < n; i++) {
    ops_of(s)->accept_close(s->listeners[i].acceptor);
    s->listeners[i].acceptor = NULL;
  }
}

int server_open(struct server *s, struct turn *t, const struct addr *at, int n,
                const struct listen_opts *opts, int *failed) {
  *s = (struct server){.turn = t, .n = n, .pause.fire = on_pause_over};
  *failed = 0;
  s->listeners = calloc((size_t)n, sizeof *s->listeners);
  if (!s->listeners) return ERR_NOMEM;
  for (int i = 0; i < n; i++) {
    s->listeners[i].at = at[i];
    int r = listener_open(s, &s->listeners[i], opts);
    if (r == 0) continue;
    close_first(s, i);
    server_fini(s);
    *failed = i;
    return r;
  }
  s->open = true;
  t->servers++;
  want_all(s, true);
  return 0;
}

void server_close(struct server *s) {
  if (!s->open) return;
  s->open = false;
  close_first(s, s->n);
  timers_disarm(&s->turn->timers, &s->pause);
  waitq_wake_all(&s->accepters, ERR_CLOSED);
  s->turn->servers--;
  if (s->on_ready) s->turn->holds--;
}

void server_fini(struct server *s) {
  server_close(s);
  free(s->listeners);
  s->listeners = NULL;
  s->n = 0;
}

/* ---- accepting ------------------------------------------------------------------- */

/* The connections wait in the backlog meanwhile; nobody is turned away. */
static void rest(struct server *s, int code) {
  if (timers_arm(&s->turn->timers, &s->pause, turn_now(s->turn) + PAUSE) == 0) want_all(s, false);
  if (s->on_pause) s->on_pause(s, code);
}

int server_accept(struct server *s, struct link **out, struct addr *peer) {
  if (!s->open) return ERR_CLOSED;
  if (s->full) return ERR_AGAIN;
  for (int i = 0; i < s->n; i++) {
    struct listener *l = &s->listeners[(s->next + i) % s->n];
    if (!l->ready) continue;
    int r = ops_of(s)->accept(l->acceptor, out, peer);
    if (r == 0) {
      s->next = (s->next + i + 1) % s->n;
      return 0;
    }
    l->ready = false;
    if (r != ERR_AGAIN) {
      rest(s, r);
      return ERR_AGAIN;
    }
  }
  return ERR_AGAIN;
}

void server_want(struct server *s) {
  if (s->open) want_all(s, true);
}

void server_look(struct server *s) {
  for (int i = 0; i < s->n; i++) s->listeners[i].ready = true;
}

void server_set_full(struct server *s, bool full) {
  if (s->full == full) return;
  s->full = full;
  server_want(s);
}

void server_serve(struct server *s, void (*on_ready)(struct server *)) {
  s->on_ready = on_ready;
  s->turn->holds++;
  server_want(s); /* clients that came while nobody accepted are announced again */
}
