/* The runtime of one Lua state: made once, driven from outside any task, closed with it.
 * What this is not: what runs in a turn (task.c), who waits for what (op.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "task.h"

/* ---- anchors ---------------------------------------------------------------------- */

/* As luaL_ref, for what comes and goes with every connection: the places that are free form a
 * list, each holding the number of the next one. */
int rt_anchor(lua_State *L, struct rt *rt) {
  int ref = rt->free_anchor ? rt->free_anchor : rt->anchored + 1;
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->anchors);
  lua_rawgeti(L, -1, ref);
  int next = (int)lua_tointeger(L, -1); /* none behind the last place: nil, 0 */
  lua_pushvalue(L, -3);
  lua_rawseti(L, -3, ref);
  if (ref > rt->anchored) rt->anchored = ref;
  rt->free_anchor = next;
  lua_pop(L, 3);
  return ref;
}

void rt_release(lua_State *L, struct rt *rt, int ref) {
  if (ref == LUA_NOREF) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->anchors);
  lua_pushinteger(L, rt->free_anchor);
  lua_rawseti(L, -2, ref);
  rt->free_anchor = ref;
  lua_pop(L, 1);
}

void rt_push_anchored(lua_State *L, const struct rt *rt, int ref) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->anchors);
  lua_rawgeti(L, -1, ref);
  lua_replace(L, -2);
}

/* ---- what userdata own ------------------------------------------------------------------ */

#define OWNED_NAME "lunewire.Owned"

void *owned_new(lua_State *L, struct rt *rt, size_t size, void (*end)(struct owned *)) {
  struct owned *o = calloc(1, size);
  if (!o) {
    luaL_error(L, "not enough memory");
    return NULL;
  }
  *o = (struct owned){.next = rt->first_owned, .at = &rt->first_owned, .end = end};
  if (o->next) o->next->at = &o->next;
  rt->first_owned = o;
  return o;
}

void owned_free(struct owned *o) {
  o->end(o);
  *o->at = o->next;
  if (o->next) o->next->at = o->at;
  free(o);
}

static int owned_gc(lua_State *L) {
  const struct rt *rt = lua_touserdata(L, lua_upvalueindex(1));
  struct owned **at = lua_touserdata(L, 1);
  if (*at && !rt->closed) owned_free(*at);
  *at = NULL;
  return 0;
}

void *owned_by_call(lua_State *L, struct rt *rt, size_t size, void (*end)(struct owned *)) {
  struct owned **at = lua_newuserdatauv(L, sizeof *at, 0);
  *at = NULL;
  luaL_setmetatable(L, OWNED_NAME);
  return *at = owned_new(L, rt, size, end);
}

/* ---- driving ---------------------------------------------------------------------- */

bool rt_step(lua_State *L, struct rt *rt) {
  if (!turn_alive(&rt->turn)) return false;
  rt->driver = L;
  bool r = turn_step(&rt->turn, true);
  rt->driver = NULL;
  return r;
}

void rt_drive_until(lua_State *L, struct rt *rt, bool (*done)(void *), void *arg) {
  while (!done(arg) && rt_step(L, rt)) continue;
}

bool rt_try(lua_State *L, lua_CFunction f, void *p, int nargs) {
  lua_pushcfunction(L, f);
  lua_insert(L, -1 - nargs);
  lua_pushlightuserdata(L, p);
  lua_insert(L, -1 - nargs);
  return lua_pcall(L, 1 + nargs, 0, 0) == LUA_OK;
}

bool rt_protect(lua_State *L, lua_CFunction f, void *p, int nargs) {
  if (rt_try(L, f, p, nargs)) return true;
  bool is_text = lua_type(L, -1) == LUA_TSTRING;
  fprintf(stderr, "lunewire: %s\n", is_text ? lua_tostring(L, -1) : luaL_typename(L, -1));
  lua_pop(L, 1);
  return false;
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
  if (!rt->turn.world) return 0; /* it never opened */
  for (struct owned *next, *o = rt->first_owned; o; o = next) {
    next = o->next;
    owned_free(o);
  }
  rt->closed = true;
  wait_fini(&rt->main_waiter.wait);
  turn_fini(&rt->turn, drain);
  return 0;
}

/* What Lua says of a coroutine that it cannot resume it says outside any protection: for want of
 * memory the error would leave through the loop, to whoever drives it.  A short string that is
 * there already is not made again. */
static void keep_texts(lua_State *L) {
  static const char *const texts[] = {"cannot resume dead coroutine",
                                      "cannot resume non-suspended coroutine", "C stack overflow",
                                      "error in error handling"};
  enum { COUNT = sizeof texts / sizeof *texts };
  lua_createtable(L, COUNT, 0);
  for (int i = 0; i < COUNT; i++) {
    lua_pushstring(L, texts[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, texts);
}

/* [-0, +1] Closed, and with its finalizer, before anything is opened that memory errors could
 * leave behind. */
static struct rt *rt_new(lua_State *L) {
  struct rt *rt = lua_newuserdatauv(L, sizeof *rt, 0);
  memset(rt, 0, sizeof *rt);
  rt->closed = true;
  rt->on_error = rt->quit.fn = LUA_NOREF;
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, rt_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_newtable(L);
  rt->anchors = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  rt->conns = luaL_ref(L, LUA_REGISTRYINDEX);
  keep_texts(L);
  return rt;
}

static void rt_start(lua_State *L, struct rt *rt) {
  struct world *world;
  int r = world_uv_open(&world);
  if (r == 0 && (r = turn_init(&rt->turn, world)) != 0) {
    world->ops->close(world);
    rt->turn.world = NULL;
  }
  if (r) luaL_error(L, "cannot open an event loop: %s", err_text(r));
  wait_init(&rt->main_waiter.wait, &rt->turn, main_wake);
  rt->closed = false;
}

struct rt *rt_open(lua_State *L) {
  struct rt *rt;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &rt_key) != LUA_TNIL) {
    rt = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return rt;
  }
  rt = rt_new(L);
  rt_start(L, rt);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &rt_key);
  lua_pop(L, 1);
  return rt;
}

void rt_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg methods[] = {{NULL, NULL}};
  rt_metatable(L, rt, OWNED_NAME, methods, owned_gc);
  lua_pop(L, 1);
}
