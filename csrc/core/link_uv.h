/* Links over sockets, as the world on libuv makes them.  For world_uv.c only: everybody else
 * sees a struct link. */
#ifndef LUNEWIRE_LINK_UV_H
#define LUNEWIRE_LINK_UV_H

#include <stdbool.h>

#include "err.h"
#include "link.h"
#include "poller.h"

/* A link over fd, a stream socket; connecting: connect() has not answered yet.  fd, which does not
 * block, becomes the link's; when this fails, it is left as it was.  *census, which
 * must outlive the link, counts it until it is freed.  0 or a code. */
int link_uv_open(struct poller *p, unsigned *census, int fd, int family, bool connecting,
                 struct link **out);

/* Gives a socket these options, those that it takes. */
void link_uv_set(int fd, const struct link_setting *list, int n);

/* The name of this end of an accepted Unix socket, which the system would tell as bare bytes. */
void link_uv_set_name(struct link *l, const struct addr *a);

#endif
