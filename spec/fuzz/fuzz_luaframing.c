/* Fuzz target: framings that are written in Lua; see spec/fuzz/luaframing.lua.
 * What this is not: the framings of the core (fuzz_framing.c). */
#include "fuzz.h"
#include "lib_lua.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_lua_run("luaframing", NULL, data, size);
  return 0;
}
