/* wire.framing.varint, netstring and header: their options, and what their messages bring beside
 * the data.
 * What this is not: how they look on the wire (core/framing_counted.c); framing.length, which
 * stands with the others (lframing.c). */
#include <string.h>

#include "rt.h"

enum { MAGIC_MAX = 8 };

struct counted_opts {
  size_t max;
  int offset, size, version;
};

#define OPTION(name, type)                                                                         \
  { #name, type, offsetof(struct counted_opts, name) }
#define END                                                                                        \
  { NULL, OPT_ANY, 0 }

static void read_options(lua_State *L, const struct opt *keys, struct counted_opts *fo) {
  if (!lua_isnoneornil(L, 1)) luaL_checktype(L, 1, LUA_TTABLE);
  opts_read(L, 1, keys, fo);
}

/***
A length as a base-128 number (LEB128) stands before each message, as protobuf writes delimited
messages.
With an `offset` so many bytes precede the length. They are no part of the message: on receiving
they are a second result, and `send_frame(data, {head = ...})` gives them (zeros without).
A length may have needless zero groups, up to ten bytes in all; ours are as short as can be.
@function wire.framing.varint
@tparam[opt] table opts `max` (`limits.frame`): longer messages are refused; `offset` (0): bytes
before the length, at most 255
@treturn Framing the framing; `recv_frame` and `frames` give the message, and with an `offset` the
bytes before its length as a second result
@waits never
@usage local mqtt = wire.framing.varint { offset = 1 }
for body, head in conn:frames() do handle(head:byte() >> 4, body) end
@follows protobuf's writeDelimitedTo and parseDelimitedFrom
*/
static int l_varint(lua_State *L) {
  static const struct opt keys[] = {OPTION(max, OPT_SIZE), OPTION(offset, OPT_INT), END};
  struct counted_opts fo = {0};
  read_options(L, keys, &fo);
  if (fo.offset > VARINT_OFFSET_MAX)
    return luaL_error(L, "option 'offset' must be at most %d", VARINT_OFFSET_MAX);
  struct framing *f = lframing_new(L, FRAMING_VARINT);
  f->max = fo.max;
  f->offset = (uint32_t)fo.offset;
  return 1;
}

/***
Messages are netstrings: a decimal length, a colon, the data, a comma.
The rules are kept strictly: no needless zero before the length, nothing but digits in it, and the
comma must be there; otherwise receiving fails with EPROTO.
@function wire.framing.netstring
@tparam[opt] table opts `max` (`limits.frame`): longer messages are refused, at the first digit
that makes them so
@treturn Framing the framing
@waits never
@usage conn:set_framing(wire.framing.netstring())
conn:send_frame "hello" -- "5:hello,"
@follows Netstrings of D. J. Bernstein
*/
static int l_netstring(lua_State *L) {
  static const struct opt keys[] = {OPTION(max, OPT_SIZE), END};
  struct counted_opts fo = {0};
  read_options(L, keys, &fo);
  lframing_new(L, FRAMING_NETSTRING)->max = fo.max;
  return 1;
}

/* ---- header ------------------------------------------------------------------------ */

static int bad_magic(lua_State *L) {
  return luaL_error(L, "option 'magic' must be a string of 1 to 8 bytes or a whole number of at "
                       "least 0; every message begins with it");
}

/* In as many bytes as it needs. */
static size_t number_bytes(lua_State *L, char out[MAGIC_MAX]) {
  int whole;
  lua_Integer v = lua_tointegerx(L, -1, &whole);
  size_t n = 1;
  if (!whole || v < 0) bad_magic(L);
  while (n < MAGIC_MAX && v >> (8 * n)) n++;
  for (size_t i = 0; i < n; i++) out[i] = (char)(v >> (8 * (n - 1 - i)) & 0xff);
  return n;
}

static size_t magic_bytes(lua_State *L, int idx, char out[MAGIC_MAX]) {
  size_t n = 0;
  if (!lua_istable(L, idx)) return (size_t)bad_magic(L);
  int type = lua_getfield(L, idx, "magic");
  if (type == LUA_TNUMBER) return number_bytes(L, out);
  const char *s = type == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
  if (!s || n == 0 || n > MAGIC_MAX) return (size_t)bad_magic(L);
  memcpy(out, s, n);
  return n;
}

/* [-0, +2] The magic as it was given, and the string with which each message begins. */
static void push_prefix(lua_State *L, int idx, int version) {
  char bytes[MAGIC_MAX + 1];
  size_t n = magic_bytes(L, idx, bytes);
  bytes[n] = (char)version;
  lua_pushlstring(L, bytes, n + 1);
}

static bool is_checked(lua_State *L, int idx) {
  int type = lua_getfield(L, idx, "checksum");
  bool none = type == LUA_TBOOLEAN && !lua_toboolean(L, -1);
  bool crc = type == LUA_TSTRING && strcmp(lua_tostring(L, -1), "crc32") == 0;
  if (type != LUA_TNIL && !none && !crc)
    luaL_error(L, "option 'checksum' must be \"crc32\", or false for none");
  lua_pop(L, 1);
  return !none;
}

/***
Each message begins with a magic, a version and a type, and ends with a checksum.
On the wire, all numbers big-endian: magic, version (1 byte), type (1 byte), length of the payload
(`size` bytes), payload, CRC-32 (IEEE, 4 bytes) of all before it. `recv_frame` and `frames` give
`payload, type`; `send_frame(payload, {type = n})` sends, the type being 0 without.
Another magic or version is EPROTO at its first byte, a wrong checksum when the message is there;
then the stream has no known next message.
@function wire.framing.header
@tparam table opts its keys:
 - `magic`: a string of 1 to 8 bytes, or a whole number, which takes as many bytes as it needs
   (0xCAFE two; write a string for leading zeros)
 - `version` (0): from 0 to 255; messages of any other are refused
 - `size` (4): bytes of the length, 1, 2, 3, 4 or 8
 - `checksum` ("crc32"): or false, and no checksum is sent or expected
 - `max` (`limits.frame`): longer payloads are refused
@treturn Framing the framing
@waits never
@raise without a magic
@usage conn:set_framing(wire.framing.header { magic = 0xCAFE, version = 1 })
conn:send_frame("ping", { type = 7 })
local payload, kind = conn:recv_frame()
*/
static int l_header(lua_State *L) {
  static const struct opt keys[] = {OPTION(max, OPT_SIZE),    OPTION(size, OPT_INT),
                                    OPTION(version, OPT_INT), {"magic", OPT_ANY, 0},
                                    {"checksum", OPT_ANY, 0}, END};
  struct counted_opts fo = {.size = 4};
  read_options(L, keys, &fo);
  if (fo.size < 1 || fo.size > 8 || (fo.size > 4 && fo.size < 8))
    return luaL_error(L, "option 'size' must be 1, 2, 3, 4 or 8");
  if (fo.version > UINT8_MAX) return luaL_error(L, "option 'version' must be from 0 to 255");
  push_prefix(L, 1, fo.version);
  bool checked = is_checked(L, 1);
  struct framing *f = lframing_new(L, FRAMING_HEADER);
  f->size = (uint8_t)fo.size;
  f->ends_in_checksum = checked;
  f->max = fo.max;
  f->prefix = lua_tolstring(L, -2, &f->prefix_len);
  lua_pushvalue(L, -2); /* the string lives as long as the framing */
  lua_setiuservalue(L, -2, 1);
  return 1;
}

const luaL_Reg lframing_counted[] = {
    {"varint", l_varint}, {"netstring", l_netstring}, {"header", l_header}, {NULL, NULL}};

/* ---- beside the data ---------------------------------------------------------------- */

void beside_copy(struct beside *b, const struct framing *f, const struct message *m) {
  b->kind = f->kind;
  b->type = f->kind == FRAMING_HEADER ? framing_type(f, m->base) : 0;
  b->head_len = f->kind == FRAMING_VARINT ? f->offset : 0;
  if (b->head_len) memcpy(b->head, m->base, b->head_len);
}

int beside_push(lua_State *L, const struct beside *b) {
  if (b->kind == FRAMING_HEADER)
    lua_pushinteger(L, b->type);
  else if (b->head_len)
    lua_pushlstring(L, b->head, b->head_len);
  return b->kind == FRAMING_HEADER || b->head_len ? 1 : 0;
}

uint8_t type_option(lua_State *L, int idx, const struct framing *f) {
  if (!lua_istable(L, idx)) return 0;
  int whole, type = lua_getfield(L, idx, "type");
  lua_Integer n = lua_tointegerx(L, -1, &whole);
  lua_pop(L, 1);
  if (type == LUA_TNIL) return 0;
  if (f->kind != FRAMING_HEADER)
    luaL_error(L, "option 'type' is for framing.header; messages of this framing have no type");
  if (type != LUA_TNUMBER || !whole || n < 0 || n > UINT8_MAX)
    luaL_error(L, "option 'type' must be a whole number from 0 to 255");
  return (uint8_t)n;
}
