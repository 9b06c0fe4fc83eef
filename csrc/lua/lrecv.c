/* Receiving: every method is a framing and a way to hand the result over.
 * What this is not: where bytes come from (conn_take), where messages end (framing.c). */
#include <math.h>
#include <string.h>

#include "rt.h"

/* How results look: nil, message, code | an iterator's end | a file's read */
enum style { AS_METHOD, AS_ITERATOR, AS_FILE };

/* ---- options ---------------------------------------------------------------------- */

static const struct opt plain_keys[] = {OPT_TIMEOUT, OPT_MAX, OPT_RETRY, OPT_END};
static const struct opt time_keys[] = {OPT_TIMEOUT, OPT_RETRY, OPT_END};
static const struct opt line_keys[] = {OPT_TIMEOUT, OPT_MAX,   OPT_KEEP,
                                       OPT_SKIP,    OPT_RETRY, OPT_END};
static const struct opt pkg_keys[] = {OPT_TIMEOUT, OPT_MAX, OPT_HEADER, OPT_RETRY, OPT_END};

static size_t limit(size_t max, size_t otherwise) { return max ? max : otherwise; }

/* ---- the one way of receiving ----------------------------------------------------- */

static int recv_run(lua_State *L, struct rt *rt, struct op *o);

struct op recv_op(struct conn *c, const char *what) {
  return (struct op){.run = recv_run,
                     .what = what,
                     .q = &c->readers,
                     .deadline = &c->recv_due,
                     .timeout = c->timeout,
                     .on = c,
                     .outside = c->link && c->link->outside};
}

void recv_set_pkg(struct conn *c, struct framing *f, int header, size_t max) {
  *f = (struct framing){.kind = FRAMING_LENGTH,
                        .size = (uint8_t)header,
                        .strip = (uint32_t)header,
                        .max = limit(max, c->limits.frame)};
}

static bool has_terminator(const struct framing *f) {
  return f->kind == FRAMING_LINE || f->kind == FRAMING_DELIMITER;
}

/* Between two messages of a connection whose server shuts down?  A reply is still awaited. */
static bool is_drained(const struct op *o) {
  const struct conn *c = o->on;
  size_t n;
  if (!c->draining || o->abandon) return false;
  conn_input(c, &n);
  return n == 0;
}

enum { SKIP_STEPS = 16 }; /* pieces of an over-long line thrown away in one go */

/* Skipping can go on for as long as the peer sends: it gives way now and then. */
static int recv_try(lua_State *L, struct rt *rt, struct op *o, struct message *m) {
  struct conn *c = o->on;
  int r = 0;
  for (int step = 0;; step++) {
    bool skips = has_terminator(&o->f) && c->skipping == o->f.kind;
    if (skips && step >= SKIP_STEPS) {
      if (op_expired(rt, o)) return ERR_TIMEDOUT;
      if (op_give_way(L, rt, o)) return ERR_AGAIN;
      step = 0;
    }
    r = skips ? conn_skip(c, &o->f) : conn_take(c, &o->f, m);
    if (r == 0 && skips) continue;
    if (r == ERR_AGAIN && is_drained(o)) return ERR_CLOSED;
    if (r != ERR_MSGSIZE || !(o->skip || skips)) return r;
    c->skipping = o->f.kind;
  }
}

/* Something new is there, or nothing any more: this wait lasts for the buffer wait from now on,
 * within the call's time, which o->timeout holds since the first byte. */
static void gather_on(struct rt *rt, struct op *o, size_t n) {
  const struct conn *c = o->on;
  double now = turn_now(&rt->turn), quiet = now + (double)c->buffer_wait;
  if (o->f.count == 0) o->timeout = o->due != 0 ? o->due : now + o->timeout;
  o->f.count = n;
  o->due = n && quiet < o->timeout ? quiet : o->timeout;
}

/* r: what the try gave, at best what is there.  With a buffer wait it is all that comes until
 * the line is quiet, which is when the wait's time is over.  o->f.count: how much was there when
 * last looked at. */
static int gather(struct rt *rt, struct op *o, struct message *m, int r) {
  struct conn *c = o->on;
  size_t n;
  if (c->buffer_wait <= 0 || (r && r != ERR_AGAIN)) return r;
  if (o->f.max == SIZE_MAX) o->f.max = c->limits.all;
  const struct framing all = {.kind = FRAMING_ALL, .by_byte = true, .max = o->f.max};
  if (r == 0) r = conn_take(c, &all, m);
  conn_input(c, &n);
  if (n != o->f.count) gather_on(rt, o, n);
  if (r == ERR_AGAIN && n < o->f.max) return r;
  return conn_take(c, &o->f, m);
}

/* Its time is over: what it has gathered is the message. */
static int gathered(struct op *o, struct message *m) {
  int r = o->f.count ? conn_take(o->on, &o->f, m) : ERR_TIMEDOUT;
  return r == ERR_AGAIN ? ERR_TIMEDOUT : r;
}

/* A call that will not wait, or may not, still takes what the system has by now. */
static void recv_begin(struct rt *rt, struct op *o) {
  struct conn *c = o->on;
  conn_begin(c, &o->f);
  if (c->draining || o->timeout <= 0 ||
      (c->recv_due != INFINITY && c->recv_due <= turn_now(&rt->turn)))
    conn_try_link(c);
}

int recv_wait(lua_State *L, struct rt *rt, struct op *o, struct message *m) {
  int r;
  if (!o->waited) recv_begin(rt, o);
  for (;;) {
    bool mine = (r = op_turn(L, rt, o)) == 0;
    if (mine) r = recv_try(L, rt, o, m);
    if (mine && o->gathers) r = gather(rt, o, m, r);
    if (r != ERR_AGAIN) break;
    conn_want_input(o->on);
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  if (r == ERR_TIMEDOUT && o->gathers) r = gathered(o, m);
  if (r || !o->keeps_place) op_done(rt, o);
  return r;
}

bool recv_push(lua_State *L, const struct op *o, const struct message *m) {
  struct conn *c = o->on;
  struct cut cut = m->cut;
  uint64_t before = c->consumed;
  bool peek = o->peek;
  lua_pushlstring(L, m->base + cut.at, cut.len);
  if (c->consumed != before) {
    lua_pop(L, 1);
    return false;
  }
  if (!peek) conn_took(c, &cut);
  return true;
}

/* What had come of the message that the end cut off is handed over with the failure. */
static int push_partial(lua_State *L, struct conn *c) {
  size_t n;
  const char *p = conn_input(c, &n);
  if (n == 0) return 0;
  lua_pushlstring(L, p, n);
  conn_consume(c, n);
  return 1;
}

static bool is_clean_end(const struct conn *c, int code) {
  size_t n;
  conn_input(c, &n);
  return code == ERR_EOF && n == 0;
}

int recv_failed(lua_State *L, struct op *o, int code) {
  struct conn *c = o->on;
  bool clean = is_clean_end(c, code), partial = code == ERR_EOF && !o->peek;
  c->recv_failure = (struct conn_failure){clean ? 0 : code, o->what};
  if (o->style == AS_ITERATOR || (o->style == AS_FILE && clean)) {
    c->failure = (struct conn_failure){code, o->what};
    lua_pushnil(L);
    return 1;
  }
  int n = conn_failed(L, c, o->what, code);
  return n + (partial ? push_partial(L, c) : 0);
}

static int recv_run(lua_State *L, struct rt *rt, struct op *o) {
  struct message m;
  for (;;) {
    int r = recv_wait(L, rt, o, &m);
    if (r) return recv_failed(L, o, r);
    if (recv_push(L, o, &m)) return 1;
  }
}

/* ---- by count --------------------------------------------------------------------- */

static int recv_count(lua_State *L, const char *what, bool peek) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  struct op o = recv_op(c, what);
  size_t n = check_count(L, 2);
  struct call_opts ro = call_opts_read(L, 3, c, plain_keys);
  o.timeout = ro.timeout;
  o.peek = peek;
  o.f = (struct framing){
      .kind = FRAMING_FIXED, .by_byte = true, .count = n, .max = limit(ro.max, SIZE_MAX)};
  return recv_run(L, rt, &o);
}

static int recv_raw(lua_State *L, const char *what, int opts, size_t max, enum style style) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  struct op o = recv_op(c, what);
  struct call_opts ro = call_opts_read(L, opts, c, max ? time_keys : plain_keys);
  o.timeout = ro.timeout;
  o.style = (uint8_t)style;
  o.gathers = max == 0;
  o.f = (struct framing){
      .kind = FRAMING_RAW, .by_byte = true, .max = limit(max ? max : ro.max, SIZE_MAX)};
  return recv_run(L, rt, &o);
}

/* conn:recv(n[, opts]): exactly n bytes. conn:recv([opts table]): what is there, at least one.
 * opts: timeout, retry, max */
static int l_recv(lua_State *L) {
  if (lua_isnone(L, 2) || lua_istable(L, 2)) return recv_raw(L, "recv", 2, 0, AS_METHOD);
  return recv_count(L, "recv", false);
}

/* conn:peek(n[, opts]): n bytes, left where they are */
static int l_peek(lua_State *L) { return recv_count(L, "peek", true); }

/* conn:recv_some(max[, opts]): at least one byte, at most max. opts: timeout, retry */
static int l_recv_some(lua_State *L) {
  size_t max = check_count(L, 2);
  luaL_argcheck(L, max > 0, 2, "at least 1");
  return recv_raw(L, "recv_some", 3, max, AS_METHOD);
}

/* conn:recv_now(): what is buffered, "" if nothing; never waits */
static int l_recv_now(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  struct op o = recv_op(c, "recv_now");
  struct message m;
  o.f = (struct framing){.kind = FRAMING_RAW, .by_byte = true, .max = SIZE_MAX};
  conn_begin(c, &o.f);
  conn_try_link(c);
  int r = waitq_open(&c->readers, op_self(rt)) ? conn_take(c, &o.f, &m) : ERR_AGAIN;
  if (r == ERR_AGAIN) {
    lua_pushliteral(L, "");
    return 1;
  }
  if (r) return recv_failed(L, &o, r);
  if (!recv_push(L, &o, &m)) lua_pushliteral(L, "");
  return 1;
}

/* conn:unread(data): puts data in front of what is buffered -> true */
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

/* conn:buffered() -> bytes there now */
static int l_buffered(lua_State *L) {
  size_t n;
  conn_input(check_conn(L, rt_of(L), 1), &n);
  lua_pushinteger(L, (lua_Integer)n);
  return 1;
}

/* ---- by line, delimiter, package, frame ------------------------------------------- */

static int recv_line(lua_State *L, int opts, enum style style) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  struct op o = recv_op(c, style == AS_METHOD ? "recv_line" : "lines");
  struct call_opts ro = call_opts_read(L, opts, c, line_keys);
  o.timeout = ro.timeout;
  o.skip = ro.skip;
  o.style = (uint8_t)style;
  o.f = (struct framing){.kind = FRAMING_LINE,
                         .keep = ro.keep,
                         .last = style == AS_ITERATOR,
                         .max = limit(ro.max, c->limits.line)};
  return recv_run(L, rt, &o);
}

/* conn:recv_line([opts]): a line without its \n or \r\n. opts: timeout, retry, max, keep, skip */
static int l_recv_line(lua_State *L) { return recv_line(L, 2, AS_METHOD); }

/* conn:recv_until(delimiter[, opts]): up to the exact bytes, consumed but not returned.
 * opts: timeout, retry, max, keep, skip */
static int l_recv_until(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  struct op o = recv_op(c, "recv_until");
  o.f.kind = FRAMING_DELIMITER;
  o.f.delimiter = luaL_checklstring(L, 2, &o.f.delimiter_len);
  luaL_argcheck(L, o.f.delimiter_len > 0, 2, "an empty delimiter");
  struct call_opts ro = call_opts_read(L, 3, c, line_keys);
  o.timeout = ro.timeout;
  o.skip = ro.skip;
  o.f.keep = ro.keep;
  o.f.max = limit(ro.max, c->limits.line);
  return recv_run(L, rt, &o);
}

static int recv_pkg(lua_State *L, int opts, enum style style) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  struct op o = recv_op(c, style == AS_METHOD ? "recv_pkg" : "pkgs");
  struct call_opts ro = call_opts_read(L, opts, c, pkg_keys);
  o.timeout = ro.timeout;
  o.style = (uint8_t)style;
  recv_set_pkg(c, &o.f, ro.header, ro.max);
  return recv_run(L, rt, &o);
}

/* conn:recv_pkg([opts]): one package. opts: timeout, retry, max, header */
static int l_recv_pkg(lua_State *L) { return recv_pkg(L, 2, AS_METHOD); }

static size_t frame_limit(const struct conn *c, const struct framing *f) {
  return has_terminator(f) ? c->limits.line : c->limits.frame;
}

static int recv_frame(lua_State *L, int opts, enum style style) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  struct op o = recv_op(c, style == AS_METHOD ? "recv_frame" : "frames");
  struct call_opts ro = call_opts_read(L, opts, c, plain_keys);
  o.timeout = ro.timeout;
  o.style = (uint8_t)style;
  lua_getiuservalue(L, 1, 1); /* the framing lives as long as the call, whatever becomes of it */
  if (!c->framing) return lframing_recv(L, rt, &o, ro.max);
  o.f = *c->framing;
  o.f.last = style == AS_ITERATOR;
  o.f.max =
      limit(ro.max, limit(o.f.max, o.f.kind == FRAMING_RAW ? SIZE_MAX : frame_limit(c, &o.f)));
  return recv_run(L, rt, &o);
}

/* conn:recv_frame([opts]): one message of the connection's framing. opts: timeout, retry, max */
static int l_recv_frame(lua_State *L) { return recv_frame(L, 2, AS_METHOD); }

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
  o->f = (struct framing){.kind = FRAMING_LINE, .last = true, .max = c->limits.line};
  if (*s == 'a')
    o->f = (struct framing){.kind = FRAMING_ALL, .by_byte = true, .max = c->limits.all};
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
  return o->f.kind == FRAMING_FIXED && !o->peek ? push_partial(L, c) : 0;
}

/* Each format's result is pushed; the first that fails ends the call. */
static int read_run(lua_State *L, struct rt *rt, struct op *o) {
  struct message m;
  while (o->index <= o->args) {
    read_format(L, o, o->index);
    int r = recv_wait(L, rt, o, &m);
    bool empty = o->peek, end = r == ERR_EOF && read_end(L, o);
    if (r && !end) return o->index - 2 + recv_failed(L, o, r);
    if (!end && !recv_push(L, o, &m)) continue;
    if (empty) lua_pushliteral(L, ""), lua_replace(L, -2);
    o->index++;
    o->waited = false;
  }
  return o->args - 1;
}

/* conn:read(formats...): as a Lua file: "l", "L", "a", a count, each also with "*" */
static int l_read(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct op o = recv_op(check_conn(L, rt, 1), "read");
  if (lua_gettop(L) == 1) lua_pushliteral(L, "l");
  o.run = read_run;
  o.args = lua_gettop(L);
  o.index = 2;
  o.style = AS_FILE;
  for (int i = 2; i <= o.args; i++) read_format(L, &o, i);
  luaL_checkstack(L, o.args + LUA_MINSTACK, "too many formats");
  return read_run(L, rt, &o);
}

/* ---- iterators: next(conn), with the options as upvalue 2 -------------------------- */

static int next_with(lua_State *L, int (*recv)(lua_State *, int, enum style)) {
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(2));
  return recv(L, 2, AS_ITERATOR);
}

static int recv_chunk(lua_State *L, int opts, enum style style) {
  return recv_raw(L, "chunks", opts, 0, style);
}

static int next_line(lua_State *L) { return next_with(L, recv_line); }
static int next_pkg(lua_State *L) { return next_with(L, recv_pkg); }
static int next_frame(lua_State *L) { return next_with(L, recv_frame); }
static int next_chunk(lua_State *L) { return next_with(L, recv_chunk); }

/* Without options the iterator is upvalue 2, made once: a loop costs no closure. */
static int iterate(lua_State *L, lua_CFunction next, const struct opt *keys) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  if (lua_isnoneornil(L, 2)) {
    lua_pushvalue(L, lua_upvalueindex(2));
  } else {
    call_opts_read(L, 2, c, keys);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, next, 2);
  }
  lua_pushvalue(L, 1);
  return 2;
}

/* for line in conn:lines([opts]) and so on: they end at EOF and at any failure; last_error()
 * tells which */
static int l_lines(lua_State *L) { return iterate(L, next_line, line_keys); }
static int l_pkgs(lua_State *L) { return iterate(L, next_pkg, pkg_keys); }
static int l_frames(lua_State *L) { return iterate(L, next_frame, plain_keys); }
static int l_chunks(lua_State *L) { return iterate(L, next_chunk, plain_keys); }

static void set_iterator(lua_State *L, struct rt *rt, const char *name, lua_CFunction iterator,
                         lua_CFunction next) {
  lua_pushlightuserdata(L, rt);
  lua_pushvalue(L, -1);
  lua_pushnil(L);
  lua_pushcclosure(L, next, 2);
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
