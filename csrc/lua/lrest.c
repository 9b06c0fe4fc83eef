/* What the policy in Lua (client, pool, netlog) asks of a connection and no script does: is it
 * over, may it rest and be used again, how is it set; may the caller turn the loop; what time is
 * it outside.
 * What this is not: policy. */
#include <time.h>

#include "rt.h"

/* core.ended(conn) -> message, code if nothing more can come of it, as far as is known; nothing
 * otherwise.  Outside a task no turn may have looked at the link for long: looks itself. */
static int l_ended(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, 1);
  if (!rt_in_task(rt)) conn_look(c);
  int r = conn_ended(c);
  if (r == 0) return 0;
  char who[ADDR_TEXT_MAX];
  addr_print(&c->peer, who);
  push_failure(L, "connection", who, NULL, r);
  return 2;
}

/* core.rest(conn, seconds) -> may it be used again?  If so it is closed when that long nobody did,
 * or when anything comes from the peer; neither keeps the loop going. */
static int l_rest(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  lua_pushboolean(L, conn_rest(c, luaL_checknumber(L, 2)));
  return 1;
}

/* core.resume(conn) -> is the connection that rested still as it was? */
static int l_resume(lua_State *L) {
  lua_pushboolean(L, conn_resume(check_conn(L, rt_of(L), 1)));
  return 1;
}

/* core.settings(conn) -> timeout, idle timeout, buffer wait, framing: what its setters set */
static int l_settings(lua_State *L) {
  const struct conn *c = check_conn(L, rt_of(L), 1);
  lua_pushnumber(L, c->timeout);
  lua_pushnumber(L, (lua_Number)c->idle_timeout);
  lua_pushnumber(L, (lua_Number)c->buffer_wait);
  lua_getiuservalue(L, 1, CONN_FRAMING);
  return 4;
}

/* core.outside() -> may the caller turn the loop itself? */
static int l_outside(lua_State *L) {
  const struct rt *rt = rt_of(L);
  lua_pushboolean(L, !rt_in_task(rt) && !rt->driver && !in_finalizer(L));
  return 1;
}

/* core.wall_clock() -> seconds since the epoch, and the microseconds within that second */
static int l_wall_clock(lua_State *L) {
  struct timespec t = {0};
  clock_gettime(CLOCK_REALTIME, &t);
  lua_pushinteger(L, t.tv_sec);
  lua_pushinteger(L, t.tv_nsec / 1000);
  return 2;
}

void lrest_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"ended", l_ended},
                                       {"rest", l_rest},
                                       {"resume", l_resume},
                                       {"settings", l_settings},
                                       {"outside", l_outside},
                                       {"wall_clock", l_wall_clock},
                                       {NULL, NULL}};
  rt_setfuncs(L, rt, functions);
}
