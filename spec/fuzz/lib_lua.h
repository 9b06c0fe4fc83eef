/* A Lua state for one input of a fuzz target, with the library in it.
 *
 * All of its memory is counted and comes from malloc, so that nothing may be left and the sanitizer
 * sees every piece.
 * What this is not: the world; that is the real one unless the target puts another in its place. */
#ifndef LUNEWIRE_FUZZ_LUA_H
#define LUNEWIRE_FUZZ_LUA_H

#include <lauxlib.h>
#include <lua.h>

/* With the standard libraries; `require "lunewire"` finds the one in lua/, and `require
 * "spec.fuzz.NAME"` what belongs to a target. */
lua_State *fuzz_lua_open(void);
/* Calls the function that is spec/fuzz/NAME.lua's result with the input; an error that gets out of
 * it is a finding. */
void fuzz_lua_run(lua_State *L, const char *name, const void *data, size_t size);
/* Closes it: nothing may be left. */
void fuzz_lua_close(lua_State *L);

#endif
