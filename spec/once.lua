-- Watching a call that waits: how often it resumes, with what, and whether the waits after it are
-- left alone.
-- What this is not: calls and what ends them (waits.lua); a test.
local assert = require "luassert"
local support = require "spec.support"
local waits = require "spec.waits"
local wire = require "lunewire"

local once = {}

local TURNS <const> = 6 -- of the loop, within which what happens in this process is told

local function turn(times)
  for _ = 1, times or TURNS do wire.sleep(0) end
end

-- ---- a watched call ------------------------------------------------------------------
-- A task makes the call, then three others that nothing but the test ends: a second resumption
-- would end one of those.

local Watch = {}
Watch.__index = Watch

function once.watch(call, ...)
  local mine, ours = wire.pipe()
  local w = setmetatable({ times = 0, ours = ours, gate = wire.channel(), later = {} }, Watch)
  local function note(...) w.later[#w.later + 1] = table.pack(pcall(...)) end
  w.task = wire.spawn(function(...)
    w.results = table.pack(pcall(call, ...))
    w.times = w.times + 1
    note(mine.recv, mine, 1)
    note(w.gate.recv, w.gate)
    note(wire.sleep, 1e6)
    mine:reset()
  end, ...)
  return w
end

-- The same in a coroutine of wire.co of that task, which somebody may close meanwhile.
function once.watch_in_coroutine(call, ...)
  local co = wire.co.create(call)
  local w = once.watch(wire.co.resume, co, ...)
  return w, co
end

function Watch:outcome() return waits.outcome(self.results) end

-- The call has begun, and has not returned.
function Watch:check_waits()
  turn(2)
  support.eventually(function() return self.task:status() == "waiting" end)
  assert.same({ 0, "waiting" }, { self.times, self.task:status() }, self.results and self:outcome())
end

-- Awaits the call's return -> what it said.  soon: within a few turns of the loop.
function Watch:await(soon)
  if soon then
    turn()
  else
    support.eventually(function() return self.times > 0 end)
  end
  assert.equal(1, self.times, "the call has not returned")
  return self:outcome()
end

-- The task's further waits end when they are to, and not before.
local function check_later(w)
  turn()
  local function check(n) assert.same({ n, 1 }, { #w.later, w.times }, "it was ended early") end
  check(0)
  w.ours:send "1"
  support.eventually(function() return #w.later > 0 end)
  assert.same({ true, "1", n = 2 }, w.later[1])
  turn()
  check(1)
  w.gate:send "2"
  turn()
  assert.same({ true, "2", n = 2 }, w.later[2])
  check(2)
  assert.equal("waiting", w.task:status())
  w.task:cancel()
  assert.is_true(w.task:join(5))
  assert.same({ false, wire.CANCELED, n = 2 }, w.later[3])
end

-- A task that was cancelled has no further waits: each raised it, too.
local function check_canceled(w)
  turn()
  assert.same({ 3, 1, "done" }, { #w.later, w.times, w.task:status() })
  for _, results in ipairs(w.later) do assert.same({ false, wire.CANCELED, n = 2 }, results) end
end

-- After the return: nothing disturbs the task any more.
function Watch:check_rest()
  if self.task:status() == "done" then check_canceled(self) else check_later(self) end
  self.ours:reset()
end

-- ---- what ends a wait -----------------------------------------------------------------

-- All that ends the wait at this place: cause -> { function of the place and the watched call,
-- codes... }.
function once.causes(place)
  local causes = { ["a cancel"] = { function(_, w) w.task:cancel() end, "CANCELED" } }
  if place.serve then causes["data"] = { function() place.serve() end, "served" } end
  if place.timed ~= false then
    causes["its timeout"] = { function() end, place.late or "ETIMEDOUT", timeout = 0.003 }
  end
  for name, cause in pairs(place.ends or {}) do causes[name] = cause end
  return causes
end

-- Their names, in order.
function once.names(open)
  local place, list = open(), {}
  for name in pairs(once.causes(place)) do list[#list + 1] = name end
  place.close()
  table.sort(list)
  return list
end

-- The outcome is one of the causes' codes.
function once.check_code(outcome, ...)
  local codes = {}
  for _, cause in ipairs { ... } do
    for i = 2, #cause do
      if cause[i] == outcome then return end
      codes[#codes + 1] = cause[i]
    end
  end
  error(("it said %s, not %s"):format(outcome, table.concat(codes, " or ")), 0)
end

-- Calls fn(place, name) at a new place for each name; raises what went wrong at any of them.
function once.at_each(open, names, fn)
  local failed = {}
  local check_bystander = once.bystander()
  for _, name in ipairs(names) do
    local place = open()
    local ok, err = pcall(fn, place, name)
    place.close()
    if not ok then failed[#failed + 1] = name .. ": " .. tostring(err) end
  end
  check_bystander()
  if failed[1] then error(table.concat(failed, "\n"), 0) end
end

-- ---- who is not meant ----------------------------------------------------------------

-- A wait on a connection of its own, which goes on until its function is called.
function once.bystander()
  local a, b = wire.pipe()
  local w = once.watch(a.recv, a, 1)
  return function()
    w:check_waits()
    b:send "!"
    assert.equal("served", w:await())
    w:check_rest()
    a:reset()
    b:reset()
  end
end

once.turn = turn

return once
