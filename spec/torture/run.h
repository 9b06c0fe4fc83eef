/* One run of one scenario: a Lua state of its own, the body with allocations that fail, then with
 * memory again: is everything given back within the state, does it still work, and is everything
 * given back once it is closed?
 * What this is not: which runs there are, and processes (main.c). */
#ifndef LUNEWIRE_TORTURE_RUN_H
#define LUNEWIRE_TORTURE_RUN_H

#include <stdbool.h>

#include "alloc.h"

enum { HELD_MAX = 6, TEXT_MAX = 400 };

struct held {
  int family;
  size_t size;
  void *frames[ALLOC_FRAMES];
};

/* What one run has to say. */
struct outcome {
  long count;   /* allocations of the body */
  bool lost;    /* Lua could not call a finalizer, and never will: what it would have freed stays
                 * until the state is closed */
  bool body_ok; /* it ended without an error */
  char text[TEXT_MAX]; /* what the body says, or what is wrong inside the state; "" */
  bool left;           /* something stayed although there is memory again */
  bool broken;         /* the state does not work any more, or did what it must never do */
  bool leaked;         /* memory or descriptors did not come back with the state's end */
  int held_n;          /* of the leaked blocks, if they were noted */
  struct held held[HELD_MAX];
};

/* Reads the Lua files once, so that states need not compile them. */
void run_prepare(void);
/* The name of the i-th scenario, or NULL. */
const char *run_name(int i);
/* Does it belong to the test of the harness itself? */
bool run_is_planted(int i);
void run_scenario(int i, unsigned families, enum mode mode, long k, struct outcome *o);
/* After the warm-up: what the process holds now counts as its own. */
void run_settle(void);

#endif
