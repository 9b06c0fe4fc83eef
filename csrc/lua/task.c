/* Tasks: spawn, park, wake, cancel, end.  The only lua_resume and the only lua_yieldk.
 *
 * A task's thread runs task_body, whose stack is [message handler, results...]: the user's
 * function runs under lua_pcallk there, so that <close> variables are closed and a
 * traceback is taken while the stack still stands.
 * What this is not: the functions that scripts call (ltask.c). */
#include "task.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../core/udp.h"

/* A yield of ours carries this value; any other comes from the user's own coroutine.yield. */
static const char sentinel;
const char canceled_key; /* registry: wire.CANCELED */

/* ---- coroutines ------------------------------------------------------------------- */

/* The mark stays on the stack of what waits, so that it can be told from what merely yielded. */
bool coroutine_waits(lua_State *co) {
  return lua_gettop(co) > 0 && lua_touserdata(co, -1) == (const void *)&sentinel;
}

int coroutine_resume(lua_State *co, lua_State *from, int nargs, int *nres) {
  if (nargs == 0 && coroutine_waits(co)) lua_pop(co, 1);
  return lua_resume(co, from, nargs, nres);
}

static int coroutine_park(lua_State *L, lua_KContext ctx, lua_KFunction k) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&sentinel);
  return lua_yieldk(L, 1, ctx, k);
}

int coroutine_pass_wait(lua_State *L, struct rt *rt, lua_KFunction k) {
  return coroutine_park(L, (lua_KContext)rt->running, k);
}

static void push_task(lua_State *L, const struct task *t) { rt_push_anchored(L, t->rt, t->ref); }

/* ---- errors ----------------------------------------------------------------------- */

static bool is_canceled(lua_State *L, int idx) {
  idx = lua_absindex(L, idx);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &canceled_key);
  bool same = lua_rawequal(L, idx, -1);
  lua_pop(L, 1);
  return same;
}

static int error_text(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

const char *task_push_error_text(lua_State *L) {
  lua_pushcfunction(L, error_text);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    lua_pushfstring(L, "(a %s whose __tostring failed)", luaL_typename(L, 1));
  }
  return lua_tostring(L, -1);
}

/* [traceback] -> []  Anchored with the task: __close handlers, which run between an error and the
 * end of the call, may wait, and other tasks may fail then. */
static void keep_traceback(lua_State *L, struct task *t) {
  int old = t->traceback;
  t->traceback = rt_anchor(L, t->rt);
  rt_release(L, t->rt, old);
}

/* [-0, +1] or nil */
static void push_traceback(lua_State *L, const struct task *t) {
  if (t->traceback == LUA_NOREF)
    lua_pushnil(L);
  else
    rt_push_anchored(L, t->rt, t->traceback);
}

/* [light userdata task, err] */
static int note_death(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  lua_remove(L, 1);
  luaL_traceback(L, L, task_push_error_text(L), 2);
  keep_traceback(L, t);
  return 0;
}

/* No collection while the stack may be overflowing: a finalizer that finds no room on it fails,
 * and is not called again. */
static int on_message(lua_State *L) {
  struct rt *rt = rt_of(L);
  bool collecting = lua_gc(L, LUA_GCISRUNNING);
  if (!rt->running || is_canceled(L, 1)) return 1;
  if (collecting) lua_gc(L, LUA_GCSTOP);
  lua_pushcfunction(L, note_death);
  lua_pushlightuserdata(L, rt->running);
  lua_pushvalue(L, 1);
  lua_pcall(L, 2, 0, 0);
  if (collecting) lua_gc(L, LUA_GCRESTART);
  lua_settop(L, 1);
  return 1;
}

/* [err, traceback, task] */
static int report_to_stderr(lua_State *L) {
  int what = lua_isnil(L, 2) ? 1 : 2; /* there was no memory for a traceback */
  fprintf(stderr, "lunewire: uncaught error in a task: %s\n", luaL_tolstring(L, what, NULL));
  return 0;
}

void task_push_reporter(lua_State *L, const struct rt *rt) {
  if (rt->on_error == LUA_NOREF)
    lua_pushcfunction(L, report_to_stderr);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, rt->on_error);
}

void task_push_own_conn(lua_State *L, const struct task *t) {
  push_task(L, t);
  lua_getiuservalue(L, -1, TASK_OWN);
  lua_remove(L, -2);
}

static void push_reporter(lua_State *L, const struct task *t) {
  if (!t->serves || !serve_push_on_error(L, t->serves)) task_push_reporter(L, t->rt);
}

/* [-0, +1] The third argument of what its error goes to: the connection, if the server has a
 * function for that, otherwise the task. */
static void push_subject(lua_State *L, const struct task *t) {
  if (t->own && serve_push_on_error(L, t->serves)) {
    lua_pop(L, 1);
    task_push_own_conn(L, t);
  } else {
    push_task(L, t);
  }
}

/* ---- the body --------------------------------------------------------------------- */

/* There is nobody left to tell but the terminal. */
static void complain(const char *error) {
  fprintf(stderr, "lunewire: error in the on_error function: %s\n", error);
}

static int after_report(lua_State *L, int status, lua_KContext ctx) {
  (void)ctx;
  if (status != LUA_OK && status != LUA_YIELD) {
    complain(lua_isstring(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1));
    lua_pop(L, 1);
  }
  return 2; /* err, traceback */
}

/* The stack's last two are err and traceback; they are also the task's results. */
static int body_failed(lua_State *L, struct task *t) {
  push_traceback(L, t);
  if (lua_isnil(L, -1)) { /* died without the handler: out of memory */
    lua_pop(L, 1);
    luaL_tolstring(L, -1, NULL);
  }
  t->outcome = TASK_FAILED;
  if (t->joiners.first || t->awaited) return 2;
  if (t->reporting) {
    complain(lua_tostring(L, -1));
    return 2;
  }
  t->reporting = true;
  push_reporter(L, t);
  lua_pushvalue(L, -3);
  lua_pushvalue(L, -3);
  push_subject(L, t);
  return after_report(L, lua_pcallk(L, 3, 0, 0, 0, after_report), 0);
}

/* However a task ends, the connection that it served ends with it. */
static void close_own_conn(const struct task *t) {
  if (t->own) conn_close(t->own);
}

static int body_end(lua_State *L, int status, lua_KContext ctx) {
  struct task *t = (struct task *)ctx;
  luaL_checkstack(L, LUA_MINSTACK, "too many results");
  close_own_conn(t);
  if (status == LUA_OK || status == LUA_YIELD) {
    t->outcome = TASK_DONE;
    return lua_gettop(L) - 1;
  }
  if (t->canceled && is_canceled(L, -1)) {
    t->outcome = TASK_CANCELED;
    return 0;
  }
  return body_failed(L, t);
}

/* [the task, function, arguments...] */
static int task_body(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, t->rt->message_handler);
  lua_replace(L, 1);
  int nargs = lua_gettop(L) - 2;
  return body_end(L, lua_pcallk(L, nargs, LUA_MULTRET, 1, (lua_KContext)t, body_end),
                  (lua_KContext)t);
}

/* ---- the driver ------------------------------------------------------------------- */

static void task_end(struct task *t) {
  struct rt *rt = t->rt;
  if (t->own) t->own->user = NULL;
  if (t->serves) serve_task_ended(t->serves);
  if (t->works) udp_leave(t->works);
  if (t->guards && t->outcome != TASK_DONE) conn_reset(t->guards);
  t->status = t->outcome;
  waitq_wake_all(&t->joiners, 0);
  wait_fini(&t->w.wait);
  rt->tasks--;
  rt_release(rt->driver, rt, t->traceback);
  rt_release(rt->driver, rt, t->ref);
}

/* It never ran; its connection is closed as if it had. */
static void task_end_unstarted(struct task *t) {
  close_own_conn(t);
  lua_settop(t->co, 0);
  t->outcome = TASK_CANCELED;
  task_end(t);
}

/* Protected: the report of a task whose coroutine is dead runs in a task of its own. */
static int spawn_report(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  push_reporter(L, t);
  lua_pushvalue(t->co, 1);
  lua_xmove(t->co, L, 1);
  push_traceback(L, t);
  push_subject(L, t);
  task_spawn(L, t->rt, 3, 0)->reporting = true;
  return 0;
}

static const char STRAY_YIELD[] =
    "coroutine.yield called in a task, outside any coroutine of its own; to let other tasks run "
    "call wire.sleep(0)";

/* Protected: the traceback of a task that yielded to nobody, and its error on its stack. */
static int note_stray(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  luaL_traceback(L, t->co, STRAY_YIELD, 0);
  keep_traceback(L, t);
  lua_resetthread(t->co);
  lua_settop(t->co, 0);
  lua_pushstring(L, STRAY_YIELD);
  lua_xmove(L, t->co, 1);
  return 0;
}

/* The task ended outside its body: Lua's own yield, which nobody could ever resume, or no
 * memory for the body itself. */
static void task_broke(struct task *t, bool stray) {
  if (stray) rt_protect(t->rt->driver, note_stray, t, 0);
  close_own_conn(t);
  if (!stray) lua_resetthread(t->co);
  t->outcome = TASK_FAILED;
  if (t->reporting)
    complain(STRAY_YIELD);
  else if (!t->joiners.first && !t->awaited)
    rt_protect(t->rt->driver, spawn_report, t, 0);
}

static void task_run(struct job *j) {
  struct task *t = (struct task *)(void *)j;
  struct rt *rt = t->rt;
  wait_resume(&t->w.wait);
  if (!t->started && t->canceled) {
    task_end_unstarted(t);
    return;
  }
  int nargs = t->started ? 0 : lua_gettop(t->co) - 1, nres;
  t->started = true;
  t->status = TASK_RUNNING;
  t->calls = 0;
  rt->running = t;
  rt->current = t->co;
  int r = coroutine_resume(t->co, rt->driver, nargs, &nres);
  rt->running = NULL;
  rt->current = NULL;
  if (r == LUA_YIELD && coroutine_waits(t->co)) {
    t->status = TASK_WAITING;
    return;
  }
  if (r != LUA_OK) task_broke(t, r == LUA_YIELD);
  task_end(t);
}

/* ---- spawn ------------------------------------------------------------------------ */

/* No finalizer: a task is anchored until it ends, and then nothing refers to its struct any more.
 * When the state is closed, the memory of all is there until the last finalizer has run. */
static struct task *task_new(lua_State *L, struct rt *rt) {
  struct task *t = lua_newuserdatauv(L, sizeof *t, TASK_VALUES);
  memset(t, 0, sizeof *t);
  t->rt = rt;
  t->ref = t->traceback = LUA_NOREF;
  wait_init(&t->w.wait, &rt->turn, task_run);
  rt_set_metatable(L, rt->task_metatable);
  t->co = lua_newthread(L);
  lua_setiuservalue(L, -2, TASK_THREAD);
  return t;
}

/* [task]  It ends with the Conn at idx, which it keeps alive. */
static void task_own(lua_State *L, struct task *t, int idx) {
  const struct lconn *lc = lua_touserdata(L, idx);
  lua_pushvalue(L, idx);
  lua_setiuservalue(L, -2, TASK_OWN);
  t->own = lc->c;
}

struct task *task_spawn(lua_State *L, struct rt *rt, int nargs, int closes) {
  int fn = lua_gettop(L) - nargs;
  if (rt->closed) luaL_error(L, "cannot start a task: the Lua state is closing");
  luaL_checkstack(L, nargs + LUA_MINSTACK, "too many arguments for a task");
  struct task *t = task_new(L, rt);
  if (!lua_checkstack(t->co, nargs + 10)) luaL_error(L, "too many arguments for a task");
  lua_pushcfunction(t->co, task_body);
  lua_pushlightuserdata(L, t);
  for (int i = 0; i <= nargs; i++) lua_pushvalue(L, fn + i);
  lua_xmove(L, t->co, nargs + 2);
  if (closes) task_own(L, t, closes);
  lua_replace(L, fn);
  lua_settop(L, fn);
  lua_pushvalue(L, fn);
  t->ref = rt_anchor(L, rt);
  if (closes) t->own->user = t;
  rt->tasks++;
  job_queue(&rt->turn, &t->w.wait.job);
  return t;
}

struct task *task_spawn_for(lua_State *L, struct rt *rt) {
  struct task *t = task_spawn(L, rt, lua_gettop(L) - 2, 0);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, 2, TASK_OWN);
  return t;
}

/* The metatable and the message handler. */
void task_register(lua_State *L, struct rt *rt) {
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, on_message, 1);
  rt->message_handler = luaL_ref(L, LUA_REGISTRYINDEX);
  rt_metatable(L, rt, TASK_NAME, ltask_methods, NULL);
  rt->task_metatable = luaL_ref(L, LUA_REGISTRYINDEX);
}
