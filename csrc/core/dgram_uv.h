/* Datagram sockets, as the world on libuv makes them.  For world_uv.c only: everybody else sees
 * a struct dgram. */
#ifndef LUNEWIRE_DGRAM_UV_H
#define LUNEWIRE_DGRAM_UV_H

#include "dgram.h"
#include "poller.h"

/* A UDP socket bound to an IP address.  *census, which must outlive it, counts it until it is
 * freed.  0 or a code. */
int dgram_uv_open(struct poller *p, unsigned *census, const struct addr *at,
                  const struct dgram_opts *opts, struct dgram **out);

#endif
