/* The poller of Linux: see poller.h.
 *
 * The system tells of a change once (edge-triggered), and what it told is kept in the watch until
 * it is used up.  So a connection that is read until it is dry costs one report and no system call
 * for its interest.  libuv's descriptor is among those that are polled; its loop runs when that is
 * ready, when its handles have changed, and while it waits for something of its own.
 * What this is not: portable. */
#include "poller.h"

#ifdef POLLER_EPOLL

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 256 }; /* descriptors reported by one poll: what they belong to stays in the cache */

struct poller {
  uv_loop_t *loop;
  uv_timer_t timer;          /* lets the loop run when only handles that do not count are active */
  struct watch_place ready;  /* due and wanted */
  struct watch_place closed; /* to be told so */
  unsigned active;           /* watches that want something */
  int fd;
  bool loop_ready; /* or changed: the loop has to run */
  struct epoll_event events[BATCH];
};

/* ---- lists: circles around a place of the poller ---------------------------------- */

static void circle_init(struct watch_place *p) { p->prev = p->next = p; }
static bool circle_is_empty(const struct watch_place *p) { return p->next == p; }

static void place_leave(struct watch_place *p) {
  if (!p->next) return;
  p->prev->next = p->next;
  p->next->prev = p->prev;
  p->prev = p->next = NULL;
}

static void place_enter(struct watch_place *p, struct watch_place *circle) {
  p->next = circle;
  p->prev = circle->prev;
  p->prev->next = p->next->prev = p;
}

/* All that stand around `from` stand around `to`, which is empty, instead. */
static void circle_move(struct watch_place *from, struct watch_place *to) {
  circle_init(to);
  if (circle_is_empty(from)) return;
  *to = *from;
  to->prev->next = to->next->prev = to;
  circle_init(from);
}

static struct watch *watch_of(struct watch_place *p) {
  return (struct watch *)(void *)((char *)p - offsetof(struct watch, place));
}

/* ---- watches ---------------------------------------------------------------------- */

/* Among those to be reported if there is something to report. */
static void settle(struct watch *w) {
  if (!(w->due & w->wanted))
    place_leave(&w->place);
  else if (!w->place.next)
    place_enter(&w->place, &w->poller->ready);
}

static int tell_system(struct watch *w, int how, unsigned events) {
  struct epoll_event e = {.data.ptr = w};
  e.events = EPOLLET | EPOLLIN | EPOLLPRI | EPOLLRDHUP | (events & WATCH_OUT ? EPOLLOUT : 0u);
  return epoll_ctl(w->poller->fd, how, w->fd, &e) == 0 ? 0 : -errno;
}

int watch_open(struct poller *p, struct watch *w, int fd, unsigned now) {
  w->poller = p;
  w->place = (struct watch_place){NULL, NULL};
  w->fd = fd;
  w->wanted = w->due = 0;
  w->known = (uint8_t)(now | WATCH_IN);
  w->wary = false;
  return tell_system(w, EPOLL_CTL_ADD, w->known);
}

/* Output is what few ever wait for: the system is asked when the first does.  As long as it cannot
 * be asked, for want of memory, the owner finds out by trying. */
static void ask_for_output(struct watch *w) {
  if (!(w->wanted & WATCH_OUT & ~(unsigned)w->known)) return;
  if (tell_system(w, EPOLL_CTL_MOD, WATCH_OUT) == 0)
    w->known |= WATCH_OUT;
  else
    w->due |= WATCH_OUT;
}

void watch_want(struct watch *w, unsigned events) {
  if (w->wanted == events) return;
  w->poller->active += (events ? 1u : 0u) - (w->wanted ? 1u : 0u);
  w->wanted = (uint8_t)events;
  ask_for_output(w);
  settle(w);
}

void watch_dry(struct watch *w, unsigned events) {
  w->due &= (uint8_t)~events;
  ask_for_output(w);
  settle(w);
}

void watch_short(struct watch *w) {
  if (!w->wary) watch_dry(w, WATCH_IN);
}

void watch_distrust(struct watch *w) { w->wary = true; }

void watch_close(struct watch *w) {
  epoll_ctl(w->poller->fd, EPOLL_CTL_DEL, w->fd, NULL);
  watch_want(w, 0);
  place_enter(&w->place, &w->poller->closed);
}

/* ---- polling ---------------------------------------------------------------------- */

/* Behind urgent data, and before the end of the stream, a read stops short of what there is. */
static void note(struct watch *w, uint32_t events) {
  const uint32_t broken = EPOLLERR | EPOLLHUP, ends = broken | EPOLLRDHUP | EPOLLPRI;
  if (events & (EPOLLIN | ends)) w->due |= WATCH_IN;
  if (events & (EPOLLOUT | broken)) w->due |= WATCH_OUT;
  if (events & ends) w->wary = true;
  settle(w);
}

/* A signal cuts the sleep short, and so does SIGCONT after a stop, however long that was: what has
 * come by then is seen before anybody looks at the time. */
static int await_events(struct poller *p, int ms) {
  int n = epoll_wait(p->fd, p->events, BATCH, ms);
  return n < 0 && errno == EINTR ? epoll_wait(p->fd, p->events, BATCH, 0) : n;
}

static void collect(struct poller *p, int ms) {
  int n = await_events(p, ms);
  for (int i = 0; i < n; i++) {
    if (p->events[i].data.ptr)
      note(p->events[i].data.ptr, p->events[i].events);
    else
      p->loop_ready = true;
  }
}

static void on_timer(uv_timer_t *t) { uv_stop(t->loop); }

static void run_loop(struct poller *p) {
  const uint64_t far = 1000000;
  p->loop_ready = false;
  uv_timer_start(&p->timer, on_timer, far, 0);
  uv_run(p->loop, UV_RUN_NOWAIT);
  uv_timer_stop(&p->timer);
}

/* Those of before this call, once each. */
static void report(struct poller *p) {
  struct watch_place now;
  for (circle_move(&p->ready, &now); !circle_is_empty(&now);) {
    struct watch *w = watch_of(now.next);
    unsigned events = w->due & w->wanted;
    place_leave(&w->place);
    settle(w); /* as long as the owner says nothing else */
    w->ready(w, events);
  }
}

static void report_closed(struct poller *p) {
  struct watch_place now;
  for (circle_move(&p->closed, &now); !circle_is_empty(&now);) {
    struct watch *w = watch_of(now.next);
    place_leave(&w->place);
    w->closed(w);
  }
}

static int shorter(int64_t a, int64_t b) {
  int64_t ms = a < 0 || (b >= 0 && b < a) ? b : a;
  return ms < INT_MAX ? (int)ms : INT_MAX;
}

/* How long the loop's own handles let us wait. */
static int64_t loop_patience(struct poller *p) {
  uv_update_time(p->loop);
  return uv_backend_timeout(p->loop);
}

void poller_poll(struct poller *p, int64_t ms) {
  bool busy = !circle_is_empty(&p->ready) || !circle_is_empty(&p->closed) || p->loop_ready;
  bool loop_waits = uv_loop_alive(p->loop);
  if (p->loop_ready) run_loop(p); /* whose callbacks may have given us work: no sleep now */
  collect(p, busy ? 0 : shorter(ms, loop_waits ? loop_patience(p) : -1));
  if (p->loop_ready || loop_waits) run_loop(p);
  report(p);
  report_closed(p);
}

bool poller_alive(const struct poller *p) {
  return p->active > 0 || !circle_is_empty(&p->closed) || uv_loop_alive(p->loop);
}

bool poller_closes(const struct poller *p) { return !circle_is_empty(&p->closed); }

void poller_touch(struct poller *p) { p->loop_ready = true; }

/* ---- life ------------------------------------------------------------------------- */

static int open_epoll(struct poller *p) {
  struct epoll_event loop = {.events = EPOLLIN, .data.ptr = NULL};
  p->fd = epoll_create1(EPOLL_CLOEXEC);
  if (p->fd < 0) return -errno;
  if (epoll_ctl(p->fd, EPOLL_CTL_ADD, uv_backend_fd(p->loop), &loop) == 0) return 0;
  int r = -errno;
  close(p->fd);
  return r;
}

int poller_open(uv_loop_t *loop, struct poller **out) {
  struct poller *p = calloc(1, sizeof *p);
  if (!p) return ERR_NOMEM;
  p->loop = loop;
  circle_init(&p->ready);
  circle_init(&p->closed);
  int r = open_epoll(p);
  if (r) {
    free(p);
    return r;
  }
  uv_timer_init(loop, &p->timer);
  p->timer.data = p;
  run_loop(p); /* it enters its own handles into its descriptor */
  *out = p;
  return 0;
}

static void on_timer_closed(uv_handle_t *t) { free(t->data); }

void poller_close(struct poller *p) {
  close(p->fd);
  uv_close((uv_handle_t *)&p->timer, on_timer_closed);
}

#endif
