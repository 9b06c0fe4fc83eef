/* Sending: what is to be sent is measured, room is awaited, then everything is copied into
 * the connection's output at once: all or nothing.
 * What this is not: when it is written (conn_out.c), how a message looks (framing.c). */
#include <math.h>

#include "rt.h"

/* A last table with string keys is options, not a list. */
static bool is_options(lua_State *L, int idx) {
  if (idx < 2 || !lua_istable(L, idx) || lua_rawlen(L, idx) > 0) return false;
  lua_pushnil(L);
  if (!lua_next(L, idx)) return false;
  bool named = lua_type(L, -2) == LUA_TSTRING;
  lua_pop(L, 2);
  return named;
}

/***
All or nothing: a call accepts all its bytes or none, and they leave in one piece.
It does not wait for the network. What a task sends leaves together, at the latest when the loop
next turns; at once past 64 KiB, and outside a task. A string or message of 32 KiB or more goes at
once, behind what is unsent, from where it lies: it is copied only as far as the system does not
take it. With `limits.high_water` (256 KiB) or more unsent it first waits for room: a failure there
has accepted nothing, so that trying again sends no byte twice, and `retry = {count=, interval=0.1}`
does so after ETIMEDOUT. A write that fails later is returned by every following `send`, `flush` and
`close`.
@type Conn.sending
*/

/* ---- the one way of sending -------------------------------------------------------- */

static const struct opt send_keys[] = {OPT_TIMEOUT, OPT_RETRY, OPT_END};
static const struct opt pkg_keys[] = {OPT_TIMEOUT, OPT_MAX, OPT_HEADER, OPT_RETRY, OPT_END};
static const struct opt frame_keys[] = {OPT_TIMEOUT,          OPT_MAX,   {"head", OPT_ANY, 0},
                                        {"type", OPT_ANY, 0}, OPT_RETRY, OPT_END};
static const struct opt count_keys[] = {OPT_TIMEOUT, OPT_MAX, OPT_RETRY, OPT_END};

static int send_run(lua_State *L, struct rt *rt, struct op *o);

/* May it be put into the output right away?  Nobody waits for room, and there is some. */
static bool may_put(struct rt *rt, const struct conn *c) {
  return op_at_once(rt, &c->writers) && conn_cannot_send(c) == 0 && conn_has_room(c);
}

static struct op send_op(struct conn *c, const char *what, int args) {
  return (struct op){.run = send_run,
                     .what = what,
                     .q = &c->writers,
                     .deadline = &c->send_deadline,
                     .timeout = c->timeout,
                     .on = c,
                     .args = args,
                     .outside = c->link && c->link->outside};
}

/* 0: there is room, and nobody before us. In a task that must wait it does not return. */
static int send_wait(lua_State *L, struct rt *rt, struct op *o) {
  struct conn *c = o->on;
  int r;
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) r = conn_cannot_send(c);
    if (r == 0 && !conn_has_room(c)) r = ERR_AGAIN;
    if (r != ERR_AGAIN) break;
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  return r;
}

struct slice {
  const char *p;
  size_t n;
};

static inline struct iovec piece_of(const char *p, size_t n) {
  return (struct iovec){.iov_base = (char *)(uintptr_t)p, .iov_len = n};
}

static inline struct slice check_data(lua_State *L, int idx) {
  struct slice s;
  s.p = lua_tolstring(L, idx, &s.n);
  if (!s.p) luaL_checkstring(L, idx); /* raises */
  return s;
}

/* The arguments [2, args], which are `total` bytes by now. */
static int put_values(lua_State *L, struct rt *rt, struct conn *c, int args, size_t total) {
  if (total == 0) return 0;
  if (total >= CONN_LONG && args == 2 && lua_type(L, 2) == LUA_TSTRING) {
    struct iovec v = piece_of(lua_tostring(L, 2), total);
    return conn_send_long(c, &v, 1);
  }
  char *p = conn_reserve(c, total);
  if (!p) return ERR_NOMEM;
  values_gather(L, args, p);
  conn_commit(c, total, !rt_in_task(rt));
  return 0;
}

/* ERR_AGAIN: it has to be encoded. */
static int put_long(struct conn *c, const struct framing *f, const struct slice *data,
                    const char *head) {
  char lead[FRAMING_LEAD_MOST];
  int n = framing_lead(f, data->n, head, lead);
  if (n < 0) return ERR_AGAIN;
  const struct iovec v[] = {piece_of(lead, (size_t)n), piece_of(data->p, data->n)};
  return n ? conn_send_long(c, v, 2) : conn_send_long(c, v + 1, 1);
}

/* One message: the data, and what precedes its length field at index `head`, or 0. */
static int put_message(lua_State *L, struct rt *rt, struct conn *c, const struct framing *f,
                       const struct slice *data, int head_index, size_t *total) {
  size_t head_len = 0;
  const char *head = head_index ? lua_tolstring(L, head_index, &head_len) : NULL;
  int r = framing_size(f, data->p, data->n, head_len, total);
  if (r || *total == 0) return r;
  if (!head_len) head = NULL;
  if (data->n >= CONN_LONG && (r = put_long(c, f, data, head)) != ERR_AGAIN) return r;
  char *p = conn_reserve(c, *total);
  if (!p) return ERR_NOMEM;
  framing_encode(f, data->p, data->n, head, p);
  conn_commit(c, *total, !rt_in_task(rt));
  return 0;
}

/* All of it becomes output -> *total bytes; or none.  Lists may have been changed while the call
 * waited: measured again just before the copy. */
static int put(lua_State *L, struct rt *rt, struct op *o, size_t *total) {
  struct slice data;
  int r = 0;
  if (o->framed) {
    data.p = lua_tolstring(L, 2, &data.n);
    r = put_message(L, rt, o->on, &o->f, &data, o->index, total);
  } else {
    *total = values_gather(L, o->args, NULL);
    r = put_values(L, rt, o->on, o->args, *total);
  }
  if (r == 0) op_charge(rt, 0, *total);
  return r;
}

static int push_sent(lua_State *L, size_t total, bool as_file) {
  if (as_file)
    lua_pushvalue(L, 1);
  else
    lua_pushinteger(L, (lua_Integer)total);
  return 1;
}

static int send_run(lua_State *L, struct rt *rt, struct op *o) {
  size_t total;
  int r = send_wait(L, rt, o);
  if (r == 0) r = put(L, rt, o, &total);
  return r ? conn_failed(L, o->on, o->what, r) : push_sent(L, total, o->as_file);
}

/* A message that need not wait goes without an op.  -> results; 0: it has to wait. */
static int send_message_at_once(lua_State *L, struct rt *rt, struct conn *c, const char *what,
                                const struct framing *f, const struct slice *data, int head_index) {
  size_t total;
  if (!may_put(rt, c)) return 0;
  int r = put_message(L, rt, c, f, data, head_index, &total);
  op_charge(rt, 1, r ? 0 : total);
  if (r) return conn_failed(L, c, what, r);
  return push_sent(L, total, false);
}

/* The message at index 2. */
static int send_message(lua_State *L, struct rt *rt, struct conn *c, const char *what,
                        const struct framing *f, const struct slice *data, int head_index,
                        double timeout) {
  int pushed = send_message_at_once(L, rt, c, what, f, data, head_index);
  if (pushed) return pushed;
  struct op o = send_op(c, what, 2);
  o.timeout = timeout;
  o.framed = true;
  o.f = *f;
  o.index = head_index;
  return send_run(L, rt, &o);
}

/* The arguments [2, args]; misuse is raised before anything waits. */
static int send_values(lua_State *L, struct rt *rt, struct conn *c, const char *what, int args,
                       const struct call_opts *so, bool as_file) {
  size_t total = values_gather(L, args, NULL);
  if (may_put(rt, c)) {
    int r = put_values(L, rt, c, args, total);
    op_charge(rt, 1, total);
    return r ? conn_failed(L, c, what, r) : push_sent(L, total, as_file);
  }
  struct op o = send_op(c, what, args);
  if (so) o.timeout = so->timeout;
  o.as_file = as_file;
  return send_run(L, rt, &o);
}

/***
Sends strings, numbers and lists of them, nested or not, as one uninterrupted write.
@function Conn:send
@tparam[opt] string|number|table ... what to send
@tparam[opt] table opts a last table with string keys: `timeout`, `retry`
@treturn integer bytes accepted: all
@codes ETIMEDOUT, ECLOSED, EPIPE, ECONNRESET
@waits until less than `limits.high_water` bytes are unsent
*/
static int l_send(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  int last = lua_gettop(L);
  if (!is_options(L, last)) return send_values(L, rt, c, "send", last, NULL, false);
  struct call_opts so;
  call_opts_read(L, last, c, send_keys, &so);
  return send_values(L, rt, c, "send", last - 1, &so, false);
}

/***
Sends all of it at once, or nothing: a slow peer holds nobody up.
@function Conn:try_send
@tparam[opt] string|number|table ... what to send
@treturn integer bytes accepted: all
@codes EAGAIN (it would have to wait), ECLOSED, EPIPE, ECONNRESET
@waits never
*/
static int l_try_send(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  int args = lua_gettop(L);
  size_t total = values_gather(L, args, NULL);
  int r = conn_cannot_send(c);
  if (r == 0 && (c->writers.first || !conn_has_room(c))) r = ERR_AGAIN;
  if (r == 0) r = put_values(L, rt, c, args, total);
  return r ? conn_failed(L, c, "try_send", r) : push_sent(L, total, false);
}

/***
Sends as a Lua file writes.
@function Conn:write
@tparam[opt] string|number|table ... what to send
@treturn Conn the connection
@codes ETIMEDOUT, ECLOSED, EPIPE, ECONNRESET
@waits until less than `limits.high_water` bytes are unsent
@follows file:write of Lua
*/
static int l_write(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  return send_values(L, rt, c, "write", lua_gettop(L), NULL, true);
}

/* ---- flush ------------------------------------------------------------------------ */

static int flush_state(const struct conn *c) {
  if (!conn_is_open(c)) return ERR_CLOSED;
  if (c->out_end) return c->out_end;
  return conn_unsent(c) ? ERR_AGAIN : 0;
}

static int flush_run(lua_State *L, struct rt *rt, struct op *o) {
  int r;
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) {
      conn_flush_now(o->on);
      r = flush_state(o->on);
    }
    if (r != ERR_AGAIN) break;
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  if (r) return conn_failed(L, o->on, o->what, r);
  lua_pushboolean(L, true);
  return 1;
}

/***
Waits until everything sent has been handed to the system.
@function Conn:flush
@tparam[opt] number timeout seconds
@treturn boolean true
@codes ETIMEDOUT, ECLOSED, EPIPE, ECONNRESET
@waits until then
*/
static int l_flush(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct op o = send_op(c, "flush", 0);
  o.run = flush_run;
  o.timeout = opt_seconds(L, 2, c->timeout);
  return flush_run(L, rt, &o);
}

/* ---- messages --------------------------------------------------------------------- */

/***
Sends a package: the length of the data, big-endian, and the data.
@function Conn:send_pkg
@tparam string data the data, may be empty
@tparam[opt] number|table opts `timeout`, `retry`, `max`, `header` (2): bytes of the length, 1 to 4
@treturn integer bytes accepted, header included
@codes EMSGSIZE (the length does not fit, or is over `max`), ETIMEDOUT, ECLOSED, EPIPE, ECONNRESET
@waits until less than `limits.high_water` bytes are unsent
*/
static int l_send_pkg(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  const struct slice data = check_data(L, 2);
  struct call_opts so;
  call_opts_read(L, 3, c, pkg_keys, &so);
  if (!so.max) so.max = SIZE_MAX;
  struct framing f;
  recv_set_pkg(&f, c, &so);
  return send_message(L, rt, c, "send_pkg", &f, &data, 0, so.timeout);
}

/* The option "head" is left at the top -> its index, or 0. */
static int push_head(lua_State *L, int opts) {
  if (!lua_istable(L, opts) || lua_getfield(L, opts, "head") == LUA_TNIL) return 0;
  if (lua_type(L, -1) != LUA_TSTRING)
    luaL_error(L, "option 'head' must be a string, not %s", luaL_typename(L, -1));
  return lua_gettop(L);
}

/* The timeout among options whose other keys are for an encode in Lua. */
static double codec_timeout(lua_State *L, const struct conn *c) {
  if (!lua_istable(L, 3)) return opt_seconds(L, 3, c->timeout);
  lua_getfield(L, 3, "timeout");
  double timeout = opt_seconds(L, lua_gettop(L), c->timeout);
  lua_pop(L, 1);
  return opts_retry(L, 3, timeout);
}

/***
Sends one message in the connection's framing.
@function Conn:send_frame
@tparam any data a string, or what the `encode` of a framing in Lua takes
@tparam[opt] number|table opts `timeout`, `retry`, `max`, `head` (what precedes a length field),
`type` (0 to 255, of `framing.header`); a framing in Lua gets them all
@treturn integer bytes accepted, with what the framing adds
@codes EMSGSIZE, EPROTO (this framing cannot carry it: a line with a newline inside), ETIMEDOUT,
ECLOSED, EPIPE, ECONNRESET
@waits until less than `limits.high_water` bytes are unsent
@raise without a framing
*/
static int l_send_frame(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  luaL_checkany(L, 2);
  lua_settop(L, 3);
  lua_getiuservalue(L, 1, 1); /* the framing lives as long as the call, whatever becomes of it */
  if (!c->framing) {
    struct op o = send_op(c, "send_frame", 2);
    lframing_encode(L, o.what);
    o.timeout = codec_timeout(L, c);
    values_gather(L, 2, NULL);
    return send_run(L, rt, &o);
  }
  const struct slice data = check_data(L, 2);
  struct call_opts so;
  call_opts_read(L, 3, c, frame_keys, &so);
  struct framing f = *c->framing;
  f.max = so.max ? so.max : f.max ? f.max : SIZE_MAX;
  f.type = type_option(L, 3, &f);
  return send_message(L, rt, c, "send_frame", &f, &data, push_head(L, 3), so.timeout);
}

/* ---- send and receive ------------------------------------------------------------- */

/* Whatever ends the call now, its reply may still come. */
static void owe_reply(lua_State *L, struct op *o) {
  (void)L;
  struct conn *c = o->on;
  c->owed = true;
}

/* The request is out: from here the same call stands in line for the reply, on what is left
 * of its time. */
static void await_reply(struct conn *c, struct op *o) {
  o->q = &c->readers;
  o->deadline = &c->recv_due;
  o->waited = false;
  o->abandon = owe_reply;
  o->ticket = ++c->asked;
}

static int send_request(lua_State *L, struct rt *rt, struct op *o) {
  struct conn *c = o->on;
  size_t total;
  int r = send_wait(L, rt, o);
  if (r == 0) r = c->owed ? ERR_PROTO : put(L, rt, o, &total);
  if (r == 0) await_reply(c, o);
  return r;
}

static int exchange_run(lua_State *L, struct rt *rt, struct op *o) {
  struct conn *c = o->on;
  struct message m;
  int r = o->abandon ? 0 : send_request(L, rt, o);
  if (r) return conn_failed(L, c, o->what, r);
  for (;;) {
    r = recv_wait(L, rt, o, &m);
    bool owed = c->owed; /* another's */
    c->owed = true;      /* until the reply is in the caller's hands: pushing it may raise */
    if (r) return recv_failed(L, o, r);
    int n = recv_push(L, rt, c, &o->f, &m, false);
    c->owed = owed;
    if (n == 0) continue;
    c->answered++;
    return n;
  }
}

/***
Sends a request and receives its reply of n bytes, whoever else uses the connection meanwhile.
@function Conn:send_recv
@tparam string|number|table data the request, as `send` takes it
@tparam integer n bytes of the reply
@tparam[opt] number|table opts `timeout` of both halves together, `retry`, `max`
@treturn string the reply
@codes as of `send` and `recv`, EPROTO (an earlier call failed after it had sent: its reply is still
to come, and would be taken for ours)
@waits until the reply is complete
*/
static int l_send_recv(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct op o = send_op(c, "send_recv", 2);
  o.run = exchange_run;
  struct call_opts so;
  call_opts_read(L, 4, c, count_keys, &so);
  o.timeout = so.timeout;
  o.f = (struct framing){.kind = FRAMING_FIXED,
                         .by_byte = true,
                         .count = check_count(L, 3),
                         .max = so.max ? so.max : SIZE_MAX};
  values_gather(L, 2, NULL);
  return exchange_run(L, rt, &o);
}

/***
Sends a package and receives the package that answers it.
@function Conn:send_recv_pkg
@tparam string data the request's data
@tparam[opt] number|table opts `timeout` of both halves together, `retry`, `max`, `header` (2)
@treturn string the reply's data
@codes as of `send_pkg` and `recv_pkg`, EPROTO (an earlier reply is still to come)
@waits until the reply is complete
*/
static int l_send_recv_pkg(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct op o = send_op(c, "send_recv_pkg", 2);
  o.run = exchange_run;
  luaL_checkstring(L, 2);
  struct call_opts so;
  call_opts_read(L, 3, c, pkg_keys, &so);
  o.timeout = so.timeout;
  o.framed = true;
  recv_set_pkg(&o.f, c, &so);
  return exchange_run(L, rt, &o);
}

const luaL_Reg lsend_methods[] = {
    {"send", l_send},           {"try_send", l_try_send},           {"write", l_write},
    {"flush", l_flush},         {"send_pkg", l_send_pkg},           {"send_frame", l_send_frame},
    {"send_recv", l_send_recv}, {"send_recv_pkg", l_send_recv_pkg}, {NULL, NULL}};
