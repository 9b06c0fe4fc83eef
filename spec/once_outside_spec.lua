-- Exactly once, seen from outside any task: a call of the main chunk, which turns the loop itself;
-- waits that outlast wire.run, and those that the end of the script finds.
-- What this is not: calls in tasks while the loop runs (once_spec).
local assert = require "luassert"
local describe = require("busted").describe
local once = require "spec.once"
local support = require "spec.support"
local waits = require "spec.waits"
local wire = require "lunewire"

local function is_chosen(name)
  local transport = name:match " over (.*)$"
  return not transport or transport == "tcp" or transport == "pipe" or transport == "tls 1.3"
end

-- ---- the main chunk ------------------------------------------------------------------

-- The call returns, and so does the next one, which has nothing to do with it.
local function check_main(place, name)
  local cause = once.causes(place)[name]
  local mine, ours = wire.pipe()
  local actor = wire.spawn(function()
    once.turn()
    if not cause.timeout then cause[1](place) end
    wire.sleep(0.01)
    ours:send "!"
  end)
  local results = table.pack(pcall(place.call, cause.timeout))
  local next_result = mine:recv(1, 20)
  actor:join()
  once.check_code(waits.outcome(results), cause)
  assert.equal("!", next_result)
  mine:reset()
  ours:reset()
end

describe("exactly once in the main chunk:", function()
  for _, wait in ipairs(waits.list) do
    if is_chosen(wait.name) then
      support.it_outside(wait.name .. ", whatever ends it", function()
        local names = {}
        for _, name in ipairs(once.names(wait.open)) do
          if name ~= "a cancel" then names[#names + 1] = name end -- it has no task
        end
        once.at_each(wait.open, names, check_main)
      end, 30)
    end
  end
end)

-- ---- wire.stop -----------------------------------------------------------------------

describe("wire.stop ends no wait:", function()
  for _, wait in ipairs(waits.list) do
    if is_chosen(wait.name) then
      support.it_outside(wait.name .. " goes on when the loop does", function()
        local place, w
        wire.run(function()
          place = wait.open()
          w = once.watch(place.call)
          w:check_waits()
        end)
        wire.spawn(wire.stop)
        wire.run()
        assert.same({ 0, "waiting" }, { w.times, w.task:status() })
        wire.run(function()
          w:check_waits()
          w.task:cancel()
          assert.equal("CANCELED", w:await(true))
          w:check_rest()
          place.close()
        end)
      end)
    end
  end
end)

-- ---- the end of the script -----------------------------------------------------------

-- Every call at once, in a process of its own, which then ends in some way.
local SCRIPT <const> = [[
  local wire = require "lunewire"
  local waits = require "spec.waits"
  local places, waiting = {}, 0
  wire.run(function()
    for i, wait in ipairs(waits.list) do
      local place = wait.open()
      places[i] = place
      wire.spawn(function()
        place.call()
        print("resumed", wait.name)
      end)
    end
    for _ = 1, 20 do wire.sleep(0.001) end
  end)
  io.write(#places, "\n"):flush()
]]

local ENDS = {
  ["returns"] = { "", 0 },
  ["returns with a finalizer that collects"] =
    { "setmetatable({}, { __gc = function() places = nil collectgarbage() end })", 0 },
  ["ends by os.exit(0, true)"] = { "os.exit(0, true)", 0 },
  ["ends by os.exit(0, true) in a task"] = { "wire.run(os.exit, 0, true)", 0 },
  ["ends by an error"] = { "error('the end', 0)", 1 },
}

describe("the end of a script resumes no call that waits, if it", function()
  for name, how in pairs(ENDS) do
    support.it(name, function()
      local output, status = support.lua(SCRIPT .. how[1]):output()
      local expected = #waits.list .. "\n" .. (how[2] == 1 and "lua5.4: the end\n" or "")
      assert.same({ expected, how[2] }, { (output:gsub("stack traceback.*", "")), status })
    end, 30)
  end
end)
