/* Dialling: see dial.h. */
#include "dial.h"

#include <stdlib.h>
#include <string.h>

#include "err.h"

static void finish(struct dial *d, int code) {
  d->code = code;
  waitq_wake_first(&d->waiters);
}

static void drop_link(struct dial *d) {
  if (!d->link) return;
  d->link->ready = NULL;
  d->link->ops->close(d->link, true);
  d->link = NULL;
}

static void try_next(struct dial *d);

/* Connected, or not: the link says which. */
static void on_ready(struct link *l, unsigned events) {
  struct dial *d = l->owner;
  int r = l->ops->state(l);
  (void)events;
  if (r == ERR_AGAIN) return;
  l->ops->want(l, 0);
  if (r == 0) {
    finish(d, 0);
    return;
  }
  d->code = r;
  drop_link(d);
  try_next(d);
}

static int try_one(struct dial *d, const struct addr *to) {
  int r = d->turn->world->ops->dial(d->turn->world, to, d->has_from ? &d->from : NULL, &d->link);
  if (r) return r;
  d->link->owner = d;
  d->link->ready = on_ready;
  d->link->closed = NULL;
  d->link->ops->want(d->link, LINK_OUT);
  return 0;
}

/* The next address that does not fail at once; without any, the last failure stands. */
static void try_next(struct dial *d) {
  int failed = d->code;
  while (d->next < d->n) {
    failed = try_one(d, &d->list[d->next++]);
    if (failed) continue;
    d->code = ERR_AGAIN;
    return;
  }
  finish(d, failed);
}

static void begin(struct dial *d, const struct addr *list, int n) {
  d->list = malloc((size_t)n * sizeof *list);
  if (!d->list) {
    finish(d, ERR_NOMEM);
    return;
  }
  memcpy(d->list, list, (size_t)n * sizeof *list);
  for (int i = 0; i < n; i++) d->list[i].port = d->port;
  d->n = n;
  try_next(d);
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

static void start(struct dial *d, const char *host) {
  struct addr a;
  if (!*host)
    begin_here(d);
  else if (addr_from_ip(&a, host, d->port) == 0)
    begin(d, &a, 1);
  else
    look_up(d, host);
}

struct dial *dial_new(struct turn *t, const char *host, uint16_t port, const struct addr *from) {
  struct dial *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  d->turn = t;
  d->port = port;
  d->code = ERR_AGAIN;
  d->has_from = from != NULL;
  if (from) d->from = *from;
  t->dials++;
  start(d, host);
  return d;
}

struct addr dial_address(const struct dial *d) {
  return d->next ? d->list[d->next - 1] : (struct addr){.kind = ADDR_NONE};
}

struct link *dial_take(struct dial *d) {
  struct link *l = d->link;
  d->link = NULL;
  return l;
}

void dial_release(struct dial *d) {
  if (!d) return;
  waitq_wake_all(&d->waiters, ERR_CLOSED);
  if (d->looking) d->turn->world->ops->resolve_drop(d->turn->world, &d->lookup);
  drop_link(d);
  free(d->list);
  d->turn->dials--;
  free(d);
}
