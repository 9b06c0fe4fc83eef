/* core.watch: a function that runs in a task of its own when a connection is over, though nobody
 * waits for it.  core.tie: two connections that end together.
 * What this is not: a wait; it keeps neither the loop going nor the connection alive. */
#include <string.h>

#include "rt.h"

#define WATCH_NAME "lunewire.watch"
#define TIE_NAME   "lunewire.tie"

/* Userdata: user value 1 the function.  Anchored until its job has run. */
struct lwatch {
  struct attachment end; /* first */
  struct job job;
  struct rt *rt;
  int ref;
};

static struct lwatch *watch_of_job(struct job *j) {
  return (struct lwatch *)(void *)((char *)j - offsetof(struct lwatch, job));
}

static void on_ended(struct attachment *a) {
  struct lwatch *w = (struct lwatch *)(void *)a;
  job_queue(&w->rt->turn, &w->job);
}

/* Protected: [light userdata runtime, function] */
static int watch_fire(lua_State *L) {
  task_spawn(L, lua_touserdata(L, 1), 0, 0);
  return 0;
}

static void watch_run(struct job *j) {
  struct lwatch *w = watch_of_job(j);
  struct rt *rt = w->rt;
  lua_State *L = rt->driver;
  rt_push_anchored(L, rt, w->ref);
  lua_getiuservalue(L, -1, 1);
  lua_replace(L, -2);
  rt_release(L, rt, w->ref);
  w->ref = LUA_NOREF;
  rt_protect(L, watch_fire, rt, 1);
}

static int lwatch_gc(lua_State *L) {
  struct lwatch *w = lua_touserdata(L, 1);
  if (!w->rt || w->rt->closed) return 0;
  conn_detach(&w->end);
  job_remove(&w->rt->turn, &w->job);
  return 0;
}

/* core.watch(conn, fn): once */
static int l_watch(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  check_callable(L, 2);
  struct lwatch *w = lua_newuserdatauv(L, sizeof *w, 1);
  memset(w, 0, sizeof *w);
  w->ref = LUA_NOREF;
  w->rt = rt;
  w->end.ended = on_ended;
  w->end.early = true;
  w->job.run = watch_run;
  luaL_setmetatable(L, WATCH_NAME);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, 1);
  w->ref = rt_anchor(L, rt); /* which may collect, but the connection is an argument */
  if (conn_is_open(c))
    conn_attach(c, &w->end);
  else
    job_queue(&rt->turn, &w->job);
  conn_tell_end(c);
  return 0;
}

/* ---- ties ------------------------------------------------------------------------- */

/* Two open connections of which neither outlives the other.  Anchored until it is cut and its job
 * has run; it keeps neither of them alive. */
struct ltie {
  struct attachment ends[2]; /* first */
  struct conn *conns[2];
  struct job job;
  struct rt *rt;
  int ref;
};

static void tie_cut(struct ltie *tie) {
  conn_detach(&tie->ends[0]);
  conn_detach(&tie->ends[1]);
  if (tie->ref != LUA_NOREF) job_queue(&tie->rt->turn, &tie->job);
}

static void tie_run(struct job *j) {
  struct ltie *tie = (struct ltie *)(void *)((char *)j - offsetof(struct ltie, job));
  int ref = tie->ref;
  tie->ref = LUA_NOREF;
  rt_release(tie->rt->driver, tie->rt, ref);
}

/* What was passed on to it before leaves first, as far as the system takes it. */
static void end_other(struct ltie *tie, struct conn *other) {
  tie_cut(tie);
  conn_flush_now(other);
  conn_reset(other);
}

static void on_first_ended(struct attachment *a) {
  struct ltie *tie = (struct ltie *)(void *)a;
  end_other(tie, tie->conns[1]);
}

static void on_second_ended(struct attachment *a) {
  struct ltie *tie = (struct ltie *)(void *)((char *)a - offsetof(struct ltie, ends[1]));
  end_other(tie, tie->conns[0]);
}

static int l_cut(lua_State *L) {
  tie_cut(luaL_checkudata(L, 1, TIE_NAME));
  return 0;
}

static void tie_fasten(struct ltie *tie, int i, struct conn *c,
                       void (*ended)(struct attachment *)) {
  tie->conns[i] = c;
  tie->ends[i].ended = ended;
  conn_attach(c, &tie->ends[i]);
}

/* core.tie(conn, conn) -> a tie: until it is cut, when one is no longer open the other is reset.
 * What only acts as a connection, or is closed, is not tied. */
static int l_tie(lua_State *L) {
  const struct lconn *a = to_lconn(L, 1), *b = to_lconn(L, 2);
  struct ltie *tie = lua_newuserdatauv(L, sizeof *tie, 0);
  memset(tie, 0, sizeof *tie);
  tie->rt = rt_of(L);
  tie->ref = LUA_NOREF;
  tie->job.run = tie_run;
  luaL_setmetatable(L, TIE_NAME);
  if (!a || !b) return 1;
  lua_pushvalue(L, -1);
  tie->ref = rt_anchor(L, tie->rt); /* which may collect, but both are arguments */
  if (conn_is_open(a->c) && conn_is_open(b->c)) {
    tie_fasten(tie, 0, a->c, on_first_ended);
    tie_fasten(tie, 1, b->c, on_second_ended);
  } else {
    tie_cut(tie);
  }
  return 1;
}

void lwatch_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"watch", l_watch}, {"tie", l_tie}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{NULL, NULL}};
  static const luaL_Reg tie_methods[] = {{"cut", l_cut}, {NULL, NULL}};
  rt_metatable(L, rt, WATCH_NAME, methods, lwatch_gc);
  rt_metatable(L, rt, TIE_NAME, tie_methods, NULL);
  lua_pop(L, 2);
  rt_setfuncs(L, rt, functions);
}
