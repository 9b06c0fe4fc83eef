-- The loop: wire.run, stop, sleep, now, waiting outside tasks, and fairness.
-- What this is not: how a task ends (task_spec, cancel_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

describe("wire.run with a function", function()
  support.it_outside("passes its arguments and returns its results, nil among them", function()
    local results = table.pack(wire.run(function(...) return ... end, 1, nil, "x", nil))
    assert.same({ n = 4, 1, nil, "x", nil }, results)
  end)

  support.it_outside("returns nothing for a function without results", function()
    assert.equal(0, select("#", wire.run(function() end)))
  end)

  support.it_outside("lets the function wait", function()
    assert.equal("waited", wire.run(function()
      wire.sleep(0.01)
      return "waited"
    end))
  end)

  support.it_outside("raises the function's error with its position, unreported", function()
    raises("run_spec.lua:%d+: oops", wire.run, function() error "oops" end)
    assert.same({}, support.take_errors())
  end)

  support.it_outside("raises an error object as it is", function()
    for _, value in ipairs { {}, false, 12, print } do
      local ok, err = pcall(wire.run, error, value)
      assert.is_false(ok)
      assert.equal(value, err)
    end
  end)

  support.it_outside("takes a callable object", function()
    local object = setmetatable({}, { __call = function(_, x) return x end })
    assert.equal(5, wire.run(object, 5))
  end)

  support.it_outside("returns when the function has ended; others go on in the next", function()
    local steps = 0
    local task = wire.spawn(function()
      for _ = 1, 3 do
        wire.sleep(0.01)
        steps = steps + 1
      end
    end)
    wire.run(function() end)
    assert.equal(0, steps)
    wire.run()
    assert.equal(3, steps)
    assert.equal("done", task:status())
  end)

  support.it_outside("raises a deadlock that nothing could end", function()
    local a, b = wire.pipe()
    raises("^deadlock", wire.run, function() return b:recv(1) end)
    a:close()
    b:close()
  end)

  support.it_outside("raises for what cannot be called", function()
    raises("function", wire.run, 12)
    raises("function", wire.run, "main")
    raises("function", wire.run, {})
  end)

  support.it("raises inside a task and says what to do instead", function()
    raises("running already.*spawn", wire.run)
    raises("running already.*spawn", wire.run, function() end)
    local result
    wire.after(0, function() result = { pcall(wire.run) } end)
    wire.sleep(0.01)
    assert.is_false(result[1])
  end)
end)

describe("wire.run without a function", function()
  support.it_outside("returns at once when nothing is there, also a second time", function()
    assert.equal(0, select("#", wire.run()))
    wire.run()
  end)

  support.it_outside("returns when the last task has ended", function()
    local ended = 0
    for i = 1, 3 do
      wire.spawn(function()
        wire.sleep(i / 200)
        ended = ended + 1
      end)
    end
    wire.run()
    assert.equal(3, ended)
  end)

  support.it_outside("goes on while a timer is due", function()
    local fired = false
    wire.after(0.02, function() fired = true end)
    wire.run()
    assert.is_true(fired)
  end)

  support.it_outside("goes on while a server listens", function()
    local server = assert(wire.listen "127.0.0.1:0")
    local stopped = false
    wire.after(0.02, function()
      stopped = true
      wire.stop()
    end)
    wire.run()
    assert.is_true(stopped)
    server:close()
    wire.run()
  end)

  support.it_outside("goes on while a task waits for a peer's bytes", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local peer = support.peer("{ sleep 0.1; echo late; } | nc -N 127.0.0.1 " .. server:port())
    local conn = assert(server:accept(5))
    server:close()
    local line
    wire.spawn(function() line = conn:recv_line() end)
    wire.run()
    assert.equal("late", line)
    conn:close()
    peer:output()
  end)

  support.it_outside("goes on until closing connections have sent all they had", function()
    local client, server = support.pair()
    assert(client:send(("x"):rep(1 << 20)))
    client:close()
    local received
    wire.spawn(function()
      received = #server:read "a"
      server:close()
    end)
    wire.run()
    assert.equal(1 << 20, received)
  end)

  support.it_outside("is not kept by idle connections", function()
    local client, server = support.pair()
    local a, b = wire.pipe()
    wire.run()
    for _, conn in ipairs { client, server, a, b } do conn:close() end
  end)

  support.it_outside("is not kept by a task that only another task could wake", function()
    local a, b = wire.pipe()
    local reader = wire.spawn(function() return b:recv(1) end)
    local joiner = wire.spawn(reader.join, reader)
    wire.run()
    assert.equal("waiting", reader:status())
    assert.equal("waiting", joiner:status())
    a:send "x"
    wire.run()
    assert.same({ true, "x" }, { reader:join() })
    assert.equal("done", joiner:status())
    a:close()
    b:close()
  end)

  support.it_outside("is not kept by a cancelled timer", function()
    wire.after(1e6, print):cancel()
    wire.every(1e6, print):cancel()
    wire.run()
  end)
end)

describe("wire.stop", function()
  support.it_outside("makes run return; the next run goes on with what was left", function()
    local ended = false
    wire.spawn(function()
      wire.sleep(0.05)
      ended = true
    end)
    wire.after(0.01, wire.stop)
    wire.run()
    assert.is_false(ended)
    wire.run()
    assert.is_true(ended)
  end)

  support.it_outside("is heard when a task calls it", function()
    local timer = wire.every(0.005, function() end)
    wire.spawn(function()
      wire.sleep(0.02)
      wire.stop()
    end)
    wire.run()
    timer:cancel()
  end)

  support.it_outside("before a run does not stop that run", function()
    local fired = false
    wire.stop()
    wire.after(0.01, function() fired = true end)
    wire.run()
    assert.is_true(fired)
  end)
end)

describe("outside any task a call that waits", function()
  support.it_outside("turns the loop until it is done", function()
    local server = assert(wire.serve("127.0.0.1:0", function(conn)
      for line in conn:lines() do conn:send("> ", line, "\n") end
    end))
    local conn = assert(wire.connect(server:addr()))
    assert(conn:send "hello\n")
    assert.equal("> hello", conn:recv_line())
    conn:close()
    server:close()
  end)

  support.it_outside("keeps its timeout", function()
    local client, server = support.pair()
    local start = wire.now()
    fails("ETIMEDOUT", client:recv(1, { timeout = 0.05 }))
    assert.is_true(wire.now() - start >= 0.04)
    client:close()
    server:close()
  end)

  support.it_outside("lets tasks and timers run", function()
    local ticks = 0
    local timer = wire.every(0.005, function() ticks = ticks + 1 end)
    while ticks < 3 do wire.sleep(0.005) end
    timer:cancel()
    assert.same({ true, "result" }, { wire.spawn(function() return "result" end):join() })
  end)

  support.it_outside("raises a deadlock that names the call, if nothing could wake it", function()
    local a, b = wire.pipe()
    raises("^deadlock: .*recv", b.recv, b, 1)
    raises("^deadlock: .*recv_line", b.recv_line, b)
    local task = wire.spawn(b.recv, b, 1)
    raises("^deadlock: .*join", task.join, task)
    task:cancel()
    fails("ECANCELED", task:join())
    a:send "usable"
    assert.equal("usable", b:recv(6))
    a:close()
    b:close()
  end)

  support.it_outside("raises no deadlock where a timeout will end it", function()
    local a, b = wire.pipe()
    fails("ETIMEDOUT", b:recv(1, 0.01))
    a:close()
    b:close()
  end)
end)

describe("wire.sleep", function()
  support.it("lasts as long as it was told", function()
    local start = wire.now()
    wire.sleep(0.05)
    local elapsed = wire.now() - start
    assert.is_true(elapsed >= 0.049 and elapsed < 5)
  end)

  support.it("wakes sleepers in the order in which they are due", function()
    local order, tasks = {}, {}
    for i, seconds in ipairs { 0.03, 0.01, 0.02 } do
      tasks[i] = wire.spawn(function()
        wire.sleep(seconds)
        order[#order + 1] = seconds
      end)
    end
    for _, task in ipairs(tasks) do task:join() end
    assert.same({ 0.01, 0.02, 0.03 }, order)
  end)

  for _, seconds in ipairs { 0, -1, -math.huge } do
    support.it(("(%s) lets every ready task run once"):format(seconds), function()
      local runs = {}
      for i = 1, 5 do
        wire.spawn(function()
          for round = 1, 3 do
            runs[i] = round
            wire.sleep(seconds)
          end
        end)
      end
      for round = 1, 3 do
        wire.sleep(seconds)
        for i = 1, 5 do assert.equal(round, runs[i]) end
      end
      wire.sleep(0)
    end)
  end

  support.it("returns nothing", function()
    assert.equal(0, select("#", wire.sleep(0)))
    assert.equal(0, select("#", wire.sleep(0.001)))
  end)

  support.it("for math.huge ends only by cancel", function()
    local task = wire.spawn(wire.sleep, math.huge)
    wire.sleep(0.01)
    assert.equal("waiting", task:status())
    task:cancel()
    fails("ECANCELED", task:join())
  end)

  support.it("raises for what is not a number of seconds", function()
    raises("number", wire.sleep)
    raises("number", wire.sleep, nil)
    raises("number", wire.sleep, "x")
    raises("number", wire.sleep, {})
    raises("number", wire.sleep, 0 / 0)
  end)
end)

describe("wire.now", function()
  support.it("never goes back and advances while a task computes", function()
    local start = wire.now()
    local last, clock = start, os.clock()
    while os.clock() - clock < 0.02 do
      local now = wire.now()
      assert.is_true(now >= last)
      last = now
    end
    assert.is_true(last - start >= 0.01)
  end)
end)

describe("fairness: after 256 calls without waiting a task gives way", function()
  -- What one pass of the loop may serve, with some room for how calls are counted.
  local A_TURN = 256 * 4

  -- Packages as fast as both sides can, until stop() -> counter, stop
  local function start_flood(pair)
    local from, to = pair()
    local flood = { served = 0 }
    local sender = wire.spawn(function()
      while from:send_pkg "flood" do flood.sent = true end
    end)
    local receiver = wire.spawn(function()
      while to:recv_pkg() do flood.served = flood.served + 1 end
    end)
    function flood.stop()
      from:reset()
      to:reset()
      sender:join()
      receiver:join()
    end
    return flood
  end

  local function echo(conn)
    for data in conn:pkgs() do conn:send_pkg(data) end
    conn:close()
  end

  for _, transport in ipairs(support.transports) do
    support.it("a light client beside a flood over " .. transport.name, function()
      local flood = start_flood(transport.pair)
      local client, server = transport.pair()
      local echoer = wire.spawn(echo, server)
      local most = 0
      for i = 1, 100 do
        local before = flood.served
        assert.equal("light" .. i, client:send_recv_pkg("light" .. i, { timeout = 5 }))
        most = math.max(most, flood.served - before)
      end
      flood.stop()
      client:close()
      echoer:join()
      assert.is_true(flood.served > 0)
      assert.is_true(most < 8 * A_TURN, "served in one round trip: " .. most)
    end)
  end

  support.it("4 KiB that it moves count as a call", function()
    local _, b = wire.pipe()
    local PIECE <const>, PIECES <const> = 64 * 1024, 64
    b:unread(("x"):rep(PIECES * PIECE))
    local taken, seen = 0, nil
    local receiver = wire.spawn(function()
      for i = 1, PIECES do
        assert(b:recv(PIECE))
        taken = i
      end
    end)
    wire.spawn(function() seen = taken end):join()
    receiver:join()
    assert.is_true(seen >= 8 and seen <= 32, seen)
  end)

  -- Runs body beside a task that counts how often it gets its turn -> the count.
  local function turns_beside(body)
    local turns, over = 0, false
    local counter = wire.spawn(function()
      while not over do
        turns = turns + 1
        wire.sleep(0)
      end
    end)
    body(function() return turns end)
    over = true
    counter:join()
    return turns
  end

  support.it("one that receives what is buffered", function()
    local a, b = wire.pipe()
    a:send(("x"):rep(20000))
    assert(b:peek(20000))
    local turns = turns_beside(function()
      for _ = 1, 20000 do b:recv(1) end
    end)
    a:close()
    b:close()
    assert.is_true(turns >= 20000 // A_TURN, "turns: " .. turns)
  end)

  support.it("one whose calls fail, on a closed connection", function()
    local a, b = wire.pipe()
    a:close()
    b:close()
    turns_beside(function(turns)
      while turns() < 3 do fails("ECLOSED", b:recv(1)) end
      while turns() < 6 do fails("ECLOSED", b:send "x") end
    end)
  end)

  support.it("one that polls with a timeout of zero", function()
    local client, server = support.pair()
    local task = wire.spawn(function()
      wire.sleep(0.01)
      server:send "x"
    end)
    local data
    repeat data = client:recv(1, 0) until data
    assert.equal("x", data)
    task:join()
    client:close()
    server:close()
  end)

  support.it("one that sends small pieces", function()
    local a, b = wire.pipe { limits = { high_water = 1 << 20 } }
    local turns = turns_beside(function()
      for _ = 1, 20000 do a:send "x" end
    end)
    a:close()
    b:close()
    assert.is_true(turns >= 20000 // A_TURN, "turns: " .. turns)
  end)
end)
