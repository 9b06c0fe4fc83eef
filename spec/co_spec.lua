-- wire.co: Lua's own coroutines, for iterators that wait.
-- What this is not: plain coroutines and other places where Lua cannot wait (wait_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails
local co = wire.co

local function at_close(fn) return setmetatable({}, { __close = fn }) end

-- An iterator over 1..n that waits before each.
local function slow_count(n)
  return co.wrap(function()
    for i = 1, n do
      wire.sleep(0.001)
      coroutine.yield(i)
    end
  end)
end

local function collect(iterator)
  local list = {}
  for value in iterator do list[#list + 1] = value end
  return list
end

-- Both where a task waits and where the main chunk turns the loop.
local function it_anywhere(title, body)
  support.it(title .. ", in a task", body)
  support.it_outside(title .. ", in the main chunk", body)
end

describe("wire.co.wrap", function()
  it_anywhere("lets a generator wait between its yields", function()
    assert.same({ 1, 2, 3 }, collect(slow_count(3)))
  end)

  it_anywhere("passes values both ways, nil among them, across waits", function()
    local step = co.wrap(function(...)
      local got = table.pack(...)
      for _ = 1, 3 do
        wire.sleep(0)
        got = table.pack(coroutine.yield(table.unpack(got, 1, got.n)))
      end
      return "end", nil
    end)
    assert.same({ n = 3, 1, nil, nil }, table.pack(step(1, nil, nil)))
    assert.same({ n = 0 }, table.pack(step()))
    assert.same({ n = 2, nil, "x" }, table.pack(step(nil, "x")))
    assert.same({ n = 2, "end", nil }, table.pack(step()))
  end)

  it_anywhere("passes hundreds of values", function()
    local list = {}
    for i = 1, 240 do list[i] = i end
    local step = co.wrap(function(...)
      wire.sleep(0)
      return select("#", coroutine.yield(...))
    end)
    assert.same(list, { step(table.unpack(list)) })
    assert.equal(240, step(table.unpack(list)))
  end)

  it_anywhere("nests: a wait in the innermost leaves each one's own yields alone", function()
    local function doubled(inner)
      return co.wrap(function()
        for value in inner do
          wire.sleep(0)
          coroutine.yield(value * 2)
        end
      end)
    end
    assert.same({ 8, 16, 24 }, collect(doubled(doubled(doubled(slow_count(3))))))
  end)

  it_anywhere("goes with Lua's own generators inside that do not wait", function()
    local outer = co.wrap(function()
      local inner = coroutine.wrap(function()
        for i = 1, 3 do coroutine.yield(i) end
      end)
      for i in inner do
        wire.sleep(0)
        coroutine.yield(i)
      end
    end)
    assert.same({ 1, 2, 3 }, collect(outer))
  end)

  it_anywhere("turns a connection's lines into a generator", function()
    local client, server = wire.pipe()
    local writer = wire.spawn(function()
      for i = 1, 3 do
        client:send("line ", i, "\n")
        wire.sleep(0.001)
      end
      client:close()
    end)
    local upper = co.wrap(function()
      for line in server:lines() do coroutine.yield(line:upper()) end
    end)
    assert.same({ "LINE 1", "LINE 2", "LINE 3" }, collect(upper))
    writer:join()
    server:close()
  end)

  it_anywhere("raises an error with the positions of both sides, as Lua's does", function()
    local function body()
      wire.sleep(0)
      error "inside"
    end
    local text = raises("inside$", co.wrap(body))
    assert.matches("co_spec.lua:%d+: inside$", text)
    local _, of_lua = pcall(function() coroutine.wrap(function() error "inside" end)() end)
    local _, of_ours = pcall(function() co.wrap(body)() end)
    assert.equal(of_lua:gsub("%d+", "N"), (of_ours:gsub("%d+", "N")))
  end)

  it_anywhere("raises an error object as it is", function()
    for _, value in ipairs { {}, false, print, 12 } do
      local ok, err = pcall(co.wrap(function()
        wire.sleep(0)
        error(value)
      end))
      assert.is_false(ok)
      assert.equal(value, err)
    end
  end)

  it_anywhere("closes the generator's <close> variables when it dies of an error", function()
    local closed_with
    raises("inside", co.wrap(function()
      local _ <close> = at_close(function(_, err) closed_with = err end)
      wire.sleep(0)
      error("inside", 0)
    end))
    assert.equal("inside", closed_with)
  end)

  it_anywhere("says of a dead generator what Lua says", function()
    local finished = co.wrap(function() wire.sleep(0) end)
    finished()
    raises("cannot resume dead coroutine", finished)
    local failed = co.wrap(function() error "once" end)
    raises("once", failed)
    raises("cannot resume dead coroutine", failed)
  end)

  support.it("lets other tasks run while a generator waits", function()
    local lists = {}
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = wire.spawn(function() lists[i] = collect(slow_count(4)) end)
    end
    for i, task in ipairs(tasks) do
      assert.is_true((task:join()))
      assert.same({ 1, 2, 3, 4 }, lists[i])
    end
  end)

  support.it("keeps timeouts inside a generator", function()
    local a, b = wire.pipe()
    local step = co.wrap(function() coroutine.yield(b:recv(1, 0.01)) end)
    fails("ETIMEDOUT", step())
    a:close()
    b:close()
  end)

  support.it("lets a generator be handed from one task to another", function()
    local step = slow_count(2)
    local first = wire.spawn(step)
    assert.same({ true, 1 }, { first:join() })
    local second = wire.spawn(step)
    assert.same({ true, 2 }, { second:join() })
  end)

  support.it("lets a generator that was abandoned be collected", function()
    local weak = setmetatable({}, { __mode = "k" })
    do
      local step = slow_count(5)
      weak[step] = true
      step()
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)

  support.it("raises Lua's error where coroutines are nested too deep", function()
    local function descend(n)
      if n > 0 then co.wrap(descend)(n - 1) end
      wire.sleep(0)
    end
    raises("overflow", descend, 1000)
    descend(20)
  end)
end)

describe("wire.co.create and resume", function()
  it_anywhere("return true and the values, then false and Lua's message", function()
    local thread = co.create(function(a)
      wire.sleep(0.001)
      local b = coroutine.yield(a + 1)
      wire.sleep(0.001)
      return b, nil
    end)
    assert.equal("thread", type(thread))
    assert.same({ true, 2 }, { co.resume(thread, 1) })
    assert.equal("suspended", coroutine.status(thread))
    assert.same({ n = 3, true, "b", nil }, table.pack(co.resume(thread, "b")))
    assert.equal("dead", coroutine.status(thread))
    assert.same({ false, "cannot resume dead coroutine" }, { co.resume(thread) })
  end)

  it_anywhere("return false and the error value, with its position", function()
    local value = {}
    local function body(x)
      wire.sleep(0)
      error(x)
    end
    local thread = co.create(body)
    assert.same({ false, value }, { co.resume(thread, value) })
    assert.equal("dead", coroutine.status(thread))
    local ok, err = co.resume(co.create(body), "text")
    assert.is_false(ok)
    assert.matches("^[^:]*co_spec.lua:%d+: text$", err)
  end)

  it_anywhere("go with Lua's coroutine functions", function()
    local body = function(x) return coroutine.yield(x) end
    local ours, of_lua = co.create(body), coroutine.create(body)
    assert.same({ true, 1 }, { coroutine.resume(ours, 1) })
    assert.same({ true, 2 }, { co.resume(ours, 2) })
    assert.same({ true, 3 }, { co.resume(of_lua, 3) })
    assert.is_true(coroutine.close(of_lua))
    assert.same({ false, "cannot resume dead coroutine" }, { co.resume(of_lua) })
  end)

  support.it("let Lua's own coroutine wait if wire.co resumes it", function()
    local thread = coroutine.create(function()
      wire.sleep(0.001)
      return "waited"
    end)
    assert.same({ true, "waited" }, { co.resume(thread) })
  end)

  support.it("refuse a coroutine that is running, or that resumes it", function()
    local thread
    thread = co.create(function() return co.resume(thread) end)
    assert.same({ true, false, "cannot resume non-suspended coroutine" }, { co.resume(thread) })
    local outer
    outer = co.create(function() return co.wrap(function() return co.resume(outer) end)() end)
    assert.same({ true, false, "cannot resume non-suspended coroutine" }, { co.resume(outer) })
  end)

  support.it("refuse a coroutine that waits for another task, which is not disturbed", function()
    local thread = co.create(function()
      wire.sleep(0.02)
      return "to the first"
    end)
    local first = wire.spawn(co.resume, thread)
    wire.sleep(0.001)
    local ok, message = co.resume(thread)
    assert.is_false(ok)
    assert.matches("non%-suspended", message)
    assert.same({ true, true, "to the first" }, { first:join() })
  end)

  support.it("raise for what is no coroutine and no function", function()
    raises("coroutine", co.resume)
    raises("coroutine", co.resume, print)
    raises("function", co.create)
    raises("function", co.create, {})
    raises("function", co.wrap, nil)
    raises("function", co.wrap, 12)
  end)
end)

describe("a generator of wire.co that waits", function()
  local WAIT <const> = 0.2

  -- -> a coroutine that waits, and the task which waits with it
  local function waiting_generator()
    local thread = co.create(function() wire.sleep(WAIT) end)
    local task = wire.spawn(co.resume, thread)
    wire.sleep(0)
    assert.equal("waiting", task:status())
    return thread, task
  end

  support.it("and that another resumes by Lua's coroutine.resume does no harm", function()
    local thread, task = waiting_generator()
    coroutine.resume(thread)
    task:join(5)
    assert.equal("done", task:status())
    assert.equal("dead", coroutine.status(thread))
  end)

  support.it("and that another closes does no harm", function()
    local thread, task = waiting_generator()
    coroutine.close(thread)
    task:join(5)
    assert.equal("done", task:status())
    wire.sleep(WAIT) -- until its time would have come
  end)

  support.it("can be cancelled: it sees wire.CANCELED, and so does the task", function()
    local seen
    local task = wire.spawn(function()
      for _ in co.wrap(function()
        local ok, err = pcall(wire.sleep, 1e6)
        seen = not ok and err
        error(err, 0)
      end) do end
    end)
    wire.sleep(0)
    task:cancel()
    fails("ECANCELED", task:join())
    assert.equal(wire.CANCELED, seen)
  end)
end)
