/* A world of its own for the fuzz target `api`: time is a number that jumps, sockets are pipes in
 * memory, and nothing outside exists.
 *
 * It stands in the place of the real one (the target is linked without world_uv.c), one at a time.
 * What a host does is told by the last number of its address, modulo 8: 1 up at once   2 up in the
 * next poll   3 up after 50 ms   4 never answers   5 refuses at once 6 refuses after 300 ms   7 and
 * 0: not reachable, said at once and a name is what its first letter says: see api_world.c. What
 * this is not: it has no datagrams and takes over no descriptors. */
#ifndef LUNEWIRE_API_WORLD_H
#define LUNEWIRE_API_WORLD_H

#include "world.h"

/* All of these are of the world that was opened last. */
double api_world_now(void);
/* Time passes while the loop does not turn. */
void api_world_advance(double seconds);
/* The next n accepts fail for lack of descriptors. */
void api_world_refuse_accepts(unsigned n);
/* Whoever watches the signal is told in the next poll. */
void api_world_signal(int signum);
/* Polls since it was opened. */
unsigned long api_world_polls(void);

#endif
