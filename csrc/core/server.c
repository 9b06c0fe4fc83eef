/* A listening socket: see server.h. */
#include "server.h"

#include "err.h"

static const double PAUSE = 0.1; /* seconds without accepting when descriptors ran out */

static struct world *world_of(const struct server *s) { return s->turn->world; }

/* A report is taken back while nobody can act on it: it would come on every poll. */
static void announce(struct server *s) {
  s->ready = true;
  if (s->on_ready)
    s->on_ready(s);
  else if (s->accepters.first)
    waitq_wake_first(&s->accepters);
  else
    world_of(s)->ops->accept_want(s->acceptor, false);
}

static void on_acceptable(struct acceptor *a) { announce(a->owner); }

static void on_pause_over(struct timer *t) {
  struct server *s = (struct server *)(void *)((char *)t - offsetof(struct server, pause));
  world_of(s)->ops->accept_want(s->acceptor, true);
}

int server_open(struct server *s, struct turn *t, const struct addr *at,
                const struct listen_opts *opts) {
  *s = (struct server){.turn = t, .at = *at, .pause.fire = on_pause_over};
  int r = t->world->ops->listen(t->world, at, opts, &s->acceptor);
  if (r) return r;
  s->acceptor->owner = s;
  s->acceptor->ready = on_acceptable;
  t->world->ops->accept_name(s->acceptor, &s->at);
  t->world->ops->accept_want(s->acceptor, true);
  t->servers++;
  return 0;
}

/* The connections wait in the backlog meanwhile; nobody is turned away. */
static void rest(struct server *s) {
  world_of(s)->ops->accept_want(s->acceptor, false);
  if (timers_arm(&s->turn->timers, &s->pause, turn_now(s->turn) + PAUSE) != 0)
    world_of(s)->ops->accept_want(s->acceptor, true);
}

int server_accept(struct server *s, struct link **l, struct addr *peer) {
  if (!server_is_open(s)) return ERR_CLOSED;
  if (!s->ready) return ERR_AGAIN;
  int r = world_of(s)->ops->accept(s->acceptor, l, peer);
  if (r == 0) return 0;
  s->ready = false;
  if (r != ERR_AGAIN) rest(s);
  return ERR_AGAIN;
}

void server_want(struct server *s) {
  if (server_is_open(s) && !timer_armed(&s->pause))
    world_of(s)->ops->accept_want(s->acceptor, true);
}

void server_serve(struct server *s, void (*on_ready)(struct server *)) {
  s->on_ready = on_ready;
  s->turn->holds++;
  server_want(s); /* clients that came while nobody accepted are announced again */
}

void server_close(struct server *s) {
  if (!server_is_open(s)) return;
  world_of(s)->ops->accept_close(s->acceptor);
  s->acceptor = NULL;
  timers_disarm(&s->turn->timers, &s->pause);
  waitq_wake_all(&s->accepters, ERR_CLOSED);
  s->turn->servers--;
  if (s->on_ready) s->turn->holds--;
}
