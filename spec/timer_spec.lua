-- wire.after and wire.every.
-- What this is not: timeouts and deadlines of other calls, wire.sleep (run_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises = support.raises

-- Waits until test() is true; the test's own limit ends it otherwise.
local function await(test)
  while not test() do wire.sleep(0.002) end
end

describe("wire.after", function()
  support.it("calls the function once, after the time, with its arguments", function()
    local start, calls, elapsed, arguments = wire.now(), 0, nil, nil
    wire.after(0.03, function(...)
      calls = calls + 1
      elapsed = wire.now() - start
      arguments = table.pack(...)
    end, "a", nil, 3, nil)
    wire.sleep(0.08)
    assert.equal(1, calls)
    assert.is_true(elapsed >= 0.029 and elapsed < 5)
    assert.same({ n = 4, "a", nil, 3, nil }, arguments)
  end)

  for _, seconds in ipairs { 0, -1 } do
    support.it(("(%d) calls it as soon as the caller waits, not before"):format(seconds), function()
      local called = false
      wire.after(seconds, function() called = true end)
      assert.is_false(called)
      await(function() return called end)
    end)
  end

  support.it("runs the function in a task of its own, which may wait", function()
    local steps = {}
    wire.after(0, function()
      steps[#steps + 1] = "begin"
      await(function() return steps[2] == "other" end)
      steps[#steps + 1] = "end"
    end)
    wire.after(0.01, function() steps[#steps + 1] = "other" end)
    await(function() return #steps == 3 end)
    assert.same({ "begin", "other", "end" }, steps)
  end)

  support.it("calls functions that are due at the same time in the order they were set", function()
    local order, expected = {}, {}
    local seconds = 0.02
    for i = 1, 100 do
      expected[i] = i
      wire.after(seconds, function() order[#order + 1] = i end)
    end
    await(function() return #order == 100 end)
    assert.same(expected, order)
  end)

  support.it("calls functions in the order in which they are due", function()
    local order = {}
    for _, ms in ipairs { 30, 10, 20, 5, 25 } do
      wire.after(ms / 1000, function() order[#order + 1] = ms end)
    end
    await(function() return #order == 5 end)
    assert.same({ 5, 10, 20, 25, 30 }, order)
  end)

  support.it("takes a callable object", function()
    local got
    wire.after(0, setmetatable({}, { __call = function(_, x) got = x end }), 5)
    await(function() return got end)
    assert.equal(5, got)
  end)

  support.it("fires although nothing refers to the timer", function()
    local fired = false
    wire.after(0.01, function() fired = true end)
    collectgarbage()
    collectgarbage()
    await(function() return fired end)
  end)

  support.it("lets timer, function and arguments be collected after the call", function()
    local weak = setmetatable({}, { __mode = "k" })
    do
      local object = {}
      weak[object] = true
      local timer = wire.after(0, function() weak[object] = "ran" end, object)
      weak[timer] = true
    end
    wire.sleep(0.01)
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)

  support.it("sends an error to on_error", function()
    wire.after(0, error, "in a timer")
    wire.sleep(0.01)
    local list = support.take_errors()
    assert.equal(1, #list)
    assert.equal("in a timer", list[1].err)
  end)

  support.it("with math.huge never fires and can be cancelled", function()
    local timer = wire.after(math.huge, error, "never")
    wire.sleep(0.01)
    timer:cancel()
  end)

  support.it("holds two thousand timers and fires each", function()
    local fired = 0
    for i = 1, 2000 do wire.after(i % 50 / 1000, function() fired = fired + 1 end) end
    await(function() return fired == 2000 end)
  end)
end)

describe("timer:cancel", function()
  support.it("before the time keeps the function from being called", function()
    local called = false
    local timer = wire.after(0.01, function() called = true end)
    timer:cancel()
    timer:cancel()
    wire.sleep(0.03)
    assert.is_false(called)
  end)

  support.it("after the call is harmless", function()
    local called = false
    local timer = wire.after(0, function() called = true end)
    await(function() return called end)
    timer:cancel()
  end)

  support.it("of one of several leaves the others", function()
    local order, timers = {}, {}
    for i = 1, 5 do timers[i] = wire.after(0.01, function() order[#order + 1] = i end) end
    timers[1]:cancel()
    timers[3]:cancel()
    timers[5]:cancel()
    await(function() return #order > 1 end)
    wire.sleep(0)
    assert.same({ 2, 4 }, order)
  end)

  support.it("by a function that is due just before is heard", function()
    local called = false
    local second
    wire.after(0.01, function() second:cancel() end)
    second = wire.after(0.011, function() called = true end)
    wire.sleep(0.03)
    assert.is_false(called)
  end)

  support.it("in its own function lets that run go on", function()
    local runs, ended = 0, 0
    local timer
    timer = wire.every(0.005, function()
      runs = runs + 1
      timer:cancel()
      wire.sleep(0.02)
      ended = ended + 1
    end)
    support.eventually(function() return ended > 0 end)
    wire.sleep(0.02) -- it would have run again
    assert.same({ 1, 1 }, { runs, ended })
  end)

  for _, seconds in ipairs { 1e6, math.huge } do
    support.it(("lets timer and function be collected, set for %g s"):format(seconds), function()
      local weak = setmetatable({}, { __mode = "k" })
      do
        local object = {}
        local timer = wire.after(seconds, function() return object end)
        weak[object], weak[timer] = true, true
        timer:cancel()
      end
      collectgarbage()
      collectgarbage()
      assert.is_nil(next(weak))
    end)
  end

  support.it("raises for a wrong self", function()
    local timer = wire.after(0, function() end)
    raises("Timer", timer.cancel, {})
    raises("Timer", timer.cancel)
    timer:cancel()
  end)
end)

describe("wire.every", function()
  support.it("calls the function again and again with its arguments", function()
    local calls = {}
    local timer = wire.every(0.005, function(...) calls[#calls + 1] = table.pack(...) end, 1, nil)
    await(function() return #calls >= 3 end)
    timer:cancel()
    for i = 1, 3 do assert.same({ n = 2, 1, nil }, calls[i]) end
  end)

  support.it("beats finer than 100 ms (trap: a clock that ticks ten times a second)", function()
    local start, calls = wire.now(), 0
    local timer = wire.every(0.005, function() calls = calls + 1 end)
    await(function() return calls >= 20 end)
    timer:cancel()
    assert.is_true(wire.now() - start < 1.9)
  end)

  support.it("stops for good once it is cancelled (trap: a heartbeat that nothing ends)", function()
    local calls = 0
    local timer = wire.every(0.005, function() calls = calls + 1 end)
    await(function() return calls >= 2 end)
    timer:cancel()
    local seen = calls
    wire.sleep(0.03)
    assert.equal(seen, calls)
  end)

  support.it("first calls it after one interval", function()
    local start, first = wire.now(), nil
    local timer = wire.every(0.03, function() first = first or wire.now() - start end)
    await(function() return first end)
    timer:cancel()
    assert.is_true(first >= 0.029)
  end)

  support.it("beats no faster than its interval", function()
    local start, calls = wire.now(), 0
    local timer = wire.every(0.02, function() calls = calls + 1 end)
    await(function() return calls >= 10 end)
    timer:cancel()
    local elapsed = wire.now() - start
    assert.is_true(elapsed >= 0.198, "ten beats took " .. elapsed)
  end)

  support.it("skips the beats while its last run is not over, and never makes up", function()
    local start, at_once, most, runs = wire.now(), 0, 0, 0
    local timer = wire.every(0.01, function()
      runs = runs + 1
      at_once = at_once + 1
      most = math.max(most, at_once)
      wire.sleep(0.035)
      at_once = at_once - 1
    end)
    await(function() return runs >= 3 end)
    timer:cancel()
    local elapsed, seen = wire.now() - start, runs
    assert.equal(1, most)
    assert.is_true(elapsed >= 0.079, "the third run came after " .. elapsed)
    await(function() return at_once == 0 end)
    assert.equal(seen, runs)
  end)

  support.it("is not ended by an error, which is reported each time", function()
    local calls = 0
    local timer = wire.every(0.005, function()
      calls = calls + 1
      error("beat " .. calls, 0)
    end)
    await(function() return calls >= 3 end)
    timer:cancel()
    local texts = {}
    for i, e in ipairs(support.take_errors()) do texts[i] = e.err end
    local expected = {}
    for i = 1, calls do expected[i] = "beat " .. i end
    assert.same(expected, texts)
  end)

  support.it("goes on although nothing refers to the timer", function()
    local calls, stop = 0, false
    do
      local timer
      timer = wire.every(0.005, function()
        calls = calls + 1
        if stop then timer:cancel() end
      end)
    end
    wire.sleep(0)
    collectgarbage()
    collectgarbage()
    await(function() return calls >= 2 end)
    stop = true
    local seen = calls
    await(function() return calls > seen end)
  end)

  support.it("does not call once for each beat that a busy task let pass", function()
    local calls = 0
    local timer = wire.every(0.005, function() calls = calls + 1 end)
    local due = wire.now() + 0.1
    while wire.now() < due do end
    wire.sleep(0)
    wire.sleep(0)
    assert.is_true(calls <= 2, "calls: " .. calls)
    timer:cancel()
  end)

  support.it("keeps no task from running, however short the interval", function()
    local calls = 0
    local timer = wire.every(1e-9, function() calls = calls + 1 end)
    local task = wire.spawn(function()
      for _ = 1, 100 do wire.sleep(0) end
      return "done"
    end)
    assert.same({ true, "done" }, { task:join(5) })
    timer:cancel()
  end)
end)

describe("wire.after and wire.every", function()
  support.it("raise for what is not a number of seconds", function()
    for _, name in ipairs { "after", "every" } do
      raises("number", wire[name], "x", print)
      raises("number", wire[name], nil, print)
      raises("number", wire[name], print)
      raises("number", wire[name], 0 / 0, print)
    end
  end)

  support.it("raise for what cannot be called", function()
    for _, name in ipairs { "after", "every" } do
      raises("function", wire[name], 1)
      raises("function", wire[name], 1, nil)
      raises("function", wire[name], 1, {})
      raises("function", wire[name], 1, "print")
    end
  end)

  support.it_outside("fire while the main chunk runs the loop", function()
    local beats, once = 0, 0
    local timer
    timer = wire.every(0.005, function()
      beats = beats + 1
      if beats == 3 then timer:cancel() end
    end)
    wire.after(0.001, function() once = once + 1 end)
    wire.run()
    assert.equal(3, beats)
    assert.equal(1, once)
  end)
end)
