/* The mode once: C connections at a time, each sends one message, has it answered, sees the
 * server end, and makes room for the next.  That one has the same socket, which the server cannot
 * see: a new one would cost as much as a sixth of all this.
 * What this is not: it does not close first, so nothing of it stays behind in TIME_WAIT; what the
 * server leaves there does not keep a port from being used again. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

/* What one socket is for, again and again; `number` counts. */
struct visit {
  int fd;
  uint32_t id, number;
  size_t sent, seen; /* bytes */
  uint64_t began;
  bool is_open, awaits_room;
};

struct once {
  struct visit *visits;
  char *page; /* a message, and one byte more than it may be */
};

static const uint32_t interest = EPOLLIN | EPOLLRDHUP | EPOLLET;

static void visit_send(struct load *l, struct visit *v) {
  struct once *o = l->state;
  size_t len = l->pattern.len;
  if (v->sent == len) return;
  pattern_put(&l->pattern, v->id, v->number, 1, o->page);
  ssize_t n = send(v->fd, o->page + v->sent, len - v->sent, MSG_NOSIGNAL);
  if (n > 0) v->sent += (size_t)n;
  if (n < 0 && errno != EAGAIN) die("connection %u: %s", v->id, strerror(errno));
  if (v->sent == len || v->awaits_room) return;
  v->awaits_room = true; /* from now on, for it will not be the last time */
  loop_watch(l, EPOLL_CTL_MOD, v->fd, interest | EPOLLOUT, v);
}

static void visit_dial(struct load *l, struct visit *v) {
  v->fd = dial(l, SOCK_STREAM);
  v->awaits_room = false;
  loop_watch(l, EPOLL_CTL_ADD, v->fd, interest, v);
}

static void visit_redial(struct load *l, struct visit *v) {
  if (redial(l, v->fd)) return;
  close(v->fd);
  visit_dial(l, v);
}

static void visit_begin(struct load *l, struct visit *v) {
  v->began = now_ns();
  v->sent = v->seen = 0;
  if (v->number++)
    visit_redial(l, v);
  else
    visit_dial(l, v);
  v->is_open = true;
  visit_send(l, v);
}

static void visit_end(struct load *l, struct visit *v) {
  if (v->seen < l->pattern.len)
    die("connection %u: ended early, after %zu bytes of visit %u", v->id, v->seen, v->number);
  hang_up(v->fd);
  v->is_open = false;
  l->now = now_ns();
  l->total++;
  histogram_add(&l->times, l->now - v->began, 1);
  if (l->phase == RUNNING) visit_begin(l, v);
}

static void visit_check(const struct load *l, struct visit *v, const char *in, size_t n) {
  if (n > l->pattern.len - v->seen) die("connection %u: more came back than was sent", v->id);
  if (!pattern_is(&l->pattern, v->id, v->number, v->seen, in, n))
    die("connection %u: visit %u: the message came back wrong", v->id, v->number);
  v->seen += n;
}

/* Events come once, so it reads until there is nothing, or the end: what had ended before it was
 * read is over when less came than could have. */
static void visit_serve(struct load *l, void *who, uint32_t events) {
  struct once *o = l->state;
  struct visit *v = who;
  size_t room = l->pattern.len + 1;
  bool is_over = false, has_ended = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == EPOLLRDHUP;
  if (!v->is_open) return; /* it only tells that it is not connected */
  if (events & EPOLLOUT) visit_send(l, v);
  while (!is_over) {
    ssize_t n = recv(v->fd, o->page, room, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) die("connection %u: %s", v->id, strerror(errno));
    visit_check(l, v, o->page, (size_t)n);
    is_over = n == 0 || (has_ended && (size_t)n < room);
  }
  visit_end(l, v);
}

static bool is_drained(const struct load *l) {
  const struct once *o = l->state;
  for (int i = 0; i < l->conns; i++)
    if (o->visits[i].is_open) return false;
  return true;
}

void run_once(struct load *l) {
  struct once *o = allocate(1, sizeof *o);
  o->page = allocate(l->pattern.len + 1, 1);
  o->visits = allocate((size_t)l->conns, sizeof *o->visits);
  l->state = o;
  l->serve = visit_serve;
  l->is_drained = is_drained;
  l->phase = RUNNING;
  loop_open(l);
  for (int i = 0; i < l->conns; i++) {
    o->visits[i].id = (uint32_t)i;
    visit_begin(l, &o->visits[i]);
  }
  measure(l);
}
