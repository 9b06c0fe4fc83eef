/* Signals on libuv: watches of one loop.
 *
 * What a process does about a signal is the process's, not a loop's: two loops that watch the
 * same signal should stop in the reverse order of their start.
 * What this is not: it decides nothing about what a signal means. */
#ifndef LUNEWIRE_WORLD_UV_SIGNAL_H
#define LUNEWIRE_WORLD_UV_SIGNAL_H

#include "err.h"
#include "world.h"

/* uv.h comes last: it takes back what err.h needs of <uv/errno.h>. */
#include <uv.h>

struct signal_uv;

/* All zero: none. */
struct signals {
  struct signal_uv *first;
};

/* As signal_start and signal_stop of struct world_ops. */
int signals_start(struct signals *all, uv_loop_t *loop, struct signal_watch *s, int signum,
                  bool once);
void signals_stop(struct signals *all, struct signal_watch *s);
/* Stops all that are left; the loop has to run until its handles are closed. */
void signals_close(struct signals *all);

#endif
