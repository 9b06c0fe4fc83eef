/* Getting a link that is up: look up the name, try its addresses as RFC 8305 (Happy Eyeballs)
 * says.  The attempts begin one after another, 250 ms apart or as soon as one fails, and go on
 * side by side; the first that is up wins, and the others are reset.
 *
 * What this is not: it has no time limit (the waiter's deadline is one for all of it), makes no
 * connection object, and puts no words to a failure: it keeps what became of each attempt. */
#ifndef LUNEWIRE_DIAL_H
#define LUNEWIRE_DIAL_H

#include <stdbool.h>

#include "turn.h"

enum {
  DIAL_AT_ONCE = 8 /* attempts under way: beyond that the oldest is given up for a new one */
};

struct dial;

struct attempt {
  struct dial *dial;
  struct addr to;
  struct link *link; /* not NULL: under way, or the winner's */
  int code;          /* ERR_AGAIN: under way or not begun; 0: it is up; otherwise why it failed */
};

struct dial {
  struct turn *turn;
  struct dial *prev, *next; /* in the turn's list */
  struct waitq waiters;     /* at most one: who asked */
  struct lookup lookup;
  bool looking;
  struct timer timer; /* when the next attempt begins */
  struct attempt *attempts, *winner;
  int n, begun, under_way; /* attempts[0 .. begun) were begun */
  struct addr from;
  char *path; /* of a Unix socket; an address that is up has a copy that is kept */
  bool has_from;
  uint16_t port;
  int code; /* ERR_AGAIN: under way; 0: link is up; otherwise the last attempt's failure */
};

/* Begins.  host: a name or an IP address; "" is this host; "unix:..." is a Unix socket.  from may
 * be NULL; ADDR_NONE with a port is that port of any address; with an address, the other family is
 * not tried, and without any address left the dial fails with ERR_NOFAMILY.  The outcome, also of
 * what fails at once, is in code.  NULL: out of memory. */
struct dial *dial_new(struct turn *t, const char *host, uint16_t port, const struct addr *from);
/* The winner's address, or the one that was tried last; ADDR_NONE if there was none. */
struct addr dial_address(const struct dial *d);
/* Did this attempt fail by the local address that it was to come from? */
bool attempt_failed_here(const struct attempt *a);
/* code is 0: the link becomes the caller's. */
struct link *dial_take(struct dial *d);
/* Gives up whatever is under way. NULL is harmless. */
void dial_release(struct dial *d);
/* The turn's: with the state that owned them. */
void dial_free_all(struct turn *t);

#endif
