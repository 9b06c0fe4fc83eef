-- Tasks: spawn, join, cancel, status, and where their errors go.
-- What this is not: calls that cannot wait where they stand (wait_spec), the loop (run_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

-- An object that calls fn when its scope ends.
local function at_close(fn) return setmetatable({}, { __close = fn }) end

-- A task that waits until it is cancelled; -> the task, already waiting.
local function waiting_task()
  local task = wire.spawn(wire.sleep, 1e6)
  wire.sleep(0)
  assert.equal("waiting", task:status())
  return task
end

local function the_only_error()
  local list = support.take_errors()
  assert.equal(1, #list)
  return list[1]
end

describe("wire.spawn", function()
  support.it("runs the function only once the caller waits", function()
    local ran = false
    local task = wire.spawn(function() ran = true end)
    assert.is_false(ran)
    task:join()
    assert.is_true(ran)
  end)

  support.it("runs tasks in the order in which they were spawned", function()
    local order = {}
    for i = 1, 5 do wire.spawn(function() order[#order + 1] = i end) end
    wire.sleep(0)
    assert.same({ 1, 2, 3, 4, 5 }, order)
  end)

  support.it("passes its arguments, nil among them", function()
    local got
    local task = wire.spawn(function(...) got = table.pack(...) end, nil, "a", nil, 4, nil)
    task:join()
    assert.same({ n = 5, nil, "a", nil, 4, nil }, got)
  end)

  support.it("passes hundreds of arguments and results", function()
    local list = {}
    for i = 1, 240 do list[i] = i end
    local results = table.pack(wire.spawn(function(...) return ... end, table.unpack(list)):join())
    assert.is_true(table.remove(results, 1))
    assert.equal(241, results.n)
    results.n = nil
    assert.same(list, results)
  end)

  support.it("takes a callable object", function()
    local object = setmetatable({}, { __call = function(self, x) return self, x end })
    local ok, self, x = wire.spawn(object, 7):join()
    assert.is_true(ok)
    assert.equal(object, self)
    assert.equal(7, x)
  end)

  support.it("may be called by a task that was spawned, a thousand deep", function()
    local function descend(n)
      if n == 0 then return "bottom" end
      return select(2, wire.spawn(descend, n - 1):join())
    end
    assert.equal("bottom", descend(1000))
  end)

  support.it("raises for what cannot be called", function()
    raises("function", wire.spawn)
    raises("function", wire.spawn, nil)
    raises("function", wire.spawn, 12)
    raises("function", wire.spawn, {})
  end)

  support.it("keeps a task alive that nothing refers to", function()
    local ended = false
    wire.spawn(function()
      wire.sleep(0.01)
      ended = true
    end)
    wire.sleep(0)
    collectgarbage()
    collectgarbage()
    while not ended do wire.sleep(0.005) end
    assert.is_true(ended)
  end)

  support.it("lets a task that has ended be collected with its results", function()
    local weak = setmetatable({}, { __mode = "v" })
    weak.task = wire.spawn(function()
      weak.result = {}
      return weak.result
    end)
    wire.sleep(0)
    collectgarbage()
    collectgarbage()
    assert.same({}, weak)
  end)
end)

describe("task:join", function()
  support.it("returns true and the results, nil among them", function()
    local results = table.pack(wire.spawn(function() return 1, nil, "x", nil end):join())
    assert.same({ n = 5, true, 1, nil, "x", nil }, results)
  end)

  support.it("returns just true for a function without results", function()
    assert.same({ n = 1, true }, table.pack(wire.spawn(function() end):join()))
  end)

  support.it("returns the same results each time", function()
    local value = {}
    local task = wire.spawn(function() return value, 2 end)
    for _ = 1, 3 do assert.same({ true, value, 2 }, { task:join() }) end
  end)

  support.it("gives every one of several joiners the results", function()
    local task = wire.spawn(function()
      wire.sleep(0.01)
      return "shared"
    end)
    local joiners = {}
    for i = 1, 10 do joiners[i] = wire.spawn(function() return task:join() end) end
    for _, joiner in ipairs(joiners) do assert.same({ true, true, "shared" }, { joiner:join() }) end
  end)

  support.it("returns ETIMEDOUT when the task outlasts the timeout, which goes on", function()
    local go = false
    local task = wire.spawn(function()
      while not go do wire.sleep(0.005) end
      return "late"
    end)
    local start = wire.now()
    local message = fails("ETIMEDOUT", task:join(0.05))
    assert.matches("join", message)
    assert.is_true(wire.now() - start >= 0.04)
    assert.is_not_equal("done", task:status())
    go = true
    assert.same({ true, "late" }, { task:join(5) })
  end)

  support.it("with a timeout of zero or less only looks", function()
    local task = wire.spawn(function() return 5 end)
    fails("ETIMEDOUT", task:join(0))
    fails("ETIMEDOUT", task:join(-1))
    wire.sleep(0)
    assert.same({ true, 5 }, { task:join(0) })
    assert.same({ true, 5 }, { task:join(-1) })
  end)

  support.it("with math.huge waits as long as it takes", function()
    assert.same({ true, 5 }, { wire.spawn(function() return 5 end):join(math.huge) })
  end)

  support.it("returns nil, the traceback, EERROR and the error value of a failed task", function()
    local value = {}
    local function culprit() error(value) end
    local task = wire.spawn(function() culprit() end)
    for _ = 1, 2 do
      local message, err = fails("EERROR", task:join())
      assert.matches("stack traceback", message)
      assert.matches("task_spec.lua:%d+", message)
      assert.equal(value, err)
    end
  end)

  support.it("returns ECANCELED for a cancelled task, each time", function()
    local task = waiting_task()
    task:cancel()
    for _ = 1, 2 do assert.matches("cancel", (fails("ECANCELED", task:join()))) end
  end)

  support.it("raises when a task joins itself", function()
    local task
    task = wire.spawn(function() return pcall(task.join, task) end)
    local ok, joined, err = task:join()
    assert.is_true(ok)
    assert.is_false(joined)
    assert.matches("itself", err)
  end)

  support.it("raises for a wrong self and a wrong timeout", function()
    local task = wire.spawn(function() end)
    raises("Task", task.join, {})
    raises("Task", task.join)
    raises("number", task.join, task, "soon")
    raises("number", task.join, task, {})
    raises("number", task.join, task, 0 / 0)
  end)

  support.it_outside("of two tasks by each other keeps no run going; cancel ends both", function()
    local a, b
    a = wire.spawn(function() return b:join() end)
    b = wire.spawn(function() return a:join() end)
    wire.run()
    assert.equal("waiting", a:status())
    a:cancel()
    fails("ECANCELED", a:join())
    assert.is_true((b:join()))
  end)
end)

describe("task:status", function()
  support.it("goes from ready over running and waiting to done", function()
    local inside
    local task
    task = wire.spawn(function()
      inside = task:status()
      wire.sleep(0.01)
    end)
    assert.equal("ready", task:status())
    wire.sleep(0)
    assert.equal("running", inside)
    assert.equal("waiting", task:status())
    task:join()
    assert.equal("done", task:status())
  end)

  support.it("is failed after an error, canceled after a cancel", function()
    local failed = wire.spawn(error, "oops")
    failed:join()
    assert.equal("failed", failed:status())
    local canceled = waiting_task()
    canceled:cancel()
    canceled:join()
    assert.equal("canceled", canceled:status())
  end)

  support.it("is part of tostring", function()
    local task = wire.spawn(function() end)
    assert.matches("ready", tostring(task))
    task:join()
    assert.matches("done", tostring(task))
  end)
end)

describe("an uncaught error", function()
  support.it("of a task that nobody joins goes to on_error with traceback and task", function()
    local function culprit() error "oops" end
    local task = wire.spawn(function() culprit() end)
    wire.sleep(0)
    local report = the_only_error()
    assert.matches("task_spec.lua:%d+: oops", report.err)
    assert.matches("oops.*stack traceback.*task_spec.lua", report.traceback)
    assert.equal(task, report.task)
  end)

  support.it("of a joined task is not reported", function()
    fails("EERROR", wire.spawn(error, "for the joiner"):join())
    assert.same({}, support.take_errors())
  end)

  support.it("is reported if the join had timed out before", function()
    local task = wire.spawn(function()
      wire.sleep(0.02)
      error "after the join"
    end)
    fails("ETIMEDOUT", task:join(0))
    wire.sleep(0.05)
    assert.matches("after the join", the_only_error().err)
  end)

  support.it("can be joined after it was reported", function()
    local task = wire.spawn(error, "reported")
    wire.sleep(0)
    assert.equal("reported", the_only_error().err)
    local _, err = fails("EERROR", task:join())
    assert.equal("reported", err)
  end)

  support.it("ends its task alone", function()
    local survivor = wire.spawn(function()
      wire.sleep(0.01)
      return "alive"
    end)
    wire.spawn(error, "alone")
    assert.same({ true, "alive" }, { survivor:join() })
    the_only_error()
  end)

  support.it("may be an object of any type", function()
    local values = { false, 12, 1.5, "text", {}, print, coroutine.create(print), io.stdout }
    for _, value in ipairs(values) do
      local task = wire.spawn(error, value)
      local traceback, err = fails("EERROR", task:join())
      assert.matches(tostring(value), traceback, 1, true)
      assert.equal(value, err)
      wire.spawn(error, value)
      wire.sleep(0)
      assert.equal(value, the_only_error().err)
    end
  end)

  support.it("may be nil", function()
    local traceback, err = fails("EERROR", wire.spawn(error):join())
    assert.matches("nil", traceback)
    assert.is_nil(err)
    wire.spawn(error)
    wire.sleep(0)
    assert.is_nil(the_only_error().err)
  end)

  support.it("keeps its traceback while its <close> variables wait and others fail", function()
    local gate = wire.channel()
    local slow = wire.spawn(function()
      local _ <close> = at_close(function() gate:recv() end)
      error "the slow one"
    end)
    wire.sleep(0)
    for i = 1, 3 do wire.spawn(error, "quick " .. i) end
    wire.sleep(0)
    local joiner = wire.spawn(slow.join, slow)
    gate:send(true)
    assert.matches("the slow one.*stack traceback", (select(3, joiner:join())))
    assert.equal(3, #support.take_errors())
  end)

  support.it("in a <close> variable replaces the first one, and so does its traceback", function()
    local task = wire.spawn(function()
      local _ <close> = at_close(function() error "second" end)
      error "first"
    end)
    local traceback, err = fails("EERROR", task:join())
    assert.matches("second$", err)
    assert.matches("second.*stack traceback", traceback)
  end)

  support.it("is shown by its __tostring", function()
    local object = setmetatable({}, { __tostring = function() return "my own text" end })
    assert.matches("my own text", (fails("EERROR", wire.spawn(error, object):join())))
  end)

  support.it("may be an object whose __tostring raises or returns no string", function()
    local function raise() error "no text" end
    for _, tostring_of in ipairs { raise, function() return {} end } do
      local task = wire.spawn(error, setmetatable({}, { __tostring = tostring_of }))
      fails("EERROR", task:join())
      assert.equal("failed", task:status())
    end
  end)

  support.it("may be a stack overflow", function()
    local function overflow() return 1 + overflow() end
    support.without_collection(function()
      local traceback, err = fails("EERROR", wire.spawn(overflow):join())
      assert.matches("stack overflow", traceback)
      assert.matches("stack overflow", err)
      wire.spawn(overflow)
      wire.sleep(0)
    end)
    assert.matches("stack overflow", the_only_error().err)
  end)

  support.it("closes the <close> variables, whose functions may wait", function()
    local closed_with
    local task = wire.spawn(function()
      local _ <close> = at_close(function(_, err)
        wire.sleep(0.01)
        closed_with = err
      end)
      error("inside", 0)
    end)
    local _, err = fails("EERROR", task:join())
    assert.equal("inside", err)
    assert.equal("inside", closed_with)
  end)

  support.it("in __close takes the place of the error that closed it", function()
    local function die()
      local _ <close> = at_close(function() error("in close", 0) end)
      error("in body", 0)
    end
    wire.spawn(die)
    wire.sleep(0)
    assert.equal("in close", the_only_error().err)
    local _, err = fails("EERROR", wire.spawn(die):join())
    assert.equal("in close", err)
  end)

  support.it("in __close of a task that would have returned is its error", function()
    local task = wire.spawn(function()
      local _ <close> = at_close(function() error("in close", 0) end)
      return "never seen"
    end)
    local _, err = fails("EERROR", task:join())
    assert.equal("in close", err)
  end)
end)

describe("wire.on_error", function()
  support.it_outside("goes on after an error in its own function", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      wire.on_error(function(err) error("reporter: " .. err, 0) end)
      wire.spawn(error, "first")
      wire.spawn(error, "second")
      wire.after(0.01, print, "alive")
      wire.run()
    ]]
    local output, status = peer:output()
    assert.equal(0, status)
    assert.matches("reporter: first", output)
    assert.matches("reporter: second", output)
    assert.matches("alive", output)
  end)

  support.it_outside("goes on after a coroutine.yield in its own function", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      wire.on_error(coroutine.yield)
      wire.spawn(error, "first")
      wire.after(0.01, print, "alive")
      wire.run()
      print "over"
    ]]
    local output, status = peer:output()
    assert.equal(0, status)
    assert.matches("coroutine.yield", output)
    assert.matches("alive\nover\n$", output)
  end)

  support.it_outside("by default writes traceback and message to standard error", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      wire.spawn(function() error "to standard error" end)
      wire.spawn(error, setmetatable({}, { __tostring = function() return "an object" end }))
      wire.spawn(error)
      wire.run()
      print "done"
    ]]
    local output, status = peer:output()
    assert.equal(0, status)
    assert.matches("to standard error.*stack traceback", output)
    assert.matches("an object", output)
    assert.matches("done\n$", output)
  end)

  support.it("may wait in its function; the task is failed and can be joined", function()
    local reported
    wire.on_error(function(err)
      wire.sleep(0.01)
      reported = err
    end)
    local task = wire.spawn(error, "slowly reported")
    wire.sleep(0)
    local _, err = fails("EERROR", task:join(5))
    assert.equal("slowly reported", err)
    while not reported do wire.sleep(0.005) end
    assert.equal("failed", task:status())
    fails("EERROR", task:join(5))
  end)

  support.it("replaces the function that was there", function()
    local seen
    wire.on_error(function(err) seen = err end)
    wire.spawn(error, "to the new one")
    wire.sleep(0)
    assert.equal("to the new one", seen)
    assert.same({}, support.take_errors())
  end)

  support.it("raises for what cannot be called", function()
    raises("function", wire.on_error, "stderr")
    raises("function", wire.on_error, 1)
    raises(".", wire.on_error)
  end)
end)
