/* Udp userdata: making, receiving, sending, closing.
 * What this is not: handlers and their workers (lua/lunewire/udp.lua), the options of a socket
 * (ludpopt.c), what a datagram goes through (core/udp.c). */
#include "ludp.h"

#include <math.h>
#include <string.h>

static const char resolve_key; /* registry: wire.resolve */

/* ---- life ------------------------------------------------------------------------- */

struct udp *check_udp(lua_State *L) {
  const struct ludp *lu = luaL_checkudata(L, 1, UDP_NAME);
  if (!lu->u) luaL_argerror(L, 1, "this Udp was collected"); /* a finalizer still has it */
  return lu->u;
}

static int ludp_gc(lua_State *L) {
  struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  struct ludp *lu = lua_touserdata(L, 1);
  if (lu->u && !rt->closed) udp_release(lu->u);
  lu->u = NULL;
  return 0;
}

int udp_failed(lua_State *L, const struct udp *u, const char *what, const struct addr *who,
               int code) {
  char text[ADDR_TEXT_MAX];
  if (!who) who = u->peer.kind == ADDR_NONE ? &u->local : &u->peer;
  addr_print(who, text);
  return push_failure(L, what, text, NULL, code);
}

/* ---- making ------------------------------------------------------------------------ */

struct udp_opts {
  struct dgram_opts socket;
  double timeout, drain_timeout;
  size_t max, workers;
  int queue;
};

#define SOCKET_KEYS                                                                                \
  {"timeout", OPT_SECONDS, offsetof(struct udp_opts, timeout)},                                    \
      {"max", OPT_SIZE, offsetof(struct udp_opts, max)},                                           \
      {"queue", OPT_INT, offsetof(struct udp_opts, queue)},                                        \
      {"reuse_port", OPT_BOOL, offsetof(struct udp_opts, socket.reuse_port)},                      \
      {"reuse_addr", OPT_BOOL, offsetof(struct udp_opts, socket.reuse_addr)},                      \
      {"broadcast", OPT_BOOL, offsetof(struct udp_opts, socket.broadcast)},                        \
      {"ipv6_only", OPT_BOOL, offsetof(struct udp_opts, socket.ipv6_only)},                        \
      {"recv_buffer", OPT_INT, offsetof(struct udp_opts, socket.recv_buffer)}, {                   \
    "send_buffer", OPT_INT, offsetof(struct udp_opts, socket.send_buffer)                          \
  }

static const struct opt udp_keys[] = {SOCKET_KEYS, {NULL, OPT_ANY, 0}};
static const struct opt serve_keys[] = {
    SOCKET_KEYS,
    {"workers", OPT_SIZE, offsetof(struct udp_opts, workers)},
    {"drain_timeout", OPT_SECONDS, offsetof(struct udp_opts, drain_timeout)},
    {NULL, OPT_ANY, 0}};

/* All interfaces by both families; on a system without IPv6 by the other. */
static struct udp *open_at(struct rt *rt, const char *host, uint16_t port,
                           const struct dgram_opts *o, int *code) {
  struct addr at;
  *code = addr_from_ip(&at, *host ? host : "::", port);
  if (*code) return NULL;
  struct udp *u = udp_open(&rt->turn, &at, o, code);
  if (u || *host || o->ipv6_only || *code != ERR_NOFAMILY) return u;
  addr_from_ip(&at, "0.0.0.0", port);
  return udp_open(&rt->turn, &at, o, code);
}

/* core.udp(addr, opts | nil, serving) -> Udp[, workers, drain_timeout]; a host name is ERR_INVAL.
 * serving: what serve_udp takes as options; the socket keeps the loop alive. */
static int l_udp(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct udp_opts o = {.timeout = INFINITY, .drain_timeout = 10, .max = UDP_MAX, .workers = 1};
  char host[ADDR_HOST_MAX];
  const char *why;
  uint16_t port;
  bool serving = lua_toboolean(L, 3);
  const char *what = serving ? "serve_udp" : "udp";
  refuse_in_finalizer(L, what);
  opts_read(L, 2, serving ? serve_keys : udp_keys, &o);
  int r = check_address(L, 1, host, &port, &why);
  const char *text = lua_tostring(L, -1);
  if (r) return push_failure(L, what, text, why, r);
  struct ludp *lu = lua_newuserdatauv(L, sizeof *lu, 0);
  lu->u = NULL;
  luaL_setmetatable(L, UDP_NAME);
  lu->u = open_at(rt, host, port, &o.socket, &r);
  if (!lu->u) return push_failure(L, what, text, NULL, r);
  lu->u->timeout = o.timeout;
  lu->u->max = o.max < UDP_MAX ? o.max : UDP_MAX;
  udp_set_ahead(lu->u, (size_t)o.queue);
  if (!serving) return 1;
  udp_hold(lu->u);
  lua_pushinteger(L, o.workers < INT32_MAX ? (lua_Integer)o.workers : INT32_MAX);
  lua_pushnumber(L, o.drain_timeout);
  return 3;
}

/* core.work(udp, fn, ...): spawns a task that handles its datagrams; with the last one's end, of
 * whatever it dies, the socket is closed. */
static int l_work(lua_State *L) {
  struct udp *u = check_udp(L);
  task_spawn_for(L, rt_of(L))->works = u;
  udp_join(u);
  return 1;
}

/* ---- options of a call -------------------------------------------------------------- */

/* A number or {timeout=, retry=} at idx; otherwise the socket's own timeout. */
static double call_timeout(lua_State *L, int idx, const struct udp *u) {
  static const struct opt keys[] = {OPT_TIMEOUT, OPT_RETRY, OPT_END};
  struct call_opts o = {.timeout = u->timeout};
  opts_read(L, idx, keys, &o);
  return opts_retry(L, idx, o.timeout);
}

/* ---- receiving ---------------------------------------------------------------------- */

/***
A socket for datagrams (UDP), by IPv4, IPv6 or both.
Datagrams may get lost, come twice or in another order: that is the net's doing. Here each is
whole or, if it was longer than the option `max`, marked as cut off. What comes is kept by the
system until somebody receives it, in a queue of limited size; `Udp:stats` counts what had no
room. Every method may be called from any task.
@type Udp
*/

enum style { WITH_SENDER, WITHOUT_SENDER };

static int push_datagram(lua_State *L, struct udp *u, const struct op *o,
                         const struct datagram *d) {
  char text[ADDR_TEXT_MAX];
  bool with_sender = o->style == WITH_SENDER;
  lua_pushlstring(L, d->base, d->len);
  if (with_sender) lua_pushlstring(L, text, addr_print(&d->about.from, text));
  lua_pushboolean(L, d->about.truncated);
  udp_took(u, d);
  return with_sender ? 3 : 2;
}

/* A call that will not wait, or may not, still takes what the system has by now. */
static int recv_try(struct rt *rt, struct op *o, struct datagram *d) {
  struct udp *u = o->on;
  int r = udp_take(u, d);
  if (r != ERR_AGAIN || !op_expired(rt, o)) return r;
  udp_ask_system(u);
  return udp_take(u, d);
}

static int recv_run(lua_State *L, struct rt *rt, struct op *o) {
  struct udp *u = o->on;
  struct datagram d;
  int r;
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) r = recv_try(rt, o, &d);
    if (r != ERR_AGAIN) break;
    udp_want_input(u);
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  return r ? udp_failed(L, u, o->what, NULL, r) : push_datagram(L, u, o, &d);
}

static int receive(lua_State *L, const char *what, enum style style) {
  struct rt *rt = rt_of(L);
  struct udp *u = check_udp(L);
  struct op o = {.run = recv_run,
                 .what = what,
                 .q = &u->readers,
                 .deadline = &u->recv_deadline,
                 .timeout = call_timeout(L, 2, u),
                 .on = u,
                 .outside = true,
                 .style = (uint8_t)style};
  return recv_run(L, rt, &o);
}

/***
Receives a datagram, and from whom.
Callers queue in order, and each datagram goes to one of them; a timeout or cancel loses none.
@function Udp:recv_from
@tparam[opt] number|table opts `timeout` (of the socket), `retry`, as of a Conn's receiving calls
@treturn string the data; an empty datagram is `""`
@treturn string "host:port" of the sender, as `send_to` takes it
@treturn boolean true if it was longer than `max`; what is missing is lost
@codes ETIMEDOUT, ECLOSED; of a connected socket ECONNREFUSED and others (what a datagram that it
  sent met with, told once; the socket stays usable)
@waits until a datagram is there
@follows net.PacketConn.ReadFrom of Go
*/
static int l_recv_from(lua_State *L) { return receive(L, "recv_from", WITH_SENDER); }

/***
Receives a datagram without its sender: of a connected socket that is the peer.
@function Udp:recv
@tparam[opt] number|table opts as of `recv_from`
@treturn string the data; an empty datagram is `""`
@treturn boolean true if it was longer than `max`; what is missing is lost
@codes as of `recv_from`
@waits until a datagram is there
*/
static int l_recv(lua_State *L) { return receive(L, "recv", WITHOUT_SENDER); }

/* ---- where to ----------------------------------------------------------------------- */

/* No host: this one, by the family that the socket speaks. */
static struct addr this_host(const struct udp *u, uint16_t port) {
  struct addr a;
  addr_from_ip(&a, "127.0.0.1", port);
  if (!u->dgram->ops->reaches(u->dgram, &a)) addr_from_ip(&a, "::1", port);
  return a;
}

/* [-0, +1] The address at idx as text.  0: *to is it; ERR_AGAIN: it has the name `host`;
 * otherwise why it is none. */
static int read_target(lua_State *L, const struct udp *u, int idx, struct addr *to, char *host,
                       uint16_t *port, const char **why) {
  int r = check_address(L, idx, host, port, why);
  if (r) return r;
  if (!udp_is_open(u)) return ERR_CLOSED;
  if (*host) return addr_from_ip(to, host, *port) == 0 ? 0 : ERR_AGAIN;
  *to = this_host(u, *port);
  return 0;
}

/* What is done with an address when it is known: [udp, data | nil, ...]. timeout: what is left. */
typedef int target_action(lua_State *L, struct udp *u, const struct addr *to, double timeout);

static target_action send_to_target, connect_to_target;

/* In the order of the continuation's context. */
enum { SEND_TO, CONNECT };
static const struct {
  const char *what;
  target_action *run;
} actions[] = {{"send_to", send_to_target}, {"connect", connect_to_target}};

/* [udp, data | nil, address, due, list | nil, message, code]  The first that can be reached. */
static int name_found(lua_State *L, int status, lua_KContext ctx) {
  struct udp *u = check_udp(L);
  char host[ADDR_HOST_MAX];
  const char *why;
  uint16_t port;
  struct addr to = {.kind = ADDR_NONE};
  (void)status;
  if (lua_isnil(L, 5)) return 3;
  int r = check_address(L, 3, host, &port, &why);
  if (r == 0) r = udp_is_open(u) ? ERR_NOFAMILY : ERR_CLOSED;
  for (lua_Integer i = 1; r == ERR_NOFAMILY && lua_rawgeti(L, 5, i) == LUA_TSTRING; i++) {
    bool is_ip = addr_from_ip(&to, lua_tostring(L, -1), port) == 0;
    if (is_ip && u->dgram->ops->reaches(u->dgram, &to)) r = 0;
    lua_pop(L, 1);
  }
  if (r) return push_failure(L, actions[ctx].what, lua_tostring(L, 3), NULL, r);
  double left = lua_tonumber(L, 4) - turn_now(&rt_of(L)->turn);
  return actions[ctx].run(L, u, &to, left);
}

/* [udp, data | nil, address, text]  The name may take as long as the call. */
static int look_up(lua_State *L, const struct udp *u, const char *host, double timeout,
                   int action) {
  double now = turn_now(&rt_of(L)->turn), due = now + timeout;
  if (action == SEND_TO && u->send_deadline < due) due = u->send_deadline;
  lua_replace(L, 3);
  lua_pushnumber(L, due);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &resolve_key);
  lua_pushstring(L, host);
  lua_pushnumber(L, due - now);
  lua_callk(L, 2, 3, action, name_found);
  return name_found(L, LUA_OK, action);
}

/* [udp, data | nil, address] */
static int with_target(lua_State *L, struct udp *u, double timeout, int action) {
  char host[ADDR_HOST_MAX];
  const char *why = NULL;
  uint16_t port;
  struct addr to;
  int r = read_target(L, u, 3, &to, host, &port, &why);
  if (r == 0) return actions[action].run(L, u, &to, timeout);
  if (r == ERR_AGAIN) return look_up(L, u, host, timeout, action);
  return push_failure(L, actions[action].what, lua_tostring(L, -1), why, r);
}

/* ---- sending ------------------------------------------------------------------------ */

/* [udp, data, address as bytes | nil] */
static int send_run(lua_State *L, struct rt *rt, struct op *o) {
  struct udp *u = o->on;
  struct addr to;
  size_t n;
  const char *data = lua_tolstring(L, 2, &n), *bytes = lua_tostring(L, 3);
  int r;
  if (bytes) memcpy(&to, bytes, sizeof to);
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) r = udp_send(u, data, n, bytes ? &to : NULL);
    if (r != ERR_AGAIN) break;
    udp_want_output(u);
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  if (r) return udp_failed(L, u, o->what, bytes ? &to : NULL, r);
  lua_pushinteger(L, (lua_Integer)n);
  return 1;
}

/* [udp, data, ...] */
static int begin_send(lua_State *L, struct udp *u, const char *what, const struct addr *to,
                      double timeout) {
  struct op o = {.run = send_run,
                 .what = what,
                 .q = &u->writers,
                 .deadline = &u->send_deadline,
                 .timeout = timeout,
                 .on = u,
                 .outside = true};
  lua_settop(L, 2);
  if (to)
    lua_pushlstring(L, (const char *)to, sizeof *to);
  else
    lua_pushnil(L);
  return send_run(L, rt_of(L), &o);
}

static int send_to_target(lua_State *L, struct udp *u, const struct addr *to, double timeout) {
  return begin_send(L, u, "send_to", to, timeout);
}

/***
Sends a datagram to an address.
It is handed to the system at once, whole or not at all; that it arrives nobody promises. A host
name is resolved at every call: its first address that this socket can reach.
@function Udp:send_to
@tparam string data what is to be sent; `""` is a datagram, too
@tparam string|table addr "host:port", ":port" for this host, or {host=, port=}
@tparam[opt] number|table opts `timeout` (of the socket), `retry`
@treturn integer its bytes
@codes EMSGSIZE (too long for a datagram), ETIMEDOUT, ECLOSED, ENOTFOUND, EACCES (broadcast is not
  allowed), ENETUNREACH, EAFNOSUPPORT (this socket speaks the other family), EINVAL (no address)
@waits for the name, and while the system's buffer is full
@follows net.PacketConn.WriteTo of Go
*/
static int l_send_to(lua_State *L) {
  struct udp *u = check_udp(L);
  luaL_checkstring(L, 2);
  double timeout = call_timeout(L, 4, u);
  lua_settop(L, 3);
  return with_target(L, u, timeout, SEND_TO);
}

/***
Sends a datagram to the peer of a connected socket.
@function Udp:send
@tparam string data what is to be sent; `""` is a datagram, too
@tparam[opt] number|table opts `timeout` (of the socket), `retry`
@treturn integer its bytes
@codes ENOTCONN (not connected), ECONNREFUSED and others (what an earlier datagram met with; this
one was not sent), EMSGSIZE (too long for a datagram), ETIMEDOUT, ECLOSED
@waits while the system's buffer is full
*/
static int l_send(lua_State *L) {
  struct udp *u = check_udp(L);
  luaL_checkstring(L, 2);
  return begin_send(L, u, "send", NULL, call_timeout(L, 3, u));
}

static int connect_to_target(lua_State *L, struct udp *u, const struct addr *to, double timeout) {
  (void)timeout;
  int r = udp_connect(u, to);
  if (r) return udp_failed(L, u, "connect", to, r);
  lua_pushboolean(L, true);
  return 1;
}

/***
Chooses the peer: where `send` sends to, and the only one that is received from.
Nothing is sent. What others had sent before is dropped. Calling it again chooses another peer.
@function Udp:connect
@tparam string|table addr as of `send_to`
@tparam[opt] number|table opts `timeout` (of the socket), for the name
@treturn boolean true
@codes ENOTFOUND, ETIMEDOUT, ECLOSED, ENETUNREACH, EAFNOSUPPORT, EINVAL
@waits for the name only
*/
static int l_connect(lua_State *L) {
  struct udp *u = check_udp(L);
  double timeout = call_timeout(L, 3, u);
  luaL_checkany(L, 2);
  lua_settop(L, 2);
  lua_pushnil(L);
  lua_insert(L, 2);
  return with_target(L, u, timeout, CONNECT);
}

/* ---- ends --------------------------------------------------------------------------- */

/***
Closes the socket; whoever waits for it, and each later call, gets ECLOSED.
What was sent is on its way; what has come and was not received is lost. Twice is harmless;
`<close>` and the garbage collection close it too.
@function Udp:close
@treturn boolean true
@waits never
*/
static int l_close(lua_State *L) {
  udp_close(check_udp(L));
  lua_pushboolean(L, true);
  return 1;
}

/***
Has this socket been closed?
@function Udp:closed
@treturn boolean true once it has
@waits never
*/
static int l_closed(lua_State *L) {
  lua_pushboolean(L, !udp_is_open(check_udp(L)));
  return 1;
}

static int l_tostring(lua_State *L) {
  const struct ludp *lu = luaL_checkudata(L, 1, UDP_NAME);
  const struct udp *u = lu->u;
  char local[ADDR_TEXT_MAX], peer[ADDR_TEXT_MAX];
  if (!u) {
    lua_pushliteral(L, "Udp (collected)");
    return 1;
  }
  bool connected = u->peer.kind != ADDR_NONE;
  addr_print(&u->local, local);
  addr_print(&u->peer, peer);
  lua_pushfstring(L, "Udp (%s%s%s, %s)", local, connected ? " -> " : "", connected ? peer : "",
                  udp_is_open(u) ? "open" : "closed");
  return 1;
}

void ludp_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"udp", l_udp}, {"work", l_work}, {NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"recv_from", l_recv_from}, {"recv", l_recv},   {"send_to", l_send_to}, {"send", l_send},
      {"connect", l_connect},     {"close", l_close}, {"closed", l_closed},   {"__close", l_close},
      {"__tostring", l_tostring}, {NULL, NULL}};
  lua_getfield(L, -1, "resolve");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &resolve_key);
  rt_metatable(L, rt, UDP_NAME, methods, ludp_gc);
  lua_getfield(L, -1, "__index");
  rt_setfuncs(L, rt, ludpopt_methods);
  lua_pop(L, 2);
  rt_setfuncs(L, rt, functions);
}
