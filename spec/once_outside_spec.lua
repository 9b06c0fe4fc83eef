-- Exactly once, seen from outside any task: a call of the main chunk, which turns the loop itself;
-- waits that outlast wire.run, and those that the end of the script finds; lookups that never end.
-- What this is not: calls in tasks while the loop runs (once_spec).
local assert = require "luassert"
local describe = require("busted").describe
local namespace = require "spec.namespace"
local once = require "spec.once"
local support = require "spec.support"
local waits = require "spec.waits"
local wire = require "lunewire"

local CHOSEN <const> = waits.over { tcp = true, pipe = true, ["tls 1.3"] = true }

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
  for _, wait in ipairs(CHOSEN) do
    support.it_outside(wait.name .. ", whatever ends it", function()
      local names = {}
      for _, name in ipairs(once.names(wait.open)) do
        if name ~= "a cancel" then names[#names + 1] = name end -- it has no task
      end
      once.at_each(wait.open, names, check_main)
    end, 30)
  end
end)

-- ---- wire.stop -----------------------------------------------------------------------

describe("wire.stop ends no wait:", function()
  for _, wait in ipairs(CHOSEN) do
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
      local said = output:gsub("stack traceback.*", ""):gsub("[^\n]*/lua5", "lua5") -- its name
      assert.same({ expected, how[2] }, { said, status })
    end, 30)
  end
end)

-- ---- a name server that keeps silent -------------------------------------------------------

-- Each call is ended by a cancel, by its timeout, and with its coroutine.
local LOOKUPS <const> = [[
  local once = require "spec.once"
  local NAME = "nowhere.example"
  local calls = {
    resolve = function(timeout) return wire.resolve(NAME, timeout or 1000) end,
    connect = function(timeout) return wire.connect(NAME .. ":1", timeout or 1000) end,
    request = function(timeout) return wire.request(NAME .. ":1", "x", timeout or 1000) end,
    ["udp connect"] = function(timeout)
      local udp <close> = assert(wire.udp "127.0.0.1:0")
      return udp:connect(NAME .. ":1", timeout or 1000)
    end,
  }
  wire.run(function()
    for name, call in pairs(calls) do
      for cause_name, cause in pairs(once.causes { call = call }) do
        local w = once.watch(call, cause.timeout)
        if not cause.timeout then w:check_waits() end
        cause[1](nil, w)
        once.check_code(w:await(), cause)
        w:check_rest()
        local killed, co = once.watch_in_coroutine(call)
        killed:check_waits()
        assert(coroutine.close(co))
        collectgarbage()
        killed.task:cancel()
        killed:await(true)
        killed:check_rest()
        print(name, cause_name)
      end
    end
    for _, call in pairs(calls) do wire.spawn(function() print(call()) end) end
    wire.sleep(0.01) -- the script ends while they wait
  end)
]]

describe("exactly once, while the name server keeps silent:", function()
  support.it("lookups that are cancelled, time out, lose their coroutine or script", function()
    local lines = {}
    for line in namespace.run("", LOOKUPS, { dead_dns = true }):gmatch "[^\n]+" do
      lines[#lines + 1] = line
    end
    table.sort(lines)
    assert.same({ "connect\ta cancel", "connect\tits timeout", "request\ta cancel",
      "request\tits timeout", "resolve\ta cancel", "resolve\tits timeout",
      "udp connect\ta cancel", "udp connect\tits timeout" }, lines)
  end, 30)
end)
