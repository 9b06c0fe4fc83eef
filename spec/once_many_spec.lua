-- Exactly once, where more comes together: two ends at the same moment, several who wait at one
-- place, a coroutine that is closed in its wait.
-- What this is not: one end of one wait (once_spec).
local assert = require "luassert"
local describe = require("busted").describe
local once = require "spec.once"
local support = require "spec.support"
local waits = require "spec.waits"
local wire = require "lunewire"

local it = support.it

-- What transports and calls have in common needs no second look here.
local TWICE <const> = { ["recv_line"] = true, ["send"] = true, ["flush"] = true }
local CHOSEN <const> = waits.over { tcp = true, pipe = true, ["tls 1.3"] = TWICE }

-- ---- two ends at the same moment -----------------------------------------------------

-- Nothing turns the loop meanwhile.
local function let_pass(seconds)
  local due = wire.now() + seconds
  while wire.now() < due do end -- luacheck: ignore
end

-- The second may find that there is nothing left to end.
local function check_pair(place, first, second)
  local causes = once.causes(place)
  local a, b = causes[first], causes[second]
  local timeout = a.timeout or b.timeout
  local w = once.watch(place.call, timeout)
  if timeout then once.turn(2) else w:check_waits() end
  if timeout then let_pass(timeout) end
  a[1](place, w)
  pcall(b[1], place, w)
  once.check_code(w:await(), a, b)
  w:check_rest()
end

-- All pairs; on a slow machine some of them.
local STEP <const> = support.sized(1, 3, 10)

local function pairs_of(names)
  local list, ends, n = {}, {}, 0
  for _, a in ipairs(names) do
    for _, b in ipairs(names) do
      local name = a .. ", then " .. b
      n = n + 1
      if n % STEP == 0 then list[#list + 1], ends[name] = name, { a, b } end
    end
  end
  return list, ends
end

describe("exactly once, by two ends in one turn of the loop:", function()
  for _, wait in ipairs(CHOSEN) do
    it(wait.name, function()
      local list, ends = pairs_of(once.names(wait.open))
      once.at_each(wait.open, list, function(place, name)
        check_pair(place, table.unpack(ends[name]))
      end)
    end, 60)
  end
end)

-- ---- several at one place ------------------------------------------------------------

local function watch_three(place, timeout)
  local list = { once.watch(place.call, timeout) }
  once.turn(2)
  for i = 2, 3 do
    list[i] = once.watch(place.call)
    once.turn(2)
  end
  for i = timeout and 2 or 1, 3 do list[i]:check_waits() end
  return list
end

-- Those who are left are served in their order; what floods its place serves all of them at once.
local function serve(place, left)
  for i, w in ipairs(left) do
    place.serve()
    assert.equal("served", w:await())
    for j = i + 1, place.floods and i or #left do left[j]:check_waits() end
  end
end

local function check_rest(list)
  for _, w in ipairs(list) do w:check_rest() end
end

local SEVERAL = {
  ["a close ends each"] = function(place)
    local list = watch_three(place)
    local cause = place.ends.close
    cause[1]()
    for _, w in ipairs(list) do once.check_code(w:await(true), cause) end
    check_rest(list)
  end,
  ["a cancel ends the second one alone"] = function(place)
    local list = watch_three(place)
    list[2].task:cancel()
    assert.equal("CANCELED", list[2]:await(true))
    serve(place, { list[1], list[3] })
    check_rest(list)
  end,
  ["its timeout ends the first one alone"] = function(place)
    local list = watch_three(place, 0.01)
    assert.equal("ETIMEDOUT", list[1]:await())
    serve(place, { list[2], list[3] })
    check_rest(list)
  end,
  ["two are cancelled while the third is served"] = function(place)
    local list = watch_three(place)
    list[1].task:cancel()
    place.serve()
    list[3].task:cancel()
    once.check_code(list[1]:await(), { nil, "CANCELED", "served" })
    once.check_code(list[3]:await(), { nil, "CANCELED", "served" })
    if list[2].times == 0 then place.serve() end
    assert.equal("served", list[2]:await())
    check_rest(list)
  end,
  ["the closed coroutine of the first one holds up nobody"] = function(place)
    local killed, co = once.watch_in_coroutine(place.call)
    killed:check_waits()
    local list = { once.watch(place.call), once.watch(place.call) }
    for _, w in ipairs(list) do w:check_waits() end
    assert.is_true(coroutine.close(co))
    if place.hands_over then killed.task:cancel() end
    serve(place, list)
    killed.task:cancel()
    once.turn()
    assert.equal("end", killed:outcome())
    check_rest { killed, table.unpack(list) }
  end,
}

local function names_of(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

describe("exactly once, of three that wait:", function()
  for _, wait in ipairs(CHOSEN) do
    if wait.several then
      it(wait.name, function()
        once.at_each(wait.open, names_of(SEVERAL), function(at, name)
          if name:find "close ends" and not (at.ends or {}).close then return end
          if name:find "timeout" and at.timed == false then return end
          SEVERAL[name](at)
        end)
      end, 30)
    end
  end
end)

-- ---- a coroutine that is closed in its wait --------------------------------------------

-- It is over for its task at the latest when that is cancelled; the end itself comes to nobody.
local function check_killed(place, name)
  local cause = once.causes(place)[name]
  local w, co = once.watch_in_coroutine(place.call, cause.timeout)
  if cause.timeout then once.turn(2) else w:check_waits() end
  assert.is_true(coroutine.close(co))
  collectgarbage()
  pcall(cause[1], place, w)
  if cause.timeout then wire.sleep(cause.timeout) end
  once.turn()
  if w.times == 0 then w.task:cancel() end
  once.turn()
  assert.same({ true, false, "cannot resume dead coroutine", n = 3 }, w.results)
  w:check_rest()
end

describe("exactly once, if the coroutine of the call was closed meanwhile:", function()
  for _, wait in ipairs(CHOSEN) do
    it(wait.name, function()
      once.at_each(wait.open, once.names(wait.open), check_killed)
    end, 30)
  end
end)

-- ---- what comes up meanwhile -----------------------------------------------------------

-- Calls that nothing can hold up: they end by themselves, some turns after they began.  Each gives
-- the call, what it says, and the end of what it made.
local DIALS <const> = {
  ["a connect that succeeds"] = function()
    local server = assert(wire.listen "127.0.0.1:0")
    return wire.connect, server:addr(), "served", function() server:close() end
  end,
  ["a connect that is reset"] = function()
    local server = assert(wire.serve("127.0.0.1:0", function(conn) conn:reset() end))
    return wire.connect, server:addr(), "served", function() server:close() end
  end,
  ["a connect that is refused"] = function()
    local server = assert(wire.listen "127.0.0.1:0")
    local addr = server:addr()
    server:close()
    return wire.connect, addr, "ECONNREFUSED", function() end
  end,
  ["a connect to a name"] = function()
    local server = assert(wire.listen "127.0.0.1:0")
    return wire.connect, "localhost:" .. server:port(), "served", function() server:close() end
  end,
  ["a lookup"] = function() return wire.resolve, "localhost", "served", function() end end,
}

local ENDS <const> = {
  ["nothing"] = { function() end },
  ["a cancel"] = { function(w) w.task:cancel() end, "CANCELED" },
  ["its timeout"] = { function() let_pass(0.01) end, "ETIMEDOUT", timeout = 0.01 },
  ["a collection"] = { waits.collect },
}

-- The end comes so many turns after the call began, when what it waits for has happened, too.
local function check_dial(make, ending, turns)
  local call, addr, said, close = make()
  local w = once.watch(call, addr, ending.timeout or 1000)
  once.turn(turns)
  let_pass(0.003)
  ending[1](w)
  once.check_code(w:await(), { nil, said, ending[2] })
  once.turn() -- a cancel may have come to the waits behind it
  w:check_rest()
  if call == wire.connect and w:outcome() == "served" then w.results[2]:reset() end
  close()
end

describe("exactly once, ended in the turn in which it comes about:", function()
  for name, make in pairs(DIALS) do
    it(name, function()
      local check_bystander = once.bystander()
      for _, ending in pairs(ENDS) do
        for turns = 1, 5 do check_dial(make, ending, turns) end
      end
      check_bystander()
    end, 30)
  end
end)

-- ---- what is forgotten meanwhile -------------------------------------------------------

-- Nobody has the task, nor its coroutine: the wait goes on, and ends as any other.
local function check_forgotten(place)
  local results
  wire.spawn(function() results = table.pack(pcall(wire.co.wrap(place.call))) end)
  for _ = 1, 3 do
    once.turn(2)
    waits.collect()
  end
  assert.is_nil(results)
  place.serve()
  support.eventually(function() return results end)
  assert.equal("served", waits.outcome(results))
end

describe("exactly once, though its task was forgotten:", function()
  for _, wait in ipairs(CHOSEN) do
    it(wait.name, function()
      local place = wait.open()
      if place.serve then check_forgotten(place) end
      place.close()
    end, 30)
  end
end)
