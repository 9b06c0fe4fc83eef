/* Tasks: spawn, park, wake, cancel, end.  The only lua_resume and the only lua_yieldk.
 *
 * A task's thread runs task_body, whose stack is [closes, message handler, results...]: the
 * user's function runs under lua_pcallk there, so that <close> variables are closed and a
 * traceback is taken while the stack still stands.
 * What this is not: the functions that scripts call (ltask.c). */
#include "task.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A yield of ours carries this value; any other comes from the user's own coroutine.yield. */
static const char sentinel;
static const char handler_key; /* registry: the message handler, made once */
const char canceled_key;       /* registry: wire.CANCELED */

/* ---- coroutines ------------------------------------------------------------------- */

int coroutine_resume(lua_State *co, lua_State *from, int nargs, int *nres) {
  return lua_resume(co, from, nargs, nres);
}

bool coroutine_parked(lua_State *co, int nres) {
  if (nres != 1 || lua_touserdata(co, -1) != (const void *)&sentinel) return false;
  lua_pop(co, 1);
  return true;
}

int coroutine_park(lua_State *L, lua_KContext ctx, lua_KFunction k) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)&sentinel);
  return lua_yieldk(L, 1, ctx, k);
}

/* ---- anchors ---------------------------------------------------------------------- */

int rt_anchor(lua_State *L, struct rt *rt) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->anchors);
  lua_insert(L, -2);
  int ref = luaL_ref(L, -2);
  lua_pop(L, 1);
  return ref;
}

void rt_release(lua_State *L, struct rt *rt, int ref) {
  if (ref == LUA_NOREF) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->anchors);
  luaL_unref(L, -1, ref);
  lua_pop(L, 1);
}

static void push_task(lua_State *L, const struct task *t) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, t->rt->anchors);
  lua_rawgeti(L, -1, t->ref);
  lua_remove(L, -2);
}

/* ---- errors ----------------------------------------------------------------------- */

static bool is_canceled(lua_State *L, int idx) {
  idx = lua_absindex(L, idx);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &canceled_key);
  bool same = lua_rawequal(L, idx, -1);
  lua_pop(L, 1);
  return same;
}

/* The traceback goes to the task's user value: __close handlers, which run between this and
 * the end of the call, may wait, and other tasks may fail meanwhile. */
static int on_message(lua_State *L) {
  struct rt *rt = rt_of(L);
  if (!rt->running || is_canceled(L, 1)) return 1;
  push_task(L, rt->running);
  const char *text = luaL_tolstring(L, 1, NULL);
  luaL_traceback(L, L, text, 1);
  lua_setiuservalue(L, -3, 2);
  lua_settop(L, 1);
  return 1;
}

/* [err, traceback, task] */
static int report_to_stderr(lua_State *L) {
  fprintf(stderr, "lunewire: uncaught error in a task: %s\n", luaL_tolstring(L, 2, NULL));
  return 0;
}

static void push_reporter(lua_State *L, const struct rt *rt) {
  if (rt->on_error == LUA_NOREF)
    lua_pushcfunction(L, report_to_stderr);
  else
    lua_rawgeti(L, LUA_REGISTRYINDEX, rt->on_error);
}

/* ---- the body --------------------------------------------------------------------- */

static int after_report(lua_State *L, int status, lua_KContext ctx) {
  (void)ctx;
  if (status != LUA_OK && status != LUA_YIELD) {
    fprintf(stderr, "lunewire: error in the on_error function: %s\n",
            luaL_tolstring(L, -1, NULL));
    lua_pop(L, 2);
  }
  return 2; /* err, traceback */
}

/* The stack's last two are err and traceback; they are also the task's results. */
static int body_failed(lua_State *L, struct task *t) {
  push_task(L, t);
  if (lua_getiuservalue(L, -1, 2) == LUA_TNIL) { /* died without the handler: out of memory */
    lua_pop(L, 1);
    luaL_tolstring(L, -2, NULL);
  }
  lua_remove(L, -2);
  t->status = TASK_FAILED;
  if (t->joiners.first || t->awaited) return 2;
  push_reporter(L, t->rt);
  lua_pushvalue(L, -3);
  lua_pushvalue(L, -3);
  push_task(L, t);
  return after_report(L, lua_pcallk(L, 3, 0, 0, 0, after_report), 0);
}

static int body_end(lua_State *L, int status, lua_KContext ctx) {
  struct task *t = (struct task *)ctx;
  struct lconn *closes = lua_touserdata(L, 1);
  if (closes) conn_close(closes->c);
  if (status == LUA_OK || status == LUA_YIELD) {
    t->status = TASK_DONE;
    return lua_gettop(L) - 2;
  }
  if (t->canceled && is_canceled(L, -1)) {
    t->status = TASK_CANCELED;
    return 0;
  }
  return body_failed(L, t);
}

/* [closes or nil, the task, function, arguments...] */
static int task_body(lua_State *L) {
  struct task *t = lua_touserdata(L, 2);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &handler_key);
  lua_replace(L, 2);
  int nargs = lua_gettop(L) - 3;
  return body_end(L, lua_pcallk(L, nargs, LUA_MULTRET, 2, (lua_KContext)t, body_end),
                  (lua_KContext)t);
}

/* ---- the driver ------------------------------------------------------------------- */

static void task_end(struct task *t) {
  struct rt *rt = t->rt;
  waitq_wake_all(&t->joiners, 0);
  wait_fini(&t->w.wait);
  rt->tasks--;
  rt_release(rt->driver, rt, t->ref);
}

/* It never ran: its connection is closed as if it had. */
static void task_end_unstarted(struct task *t) {
  struct lconn *closes = lua_touserdata(t->co, 2);
  if (closes) conn_close(closes->c);
  lua_settop(t->co, 0);
  t->status = TASK_CANCELED;
  task_end(t);
}

static int report_stray_yield(lua_State *L) {
  return luaL_error(L, "coroutine.yield called in a task, outside any coroutine of its own; "
                       "to let other tasks run call wire.sleep(0)");
}

static int spawn_stray_report(lua_State *L) {
  struct rt *rt = lua_touserdata(L, 1);
  lua_pushcfunction(L, report_stray_yield);
  task_spawn(L, rt, 0, 0);
  return 0;
}

/* Lua's own yield from a task's body: nobody could ever resume it. */
static void end_stray(struct task *t) {
  lua_resetthread(t->co);
  lua_settop(t->co, 0);
  lua_pushliteral(t->co, "coroutine.yield called in a task");
  t->status = TASK_FAILED;
  if (!t->joiners.first && !t->awaited) rt_protect(t->rt, spawn_stray_report, t->rt);
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
  if (r == LUA_YIELD && coroutine_parked(t->co, nres)) {
    t->status = TASK_WAITING;
    return;
  }
  if (r == LUA_YIELD) {
    end_stray(t);
  } else if (r != LUA_OK) { /* body itself ran out of memory */
    lua_resetthread(t->co);
    t->status = TASK_FAILED;
  }
  task_end(t);
}

static void rt_step(lua_State *L, struct rt *rt, bool may_sleep) {
  rt->driver = L;
  turn_step(&rt->turn, may_sleep);
  rt->driver = NULL;
}

void rt_drive_until(lua_State *L, struct rt *rt, bool (*done)(void *), void *arg) {
  while (!done(arg) && turn_alive(&rt->turn)) rt_step(L, rt, true);
}

void rt_protect(struct rt *rt, lua_CFunction f, void *p) {
  lua_State *L = rt->driver;
  lua_pushcfunction(L, f);
  lua_pushlightuserdata(L, p);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return;
  fprintf(stderr, "lunewire: %s\n", lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* ---- spawn ------------------------------------------------------------------------ */

static int task_gc(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  waitq_wake_all(&t->joiners, ERR_CLOSED);
  wait_fini(&t->w.wait);
  return 0;
}

static struct task *task_new(lua_State *L, struct rt *rt) {
  struct task *t = lua_newuserdatauv(L, sizeof *t, 2);
  memset(t, 0, sizeof *t);
  t->rt = rt;
  t->ref = LUA_NOREF;
  wait_init(&t->w.wait, &rt->turn, task_run);
  luaL_setmetatable(L, TASK_NAME);
  t->co = lua_newthread(L);
  lua_setiuservalue(L, -2, 1);
  return t;
}

struct task *task_spawn(lua_State *L, struct rt *rt, int nargs, int closes) {
  int fn = lua_gettop(L) - nargs;
  if (rt->closed) luaL_error(L, "cannot start a task: the Lua state is closing");
  struct task *t = task_new(L, rt);
  if (!lua_checkstack(t->co, nargs + 10)) luaL_error(L, "too many arguments for a task");
  lua_pushcfunction(t->co, task_body);
  if (closes)
    lua_pushvalue(L, closes);
  else
    lua_pushnil(L);
  lua_pushlightuserdata(L, t);
  for (int i = 0; i <= nargs; i++) lua_pushvalue(L, fn + i);
  lua_xmove(L, t->co, nargs + 3);
  lua_replace(L, fn);
  lua_settop(L, fn);
  lua_pushvalue(L, fn);
  t->ref = rt_anchor(L, rt);
  rt->tasks++;
  job_queue(&rt->turn, &t->w.wait.job);
  return t;
}

/* ---- waiting ---------------------------------------------------------------------- */

struct wait *op_self(struct rt *rt) {
  return rt->running ? &rt->running->w.wait : &rt->main_waiter.wait;
}

struct op *op_resumed(struct rt *rt) { return &rt->running->w.op; }

static bool may_wait(lua_State *L, const struct rt *rt) {
  if (rt->running) return L == rt->current && lua_isyieldable(L);
  return !rt->driver && !rt->closed;
}

int op_turn(lua_State *L, struct rt *rt, struct op *o) {
  uint16_t *calls = rt->running ? &rt->running->calls : &rt->main_calls;
  if (++*calls > TURN_BUDGET && may_wait(L, rt)) {
    *calls = 0;
    o->spent = true;
    return ERR_AGAIN;
  }
  return o->q && !waitq_open(o->q, op_self(rt)) ? ERR_AGAIN : 0;
}

/* The innermost C function above the call that cannot be suspended. */
static const char *who_is_in_the_way(lua_State *L, lua_Debug *ar) {
  for (int level = 1; lua_getstack(L, level, ar); level++) {
    lua_getinfo(L, "Sn", ar);
    if (strcmp(ar->what, "C") == 0 && ar->name && strcmp(ar->name, "pcall") != 0 &&
        strcmp(ar->name, "xpcall") != 0)
      return ar->name;
    if (ar->namewhat && strcmp(ar->namewhat, "metamethod") == 0) return ar->name;
  }
  return "a C function";
}

static int raise_cannot_wait(lua_State *L, const struct rt *rt, const char *what) {
  lua_Debug ar;
  if (rt->closed) return luaL_error(L, "%s: cannot wait: the Lua state is closing", what);
  if (!rt->running)
    return luaL_error(L, "%s: cannot wait here: the loop is running this (a finalizer or a hook); "
                         "start a task with wire.spawn", what);
  if (L != rt->current)
    return luaL_error(L, "%s: cannot wait inside a plain coroutine; make it with wire.co.wrap or "
                         "wire.co.create instead of coroutine.wrap or coroutine.create", what);
  return luaL_error(L, "%s: cannot wait inside '%s', which Lua cannot suspend; receive before the "
                       "call or after it", what, who_is_in_the_way(L, &ar));
}

static int raise_canceled(lua_State *L, struct rt *rt, const struct op *o) {
  wait_leave(op_self(rt));
  if (o && o->orphan) *o->orphan = true;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &canceled_key);
  return lua_error(L);
}

void task_check_canceled(lua_State *L, struct rt *rt) {
  if (rt->running && rt->running->canceled) raise_canceled(L, rt, NULL);
}

/* The earlier of the call's own time and the connection's. */
static double op_due(struct rt *rt, struct op *o) {
  if (!o->due) o->due = isinf(o->timeout) ? INFINITY : turn_now(&rt->turn) + o->timeout;
  return o->deadline && *o->deadline < o->due ? *o->deadline : o->due;
}

/* Outside any task the caller itself turns the loop until it is woken. */
static int main_wait(lua_State *L, struct rt *rt, const struct op *o, struct wait *w) {
  rt->main_woken = false;
  rt->main_calls = 0;
  while (!rt->main_woken && turn_alive(&rt->turn)) rt_step(L, rt, true);
  if (rt->main_woken) return 0;
  wait_resume(w);
  wait_leave(w);
  return luaL_error(L, "deadlock: %s waits for what nothing can bring any more (no server, timer "
                       "or connection to the outside is left)", o->what);
}

static int op_park(lua_State *L, struct rt *rt, struct op *o, double due, lua_KFunction k) {
  struct wait *w = op_self(rt);
  int r = wait_park(w, o->q, due, o->outside);
  if (r) return r;
  w->call_due = o->due ? o->due : INFINITY;
  if (o->spent) wait_wake(w, 0);
  o->spent = false;
  o->waited = true;
  if (!rt->running) return main_wait(L, rt, o, w);
  if (o != &rt->running->w.op) rt->running->w.op = *o;
  return coroutine_park(L, (lua_KContext)rt, k);
}

int op_wait(lua_State *L, struct rt *rt, struct op *o, lua_KFunction k) {
  struct wait *w = op_self(rt);
  double due = INFINITY;
  if (o->waited && w->why) return w->why == ERR_CANCELED ? raise_canceled(L, rt, o) : w->why;
  if (!o->spent) {
    due = op_due(rt, o);
    if (!isinf(due) && due <= turn_now(&rt->turn)) return ERR_TIMEDOUT;
    if (rt->running && rt->running->canceled) return raise_canceled(L, rt, o);
  }
  if (!may_wait(L, rt)) return raise_cannot_wait(L, rt, o->what);
  return op_park(L, rt, o, due, k);
}

void op_done(struct rt *rt, struct op *o) {
  if (o->waited) wait_leave(op_self(rt));
}

static void main_wake(struct job *j) {
  struct waiter *w = (struct waiter *)(void *)j;
  struct rt *rt = (struct rt *)(void *)((char *)w - offsetof(struct rt, main_waiter));
  wait_resume(&w->wait);
  rt->main_woken = true;
}

/* ---- the runtime ------------------------------------------------------------------ */

static const char rt_key;

/* lua_close runs no task: what is closing is finished, everything else goes. */
static int rt_gc(lua_State *L) {
  struct rt *rt = lua_touserdata(L, 1);
  const double drain = 5;
  rt->closed = true;
  wait_fini(&rt->main_waiter.wait);
  turn_fini(&rt->turn, drain);
  return 0;
}

static struct rt *rt_new(lua_State *L) {
  struct world *world;
  struct rt *rt = lua_newuserdatauv(L, sizeof *rt, 0);
  memset(rt, 0, sizeof *rt);
  int r = world_uv_open(&world);
  if (r == 0 && (r = turn_init(&rt->turn, world)) != 0) world->ops->close(world);
  if (r) luaL_error(L, "cannot open an event loop: %s", err_text(r));
  wait_init(&rt->main_waiter.wait, &rt->turn, main_wake);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, rt_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  rt->on_error = LUA_NOREF;
  lua_newtable(L);
  rt->anchors = luaL_ref(L, LUA_REGISTRYINDEX);
  return rt;
}

struct rt *task_open(lua_State *L) {
  struct rt *rt;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &rt_key) != LUA_TNIL) {
    rt = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return rt;
  }
  rt = rt_new(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &rt_key);
  lua_pop(L, 1);
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, on_message, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &handler_key);
  rt_metatable(L, rt, TASK_NAME, ltask_methods, task_gc);
  lua_pop(L, 1);
  return rt;
}
