/* What Lua has of the faults, for specs that choose them: in the module of the faults' build, and
 * opened by package.loadlib (spec/faults/control.lua).
 *
 *   arm("first" | "second", {reads=, writes=, again=, late_polls=, reset_in=, reset_out=})
 *   tally() -> {links=, reads=, writes=, agains=, lates=, resets=}
 *
 * What this is not: a part of lunewire. */
#include <lauxlib.h>

#include "faults.h"

static long field(lua_State *L, const char *name, long otherwise) {
  lua_getfield(L, 2, name);
  long n = (long)luaL_optinteger(L, -1, otherwise);
  lua_pop(L, 1);
  return n;
}

static int l_arm(lua_State *L) {
  static const char *const ends[] = {"first", "second", NULL};
  enum fault_end end = (enum fault_end)luaL_checkoption(L, 1, NULL, ends);
  struct fault_plan p = FAULT_NOTHING;
  luaL_checktype(L, 2, LUA_TTABLE);
  p.read_most = (unsigned)field(L, "reads", 0);
  p.write_most = (unsigned)field(L, "writes", 0);
  p.again = (unsigned)field(L, "again", 0);
  p.late_polls = (unsigned)field(L, "late_polls", 0);
  p.reset_in = field(L, "reset_in", FAULT_NEVER);
  p.reset_out = field(L, "reset_out", FAULT_NEVER);
  faults_arm(end, &p);
  return 0;
}

static int l_tally(lua_State *L) {
  const struct fault_tally *t = &faults_tally;
  const unsigned long counts[] = {t->links, t->reads, t->writes, t->agains, t->lates, t->resets};
  static const char *const names[] = {"links", "reads", "writes", "agains", "lates", "resets"};
  lua_newtable(L);
  for (int i = 0; i < 6; i++) {
    lua_pushinteger(L, (lua_Integer)counts[i]);
    lua_setfield(L, -2, names[i]);
  }
  return 1;
}

static const luaL_Reg functions[] = {{"arm", l_arm}, {"tally", l_tally}, {NULL, NULL}};

int luaopen_lunewire_faults(lua_State *L);
__attribute__((visibility("default"))) int luaopen_lunewire_faults(lua_State *L) {
  luaL_newlib(L, functions);
  return 1;
}
