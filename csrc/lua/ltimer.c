/* after and every, of wire and of a connection: a function run in a task of its own when its
 * time has come.
 * What this is not: deadlines of waits (core/turn.c). */
#include <math.h>
#include <string.h>

#include "rt.h"

#define TIMER_NAME "lunewire.Timer"

/* Userdata: user value 1 the function, 2 a list of its arguments, 3 the task of the last run.
 * Anchored while armed, and until its job has run once more: a connection that closes before the
 * last run has begun takes that back, and no Lua runs where connections end. */
struct ltimer {
  struct timer timer; /* first */
  struct job job;
  struct attachment end; /* of the connection that it ends with */
  struct rt *rt;
  struct task *last; /* user value 3, or NULL */
  double interval;   /* of every; 0: once */
  int ref, nargs;
  bool active, held; /* held: it keeps the loop going */
};

static struct ltimer *timer_of_job(struct job *j) {
  return (struct ltimer *)(void *)((char *)j - offsetof(struct ltimer, job));
}

static void on_due(struct timer *t) {
  struct ltimer *lt = (struct ltimer *)(void *)t;
  job_queue(&lt->rt->turn, &lt->job);
}

static void timer_let_go(struct ltimer *lt) {
  if (lt->held) lt->rt->turn.holds--;
  lt->held = false;
}

/* Nothing fires any more. */
static void timer_stop(struct ltimer *lt) {
  if (!lt->active) return;
  lt->active = false;
  timers_disarm(&lt->rt->turn.timers, &lt->timer);
  timer_let_go(lt);
  lt->rt->timers--;
}

static void timer_end(lua_State *L, struct ltimer *lt) {
  timer_stop(lt);
  conn_detach(&lt->end);
  job_remove(&lt->rt->turn, &lt->job);
  rt_release(L, lt->rt, lt->ref);
  lt->ref = LUA_NOREF;
}

/* A run that was spawned but has not begun never does. false: there is none. */
static bool drop_run(const struct ltimer *lt) {
  struct task *run = lt->last;
  bool waiting = run && !run->started && !run->canceled;
  if (waiting) run->canceled = true;
  return waiting;
}

static void on_conn_ended(struct attachment *a) {
  struct ltimer *lt = (struct ltimer *)(void *)((char *)a - offsetof(struct ltimer, end));
  drop_run(lt);
  timer_stop(lt);
  job_queue(&lt->rt->turn, &lt->job);
}

/* [timer] Spawns a run and remembers its task. */
static void spawn_run(lua_State *L, struct ltimer *lt, int idx) {
  luaL_checkstack(L, lt->nargs + 4, "too many arguments");
  lua_getiuservalue(L, idx, 2);
  int list = lua_gettop(L);
  lua_getiuservalue(L, idx, 1);
  for (int i = 1; i <= lt->nargs; i++) lua_rawgeti(L, list, i);
  lt->last = task_spawn(L, lt->rt, lt->nargs, 0);
  lua_setiuservalue(L, idx, 3);
  lua_pop(L, 1);
}

/* Without memory for the next beat there is none. */
static void rearm(lua_State *L, struct ltimer *lt) {
  double now = turn_now(&lt->rt->turn), next = lt->timer.due + lt->interval;
  next = next > now ? next : now + lt->interval;
  if (timers_arm(&lt->rt->turn.timers, &lt->timer, next) != 0) timer_end(L, lt);
}

/* Its job is queued just before that of the run, which cannot be taken back from then on. */
static void fire_last(struct ltimer *lt) {
  timer_stop(lt);
  job_queue(&lt->rt->turn, &lt->job);
}

/* Protected: [light userdata timer, timer] */
static int timer_fire(lua_State *L) {
  spawn_run(L, lua_touserdata(L, 1), 2);
  return 0;
}

/* What becomes of the timer does not depend on whether its function could be run. */
static void timer_run(struct job *j) {
  struct ltimer *lt = timer_of_job(j);
  lua_State *L = lt->rt->driver;
  if (!lt->active) {
    timer_end(L, lt);
    return;
  }
  rt_push_anchored(L, lt->rt, lt->ref);
  if (lt->interval > 0)
    rearm(L, lt);
  else
    fire_last(lt);
  if (!lt->last || task_ended(lt->last))
    rt_protect(L, timer_fire, lt, 1);
  else
    lua_pop(L, 1);
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
  bool active = drop_run(lt) || lt->active;
  timer_end(L, lt);
  lua_pushboolean(L, active);
  return 1;
}

/* core.background(timer) -> the timer, which no longer keeps the loop going */
static int l_background(lua_State *L) {
  timer_let_go(luaL_checkudata(L, 1, TIMER_NAME));
  lua_settop(L, 1);
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

/* [.., fn, args...] -> [.., timer] with the function at index fn */
static struct ltimer *ltimer_new(lua_State *L, struct rt *rt, int fn) {
  int nargs = lua_gettop(L) - fn;
  lua_createtable(L, nargs, 0);
  lua_insert(L, fn + 1);
  for (int i = nargs; i >= 1; i--) lua_rawseti(L, fn + 1, i);
  struct ltimer *lt = lua_newuserdatauv(L, sizeof *lt, 3);
  memset(lt, 0, sizeof *lt);
  lt->rt = rt;
  lt->nargs = nargs;
  lt->ref = LUA_NOREF;
  lt->timer.fire = on_due;
  lt->job.run = timer_run;
  lt->end.ended = on_conn_ended;
  luaL_setmetatable(L, TIMER_NAME);
  lua_insert(L, fn);
  lua_setiuservalue(L, fn, 2);
  lua_setiuservalue(L, fn, 1);
  return lt;
}

/* [.., s, fn, args...], fn at this index.  c: the connection that it ends with, or NULL; one that
 * is closed makes a timer that is over. */
static int start(lua_State *L, struct conn *c, int fn, double delay, bool repeat) {
  struct rt *rt = rt_of(L);
  check_callable(L, fn);
  struct ltimer *lt = ltimer_new(L, rt, fn);
  lt->interval = repeat ? delay : 0;
  if (isinf(delay)) return 1; /* never: nothing to keep alive */
  lua_pushvalue(L, fn);
  lt->ref = rt_anchor(L, rt); /* which may collect, and close the connection */
  if (c && !conn_is_open(c)) {
    timer_end(L, lt);
    return 1;
  }
  if (timers_arm(&rt->turn.timers, &lt->timer, turn_now(&rt->turn) + delay) != 0) {
    timer_end(L, lt);
    return luaL_error(L, "not enough memory for a timer");
  }
  if (c) conn_attach(c, &lt->end);
  lt->active = lt->held = true;
  rt->turn.holds++;
  rt->timers++;
  return 1;
}

static double check_delay(lua_State *L, int idx) {
  luaL_checknumber(L, idx);
  double s = opt_seconds(L, idx, 0);
  return s > 0 ? s : 0;
}

static double check_interval(lua_State *L, int idx) {
  double s = check_delay(L, idx);
  luaL_argcheck(L, s > 0 && !isinf(s), idx, "an interval must be more than zero and finite");
  return s;
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
static int l_after(lua_State *L) { return start(L, NULL, 2, check_delay(L, 1), false); }

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
static int l_every(lua_State *L) { return start(L, NULL, 2, check_interval(L, 1), true); }

/***
Runs a function once, after some time, unless the connection closes before.

As `wire.after`, but cancelled when the connection is closed or reset, by whatever means: a
`close` with a delay when that is over, the end of its handler or block, its collection.  A run
under way goes on.  The timer itself does not keep the connection from being collected; a function
or an argument that refers to the connection does, for as long as the timer is armed.
@function Conn:after
@tparam number s seconds
@tparam function fn runs in a task of its own and may wait
@tparam[opt] any ... its arguments, and all of them: the connection is not among them
@treturn Timer over from the beginning if the connection is closed already
@waits never
@raise a wrong type
*/
static int l_conn_after(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  return start(L, c, 3, check_delay(L, 2), false);
}

/***
Runs a function again and again until the connection closes.

As `wire.every`, but cancelled as `Conn:after` is: a heartbeat that ends with its connection.
@function Conn:every
@tparam number s seconds, more than 0
@tparam function fn runs in a task of its own and may wait; a beat is skipped while the last run
  goes on, and an error does not end the timer
@tparam[opt] any ... its arguments, and all of them
@treturn Timer over from the beginning if the connection is closed already
@waits never
@raise a wrong type, an interval of 0
*/
static int l_conn_every(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  return start(L, c, 3, check_interval(L, 2), true);
}

const luaL_Reg ltimer_methods[] = {{"after", l_conn_after}, {"every", l_conn_every}, {NULL, NULL}};

void ltimer_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"after", l_after}, {"every", l_every}, {"background", l_background}, {NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"cancel", l_cancel}, {"__tostring", l_tostring}, {NULL, NULL}};
  rt_metatable(L, rt, TIMER_NAME, methods, ltimer_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
