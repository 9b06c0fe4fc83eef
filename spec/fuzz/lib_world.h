/* A world for fuzz targets: links in memory, and a clock that moves only when nothing else can.
 *
 * So an input takes no time, makes no system call and always does the same.
 * What this is not: it dials, listens and resolves nothing. */
#ifndef LUNEWIRE_FUZZ_WORLD_H
#define LUNEWIRE_FUZZ_WORLD_H

#include "turn.h"

/* A turn in a world of its own. */
void fuzz_turn_open(struct turn *t);
/* Everything was closed: lets it finish, then nothing may be left, and nobody be counted. */
void fuzz_turn_check(struct turn *t);
/* The same, and then it ends. */
void fuzz_turn_close(struct turn *t);

#endif
