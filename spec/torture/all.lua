-- All scenarios, in the order in which they run.
--   name; body(prepared): with failing allocations; prepare() -> prepared: before, without
--   abrupt: the state is closed where the body ends, with everything in flight
--   planted: misbehaves on purpose, for the test of the harness
-- What this is not: what must hold afterwards (recovery.lua, run.c).
local list = { { name = "open", body = true } } -- what run.c does itself

local files = { "planted", "streams", "framings", "secured", "datagrams", "tasks", "servers",
  "ends" }
for _, file in ipairs(files) do
  table.move(require("spec.torture." .. file), 1, 1000, #list + 1, list)
end

return list
