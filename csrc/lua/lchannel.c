/* Channels: values that tasks hand to each other, in order.
 *
 * Whoever comes and finds somebody waiting on the other side serves them at once.  So receivers
 * stand in line only while nothing is there, and senders only while the buffer is full; and a
 * wait that was served is over: neither a cancel nor the time can end it another way.
 *
 * Every value is in the channel's user value, one table: buffered ones are a ring under the keys
 * 1 .. size; one that belongs to a waiter (it waits to send it, or has just been given it) stands
 * under the waiter's address.  None of these steps can run Lua, and what may run out of memory
 * comes before anything else has changed.
 * What this is not: known to the core; it does not keep the loop alive. */
#include <math.h>

#include "rt.h"

#define CHANNEL_NAME "lunewire.Channel"

/* A coroutine that somebody killed while it waited here may have left its task in line. */
struct lines {
  struct owned owned; /* first */
  struct waitq receivers, senders;
};

struct channel {
  struct lines *lines; /* NULL: finalized, and closed */
  size_t capacity;
  size_t first, count, size; /* the ring; size is a power of two, or 0 */
  bool closed;
};

/* While the state is being closed a finalizer of the user's may come after those of ours. */
static struct channel *check_channel(lua_State *L) {
  const struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  struct channel *ch = luaL_checkudata(L, 1, CHANNEL_NAME);
  if (rt->closed) ch->lines = NULL;
  return ch;
}

static struct waitq *receivers_of(const struct channel *ch) {
  return ch->lines ? &ch->lines->receivers : NULL;
}

static struct waitq *senders_of(const struct channel *ch) {
  return ch->lines ? &ch->lines->senders : NULL;
}

/* ---- the values; the channel is at stack index 1 ------------------------------------- */

/* The value at idx, not nil, becomes the waiter's. */
static void keep(lua_State *L, const struct wait *w, int idx) {
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, idx);
  lua_rawsetp(L, -2, w);
  lua_pop(L, 1);
}

/* [-0, +1] The waiter's value is no longer kept; nil if it had none. */
static void push_kept(lua_State *L, const struct wait *w) {
  lua_getiuservalue(L, 1, 1);
  if (lua_rawgetp(L, -1, w) != LUA_TNIL) {
    lua_pushnil(L);
    lua_rawsetp(L, -3, w);
  }
  lua_remove(L, -2);
}

static void forget(lua_State *L, const struct wait *w) {
  push_kept(L, w);
  lua_pop(L, 1);
}

/* The key of the i-th buffered value. */
static lua_Integer ring_key(const struct channel *ch, size_t i) {
  return (lua_Integer)((ch->first + i) & (ch->size - 1)) + 1;
}

/* [values] The ring is full: what had gone round the end goes behind it. */
static void ring_grow(lua_State *L, struct channel *ch) {
  lua_Integer size = (lua_Integer)ch->size, wrapped = (lua_Integer)ch->first;
  for (lua_Integer i = 1; i <= wrapped; i++) {
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, size + i);
  }
  ch->size = ch->size ? 2 * ch->size : 1;
  for (lua_Integer i = 1; i <= wrapped; i++) {
    lua_pushnil(L);
    lua_rawseti(L, -2, i);
  }
}

/* The value at idx goes behind the others. */
static void ring_put(lua_State *L, struct channel *ch, int idx) {
  lua_getiuservalue(L, 1, 1);
  if (ch->count == ch->size) ring_grow(L, ch);
  lua_pushvalue(L, idx);
  lua_rawseti(L, -2, ring_key(ch, ch->count));
  ch->count++;
  lua_pop(L, 1);
}

/* [-0, +1] The first buffered value; its room goes to the sender, if one waits. */
static void ring_push(lua_State *L, struct channel *ch, struct wait *sender) {
  lua_getiuservalue(L, 1, 1);
  lua_rawgeti(L, -1, ring_key(ch, 0));
  if (sender) {
    lua_rawgetp(L, -2, sender);
    lua_rawseti(L, -3, ring_key(ch, ch->count));
    forget(L, sender);
  } else {
    lua_pushnil(L);
    lua_rawseti(L, -3, ring_key(ch, 0));
    ch->count--;
  }
  ch->first = (ch->first + 1) & (ch->size - 1);
  lua_remove(L, -2);
}

/* ---- both directions ------------------------------------------------------------------ */

/* A call that was cancelled while it waited is over, whatever there is now; the time alone ends
 * none that can be served. */
static bool may_try(lua_State *L, struct rt *rt, struct op *o) {
  return op_why(rt, o) != ERR_CANCELED && !op_spent(L, rt, o);
}

/* Stands in line; or nowhere, if it only gives way: it could be served there out of order. */
static int wait_in(lua_State *L, struct rt *rt, struct op *o, struct waitq *q) {
  o->q = o->spent ? NULL : q;
  return op_wait(L, rt, o);
}

/* ---- send ----------------------------------------------------------------------------- */

/* Who cannot wait has nothing there: the wait is that of whom it interrupts. */
static void forget_own(lua_State *L, struct rt *rt) {
  if (op_may_wait(L, rt)) forget(L, op_self(rt));
}

/* Run where op_wait raises: index 1 is still the channel. */
static void take_back(lua_State *L, struct op *o) {
  (void)o;
  forget_own(L, rt_of(L));
}

/* [channel, value, ...] */
static int send_try(lua_State *L, struct rt *rt, struct op *o) {
  struct channel *ch = o->on;
  struct wait *receiver;
  if (op_why(rt, o) == WAIT_SERVED) return 0;
  if (!may_try(L, rt, o)) return ERR_AGAIN;
  if (ch->closed) return ERR_CLOSED;
  if ((receiver = waitq_waiting(receivers_of(ch)))) {
    keep(L, receiver, 2);
    wait_serve(receiver);
    return 0;
  }
  if (ch->count == ch->capacity) {
    if (op_may_wait(L, rt)) keep(L, op_self(rt), 2);
    return ERR_AGAIN;
  }
  ring_put(L, ch, 2);
  return 0;
}

static int send_run(lua_State *L, struct rt *rt, struct op *o) {
  struct channel *ch = o->on;
  int r;
  while ((r = send_try(L, rt, o)) == ERR_AGAIN)
    if ((r = wait_in(L, rt, o, senders_of(ch))) != 0) break;
  op_done(rt, o);
  if (o->q) forget_own(L, rt);
  if (r) return push_failure(L, o->what, NULL, NULL, r);
  lua_pushboolean(L, true);
  return 1;
}

/***
Hands a value to a receiver, or puts it into the buffer.
Values arrive in the order in which they were sent, and those who wait are served in that order
too.  Without a capacity the call returns when a receiver has taken the value.  A value whose send
returned anything but true, or raised, is never received. Closing a coroutine of `wire.co` while it
waits here (`coroutine.close`) breaks this: its value may be lost, or still be received.
@function Channel:send
@tparam any value anything but nil, which could not be told from the end
@tparam[opt=math.huge] number timeout seconds; with 0 or less it succeeds if there is room or a
 receiver waits
@treturn boolean true
@codes ETIMEDOUT, ECLOSED
@waits while the buffer is full and no receiver waits
@raise if the value is nil; where Lua cannot yield; a deadlock, outside any task
*/
static int l_send(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct op o = {.run = send_run,
                 .what = "channel send",
                 .on = check_channel(L),
                 .timeout = opt_seconds(L, 3, INFINITY),
                 .abandon = take_back};
  luaL_argcheck(L, !lua_isnoneornil(L, 2), 2,
                "nil cannot be sent: the receiver could not tell it from the end; send false or a "
                "table");
  lua_settop(L, 2);
  return send_run(L, rt, &o);
}

/* ---- recv ----------------------------------------------------------------------------- */

/* [-0, +1] if 0 */
static int recv_try(lua_State *L, struct rt *rt, struct op *o) {
  struct channel *ch = o->on;
  if (op_why(rt, o) == WAIT_SERVED) {
    push_kept(L, op_self(rt));
    return 0;
  }
  if (!may_try(L, rt, o)) return ERR_AGAIN;
  struct wait *sender = ch->lines ? waitq_waiting(senders_of(ch)) : NULL;
  if (ch->count)
    ring_push(L, ch, sender);
  else if (sender)
    push_kept(L, sender);
  else
    return ch->closed ? ERR_CLOSED : ERR_AGAIN;
  if (sender) wait_serve(sender);
  return 0;
}

static int recv_wait_for(lua_State *L, struct rt *rt, struct op *o) {
  struct channel *ch = o->on;
  int r;
  while ((r = recv_try(L, rt, o)) == ERR_AGAIN)
    if ((r = wait_in(L, rt, o, receivers_of(ch))) != 0) break;
  op_done(rt, o);
  return r;
}

static int recv_run(lua_State *L, struct rt *rt, struct op *o) {
  int r = recv_wait_for(L, rt, o);
  return r ? push_failure(L, o->what, NULL, NULL, r) : 1;
}

/***
Takes the next value.
What was buffered when the channel was closed can still be received.
@function Channel:recv
@tparam[opt=math.huge] number timeout seconds; with 0 or less it takes a value that is buffered or
 that a sender waits with
@treturn any the value
@codes ETIMEDOUT, ECLOSED (closed, and nothing is left)
@waits until there is a value
@raise where Lua cannot yield; a deadlock, outside any task
*/
static int l_recv(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct op o = {.run = recv_run,
                 .what = "channel recv",
                 .on = check_channel(L),
                 .timeout = opt_seconds(L, 2, INFINITY)};
  return recv_run(L, rt, &o);
}

/* Only the close ends a wait without a time. */
static int next_run(lua_State *L, struct rt *rt, struct op *o) {
  if (recv_wait_for(L, rt, o) != 0) lua_pushnil(L);
  return 1;
}

static int next_value(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct op o = {
      .run = next_run, .what = "channel values", .on = check_channel(L), .timeout = INFINITY};
  return next_run(L, rt, &o);
}

/***
Iterates over the values: `for v in channel:values() do`.
The loop ends when the channel has been closed and nothing is left.  Any number of tasks may
iterate; each value goes to one of them.
@function Channel:values
@treturn function an iterator, which receives
@waits in each step, until there is a value
@raise in each step, as `Channel:recv`
*/
static int l_values(lua_State *L) {
  check_channel(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, next_value, 1);
  lua_pushvalue(L, 1);
  return 2;
}

/* ---- the rest ------------------------------------------------------------------------- */

static void wake_all(struct lines *lines) {
  waitq_wake_all(&lines->receivers, ERR_CLOSED);
  waitq_wake_all(&lines->senders, ERR_CLOSED);
}

static void channel_close(struct channel *ch) {
  ch->closed = true;
  if (ch->lines) wake_all(ch->lines);
}

/***
Ends the channel: nothing can be sent any more.
Buffered values can still be received.  Whoever waits gets ECLOSED; the value of a sender that was
waiting is not delivered.  Twice is harmless.  A channel in a `<close>` variable is closed at the
end of the block.
@function Channel:close
@waits never
*/
static int l_close(lua_State *L) {
  channel_close(check_channel(L));
  return 0;
}

static void lines_end(struct owned *o) { wake_all((struct lines *)(void *)o); }

static int channel_gc(lua_State *L) {
  struct channel *ch = check_channel(L);
  ch->closed = true;
  if (ch->lines) owned_free(&ch->lines->owned);
  ch->lines = NULL;
  return 0;
}

static int l_tostring(lua_State *L) {
  const struct channel *ch = check_channel(L);
  lua_pushfstring(L, "Channel (%s, %I buffered): %p", ch->closed ? "closed" : "open",
                  (LUAI_UACINT)ch->count, lua_topointer(L, 1));
  return 1;
}

/* A whole number >= 0, or math.huge. */
static size_t opt_capacity(lua_State *L) {
  int whole;
  if (lua_isnoneornil(L, 1)) return 0;
  if (lua_type(L, 1) != LUA_TNUMBER) luaL_typeerror(L, 1, "number of values");
  if (lua_tonumber(L, 1) == HUGE_VAL) return SIZE_MAX;
  lua_Integer n = lua_tointegerx(L, 1, &whole);
  luaL_argcheck(L, whole && n >= 0, 1, "a capacity is a whole number >= 0, or math.huge");
  return (size_t)n;
}

/***
Makes a channel, through which tasks hand each other values.
A task that waits on a channel waits for other tasks only: it does not keep `wire.run` going.
@function wire.channel
@tparam[opt=0] integer capacity how many values it buffers, `math.huge` for any number; 0: each
 send waits for its receiver
@treturn Channel the new channel
@waits never
@raise if the capacity is anything else
*/
static int l_channel(lua_State *L) {
  struct rt *rt = rt_of(L);
  size_t capacity = opt_capacity(L);
  struct channel *ch = lua_newuserdatauv(L, sizeof *ch, 1);
  *ch = (struct channel){.capacity = capacity};
  luaL_setmetatable(L, CHANNEL_NAME);
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  ch->lines = owned_new(L, rt, sizeof *ch->lines, lines_end);
  return 1;
}

void lchannel_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"channel", l_channel}, {NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"send", l_send},     {"recv", l_recv},           {"values", l_values}, {"close", l_close},
      {"__close", l_close}, {"__tostring", l_tostring}, {NULL, NULL}};
  rt_metatable(L, rt, CHANNEL_NAME, methods, channel_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
