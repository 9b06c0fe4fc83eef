/* Watches of signals: see world_uv_signal.h. */
#include "world_uv_signal.h"

#include <signal.h>
#include <stdlib.h>

struct signal_uv {
  uv_signal_t handle;
  struct signal_uv *next;
  struct signal_watch *watch; /* NULL once stopped */
  struct sigaction before;    /* what the process did before any of our watches */
  int signum;
};

static void on_signal(uv_signal_t *handle, int signum) {
  struct signal_uv *u = handle->data;
  (void)signum;
  if (u->watch) u->watch->fired(u->watch);
}

static void on_closed(uv_handle_t *handle) { free(handle->data); }

static struct signal_uv *find(const struct signals *all, int signum) {
  struct signal_uv *u = all->first;
  while (u && u->signum != signum) u = u->next;
  return u;
}

/* libuv puts its own action in place of the process's, and at the end the default. */
static int note_before(const struct signals *all, struct signal_uv *u) {
  const struct signal_uv *other = find(all, u->signum);
  if (other) {
    u->before = other->before;
    return 0;
  }
  return sigaction(u->signum, NULL, &u->before) == 0 ? 0 : ERR_INVAL;
}

/* What was there before may be libuv's own, of another loop of the process: it is not to be given
 * back, for that loop may be gone by then. */
static void disown(struct signal_uv *u) {
  struct sigaction now;
  if (sigaction(u->signum, NULL, &now) == 0 && now.sa_handler == u->before.sa_handler)
    u->before = (struct sigaction){.sa_handler = SIG_DFL};
}

int signals_start(struct signals *all, uv_loop_t *loop, struct signal_watch *s, int signum,
                  bool once) {
  struct signal_uv *u = calloc(1, sizeof *u);
  int r = u ? uv_signal_init(loop, &u->handle) : ERR_NOMEM;
  if (r) {
    free(u);
    return r;
  }
  u->handle.data = u;
  u->signum = signum;
  uv_unref((uv_handle_t *)&u->handle);
  r = note_before(all, u);
  if (r == 0) {
    r = once ? uv_signal_start_oneshot(&u->handle, on_signal, signum)
             : uv_signal_start(&u->handle, on_signal, signum);
  }
  if (r) {
    uv_close((uv_handle_t *)&u->handle, on_closed);
    return r;
  }
  disown(u);
  u->next = all->first;
  all->first = u;
  u->watch = s;
  s->handle = u;
  return 0;
}

/* Another loop of the process may still watch it: then it is not ours to give back. */
static void restore(const struct signal_uv *u) {
  struct sigaction now;
  if (sigaction(u->signum, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
    sigaction(u->signum, &u->before, NULL);
}

static void unlink_watch(struct signals *all, const struct signal_uv *u) {
  struct signal_uv **at = &all->first;
  while (*at != u) at = &(*at)->next;
  *at = u->next;
}

void signals_stop(struct signals *all, struct signal_watch *s) {
  struct signal_uv *u = s->handle;
  if (!u) return;
  s->handle = NULL;
  u->watch = NULL;
  unlink_watch(all, u);
  uv_signal_stop(&u->handle);
  if (!find(all, u->signum)) restore(u);
  uv_close((uv_handle_t *)&u->handle, on_closed);
}

void signals_close(struct signals *all) {
  while (all->first) signals_stop(all, all->first->watch);
}
