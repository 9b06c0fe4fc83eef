/* The limits of connections, which share them: see conn.h.
 * What this is not: where they are kept to. */
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "conn_internal.h"
#include "err.h"

const struct conn_limits conn_default_limits = {
    .line = 64 * 1024, .frame = 1024 * 1024, .all = 16 * 1024 * 1024, .high_water = 256 * 1024};

/* Those of a server or a client are the same again and again. */
struct limits {
  struct conn_limits are;
  unsigned users;
};

void conn_drop_limits(struct conn *c) {
  struct limits *l = (struct limits *)(uintptr_t)c->limits;
  if (c->limits == &conn_default_limits || --l->users > 0) return;
  if (c->turn->limits == l) c->turn->limits = NULL;
  free(l);
}

int conn_set_limits(struct conn *c, const struct conn_limits *to) {
  struct limits *l = c->turn->limits;
  if (memcmp(to, &conn_default_limits, sizeof *to) == 0) {
    conn_drop_limits(c);
    c->limits = &conn_default_limits;
    return 0;
  }
  if (!l || memcmp(to, &l->are, sizeof *to) != 0) {
    l = malloc(sizeof *l);
    if (!l) return ERR_NOMEM;
    *l = (struct limits){*to, 0};
    c->turn->limits = l;
  }
  l->users++;
  conn_drop_limits(c);
  c->limits = &l->are;
  return 0;
}
