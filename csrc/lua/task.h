/* What task.c has for ltask.c and lco.c; nobody else includes this. */
#ifndef LUNEWIRE_TASK_H
#define LUNEWIRE_TASK_H

#include "rt.h"

#define TASK_NAME "lunewire.Task"

extern const char canceled_key; /* its address is the registry key of wire.CANCELED */
extern const luaL_Reg ltask_methods[];

/* Raises wire.CANCELED if the running task was cancelled: for calls that give way. */
void task_check_canceled(lua_State *L, struct rt *rt);

/* lua_resume, in its one place. */
int coroutine_resume(lua_State *co, lua_State *from, int nargs, int *nres);
/* After a yield of nres values: is it a wait of ours?  Then its mark is popped. */
bool coroutine_parked(lua_State *co, int nres);
/* Yields with the mark of a wait; k runs when the wait may be over. */
int coroutine_park(lua_State *L, lua_KContext ctx, lua_KFunction k);

#endif
