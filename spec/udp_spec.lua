-- wire.udp: receiving, sending, peers, times and ends, between sockets of this process.
-- What this is not: real programs and real networks (udp_net_spec), serving (serve_udp_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it, it_outside, fails, raises = support.it, support.it_outside, support.fails, support.raises

local HERE <const> = "127.0.0.1:0"
local MANY <const> = 1000
local PATIENCE <const> = 5
local NO_NAME <const> = ("x"):rep(64) .. ":1" -- longer than a label of a name can be

-- Two sockets and the address of the second.
local function pair(opts)
  local a, b = assert(wire.udp(HERE)), assert(wire.udp(HERE, opts))
  return a, b, (b:local_addr())
end

-- The address of a socket that is no more.
local function nobody()
  local gone <close> = assert(wire.udp(HERE))
  return (gone:local_addr())
end

-- Waits until the first refusal has come.
local function await_refusal(udp)
  fails("ECONNREFUSED", udp:recv(PATIENCE))
end

describe("udp: a datagram", function()
  it("comes whole, with the address of its sender", function()
    local a, b, to = pair()
    assert.are.equal(5, a:send_to("hello", to))
    local data, from, truncated = b:recv_from(PATIENCE)
    assert.are.same({ "hello", (a:local_addr()), false }, { data, from, truncated })
  end)

  it("may be empty, both ways", function()
    local a, b, to = pair()
    assert.are.equal(0, a:send_to("", to))
    local data, from, truncated = b:recv_from(PATIENCE)
    assert.are.same({ "", (a:local_addr()), false }, { data, from, truncated })
  end)

  it("may be a number, as strings may", function()
    local a, b, to = pair()
    assert.are.equal(2, a:send_to(42, to))
    assert.are.equal("42", (b:recv(PATIENCE)))
  end)

  it("over max is cut there, and says so", function()
    local a, b, to = pair { max = 4 }
    a:send_to("12345", to)
    a:send_to("1234", to)
    local data, from, truncated = b:recv_from(PATIENCE)
    assert.are.same({ "1234", (a:local_addr()), true }, { data, from, truncated })
    assert.are.same({ "1234", false }, { b:recv(PATIENCE) })
  end)

  it("is at most 65,507 bytes long by IPv4; a longer one is EMSGSIZE", function()
    local a, b, to = pair()
    local data = ("0123456789"):rep(6551):sub(1, 65507)
    assert.are.equal(65507, a:send_to(data, to))
    assert.is_true(b:recv(PATIENCE) == data)
    local message = fails("EMSGSIZE", a:send_to(data .. "x", to))
    assert.are.equal("send_to " .. to .. ": message too long", message)
    assert.are.equal(1, a:stats().datagrams_out)
  end)

  it("can be answered at the address that it came from, IPv6 too", function()
    local a <close>, message, code = wire.udp "[::1]:0"
    if code == "EAFNOSUPPORT" or code == "EADDRNOTAVAIL" then return end
    assert(a, message)
    local b <close> = assert(wire.udp "[::1]:0")
    a:send_to("ping", (b:local_addr()))
    local _, from = assert(b:recv_from(PATIENCE))
    assert.truthy(from:find "^%[::1%]:%d+$", from)
    b:send_to("pong", from)
    assert.are.equal("pong", (a:recv(PATIENCE)))
  end)

  it("of IPv4 shows an IPv4 sender on a socket for both, which can answer", function()
    local both <close> = assert(wire.udp())
    local four <close> = assert(wire.udp(HERE))
    local _, _, port = both:local_addr()
    four:send_to("ping", "127.0.0.1:" .. port)
    local data, from = both:recv_from(PATIENCE)
    assert.are.same({ "ping", (four:local_addr()) }, { data, from })
    both:send_to("pong", from)
    assert.are.equal("pong", (four:recv(PATIENCE)))
  end)

  it("reaches a name's first address that the socket can reach", function()
    local four <close> = assert(wire.udp(HERE))
    local b <close> = assert(wire.udp "localhost:0")
    local _, host, port = b:local_addr()
    local a = host:find ":" and assert(wire.udp "[::1]:0") or four
    assert.are.equal(2, a:send_to("hi", { host = "localhost", port = port }))
    assert.are.equal("hi", (b:recv(PATIENCE)))
    local _, _, port4 = four:local_addr()
    local sender <close> = assert(wire.udp(HERE))
    assert.are.equal(3, sender:send_to("hi4", "localhost:" .. port4))
    assert.are.equal("hi4", (four:recv(PATIENCE)))
    a:close()
  end)

  it("without a host goes to this one", function()
    local a, b = pair()
    local _, _, port = b:local_addr()
    assert.are.equal(2, a:send_to("hi", ":" .. port))
    assert.are.equal("hi", (b:recv(PATIENCE)))
  end)

  it("keeps its place: a thousand come in order to a receiver that keeps up", function()
    local a, b, to = pair { recv_buffer = 2 ^ 20 | 0, queue = MANY }
    local received = {}
    local receiver = wire.spawn(function()
      while #received < MANY do received[#received + 1] = assert(b:recv(PATIENCE)) end
    end)
    for i = 1, MANY do assert(a:send_to(i, to)) end
    assert(receiver:join())
    for i = 1, MANY do assert.are.equal(tostring(i), received[i]) end
    assert.are.equal(0, b:stats().drops)
  end)
end)

describe("udp: receivers", function()
  it("stand in line, and each datagram goes to one of them", function()
    local a, b, to = pair()
    local got, tasks = {}, {}
    for i = 1, 3 do
      tasks[i] = wire.spawn(function() got[i] = b:recv(PATIENCE) end)
    end
    wire.sleep(0)
    for i = 1, 3 do a:send_to(i, to) end
    for i = 1, 3 do assert(tasks[i]:join()) end
    assert.are.same({ "1", "2", "3" }, got)
    fails("ETIMEDOUT", b:recv(0))
  end)

  it("that time out lose no datagram", function()
    local a, b, to = pair()
    local message = fails("ETIMEDOUT", b:recv_from(0.02))
    assert.are.equal("recv_from " .. to .. ": timed out", message)
    a:send_to("later", to)
    assert.are.equal("later", (b:recv(PATIENCE)))
  end)

  it("with no time take what is there without waiting", function()
    local a, b, to = pair()
    fails("ETIMEDOUT", b:recv(0))
    a:send_to("there", to)
    assert.are.equal("there", (b:recv(0)))
    fails("ETIMEDOUT", b:recv(-1))
  end)

  it("that are cancelled lose no datagram: the next in line has it", function()
    local a, b, to = pair()
    local first = wire.spawn(function() return b:recv() end)
    local second = wire.spawn(function() return (b:recv()) end)
    wire.sleep(0)
    a:send_to("x", to)
    first:cancel()
    fails("ECANCELED", first:join(PATIENCE))
    assert.are.same({ true, "x" }, { second:join(PATIENCE) })
  end)

  it("may be tried again, on the time that all tries take", function()
    local a, b, to = pair()
    wire.after(0.05, function() a:send_to("x", to) end)
    assert.are.equal("x", (b:recv { timeout = 0.01, retry = { count = 500, interval = 0.01 } }))
  end)

  it("use the socket's timeout, and a call's own instead", function()
    local _, b = pair { timeout = 0.01 }
    fails("ETIMEDOUT", b:recv())
    b:set_timeout(60)
    fails("ETIMEDOUT", b:recv(0.01))
    b:set_timeout(0.01)
    fails("ETIMEDOUT", b:recv_from())
    b:set_timeout(nil)
    local waiting = wire.spawn(function() return b:recv() end)
    fails("ETIMEDOUT", waiting:join(0.05))
    waiting:cancel()
  end)

  it("are reached by a deadline, which what is there satisfies all the same", function()
    local a, b, to = pair()
    local waiting = wire.spawn(function() return b:recv() end)
    wire.sleep(0)
    b:set_send_deadline(wire.now())
    fails("ETIMEDOUT", waiting:join(0.03))
    b:set_recv_deadline(wire.now() + 0.01)
    assert.are.equal("ETIMEDOUT", select(4, waiting:join(PATIENCE)))
    a:send_to("x", to)
    assert.are.equal("x", (b:recv()))
    fails("ETIMEDOUT", b:recv(PATIENCE))
    b:set_deadline(nil)
    a:send_to("y", to)
    assert.are.equal("y", (b:recv(PATIENCE)))
  end)

  it_outside("keep wire.run going while they wait, and only then", function()
    local a, b, to = pair()
    wire.run()
    local got
    wire.spawn(function() got = b:recv(PATIENCE) end)
    wire.spawn(function() a:send_to("x", to) end)
    wire.run()
    assert.are.equal("x", got)
  end)

  it_outside("work outside any task", function()
    local a, b, to = pair()
    wire.after(0.01, function() a:send_to("x", to) end)
    assert.are.equal("x", (b:recv(PATIENCE)))
    fails("ETIMEDOUT", b:recv(0.01))
  end)
end)

describe("udp: a connected socket", function()
  it("sends to its peer and receives from it", function()
    local a, b, to = pair()
    assert.is_true(a:connect(to))
    assert.are.equal(to, (a:remote_addr()))
    assert.are.equal(4, a:send("ping"))
    local _, from = assert(b:recv_from(PATIENCE))
    b:send_to("pong", from)
    assert.are.same({ "pong", false }, { a:recv(PATIENCE) })
  end)

  it("receives nothing from a third party, whether it came before or after", function()
    local a, b, to = pair()
    local third <close> = assert(wire.udp(HERE))
    third:send_to("before", to)
    assert(b:connect((a:local_addr())))
    third:send_to("after", to)
    a:send_to("peer", to)
    assert.are.equal("peer", (b:recv(PATIENCE)))
    fails("ETIMEDOUT", b:recv(0.02))
    assert.are.equal(1, b:stats().drops)
  end)

  it("is told by recv that nobody is there, once, and lives on", function()
    local a <close> = assert(wire.udp(HERE))
    local to = nobody()
    assert(a:connect(to))
    assert.are.equal(1, a:send("x"))
    local message = fails("ECONNREFUSED", a:recv(PATIENCE))
    assert.are.equal("recv " .. to .. ": connection refused", message)
    fails("ETIMEDOUT", a:recv(0.01))
    local back <close> = assert(wire.udp(to))
    assert(a:send "again")
    assert.are.equal("again", (back:recv(PATIENCE)))
  end)

  it("is told by send that nobody is there", function()
    local a <close> = assert(wire.udp(HERE))
    local to = nobody()
    assert(a:connect(to))
    local message
    local limit = wire.now() + PATIENCE
    repeat
      local n, text, code = a:send "x"
      assert.is_true(n ~= nil or code == "ECONNREFUSED", code)
      message = not n and text
    until message or wire.now() > limit
    assert.are.equal("send " .. to .. ": connection refused", message)
  end)

  it("wakes who waits when the peer is not there", function()
    local a <close> = assert(wire.udp(HERE))
    assert(a:connect(nobody()))
    local waiting = wire.spawn(function() return a:recv() end)
    wire.sleep(0)
    assert(a:send "x")
    assert.are.equal("ECONNREFUSED", select(4, waiting:join(PATIENCE)))
  end)

  it("may choose another peer", function()
    local a, b, to = pair()
    assert(a:connect(nobody()))
    assert(a:send "x")
    await_refusal(a)
    assert(a:connect(to))
    assert(a:send "y")
    assert.are.equal("y", (b:recv(PATIENCE)))
  end)

  it("is what send needs: before it there is no peer", function()
    local a <close> = assert(wire.udp(HERE))
    fails("ENOTCONN", a:send "x")
    fails("ENOTCONN", a:remote_addr())
  end)

  it("by a name has the first address that it can reach", function()
    local a, b = pair()
    local _, _, port = b:local_addr()
    assert.is_true(a:connect("localhost:" .. port))
    assert.are.equal("127.0.0.1:" .. port, (a:remote_addr()))
    assert(a:send "x")
    assert.are.equal("x", (b:recv(PATIENCE)))
  end)
end)

describe("udp: the end", function()
  it("tells all who wait, and each later call", function()
    local _, b = pair()
    local tasks = {}
    for i = 1, 3 do tasks[i] = wire.spawn(function() return b:recv() end) end
    wire.sleep(0)
    assert.is_true(b:close())
    for i = 1, 3 do assert.are.equal("ECLOSED", select(4, tasks[i]:join(PATIENCE))) end
    assert.is_true(b:closed())
    assert.is_true(b:close())
    fails("ECLOSED", b:recv())
    fails("ECLOSED", b:recv_from(0))
    fails("ECLOSED", b:send "x")
    fails("ECLOSED", b:send_to("x", "127.0.0.1:1"))
    fails("ECLOSED", b:send_to("x", NO_NAME))
    fails("ECLOSED", b:connect "127.0.0.1:1")
    fails("ECLOSED", b:option "ttl")
    fails("ECLOSED", b:option("ttl", 1))
    fails("ECLOSED", b:join "239.1.1.1")
    assert.are.equal(-1, b:socket())
  end)

  it("comes with the block of a <close> variable, and with an error in it", function()
    local kept
    pcall(function()
      local b <close> = assert(wire.udp(HERE))
      kept = b
      error "out"
    end)
    assert.is_true(kept:closed())
  end)

  it("leaves the address and the counters known", function()
    local a, b, to = pair()
    a:send_to("x", to)
    assert(b:recv(PATIENCE))
    b:close()
    assert.are.equal(to, (b:local_addr()))
    assert.are.equal(1, b:stats().datagrams_in)
    assert.are.equal("Udp (" .. to .. ", closed)", tostring(b))
  end)

  it("comes with the collection of a socket that nobody refers to", function()
    local to = nobody()
    local udp = assert(wire.udp(to))
    fails("EADDRINUSE", wire.udp(to))
    assert.is_false(udp:closed())
    udp = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert(wire.udp(to)):close()
  end)

  it("does not come while a task waits, though nobody else refers to the socket", function()
    local a <close> = assert(wire.udp(HERE))
    local waiting, to
    do
      local b = assert(wire.udp(HERE))
      to = b:local_addr()
      waiting = wire.spawn(function() return (b:recv()) end)
    end
    wire.sleep(0)
    collectgarbage()
    collectgarbage()
    a:send_to("x", to)
    assert.are.same({ true, "x" }, { waiting:join(PATIENCE) })
  end)

  it("lets a coroutine that waited be thrown away", function()
    local a, b, to = pair()
    local task = wire.spawn(function()
      wire.co.wrap(function() b:recv() end)()
    end)
    wire.sleep(0)
    task:cancel()
    fails("ECANCELED", task:join(PATIENCE))
    a:send_to("x", to)
    assert.are.equal("x", (b:recv(PATIENCE)))
    b:close()
  end)

  it("leaves to a finalizer that still has the socket a clear error", function()
    local seen = {}
    do
      local holder = setmetatable({}, { __gc = function(self)
        seen.text = tostring(self.udp)
        for _, name in ipairs { "stats", "recv", "close" } do
          seen[name] = select(2, pcall(self.udp[name], self.udp))
        end
      end })
      holder.udp = assert(wire.udp(HERE)) -- younger, so it is finalized first
    end
    collectgarbage()
    collectgarbage()
    assert.are.equal("Udp (collected)", seen.text)
    for _, name in ipairs { "stats", "recv", "close" } do
      assert.truthy(tostring(seen[name]):find "this Udp was collected", name)
    end
  end)

  it("of the Lua state needs no close", function()
    local output, status = support.lua([[
      local wire = require "lunewire"
      left = assert(wire.udp("127.0.0.1:0", { queue = 10 }))
      left:send_to("x", (left:local_addr()))
      wire.sleep(0.01)
      assert(wire.serve_udp("127.0.0.1:0", print))
      wire.spawn(function() left:recv(60) end)
      wire.sleep(0)
      print "over"]]):output()
    assert.are.same({ "over\n", 0 }, { output, status })
  end)
end)

describe("udp: what cannot be", function()
  it("an address in use or not of this host is named", function()
    local a <close> = assert(wire.udp(HERE))
    local at = a:local_addr()
    local message = fails("EADDRINUSE", wire.udp(at))
    assert.are.equal("udp " .. at .. ": address already in use", message)
    assert.are.equal("udp 192.0.2.1:0: address not available",
      (fails("EADDRNOTAVAIL", wire.udp "192.0.2.1:0")))
  end)

  it("a text that is no address is EINVAL, a name that is not there ENOTFOUND", function()
    local a <close> = assert(wire.udp(HERE))
    fails("EINVAL", wire.udp "127.0.0.1")
    fails("EINVAL", a:send_to("x", "127.0.0.1"))
    fails("EINVAL", a:connect "")
    fails("ENOTFOUND", wire.udp(NO_NAME))
    fails("ENOTFOUND", a:send_to("x", NO_NAME))
    fails("ENOTFOUND", a:connect(NO_NAME))
    local message = fails("EAFNOSUPPORT", a:send_to("x", "[::1]:1"))
    assert.truthy(message:find("send_to [::1]:1: ", 1, true), message)
  end)

  it("misuse raises and says what to do", function()
    local a <close> = assert(wire.udp(HERE))
    raises("unknown option 'recv_bufer' %(did you mean 'recv_buffer'%?%)", wire.udp, HERE,
      { recv_bufer = 1 })
    raises("unknown option 'workers'", wire.udp, HERE, { workers = 2 })
    raises("unknown option 'max_size'", wire.udp, { max_size = 2 })
    raises("option 'max' must be at least 1", wire.udp, HERE, { max = 0 })
    raises("option 'queue' is out of range", wire.udp, HERE, { queue = -1 })
    raises("an address is a string", wire.udp, 8999)
    raises("unknown option 'timout'", a.recv, a, { timout = 1 })
    raises("number of seconds", a.set_timeout, a, "soon")
    raises("value expected", a.set_deadline, a)
    raises("string expected, got nil", a.send_to, a, nil, "127.0.0.1:1")
    raises("string expected, got table", a.send, a, {})
    raises("an address is a string", a.send_to, a, "x")
    raises("value expected", a.connect, a)
    raises("Udp expected", a.recv, {})
    raises("unknown option 'tll' %(did you mean 'ttl'%?%)", a.option, a, "tll")
  end)

  it("its misuse is blamed on the line that called", function()
    local err = raises("unknown option", function() wire.udp(HERE, { x = 1 }) end)
    assert.truthy(err:find "udp_spec.lua:%d+: unknown option", err)
    err = raises("an address is", function() wire.udp(8999) end)
    assert.truthy(err:find "udp_spec.lua:%d+: an address is", err)
  end)

  it("waiting where Lua cannot yield raises, and not waiting works there", function()
    local a, b, to = pair()
    raises("recv: cannot wait inside 'table.sort'", table.sort, { 1, 2 }, function()
      return b:recv() ~= nil
    end)
    a:send_to("x", to)
    table.sort({ 1, 2 }, function()
      if b:stats().datagrams_in == 0 then assert.are.equal("x", (b:recv(0))) end
      return false
    end)
    assert.are.equal(1, b:stats().datagrams_in)
  end)
end)

describe("udp: options alone", function()
  it("may stand in the address's place", function()
    local a <close> = assert(wire.udp { max = 3 })
    local _, _, port = a:local_addr()
    a:send_to("1234", ":" .. port)
    assert.are.same({ "123", true }, { a:recv(PATIENCE) })
    local b <close> = assert(wire.udp { host = "127.0.0.1", port = 0 })
    assert.truthy(b:local_addr():find "^127%.0%.0%.1:%d+$")
  end)
end)
