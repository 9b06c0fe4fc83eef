/* A queue of bytes in one piece of memory: reserve and commit at the tail, consume at the
 * head.
 *
 * Invariants: head <= tail <= cap; the bytes are mem[head, tail).  An empty queue holds no
 * memory: consuming the last byte frees it, so an idle connection costs nothing here.
 * What this is not: it knows no limits, no messages and no connections. */
#ifndef LUNEWIRE_BUF_H
#define LUNEWIRE_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
  char *mem;
  size_t head, tail, cap;
};

/* All zero is an empty queue: no init function. */

static inline const char *buf_data(const struct buf *b) { return b->mem + b->head; }
static inline size_t buf_len(const struct buf *b) { return b->tail - b->head; }

/* Room for at least n more bytes at the tail, n > 0; how much there really is: buf_room().
 * Memory grows geometrically, but never so that the queue could hold more than `most` bytes
 * (SIZE_MAX: no such bound; buf_len + n <= most is the caller's promise).  The room is valid
 * until the next call that changes the queue.  NULL: out of memory, nothing changed. */
char *buf_reserve(struct buf *b, size_t n, size_t most);
static inline size_t buf_room(const struct buf *b) { return b->cap - b->tail; }

/* n bytes written into reserved room become part of the queue.  n = 0 gives a reservation up:
 * an empty queue frees its memory. */
void buf_commit(struct buf *b, size_t n);

/* 0, or ERR_NOMEM with nothing changed.  data must not point into the queue. */
int buf_append(struct buf *b, const void *data, size_t n);
/* The same for a queue that never holds more than `most` bytes, as buf_reserve(). */
int buf_append_within(struct buf *b, const void *data, size_t n, size_t most);

/* Puts bytes in front of all others. 0, or ERR_NOMEM with nothing changed. */
int buf_prepend(struct buf *b, const void *data, size_t n);

/* Takes min(n, buf_len) bytes off the head. */
void buf_consume(struct buf *b, size_t n);

/* The bytes are to stay a while: memory is given back that is more than twice what they take, and
 * `slack`. */
void buf_settle(struct buf *b, size_t slack);

/* Empties the queue and frees its memory; it may be used again. */
void buf_fini(struct buf *b);

/* Memory of queues that came and went, for the next ones: each piece keeps the size to which it
 * has grown, so that after a while no queue grows.  All zero is empty. */
struct spares {
  struct spare *first;
  size_t bytes; /* never more than SPARES_MOST */
};
enum { SPARES_MOST = 2 * (1024 + 64) * 1024 }; /* two long messages, and room for small ones */

/* buf_fini(), but the memory is kept for another if there is room. */
void buf_recycle(struct buf *b, struct spares *s);
/* buf_reserve(), but a queue without memory begins with a piece, if there is one that is no larger
 * than twice `most`. */
char *buf_reserve_with(struct buf *b, size_t n, size_t most, struct spares *s);
void spares_fini(struct spares *s);

#endif
