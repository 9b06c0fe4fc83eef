/* Names into addresses: getaddrinfo in a few threads of our own, answers in the loop.  Who asks
 * for a name that is being looked up gets the same answer.
 *
 * What this is not: it caches nothing beyond that, knows no time limit and takes no numeric
 * addresses (they cost a thread here). */
#ifndef LUNEWIRE_RESOLVE_H
#define LUNEWIRE_RESOLVE_H

#include "err.h"
#include "world.h"

/* uv.h comes last: it takes back what err.h needs of <uv/errno.h>. */
#include <uv.h>

enum {
  RESOLVE_THREADS = 4,        /* at once; each ends when no question is left */
  RESOLVE_STUCK_MS = 1000,    /* a thread that takes longer is not counted among them ... */
  RESOLVE_THREADS_MAX = 32,   /* ... but here: the stuck ones too */
  RESOLVE_STACK = 256 * 1024, /* bytes each */
  RESOLVE_ADDRESSES = 256     /* most in one answer: duplicates are sought pairwise */
};

struct resolver;

/* Keeps the loop alive only while an answer is awaited. 0 or a code. */
int resolver_open(uv_loop_t *loop, struct resolver **out);
/* As resolve and resolve_drop of struct world_ops.  Dropping a question disturbs nobody else's. */
int resolver_ask(struct resolver *r, const char *host, struct lookup *l);
void resolver_drop(struct resolver *r, struct lookup *l);
/* Questions neither answered nor dropped. */
unsigned resolver_pending(const struct resolver *r);
/* Nobody waits for a thread: what it still does is abandoned, and the last one out frees the
 * resolver.  The loop has to run until its handles are closed. */
void resolver_close(struct resolver *r);

#endif
