/* core.watch: a function that runs in a task of its own when a connection is over, though nobody
 * waits for it.
 * What this is not: a wait; it keeps neither the loop going nor the connection alive. */
#include <string.h>

#include "rt.h"

#define WATCH_NAME "lunewire.watch"

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

void lwatch_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"watch", l_watch}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{NULL, NULL}};
  rt_metatable(L, rt, WATCH_NAME, methods, lwatch_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
