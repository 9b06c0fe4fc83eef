/* Links over sockets, as the world on libuv makes them.  For world_uv.c only: everybody else
 * sees a struct link. */
#ifndef LUNEWIRE_LINK_UV_H
#define LUNEWIRE_LINK_UV_H

#include <stdbool.h>

#include "err.h"
#include "link.h"

/* uv.h comes last: it takes back what err.h needs of <uv/errno.h>. */
#include <uv.h>

/* A link over fd, a stream socket that does not block; connecting: connect() has not answered
 * yet.  fd becomes the link's, and is closed when this fails.  *census, which must outlive the
 * link, counts it until it is freed.  0 or a code. */
int link_uv_open(uv_loop_t *loop, unsigned *census, int fd, bool connecting, struct link **out);

#endif
