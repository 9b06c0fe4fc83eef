/* What scripts call to receive: every method is a framing and a way to hand the result over.
 * What this is not: how such a call goes (recv.c). */
#include <math.h>

#include "rt.h"

/* ---- options ---------------------------------------------------------------------- */

static const struct opt plain_keys[] = {OPT_TIMEOUT, OPT_MAX, OPT_RETRY, OPT_END};
static const struct opt time_keys[] = {OPT_TIMEOUT, OPT_RETRY, OPT_END};
static const struct opt line_keys[] = {OPT_TIMEOUT, OPT_MAX,   OPT_KEEP,
                                       OPT_SKIP,    OPT_RETRY, OPT_END};
static const struct opt pkg_keys[] = {OPT_TIMEOUT, OPT_MAX, OPT_HEADER, OPT_RETRY, OPT_END};

static size_t limit(size_t max, size_t otherwise) { return max ? max : otherwise; }

/***
One call receives at a time; further callers stand in line, so that each gets a message of its own.
Options of the calls, as far as an entry names them:

 - `timeout`: seconds for the whole call; a number in the place of `opts` is this one
 - `max`: limit of this call, in bytes, without the terminator
 - `keep` (false): the terminator is part of the result, as it came
 - `skip` (false): throws a message away that is longer than `max`, and receives the next
 - `retry = {count=, interval=0.1}`: tries again after ETIMEDOUT only, going on where it stopped;
   `timeout` is then that of one try

An end of the stream inside a message is `nil, message, "EOF", partial`. What failed in the system
comes with its code, ECONNRESET say, behind all bytes that came before it.
@type Conn.receiving
*/

/* How a message is received: one for each kind, whoever asks for it in whatever way. */
typedef int receiver(lua_State *L, struct rt *rt, struct conn *c, const struct call_opts *ro,
                     enum recv_style style);

/* A method whose options are the second argument. */
static inline int receive(lua_State *L, receiver *recv, const struct opt *keys) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct call_opts ro;
  call_opts_read(L, 2, c, keys, &ro);
  return recv(L, rt, c, &ro, AS_METHOD);
}

/* ---- by count --------------------------------------------------------------------- */

/* The long way, after recv_at_once(). */
static int recv_slowly(lua_State *L, struct rt *rt, struct op *o, const struct call_opts *ro,
                       enum recv_style style) {
  o->timeout = ro->timeout;
  o->skip = ro->skip;
  o->style = (uint8_t)style;
  return recv_one(L, rt, o);
}

static int recv_count(lua_State *L, const char *what, bool peek) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  size_t n = check_count(L, 2);
  struct call_opts ro;
  call_opts_read(L, 3, c, plain_keys, &ro);
  struct framing f = {
      .kind = FRAMING_FIXED, .by_byte = true, .count = n, .max = limit(ro.max, SIZE_MAX)};
  int pushed = peek ? 0 : recv_at_once(L, rt, c, &f);
  if (pushed) return pushed;
  struct op o = recv_op(c, what, &f);
  o.peek = peek;
  return recv_slowly(L, rt, &o, &ro, AS_METHOD);
}

static int recv_raw(lua_State *L, struct rt *rt, struct conn *c, const struct call_opts *ro,
                    enum recv_style style) {
  struct framing f = {.kind = FRAMING_RAW, .by_byte = true, .max = limit(ro->max, SIZE_MAX)};
  int pushed = c->buffer_wait > 0 ? 0 : recv_at_once(L, rt, c, &f);
  if (pushed) return pushed;
  struct op o = recv_op(c, style == AS_METHOD ? "recv" : "chunks", &f);
  o.gathers = true;
  return recv_slowly(L, rt, &o, ro, style);
}

/***
Receives exactly n bytes; without a count whatever has come, at least one byte.
@function Conn:recv
@tparam[opt] integer n bytes, 0 or more, with no limit but `max`
@tparam[opt] number|table opts `timeout`, `max`, `retry`
@treturn string the bytes
@codes EOF, ETIMEDOUT, EMSGSIZE (more than `max`), ECLOSED
@waits until they have come
@raise if n is nil: only `recv()` and `recv{...}` do without
*/
static int l_recv(lua_State *L) {
  if (lua_isnone(L, 2) || lua_istable(L, 2)) return receive(L, recv_raw, plain_keys);
  return recv_count(L, "recv", false);
}

/***
Waits for n bytes, and leaves them where they are.
@function Conn:peek
@tparam integer n bytes
@tparam[opt] number|table opts `timeout`, `max`, `retry`
@treturn string the bytes
@codes EOF, ETIMEDOUT, EMSGSIZE (more than `max`), ECLOSED
@waits until they have come
*/
static int l_peek(lua_State *L) { return recv_count(L, "peek", true); }

/***
Receives what has come, at least one byte and at most so many.
@function Conn:recv_some
@tparam integer max bytes, at least 1
@tparam[opt] number|table opts `timeout`, `retry`
@treturn string the bytes
@codes EOF, ETIMEDOUT, ECLOSED
@waits until something has come
@follows net.Conn.Read of Go
*/
static int l_recv_some(lua_State *L) {
  size_t max = check_count(L, 2);
  luaL_argcheck(L, max > 0, 2, "at least 1");
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct call_opts ro;
  call_opts_read(L, 3, c, time_keys, &ro);
  struct framing f = {.kind = FRAMING_RAW, .by_byte = true, .max = max};
  int pushed = recv_at_once(L, rt, c, &f);
  if (pushed) return pushed;
  struct op o = recv_op(c, "recv_some", &f);
  return recv_slowly(L, rt, &o, &ro, AS_METHOD);
}

/***
Receives what has come by now.
@function Conn:recv_now
@treturn string the bytes, "" if there are none
@codes EOF, ECLOSED
@waits never
*/
static int l_recv_now(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  const struct framing f = {.kind = FRAMING_RAW, .by_byte = true, .max = SIZE_MAX};
  struct op o = recv_op(c, "recv_now", &f);
  struct message m;
  conn_try_link(c);
  int r = op_is_first(rt, &c->readers) ? conn_take(c, &f, &m) : ERR_AGAIN;
  if (r == ERR_AGAIN) {
    lua_pushliteral(L, "");
    return 1;
  }
  if (r) return recv_failed(L, &o, r);
  if (!recv_push(L, rt, c, &f, &m, false)) lua_pushliteral(L, "");
  return 1;
}

/***
Puts bytes in front of what the next call receives.
@function Conn:unread
@tparam string data the bytes
@treturn boolean true
@codes ECLOSED, ENOMEM
@waits never
*/
static int l_unread(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  size_t n;
  const char *data = luaL_checklstring(L, 2, &n);
  int r = conn_is_open(c) ? conn_unread(c, data, n) : ERR_CLOSED;
  if (r) return conn_failed(L, c, "unread", r);
  if (n) waitq_wake_first(&c->readers);
  lua_pushboolean(L, true);
  return 1;
}

/***
How much has been received from the system and not yet by a call.
@function Conn:buffered
@treturn integer bytes
@waits never
*/
static int l_buffered(lua_State *L) {
  size_t n;
  conn_input(check_conn(L, rt_of(L), 1), &n);
  lua_pushinteger(L, (lua_Integer)n);
  return 1;
}

/* ---- by line, delimiter, package, frame ------------------------------------------- */

static int recv_line(lua_State *L, struct rt *rt, struct conn *c, const struct call_opts *ro,
                     enum recv_style style) {
  struct framing f = {.kind = FRAMING_LINE,
                      .keep = ro->keep,
                      .last = style == AS_ITERATOR,
                      .max = limit(ro->max, c->limits->line)};
  int pushed = recv_at_once(L, rt, c, &f);
  if (pushed) return pushed;
  struct op o = recv_op(c, style == AS_METHOD ? "recv_line" : "lines", &f);
  return recv_slowly(L, rt, &o, ro, style);
}

/***
Receives a line, without its newline, which is LF or CR LF.
@function Conn:recv_line
@tparam[opt] number|table opts `timeout`, `max` (`limits.line`), `retry`, `keep`, `skip`
@treturn string the line
@codes EOF, ETIMEDOUT, EMSGSIZE (longer than `max`, nothing is consumed), ECLOSED
@waits until the line is complete
*/
static int l_recv_line(lua_State *L) { return receive(L, recv_line, line_keys); }

/***
Receives up to a delimiter, which is consumed and not returned.
@function Conn:recv_until
@tparam string delimiter the exact bytes, at least one
@tparam[opt] number|table opts `timeout`, `max` (`limits.line`), `retry`, `keep`, `skip`
@treturn string what precedes it
@codes EOF, ETIMEDOUT, EMSGSIZE (longer than `max`, nothing is consumed), ECLOSED
@waits until the delimiter has come
*/
static int l_recv_until(lua_State *L) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct framing f = {.kind = FRAMING_DELIMITER};
  f.delimiter = luaL_checklstring(L, 2, &f.delimiter_len);
  luaL_argcheck(L, f.delimiter_len > 0, 2, "an empty delimiter");
  struct call_opts ro;
  call_opts_read(L, 3, c, line_keys, &ro);
  f.keep = ro.keep;
  f.max = limit(ro.max, c->limits->line);
  int pushed = recv_at_once(L, rt, c, &f);
  if (pushed) return pushed;
  struct op o = recv_op(c, "recv_until", &f);
  return recv_slowly(L, rt, &o, &ro, AS_METHOD);
}

static int recv_pkg(lua_State *L, struct rt *rt, struct conn *c, const struct call_opts *ro,
                    enum recv_style style) {
  struct framing f;
  recv_set_pkg(&f, c, ro);
  int pushed = recv_at_once(L, rt, c, &f);
  if (pushed) return pushed;
  struct op o = recv_op(c, style == AS_METHOD ? "recv_pkg" : "pkgs", &f);
  return recv_slowly(L, rt, &o, ro, style);
}

/***
Receives a package: a length, big-endian, then that many bytes.
@function Conn:recv_pkg
@tparam[opt] number|table opts `timeout`, `max` (`limits.frame`), `retry`, `header` (2): bytes of
the length, 1 to 4
@treturn string the data, "" if the package is empty
@codes EOF, ETIMEDOUT, EMSGSIZE (longer than `max`), EPROTO (one before was), ECLOSED
@waits until the package is complete
*/
static int l_recv_pkg(lua_State *L) { return receive(L, recv_pkg, pkg_keys); }

static size_t frame_limit(const struct conn *c, const struct framing *f) {
  return recv_has_terminator(f) ? c->limits->line : c->limits->frame;
}

static int recv_frame(lua_State *L, struct rt *rt, struct conn *c, const struct call_opts *ro,
                      enum recv_style style) {
  const char *what = style == AS_METHOD ? "recv_frame" : "frames";
  lua_getiuservalue(L, 1, 1); /* the framing lives as long as the call, whatever becomes of it */
  if (!c->framing) return lframing_recv(L, rt, what, ro, style);
  struct framing f = *c->framing;
  f.max = limit(ro->max, limit(f.max, f.kind == FRAMING_RAW ? SIZE_MAX : frame_limit(c, &f)));
  int pushed = recv_at_once(L, rt, c, &f);
  if (pushed) return pushed;
  struct op o = recv_op(c, what, &f);
  return recv_slowly(L, rt, &o, ro, style);
}

/***
Receives one message of the connection's framing.
`framing.header` gives the type as a second result, `framing.varint` with an `offset` the bytes
before the length.
@function Conn:recv_frame
@tparam[opt] number|table opts `timeout`, `max` (the framing's, or of `limits`), `retry`
@treturn any the message: a string, or what a framing in Lua makes of it
@codes EOF, ETIMEDOUT, EMSGSIZE (longer than `max`), EPROTO (it can be no message, or one before was
too long), ECLOSED, and those of a framing in Lua
@waits until the message is complete
@raise without a framing
*/
static int l_recv_frame(lua_State *L) { return receive(L, recv_frame, plain_keys); }

/* ---- as a file -------------------------------------------------------------------- */

/* The format at the stack index -> what to receive. */
static void read_format(lua_State *L, struct op *o, int idx) {
  const struct conn *c = o->on;
  if (lua_type(L, idx) == LUA_TNUMBER) {
    size_t n = check_count(L, idx);
    o->peek = n == 0; /* only asks whether there is something */
    o->f = (struct framing){
        .kind = FRAMING_FIXED, .by_byte = true, .count = n ? n : 1, .max = SIZE_MAX};
    return;
  }
  const char *s = luaL_checkstring(L, idx);
  if (*s == '*') s++;
  o->peek = false;
  o->f = (struct framing){.kind = FRAMING_LINE, .last = true, .max = c->limits->line};
  if (*s == 'a')
    o->f = (struct framing){.kind = FRAMING_ALL, .by_byte = true, .max = c->limits->all};
  else if (*s == 'L')
    o->f.keep = true;
  else if (*s != 'l')
    luaL_argerror(L, idx, "invalid format (\"l\", \"L\", \"a\" or a count)");
}

/* A file's end: nothing for "a" and what is left of a count are results too. */
static int read_end(lua_State *L, struct op *o) {
  struct conn *c = o->on;
  if (o->f.kind == FRAMING_ALL) {
    lua_pushliteral(L, "");
    return 1;
  }
  return o->f.kind == FRAMING_FIXED && !o->peek ? recv_push_partial(L, c) : 0;
}

/* Each format's result is pushed; the first that fails ends the call. */
static int read_run(lua_State *L, struct rt *rt, struct op *o) {
  struct message m;
  while (o->index <= o->args) {
    read_format(L, o, o->index);
    int r = recv_wait(L, rt, o, &m);
    bool empty = o->peek, end = r == ERR_EOF && read_end(L, o);
    if (r && !end) return o->index - 2 + recv_failed(L, o, r);
    if (!end && !recv_push(L, rt, o->on, &o->f, &m, o->peek)) continue;
    if (empty) lua_pushliteral(L, ""), lua_replace(L, -2);
    o->index++;
    o->waited = false;
  }
  return o->args - 1;
}

/***
Reads as from a Lua file: the same formats, and nil alone at the end.
@function Conn:read
@tparam[opt="l"] string|integer ... "l", "L", "a" (at most `limits.all`) or a count, also with "*"
@treturn string|nil one result for each format, up to the first that fails
@codes ETIMEDOUT, EMSGSIZE, ECLOSED
@waits until the formats are satisfied
@follows file:read of Lua
*/
static int l_read(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct op o = recv_op(check_conn(L, rt, 1), "read", &(struct framing){0});
  if (lua_gettop(L) == 1) lua_pushliteral(L, "l");
  o.run = read_run;
  o.args = lua_gettop(L);
  o.index = 2;
  o.style = AS_FILE;
  for (int i = 2; i <= o.args; i++) read_format(L, &o, i);
  luaL_checkstack(L, o.args + LUA_MINSTACK, "too many formats");
  return read_run(L, rt, &o);
}

/* ---- iterators: next(conn, the one before) ------------------------------------------ */

static inline int next_message(lua_State *L, receiver *recv) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct call_opts ro;
  call_opts_read(L, 0, c, NULL, &ro);
  return recv(L, rt, c, &ro, AS_ITERATOR);
}

static int next_line(lua_State *L) { return next_message(L, recv_line); }
static int next_pkg(lua_State *L) { return next_message(L, recv_pkg); }
static int next_frame(lua_State *L) { return next_message(L, recv_frame); }
static int next_chunk(lua_State *L) { return next_message(L, recv_raw); }

/* With the options, parsed once, as upvalue 2.  Their timeout is nan: the connection's own. */
static inline int next_with(lua_State *L, receiver *recv) {
  struct rt *rt;
  struct conn *c = check_self(L, &rt);
  struct call_opts ro = *(const struct call_opts *)lua_touserdata(L, lua_upvalueindex(2));
  if (isnan(ro.timeout)) ro.timeout = c->timeout;
  return recv(L, rt, c, &ro, AS_ITERATOR);
}

static int next_line_with(lua_State *L) { return next_with(L, recv_line); }
static int next_pkg_with(lua_State *L) { return next_with(L, recv_pkg); }
static int next_frame_with(lua_State *L) { return next_with(L, recv_frame); }
static int next_chunk_with(lua_State *L) { return next_with(L, recv_raw); }

static bool has_option(lua_State *L, int idx, const char *name) {
  bool has = lua_getfield(L, idx, name) != LUA_TNIL;
  lua_pop(L, 1);
  return has;
}

/* Without options the iterator is upvalue 2, made once: a loop costs no closure. */
static int iterate(lua_State *L, lua_CFunction next_with_opts, const struct opt *keys) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  if (lua_isnoneornil(L, 2)) {
    lua_pushvalue(L, lua_upvalueindex(2));
  } else {
    struct call_opts ro;
    call_opts_read(L, 2, c, keys, &ro);
    if (lua_istable(L, 2) && !has_option(L, 2, "timeout") && !has_option(L, 2, "retry"))
      ro.timeout = NAN;
    lua_pushvalue(L, lua_upvalueindex(1));
    *(struct call_opts *)lua_newuserdatauv(L, sizeof ro, 0) = ro;
    lua_pushcclosure(L, next_with_opts, 2);
  }
  lua_pushvalue(L, 1);
  return 2;
}

/***
Iterates over lines; the last one may lack its newline.
@function Conn:lines
@tparam[opt] number|table opts as of `recv_line`, for each line
@treturn function the iterator; it ends at EOF and at any failure, see `last_error`
@treturn Conn what it iterates over
@waits never; the iterator does until the line is complete
*/
static int l_lines(lua_State *L) { return iterate(L, next_line_with, line_keys); }

/***
Iterates over packages.
@function Conn:pkgs
@tparam[opt] number|table opts as of `recv_pkg`, for each package
@treturn function the iterator; it ends at EOF and at any failure, see `last_error`
@treturn Conn what it iterates over
@waits never; the iterator does until the package is complete
*/
static int l_pkgs(lua_State *L) { return iterate(L, next_pkg_with, pkg_keys); }

/***
Iterates over the messages of the connection's framing.
One that the end of the stream cut off is none: `last_error` says EOF.
@function Conn:frames
@tparam[opt] number|table opts as of `recv_frame`, for each message
@treturn function the iterator; it ends at EOF and at any failure, see `last_error`
@treturn Conn what it iterates over
@waits never; the iterator does until the message is complete
*/
static int l_frames(lua_State *L) { return iterate(L, next_frame_with, plain_keys); }

/***
Iterates over whatever comes, piece by piece, as `recv()` receives it.
@function Conn:chunks
@tparam[opt] number|table opts `timeout`, `max`, `retry`, for each piece
@treturn function the iterator; it ends at EOF and at any failure, see `last_error`
@treturn Conn what it iterates over
@waits never; the iterator does until something has come
*/
static int l_chunks(lua_State *L) { return iterate(L, next_chunk_with, plain_keys); }

static void set_iterator(lua_State *L, struct rt *rt, const char *name, lua_CFunction iterator,
                         lua_CFunction next) {
  lua_pushlightuserdata(L, rt);
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, next, 1);
  lua_pushcclosure(L, iterator, 2);
  lua_setfield(L, -2, name);
}

void lrecv_set_iterators(lua_State *L, struct rt *rt) {
  set_iterator(L, rt, "lines", l_lines, next_line);
  set_iterator(L, rt, "pkgs", l_pkgs, next_pkg);
  set_iterator(L, rt, "frames", l_frames, next_frame);
  set_iterator(L, rt, "chunks", l_chunks, next_chunk);
}

const luaL_Reg lrecv_methods[] = {{"recv", l_recv},
                                  {"recv_some", l_recv_some},
                                  {"recv_now", l_recv_now},
                                  {"recv_line", l_recv_line},
                                  {"recv_until", l_recv_until},
                                  {"recv_pkg", l_recv_pkg},
                                  {"recv_frame", l_recv_frame},
                                  {"read", l_read},
                                  {"peek", l_peek},
                                  {"unread", l_unread},
                                  {"buffered", l_buffered},
                                  {NULL, NULL}};
