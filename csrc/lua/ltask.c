/* What scripts call of tasks: spawn, join, cancel, status, sleep, now, run, stop, on_error.
 * What this is not: how a task runs and waits (task.c). */
#include <math.h>

#include "task.h"

static struct task *check_task(lua_State *L, int idx) { return luaL_checkudata(L, idx, TASK_NAME); }

/***
Starts a task: a function that runs beside the others.
It is queued, and first runs after the caller waits or ends. A task that nothing refers to lives
until it ends; an error in one that nobody joins goes to `wire.on_error`.
@function wire.spawn
@tparam function fn what the task runs, or something callable
@tparam[opt] any ... its arguments
@treturn Task the task
@waits never
*/
static int l_spawn(lua_State *L) {
  check_callable(L, 1);
  task_spawn(L, rt_of(L), lua_gettop(L) - 1, 0);
  return 1;
}

/* core.guard(conn, fn, ...): spawns a task; unless that ends without an error, whatever it dies of,
 * the connection is reset, so that who waits there hears of it */
static int l_guard(lua_State *L) {
  const struct lconn *lc = to_lconn(L, 1); /* something that only acts as one is not guarded */
  task_spawn_for(L, rt_of(L))->guards = lc ? lc->c : NULL;
  return 1;
}

/* ---- join ------------------------------------------------------------------------- */

/* Results stay with the task: it may be joined again. */
static int push_results(lua_State *L, struct task *t) {
  int n = lua_gettop(t->co);
  luaL_checkstack(L, n + 1, "too many results");
  lua_pushboolean(L, true);
  for (int i = 1; i <= n; i++) {
    lua_pushvalue(t->co, i);
    lua_xmove(t->co, L, 1);
  }
  return n + 1;
}

/* nil, traceback, "EERROR", error value */
static int push_death(lua_State *L, struct task *t) {
  lua_pushnil(L);
  lua_pushvalue(t->co, 1);
  lua_xmove(t->co, L, 1);
  if (lua_isstring(t->co, 2)) {
    lua_pushvalue(t->co, 2);
    lua_xmove(t->co, L, 1);
  } else {
    luaL_tolstring(L, -1, NULL);
  }
  lua_pushstring(L, err_name(ERR_ERROR));
  lua_rotate(L, -3, 2);
  return 4;
}

static int push_end(lua_State *L, struct task *t) {
  if (t->status == TASK_DONE) return push_results(L, t);
  if (t->status == TASK_FAILED) return push_death(L, t);
  return push_failure(L, "join", NULL, "the task was cancelled", ERR_CANCELED);
}

/* All who join are woken together, so nobody here must be the first in line. */
static int join_run(lua_State *L, struct rt *rt, struct op *o) {
  struct task *t = o->on;
  int r = 0;
  while ((op_spent(L, rt, o) || !task_ended(t)) && r == 0) r = op_wait(L, rt, o);
  op_done(rt, o);
  return task_ended(t) ? push_end(L, t) : push_failure(L, "join", NULL, NULL, r);
}

/***
Waits until the task has ended, and hands over its results.
A task may be joined by several tasks, and again after its end.
@function Task:join
@tparam[opt=math.huge] number timeout seconds
@treturn boolean true
@treturn any the results of the task's function, however many
@codes ETIMEDOUT, ECANCELED, EERROR (the message is the traceback, and the error value is a fourth
result)
@waits until the task has ended
@raise in the task itself
*/
static int l_join(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct task *t = check_task(L, 1);
  struct op o = {.run = join_run,
                 .what = "join",
                 .on = t,
                 .q = &t->joiners,
                 .timeout = opt_seconds(L, 2, INFINITY)};
  if (t == rt->running) return luaL_error(L, "join: a task cannot wait for itself");
  return join_run(L, rt, &o);
}

/* ---- cancel, status --------------------------------------------------------------- */

/***
Cancels the task: the call in which it waits raises `wire.CANCELED`.
So does from then on each call that would have to wait; calls that need not wait still work, and
`<close>` variables are closed. A task that has not begun never runs.
@function Task:cancel
@treturn boolean true, or false if it has ended already
@waits never
*/
static int l_cancel(lua_State *L) {
  struct task *t = check_task(L, 1);
  bool alive = !task_ended(t) && !t->rt->closed;
  if (alive) {
    t->canceled = true;
    if (t->started && t != t->rt->running) wait_wake(&t->w.wait, ERR_CANCELED);
  }
  lua_pushboolean(L, alive);
  return 1;
}

/***
What the task is doing.
@function Task:status
@treturn string "ready", "running", "waiting", "done", "failed" or "canceled"
@waits never
*/
static int l_status(lua_State *L) {
  static const char *const names[] = {"ready", "running", "waiting", "done", "failed", "canceled"};
  const struct task *t = check_task(L, 1);
  unsigned s = t->status;
  if (s == TASK_WAITING && t->w.wait.job.queued) s = TASK_READY;
  lua_pushstring(L, names[s]);
  return 1;
}

static int l_tostring(lua_State *L) {
  lua_pushcfunction(L, l_status);
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  lua_pushfstring(L, "Task (%s): %p", lua_tostring(L, -1), lua_topointer(L, 1));
  return 1;
}

const luaL_Reg ltask_methods[] = {{"join", l_join},
                                  {"cancel", l_cancel},
                                  {"status", l_status},
                                  {"__tostring", l_tostring},
                                  {NULL, NULL}};

/* ---- sleep ------------------------------------------------------------------------ */

/* Zero or less gives way once: the same as a task whose turn is over. */
static int sleep_run(lua_State *L, struct rt *rt, struct op *o) {
  int r = 0;
  while (r == 0 && !(o->waited && o->timeout <= 0 && op_self(rt)->why == 0)) r = op_wait(L, rt, o);
  return r == 0 || r == ERR_TIMEDOUT ? 0 : push_failure(L, "sleep", NULL, NULL, r);
}

/***
Lets the others run for a while.
`sleep(0)` lets every ready task run once.
@function wire.sleep
@tparam number s seconds
@waits until then
*/
static int l_sleep(lua_State *L) {
  struct rt *rt = rt_of(L);
  luaL_checknumber(L, 1);
  struct op o = {.run = sleep_run, .what = "sleep", .timeout = opt_seconds(L, 1, 0)};
  o.spent = o.timeout <= 0;
  task_check_canceled(L, rt);
  return sleep_run(L, rt, &o);
}

/***
The time on the monotonic clock, to which all absolute times refer.
@function wire.now
@treturn number seconds since some moment in the past
@waits never
*/
static int l_now(lua_State *L) {
  lua_pushnumber(L, turn_now(&rt_of(L)->turn));
  return 1;
}

/* ---- run -------------------------------------------------------------------------- */

static bool is_stopped(void *arg) {
  const struct rt *rt = arg;
  return rt->stopped;
}

/* wire.run(fn): the loop turns until its task has ended, or wire.stop(). */
static bool main_is_over(void *arg) {
  const struct task *t = arg;
  return t->rt->stopped || task_ended(t);
}

static int main_task_failed(lua_State *L, struct task *t) {
  if (t->status == TASK_CANCELED) return luaL_error(L, "the main task was cancelled");
  lua_pushvalue(t->co, 1);
  lua_xmove(t->co, L, 1);
  return lua_error(L);
}

static int run_main_task(lua_State *L, struct rt *rt) {
  check_callable(L, 1);
  struct task *t = task_spawn(L, rt, lua_gettop(L) - 1, 0);
  t->awaited = true;
  rt_run(L, rt, main_is_over, t);
  t->awaited = task_ended(t);
  if (t->status == TASK_DONE) return push_results(L, t) - 1; /* without the leading true */
  if (task_ended(t)) return main_task_failed(L, t);
  if (rt->stopped) return 0;
  return luaL_error(L, "deadlock: the main task waits for what nothing can bring any more");
}

/***
Runs the loop: tasks, servers and timers.
With a function it runs that as the main task and returns when it has ended. Without, it returns
when nothing is left that could still happen: no server, timer, lookup, closing connection, nor a
task that waits for any of them; idle connections and tasks that wait only for each other do not
keep it. Meanwhile SIGINT and SIGTERM shut every server down gracefully (`drain_timeout`, and up to
a second more for what its end runs), then cancel the tasks that are left; a second signal ends the
process at once. Without servers they cancel the main task.
@function wire.run
@tparam[opt] function fn the main task
@tparam[opt] any ... its arguments
@treturn any the results of the function, however many
@waits until that end, or `wire.stop`
@raise inside a task or another run, the error of the function, or "deadlock: ..." if the function
waits for what nothing can bring any more
@follows asyncio.run of Python
*/
static int l_run(lua_State *L) {
  struct rt *rt = rt_of(L);
  if (rt_in_task(rt) || rt->driver || rt->in_hook)
    return luaL_error(L, "run: the loop is running already; inside a task just wait, or use "
                         "wire.spawn and join");
  refuse_in_finalizer(L, "run");
  rt->stopped = false;
  if (!lua_isnone(L, 1)) return run_main_task(L, rt);
  rt_run(L, rt, is_stopped, rt);
  return 0;
}

/* core.tasks() -> list of all tasks that have not ended, but the caller's */
static int l_tasks(lua_State *L) {
  struct rt *rt = rt_of(L);
  lua_newtable(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->anchors);
  for (lua_pushnil(L); lua_next(L, 2); lua_settop(L, 3)) {
    const struct task *t = luaL_testudata(L, -1, TASK_NAME);
    if (!t || t == rt->running) continue;
    lua_rawseti(L, 1, (lua_Integer)lua_rawlen(L, 1) + 1);
  }
  lua_settop(L, 1);
  return 1;
}

/***
Makes `wire.run` return; tasks stay as they are, and go on when the loop is run again.
@function wire.stop
@waits never
*/
static int l_stop(lua_State *L) {
  rt_of(L)->stopped = true;
  return 0;
}

/***
Sets where the error of a task goes that nobody is joining.
It never ends the process or the loop. Without it the traceback goes to standard error.
@function wire.on_error
@tparam function|nil fn `fn(err, traceback, task)`; nil: standard error again
@waits never
*/
static int l_on_error(lua_State *L) {
  struct rt *rt = rt_of(L);
  luaL_checkany(L, 1);
  if (!lua_isnil(L, 1)) check_callable(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, rt->on_error);
  rt->on_error = LUA_NOREF;
  lua_settop(L, 1);
  if (!lua_isnil(L, 1)) rt->on_error = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static int canceled_tostring(lua_State *L) {
  lua_pushliteral(L, "the task was cancelled");
  return 1;
}

/***
What a cancelled task's waiting calls raise: a value of its own kind, which nothing else equals.
`pcall` can catch it, and `tostring` tells what it is; the next waiting call raises it again.
@value wire.CANCELED
*/
static void set_canceled(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &canceled_key) != LUA_TNIL) { /* of an earlier require */
    lua_setfield(L, -2, "CANCELED");
    return;
  }
  lua_pop(L, 1);
  lua_newuserdatauv(L, 0, 0);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, canceled_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pushliteral(L, "lunewire.CANCELED");
  lua_setfield(L, -2, "__name");
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &canceled_key);
  lua_setfield(L, -2, "CANCELED");
}

void ltask_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"spawn", l_spawn},       {"guard", l_guard}, {"sleep", l_sleep},
      {"now", l_now},           {"run", l_run},     {"stop", l_stop},
      {"on_error", l_on_error}, {"tasks", l_tasks}, {NULL, NULL}};
  rt_setfuncs(L, rt, functions);
  set_canceled(L);
}
