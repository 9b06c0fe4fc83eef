/* Handshakes of accepted connections: they run by themselves, and what comes of them goes to the
 * server.  A connection in its handshake belongs to a struct hello, which is its keeper until then;
 * so nobody who is silent holds up anybody else.
 * What this is not: the protocol (core/link_tls.c), what happens to the connection then (lserve.c).
 */
#include "lhandshake.h"

#include <math.h>
#include <stdlib.h>

#include "../core/link_tls.h"

enum { HANDSHAKES_AT_ONCE = 256 }; /* above it the oldest goes */

static struct hello *hello_of(struct keeper *k) { return (struct hello *)(void *)k; }

/* ---- the list: oldest first ------------------------------------------------------------- */

static void enter(struct rt *rt, struct hello *h) {
  h->prev = rt->last_hello;
  *(h->prev ? &h->prev->next : &rt->first_hello) = h;
  rt->last_hello = h;
  rt->hellos++;
  rt->turn.holds++;
}

static void leave(struct rt *rt, struct hello *h) {
  *(h->prev ? &h->prev->next : &rt->first_hello) = h->next;
  *(h->next ? &h->next->prev : &rt->last_hello) = h->prev;
  h->prev = h->next = NULL;
  rt->hellos--;
  rt->turn.holds--;
}

/* ---- the end of a handshake -------------------------------------------------------------- */

/* The connection is the server's own from here; its Conn waits in line for settle or accept. */
static void finish(struct hello *h) {
  struct lserver *ls = h->ls;
  leave(ls->rt, h);
  timers_disarm(&ls->rt->turn.timers, &h->timer);
  h->c->keeper = &ls->keeper;
  *(ls->last_hello ? &ls->last_hello->next : &ls->first_hello) = h;
  ls->last_hello = h;
  job_queue(&ls->rt->turn, &ls->settle_job);
}

static void note(struct conn *c, int code, const char *detail) {
  c->failure = (struct conn_failure){code, "handshake"};
  if (detail) c->detail = detail;
}

/* A failure's alert goes out before the end. */
static void on_up(struct keeper *k, struct conn *c) {
  int r = conn_handshake(c);
  finish(hello_of(k));
  if (r == 0) return;
  note(c, r, NULL);
  conn_close(c);
}

static void on_ended(struct keeper *k, struct conn *c) {
  finish(hello_of(k));
  c->keeper->ended(c->keeper, c);
}

static void give_up(struct hello *h, int code, const char *detail) {
  note(h->c, code, detail);
  conn_reset(h->c); /* on_ended */
}

static void on_due(struct timer *t) {
  give_up((struct hello *)(void *)((char *)t - offsetof(struct hello, timer)), ERR_TIMEDOUT, NULL);
}

/* ---- beginning --------------------------------------------------------------------------- */

static struct hello *hello_new(struct lserver *ls, struct conn *c, int ref) {
  struct hello *h = calloc(1, sizeof *h);
  if (!h) return NULL;
  h->keeper = (struct keeper){.ended = on_ended, .up = on_up};
  h->timer.fire = on_due;
  h->ls = ls;
  h->c = c;
  h->ref = ref;
  return h;
}

static int secure(struct lserver *ls, struct hello *h) {
  const struct link_tls_opts o = {.context = ls->tls, .server = true};
  double timeout = tls_context_opts(ls->tls)->handshake_timeout;
  struct timers *timers = &ls->rt->turn.timers;
  if (timeout != INFINITY) {
    int r = timers_arm(timers, &h->timer, turn_now(&ls->rt->turn) + timeout);
    if (r) return r;
  }
  int r = conn_secure(h->c, &o);
  if (r) timers_disarm(timers, &h->timer);
  return r;
}

int hello_begin(lua_State *L, struct lserver *ls, int idx) {
  struct rt *rt = ls->rt;
  struct conn *c = check_conn(L, rt, idx);
  lua_pushvalue(L, idx);
  int ref = rt_anchor(L, rt);
  struct hello *h = hello_new(ls, c, ref);
  int r = h ? secure(ls, h) : ERR_NOMEM;
  if (r) {
    free(h);
    rt_release(L, rt, ref);
    conn_reset(c);
    return r;
  }
  c->keeper = &h->keeper;
  if (rt->hellos >= HANDSHAKES_AT_ONCE)
    give_up(rt->first_hello, ERR_TLS, "too many handshakes at once");
  enter(rt, h);
  ls->handlers++; /* of what follows the handshake: hello_pop() */
  return 0;
}

/* ---- what the server does ------------------------------------------------------------------ */

bool hello_pop(lua_State *L, struct lserver *ls) {
  struct hello *h = ls->first_hello;
  if (!h) return false;
  ls->first_hello = h->next;
  if (!ls->first_hello) ls->last_hello = NULL;
  ls->handlers--;
  rt_push_anchored(L, ls->rt, h->ref);
  rt_release(L, ls->rt, h->ref);
  free(h);
  return true;
}

void hello_drain(struct lserver *ls) {
  for (struct hello *next, *h = ls->rt->first_hello; h; h = next) {
    struct conn *c = h->c;
    next = h->next;
    if (h->ls != ls) continue;
    if (conn_advance(c, NULL) != ERR_AGAIN) {
      on_up(&h->keeper, c);
    } else if (link_tls_is_silent(c->link)) {
      note(c, ERR_CLOSED, NULL);
      conn_close(c);
    }
  }
}

void hello_drop_all(lua_State *L, struct lserver *ls) {
  while (hello_pop(L, ls)) {
    const struct lconn *lc = lua_touserdata(L, -1);
    conn_close(lc->c);
    lua_pop(L, 1);
  }
}

bool hello_reset_all(struct lserver *ls) {
  bool any = false;
  for (struct hello *next, *h = ls->rt->first_hello; h; h = next) {
    next = h->next;
    if (h->ls != ls) continue;
    conn_reset(h->c);
    any = true;
  }
  return any;
}

void hello_forget_all(struct lserver *ls) {
  for (struct hello *next, *h = ls->rt->first_hello; h; h = next) {
    next = h->next;
    if (h->ls != ls) continue;
    leave(ls->rt, h);
    timers_disarm(&ls->rt->turn.timers, &h->timer);
    h->c->keeper = NULL;
    free(h);
  }
  for (struct hello *h; (h = ls->first_hello);) {
    ls->first_hello = h->next;
    free(h);
  }
}
