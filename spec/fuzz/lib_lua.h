/* Lua states for the inputs of a fuzz target, with the library in them.
 *
 * To open the libraries and to compile the files takes longer than most inputs: so one state is
 * made, once, and each input begins with that, byte for byte; no input sees another.  All memory is
 * counted: nothing may be left.
 * What this is not: the world; that is the real one unless the target puts another in its place. */
#ifndef LUNEWIRE_FUZZ_LUA_H
#define LUNEWIRE_FUZZ_LUA_H

#include <lauxlib.h>
#include <lua.h>

/* Calls the function that is spec/fuzz/NAME.lua's result with the input, and closes the state; an
 * error that gets out of it is a finding, and so is anything that is left.
 * `require "lunewire"` finds the library in lua/, `require "spec.fuzz.NAME_MORE"` what is beside
 * the target's own file.  prepare (or NULL) puts into the state what is the same for all inputs,
 * before the first; it must hold no memory but the state's.  A program has one target. */
void fuzz_lua_run(const char *name, void (*prepare)(lua_State *L), const void *data, size_t size);

#endif
