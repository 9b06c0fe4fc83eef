/* What rt.c, task.c, op.c, ltask.c and lco.c have of each other; nobody else includes this. */
#ifndef LUNEWIRE_TASK_H
#define LUNEWIRE_TASK_H

#include "rt.h"

#define TASK_NAME "lunewire.Task"

extern const char canceled_key; /* its address is the registry key of wire.CANCELED */
extern const luaL_Reg ltask_methods[];

/* Turns the loop once, outside any task. false: nothing is left that could happen. */
bool rt_step(lua_State *L, struct rt *rt);

/* Raises wire.CANCELED if the running task was cancelled: for calls that give way. */
void task_check_canceled(lua_State *L, struct rt *rt);

/* lua_resume, in its one place. */
int coroutine_resume(lua_State *co, lua_State *from, int nargs, int *nres);
/* Did it stop in a call of ours that waits, not in a yield of its own? */
bool coroutine_waits(lua_State *co);
/* Something inside waits: so does the caller, towards the driver.  k runs when it may go on,
 * with the running task as its context. */
int coroutine_pass_wait(lua_State *L, struct rt *rt, lua_KFunction k);

#endif
