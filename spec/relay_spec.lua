-- wire.relay: two connections joined both ways.
local bytes_of = require "spec.bytes"
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local it = support.it
local pattern, sender, reader = bytes_of.pattern, bytes_of.sender, bytes_of.reader

local PIECE <const> = 64 * 1024
local HIGH_WATER <const> = 256 * 1024
local MILLION <const> = 1000 * 1000
local PATIENCE <const> = 8 * support.slowness -- seconds

for _, transport in ipairs(support.transports) do
  -- Two peers with a relay in between -> left, right, the task of the relay, its ends.
  local function joined(opts, pair_opts)
    local left, a = transport.pair(pair_opts)
    local b, right = transport.pair(pair_opts)
    local task = tools.start(wire.relay, a, b, opts)
    return left, right, task, a, b
  end

  local function assert_lives(task)
    local status = task:status()
    assert.is_true(status == "waiting" or status == "ready", status)
  end

  -- The peer's stream was cut off, and does not look complete.
  local function assert_cut(conn)
    local text, message, code = conn:read "a"
    if transport.no_reset and text then return end
    assert.is_nil(text, "it looks complete")
    assert.equal("ECONNRESET", code, message)
  end

  describe("wire.relay over " .. transport.name, function()
    it("passes bytes and the end of each side, and closes both", function()
      local left, right, task, a, b = joined()
      tools.put(left, "question")
      left:close_write()
      assert.equal("question", right:read "a")
      assert_lives(task)
      tools.put(right, "answer")
      assert.equal("answer", left:recv(6))
      tools.put(right, " and more")
      right:close()
      assert.equal(" and more", left:read "a")
      assert.same({ 8, 15 }, { tools.result(task) })
      assert.is_true(a:closed() and b:closed())
    end)

    it("passes megabytes both ways at once, half-closes included, and loses nothing", function()
      local left, right, task = joined()
      local most = support.sized(10, 4, 3) * MILLION
      local there, back = pattern(most), pattern(most + 77, 5)
      local tasks = { sender(left, there), sender(right, back) }
      local got_right, got_left = reader(right), reader(left)
      assert.is_true(tools.result(got_right) == there)
      assert.is_true(tools.result(got_left) == back)
      for _, t in ipairs(tasks) do tools.result(t) end
      assert.same({ #there, #back }, { tools.result(task) })
    end, 30)

    it("gives every byte whatever the sizes and whoever ends first", function()
      local seed = os.time()
      math.randomseed(seed)
      for round = 1, 15 do
        local left, right, task = joined()
        local there = pattern(math.random(0, 300000), math.random(255))
        local back = pattern(math.random(0, 300000), math.random(255))
        local got_right, got_left = reader(right), reader(left)
        local first = sender(left, there)
        if math.random(2) == 1 then tools.result(first) end
        local second = sender(right, back)
        local where = ("seed %d, round %d"):format(seed, round)
        assert.is_true(tools.result(got_right) == there, where)
        assert.is_true(tools.result(got_left) == back, where)
        assert.same({ #there, #back }, { tools.result(task) }, where)
        tools.result(first)
        tools.result(second)
      end
    end, 30)

    it("passes what was buffered before it began", function()
      local left, a = transport.pair()
      local b, right = transport.pair()
      tools.deliver(left, a, "line\nrest")
      assert.equal("line", a:recv_line())
      a:unread "again "
      tools.deliver(right, b, "early")
      local task = tools.start(wire.relay, a, b)
      assert.equal("again rest", right:recv(10))
      assert.equal("early", left:recv(5))
      left:close()
      right:close()
      tools.result(task)
    end)

    it("is held up by a slow reader, and then holds little", function()
      local left, right, task, a, b = joined()
      local data = pattern(16 * MILLION)
      local send = sender(left, data)
      local most, got = 0, {}
      repeat
        local chunk = right:recv_some(MILLION, 5)
        got[#got + 1] = chunk
        most = math.max(most, b:stats().unsent, left:stats().unsent)
        assert.is_true(a:buffered() <= PIECE)
        wire.sleep(0)
      until not chunk
      assert.is_true(most <= HIGH_WATER + PIECE, most)
      assert.is_true(table.concat(got) == data)
      right:close()
      tools.result(task)
      tools.result(send)
    end, 30)

    if not transport.no_reset then
      it("passes a reset on as a reset, behind what came before it", function()
        local left, right, task, a, b = joined()
        tools.put(left, "last words")
        assert.equal("last words", right:recv(10))
        left:reset()
        assert_cut(right)
        local message, ab, ba = support.fails("ECONNRESET",
          select(2, assert(task:join(PATIENCE))))
        assert.truthy(message:find "^relay: .*connection reset")
        assert.same({ 10, 0 }, { ab, ba })
        assert.is_true(a:closed() and b:closed())
        left, right, task = joined()
        right:reset()
        assert_cut(left)
        support.fails("ECONNRESET", select(2, task:join(PATIENCE)))
      end)

      it("gives the other side the words that a reset follows at once", function()
        local left, a = transport.pair()
        local b, right = transport.pair()
        tools.deliver(left, a, "last words")
        left:reset()
        wire.sleep(0.02)
        local _, _, code, ab = wire.relay(a, b)
        assert.equal("ECONNRESET", code)
        assert.equal(10, ab)
        assert.equal("last words", right:recv(10))
        assert_cut(right)
      end)
    end

    it("ends when a side cannot be written to any more", function()
      local left, right, task = joined()
      left:close_write()
      assert.equal("", right:read "a")
      left:reset()
      tools.await(function() return not right:send(("x"):rep(1000)) end)
      local code = select(4, task:join(PATIENCE))
      assert.is_true(code == "ECONNRESET" or code == "EPIPE", code)
    end)

    it("that is cancelled stops both ways and cuts both streams off", function()
      local left, right, task, a, b = joined()
      tools.put(left, "begun")
      assert.equal("begun", right:recv(5))
      task:cancel()
      support.fails("ECANCELED", task:join(PATIENCE))
      assert.is_true(a:closed() and b:closed())
      assert_cut(left)
      assert_cut(right)
      wire.sleep(0)
      assert.equal(2, require("lunewire.core").census().tasks) -- support's, and this one
    end)

    it("that is cancelled with one direction over and the other one blocked ends, too", function()
      local left, right, task = joined()
      right:close_write()
      assert.equal("", left:read "a")
      local flood = wire.spawn(function()
        repeat until not left:send(("x"):rep(PIECE))
      end)
      tools.await(function() return left:stats().unsent >= HIGH_WATER end)
      task:cancel()
      support.fails("ECANCELED", task:join(PATIENCE))
      tools.result(flood)
    end)

    it("ends when one of its connections is closed by somebody else", function()
      local left, right, task, a, b = joined()
      assert(a:send(("y"):rep(5 * MILLION)))
      a:close()
      support.fails("ECLOSED", select(2, task:join(PATIENCE)))
      assert.is_true(b:closed())
      assert_cut(right)
      assert.equal(5 * MILLION, #assert(left:read "a")) -- that close is not made a reset
    end)

    it("that ends so gives what came before to the other side, in the same turn, too", function()
      local left, right, task, a = joined()
      local go, gone = wire.pipe()
      local closer = tools.start(function()
        assert(gone:recv(2))
        a:close()
      end)
      local first = wire.spawn(function()
        left:send "before"
        go:send "go"
      end)
      tools.result(first)
      tools.result(closer)
      local ab = select(5, task:join(PATIENCE))
      if ab > 0 then assert.equal(("before"):sub(1, ab), right:recv(ab)) end
      assert_cut(right)
    end)

    it("ends after idle_timeout without a byte either way", function()
      local idle, start = 0.3 * support.slowness, wire.now()
      local left, right, task = joined { idle_timeout = idle }
      for _ = 1, 12 do -- one way keeps the other one alive
        wire.sleep(idle / 6)
        tools.put(left, "x")
      end
      assert_lives(task)
      left:close_write()
      assert.equal(("x"):rep(12), right:read "a")
      local quiet = wire.now()
      local message, ab, ba = support.fails("ETIMEDOUT", select(2, task:join(idle + PATIENCE)))
      assert.equal(("relay: timed out: no byte either way for %g s"):format(idle),
        message:match "^relay: timed out: no byte either way for [%d.]+ s")
      assert.same({ 12, 0 }, { ab, ba })
      assert.is_true(wire.now() - start >= 3 * idle)
      assert.is_true(wire.now() - quiet < idle + 5 * support.slowness)
      assert_cut(left)
    end, 20)

    it("ends after timeout however busy it is; a number is that timeout", function()
      for _, opts in ipairs { { timeout = 0.2, idle_timeout = 5 }, 0.2 } do
        local start = wire.now()
        local left, right, task = joined(opts)
        local flood = wire.spawn(function()
          repeat wire.sleep(0.01) until not left:send "x"
        end)
        local message = support.fails("ETIMEDOUT", select(2, task:join(PATIENCE)))
        assert.equal("relay: timed out", message)
        assert.is_true(wire.now() - start >= 0.199)
        assert_cut(right)
        tools.result(flood)
      end
    end)

    it("ends at a connection's own deadline, not at its set_timeout", function()
      local left, right, task, a, b = joined()
      a:set_timeout(0.01)
      b:set_timeout(0.01)
      wire.sleep(0.05)
      tools.put(left, "still there")
      assert.equal("still there", right:recv(11))
      b:set_deadline(wire.now() + 0.02)
      support.fails("ETIMEDOUT", select(2, task:join(PATIENCE)))
      assert_cut(left)
      assert.is_true(a:closed())
    end)

    it("called outside any task does the same", function()
      local peer = support.lua([[
        local wire = require "lunewire"
        local support = require "spec.support"
        local left, a, b, right
        if ... == "pipe" then
          left, a = wire.pipe()
          b, right = wire.pipe()
        else
          left, a = support.pair()
          b, right = support.pair()
        end
        local got
        wire.spawn(function()
          left:send(("x"):rep(3000000))
          left:close_write()
          got = left:read "a"
        end)
        wire.spawn(function() right:send(#right:read "a", " bytes") right:close() end)
        print(wire.relay(a, b))
        wire.run()
        print(got, a:closed(), b:closed())
        for _, side in ipairs { a, b } do print(side:stats().unsent) end]], transport.name)
      assert.same({ "3000000\t13\n3000000 bytes\ttrue\ttrue\n0\n0\n", 0 }, { peer:output() })
    end)
  end)
end

describe("wire.relay", function()
  it("does not take a side for idle that is slowly taking its bytes", function()
    local left, a = wire.pipe()
    local b, right = wire.pipe()
    local data = pattern(380000)
    local task = tools.start(wire.relay, a, b, { idle_timeout = 1 })
    local send = sender(left, data)
    local got = {}
    repeat -- at the end nothing comes in any more for longer than the timeout
      wire.sleep(0.3)
      local chunk = right:recv_some(PIECE, 5)
      got[#got + 1] = chunk
    until not chunk
    assert.is_true(table.concat(got) == data)
    right:close()
    assert.same({ #data, 0 }, { tools.result(task) })
    tools.result(send)
  end, 20)

  it("does not take a side for idle whose bytes leave the system's buffers slowly", function()
    local left, a = support.pair()
    local b, right = support.pair()
    for _, conn in ipairs { b, right } do -- small ones, that much is in flight for long
      conn:option("send_buffer", 4096)
      conn:option("recv_buffer", 4096)
    end
    local data = pattern(MILLION)
    local task = tools.start(wire.relay, a, b, { idle_timeout = 2 })
    local send = sender(left, data)
    local got = {}
    repeat
      wire.sleep(0.02)
      local chunk = right:recv_some(20000, 5)
      got[#got + 1] = chunk
    until not chunk
    assert.is_true(table.concat(got) == data)
    right:close()
    assert.same({ #data, 0 }, { tools.result(task) })
    tools.result(send)
  end, 30)

  it("raises an error in either direction in its caller, and cuts both streams off", function()
    for direction = 1, 2 do
      local left, a = wire.pipe()
      local b, right = wire.pipe()
      local ends = { a, b }
      local broken = ends[direction]
      local function delegate(_, name)
        return function(_, ...) return broken[name](broken, ...) end
      end
      ends[direction] = setmetatable({ recv_some = function() error { direction } end },
        { __index = delegate })
      local ok, err = pcall(wire.relay, ends[1], ends[2])
      assert.is_false(ok)
      assert.same({ direction }, err)
      for _, conn in ipairs { left, right } do
        support.fails("ECONNRESET", conn:recv(1, 5))
      end
      assert.is_true(a:closed() and b:closed())
    end
  end)

  it("joins nc to socat like one connection", function()
    local port = support.port()
    local target = support.peer(("socat -t9 TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr EXEC:md5sum")
      :format(port))
    local bytes
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      local upstream
      repeat upstream = wire.connect("127.0.0.1:" .. port) until upstream
      bytes = { wire.relay(conn, upstream) }
    end))
    local client = support.peer(("head -c 4000000 /dev/zero | nc -N 127.0.0.1 %d")
      :format(server:port()))
    local digest = support.peer "head -c 4000000 /dev/zero | md5sum"
    local expected = digest:output()
    assert.equal(expected, (client:output()))
    assert.same({ 4000000, #expected }, bytes)
    target:output()
  end, 20)

  it("gives curl its page through a proxy of five lines", function()
    local page = pattern(2 * MILLION)
    local origin <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      repeat local line = conn:recv_line() until line == ""
      conn:send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ", #page, "\r\n\r\n", page)
    end))
    local proxy <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      wire.relay(conn, assert(wire.connect(origin:addr())))
    end))
    local curl = support.peer(("curl -sS http://%s/ | wc -c"):format(proxy:addr()))
    assert.equal(#page, tonumber((curl:output())))
  end, 20)

  it("refuses what is no pair of connections, and unknown options", function()
    local a, b = wire.pipe()
    local function refuses(text, ...)
      local args = table.pack(...)
      support.raises("^spec/relay_spec.lua:%d+: " .. text, function()
        local _ = wire.relay(table.unpack(args, 1, args.n))
      end)
    end
    refuses("relay: the first argument must be a connection, not a nil", nil, b)
    refuses("relay: the second argument must be a connection, not a userdata", a, io.stdout)
    refuses("relay: a connection cannot be joined to itself", a, a)
    refuses("unknown option 'timout' %(did you mean 'timeout'%?%)", a, b, { timout = 1 })
    refuses("unknown option 'patience'$", a, b, { patience = 1 })
    refuses("option 'idle_timeout' must be a number of seconds", a, b, { idle_timeout = "1" })
    refuses("option 'timeout' must be a number of seconds", a, b, 0 / 0)
    refuses("options are named", a, b, { 1 })
    refuses("a table of options is expected, not a string", a, b, "1")
    assert.is_false(a:closed() or b:closed())
  end)
end)
