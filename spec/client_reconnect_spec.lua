-- wire.client: what becomes of it when its connection was lost, with the option reconnect and
-- without.
-- What this is not: everything else about clients (client_spec).
local assert = require "luassert"
local describe = require("busted").describe
local core = require "lunewire.core"
local support = require "spec.support"
local talkers = require "spec.talkers"
local wire = require "lunewire"

local it, fails = support.it, support.fails
local accepted, connected, echo_server = talkers.accepted, talkers.connected, talkers.server

local NOBODY <const> = "127.0.0.1:1"
local QUICK <const> = { min = 0.01, max = 0.02 }

describe("A client without reconnect", function()
  it("does not dial by itself when its connection was lost", function()
    local client, peer, server = accepted()
    peer:close()
    fails("EOF", client:recv(1, 5))
    fails("ENOTCONN", client:send "x")
    assert.is_true(client:connect(5))
    local second <close> = assert(server:accept(5))
    assert.equal(1, client:send "x")
    assert.equal("x", second:recv(1, 5))
    client:disconnect()
    server:close()
  end)

  it("keeps the facts of the connection that it lost", function()
    local client, peer, server = accepted()
    peer:send "abc"
    peer:close()
    fails("EOF", client:recv(4, 5))
    assert.equal(server:addr(), (client:remote_addr()))
    assert.equal(3, client:stats().bytes_in)
    assert.matches("end of", (client:last_error()))
    server:close()
  end)
end)

describe("A client with reconnect", function()
  it("dials again when it sends, and never when it receives", function()
    local client, peer, server = accepted { reconnect = QUICK }
    peer:close()
    fails("EOF", client:recv(1, 5))
    fails("ENOTCONN", client:recv(1, 5))
    fails("ENOTCONN", client:recv_line(5))
    fails("ENOTCONN", client:try_send "x")
    assert.equal(6, client:send "hello\n")
    local second <close> = assert(server:accept(5))
    assert.equal("hello", second:recv_line(5))
    client:disconnect()
    server:close()
  end)

  it("notices before it sends that the peer has gone while nobody called", function()
    local client, peer, server = accepted { reconnect = QUICK }
    peer:close()
    wire.sleep(0.02)
    assert.equal(6, client:send "hello\n")
    local second <close> = assert(server:accept(5))
    assert.equal("hello", second:recv_line(5))
    client:disconnect()
    server:close()
  end)

  for name, send in pairs {
    send = function(c) return c:send("hi\n", { timeout = 5 }) end,
    write = function(c) return c:write "hi\n" end,
    send_pkg = function(c) return c:send_pkg("hi", 5) end,
    send_frame = function(c) return c:send_frame("hi", { timeout = 5 }) end,
    send_recv = function(c) return c:send_recv("hi\n", 3, 5) end,
    send_recv_pkg = function(c) return c:send_recv_pkg("hi", { timeout = 5 }) end,
    send_file = function(c) return c:send_file("/etc/hostname", 0, 1) end,
  } do
    it("dials in " .. name, function()
      local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
        wire.copy(conn, conn)
      end))
      local client <close> = wire.client(server:addr(),
        { reconnect = QUICK, framing = wire.framing.line() })
      assert(send(client))
      assert.is_true(client:connected())
    end)
  end

  it("never sends again what failed: the peer gets each message at most once", function()
    local seen = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      local line = conn:recv_line()
      if line then seen[line] = (seen[line] or 0) + 1 end
      conn:reset()
    end))
    local client <close> = wire.client(server:addr(), { reconnect = QUICK })
    for i = 1, 50 do
      client:send(i, "\n")
      client:flush(5)
      if i % 3 == 0 then client:recv(1, 5) end
    end
    wire.sleep(0.02)
    local count = 0
    for line, times in pairs(seen) do
      count = count + 1
      assert.equal(1, times, line)
    end
    assert.is_true(count > 10)
  end, 20)

  it("tries again until the server is there", function()
    local port = support.port()
    local client <close> = wire.client("127.0.0.1:" .. port, { reconnect = QUICK })
    local server
    wire.after(0.1, function() server = assert(wire.serve("127.0.0.1:" .. port, talkers.talk)) end)
    assert.is_true(client:connect(5))
    assert.equal("hi\n", client:send_recv("hi\n", 3, 5))
    server:close()
  end)

  it("says at the end of its time what the last attempt met", function()
    local client = wire.client(NOBODY, { reconnect = QUICK })
    local start = wire.now()
    local message = fails("ETIMEDOUT", client:connect(0.1))
    assert.is_true(wire.now() - start >= 0.1)
    local last = message:match "timed out; the last attempt: connect 127%.0%.0%.1:1: (.*)$"
    local too_late = support.slowness > 1 and last == "timed out" -- it had too little time left
    assert.is_true(last == "connection refused" or too_late, message)
    fails("ETIMEDOUT", client:send("x", { timeout = 0.05 }))
    fails("ETIMEDOUT", client:send_pkg("x", 0.05))
  end)

  it("does not try again what no attempt can change", function()
    fails("EINVAL", wire.client("nonsense", { reconnect = QUICK }):connect(5))
  end)

  it("waits longer after each failure, between min and max", function()
    local attempts = {}
    local server = assert(wire.listen "127.0.0.1:0")
    local addr = server:addr()
    server:close()
    local client = wire.client(addr, { reconnect = { min = 0.02, max = 0.08, jitter = 0 } })
    local connect = core.connect
    core.connect = function(...)
      attempts[#attempts + 1] = wire.now()
      return connect(...)
    end
    local ok, err = pcall(client.connect, client, 0.5)
    core.connect = connect
    assert(ok, err)
    assert.is_true(#attempts >= 3 and #attempts <= 8, tostring(#attempts))
    assert.is_true(attempts[2] - attempts[1] >= 0.04)
    assert.is_true(attempts[3] - attempts[2] >= 0.08)
  end)

  it("waits before it comes back to a server that throws it out at once", function()
    local count = 0
    local server <close> = assert(wire.serve("127.0.0.1:0", function() count = count + 1 end))
    local client = wire.client(server:addr(), { reconnect = { min = 0.1, max = 0.2, jitter = 0 } })
    local limit = wire.now() + 0.5
    while wire.now() < limit do
      client:send("x", { timeout = limit - wire.now() })
      if client:connected() then client:recv(1, 1) end
    end
    assert.is_true(count >= 2 and count <= 6, tostring(count))
    client:disconnect()
  end)

  it("stays away after a disconnect until it connects", function()
    local server <close> = echo_server()
    local client <close> = connected(server, { reconnect = QUICK })
    client:disconnect()
    fails("ENOTCONN", client:send "x")
    assert.is_true(client:connect(5))
    assert.equal(1, client:send "x")
  end)

  it("is closed by close and reset as by disconnect", function()
    local server <close> = echo_server()
    local client <close> = connected(server, { reconnect = QUICK })
    assert.is_true(client:close())
    fails("ENOTCONN", client:send "x")
    assert.is_true(client:connect(5))
    assert.is_true(client:reset())
    fails("ENOTCONN", client:send "x")
  end)
end)
