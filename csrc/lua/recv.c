/* How a receiving call goes: it waits for a message, hands it over, or says why there is none.
 * What this is not: what scripts call (lrecv.c), where bytes come from (conn_take), where
 * messages end (framing.c). */
#include <math.h>

#include "rt.h"

struct op recv_op(struct conn *c, const char *what, const struct framing *f) {
  return (struct op){.run = recv_one,
                     .what = what,
                     .f = *f,
                     .q = &c->readers,
                     .deadline = &c->recv_due,
                     .timeout = c->timeout,
                     .on = c,
                     .outside = c->link && c->link->outside};
}

static inline bool is_overdue(struct rt *rt, const struct conn *c) {
  return c->recv_due != INFINITY && c->recv_due <= turn_now(&rt->turn);
}

/* Between two messages of a connection whose server shuts down?  A reply is still awaited. */
static bool is_drained(const struct op *o) {
  const struct conn *c = o->on;
  return c->draining && !o->abandon && !conn_has_begun(c);
}

enum { SKIP_STEPS = 16 }; /* pieces of an over-long line thrown away in one go */

/* Replies come in the order of their requests: one that was never taken stands before ours. */
static bool is_reply_misplaced(const struct op *o) {
  const struct conn *c = o->on;
  return o->abandon && conn_is_open(c) && o->ticket != (uint32_t)(c->answered + 1);
}

/* Skipping can go on for as long as the peer sends: it gives way now and then. */
static int recv_try(lua_State *L, struct rt *rt, struct op *o, struct message *m) {
  struct conn *c = o->on;
  int r = 0;
  if (is_reply_misplaced(o)) return ERR_PROTO;
  for (int step = 0;; step++) {
    bool skips = recv_has_terminator(&o->f) && c->skipping == o->f.kind;
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
  if (o->f.max == SIZE_MAX) o->f.max = c->limits->all;
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
  if (c->draining || o->timeout <= 0 || is_overdue(rt, c)) conn_try_link(c);
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

/* What comes beside the data is copied first: a push may run a finalizer, and bytes move. */
static int push_with_beside(lua_State *L, const struct framing *f, const struct message *m) {
  struct beside b;
  beside_copy(&b, f, m);
  lua_pushlstring(L, m->base + m->cut.at, m->cut.len);
  return 1 + beside_push(L, &b);
}

static inline int push_message(lua_State *L, const struct framing *f, const struct message *m) {
  if (framing_brings_more(f)) return push_with_beside(L, f, m);
  lua_pushlstring(L, m->base + m->cut.at, m->cut.len);
  return 1;
}

int recv_push(lua_State *L, struct rt *rt, struct conn *c, const struct framing *f,
              const struct message *m, bool peek) {
  uint64_t before = c->consumed;
  int n = push_message(L, f, m);
  if (c->consumed != before) {
    lua_pop(L, n);
    return 0;
  }
  if (!peek) conn_took(c, &m->cut);
  op_charge(rt, 0, m->cut.take);
  return n;
}

int recv_at_once(lua_State *L, struct rt *rt, struct conn *c, const struct framing *f) {
  struct message m;
  if (conn_is_dry(c) || c->skipping || !op_at_once(rt, &c->readers) || is_overdue(rt, c)) return 0;
  conn_begin(c, f);
  if (conn_find(c, f, &m) != 0) return 0;
  ++*op_calls(rt);
  return recv_push(L, rt, c, f, &m, false);
}

int recv_push_partial(lua_State *L, struct conn *c) {
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
  return n + (partial ? recv_push_partial(L, c) : 0);
}

int recv_one(lua_State *L, struct rt *rt, struct op *o) {
  struct message m;
  for (;;) {
    int r = recv_wait(L, rt, o, &m);
    if (r) return recv_failed(L, o, r);
    int n = recv_push(L, rt, o->on, &o->f, &m, o->peek);
    if (n) return n;
  }
}
