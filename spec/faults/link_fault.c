/* See link_fault.h.
 *
 * The link below is asked for less than it was asked for above, so it never finds itself dry where
 * this one only seems to be: it goes on to report by itself.  What this one has to report alone
 * (that it broke) goes through the world's posts, as with links in memory. */
#include "link_fault.h"

#include <math.h>
#include <stdlib.h>

#include "err.h"
#include "world.h"

enum {
  SMALL_BYTES = 4 * 1024, /* of a stream: behind them pieces grow and other faults are rarer, or no
                             end would be in sight of long ones */
  RARE = 8,               /* one in so many, behind them */
  PIECES = 16             /* of a vector that is cut */
};

enum report { PROMPT, WAITING, SLEEPING }; /* what becomes of the reports from below */

struct storm {
  unsigned left;
  bool over; /* the next call is served */
};

struct link_fault {
  struct link link;
  struct link *below; /* NULL: it broke, and is gone */
  struct post post;
  struct world *world;
  struct fault_plan plan;
  struct fault_tally *tally;
  struct fault_sleepers *sleepers;
  struct link_fault *next_sleeper, **sleeper_at;
  struct addr names[2]; /* once it broke */
  uint32_t seed;
  size_t in, out;
  ptrdiff_t end; /* of reading, once it ended */
  struct storm storm_in, storm_out;
  unsigned polls_left; /* WAITING */
  double due;          /* SLEEPING */
  enum report report;
  unsigned wanted, late; /* late: what is to be reported */
  bool ended, broken, closing;
};

static const struct link_ops link_fault_ops;

static struct link_fault *fault_of(struct link *l) { return (struct link_fault *)(void *)l; }

struct link *link_fault_below(const struct link *l) {
  struct link *own = (struct link *)(uintptr_t)l;
  return l->ops == &link_fault_ops && fault_of(own)->below ? fault_of(own)->below : own;
}

/* ---- chance ---------------------------------------------------------------------- */

static uint32_t draw(struct link_fault *f) {
  f->seed ^= f->seed << 13;
  f->seed ^= f->seed >> 17;
  f->seed ^= f->seed << 5;
  return f->seed;
}

/* 1..most, the small ones as likely as the large. */
static size_t draw_size(struct link_fault *f, size_t most) {
  unsigned bits = 0;
  while (most >> bits) bits++;
  size_t bound = (size_t)1 << draw(f) % (bits + 1);
  if (bound > most) bound = most;
  return 1 + draw(f) % bound;
}

/* Is it time for a fault, so many bytes into the stream? */
static bool strikes(struct link_fault *f, size_t moved) {
  return moved < SMALL_BYTES || draw(f) % RARE == 0;
}

/* How much of n one call gets. */
static size_t cut(struct link_fault *f, size_t n, unsigned most, size_t moved,
                  unsigned long *count) {
  if (most == 0 || n == 0) return n;
  size_t bound = moved < SMALL_BYTES ? most : most + moved / 8, piece = draw_size(f, bound);
  if (piece >= n) return n;
  ++*count;
  return piece;
}

static bool storms(struct link_fault *f, struct storm *s, size_t moved) {
  if (s->over || f->plan.again == 0) {
    s->over = false;
    return false;
  }
  if (s->left == 0 && strikes(f, moved)) s->left = draw(f) % (f->plan.again + 1);
  if (s->left == 0) return false;
  s->over = --s->left == 0;
  f->tally->agains++;
  return true;
}

/* ---- reports --------------------------------------------------------------------- */

static void leave_sleepers(struct link_fault *f) {
  if (!f->sleeper_at) return;
  *f->sleeper_at = f->next_sleeper;
  if (f->next_sleeper) f->next_sleeper->sleeper_at = f->sleeper_at;
  f->sleeper_at = NULL;
}

static void enter_sleepers(struct link_fault *f) {
  f->next_sleeper = f->sleepers->first;
  f->sleeper_at = &f->sleepers->first;
  if (f->next_sleeper) f->next_sleeper->sleeper_at = &f->next_sleeper;
  f->sleepers->first = f;
}

static void want_below(struct link_fault *f) {
  if (!f->broken && f->report != SLEEPING) f->below->ops->want(f->below, f->wanted);
}

static void post_if_broken(struct link_fault *f) {
  if (f->broken && f->wanted) world_post(f->world, &f->post);
}

/* Only what the outside makes ready may be late by time: the loop cannot know that something of a
 * pipe is still to come unless it is posted. */
static void delay(struct link_fault *f) {
  f->tally->lates++;
  if (f->sleepers && f->link.outside && draw(f) % 4 == 0) {
    f->report = SLEEPING;
    f->due = f->world->ops->now(f->world) + f->plan.late * (1 + draw(f) % 16) / 16;
    enter_sleepers(f);
    f->below->ops->want(f->below, 0);
  } else {
    f->report = WAITING;
    f->polls_left = draw(f) % f->plan.late_polls;
    world_post(f->world, &f->post);
  }
}

/* It reports in the poll that follows. */
static void wake(struct link_fault *f) {
  leave_sleepers(f);
  f->report = WAITING;
  f->polls_left = 0;
  world_post(f->world, &f->post);
  want_below(f);
}

double fault_sleepers_next(const struct fault_sleepers *s) {
  double next = INFINITY;
  for (const struct link_fault *f = s->first; f; f = f->next_sleeper)
    if (f->due < next) next = f->due;
  return next;
}

void fault_sleepers_wake(struct fault_sleepers *s, double now) {
  for (struct link_fault *next, *f = s->first; f; f = next) {
    next = f->next_sleeper;
    if (f->due <= now) wake(f);
  }
}

/* ---- breaking -------------------------------------------------------------------- */

static void on_broken_closed(struct link *below);

/* The system's socket goes at once, as a reset makes it go. */
static void break_down(struct link_fault *f) {
  struct link *below = f->below;
  for (int peer = 0; peer < 2; peer++)
    if (below->ops->name(below, peer, &f->names[peer]) != 0) f->names[peer].kind = ADDR_NONE;
  f->broken = true;
  f->tally->resets++;
  leave_sleepers(f);
  below->closed = on_broken_closed;
  below->ops->close(below, true);
  post_if_broken(f);
}

static bool reached(size_t moved, long at) { return at >= 0 && moved >= (size_t)at; }

/* What was written before the byte of the break arrives: it is waited for. */
static void break_if_time(struct link_fault *f) {
  bool in = reached(f->in, f->plan.reset_in), out = reached(f->out, f->plan.reset_out);
  if (f->broken || !(in || out) || f->below->ops->state(f->below) != 0) return;
  if (in || f->below->ops->in_flight(f->below) == 0)
    break_down(f);
  else
    world_post(f->world, &f->post);
}

/* ---- what the link below says ---------------------------------------------------- */

static void on_ready(struct link *below, unsigned events) {
  struct link_fault *f = below->owner;
  break_if_time(f);
  if (f->broken) return;
  if (f->plan.late_polls && f->report == PROMPT && strikes(f, f->in + f->out)) delay(f);
  if (f->report == PROMPT) {
    f->link.ready(&f->link, events & f->wanted);
  } else {
    f->late |= events;
  }
}

static void report_late(struct link_fault *f) {
  unsigned events = f->late & f->wanted;
  f->report = PROMPT;
  f->late = 0;
  if (events) f->link.ready(&f->link, events);
}

static void finish(struct link_fault *f) {
  if (f->link.closed) f->link.closed(&f->link);
  free(f);
}

static void on_post(struct post *p) {
  struct link_fault *f =
      (struct link_fault *)(void *)((char *)p - offsetof(struct link_fault, post));
  if (f->closing) {
    finish(f);
  } else if (f->broken) {
    if (f->wanted) f->link.ready(&f->link, f->wanted);
    post_if_broken(f);
  } else if (f->report == WAITING) {
    if (f->polls_left-- == 0)
      report_late(f);
    else
      world_post(f->world, p);
  } else {
    break_if_time(f);
  }
}

static void on_closed(struct link *below) {
  struct link_fault *f = below->owner;
  f->below = NULL;
  finish(f);
}

static void on_broken_closed(struct link *below) {
  struct link_fault *f = below->owner;
  f->below = NULL;
  if (f->closing) finish(f);
}

/* ---- bytes ----------------------------------------------------------------------- */

static int link_fault_state(struct link *l) {
  struct link_fault *f = fault_of(l);
  return f->broken ? 0 : f->below->ops->state(f->below);
}

static size_t up_to(size_t n, size_t moved, long at) {
  return at > (long)moved && n > (size_t)at - moved ? (size_t)at - moved : n;
}

/* A link in memory joins no pieces: the room that a cut leaves is filled by a piece as small, and
 * in the end all are bytes.  So only the beginning is cut. */
static unsigned read_most(const struct link_fault *f) {
  return f->link.outside || f->in < SMALL_BYTES ? f->plan.read_most : 0;
}

static ptrdiff_t link_fault_read(struct link *l, void *to, size_t n) {
  struct link_fault *f = fault_of(l);
  if (f->ended) return f->end;
  break_if_time(f);
  if (f->broken) return ERR_RESET;
  if (storms(f, &f->storm_in, f->in)) return ERR_AGAIN;
  n = cut(f, up_to(n, f->in, f->plan.reset_in), read_most(f), f->in, &f->tally->reads);
  ptrdiff_t r = f->below->ops->read(f->below, to, n);
  if (r > 0) f->in += (size_t)r;
  f->ended = r <= 0 && r != ERR_AGAIN;
  f->end = r;
  break_if_time(f);
  return r;
}

static size_t total_of(const struct iovec *v, int count) {
  size_t n = 0;
  for (int i = 0; i < count; i++) n += v[i].iov_len;
  return n;
}

/* The first n bytes of the vector, or fewer. */
static ptrdiff_t write_some(struct link_fault *f, const struct iovec *v, size_t n) {
  struct iovec part[PIECES];
  int count = 0;
  for (; n > 0 && count < PIECES; v++) {
    if (v->iov_len == 0) continue;
    part[count] = *v;
    if (part[count].iov_len > n) part[count].iov_len = n;
    n -= part[count++].iov_len;
  }
  return f->below->ops->write(f->below, part, count);
}

static ptrdiff_t link_fault_write(struct link *l, const struct iovec *v, int count) {
  struct link_fault *f = fault_of(l);
  break_if_time(f);
  if (f->broken) return ERR_RESET;
  if (reached(f->out, f->plan.reset_out) || storms(f, &f->storm_out, f->out)) return ERR_AGAIN;
  size_t all = total_of(v, count), n = up_to(all, f->out, f->plan.reset_out);
  n = cut(f, n, f->plan.write_most, f->out, &f->tally->writes);
  ptrdiff_t r = n < all ? write_some(f, v, n) : f->below->ops->write(f->below, v, count);
  if (r > 0) f->out += (size_t)r;
  break_if_time(f);
  return r;
}

static void link_fault_want(struct link *l, unsigned events) {
  struct link_fault *f = fault_of(l);
  f->wanted = events;
  break_if_time(f);
  want_below(f);
  post_if_broken(f);
}

/* ---- ends ------------------------------------------------------------------------ */

static int link_fault_shut(struct link *l) {
  struct link_fault *f = fault_of(l);
  return f->broken ? ERR_RESET : f->below->ops->shut(f->below);
}

static size_t link_fault_in_flight(struct link *l) {
  struct link_fault *f = fault_of(l);
  return f->broken ? 0 : f->below->ops->in_flight(f->below);
}

static size_t link_fault_held(struct link *l) {
  struct link_fault *f = fault_of(l);
  return f->broken || !f->below->ops->held ? 0 : f->below->ops->held(f->below);
}

static bool link_fault_midway(struct link *l) {
  struct link_fault *f = fault_of(l);
  return !f->broken && f->below->ops->midway && f->below->ops->midway(f->below);
}

static const char *link_fault_explain(struct link *l) {
  struct link_fault *f = fault_of(l);
  return f->broken || !f->below->ops->explain ? NULL : f->below->ops->explain(f->below);
}

static void link_fault_close(struct link *l, bool reset) {
  struct link_fault *f = fault_of(l);
  world_unpost(f->world, &f->post);
  leave_sleepers(f);
  f->wanted = 0;
  f->closing = true;
  if (!f->broken)
    f->below->ops->close(f->below, reset);
  else if (!f->below)
    world_post(f->world, &f->post);
}

/* ---- facts ----------------------------------------------------------------------- */

static int link_fault_name(struct link *l, bool peer, struct addr *a) {
  struct link_fault *f = fault_of(l);
  if (!f->broken) return f->below->ops->name(f->below, peer, a);
  *a = f->names[peer];
  return a->kind == ADDR_NONE ? ERR_NOTCONN : 0;
}

static int link_fault_option(struct link *l, enum link_option what, bool set, int *value) {
  struct link_fault *f = fault_of(l);
  return f->broken ? ERR_NOTSUP : f->below->ops->option(f->below, what, set, value);
}

/* ---- beginning ------------------------------------------------------------------- */

static const struct link_ops link_fault_ops = {
    .state = link_fault_state,
    .read = link_fault_read,
    .write = link_fault_write,
    .want = link_fault_want,
    .shut = link_fault_shut,
    .in_flight = link_fault_in_flight,
    .held = link_fault_held,
    .midway = link_fault_midway,
    .explain = link_fault_explain,
    .close = link_fault_close,
    .name = link_fault_name,
    .option = link_fault_option,
};

int link_fault_open(struct world *w, struct link *below, const struct fault_plan *plan,
                    uint32_t seed, struct fault_tally *tally, struct fault_sleepers *sleepers,
                    struct link **out) {
  struct link_fault *f = calloc(1, sizeof *f);
  if (!f) {
    below->closed = NULL;
    below->ops->close(below, true);
    return ERR_NOMEM;
  }
  f->link = (struct link){.ops = &link_fault_ops, .outside = below->outside};
  f->post.run = on_post;
  f->below = below;
  f->world = w;
  f->plan = *plan;
  f->seed = seed ? seed : 1;
  f->tally = tally;
  f->sleepers = sleepers;
  tally->links++;
  below->owner = f;
  below->ready = on_ready;
  below->closed = on_closed;
  *out = &f->link;
  return 0;
}
