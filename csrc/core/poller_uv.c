/* The poller of other systems, on libuv's: see poller.h.
 *
 * libuv reports what is ready in every poll by itself.
 * What this is not: as fast; each change of interest costs system calls. */
#include "poller.h"

#ifndef POLLER_EPOLL

#include <stdlib.h>

struct poller {
  uv_loop_t *loop;
  uv_timer_t timer; /* ends a poll; stopped between polls */
};

static void on_poll(uv_poll_t *handle, int status, int events);

static void arm(struct watch *w) {
  if (w->wanted)
    uv_poll_start(&w->poll, w->wanted, on_poll);
  else
    uv_poll_stop(&w->poll);
}

/* status < 0 is libuv's word for an error on the socket: it has stopped the handle, though there
 * may be bytes before the error.  It is armed again, so that reports go on until the owner has
 * read that far and wants no more. */
static void on_poll(uv_poll_t *handle, int status, int events) {
  struct watch *w = handle->data;
  unsigned seen = status < 0 ? w->wanted : (unsigned)events & w->wanted;
  if (status < 0) arm(w);
  if (seen) w->ready(w, seen);
}

_Static_assert((int)WATCH_IN == (int)UV_READABLE && (int)WATCH_OUT == (int)UV_WRITABLE,
               "libuv's events pass as ours");

int watch_open(struct poller *p, struct watch *w, int fd, unsigned now) {
  (void)now;
  w->poller = p;
  w->wanted = 0;
  int r = uv_poll_init(p->loop, &w->poll, fd);
  w->poll.data = w;
  return r;
}

void watch_want(struct watch *w, unsigned events) {
  if (w->wanted == events) return;
  w->wanted = (uint8_t)events;
  arm(w);
}

void watch_dry(struct watch *w, unsigned events) { (void)w, (void)events; }
void watch_short(struct watch *w) { (void)w; }
void watch_distrust(struct watch *w) { (void)w; }

static void on_closed(uv_handle_t *handle) {
  struct watch *w = handle->data;
  w->closed(w);
}

void watch_close(struct watch *w) {
  w->wanted = 0;
  uv_close((uv_handle_t *)&w->poll, on_closed);
}

/* ---- polling ---------------------------------------------------------------------- */

/* It may fire before the poll of the same uv_run, which then would sleep without it. */
static void on_timer(uv_timer_t *t) { uv_stop(t->loop); }

/* libuv does nothing in a loop in which only handles that do not count are active.  A timer does.
 */
static void run_within(struct poller *p, int64_t ms, uv_run_mode mode) {
  uv_update_time(p->loop);
  uv_timer_start(&p->timer, on_timer, (uint64_t)ms, 0);
  uv_run(p->loop, mode);
  uv_timer_stop(&p->timer);
}

void poller_poll(struct poller *p, int64_t ms) {
  const int64_t far = 1000000;
  if (ms == 0)
    run_within(p, far, UV_RUN_NOWAIT);
  else
    run_within(p, ms > 0 ? ms : far, UV_RUN_ONCE);
}

bool poller_alive(const struct poller *p) { return uv_loop_alive(p->loop); }
bool poller_closes(const struct poller *p) { return uv_loop_alive(p->loop); }
void poller_touch(struct poller *p) { (void)p; }

/* ---- life ------------------------------------------------------------------------- */

int poller_open(uv_loop_t *loop, struct poller **out) {
  struct poller *p = calloc(1, sizeof *p);
  if (!p) return ERR_NOMEM;
  p->loop = loop;
  uv_timer_init(loop, &p->timer);
  p->timer.data = p;
  *out = p;
  return 0;
}

static void on_timer_closed(uv_handle_t *t) { free(t->data); }

void poller_close(struct poller *p) { uv_close((uv_handle_t *)&p->timer, on_timer_closed); }

#endif
