/* Semaphores: permits that tasks hold, in the order in which they asked.
 *
 * A permit that is released stays here until the first in line runs and takes it; so whatever
 * becomes of that task meanwhile, none is lost, and nobody else can take it first.
 * What this is not: `with`, which is in Lua (lunewire/semaphore.lua). */
#include <math.h>

#include "rt.h"

#define SEMAPHORE_NAME "lunewire.Semaphore"

/* A coroutine that somebody killed while it waited here may have left its task in line. */
struct line {
  struct owned owned; /* first */
  struct waitq waiters;
};

struct semaphore {
  struct line *line; /* NULL: finalized */
  lua_Integer total, free;
};

/* While the state is being closed a finalizer of the user's may come after those of ours. */
static struct semaphore *check_semaphore(lua_State *L) {
  const struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  struct semaphore *s = luaL_checkudata(L, 1, SEMAPHORE_NAME);
  if (rt->closed) s->line = NULL;
  return s;
}

/* ---- acquire, release ------------------------------------------------------------------ */

/* A call that was cancelled while it waited takes nothing. */
static int acquire_try(lua_State *L, struct rt *rt, struct op *o) {
  struct semaphore *s = o->on;
  int r = op_why(rt, o) == ERR_CANCELED ? ERR_AGAIN : op_turn(L, rt, o);
  if (r) return r;
  if (s->free == 0) return ERR_AGAIN;
  s->free--;
  return 0;
}

static int acquire_run(lua_State *L, struct rt *rt, struct op *o) {
  int r;
  while ((r = acquire_try(L, rt, o)) == ERR_AGAIN)
    if ((r = op_wait(L, rt, o)) != 0) break;
  op_done(rt, o);
  if (r) return push_failure(L, o->what, NULL, NULL, r);
  lua_pushboolean(L, true);
  return 1;
}

/***
Takes a permit.
Those who wait get theirs in the order in which they came, and nobody overtakes them.  A task that
acquires again what it holds waits for itself.
@function Semaphore:acquire
@tparam[opt=math.huge] number timeout seconds; with 0 or less it only tries
@treturn boolean true
@codes ETIMEDOUT
@waits until a permit is free and nobody stands before the caller
@raise where Lua cannot yield; a deadlock, outside any task
*/
static int l_acquire(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct semaphore *s = check_semaphore(L);
  luaL_argcheck(L, s->line, 1, "this Semaphore was collected"); /* a finalizer still has it */
  struct op o = {.run = acquire_run,
                 .what = "semaphore acquire",
                 .on = s,
                 .q = &s->line->waiters,
                 .timeout = opt_seconds(L, 2, INFINITY)};
  return acquire_run(L, rt, &o);
}

/***
Gives a permit back, to the first who waits for one.
Any task may release what another acquired.
@function Semaphore:release
@waits never
@raise if all permits are there already: released more often than acquired
*/
static int l_release(lua_State *L) {
  struct semaphore *s = check_semaphore(L);
  if (s->free == s->total)
    return luaL_error(L, "semaphore release: released more often than acquired");
  s->free++;
  if (s->line) waitq_wake_first(&s->line->waiters);
  return 0;
}

/* ---- the rest ------------------------------------------------------------------------- */

static void line_end(struct owned *o) {
  waitq_wake_all(&((struct line *)(void *)o)->waiters, ERR_CLOSED);
}

static int semaphore_gc(lua_State *L) {
  struct semaphore *s = check_semaphore(L);
  if (s->line) owned_free(&s->line->owned);
  s->line = NULL;
  return 0;
}

static int l_tostring(lua_State *L) {
  const struct semaphore *s = check_semaphore(L);
  lua_pushfstring(L, "Semaphore (%I of %I free): %p", (LUAI_UACINT)s->free, (LUAI_UACINT)s->total,
                  lua_topointer(L, 1));
  return 1;
}

static int semaphore_new(lua_State *L, lua_Integer n) {
  struct rt *rt = rt_of(L);
  struct semaphore *s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = (struct semaphore){.total = n, .free = n};
  luaL_setmetatable(L, SEMAPHORE_NAME);
  s->line = owned_new(L, rt, sizeof *s->line, line_end);
  return 1;
}

/***
Makes a semaphore: at most n tasks at a time hold a permit.
A task that waits for a permit waits for other tasks only: it does not keep `wire.run` going.
@function wire.semaphore
@tparam integer n permits, at least 1
@treturn Semaphore the new semaphore, all permits free
@waits never
@raise if n is anything else
*/
static int l_semaphore(lua_State *L) {
  int whole;
  if (lua_type(L, 1) != LUA_TNUMBER) luaL_typeerror(L, 1, "number of permits");
  lua_Integer n = lua_tointegerx(L, 1, &whole);
  luaL_argcheck(L, whole && n >= 1, 1, "the number of permits is a whole number >= 1");
  return semaphore_new(L, n);
}

/***
Makes a mutex: a semaphore with one permit.
It is not recursive: a task that acquires it twice waits for itself.
@function wire.mutex
@treturn Semaphore the new mutex, free
@waits never
*/
static int l_mutex(lua_State *L) { return semaphore_new(L, 1); }

/* core.semaphore_methods is where the method in Lua is entered. */
void lsemaphore_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"semaphore", l_semaphore}, {"mutex", l_mutex}, {NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"acquire", l_acquire}, {"release", l_release}, {"__tostring", l_tostring}, {NULL, NULL}};
  rt_metatable(L, rt, SEMAPHORE_NAME, methods, semaphore_gc);
  lua_getfield(L, -1, "__index");
  lua_setfield(L, -3, "semaphore_methods");
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
