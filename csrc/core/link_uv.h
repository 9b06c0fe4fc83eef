/* Links over sockets, as the world on libuv makes them.  For world_uv.c only: everybody else
 * sees a struct link. */
#ifndef LUNEWIRE_LINK_UV_H
#define LUNEWIRE_LINK_UV_H

#include <stdbool.h>

#include "err.h"
#include "link.h"

/* uv.h comes last: it takes back what err.h needs of <uv/errno.h>. */
#include <uv.h>

struct link_uv;

/* uv_poll_init costs three system calls, so the handles of closed links are kept for the next
 * sockets that get the same descriptors, of which the lowest come again and again.  They are never
 * let go: libuv does that by the number of a descriptor that is somebody else's by then. */
enum { LINKS_KEPT = 1024 }; /* descriptors below this */

/* What the links of one loop share. All zero but the loop to begin; outlives them. */
struct links_uv {
  uv_loop_t *loop;
  unsigned open;                              /* links whose owner was not told of their end */
  struct link_uv *first_closed, *last_closed; /* whose owner is to be told of it */
  struct link_uv *kept[LINKS_KEPT];           /* by descriptor */
};

/* A link over fd, a stream socket that does not block; connecting: connect() has not answered yet.
 * fd becomes the link's; when this fails, it is left as it was.  0 or a code. */
int link_uv_open(struct links_uv *s, int fd, bool connecting, struct link **out);
/* The same over a socket that somebody else made, which does not block any more then. */
int link_uv_adopt(struct links_uv *s, int fd, struct link **out);
/* For the end of each poll: tells the owners of closed links. */
void links_uv_report(struct links_uv *s);
/* All links were closed: lets go of what was kept; the loop has still to run. */
void links_uv_fini(struct links_uv *s);

/* Gives a socket these options, those that it takes. */
void link_uv_set(int fd, const struct link_setting *list, int n);

/* The name of this end of an accepted Unix socket, which the system would tell as bare bytes. */
void link_uv_set_name(struct link *l, const struct addr *a);

#endif
