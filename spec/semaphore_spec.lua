-- Semaphores and mutexes: permits, and the order in which tasks get them.
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

-- Starts a task; -> the task, which has run until it waits or ends.
local function start(fn, ...)
  local task = wire.spawn(fn, ...)
  wire.sleep(0)
  return task
end

-- Keeps everybody from running, also the timers, until the seconds have passed.
local function block(seconds)
  local due = wire.now() + seconds
  while wire.now() < due do end
end

-- What a task's function returned, without the leading true.
local function results(task) return select(2, assert(task:join(5))) end

local function assert_canceled(task)
  local ok, err = results(task)
  assert.is_false(ok)
  assert.equal(wire.CANCELED, err)
end

-- Exactly this many permits are free, and stay so.
local function assert_free(n, semaphore)
  for _ = 1, n do assert.is_true(semaphore:acquire(0)) end
  fails("ETIMEDOUT", semaphore:acquire(0))
  for _ = 1, n do semaphore:release() end
end

local function it_anywhere(title, body)
  support.it(title .. ", in a task", body)
  support.it_outside(title .. ", in the main chunk", body)
end

describe("wire.semaphore", function()
  support.it("has as many permits as it was told; a mutex has one", function()
    assert_free(1, wire.semaphore(1))
    assert_free(5, wire.semaphore(5.0))
    assert_free(1, wire.mutex())
  end)

  support.it("raises for anything but a whole number of at least 1", function()
    raises("whole number >= 1", wire.semaphore, 0)
    raises("whole number >= 1", wire.semaphore, -1)
    raises("whole number >= 1", wire.semaphore, 1.5)
    raises("whole number >= 1", wire.semaphore, math.huge)
    raises("whole number >= 1", wire.semaphore, 0 / 0)
    raises("number of permits expected, got no value", wire.semaphore)
    raises("number of permits expected, got nil", wire.semaphore, nil)
    raises("number of permits expected, got string", wire.semaphore, "1")
  end)

  support.it("says in tostring how many are free", function()
    local semaphore = wire.semaphore(3)
    semaphore:acquire()
    assert.matches("^Semaphore %(2 of 3 free%): ", tostring(semaphore))
  end)

  support.it("raises for a wrong self and a wrong timeout", function()
    local semaphore = wire.semaphore(1)
    for _, method in ipairs { "acquire", "release", "with" } do
      raises("Semaphore expected", semaphore[method], {}, print)
      raises("Semaphore expected", semaphore[method], nil, print)
    end
    raises("number of seconds", semaphore.acquire, semaphore, "soon")
    raises("number of seconds", semaphore.acquire, semaphore, 0 / 0)
    assert_free(1, semaphore)
  end)
end)

describe("semaphore:acquire", function()
  it_anywhere("returns true at once while a permit is free", function()
    local semaphore = wire.semaphore(2)
    assert.is_true(semaphore:acquire())
    assert.is_true(semaphore:acquire(0))
    assert.equal("semaphore acquire: timed out", (fails("ETIMEDOUT", semaphore:acquire(0))))
    fails("ETIMEDOUT", semaphore:acquire(-1))
  end)

  it_anywhere("returns ETIMEDOUT when its time is over, and takes nothing", function()
    local semaphore = wire.mutex()
    semaphore:acquire()
    local began = wire.now()
    fails("ETIMEDOUT", semaphore:acquire(0.03))
    assert.is_true(wire.now() - began >= 0.03)
    semaphore:release()
    assert_free(1, semaphore)
  end)

  support.it("waits for a release, and serves the first first", function()
    local semaphore, order, tasks = wire.semaphore(2), {}, {}
    semaphore:acquire()
    semaphore:acquire()
    for i = 1, 5 do
      tasks[i] = start(function()
        semaphore:acquire()
        order[#order + 1] = i
        wire.sleep(0)
        semaphore:release()
      end)
    end
    wire.sleep(0)
    assert.same({}, order)
    semaphore:release()
    semaphore:release()
    for _, task in ipairs(tasks) do task:join() end
    assert.same({ 1, 2, 3, 4, 5 }, order)
    assert_free(2, semaphore)
  end)

  support.it("lets nobody overtake who waits, not even the releaser", function()
    local mutex = wire.mutex()
    mutex:acquire()
    local waiter = start(mutex.acquire, mutex)
    mutex:release()
    fails("ETIMEDOUT", mutex:acquire(0))
    assert.is_true(results(waiter))
    mutex:release()
    assert_free(1, mutex)
  end)

  support.it("gives several permits that are released at once to several", function()
    local semaphore, tasks = wire.semaphore(3), {}
    for _ = 1, 3 do semaphore:acquire() end
    for i = 1, 3 do tasks[i] = start(semaphore.acquire, semaphore) end
    for _ = 1, 3 do semaphore:release() end
    for _, task in ipairs(tasks) do assert.is_true(results(task)) end
    fails("ETIMEDOUT", semaphore:acquire(0))
  end)

  support.it("keeps a thousand tasks apart, in their order", function()
    local mutex, order, inside, tasks = wire.mutex(), {}, 0, {}
    for i = 1, 1000 do
      tasks[i] = wire.spawn(function()
        mutex:acquire()
        inside = inside + 1
        assert(inside == 1)
        if i % 3 == 0 then wire.sleep(0) end
        order[#order + 1] = i
        inside = inside - 1
        mutex:release()
      end)
    end
    for _, task in ipairs(tasks) do assert.is_true((task:join())) end
    assert.equal(1000, #order)
    for i = 1, 1000 do assert.equal(i, order[i]) end
    assert_free(1, mutex)
  end)

  support.it("that never waits lets others run all the same", function()
    local mutex, turns, over = wire.mutex(), 0, false
    local ticker = wire.spawn(function()
      while not over do
        turns = turns + 1
        wire.sleep(0)
      end
    end)
    for _ = 1, 5000 do
      assert.is_true(mutex:acquire())
      mutex:release()
    end
    over = true
    ticker:join()
    assert.is_true(turns >= 15)
  end)

  it_anywhere("waits inside coroutines of wire.co", function()
    local mutex = wire.mutex()
    mutex:acquire()
    wire.spawn(function()
      wire.sleep(0)
      mutex:release()
    end)
    local step = wire.co.wrap(function()
      coroutine.yield(mutex:acquire())
      return "end"
    end)
    assert.is_true(step())
    assert.equal("end", step())
  end)

  support.it("raises inside a plain coroutine and names wire.co, if it has to wait", function()
    local mutex = wire.mutex()
    assert.is_true(coroutine.wrap(function() return mutex:acquire() end)())
    raises("semaphore acquire: .*wire%.co", coroutine.wrap(function() mutex:acquire() end))
    mutex:release()
    assert_free(1, mutex)
  end)

  support.it_outside("raises a deadlock if nobody could ever release", function()
    local mutex = wire.mutex()
    mutex:acquire()
    raises("^deadlock: semaphore acquire", mutex.acquire, mutex)
    wire.spawn(mutex.release, mutex)
    assert.is_true(mutex:acquire())
  end)

  support.it_outside("does not keep wire.run going", function()
    local mutex = wire.mutex()
    mutex:acquire()
    local task = wire.spawn(mutex.acquire, mutex)
    wire.run()
    assert.equal("waiting", task:status())
    mutex:release()
    assert.is_true(results(task))
  end)
end)

describe("semaphore:release", function()
  support.it("raises beyond the number of permits, and changes nothing", function()
    for _, semaphore in ipairs { wire.mutex(), wire.semaphore(1) } do
      raises("released more often than acquired", semaphore.release, semaphore)
      assert_free(1, semaphore)
    end
    local two = wire.semaphore(2)
    two:acquire()
    two:release()
    raises("released more often than acquired", two.release, two)
    assert_free(2, two)
  end)

  support.it("may be called by another task than the one that acquired", function()
    local mutex = wire.mutex()
    mutex:acquire()
    wire.spawn(mutex.release, mutex):join()
    assert_free(1, mutex)
  end)

  support.it("returns nothing", function()
    local mutex = wire.mutex()
    mutex:acquire()
    assert.equal(0, select("#", mutex:release()))
  end)
end)

describe("a task that waits for a permit", function()
  local function held_mutex()
    local mutex = wire.mutex()
    mutex:acquire()
    return mutex
  end

  local function start_acquire(mutex, ...) return start(pcall, mutex.acquire, mutex, ...) end

  support.it("and is cancelled sees wire.CANCELED and leaves the line", function()
    local mutex = held_mutex()
    local first, second = start_acquire(mutex), start_acquire(mutex)
    first:cancel()
    assert_canceled(first)
    mutex:release()
    assert.same({ true, true }, { results(second) })
  end)

  support.it("and is cancelled after the release takes nothing; the next gets it", function()
    local mutex = held_mutex()
    local first, second = start_acquire(mutex), start_acquire(mutex)
    mutex:release()
    first:cancel()
    assert_canceled(first)
    assert.same({ true, true }, { results(second) })
    mutex:release()
    assert_free(1, mutex)
  end)

  support.it("and is cancelled before or after the release leaves the permit free", function()
    for _, release_first in ipairs { true, false } do
      local mutex = held_mutex()
      local task = start_acquire(mutex)
      if release_first then mutex:release() end
      task:cancel()
      if not release_first then mutex:release() end
      assert_canceled(task)
      assert_free(1, mutex)
    end
  end)

  support.it("and whose time ends after the release gets it all the same", function()
    local mutex = held_mutex()
    local task = start_acquire(mutex, 0.01)
    block(0.02)
    mutex:release()
    assert.same({ true, true }, { results(task) })
    mutex:release()
    assert_free(1, mutex)
  end)

  support.it("and whose time ends after the release leaves it to the next in line", function()
    local mutex = held_mutex()
    local first, second = start_acquire(mutex, 0.01), start_acquire(mutex)
    block(0.02)
    mutex:release()
    fails("ETIMEDOUT", select(2, results(first)))
    assert.same({ true, true }, { results(second) })
    mutex:release()
    assert_free(1, mutex)
  end)

  support.it("and whose coroutine is killed loses no permit and stops nobody", function()
    local mutex = held_mutex()
    local thread = wire.co.create(function() mutex:acquire() end)
    local task = start(wire.co.resume, thread)
    local second = start_acquire(mutex)
    coroutine.close(thread)
    mutex:release()
    assert.is_false((results(task)))
    assert.same({ true, true }, { results(second) })
    mutex:release()
    assert_free(1, mutex)
  end)

  support.it("of which all but it is collected is woken", function()
    local thread = wire.co.create(function()
      local mutex = wire.mutex()
      mutex:acquire()
      mutex:acquire()
    end)
    local task = start(wire.co.resume, thread)
    coroutine.close(thread)
    collectgarbage()
    collectgarbage()
    assert.is_false((results(task)))
  end)

  support.it_outside("may do so when the state is closed", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      local semaphore = wire.semaphore(1)
      for i = 1, 20 do
        wire.spawn(semaphore.acquire, semaphore, i % 2 == 0 and 1e6 or nil)
        wire.spawn(semaphore.with, semaphore, print, "never")
      end
      wire.run(wire.sleep, 0.001)
      print "over"
    ]]
    assert.same({ "over\n", 0 }, { peer:output() })
  end)
end)

describe("semaphore:with", function()
  it_anywhere("runs the function with its arguments and returns its results", function()
    local mutex = wire.mutex()
    local inside
    local got = table.pack(mutex:with(function(...)
      inside = { mutex:acquire(0) }
      return ...
    end, 1, nil, "x", nil))
    assert.same({ n = 4, 1, nil, "x", nil }, got)
    assert.equal("ETIMEDOUT", inside[3])
    assert.equal(0, select("#", mutex:with(function() end)))
    assert_free(1, mutex)
  end)

  support.it("takes a callable object, and raises for what cannot be called", function()
    local mutex = wire.mutex()
    local object = setmetatable({}, { __call = function(self, x) return self, x end })
    assert.same({ object, 7 }, { mutex:with(object, 7) })
    raises("^[^:]*semaphore_spec.lua:%d+: .*function expected, not nil", function()
      mutex:with()
    end)
    raises("function expected, not table", mutex.with, mutex, {})
    assert_free(1, mutex)
  end)

  support.it("lets the function wait, and others wait for it", function()
    local mutex, log, tasks = wire.mutex(), {}, {}
    for i = 1, 4 do
      tasks[i] = wire.spawn(mutex.with, mutex, function()
        log[#log + 1] = "in " .. i
        wire.sleep(0)
        log[#log + 1] = "out " .. i
      end)
    end
    for _, task in ipairs(tasks) do task:join() end
    local expected = {}
    for i = 1, 4 do
      expected[#expected + 1] = "in " .. i
      expected[#expected + 1] = "out " .. i
    end
    assert.same(expected, log)
  end)

  it_anywhere("releases after an error, which goes on as it is", function()
    local mutex, value = wire.mutex(), {}
    local ok, err = pcall(mutex.with, mutex, function()
      wire.sleep(0)
      error(value)
    end)
    assert.is_false(ok)
    assert.equal(value, err)
    assert_free(1, mutex)
  end)

  support.it("keeps the traceback of an error down to where it was raised", function()
    local mutex = wire.mutex()
    local function culprit() error "inside" end
    local task = wire.spawn(mutex.with, mutex, function() culprit() end)
    assert.matches("in upvalue 'culprit'", (fails("EERROR", task:join())))
    assert_free(1, mutex)
  end)

  support.it("releases when the task is cancelled inside, or while it waits for it", function()
    local mutex = wire.mutex()
    local inside = start(mutex.with, mutex, wire.sleep, 1e6)
    local waiting = start(mutex.with, mutex, print, "never")
    waiting:cancel()
    fails("ECANCELED", waiting:join())
    inside:cancel()
    fails("ECANCELED", inside:join())
    assert_free(1, mutex)
  end)

  support.it("releases when the task is cancelled at the moment of the hand-over", function()
    local mutex, ran = wire.mutex(), false
    mutex:acquire()
    local task = start(mutex.with, mutex, function() ran = true end)
    mutex:release()
    task:cancel()
    fails("ECANCELED", task:join())
    assert.is_false(ran)
    assert_free(1, mutex)
  end)

  support.it("works inside coroutines of wire.co, and releases when one is closed", function()
    local mutex = wire.mutex()
    local thread = wire.co.create(mutex.with)
    assert.same({ true, "held" }, { wire.co.resume(thread, mutex, function()
      wire.sleep(0)
      coroutine.yield "held"
    end) })
    fails("ETIMEDOUT", mutex:acquire(0))
    coroutine.close(thread)
    assert_free(1, mutex)
  end)
end)
