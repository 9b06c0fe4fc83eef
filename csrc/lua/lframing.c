/* Framings as Lua sees them: the constructors of wire.framing, and framings written in Lua.
 * What this is not: where a message ends (core/framing.c). */
#include <string.h>

#include "rt.h"

#define FRAMING_NAME "lunewire.Framing"

/***
How a stream is cut into messages, which `recv_frame`, `frames` and `send_frame` speak.
A framing is an option of whoever makes connections, or set by `conn:set_framing`. Those made here
are cut in C, and no byte is looked at twice. One of your own is a table with two functions:

 - `decode(bytes, eof)` is given what has come, or the beginning of it if that is much, and
   returns `message, consumed`; or `nil, total_needed` if more is needed (the number may be left
   out); or `false, message, code` if this can be no message, and then the stream has no next one
 - `encode(message, opts)` returns what `conn:send` takes
@type wire.framing
*/

/* ---- constructors ------------------------------------------------------------------ */

struct framing_opts {
  size_t max;
  bool keep, includes_header;
  int size, offset, strip;
  double adjust;
};

#define OPTION(name, type)                                                                         \
  { #name, type, offsetof(struct framing_opts, name) }
#define END                                                                                        \
  { NULL, OPT_ANY, 0 }

struct framing *lframing_new(lua_State *L, enum framing_kind kind) {
  struct framing *f = lua_newuserdatauv(L, sizeof *f, 1);
  memset(f, 0, sizeof *f);
  f->kind = (uint8_t)kind;
  luaL_setmetatable(L, FRAMING_NAME);
  return f;
}

static void no_number(lua_State *L, int idx) {
  if (!lua_isnoneornil(L, idx)) luaL_checktype(L, idx, LUA_TTABLE);
}

/***
A message is whatever has come, at least one byte.
@function wire.framing.raw
@treturn Framing the framing
@waits never
*/
static int l_raw(lua_State *L) {
  lframing_new(L, FRAMING_RAW);
  return 1;
}

/***
A message is a line, without its newline; what is sent gets one.
@function wire.framing.line
@tparam[opt] table opts `max` (`limits.line`), `keep` (false): lines keep their newline, and what
is sent with one gets no other
@treturn Framing the framing
@waits never
*/
static int l_line(lua_State *L) {
  static const struct opt keys[] = {OPTION(max, OPT_SIZE), OPTION(keep, OPT_BOOL), END};
  struct framing_opts fo = {0};
  no_number(L, 1);
  opts_read(L, 1, keys, &fo);
  struct framing *f = lframing_new(L, FRAMING_LINE);
  f->max = fo.max;
  f->keep = fo.keep;
  return 1;
}

/***
A message ends with these bytes, which are taken off, and put behind what is sent.
@function wire.framing.delimiter
@tparam string bytes the exact bytes, at least one
@tparam[opt] table opts `max` (`limits.line`)
@treturn Framing the framing
@waits never
*/
static int l_delimiter(lua_State *L) {
  static const struct opt keys[] = {OPTION(max, OPT_SIZE), END};
  struct framing_opts fo = {0};
  size_t n;
  const char *bytes = luaL_checklstring(L, 1, &n);
  luaL_argcheck(L, n > 0, 1, "an empty delimiter");
  no_number(L, 2);
  opts_read(L, 2, keys, &fo);
  struct framing *f = lframing_new(L, FRAMING_DELIMITER);
  f->max = fo.max;
  f->delimiter = bytes;
  f->delimiter_len = n;
  lua_pushvalue(L, 1); /* the string lives as long as the framing */
  lua_setiuservalue(L, -2, 1);
  return 1;
}

/***
Each message has the same length.
@function wire.framing.fixed
@tparam integer n bytes, at least 1
@treturn Framing the framing
@waits never
*/
static int l_fixed(lua_State *L) {
  size_t n = check_count(L, 1);
  luaL_argcheck(L, n > 0, 1, "at least 1");
  lframing_new(L, FRAMING_FIXED)->count = n;
  return 1;
}

static bool is_little(lua_State *L, int idx) {
  if (!lua_istable(L, idx) || lua_getfield(L, idx, "endian") == LUA_TNIL) return false;
  const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  bool little = strcmp(s, "little") == 0;
  if (!little && strcmp(s, "big") != 0)
    luaL_error(L, "option 'endian' must be \"big\" or \"little\"");
  return little;
}

static int64_t adjust_option(lua_State *L, int idx) {
  if (!lua_istable(L, idx) || lua_getfield(L, idx, "adjust") == LUA_TNIL) return 0;
  int whole;
  lua_Integer n = lua_tointegerx(L, -1, &whole);
  if (!whole) luaL_error(L, "option 'adjust' must be a whole number");
  return n;
}

/***
A length stands before each message.
The message is `offset + size + value + adjust` bytes long, with `includes_header` it is
`value + adjust`. With `strip = 0` one sends and receives the whole message, header and all, and its
length is filled in; with an `offset` and a strip, `send_frame(data, {head = ...})` gives what
precedes the length.
@function wire.framing.length
@tparam[opt] table opts how the length looks:
 - `size` (2): bytes of the length, 1, 2, 3, 4 or 8
 - `endian` ("big"): or "little"
 - `offset` (0): bytes before the length, at most 65536
 - `adjust` (0): added to the length, may be negative
 - `includes_header` (false): the length counts itself and what precedes it
 - `strip` (`offset + size`): leading bytes that are dropped
 - `max` (`limits.frame`): longer messages are refused
@treturn Framing the framing
@waits never
@follows LengthFieldBasedFrameDecoder of Netty
*/
static int l_length(lua_State *L) {
  static const struct opt keys[] = {OPTION(size, OPT_INT),
                                    OPTION(offset, OPT_INT),
                                    OPTION(strip, OPT_INT),
                                    OPTION(max, OPT_SIZE),
                                    OPTION(includes_header, OPT_BOOL),
                                    {"adjust", OPT_ANY, 0},
                                    {"endian", OPT_ANY, 0},
                                    END};
  struct framing_opts fo = {.size = 2, .strip = -1};
  no_number(L, 1);
  opts_read(L, 1, keys, &fo);
  if (fo.size < 1 || fo.size > 8 || (fo.size > 4 && fo.size < 8))
    return luaL_error(L, "option 'size' must be 1, 2, 3, 4 or 8");
  if (fo.offset > 65536) return luaL_error(L, "option 'offset' must be at most 65536");
  bool little = is_little(L, 1);
  int64_t adjust = adjust_option(L, 1);
  struct framing *f = lframing_new(L, FRAMING_LENGTH);
  f->size = (uint8_t)fo.size;
  f->offset = (uint32_t)fo.offset;
  f->strip = fo.strip < 0 ? (uint32_t)(fo.offset + fo.size) : (uint32_t)fo.strip;
  f->includes_header = fo.includes_header;
  f->little = little;
  f->adjust = adjust;
  f->max = fo.max;
  return 1;
}

/* ---- framings as arguments ---------------------------------------------------------- */

const struct framing *to_framing(lua_State *L, int idx) {
  return luaL_testudata(L, idx, FRAMING_NAME);
}

static bool has_function(lua_State *L, int idx, const char *name) {
  bool is = lua_getfield(L, idx, name) == LUA_TFUNCTION;
  lua_pop(L, 1);
  return is;
}

void check_framing(lua_State *L, int idx) {
  if (to_framing(L, idx)) return;
  if (lua_istable(L, idx) && has_function(L, idx, "decode") && has_function(L, idx, "encode"))
    return;
  luaL_error(L,
             "not a framing: expected one of wire.framing, or a table with the functions decode "
             "and encode, not %s",
             luaL_typename(L, idx));
}

/* ---- framings in Lua --------------------------------------------------------------- */

/* [-0, +1] The table of the Conn at index 1; raises without. */
static void push_codec(lua_State *L, const char *what) {
  if (lua_getiuservalue(L, 1, 1) != LUA_TTABLE)
    luaL_error(L, "%s: the connection has no framing; give one as an option or by set_framing",
               what);
}

void lframing_encode(lua_State *L, const char *what) {
  push_codec(L, what);
  lua_getfield(L, -1, "encode");
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 3);
  lua_call(L, 2, 1);
  lua_replace(L, 2);
  lua_settop(L, 3);
}

/* What decode said of the bytes that are there. */
enum verdict { FOUND, MORE, BAD };

/* What decode is given first of what is there, unless it asks for more.  A peer that sends many
 * short messages at once must not have all that follow copied with each of them. */
enum { DECODE_FIRST = 4096, DECODE_GROWTH = 4 };

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* How many of n bytes decode is given: all of them if it is to hear of the end, which comes only
 * when it wants more than there are. */
static size_t decode_len(const struct op *o, size_t n) {
  size_t first = least(DECODE_FIRST, o->f.max);
  return least(n, o->f.count > first ? o->f.count : first);
}

/* nil, total_needed.  Ever more of what is there is given, then all, then what comes: who knows no
 * number, or only that one byte more is needed, is not asked again for each of them. */
static enum verdict wants_more(lua_State *L, struct op *o, size_t given, size_t have) {
  size_t total = lua_isinteger(L, -2) ? (size_t)lua_tointeger(L, -2) : 0;
  size_t grown = least(least(given * DECODE_GROWTH, have), o->f.max);
  size_t more = total > grown ? total : grown;
  o->f.count = more > given ? more : given + 1;
  return MORE;
}

static int bad_decode(lua_State *L, const char *why) {
  return luaL_error(L, "decode of the framing: %s", why);
}

/* [.., message, consumed, code] -> at FOUND the message is at the top. */
static enum verdict judge(lua_State *L, struct op *o, size_t given) {
  if (lua_isnil(L, -3)) return MORE;
  if (lua_isboolean(L, -3) && !lua_toboolean(L, -3)) return BAD;
  lua_Integer used = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : 0;
  if (used < 1 || (size_t)used > given)
    bad_decode(L, "the second result must be how many bytes the message took, at least 1 and at "
                  "most what was given");
  conn_took(o->on, &(struct cut){.take = (size_t)used});
  lua_pop(L, 2);
  return FOUND;
}

/* Protected: [decode, light userdata op, ended] -> decode(bytes, ended) */
static int call_decode(lua_State *L) {
  const struct op *o = lua_touserdata(L, 2);
  size_t n;
  const char *p = conn_input(o->on, &n);
  lua_pushlstring(L, p, decode_len(o, n));
  lua_replace(L, 2);
  lua_call(L, 2, 3);
  return 3;
}

/* -> decode's three results at the top.  The call keeps its place in line meanwhile, so that an
 * error must give it up: nothing here raises before that. */
static enum verdict decode(lua_State *L, struct rt *rt, struct op *o, bool ended) {
  size_t n, given;
  conn_input(o->on, &n);
  given = decode_len(o, n);
  op_charge(rt, 0, given);
  lua_pushcfunction(L, call_decode);
  lua_pushvalue(L, o->index);
  lua_pushlightuserdata(L, o);
  lua_pushboolean(L, ended);
  bool failed = lua_pcall(L, 3, 3, 0) != LUA_OK;
  if (!failed && !ended && lua_isnil(L, -3)) return wants_more(L, o, given, n);
  op_done(rt, o);
  if (failed) lua_error(L);
  return judge(L, o, given);
}

/* false, message, code: the stream has no known next message. */
static int refused(lua_State *L, struct op *o) {
  struct conn *c = o->on;
  const char *text = lua_isstring(L, -2) ? lua_tostring(L, -2) : err_text(ERR_PROTO);
  const char *code = lua_isstring(L, -1) ? lua_tostring(L, -1) : err_name(ERR_PROTO);
  char who[ADDR_TEXT_MAX];
  c->desync = true;
  c->recv_failure = c->failure = (struct conn_failure){ERR_PROTO, o->what};
  lua_pushnil(L);
  if (o->style) return 1;
  addr_print(&c->peer, who);
  lua_pushfstring(L, "%s %s: %s", o->what, who, text);
  lua_pushstring(L, code);
  return 3;
}

/* Bytes are awaited by count: what is there, and as many more as decode said. o->f.count:
 * how many; o->f.max: the limit. */
static int decode_run(lua_State *L, struct rt *rt, struct op *o) {
  struct conn *c = o->on;
  struct message m;
  for (;;) {
    int r = c->desync && conn_is_open(c) ? ERR_PROTO : recv_wait(L, rt, o, &m);
    if (r == ERR_MSGSIZE) c->desync = true;
    size_t n;
    conn_input(c, &n);
    if (r && (r != ERR_EOF || n == 0)) {
      op_done(rt, o);
      return recv_failed(L, o, r);
    }
    enum verdict v = decode(L, rt, o, r == ERR_EOF);
    if (v == FOUND) return 1;
    if (v == BAD) return refused(L, o);
    if (r == ERR_EOF) return recv_failed(L, o, r);
    lua_pop(L, 3);
  }
}

int lframing_recv(lua_State *L, struct rt *rt, const char *what, const struct call_opts *ro,
                  enum recv_style style) {
  struct conn *c = check_conn(L, rt, 1);
  struct framing f = {.kind = FRAMING_FIXED, .at_least = true, .count = 1};
  f.max = ro->max ? ro->max : c->limits->frame;
  struct op o = recv_op(c, what, &f);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  push_codec(L, what);
  lua_getfield(L, -1, "decode");
  o.index = lua_gettop(L);
  o.run = decode_run;
  o.timeout = ro->timeout;
  o.style = (uint8_t)style;
  o.keeps_place = true;
  return decode_run(L, rt, &o);
}

void lframing_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg constructors[] = {
      {"raw", l_raw},     {"line", l_line},     {"delimiter", l_delimiter},
      {"fixed", l_fixed}, {"length", l_length}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{NULL, NULL}};
  rt_metatable(L, rt, FRAMING_NAME, methods, NULL);
  lua_pop(L, 1);
  lua_newtable(L);
  rt_setfuncs(L, rt, constructors);
  rt_setfuncs(L, rt, lframing_counted);
  lua_setfield(L, -2, "framing");
}
