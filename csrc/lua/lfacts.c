/* Times and facts of a Conn: deadlines and timeouts, addresses, framing, counters.
 * What this is not: its life and its ends (lconn.c). */
#include <math.h>

#include "rt.h"

/* ---- times ------------------------------------------------------------------------ */

static int set_deadline(lua_State *L, unsigned which) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  conn_set_deadline(c, which, opt_seconds(L, 2, INFINITY));
  return 0;
}

/***
Sets a time at which every call fails with ETIMEDOUT, also one that is waiting already.
@function Conn:set_deadline
@tparam number|nil t on the clock of `wire.now()`; nil: none
@waits never
@follows net.Conn.SetDeadline of Go
*/
static int l_set_deadline(lua_State *L) { return set_deadline(L, CONN_RECV | CONN_SEND); }

/***
Sets such a time for receiving only.
@function Conn:set_recv_deadline
@tparam number|nil t on the clock of `wire.now()`; nil: none
@waits never
*/
static int l_set_recv_deadline(lua_State *L) { return set_deadline(L, CONN_RECV); }

/***
Sets such a time for sending only.
@function Conn:set_send_deadline
@tparam number|nil t on the clock of `wire.now()`; nil: none
@waits never
*/
static int l_set_send_deadline(lua_State *L) { return set_deadline(L, CONN_SEND); }

/***
Sets the timeout of each later call that has none of its own.
@function Conn:set_timeout
@tparam number|nil s seconds; nil: none
@waits never
*/
static int l_set_timeout(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  c->timeout = opt_seconds(L, 2, INFINITY);
  return 0;
}

/***
Lets receives time out while the peer is idle.

A receive returns `ETIMEDOUT` once `s` seconds have passed since the last message was received:
since a whole line, package or frame, so that a peer that sends a byte now and then of a line
without end counts as idle; where bytes are received (`recv`, `recv_some`, `peek`, `chunks`,
`read` of a count or of everything), since the last byte.  What is sent does not count.  Nothing
is closed and no byte is lost.  Setting it begins to count anew, also for a call that is waiting:
whoever got `ETIMEDOUT`, asks the peer for a sign of life and sets it again waits as long again.
A timeout or deadline that comes earlier stays in force, and what is buffered is received even
when the time is over.
@function Conn:set_idle_timeout
@tparam ?number s seconds; `math.huge` or `nil` for none, as a connection begins
@waits never
@raise what is no number
*/
static int l_set_idle_timeout(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  conn_set_idle_timeout(c, opt_seconds(L, 2, INFINITY));
  return 0;
}

/***
Lets `recv()` without a count, and `chunks`, wait until the line is quiet.

The first byte is awaited as usual.  Then the call goes on until nothing has come for `s`
seconds, or until its timeout, a deadline, `max` (without it `limits.all`) or the end of the
stream: what is there then is its result.
@function Conn:set_recv_buffer_wait
@tparam ?number s seconds; 0 or `nil` for none, as a connection begins
@waits never
@raise what is no number
@follows SetRecvBufferWait of gtcp
*/
static int l_set_recv_buffer_wait(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  double s = opt_seconds(L, 2, 0);
  c->buffer_wait = s > 0 ? (float)s : 0;
  return 0;
}

/* ---- facts ------------------------------------------------------------------------ */

static int push_name(lua_State *L, bool peer) {
  const struct conn *c = check_conn(L, rt_of(L), 1);
  char text[ADDR_TEXT_MAX];
  struct addr a;
  conn_name(c, peer, &a);
  lua_pushlstring(L, text, addr_print(&a, text));
  if (a.kind == ADDR_PIPE || a.kind == ADDR_UNIX) return 1;
  lua_pushlstring(L, text, addr_print_host(&a, text));
  lua_pushinteger(L, a.port);
  return 3;
}

/***
The address of our end, also after the close.
@function Conn:local_addr
@treturn string "host:port"
@treturn string the host; none of a pipe
@treturn integer the port; none of a pipe
@waits never
*/
static int l_local_addr(lua_State *L) { return push_name(L, false); }

/***
The address of the peer, also after the close.
@function Conn:remote_addr
@treturn string "host:port"
@treturn string the host; none of a pipe
@treturn integer the port; none of a pipe
@waits never
*/
static int l_remote_addr(lua_State *L) { return push_name(L, true); }

/***
The system's number of the socket.
@function Conn:socket
@treturn integer the descriptor, -1 once closed and of a pipe
@waits never
*/
static int l_socket(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  int fd = -1;
  if (conn_is_open(c)) c->link->ops->option(c->link, LINK_FD, false, &fd);
  lua_pushinteger(L, fd);
  return 1;
}

static void set_number(lua_State *L, const char *name, lua_Integer n) {
  lua_pushinteger(L, n);
  lua_setfield(L, -2, name);
}

/***
Counts what the connection has done.
@function Conn:stats
@treturn table `bytes_in`, `bytes_out`, `messages_in`, `messages_out`, `unsent` (bytes that the
system has not taken), `in_flight` (bytes that it has, and the peer's system has not), `age` and
`idle` (seconds)
@waits never
*/
static int l_stats(lua_State *L) {
  struct rt *rt = rt_of(L);
  const struct conn *c = check_conn(L, rt, 1);
  double now = turn_now(&rt->turn);
  lua_createtable(L, 0, 8);
  set_number(L, "bytes_in", (lua_Integer)c->bytes_in);
  set_number(L, "bytes_out", (lua_Integer)c->bytes_out);
  set_number(L, "messages_in", (lua_Integer)c->messages_in);
  set_number(L, "messages_out", (lua_Integer)c->messages_out);
  set_number(L, "unsent", (lua_Integer)conn_unsent(c));
  set_number(L, "in_flight", conn_is_open(c) ? (lua_Integer)c->link->ops->in_flight(c->link) : 0);
  lua_pushnumber(L, now - c->opened);
  lua_setfield(L, -2, "age");
  lua_pushnumber(L, now > c->last_active ? now - c->last_active : 0);
  lua_setfield(L, -2, "idle");
  return 1;
}

/***
Sets the framing of the messages to come, at any boundary between two.
@function Conn:set_framing
@tparam Framing|table|nil framing one of `wire.framing`, or your own; nil: none
@treturn Conn the connection
@waits never
*/
static int l_set_framing(lua_State *L) {
  check_conn(L, rt_of(L), 1);
  luaL_checkany(L, 2);
  if (!lua_isnil(L, 2)) check_framing(L, 2);
  lconn_set_framing(L, 1, 2);
  lua_settop(L, 1);
  return 1;
}

const luaL_Reg lfacts_methods[] = {{"set_deadline", l_set_deadline},
                                   {"set_recv_deadline", l_set_recv_deadline},
                                   {"set_send_deadline", l_set_send_deadline},
                                   {"set_timeout", l_set_timeout},
                                   {"set_idle_timeout", l_set_idle_timeout},
                                   {"set_recv_buffer_wait", l_set_recv_buffer_wait},
                                   {"set_framing", l_set_framing},
                                   {"local_addr", l_local_addr},
                                   {"remote_addr", l_remote_addr},
                                   {"socket", l_socket},
                                   {"stats", l_stats},
                                   {NULL, NULL}};
