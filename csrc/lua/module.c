/* luaopen_lunewire_core: puts the rooms together.
 * What this is not: the public face; that is lua/lunewire/init.lua. */
#include <string.h>

#include "rt.h"

void rt_setfuncs(lua_State *L, struct rt *rt, const luaL_Reg *l) {
  lua_pushlightuserdata(L, rt);
  luaL_setfuncs(L, l, 1);
}

/* Names that begin with __ go into the metatable, the others into its __index. */
void rt_metatable(lua_State *L, struct rt *rt, const char *name, const luaL_Reg *methods,
                  lua_CFunction gc) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  for (; methods->name; methods++) {
    bool meta = strncmp(methods->name, "__", 2) == 0;
    lua_pushlightuserdata(L, rt);
    lua_pushcclosure(L, methods->func, 1);
    lua_setfield(L, meta ? -3 : -2, methods->name);
  }
  lua_setfield(L, -2, "__index");
  lua_pushstring(L, name); /* what getmetatable() shows: the real one is not for scripts */
  lua_setfield(L, -2, "__metatable");
  if (!gc) return;
  lua_pushlightuserdata(L, rt);
  lua_pushcclosure(L, gc, 1);
  lua_setfield(L, -2, "__gc");
}

static void set_count(lua_State *L, const char *name, unsigned n) {
  lua_pushinteger(L, (lua_Integer)n);
  lua_setfield(L, -2, name);
}

/* core.census() -> how many of each are alive: for tests that nothing is left behind */
static int l_census(lua_State *L) {
  struct rt *rt = rt_of(L);
  const struct turn *t = &rt->turn;
  lua_createtable(L, 0, 8);
  set_count(L, "conns", t->conns);
  set_count(L, "servers", t->servers);
  set_count(L, "udps", t->udps);
  set_count(L, "dials", t->dials);
  set_count(L, "waits", t->waits);
  set_count(L, "tasks", rt->tasks);
  set_count(L, "timers", rt->timers);
  set_count(L, "links", t->world->ops->open(t->world));
  return 1;
}

__attribute__((visibility("default"))) int luaopen_lunewire_core(lua_State *L);

int luaopen_lunewire_core(lua_State *L) {
  static const luaL_Reg functions[] = {{"census", l_census}, {NULL, NULL}};
  struct rt *rt = rt_open(L);
  rt_register(L, rt);
  task_register(L, rt);
  lua_newtable(L);
  rt_setfuncs(L, rt, functions);
  ltask_register(L, rt);
  lco_register(L, rt);
  lframing_register(L, rt);
  lconn_register(L, rt);
  ldial_register(L, rt);
  lfile_register(L, rt);
  lresolve_register(L, rt);
  lserver_register(L, rt);
  llisten_register(L, rt);
  lrest_register(L, rt);
  lwatch_register(L, rt);
  lsignal_register(L, rt);
  ltls_register(L, rt);
  ltimer_register(L, rt);
  lchannel_register(L, rt);
  lsemaphore_register(L, rt);
  ludp_register(L, rt);
  return 1;
}
