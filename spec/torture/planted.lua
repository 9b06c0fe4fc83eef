-- Scenarios that misbehave on purpose when an allocation fails, each in one way: the harness must
-- notice.
-- What this is not: about lunewire.
local wire = require "lunewire"

local function when_memory_fails(misbehave)
  return function()
    if not pcall(string.rep, "x", 100000) then misbehave() end
  end
end

local kept

return {
  { name = "planted crash", planted = true, body = when_memory_fails(abort) },
  { name = "planted leak", planted = true, body = when_memory_fails(leak) },
  { name = "planted hang", planted = true, body = when_memory_fails(function()
    while true do end
  end) },
  { name = "planted left over", planted = true, body = when_memory_fails(function()
    kept = wire.pipe()
  end) },
  { name = "planted broken", planted = true, body = when_memory_fails(function()
    wire.run = kept
  end) },
  { name = "planted broken finalizer", planted = true, body = when_memory_fails(function()
    raise_in_finalizer()
    collectgarbage()
  end) },
  { name = "planted broken message", planted = true, body = when_memory_fails(function()
    pcall(function() assert(same("two", "one")) end)
  end) },
  { name = "planted broken value", planted = true, body = when_memory_fails(function()
    kept = kept.field
  end) },
}
