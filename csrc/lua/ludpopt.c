/* What scripts may ask of a Udp and set: socket options, multicast groups, times, facts.
 * What this is not: receiving and sending (ludp.c), what an option does (the system's). */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "ludp.h"

/* ---- options ------------------------------------------------------------------------ */

enum value { FLAG, SIZE, BYTE, INTERFACE };

struct udp_option {
  const char *name, *what;
  enum dgram_option id;
  enum value value;
};

static const struct udp_option options[] = {
    {"broadcast", "option broadcast", DGRAM_BROADCAST, FLAG},
    {"ttl", "option ttl", DGRAM_TTL, BYTE},
    {"multicast_ttl", "option multicast_ttl", DGRAM_MULTICAST_TTL, BYTE},
    {"multicast_loop", "option multicast_loop", DGRAM_MULTICAST_LOOP, FLAG},
    {"multicast_interface", "option multicast_interface", DGRAM_FD, INTERFACE},
    {"recv_buffer", "option recv_buffer", DGRAM_RECV_BUFFER, SIZE},
    {"send_buffer", "option send_buffer", DGRAM_SEND_BUFFER, SIZE},
    {"tos", "option tos", DGRAM_TOS, BYTE},
};

static const struct udp_option *check_option(lua_State *L) {
  return &options[check_name(L, 2, options, sizeof *options, sizeof options / sizeof *options)];
}

static int check_value(lua_State *L, enum value kind) {
  if (kind == SIZE) return check_between(L, 3, 1, INT_MAX);
  if (kind == BYTE) return check_between(L, 3, 0, 255);
  luaL_checktype(L, 3, LUA_TBOOLEAN);
  return lua_toboolean(L, 3);
}

/* A name, a number or an address, as text; NULL: none given. */
static const char *opt_interface(lua_State *L, int idx) {
  if (lua_isnoneornil(L, idx)) return NULL;
  size_t n;
  const char *text = luaL_checklstring(L, idx, &n);
  luaL_argcheck(L, n > 0 && strlen(text) == n, idx,
                "an interface is a name, a number or an address");
  return text;
}

static int option_set(lua_State *L, struct udp *u, const struct udp_option *o) {
  const char *interface = NULL;
  int n = 0, r = ERR_CLOSED;
  if (o->value != INTERFACE)
    n = check_value(L, o->value);
  else if ((interface = opt_interface(L, 3)) == NULL)
    return luaL_typeerror(L, 3, "interface");
  if (udp_is_open(u))
    r = interface ? u->dgram->ops->multicast_by(u->dgram, interface)
                  : u->dgram->ops->option(u->dgram, o->id, true, &n);
  if (r) return udp_failed(L, u, o->what, NULL, r);
  lua_pushboolean(L, true);
  return 1;
}

static int option_get(lua_State *L, struct udp *u, const struct udp_option *o) {
  int n, r = ERR_CLOSED;
  if (o->value == INTERFACE) return luaL_error(L, "option 'multicast_interface' can only be set");
  if (udp_is_open(u)) r = u->dgram->ops->option(u->dgram, o->id, false, &n);
  if (r) return udp_failed(L, u, o->what, NULL, r);
  if (o->value == FLAG)
    lua_pushboolean(L, n != 0);
  else
    lua_pushinteger(L, n);
  return 1;
}

/***
Reads an option of the socket, or sets it.
`broadcast` (false): may it send to broadcast addresses? `ttl`, `multicast_ttl` (1): how many
routers a datagram passes. `multicast_loop` (true): does this host receive what it sends to a group?
`multicast_interface`: by which interface multicast leaves, as of `join`; it can only be set.
`recv_buffer`, `send_buffer`: bytes of the system's queues, which it may round and limit; Linux
reads back double. `tos`: 0 to 255, the type of service, IPv6's traffic class.
@function Udp:option
@tparam string name the option
@tparam[opt] any value sets it; without, it is read
@treturn any the value; true when it was set
@codes ECLOSED, EINVAL (a value that the system refuses), ENODEV (no such interface)
@waits never
@raise an unknown name, a value of the wrong type or out of range
@follows setsockopt(2), ip(7), ipv6(7)
*/
static int l_option(lua_State *L) {
  struct udp *u = check_udp(L);
  const struct udp_option *o = check_option(L);
  return lua_isnone(L, 3) ? option_get(L, u, o) : option_set(L, u, o);
}

/* ---- groups ------------------------------------------------------------------------- */

static int member(lua_State *L, const char *what, bool join) {
  struct udp *u = check_udp(L);
  size_t n;
  struct addr group;
  const char *text = luaL_checklstring(L, 2, &n), *interface = opt_interface(L, 3);
  if (strlen(text) != n || addr_from_ip(&group, text, 0) != 0)
    return push_failure(L, what, text, "not an IP address", ERR_INVAL);
  int r = udp_is_open(u) ? u->dgram->ops->member(u->dgram, join, &group, interface) : ERR_CLOSED;
  if (r) return push_failure(L, what, text, NULL, r);
  lua_pushboolean(L, true);
  return 1;
}

/***
Joins a multicast group: from now on what is sent to it comes here, too.
The socket is bound to the group's port, usually on all interfaces; for several sockets on one
port there is `reuse_addr`.
@function Udp:join
@tparam string group its IP address
@tparam[opt] string|integer interface its name, its number or an address of it; by default the
system chooses
@treturn boolean true
@codes EINVAL (no multicast address), ENODEV (no such interface, or none for this group), EADDRINUSE
  (joined already), EAFNOSUPPORT (this socket speaks the other family), ECLOSED
@waits never
@follows RFC 3678, `MCAST_JOIN_GROUP`
*/
static int l_join(lua_State *L) { return member(L, "join", true); }

/***
Leaves a multicast group; closing the socket leaves all.
@function Udp:leave
@tparam string group as of `join`
@tparam[opt] string|integer interface as it was joined
@treturn boolean true
@codes EADDRNOTAVAIL (it was not joined), EINVAL, ENODEV, ECLOSED
@waits never
*/
static int l_leave(lua_State *L) { return member(L, "leave", false); }

/* ---- times -------------------------------------------------------------------------- */

static int set_deadline(lua_State *L, unsigned which) {
  struct udp *u = check_udp(L);
  luaL_checkany(L, 2);
  udp_set_deadline(u, which, opt_seconds(L, 2, INFINITY));
  return 0;
}

/***
Sets a time at which every call fails with ETIMEDOUT, also one that is waiting already.
A datagram that is there is received even past it.
@function Udp:set_deadline
@tparam number|nil t on the clock of `wire.now()`; nil: none
@waits never
@follows net.PacketConn.SetDeadline of Go
*/
static int l_set_deadline(lua_State *L) { return set_deadline(L, UDP_RECV | UDP_SEND); }

/***
Sets such a time for receiving only. A socket that is served is no longer served from then on.
@function Udp:set_recv_deadline
@tparam number|nil t on the clock of `wire.now()`; nil: none
@waits never
*/
static int l_set_recv_deadline(lua_State *L) { return set_deadline(L, UDP_RECV); }

/***
Sets such a time for sending only.
@function Udp:set_send_deadline
@tparam number|nil t on the clock of `wire.now()`; nil: none
@waits never
*/
static int l_set_send_deadline(lua_State *L) { return set_deadline(L, UDP_SEND); }

/***
Sets the timeout of each later call that has none of its own.
@function Udp:set_timeout
@tparam number|nil s seconds; nil: none
@waits never
*/
static int l_set_timeout(lua_State *L) {
  struct udp *u = check_udp(L);
  luaL_checkany(L, 2);
  u->timeout = opt_seconds(L, 2, INFINITY);
  return 0;
}

/* ---- facts -------------------------------------------------------------------------- */

static int push_address(lua_State *L, const struct addr *a) {
  char text[ADDR_TEXT_MAX];
  lua_pushlstring(L, text, addr_print(a, text));
  lua_pushlstring(L, text, addr_print_host(a, text));
  lua_pushinteger(L, a->port);
  return 3;
}

/***
Where the socket is bound; it knows this after its close as well.
@function Udp:local_addr
@treturn string "host:port", the real port
@treturn string the host
@treturn integer the port
@waits never
*/
static int l_local_addr(lua_State *L) { return push_address(L, &check_udp(L)->local); }

/***
The peer of a connected socket.
@function Udp:remote_addr
@treturn string "host:port"
@treturn string the host
@treturn integer the port
@codes ENOTCONN (not connected)
@waits never
*/
static int l_remote_addr(lua_State *L) {
  const struct udp *u = check_udp(L);
  if (u->peer.kind == ADDR_NONE) return udp_failed(L, u, "remote_addr", NULL, ERR_NOTCONN);
  return push_address(L, &u->peer);
}

/***
The socket's descriptor.
@function Udp:socket
@treturn integer -1 once it is closed
@waits never
*/
static int l_socket(lua_State *L) {
  const struct udp *u = check_udp(L);
  int fd = -1;
  if (udp_is_open(u)) u->dgram->ops->option(u->dgram, DGRAM_FD, false, &fd);
  lua_pushinteger(L, fd);
  return 1;
}

static void set_number(lua_State *L, const char *name, uint64_t n) {
  lua_pushinteger(L, (lua_Integer)n);
  lua_setfield(L, -2, name);
}

/***
Counters of the socket, which stay after its close.
`datagrams_in`, `datagrams_out`, `bytes_in`, `bytes_out`: received and sent. `queued`: read ahead
(option `queue`) and not yet received. `drops`: what came and will never be received: dropped by
the system because its queue was full (where it tells that: on Linux), sent by somebody else than
the peer before `connect`, or lost in here for lack of memory or by the close.
@function Udp:stats
@treturn table
@waits never
*/
static int l_stats(lua_State *L) {
  const struct udp *u = check_udp(L);
  lua_createtable(L, 0, 6);
  set_number(L, "datagrams_in", u->datagrams_in);
  set_number(L, "datagrams_out", u->datagrams_out);
  set_number(L, "bytes_in", u->bytes_in);
  set_number(L, "bytes_out", u->bytes_out);
  set_number(L, "queued", u->queued);
  set_number(L, "drops", udp_drops(u));
  return 1;
}

const luaL_Reg ludpopt_methods[] = {{"option", l_option},
                                    {"join", l_join},
                                    {"leave", l_leave},
                                    {"set_deadline", l_set_deadline},
                                    {"set_recv_deadline", l_set_recv_deadline},
                                    {"set_send_deadline", l_set_send_deadline},
                                    {"set_timeout", l_set_timeout},
                                    {"local_addr", l_local_addr},
                                    {"remote_addr", l_remote_addr},
                                    {"socket", l_socket},
                                    {"stats", l_stats},
                                    {NULL, NULL}};
