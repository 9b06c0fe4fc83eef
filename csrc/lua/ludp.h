/* What ludp.c (sockets, receiving, sending) and ludpopt.c (options, groups, times, facts) have of
 * each other; nobody else includes this. */
#ifndef LUNEWIRE_LUDP_H
#define LUNEWIRE_LUDP_H

#include "../core/udp.h"
#include "rt.h"

#define UDP_NAME "lunewire.Udp"

struct ludp {
  struct udp *u; /* NULL while it is being made, and once it was collected */
};

/* The Udp at stack index 1, open or not; raises for anything else, and if it was collected. */
struct udp *check_udp(lua_State *L);
/* nil, "what who: text", code -> 3.  who: NULL for the peer, or without one this socket. */
int udp_failed(lua_State *L, const struct udp *u, const char *what, const struct addr *who,
               int code);

extern const luaL_Reg ludpopt_methods[];

#endif
