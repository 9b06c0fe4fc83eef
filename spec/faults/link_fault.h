/* A link over a link that misbehaves as networks do, and never worse: bytes come and go in small
 * pieces, calls say "again" although something is there, reports come late, and at some byte the
 * connection breaks.  All of it keeps the contract of link.h; whoever cannot live with it relies on
 * more than that.
 *
 * What this is not: it loses, changes and reorders no byte, and is in no build but those of tests.
 */
#ifndef LUNEWIRE_LINK_FAULT_H
#define LUNEWIRE_LINK_FAULT_H

#include <stdint.h>

#include "link.h"

enum { FAULT_NEVER = -1 };

/* What a link is to do; all zero but the resets: nothing. */
struct fault_plan {
  unsigned read_most, write_most; /* bytes in one call: up to so many, at random; 0: all */
  unsigned again;                 /* calls in a row that say "again", up to so many */
  unsigned late_polls;            /* a report comes up to so many polls later */
  double late;                    /* or up to so many seconds, where a world_fault is told of it */
  long reset_in, reset_out;       /* it breaks once so many bytes were read, or written */
};
#define FAULT_NOTHING ((struct fault_plan){.reset_in = FAULT_NEVER, .reset_out = FAULT_NEVER})

/* How often it did. */
struct fault_tally {
  unsigned long links, reads, writes, agains, lates, resets;
};

struct link_fault;

/* Links that sleep until their report is due; whoever polls wakes them in time. */
struct fault_sleepers {
  struct link_fault *first;
};
double fault_sleepers_next(const struct fault_sleepers *s); /* INFINITY: none sleeps */
void fault_sleepers_wake(struct fault_sleepers *s, double now);

/* The tally and the sleepers outlive the link.  sleepers: NULL: reports are late by polls alone.
 * From here on `below` is this link's, on failure too: then it is reset. 0 or ERR_NOMEM. */
int link_fault_open(struct world *w, struct link *below, const struct fault_plan *plan,
                    uint32_t seed, struct fault_tally *tally, struct fault_sleepers *sleepers,
                    struct link **out);

/* The link below one of these; any other is itself. */
struct link *link_fault_below(const struct link *l);

#endif
