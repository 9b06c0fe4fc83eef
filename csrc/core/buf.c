/* The queue of bytes: see buf.h.
 *
 * What this is not: a policy of how much may be queued; the bound comes with each call. */
#include "buf.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"

enum { SMALLEST = 256 }; /* below this a queue would be moved at nearly every append */

static void buf_move(struct buf *b, size_t to) {
  size_t len = buf_len(b);
  if (len && to != b->head) memmove(b->mem + to, b->mem + b->head, len);
  b->head = to;
  b->tail = to + len;
}

/* Twice what is there, within the bound, but enough for n more. 0: more than can be. */
static size_t grown_cap(size_t len, size_t n, size_t most) {
  size_t twice = 2 * len;
  if (n > PTRDIFF_MAX - len) return 0;
  if (twice < SMALLEST) twice = SMALLEST;
  if (twice > most) twice = most;
  return twice < len + n ? len + n : twice;
}

/* All that is free goes to the tail; more is taken only if that is less than growing would
 * leave.  Either costs the bytes that are there and leaves room for as many again (but for the
 * bound), so that a byte is moved twice on average, however the calls fall. */
static void buf_make_room(struct buf *b, size_t n, size_t most) {
  size_t cap = grown_cap(buf_len(b), n, most);
  buf_move(b, 0);
  if (cap <= b->cap) return;
  char *mem = realloc(b->mem, cap);
  if (!mem) return;
  b->mem = mem;
  b->cap = cap;
}

char *buf_reserve(struct buf *b, size_t n, size_t most) {
  if (buf_room(b) < n) buf_make_room(b, n, most);
  return buf_room(b) < n ? NULL : b->mem + b->tail;
}

/* A reservation that came to nothing must not leave memory in an empty queue. */
void buf_commit(struct buf *b, size_t n) {
  b->tail += n;
  if (buf_len(b) == 0) buf_fini(b);
}

int buf_append_within(struct buf *b, const void *data, size_t n, size_t most) {
  if (n == 0) return 0;
  char *to = buf_reserve(b, n, most);
  if (!to) return ERR_NOMEM;
  memcpy(to, data, n);
  buf_commit(b, n);
  return 0;
}

int buf_append(struct buf *b, const void *data, size_t n) {
  return buf_append_within(b, data, n, SIZE_MAX);
}

/* Makes room before the first byte.  What is free beyond n is divided between both ends, so
 * that neither a row of prepends nor appends in between move everything each time; that is a
 * sixteenth only, since what is put back was taken before, and leaves its room when it is again. */
static int buf_open_head(struct buf *b, size_t n) {
  size_t len = buf_len(b), more = len / 16 + SMALLEST;
  if (n > PTRDIFF_MAX - len - more) return ERR_NOMEM;
  if (!buf_reserve(b, n + more, len + n + more)) return ERR_NOMEM;
  size_t spare = b->cap - buf_len(b) - n;
  buf_move(b, n + spare / 2);
  return 0;
}

int buf_prepend(struct buf *b, const void *data, size_t n) {
  if (n == 0) return 0;
  if (b->head < n && buf_open_head(b, n) != 0) return ERR_NOMEM;
  b->head -= n;
  memcpy(b->mem + b->head, data, n);
  return 0;
}

void buf_consume(struct buf *b, size_t n) {
  if (n >= buf_len(b))
    buf_fini(b);
  else
    b->head += n;
}

void buf_settle(struct buf *b, size_t slack) {
  size_t len = buf_len(b);
  if (b->cap <= slack || b->cap - slack <= 2 * len || len == 0) return;
  buf_move(b, 0);
  char *mem = realloc(b->mem, len);
  if (!mem) return;
  b->mem = mem;
  b->cap = len;
}

void buf_fini(struct buf *b) {
  free(b->mem);
  *b = (struct buf){0};
}

/* ---- spares ---------------------------------------------------------------------- */

/* In the memory itself, which is never smaller. */
struct spare {
  struct spare *next;
  size_t size;
};
_Static_assert(sizeof(struct spare) <= SMALLEST, "a spare fits into any memory of a queue");

void buf_recycle(struct buf *b, struct spares *s) {
  struct spare *p = (struct spare *)(void *)b->mem;
  if (!p || b->cap < SMALLEST || b->cap > SPARES_MOST - s->bytes) {
    buf_fini(b);
    return;
  }
  *p = (struct spare){s->first, b->cap};
  s->first = p;
  s->bytes += b->cap;
  *b = (struct buf){0};
}

static void take_spare(struct buf *b, struct spares *s) {
  struct spare *p = s->first;
  s->first = p->next;
  s->bytes -= p->size;
  *b = (struct buf){.mem = (char *)p, .cap = p->size};
}

/* An empty queue holds no memory, not even when there is no more of it. */
char *buf_reserve_with(struct buf *b, size_t n, size_t most, struct spares *s) {
  if (b->cap == 0 && s->first && s->first->size / 2 <= most) take_spare(b, s);
  char *room = buf_reserve(b, n, most);
  if (!room && buf_len(b) == 0) buf_recycle(b, s);
  return room;
}

void spares_fini(struct spares *s) {
  struct buf b = {0};
  while (s->first) {
    take_spare(&b, s);
    buf_fini(&b);
  }
}
