/* Calls that wait: who may, in which line, for how long, and what ends the wait.
 *
 * In a task a wait is a yield to the driver, and op_continue goes on; outside any task the caller
 * turns the loop itself, and the call just returns to try again. What this is not: what is waited
 * for. */
#include <math.h>
#include <string.h>

#include "task.h"

struct wait *op_self(struct rt *rt) {
  return rt->running ? &rt->running->w.wait : &rt->main_waiter.wait;
}

/* Where a call in a task goes on.  A coroutine that waits belongs to its task: whoever else
 * resumes it is wrong. */
static int op_continue(lua_State *L, int status, lua_KContext ctx) {
  struct task *t = (struct task *)ctx;
  struct op *o = &t->w.op;
  (void)status;
  if (t->rt->running != t || t->rt->current != L)
    return luaL_error(L,
                      "this coroutine was waiting in '%s' for its task and cannot be resumed by "
                      "anybody else",
                      o->what);
  return o->run(L, t->rt, o);
}

bool op_may_wait(lua_State *L, const struct rt *rt) {
  if (rt->in_hook) return false;
  if (rt->running) return L == rt->current && lua_isyieldable(L);
  return !rt->driver && !rt->closed && !in_finalizer(L);
}

bool op_give_way(lua_State *L, struct rt *rt, struct op *o) {
  o->spent = op_may_wait(L, rt);
  return o->spent;
}

bool op_spent(lua_State *L, struct rt *rt, struct op *o) {
  uint16_t *calls = op_calls(rt);
  if (++*calls <= TURN_BUDGET || !op_give_way(L, rt, o)) return false;
  *calls = 0;
  return true;
}

bool op_is_first(struct rt *rt, const struct waitq *q) {
  bool by_loop = !rt->running && rt->driver;
  return waitq_open(q, by_loop ? NULL : op_self(rt));
}

int op_turn(lua_State *L, struct rt *rt, struct op *o) {
  if (op_spent(L, rt, o)) return ERR_AGAIN;
  return o->q && !op_is_first(rt, o->q) ? ERR_AGAIN : 0;
}

/* [function] -> [name | nil]: "table.sort", if the function stands in a loaded module. */
static void push_global_name(lua_State *L) {
  int fn = lua_gettop(L);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (lua_pushnil(L); lua_next(L, fn + 1); lua_settop(L, fn + 2)) {
    if (!lua_istable(L, -1) || lua_type(L, -2) != LUA_TSTRING) continue;
    for (lua_pushnil(L); lua_next(L, fn + 3); lua_pop(L, 1)) {
      if (!lua_rawequal(L, -1, fn) || lua_type(L, -2) != LUA_TSTRING) continue;
      bool global = strcmp(lua_tostring(L, fn + 2), LUA_GNAME) == 0;
      lua_pushfstring(L, global ? "%s%s" : "%s.%s", global ? "" : lua_tostring(L, fn + 2),
                      lua_tostring(L, -2));
      lua_replace(L, fn);
      lua_settop(L, fn);
      return;
    }
  }
  lua_pushnil(L);
  lua_replace(L, fn);
  lua_settop(L, fn);
}

static bool can_be_suspended(const char *name) {
  return strcmp(name, "pcall") == 0 || strcmp(name, "xpcall") == 0;
}

/* Pushes the name of the innermost function above the call that Lua cannot suspend. */
static const char *push_who_is_in_the_way(lua_State *L) {
  lua_Debug ar;
  for (int level = 1; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Snf", &ar);
    push_global_name(L);
    const char *name = lua_isnil(L, -1) ? ar.name : lua_tostring(L, -1);
    bool is_c = strcmp(ar.what, "C") == 0, is_event = strcmp(ar.namewhat, "metamethod") == 0;
    if ((is_c || is_event) && name && !can_be_suspended(name)) return lua_pushstring(L, name);
    lua_pop(L, 1);
  }
  return lua_pushliteral(L, "a C function");
}

static int raise_cannot_wait(lua_State *L, const struct rt *rt, const char *what) {
  if (rt->closed) return luaL_error(L, "%s: cannot wait: the Lua state is closing", what);
  if (in_finalizer(L))
    return luaL_error(L, "%s: cannot wait inside a finalizer; start a task with wire.spawn", what);
  if (!rt->running || rt->in_hook)
    return luaL_error(L,
                      "%s: cannot wait here: the loop is running this (a hook); "
                      "start a task with wire.spawn",
                      what);
  if (L != rt->current)
    return luaL_error(L,
                      "%s: cannot wait inside a plain coroutine; make it with wire.co.wrap or "
                      "wire.co.create instead of coroutine.wrap or coroutine.create",
                      what);
  return luaL_error(L,
                    "%s: cannot wait inside '%s', which Lua cannot suspend; receive before the "
                    "call or after it",
                    what, push_who_is_in_the_way(L));
}

/* Before an error is raised: the call leaves its place, and what it had begun is given up.  Where
 * it cannot wait the place is somebody else's: a hook runs while the main chunk waits. */
static void give_up(lua_State *L, struct rt *rt, struct op *o) {
  if (o->waited) wait_leave(op_self(rt));
  if (o->abandon) o->abandon(L, o);
}

static int raise_canceled(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &canceled_key);
  return lua_error(L);
}

void task_check_canceled(lua_State *L, struct rt *rt) {
  if (rt->running && rt->running->canceled) raise_canceled(L);
}

/* The earlier of the call's own time and the connection's. */
static double op_due(struct rt *rt, struct op *o) {
  if (o->due == 0) o->due = o->timeout == INFINITY ? INFINITY : turn_now(&rt->turn) + o->timeout;
  return o->deadline && *o->deadline < o->due ? *o->deadline : o->due;
}

bool op_expired(struct rt *rt, struct op *o) {
  double due = op_due(rt, o);
  return due != INFINITY && due <= turn_now(&rt->turn);
}

/* Outside any task the caller itself turns the loop until it is woken. */
static int main_wait(lua_State *L, struct rt *rt, struct op *o, struct wait *w) {
  rt->main_woken = false;
  rt->main_calls = 0;
  while (!rt->main_woken && rt_step(L, rt)) continue;
  if (rt->main_woken) return 0;
  wait_resume(w);
  give_up(L, rt, o);
  return luaL_error(L,
                    "deadlock: %s waits for what nothing can bring any more (no server, timer "
                    "or connection to the outside is left)",
                    o->what);
}

static int op_park(lua_State *L, struct rt *rt, struct op *o) {
  struct wait *w = op_self(rt);
  if (w->q != o->q) wait_leave(w); /* of a call whose coroutine died while it waited */
  int r = wait_park(w, o->q, o->spent ? INFINITY : op_due(rt, o), o->outside);
  if (r) return r;
  w->call_due = o->due != 0 ? o->due : INFINITY;
  w->stays = o->gathers;
  if (o->spent) wait_wake(w, 0);
  o->spent = false;
  o->waited = true;
  if (!rt->running) return main_wait(L, rt, o, w);
  if (o != &rt->running->w.op) rt->running->w.op = *o;
  return coroutine_pass_wait(L, rt, op_continue);
}

/* Is the wait over already, or must it not begin?  0: it may begin. */
static int op_over(struct rt *rt, struct op *o) {
  struct wait *w = op_self(rt);
  if (o->waited && w->why) return w->why;
  if (o->spent) return 0;
  if (op_expired(rt, o)) return ERR_TIMEDOUT;
  return rt->running && rt->running->canceled ? ERR_CANCELED : 0;
}

int op_wait(lua_State *L, struct rt *rt, struct op *o) {
  int r = op_over(rt, o);
  bool misplaced = r == 0 && !op_may_wait(L, rt);
  if (r == ERR_CANCELED || misplaced) give_up(L, rt, o);
  if (r == ERR_CANCELED) return raise_canceled(L);
  if (misplaced) return raise_cannot_wait(L, rt, o->what);
  return r ? r : op_park(L, rt, o);
}

void op_done(struct rt *rt, struct op *o) {
  if (o->waited) wait_leave(op_self(rt));
}
