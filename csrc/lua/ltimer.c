/* after and every: a function run in a task of its own when its time has come.
 * What this is not: deadlines of waits (core/turn.c). */
#include <math.h>
#include <string.h>

#include "rt.h"

#define TIMER_NAME "lunewire.Timer"

/* Userdata: user value 1 the function, 2 a list of its arguments, 3 the task of the last run.
 * Anchored while armed. */
struct ltimer {
  struct timer timer; /* first */
  struct job job;
  struct rt *rt;
  double interval; /* of every; 0: once */
  int ref, nargs;
  bool active;
};

static struct ltimer *timer_of_job(struct job *j) {
  return (struct ltimer *)(void *)((char *)j - offsetof(struct ltimer, job));
}

static void on_due(struct timer *t) {
  struct ltimer *lt = (struct ltimer *)(void *)t;
  job_queue(&lt->rt->turn, &lt->job);
}

static void timer_end(lua_State *L, struct ltimer *lt) {
  timers_disarm(&lt->rt->turn.timers, &lt->timer);
  if (!lt->active) return;
  lt->active = false;
  job_remove(&lt->rt->turn, &lt->job);
  lt->rt->turn.holds--;
  lt->rt->timers--;
  rt_release(L, lt->rt, lt->ref);
}

/* [timer] Is the run before this one over? */
static bool last_run_over(lua_State *L, int idx) {
  lua_getiuservalue(L, idx, 3);
  const struct task *t = lua_touserdata(L, -1);
  bool over = !t || task_ended(t);
  lua_pop(L, 1);
  return over;
}

/* [timer] Spawns a run and remembers its task. */
static void spawn_run(lua_State *L, struct ltimer *lt, int idx) {
  luaL_checkstack(L, lt->nargs + 4, "too many arguments");
  lua_getiuservalue(L, idx, 2);
  int list = lua_gettop(L);
  lua_getiuservalue(L, idx, 1);
  for (int i = 1; i <= lt->nargs; i++) lua_rawgeti(L, list, i);
  task_spawn(L, lt->rt, lt->nargs, 0);
  lua_setiuservalue(L, idx, 3);
  lua_pop(L, 1);
}

/* Without memory for the next beat there is none. */
static void rearm(lua_State *L, struct ltimer *lt) {
  double now = turn_now(&lt->rt->turn), next = lt->timer.due + lt->interval;
  next = next > now ? next : now + lt->interval;
  if (timers_arm(&lt->rt->turn.timers, &lt->timer, next) != 0) timer_end(L, lt);
}

/* Protected: [light userdata timer] */
static int timer_fire(lua_State *L) {
  struct ltimer *lt = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lt->rt->anchors);
  lua_rawgeti(L, -1, lt->ref);
  int idx = lua_gettop(L);
  if (lt->interval > 0)
    rearm(L, lt);
  else
    timer_end(L, lt);
  if (last_run_over(L, idx)) spawn_run(L, lt, idx);
  return 0;
}

static void timer_run(struct job *j) {
  struct ltimer *lt = timer_of_job(j);
  rt_protect(lt->rt->driver, timer_fire, lt);
}

/* ---- methods ---------------------------------------------------------------------- */

/***
Cancels the timer: a run under way goes on, one that has not begun never does.
@function Timer:cancel
@treturn boolean true, or false if it was over already
@waits never
*/
static int l_cancel(lua_State *L) {
  struct ltimer *lt = luaL_checkudata(L, 1, TIMER_NAME);
  lua_getiuservalue(L, 1, 3);
  struct task *run = lua_touserdata(L, -1);
  bool waiting = run && !run->started && !run->canceled, active = lt->active || waiting;
  if (waiting) run->canceled = true;
  timer_end(L, lt);
  lua_pushboolean(L, active);
  return 1;
}

static int ltimer_gc(lua_State *L) {
  struct ltimer *lt = lua_touserdata(L, 1);
  timer_end(L, lt);
  return 0;
}

static int l_tostring(lua_State *L) {
  const struct ltimer *lt = luaL_checkudata(L, 1, TIMER_NAME);
  lua_pushfstring(L, "Timer (%s): %p", lt->active ? "armed" : "over", lua_topointer(L, 1));
  return 1;
}

/* ---- after, every ------------------------------------------------------------------ */

/* [s, fn, args...] -> [s, timer] */
static struct ltimer *ltimer_new(lua_State *L, struct rt *rt) {
  int nargs = lua_gettop(L) - 2;
  lua_createtable(L, nargs, 0);
  lua_insert(L, 3);
  for (int i = nargs; i >= 1; i--) lua_rawseti(L, 3, i);
  struct ltimer *lt = lua_newuserdatauv(L, sizeof *lt, 3);
  memset(lt, 0, sizeof *lt);
  lt->rt = rt;
  lt->nargs = nargs;
  lt->ref = LUA_NOREF;
  lt->timer.fire = on_due;
  lt->job.run = timer_run;
  luaL_setmetatable(L, TIMER_NAME);
  lua_insert(L, 2);
  lua_setiuservalue(L, 2, 2);
  lua_setiuservalue(L, 2, 1);
  return lt;
}

static int start(lua_State *L, double delay, bool repeat) {
  struct rt *rt = rt_of(L);
  check_callable(L, 2);
  struct ltimer *lt = ltimer_new(L, rt);
  lt->interval = repeat ? delay : 0;
  if (isinf(delay)) return 1; /* never: nothing to keep alive */
  if (timers_arm(&rt->turn.timers, &lt->timer, turn_now(&rt->turn) + delay) != 0)
    return luaL_error(L, "not enough memory for a timer");
  lua_pushvalue(L, 2);
  lt->ref = rt_anchor(L, rt);
  lt->active = true;
  rt->turn.holds++;
  rt->timers++;
  return 1;
}

static double check_delay(lua_State *L) {
  luaL_checknumber(L, 1);
  double s = opt_seconds(L, 1, 0);
  return s > 0 ? s : 0;
}

/***
Runs a function once, in a task of its own, when some time has passed.
@function wire.after
@tparam number s seconds
@tparam function fn what to run; it may wait
@tparam[opt] any ... its arguments
@treturn Timer to cancel it
@waits never
*/
static int l_after(lua_State *L) { return start(L, check_delay(L), false); }

/***
Runs a function again and again, each time in a task of its own.
A run that is not over when the next one is due makes that one fall out; an error ends its run
alone.
@function wire.every
@tparam number s seconds from one beat to the next, more than zero
@tparam function fn what to run; it may wait
@tparam[opt] any ... its arguments
@treturn Timer to cancel it
@waits never
*/
static int l_every(lua_State *L) {
  double s = check_delay(L);
  luaL_argcheck(L, s > 0 && !isinf(s), 1, "an interval must be more than zero and finite");
  return start(L, s, true);
}

void ltimer_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"after", l_after}, {"every", l_every}, {NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"cancel", l_cancel}, {"__tostring", l_tostring}, {NULL, NULL}};
  rt_metatable(L, rt, TIMER_NAME, methods, ltimer_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
