/* Getting a link that is up: resolve the name, try the addresses one after another.
 *
 * What this is not: it keeps no time (the waiter's deadline does) and makes no connection
 * object. */
#ifndef LUNEWIRE_DIAL_H
#define LUNEWIRE_DIAL_H

#include <stdbool.h>

#include "turn.h"

struct dial {
  struct turn *turn;
  struct waitq waiters; /* at most one: who asked */
  struct lookup lookup;
  bool looking;
  struct link *link; /* the attempt under way, or the result */
  struct addr *list, from;
  int n, next; /* list[next - 1] is being tried */
  uint16_t port;
  bool has_from;
  int code; /* ERR_AGAIN: under way; 0: link is up; otherwise the last attempt's failure */
};

/* Begins.  host: a name or an IP address; "" is this host.  from may be NULL.  The outcome,
 * also of what fails at once, is in code.  NULL: out of memory. */
struct dial *dial_new(struct turn *t, const char *host, uint16_t port, const struct addr *from);
/* The address that was tried last; ADDR_NONE if there was none. */
struct addr dial_address(const struct dial *d);
/* code is 0: the link becomes the caller's. */
struct link *dial_take(struct dial *d);
/* Gives up whatever is under way. NULL is harmless. */
void dial_release(struct dial *d);

#endif
