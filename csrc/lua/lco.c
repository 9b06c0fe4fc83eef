/* wire.co: Lua's own coroutines for iterators that wait.
 *
 * A wait inside yields with our mark; it is passed outward, level by level, to the driver,
 * and the way back in is the same.  Any other yield is the coroutine's own and goes to
 * whoever resumed it.  coroutine.* itself is never patched.
 * What this is not: tasks; no coroutine here is known to the driver. */
#include "task.h"

static int resume_step(lua_State *L, struct rt *rt, lua_State *co, int nargs, lua_KFunction k);

static struct rt *rt_of_task(lua_KContext ctx) { return ((struct task *)ctx)->rt; }

/* Can a wait inside co be passed on to the driver by the caller? */
static bool passes_waits(lua_State *L, const struct rt *rt) {
  return rt->running && L == rt->current && lua_isyieldable(L);
}

/* Results, or the error, at the top of co. -> LUA_OK or LUA_YIELD with *n results; an error
 * status with one.  Does not return while co waits. */
static int resume_until_it_yields(lua_State *L, struct rt *rt, lua_State *co, int nargs, int *n,
                                  lua_KFunction k) {
  lua_State *current = rt->current;
  bool passes = passes_waits(L, rt);
  if (passes) rt->current = co;
  int r = coroutine_resume(co, L, nargs, n);
  rt->current = current;
  if (r == LUA_YIELD && passes && coroutine_waits(co)) return coroutine_pass_wait(L, rt, k);
  return r;
}

static int push_yielded(lua_State *L, lua_State *co, int n) {
  luaL_checkstack(L, n + 1, "too many results");
  lua_xmove(co, L, n);
  return n;
}

/***
Lua's own coroutines for iterators that wait: a waiting call inside suspends the whole task.
The coroutine's own yields go to whoever resumed it, as ever. Inside a plain `coroutine.wrap` a call
that would have to wait raises, and names `wire.co`.
@type wire.co
*/

/* ---- resume ----------------------------------------------------------------------- */

static int resume_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  return resume_step(L, rt_of_task(ctx), lua_tothread(L, 1), 0, resume_k);
}

static int resume_step(lua_State *L, struct rt *rt, lua_State *co, int nargs, lua_KFunction k) {
  int n;
  int r = resume_until_it_yields(L, rt, co, nargs, &n, k);
  bool ok = r == LUA_OK || r == LUA_YIELD;
  lua_pushboolean(L, ok);
  return 1 + push_yielded(L, co, ok ? n : 1);
}

/* Can co be resumed?  Otherwise the reason is pushed, in Lua's words. */
static bool check_resumable(lua_State *L, lua_State *co) {
  lua_Debug ar;
  int status = lua_status(co);
  if (status == LUA_YIELD && !coroutine_waits(co)) return true;
  bool fresh = status == LUA_OK && co != L && !lua_getstack(co, 0, &ar);
  if (fresh && lua_gettop(co) > 0) return true;
  bool dead = fresh || (status != LUA_OK && status != LUA_YIELD);
  lua_pushstring(L,
                 dead ? "cannot resume dead coroutine" : "cannot resume non-suspended coroutine");
  return false;
}

static lua_State *move_arguments(lua_State *L, lua_State *co, int nargs) {
  if (!lua_checkstack(co, nargs)) luaL_error(L, "too many arguments to resume");
  lua_xmove(L, co, nargs);
  return co;
}

/***
Resumes a coroutine, as `coroutine.resume` does; it may wait inside.
@function wire.co.resume
@tparam thread co the coroutine
@tparam[opt] any ... what its function, or its `yield`, gets
@treturn boolean true, or false after an error
@treturn any what it yielded or returned, however much, or the error
@waits until the coroutine yields, ends or fails, if it waits before that
@follows coroutine.resume of Lua
*/
static int l_resume(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "coroutine");
  if (!check_resumable(L, co)) {
    lua_pushboolean(L, false);
    lua_insert(L, -2);
    return 2;
  }
  int nargs = lua_gettop(L) - 1;
  return resume_step(L, rt_of(L), move_arguments(L, co, nargs), nargs, resume_k);
}

/* ---- wrap ------------------------------------------------------------------------- */

static int wrap_k(lua_State *L, int status, lua_KContext ctx);

/* An error goes on to the caller, with its position before a message, as Lua's wrap does. */
static int raise_from(lua_State *L, lua_State *co, int r) {
  r = lua_resetthread(co);
  lua_xmove(co, L, 1);
  if (r != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int wrap_step(lua_State *L, struct rt *rt, int nargs) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(2));
  int n, r = resume_until_it_yields(L, rt, co, nargs, &n, wrap_k);
  if (r == LUA_OK || r == LUA_YIELD) return push_yielded(L, co, n);
  return raise_from(L, co, r);
}

static int wrap_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  return wrap_step(L, rt_of_task(ctx), 0);
}

static int l_wrapped(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(2));
  int nargs = lua_gettop(L);
  if (!check_resumable(L, co)) return lua_error(L);
  move_arguments(L, co, nargs);
  return wrap_step(L, rt_of(L), nargs);
}

static lua_State *new_coroutine(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  return co;
}

/***
Makes a coroutine for `wire.co.resume`.
@function wire.co.create
@tparam function fn what it runs
@treturn thread the coroutine
@waits never
@follows coroutine.create of Lua
*/
static int l_create(lua_State *L) {
  new_coroutine(L);
  return 1;
}

/***
Makes a function that resumes a coroutine, as `coroutine.wrap` does; it may wait inside.
@function wire.co.wrap
@tparam function fn what the coroutine runs
@treturn function that resumes it, and waits as `wire.co.resume` does
@waits never
@follows coroutine.wrap of Lua
@usage
local function words(conn) -- an iterator that receives while it goes along
  return wire.co.wrap(function()
    for line in conn:lines() do
      for word in line:gmatch "%S+" do coroutine.yield(word) end
    end
  end)
end
*/
static int l_wrap(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  new_coroutine(L);
  lua_pushcclosure(L, l_wrapped, 2);
  return 1;
}

void lco_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"create", l_create}, {"resume", l_resume}, {"wrap", l_wrap}, {NULL, NULL}};
  lua_newtable(L);
  rt_setfuncs(L, rt, functions);
  lua_setfield(L, -2, "co");
}
