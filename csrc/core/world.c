/* Posts: what all worlds have in common.  See world.h. */
#include "world.h"

#include <stddef.h>

void world_post(struct world *w, struct post *p) {
  if (p->queued) return;
  p->queued = true;
  p->next = NULL;
  p->prev = w->last_post;
  if (p->prev)
    p->prev->next = p;
  else
    w->first_post = p;
  w->last_post = p;
}

void world_unpost(struct world *w, struct post *p) {
  if (!p->queued) return;
  p->queued = false;
  if (p->prev)
    p->prev->next = p->next;
  else
    w->first_post = p->next;
  if (p->next)
    p->next->prev = p->prev;
  else
    w->last_post = p->prev;
}

/* A marker stands behind what was posted before, so that a run may post and unpost freely. */
bool world_run_posts(struct world *w) {
  if (!w->first_post) return false;
  struct post *end = &w->post_mark;
  world_post(w, end);
  for (struct post *p; (p = w->first_post) != end;) {
    world_unpost(w, p);
    p->run(p);
  }
  world_unpost(w, end);
  return true;
}
