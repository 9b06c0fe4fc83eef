-- Lua drops a finalizer that finds no room on the C stack: what lunewire owns must stand it.
-- What this is not: finalizers that run (finalizer_spec), or that have no memory to (spec/torture);
-- memory that is used after its end is seen where an observer looks (make sanitize, make valgrind).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"

-- A task waits in a coroutine that is killed then, so that nothing refers to what it waits for.
local SCRIPT <const> = [[
  local wire = require "lunewire"
  local waits = { %s }

  local function below(n, f) -- n functions of C; raises if there is no room
    if n == 0 then return f() end
    string.gsub("x", ".", function() below(n - 1, f) end)
  end

  -- The deepest that has room for a collection has none for its finalizers.
  local function collect_at_the_bottom()
    local depth = 0
    while pcall(below, depth + 1, function() end) do depth = depth + 1 end
    pcall(below, depth, function() collectgarbage() end)
  end

  wire.run(function()
    local of, wait = table.unpack(waits)
    local thread = wire.co.create(function() wait(of) end)
    local task = wire.spawn(wire.co.resume, thread)
    wire.sleep(0)
    print(task:status())
    collectgarbage "stop"
    coroutine.close(thread)
    of, thread, waits = nil, nil, nil
    warn "@on"
    collect_at_the_bottom()
    warn "@off"
    collectgarbage() -- frees what was finalized, or not
    collectgarbage()
    local reused = {}
    for i = 1, 1000 do reused[i] = ("x"):rep(100 + i) end
    task:cancel()
    print(task:join(5))
  end)
]]

local WAITS <const> = {
  ["a channel with a receiver"] = "wire.channel(), wire.channel().recv",
  ["a channel with a sender"] = "wire.channel(), function(channel) channel:send(1) end",
  ["a semaphore with somebody"] = [[
    wire.mutex(), function(mutex) mutex:acquire() mutex:acquire() end]],
}

describe("a finalizer that Lua drops", function()
  for what, wait in pairs(WAITS) do
    support.it("leaves no task in line of memory that is gone: of " .. what, function()
      local output, status = support.lua(SCRIPT:format(wait)):output()
      assert.matches("^waiting\n.*\n?true\t", output)
      assert.equal(0, status)
    end)
  end
end)
