-- task:cancel, in every place where a task may stand.
-- What this is not: other ways for a task to end (task_spec).
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local raises, fails = support.raises, support.fails

local function at_close(fn) return setmetatable({}, { __close = fn }) end

-- Runs fn(...) in a task, cancels it once it waits, waits for its end.
-- -> what pcall of fn returned; the task
local function cancel_in(fn, ...)
  local result
  local task = wire.spawn(function(...)
    result = table.pack(pcall(fn, ...))
    error(result[2], 0)
  end, ...)
  wire.sleep(0.01)
  assert.equal("waiting", task:status())
  task:cancel()
  fails("ECANCELED", task:join(5))
  return result, task
end

local function assert_canceled_in(fn, ...)
  local result, task = cancel_in(fn, ...)
  assert.is_false(result[1])
  assert.equal(wire.CANCELED, result[2])
  assert.equal("canceled", task:status())
end

describe("wire.CANCELED", function()
  support.it("is a value of its own that can be printed", function()
    assert.is_not_nil(wire.CANCELED)
    assert.is_not_equal("string", type(wire.CANCELED))
    assert.matches("cancel", tostring(wire.CANCELED))
  end)
end)

describe("task:cancel", function()
  support.it("raises wire.CANCELED, which pcall sees, in a sleep", function()
    assert_canceled_in(wire.sleep, 1e6)
  end)

  support.it("raises it in a join, and the joined task goes on", function()
    local other = wire.spawn(function()
      wire.sleep(0.05)
      return "unharmed"
    end)
    assert_canceled_in(other.join, other)
    assert.same({ true, "unharmed" }, { other:join() })
  end)

  support.it("raises it in an accept, and the server goes on", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    assert_canceled_in(server.accept, server)
    local client <close> = assert(wire.connect(server:addr()))
    local conn <close> = assert(server:accept(5))
    assert(client:send "x")
    assert.equal("x", conn:recv(1))
  end)

  for _, transport in ipairs(support.transports) do
    support.it("raises it in a recv over " .. transport.name .. ", and no byte is lost", function()
      local client, server = transport.pair()
      assert(client:send "part")
      assert_canceled_in(server.recv, server, 8)
      assert(client:send "ial!")
      assert.equal("partial!", server:recv(8))
      client:close()
      server:close()
    end)

    support.it("raises it in a send over " .. transport.name .. " that waits for room, "
      .. "which has accepted nothing", function()
      local client, server = transport.pair { limits = { high_water = 1000 } }
      local sent = tools.fill(client)
      assert_canceled_in(client.send, client, "never accepted")
      client:close()
      assert.equal(sent, #server:read "a")
      server:close()
    end)
  end

  support.it("closes the <close> variables and reports nothing", function()
    local closed_with
    local _, task = cancel_in(function()
      local _ <close> = at_close(function(_, err) closed_with = err end)
      wire.sleep(1e6)
    end)
    assert.equal(wire.CANCELED, closed_with)
    assert.equal("canceled", task:status())
    assert.same({}, support.take_errors())
  end)

  support.it("raises it again in each further call that would wait", function()
    local raised = 0
    cancel_in(function()
      for _ = 1, 3 do
        local ok, err = pcall(wire.sleep, 1e6)
        if not ok and err == wire.CANCELED then raised = raised + 1 end
      end
      wire.sleep(0)
    end)
    assert.equal(3, raised)
  end)

  support.it("lets calls that need not wait work", function()
    local client, server = wire.pipe()
    assert(client:send "buffered")
    local got, sent
    cancel_in(function()
      pcall(wire.sleep, 1e6)
      got = server:recv(8)
      sent = server:send "reply"
      wire.sleep(1e6)
    end)
    assert.equal("buffered", got)
    assert.equal(5, sent)
    assert.equal("reply", client:recv(5))
    client:close()
    server:close()
  end)

  support.it("before the first run keeps the function from running", function()
    local ran = false
    local task = wire.spawn(function() ran = true end)
    task:cancel()
    fails("ECANCELED", task:join())
    assert.is_false(ran)
    assert.equal("canceled", task:status())
  end)

  support.it("of a task that has ended changes nothing", function()
    local task = wire.spawn(function() return 1 end)
    task:join()
    task:cancel()
    assert.equal("done", task:status())
    assert.same({ true, 1 }, { task:join() })
  end)

  support.it("twice is harmless", function()
    local raised = 0
    local task = wire.spawn(function()
      local ok, err = pcall(wire.sleep, 1e6)
      if not ok then raised = raised + 1 end
      error(err, 0)
    end)
    wire.sleep(0)
    task:cancel()
    task:cancel()
    fails("ECANCELED", task:join())
    task:cancel()
    assert.equal(1, raised)
  end)

  support.it("of the running task itself is raised by its next wait", function()
    local before, after
    local task
    task = wire.spawn(function()
      task:cancel()
      before = true
      wire.sleep(0)
      after = true
    end)
    fails("ECANCELED", task:join())
    assert.is_true(before)
    assert.is_nil(after)
  end)

  support.it("lets a task that catches it return its results", function()
    local task = wire.spawn(function()
      pcall(wire.sleep, 1e6)
      return "cleaned up"
    end)
    wire.sleep(0)
    task:cancel()
    assert.same({ true, "cleaned up" }, { task:join() })
    assert.equal("done", task:status())
  end)

  support.it("does not hide another error that the cancelled task raises", function()
    local task = wire.spawn(function()
      pcall(wire.sleep, 1e6)
      error("while cleaning up", 0)
    end)
    wire.sleep(0)
    task:cancel()
    wire.sleep(0.01)
    assert.equal("failed", task:status())
    assert.equal("while cleaning up", support.take_errors()[1].err)
  end)

  support.it("passes through xpcall, whose handler sees it", function()
    local seen
    cancel_in(function()
      xpcall(wire.sleep, function(err) seen = err end, 1e6)
      wire.sleep(0)
    end)
    assert.equal(wire.CANCELED, seen)
  end)

  support.it("reaches the innermost of nested wire.co generators and closes each", function()
    local closed = {}
    local function level(n)
      local _ <close> = at_close(function(_, err) closed[n] = err == wire.CANCELED end)
      if n == 0 then wire.sleep(1e6) end
      for _ in wire.co.wrap(function() level(n - 1) end) do end
    end
    cancel_in(level, 3)
    assert.is_true(closed[0] and closed[1] and closed[2] and closed[3])
  end)

  support.it("raises for a wrong self", function()
    local task = wire.spawn(function() end)
    raises("Task", task.cancel, 1)
    raises("Task", task.status, wire)
    task:join()
  end)
end)

describe("exactly once: a waiter", function()
  -- Both events fall into one turn; whichever wins, the task resumes once and ends.
  local function count_wakes(body, events)
    local wakes = 0
    local task = wire.spawn(function()
      pcall(body)
      wakes = wakes + 1
      pcall(wire.sleep, 0.02)
      wakes = wakes + 1
    end)
    wire.sleep(0)
    for _, event in ipairs(events) do event(task) end
    task:join(5)
    assert.equal(2, wakes)
    assert.equal("done", task:status())
  end

  local function cancel(task) task:cancel() end

  support.it("that is cancelled and whose bytes arrive resumes once", function()
    local a, b = wire.pipe()
    count_wakes(function() b:recv(1) end, { function() a:send "x" end, cancel })
    count_wakes(function() b:recv(2) end, { cancel, function() a:send "yz" end })
    a:close()
    b:close()
  end)

  support.it("that is cancelled and whose connection closes resumes once", function()
    for _, events in ipairs { { "close", "cancel" }, { "cancel", "close" } } do
      local a, b = wire.pipe()
      local act = { close = function() b:close() end, cancel = cancel }
      count_wakes(function() b:recv(1) end, { act[events[1]], act[events[2]] })
      a:close()
    end
  end)

  support.it("that is cancelled at the moment its sleep is due resumes once", function()
    count_wakes(function() wire.sleep(0.001) end, {
      function(task)
        local due = wire.now() + 0.002
        while wire.now() < due do end
        task:cancel()
      end,
    })
  end)

  support.it("that joins a task which is cancelled with it resumes once", function()
    local other = wire.spawn(wire.sleep, 1e6)
    count_wakes(function() other:join() end, { function() other:cancel() end, cancel })
    other:join()
  end)

  support.it("that nothing refers to resumes once, whatever was collected meanwhile", function()
    local ends = {}
    local function wait_in(name, open, call)
      wire.spawn(function()
        local objects = table.pack(open())
        ends[name] = ends[name] == nil and { call(objects[1]) } or "twice"
        for _, object in ipairs(objects) do object:close() end
      end)
    end
    wait_in("recv", support.pair, function(conn) return conn:recv(1, 0.02) end)
    wait_in("pipe", wire.pipe, function(conn) return conn:recv(1, 0.02) end)
    wait_in("accept", function() return assert(wire.listen "127.0.0.1:0") end,
      function(server) return server:accept(0.02) end)
    for _ = 1, 20 do
      wire.sleep(0.005)
      collectgarbage()
    end
    for _, name in ipairs { "recv", "pipe", "accept" } do
      fails("ETIMEDOUT", table.unpack(ends[name]))
    end
  end)

  support.it("that is cancelled in a sleep is not woken again when that was due", function()
    local wakes = 0
    local task = wire.spawn(function()
      pcall(wire.sleep, 0.02)
      local ok = pcall(wire.sleep, 0.06)
      wakes = wakes + (ok and 100 or 1)
    end)
    wire.sleep(0)
    task:cancel()
    task:join()
    wire.sleep(0.05)
    assert.equal(1, wakes)
  end)
end)
