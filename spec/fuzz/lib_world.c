/* A world for fuzz targets: see lib_world.h. */
#include "lib_world.h"

#include <math.h>

#include "err.h"
#include "fuzz.h"
#include "world.h"

enum { STEPS_TO_END = 100 };

struct still_world {
  struct world world;
  double now;
};

static struct still_world *still(struct world *w) { return (struct still_world *)(void *)w; }

static double still_now(struct world *w) { return still(w)->now; }

static bool still_poll(struct world *w, double until) {
  if (world_run_posts(w)) return true;
  if (!isfinite(until)) return until < 0;
  if (until > still(w)->now) still(w)->now = until;
  return true;
}

static uint32_t still_random(struct world *w) {
  (void)w;
  return 4;
}

static unsigned still_open(struct world *w) { return w->pipes; }

static void still_close(struct world *w) {
  for (unsigned i = 0; w->pipes && i < STEPS_TO_END; i++) world_run_posts(w);
  FUZZ_CHECK(w->pipes == 0);
  free(w);
}

static const struct world_ops still_ops = {
    .now = still_now,
    .poll = still_poll,
    .random = still_random,
    .open = still_open,
    .close = still_close,
};

void fuzz_turn_open(struct turn *t) {
  struct still_world *w = calloc(1, sizeof *w);
  FUZZ_CHECK(w);
  w->world.ops = &still_ops;
  w->now = 1000;
  FUZZ_CHECK(turn_init(t, &w->world) == 0);
}

void fuzz_turn_check(struct turn *t) {
  for (unsigned i = 0; i < STEPS_TO_END && (t->conns || t->world->pipes); i++) turn_step(t, true);
  FUZZ_CHECK(t->world->pipes == 0 && !t->ready.first && !t->first_visit);
  FUZZ_CHECK(t->holds == 0 && t->waits == 0 && t->conns == 0 && t->udps == 0 && t->dials == 0);
  FUZZ_CHECK(!t->first_conn && !t->borrower && !turn_alive(t));
}

void fuzz_turn_close(struct turn *t) {
  fuzz_turn_check(t);
  turn_fini(t, 0);
}
