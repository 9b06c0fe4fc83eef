/* A link in memory.  Each end keeps what its peer wrote until it is read, as a list of pieces;
 * reports go through the world's posts.
 *
 * What this is not: it makes no system call and needs no particular world. */
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "world.h"

enum { PIPE_CAPACITY = 64 * 1024 }; /* bytes in one direction */

struct piece {
  struct piece *next;
  size_t at, len;
  char bytes[];
};

struct pipe_end {
  struct link link;
  struct post post;
  struct world *world;
  struct pipe_end *peer; /* NULL once that one closed */
  struct piece *first, *last;
  size_t held; /* bytes in the pieces */
  int in_end;  /* what is behind the pieces: ERR_EOF, ERR_RESET; 0: more may come */
  int out_end; /* why nothing can be written: ERR_PIPE, ERR_RESET; 0: it can */
  unsigned wanted;
  bool closing;
};

static struct pipe_end *end_of(struct link *l) { return (struct pipe_end *)(void *)l; }

/* ---- reports --------------------------------------------------------------------- */

static unsigned ready_now(const struct pipe_end *e) {
  unsigned in = e->first || e->in_end ? LINK_IN : 0;
  unsigned out = e->out_end || e->peer->held < PIPE_CAPACITY ? LINK_OUT : 0;
  return (in | out) & e->wanted;
}

static void report_if_ready(struct pipe_end *e) {
  if (e->wanted && ready_now(e)) world_post(e->world, &e->post);
}

static void drop_pieces(struct pipe_end *e) {
  for (struct piece *p; (p = e->first);) {
    e->first = p->next;
    free(p);
  }
  e->held = 0;
}

static void finish(struct pipe_end *e) {
  if (e->link.closed) e->link.closed(&e->link);
  e->world->pipes--;
  free(e);
}

/* What is still so afterwards is reported again in the next poll. */
static void on_post(struct post *p) {
  struct pipe_end *e = (struct pipe_end *)(void *)((char *)p - offsetof(struct pipe_end, post));
  if (e->closing) {
    finish(e);
    return;
  }
  unsigned events = ready_now(e);
  if (!events) return;
  e->link.ready(&e->link, events);
  report_if_ready(e);
}

static void pipe_want(struct link *l, unsigned events) {
  struct pipe_end *e = end_of(l);
  e->wanted = events;
  report_if_ready(e);
}

/* ---- bytes ----------------------------------------------------------------------- */

static int pipe_state(struct link *l) {
  (void)l;
  return 0;
}

static void piece_consume(struct pipe_end *e, size_t n) {
  struct piece *p = e->first;
  p->at += n;
  e->held -= n;
  if (p->at < p->len) return;
  e->first = p->next;
  free(p);
}

static ptrdiff_t pipe_read(struct link *l, void *to, size_t n) {
  struct pipe_end *e = end_of(l);
  struct piece *p = e->first;
  if (!p) return e->in_end == ERR_EOF ? 0 : e->in_end ? e->in_end : ERR_AGAIN;
  if (n > p->len - p->at) n = p->len - p->at;
  memcpy(to, p->bytes + p->at, n);
  piece_consume(e, n);
  if (e->peer) report_if_ready(e->peer);
  return (ptrdiff_t)n;
}

static size_t total_of(const struct iovec *v, int count) {
  size_t n = 0;
  for (int i = 0; i < count; i++) n += v[i].iov_len;
  return n;
}

/* The first n bytes of the vector. */
static struct piece *piece_new(const struct iovec *v, size_t n) {
  struct piece *p = malloc(sizeof *p + n);
  if (!p) return NULL;
  *p = (struct piece){.len = n};
  for (size_t at = 0; at < n; v++) {
    size_t part = v->iov_len < n - at ? v->iov_len : n - at;
    if (part) memcpy(p->bytes + at, v->iov_base, part);
    at += part;
  }
  return p;
}

static void piece_append(struct pipe_end *e, struct piece *p) {
  if (e->first)
    e->last->next = p;
  else
    e->first = p;
  e->last = p;
  e->held += p->len;
}

/* The first end stays, as on a socket: a reset behind an orderly end is not seen by a reader. */
static void end_input(struct pipe_end *e, int why) {
  if (!e->in_end) e->in_end = why;
  report_if_ready(e);
}

/* Bytes are lost for want of memory: the peer, which waits for them, must hear of it. */
static int break_off(struct pipe_end *e) {
  e->out_end = ERR_NOMEM;
  end_input(e->peer, ERR_RESET);
  return ERR_NOMEM;
}

static ptrdiff_t pipe_write(struct link *l, const struct iovec *v, int count) {
  struct pipe_end *e = end_of(l);
  if (e->out_end) return e->out_end;
  size_t n = total_of(v, count), room = PIPE_CAPACITY - e->peer->held;
  if (room == 0) return ERR_AGAIN;
  if (n > room) n = room;
  struct piece *p = piece_new(v, n);
  if (!p) return break_off(e);
  piece_append(e->peer, p);
  report_if_ready(e->peer);
  return (ptrdiff_t)n;
}

/* ---- ends ------------------------------------------------------------------------ */

static int pipe_shut(struct link *l) {
  struct pipe_end *e = end_of(l);
  if (e->out_end) return e->out_end == ERR_RESET ? ERR_RESET : 0;
  e->out_end = ERR_PIPE;
  end_input(e->peer, ERR_EOF);
  return 0;
}

/* What was written lies at the peer's end. */
static size_t pipe_in_flight(struct link *l) {
  (void)l;
  return 0;
}

static void leave_peer(struct pipe_end *e, bool reset) {
  struct pipe_end *peer = e->peer;
  e->peer = NULL;
  if (!peer) return;
  peer->peer = NULL;
  if (!peer->out_end) peer->out_end = reset ? ERR_RESET : ERR_PIPE;
  end_input(peer, reset ? ERR_RESET : ERR_EOF);
}

static void pipe_close(struct link *l, bool reset) {
  struct pipe_end *e = end_of(l);
  e->closing = true;
  e->wanted = 0;
  leave_peer(e, reset);
  drop_pieces(e);
  world_post(e->world, &e->post);
}

/* ---- facts ----------------------------------------------------------------------- */

static int pipe_name(struct link *l, bool peer, struct addr *a) {
  (void)l;
  (void)peer;
  *a = (struct addr){.kind = ADDR_PIPE};
  return 0;
}

static int pipe_option(struct link *l, enum link_option what, bool set, int *value) {
  (void)l;
  if (what != LINK_FD || set) return ERR_NOTSUP;
  *value = -1;
  return 0;
}

/* ---- beginning ------------------------------------------------------------------- */

static const struct link_ops pipe_ops = {
    .state = pipe_state,
    .read = pipe_read,
    .write = pipe_write,
    .want = pipe_want,
    .shut = pipe_shut,
    .in_flight = pipe_in_flight,
    .close = pipe_close,
    .name = pipe_name,
    .option = pipe_option,
};

static void end_init(struct pipe_end *e, struct world *w, struct pipe_end *peer) {
  *e = (struct pipe_end){.link = {.ops = &pipe_ops}, .world = w, .peer = peer};
  e->post.run = on_post;
  w->pipes++;
}

int link_pipe_open(struct world *w, struct link **a, struct link **b) {
  struct pipe_end *x = malloc(sizeof *x), *y = malloc(sizeof *y);
  if (!x || !y) {
    free(x);
    free(y);
    return ERR_NOMEM;
  }
  end_init(x, w, y);
  end_init(y, w, x);
  *a = &x->link;
  *b = &y->link;
  return 0;
}
