/* The loop's turn: what is ready to run, who waits for what, whose output must be written.
 *
 *   poll (C callbacks only: mark and wake) -> due timers -> one generation of the ready
 *   queue -> visits (one write each)
 *
 * A callback, a wake, a close only enqueue; jobs run in turn_step() and nowhere else.
 * What this is not: it does not know what a job does (a task, a server that accepts) and
 * holds nothing of a connection but its place in the visits and its loan of the page. */
#ifndef LUNEWIRE_TURN_H
#define LUNEWIRE_TURN_H

#include <stdbool.h>
#include <stddef.h>

#include "buf.h"
#include "timer.h"
#include "world.h"

enum {
  PAGE_SIZE_BYTES = 64 * 1024, /* the loop's one input page */
  TURN_BUDGET = 256,           /* calls served without waiting before others get their turn */
  TURN_CALL_BYTES = 4096       /* to move so many takes the time of a call, and counts as one */
};

struct turn;
struct conn;
struct dial;
struct limits;
struct text;
struct tls_root;
struct udp;

/* Something to be run by the driver. Intrusive; queued at most once. */
struct job {
  struct job *prev, *next;
  bool queued;
  void (*run)(struct job *);
};

struct jobs {
  struct job *first, *last;
};

/* The places of all who wait for one thing, first come first served.  Only the first may
 * try; it keeps its place when it was woken in vain. */
struct waitq {
  struct wait *first, *last;
};

enum { WAIT_SERVED = 1 }; /* the reason of a wait whose end was success: see wait_serve() */

/* One waiter.  Embedded in a task; the main chunk's is in the runtime.  It outlives every
 * queue that it stands in, or leaves it first. */
struct wait {
  struct job job; /* runs the waiter when it is woken */
  struct wait *prev, *next;
  struct waitq *q; /* where it stands, or NULL */
  struct turn *turn;
  struct timer timer; /* may be armed for an earlier wait than the present one */
  double due;         /* when this wait times out; INFINITY: never */
  double call_due;    /* the call's own share in due, without the connection's deadline */
  int why;            /* what ended the wait from outside (ERR_TIMEDOUT, ..., or WAIT_SERVED);
                       * 0: look again */
  bool parked;
  bool stays;   /* when its time is over it looks again, at its place, instead of leaving */
  bool outside; /* something outside the process may end this wait */
  bool held;    /* counts among turn.holds */
};

struct turn {
  struct world *world;
  double now;   /* the clock when this turn's poll came back */
  bool polling; /* inside it: now is that of the turn before until somebody asks turn_freshen */
  struct timers timers;
  struct jobs ready;
  struct conn *first_visit, *last_visit;
  struct conn *first_conn; /* of all */
  struct udp *first_udp;   /* of all */
  struct dial *first_dial; /* of all */
  /* What may still happen: servers with a handler, armed timers of the user, waits that time
   * or the outside can end, closing connections, unsent output, lookups, dials. */
  unsigned holds;
  unsigned conns, servers, udps, dials, waits; /* alive now: the census */
  char *page;                                  /* PAGE_SIZE_BYTES, allocated once */
  struct conn *borrower;                       /* whose unread bytes are page[page_at, page_end) */
  size_t page_at, page_end;
  struct spares spares;  /* for inputs of long messages, and for outputs */
  struct text *texts;    /* of turn_keep() */
  struct limits *limits; /* the last ones that are not the default: conn_set_limits() */
  struct tls_root *tls;  /* what all TLS sessions share; made when the first one is */
  unsigned long count;   /* of turns */
};

/* Takes over the world. 0 or ERR_NOMEM. */
int turn_init(struct turn *t, struct world *w);
/* Finishes the connections that are closing, at most `seconds` for what is unsent, and frees
 * all that are left, their owners' or not.  Runs no job.  Closes the world. */
void turn_fini(struct turn *t, double seconds);

double turn_now(struct turn *t);
/* For what runs inside the poll: t->now is now. Reads the clock once a poll. */
void turn_freshen(struct turn *t);

/* A copy of the text that lives as long as the turn, the same for the same text: for names of Unix
 * sockets, of which a program has few. NULL: out of memory. */
const char *turn_keep(struct turn *t, const char *text);

/* One turn. may_sleep = false only looks.  false: it would have slept for ever, and did not. */
bool turn_step(struct turn *t, bool may_sleep);
/* Can anything still happen, here or from outside? */
bool turn_alive(const struct turn *t);

void job_queue(struct turn *t, struct job *j);
void job_remove(struct turn *t, struct job *j);

void wait_init(struct wait *w, struct turn *t, void (*run)(struct job *));
/* Leaves everything: queue, ready queue, timer. */
void wait_fini(struct wait *w);

/* May the waiter try now?  Yes if nobody stands before it. */
static inline bool waitq_open(const struct waitq *q, const struct wait *w) {
  return q->first == NULL || q->first == w;
}

/* Stands in q (behind the others, or at the place it has; q may be NULL) until woken or until
 * due.  outside: something outside the process may wake it, so that it keeps the loop
 * alive.  0, or ERR_NOMEM with nothing changed. */
int wait_park(struct wait *w, struct waitq *q, double due, bool outside);
/* A parked waiter is queued to run. why = 0: look again, at its place; otherwise why the wait
 * is over, and it leaves the queue.  The first reason stays. */
void wait_wake(struct wait *w, int why);
/* The driver runs the waiter: it is parked no more, but keeps its place in the queue. */
void wait_resume(struct wait *w);
/* The call is over: leaves the queue; whoever is first now is woken. */
void wait_leave(struct wait *w);
/* A changed deadline reaches a parked waiter. */
void wait_set_due(struct wait *w, double due);

/* The first who waits in q, or NULL.  Whoever runs although it stands there (the coroutine that
 * waited died) loses its place. */
struct wait *waitq_waiting(struct waitq *q);
/* The parked waiter has been given what it waited for: it leaves the line, nothing else ends this
 * wait any more, and nobody is woken in vain. */
void wait_serve(struct wait *w);
/* A changed deadline reaches all who wait in q; each keeps its call's own, if that is earlier. */
void waitq_set_deadline(struct waitq *q, double at);

void waitq_wake_first(struct waitq *q);
void waitq_wake_all(struct waitq *q, int why);

#endif
