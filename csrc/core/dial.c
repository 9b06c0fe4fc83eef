/* Dialling: see dial.h. */
#include "dial.h"

#include <stdlib.h>
#include <string.h>

#include "err.h"

static const double STAGGER = 0.25; /* seconds; RFC 8305's Connection Attempt Delay */

/* ---- one attempt ------------------------------------------------------------------ */

static void attempt_end(struct attempt *a, int code) {
  a->link->ready = NULL;
  a->link->ops->close(a->link, true);
  a->link = NULL;
  a->code = code;
  a->dial->under_way--;
}

static bool is_loopback(const struct addr *a) {
  static const uint8_t ip6[16] = {[15] = 1}, mapped[12] = {[10] = 0xff, [11] = 0xff};
  if (a->kind == ADDR_IP4) return a->ip[0] == 127;
  if (a->kind != ADDR_IP6) return false;
  return memcmp(a->ip, ip6, sizeof ip6) == 0 ||
         (memcmp(a->ip, mapped, sizeof mapped) == 0 && a->ip[12] == 127);
}

/* A port from which nobody listens may be the one that the system chose for this attempt: then
 * the socket's two ends are one.  Asked where it can be, so that others pay no system call. */
static bool met_itself(const struct attempt *a) {
  struct addr here, there;
  struct link *l = a->link;
  if (!is_loopback(&a->to) || l->ops->name(l, false, &here) != 0 || here.port != a->to.port)
    return false;
  return l->ops->name(l, true, &there) == 0 && there.kind == here.kind &&
         memcmp(there.ip, here.ip, sizeof here.ip) == 0;
}

static int attempt_outcome(const struct attempt *a) {
  int r = a->link->ops->state(a->link);
  return r == 0 && met_itself(a) ? UV__ECONNREFUSED : r;
}

/* A port alone stands for that port of any address. */
static struct addr local_for(const struct dial *d, const struct addr *to) {
  struct addr from = d->from;
  from.kind = to->kind;
  return from;
}

static void on_ready(struct link *l, unsigned events);

/* Under way afterwards: it has a link.  Otherwise its code says why not. */
static bool attempt_begin(struct attempt *a) {
  struct dial *d = a->dial;
  struct addr from = local_for(d, &a->to);
  int r = d->turn->world->ops->dial(d->turn->world, &a->to, d->has_from ? &from : NULL, &a->link);
  if (r) {
    a->link = NULL;
    a->code = r;
    return false;
  }
  a->link->owner = a;
  a->link->ready = on_ready;
  a->link->closed = NULL;
  a->link->ops->want(a->link, LINK_OUT);
  d->under_way++;
  return true;
}

bool attempt_failed_here(const struct attempt *a) {
  if (!a->dial->has_from) return false;
  return a->code == UV__EADDRINUSE || a->code == UV__EADDRNOTAVAIL ||
         (a->code == UV__EACCES && a->dial->from.port != 0);
}

/* ---- all of them ------------------------------------------------------------------ */

static void end_attempts(struct dial *d, const struct attempt *but) {
  for (int i = 0; i < d->begun; i++) {
    struct attempt *a = &d->attempts[i];
    if (a != but && a->link) attempt_end(a, ERR_CANCELED);
  }
}

static void finish(struct dial *d, int code) {
  timers_disarm(&d->turn->timers, &d->timer);
  end_attempts(d, d->winner);
  d->code = code;
  waitq_wake_first(&d->waiters);
}

/* It had DIAL_AT_ONCE times the stagger to answer. */
static void make_room(struct dial *d) {
  struct attempt *a = d->attempts;
  if (d->under_way < DIAL_AT_ONCE) return;
  while (!a->link) a++;
  attempt_end(a, ERR_TIMEDOUT);
}

static int pace(struct dial *d) {
  if (d->begun == d->n) {
    timers_disarm(&d->turn->timers, &d->timer);
    return 0;
  }
  return timers_arm(&d->turn->timers, &d->timer, turn_now(d->turn) + STAGGER);
}

/* A Unix socket whose backlog is full says so at once, and nothing tells when it is not. */
static void try_again(struct dial *d) {
  const double soon = 0.01;
  d->attempts[--d->begun].code = ERR_AGAIN;
  if (timers_arm(&d->turn->timers, &d->timer, turn_now(d->turn) + soon) != 0) finish(d, ERR_NOMEM);
}

/* The next attempt that does not fail at once.  When all have failed, the last one's failure
 * stands. */
static void begin_next(struct dial *d) {
  bool begun = false;
  make_room(d);
  while (!begun && d->begun < d->n) begun = attempt_begin(&d->attempts[d->begun++]);
  if (!begun && d->attempts[d->n - 1].code == UV__EBUSY) {
    try_again(d);
    return;
  }
  if (d->under_way == 0)
    finish(d, d->attempts[d->n - 1].code);
  else if (pace(d) != 0)
    finish(d, ERR_NOMEM);
}

static void on_stagger(struct timer *t) {
  begin_next((struct dial *)(void *)((char *)t - offsetof(struct dial, timer)));
}

/* Connected, or not: the link says which. */
static void on_ready(struct link *l, unsigned events) {
  struct attempt *a = l->owner;
  int r = attempt_outcome(a);
  (void)events;
  if (r == ERR_AGAIN) return;
  if (r) {
    attempt_end(a, r);
    begin_next(a->dial);
    return;
  }
  l->ops->want(l, 0);
  if (a->to.kind == ADDR_UNIX) a->to.path = turn_keep(a->dial->turn, a->to.path);
  a->code = 0;
  a->dial->winner = a;
  finish(a->dial, 0);
}

/* ---- the addresses ---------------------------------------------------------------- */

static bool may_try(const struct dial *d, const struct addr *to) {
  return !d->has_from || d->from.kind == ADDR_NONE || d->from.kind == to->kind;
}

/* The first one from `at` on that may be tried and is of that family. */
static int seek(const struct dial *d, const struct addr *list, int n, int at, int kind) {
  while (at < n && (!may_try(d, &list[at]) || list[at].kind != kind)) at++;
  return at;
}

static void enlist_one(struct dial *d, const struct addr *to) {
  struct attempt *a = &d->attempts[d->n++];
  *a = (struct attempt){.dial = d, .to = *to, .code = ERR_AGAIN};
  a->to.port = d->port;
}

/* The order of the resolver, but families take turns as long as there are two: one that leads
 * nowhere delays the other by an attempt, not by all of its own. */
static void take_turns(struct dial *d, const struct addr *list, int n) {
  int kind = list[0].kind, other = kind == ADDR_IP6 ? ADDR_IP4 : ADDR_IP6;
  int i = 0, j = 0;
  while (i < n || j < n) {
    if ((i = seek(d, list, n, i, kind)) < n) enlist_one(d, &list[i++]);
    if ((j = seek(d, list, n, j, other)) < n) enlist_one(d, &list[j++]);
  }
}

static void begin(struct dial *d, const struct addr *list, int n) {
  d->attempts = malloc((size_t)n * sizeof *d->attempts);
  if (!d->attempts) {
    finish(d, ERR_NOMEM);
    return;
  }
  take_turns(d, list, n);
  if (d->n == 0)
    finish(d, ERR_NOFAMILY);
  else
    begin_next(d);
}

/* No host: this one, by either family. */
static void begin_here(struct dial *d) {
  struct addr here[2];
  addr_from_ip(&here[0], "127.0.0.1", d->port);
  addr_from_ip(&here[1], "::1", d->port);
  begin(d, here, 2);
}

static void on_found(struct lookup *l, int code, const struct addr *list, int n) {
  struct dial *d = l->owner;
  d->looking = false;
  if (code)
    finish(d, code);
  else
    begin(d, list, n);
}

static void look_up(struct dial *d, const char *host) {
  d->lookup = (struct lookup){.done = on_found, .owner = d};
  d->looking = true;
  int r = d->turn->world->ops->resolve(d->turn->world, host, &d->lookup);
  if (r == 0) return;
  d->looking = false;
  finish(d, r);
}

static void begin_unix(struct dial *d, const char *name) {
  d->path = strdup(strchr(name, ':') + 1);
  struct addr a = addr_from_unix(d->path);
  if (d->path)
    begin(d, &a, 1);
  else
    finish(d, ERR_NOMEM);
}

static void start(struct dial *d, const char *host) {
  struct addr a;
  if (addr_is_unix(host))
    begin_unix(d, host);
  else if (!*host)
    begin_here(d);
  else if (addr_from_ip(&a, host, d->port) == 0)
    begin(d, &a, 1);
  else
    look_up(d, host);
}

/* ---- its life --------------------------------------------------------------------- */

static void enlist(struct dial *d) {
  struct turn *t = d->turn;
  d->next = t->first_dial;
  if (d->next) d->next->prev = d;
  t->first_dial = d;
  t->dials++;
}

static void delist(struct dial *d) {
  *(d->prev ? &d->prev->next : &d->turn->first_dial) = d->next;
  if (d->next) d->next->prev = d->prev;
  d->turn->dials--;
}

struct dial *dial_new(struct turn *t, const char *host, uint16_t port, const struct addr *from) {
  struct dial *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  d->turn = t;
  d->port = port;
  d->code = ERR_AGAIN;
  d->timer.fire = on_stagger;
  d->has_from = from != NULL;
  if (from) d->from = *from;
  enlist(d);
  start(d, host);
  return d;
}

struct addr dial_address(const struct dial *d) {
  if (d->winner) return d->winner->to;
  return d->begun ? d->attempts[d->begun - 1].to : (struct addr){.kind = ADDR_NONE};
}

struct link *dial_take(struct dial *d) {
  struct link *l = d->winner ? d->winner->link : NULL;
  if (l) d->winner->link = NULL;
  return l;
}

void dial_release(struct dial *d) {
  if (!d) return;
  waitq_wake_all(&d->waiters, ERR_CLOSED);
  timers_disarm(&d->turn->timers, &d->timer);
  if (d->looking) d->turn->world->ops->resolve_drop(d->turn->world, &d->lookup);
  end_attempts(d, NULL);
  free(d->attempts);
  free(d->path);
  delist(d);
  free(d);
}

void dial_free_all(struct turn *t) {
  for (struct dial *next, *d = t->first_dial; d; d = next) {
    next = d->next;
    dial_release(d);
  }
}
