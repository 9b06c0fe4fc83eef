-- Faults that reviews found and that no noun's own spec would have caught: calls that keep the
-- loop alive or starve it, limits of time at the close, and odd arguments.
-- What this is not: memory safety (lifetime_spec), finalizers (finalizer_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

-- Runs fn -> how long it took.
local function seconds(fn, ...)
  local start = wire.now()
  fn(...)
  return wire.now() - start
end

-- ---- what keeps wire.run --------------------------------------------------------------

describe("wire.run", function()
  support.it_outside("waits for a receive that got its deadline while it waited", function()
    local a, b = wire.pipe()
    local code, due
    wire.spawn(function() code = select(3, a:recv(1)) end)
    wire.spawn(function()
      wire.sleep(0)
      due = wire.now() + 0.1
      a:set_recv_deadline(due)
    end)
    wire.run()
    assert.equal("ETIMEDOUT", code)
    assert.is_true(wire.now() >= due)
    b:close()
    a:close()
  end)

  support.it_outside("returns once a waiting receive has lost its deadline", function()
    local a, b = wire.pipe()
    local task = wire.spawn(function()
      a:set_recv_deadline(wire.now() + 1000)
      a:recv(1)
    end)
    wire.spawn(function()
      wire.sleep(0.02)
      a:set_recv_deadline(nil)
    end)
    assert.is_true(seconds(wire.run) < 5)
    assert.equal("waiting", task:status())
    b:close()
    a:close()
    task:join(2)
  end)

  for _, transport in ipairs(support.transports) do
    support.it_outside("is not kept by conn:close(math.huge) over " .. transport.name
      .. ", which changes nothing", function()
      local a, b = transport.pair()
      assert.is_true(a:close(math.huge))
      assert.is_true(b:reset(math.huge))
      assert.is_true(seconds(wire.run) < 5)
      assert(a:send "x")
      assert.equal("x", b:recv(1, 2))
      a:reset()
      b:reset()
    end)
  end

  support.it_outside("is not kept by a listener without accept, whose clients are taken later",
    function()
      local server <close> = assert(wire.listen "127.0.0.1:0")
      assert.is_true(seconds(wire.run) < 5)
      local client = assert(wire.connect(server:addr(), 5))
      assert.is_true(seconds(wire.run) < 5)
      local conn = assert(server:accept(5))
      assert(client:send "first")
      assert.equal("first", conn:recv(5, 5))
      client:reset()
      conn:reset()
    end)

  support.it_outside("with a function is ended by wire.stop, and its task goes on later", function()
    local over
    wire.after(0.01, wire.stop)
    local took = seconds(wire.run, function()
      wire.sleep(0.1)
      over = true
    end)
    assert.is_true(took < 0.09, took)
    assert.is_nil(over)
    wire.run()
    assert.is_true(over)
  end)
end)

-- ---- what others get to do meanwhile ----------------------------------------------------

describe("A task that never has to wait lets others run in a loop of", function()
  local function assert_shares(call)
    local rounds, over = 0, false
    local busy = wire.spawn(function()
      for _ = 1, 2000 do call() end
      over = true
    end)
    while not over do
      wire.sleep(0)
      rounds = rounds + 1
    end
    assert.is_true(busy:join())
    assert.is_true(rounds >= 5, "only " .. rounds .. " turns for the others")
  end

  support.it("joins of an ended task", function()
    local ended = wire.spawn(function() end)
    ended:join()
    assert_shares(function() ended:join() end)
  end)

  support.it("connects without time", function()
    assert_shares(function()
      local conn = wire.connect("127.0.0.1:1", 0)
      assert.is_nil(conn)
    end)
  end)

  support.it("lookups of numeric hosts", function()
    assert_shares(function() assert.same({ "127.0.0.1" }, wire.resolve "127.0.0.1") end)
  end)
end)

describe("recv_line{skip=true} on a line that never ends", function()
  -- Feeds conn at every turn of the loop, more than a turn's share of skipping.
  local function feed(conn)
    local block = ("x"):rep(1 << 20)
    local stop = wire.now() + 3
    while wire.now() < stop and not conn:closed() do
      conn:try_send(block)
      wire.sleep(0)
    end
    conn:reset()
  end

  -- How each way to end the wait is prepared; and the code of the failure.
  local ends = {
    ["its timeout"] = { "ETIMEDOUT", function() return { skip = true, timeout = 0.2 } end },
    ["a deadline"] = { "ETIMEDOUT", function(conn)
      conn:set_recv_deadline(wire.now() + 0.2)
      return { skip = true }
    end },
    ["the close"] = { "ECLOSED", function(conn)
      wire.after(0.2, conn.close, conn)
      return { skip = true }
    end },
  }
  local function check_end(receive)
    local client, conn = support.pair()
    local feeder = wire.spawn(feed, client)
    local took = seconds(receive, conn)
    client:reset()
    conn:reset()
    feeder:join()
    assert.is_true(took >= 0.15 and took < 2, took)
  end

  for name, case in pairs(ends) do
    support.it("is ended by " .. name .. " although more comes in at every turn", function()
      check_end(function(conn) fails(case[1], conn:recv_line(case[2](conn))) end)
    end)
  end

  support.it("is ended by its task's cancellation although more comes in at every turn", function()
    check_end(function(conn)
      local task = wire.spawn(conn.recv_line, conn, { skip = true })
      wire.after(0.2, task.cancel, task)
      fails("ECANCELED", task:join(5))
    end)
  end)

  -- A real peer writes while this process reads: the search for a long delimiter among its
  -- false beginnings is slower than that, so the input never runs dry by itself.
  support.it("lets other tasks run while a peer floods it", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local flood = support.peer(
      ("socat -u -b 4194304 OPEN:/dev/zero TCP:127.0.0.1:%d,sndbuf=4194304"):format(server:port()))
    local conn = assert(server:accept(5))
    local longest, last = 0, wire.now()
    local task = wire.spawn(conn.recv_until, conn, ("\0"):rep(2000) .. "x", { skip = true })
    for _ = 1, 100 do
      wire.sleep(0.005)
      longest, last = math.max(longest, wire.now() - last), wire.now()
    end
    task:cancel()
    task:join(2)
    conn:reset()
    flood:stop()
    assert.is_true(longest < 0.5 * support.slowness, longest)
  end)
end)

-- ---- the close ---------------------------------------------------------------------------

describe("conn:close", function()
  support.it_outside("outside a task tells that the peer never took the rest", function()
    local client, conn = support.pair { limits = { high_water = 1 << 30 } }
    assert(client:send(("x"):rep(16 << 20)))
    local took = seconds(function()
      local result, message, code = client:close()
      assert.is_nil(result)
      assert.matches("^close 127.0.0.1:", message)
      assert.equal("string", type(code))
    end)
    assert.is_true(took >= 9.5 and took < 60, took)
    conn:reset()
  end, 20)

  support.it_outside("lingers 2 s for the end of a peer that has all", function()
    local client, conn = support.pair()
    assert.is_true(client:close())
    local took = seconds(wire.run)
    assert.is_true(took >= 1.5 and took < 3.5, took)
    conn:reset()
  end)

  -- The reader answers each piece: a reset would follow if our end were gone by then.
  local SLOW_READER = [[
    local total = 0
    while true do
      local data = io.read(30000)
      if not data then break end
      total = total + #data
      io.stdout:write("k"):flush()
      os.execute "sleep 0.02"
    end
    io.stderr:write(total, " bytes\n")]]

  support.it("gives a peer that reads slowly and keeps sending all it is to get", function()
    local total = 3 << 20
    local server <close> = assert(wire.listen("127.0.0.1:0", { limits = { high_water = 1 << 30 } }))
    local script = os.tmpname()
    local file <close> = assert(io.open(script, "w"))
    file:write(SLOW_READER)
    file:close()
    local peer = support.peer(("socat -t20 TCP:127.0.0.1:%d,rcvbuf=30000 EXEC:'lua5.4 %s'")
      :format(server:port(), script))
    local conn = assert(server:accept(5))
    assert(conn:send(("x"):rep(total)))
    conn:close()
    local output = peer:output()
    os.remove(script)
    assert.matches("^" .. total .. " bytes", output)
  end, 25)
end)

-- ---- replies that are owed --------------------------------------------------------------

describe("send_recv that ended by an error after sending", function()
  -- Answers "1" by "r1", after a while.
  local function pair_with_replies()
    local a, b = wire.pipe()
    wire.spawn(function()
      while true do
        local question = b:recv(1)
        if not question then break end
        wire.sleep(0.01)
        b:send("r", question)
      end
      b:close()
    end)
    return a
  end

  local function assert_owed(conn)
    wire.sleep(0.05)
    fails("EPROTO", conn:send_recv("2", 2, 1))
    conn:close()
  end

  support.it("where it could not wait owes its reply", function()
    local a = pair_with_replies()
    raises("cannot wait inside 'table.sort'", table.sort, { 1, 2 }, function()
      return a:send_recv("1", 2)
    end)
    assert_owed(a)
  end)

  support.it("by cancellation owes its reply", function()
    local a = pair_with_replies()
    local task = wire.spawn(a.send_recv, a, "1", 2)
    wire.sleep(0)
    task:cancel()
    fails("ECANCELED", task:join(2))
    assert_owed(a)
  end)

  support.it("by its timeout owes its reply", function()
    local a, b = wire.pipe()
    local task = wire.spawn(a.send_recv, a, "1", 2, 0.02)
    fails("ETIMEDOUT", select(2, task:join(2)))
    b:send "r1"
    fails("EPROTO", a:send_recv("2", 2, 1))
    a:close()
    b:close()
  end)

  -- Of three that are on their way the second one ends: the first gets its reply, the third not
  -- that of the second.
  local function assert_none_shifted(end_second)
    local a, b = wire.pipe()
    local function ask(text) return a:send_recv(text, 2) end
    local first, co = wire.spawn(ask, "1"), wire.co.create(ask)
    local second = wire.spawn(wire.co.resume, co, "2")
    wire.sleep(0)
    local last = wire.spawn(ask, "3")
    wire.sleep(0)
    end_second(second, co)
    b:send("r1", "r2", "r3")
    assert.same({ true, "r1" }, { first:join(2) })
    fails("EPROTO", select(2, last:join(2)))
    fails("EPROTO", a:send_recv("4", 2, 1))
    second:cancel()
    a:close()
    b:close()
  end

  support.it("by cancellation between others leaves to each its own reply, or none", function()
    assert_none_shifted(function(task) task:cancel() end)
  end)

  support.it("by the end of its coroutine leaves to each other its own reply, or none", function()
    assert_none_shifted(function(_, co) coroutine.close(co) end)
  end)

  support.it("before it sent anything owes none", function()
    local a, b = wire.pipe { limits = { high_water = 10 } }
    assert(a:send(("x"):rep(200000)))
    local task = wire.spawn(a.send_recv, a, "1", 2)
    wire.sleep(0)
    task:cancel()
    fails("ECANCELED", task:join(2))
    assert(b:recv(200000, 2))
    local reply = wire.spawn(a.send_recv, a, "2", 2)
    assert.equal("2", b:recv(1, 2))
    b:send "r2"
    assert.same({ true, "r2" }, { reply:join(2) })
    a:close()
    b:close()
  end)
end)

-- ---- times ---------------------------------------------------------------------------------

describe("A time of -math.huge", function()
  local waits = {
    ["as a timeout"] = function(conn) return conn:recv(1, -math.huge) end,
    ["as a deadline"] = function(conn)
      conn:set_deadline(-math.huge)
      return conn:recv(1)
    end,
    ["as a receive deadline"] = function(conn)
      conn:set_recv_deadline(-math.huge)
      return conn:recv(1)
    end,
  }
  for name, recv in pairs(waits) do
    for _, transport in ipairs(support.transports) do
      support.it(("%s over %s takes what is there and never waits"):format(name, transport.name),
        function()
          local a, b = transport.pair()
          fails("ETIMEDOUT", recv(a))
          b:send "x"
          b:flush(2)
          a:set_deadline(nil)
          assert.equal("x", a:peek(1, 2))
          assert.equal("x", recv(a))
          fails("ETIMEDOUT", recv(a))
          a:reset()
          b:reset()
        end)
    end
  end

  support.it("of accept and join does not wait", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    fails("ETIMEDOUT", server:accept(-math.huge))
    local task = wire.spawn(wire.sleep, 0.01)
    fails("ETIMEDOUT", task:join(-math.huge))
    assert.is_true(task:join(2))
  end)
end)

describe("send_frame with a framing in Lua", function()
  local function codec()
    return { decode = function() return nil, 1 end, encode = function(message) return message end }
  end

  local function full_pipe()
    local a, b = wire.pipe { limits = { high_water = 10 }, framing = codec() }
    assert(a:send(("y"):rep(200000)))
    return a, b
  end

  for name, opts in pairs { ["a number"] = 0.1, ["an option"] = { timeout = 0.1 } } do
    support.it("ends by its timeout, " .. name .. ", and has accepted nothing", function()
      local a, b = full_pipe()
      local took = seconds(function() fails("ETIMEDOUT", a:send_frame("x", opts)) end)
      assert.is_true(took >= 0.08 and took < 5, took)
      assert.equal(200000, #assert(b:recv(200000, 2)))
      fails("ETIMEDOUT", b:recv(1, 0.02))
      a:reset()
      b:reset()
    end)
  end

  support.it("tries again, and sends once", function()
    local a, b = full_pipe()
    wire.after(0.1, b.recv, b, 200000)
    assert(a:send_frame("x", { timeout = 0.03, retry = { count = 100, interval = 0.01 } }))
    a:close()
    assert.equal("x", b:recv(1, 2))
    fails("EOF", b:recv(1, 2))
    b:close()
  end)
end)

-- ---- odd arguments -------------------------------------------------------------------------

describe("A zero byte", function()
  support.it("in a host name is refused", function()
    raises("zero byte", wire.resolve, "127.0.0.1\0.evil")
    raises("zero byte", wire.resolve, "localhost\0.evil")
    fails("EINVAL", wire.connect { host = "localhost\0.evil", port = 1 })
    fails("EINVAL", wire.connect "localhost\0.evil:1")
    fails("EINVAL", wire.listen { host = "127.0.0.1\0", port = 0 })
  end)

  support.it("in an option's key makes it an unknown one", function()
    local a, _ = wire.pipe()
    raises("unknown option", a.recv_line, a, { ["timeout\0x"] = 1 })
    raises("unknown option", wire.connect, "127.0.0.1:1", { ["timeout\0"] = 1 })
    a:close()
  end)
end)

describe("Arguments that look like others", function()
  support.it("an empty host in a table is no address", function()
    fails("EINVAL", wire.connect { host = "", port = 1 })
    fails("EINVAL", wire.listen { host = "", port = 0 })
  end)

  support.it("options that do not stand last, or where there are none, raise", function()
    local a, b = wire.pipe()
    raises("options come last", a.send, a, { a = 1 }, "x")
    raises("options come last", a.send, a, { timeout = 1 }, "x")
    raises("options", a.try_send, a, "x", { timeout = 0 })
    fails("ETIMEDOUT", b:recv(1, 0))
    a:close()
    b:close()
  end)
end)

-- ---- once ------------------------------------------------------------------------------------

describe("timer:cancel", function()
  support.it("of a run that has not begun answers true once", function()
    local ran = false
    local timer = wire.after(0.01, function() ran = true end)
    local due = wire.now() + 0.03
    while wire.now() < due do end -- the timer is due, the loop has not turned
    for _ = 1, 2 do wire.sleep(0) end -- it fires; its run is spawned, and not begun
    assert.same({ true, false, false }, { timer:cancel(), timer:cancel(), timer:cancel() })
    wire.sleep(0.02)
    assert.is_false(timer:cancel())
    assert.is_false(ran)
  end)
end)

describe("A second require, after package.loaded was cleared", function()
  support.it("gives the same runtime, types and wire.CANCELED", function()
    local peer = support.lua [[
      local first = require "lunewire"
      local conn, other = first.pipe()
      package.loaded.lunewire, package.loaded["lunewire.core"] = nil, nil
      local second = require "lunewire"
      assert(first ~= second and first.CANCELED == second.CANCELED)
      local ok, err
      local task = first.spawn(function() ok, err = pcall(second.sleep, 5) end)
      second.sleep(0)
      task:cancel()
      assert(task:join())
      assert(not ok and err == second.CANCELED)
      local _, third = second.pipe()
      conn:send "x"
      print(getmetatable(third) == getmetatable(conn), other:recv(1, 2))
    ]]
    local output, status = peer:output()
    assert.equal("true\tx\n", output)
    assert.equal(0, status)
  end)
end)
