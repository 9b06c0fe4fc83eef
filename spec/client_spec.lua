-- wire.client: connecting, what it forwards, losing a connection.
-- What this is not: dialling again (client_reconnect_spec), TLS (client_tls_spec).
local assert = require "luassert"
local describe = require("busted").describe
local core = require "lunewire.core"
local support = require "spec.support"
local talkers = require "spec.talkers"
local wire = require "lunewire"

local it, fails, raises = support.it, support.fails, support.raises

local NOBODY <const> = "127.0.0.1:1"
local QUICK <const> = { min = 0.01, max = 0.02 }

local accepted, connected, echo_server, wait_until =
  talkers.accepted, talkers.connected, talkers.server, talkers.wait_until

describe("A client", function()
  it("is not connected before connect, which is true at once from then on", function()
    local server <close> = echo_server()
    local client <close> = wire.client(server:addr())
    assert.is_false(client:connected())
    assert.is_true(client:closed())
    assert.equal(-1, client:socket())
    assert.equal(0, server:conn_num())
    assert.is_true(client:connect(5))
    assert.is_true(client:connected())
    assert.is_true(client:connect(0))
    client:send "hello\n"
    assert.equal("hello", client:recv_line(5))
    assert.equal(1, server:conn_num())
  end)

  it("returns ENOTCONN from each method that needs a connection", function()
    local client = wire.client(NOBODY)
    for _, name in ipairs { "recv", "recv_line", "recv_now", "peek", "read", "send", "send_pkg",
      "send_recv", "flush", "try_send", "set_timeout", "close_write", "remote_addr", "stats" } do
      local message = fails("ENOTCONN", client[name](client, "x", 1))
      assert.equal(name .. " " .. NOBODY .. ": not connected", message)
      assert.equal(message, client:strerror())
    end
    assert.is_true(client:close())
  end)

  it("has every method of a connection", function()
    local client = wire.client(NOBODY)
    local count = 0
    for name in pairs(core.conn_methods) do
      count = count + 1
      assert.equal("function", type(client[name]), name)
    end
    assert.is_true(count > 30)
  end)

  it("ends its iterators at once without a connection; last_error tells why", function()
    local client = wire.client(NOBODY)
    for _ in client:lines() do error "a line of nobody" end
    local message, code = client:last_error()
    assert.equal("lines " .. NOBODY .. ": not connected", message)
    assert.equal("ENOTCONN", code)
  end)

  it("iterates over lines, packages, chunks and frames", function()
    local client, peer, server = accepted { framing = wire.framing.line() }
    peer:send("one\ntwo\n")
    local lines = {}
    for line in client:lines() do
      lines[#lines + 1] = line
      if #lines == 2 then break end
    end
    assert.same({ "one", "two" }, lines)
    peer:send_pkg "three"
    local next_package = client:pkgs { header = 2 }
    assert.equal("three", next_package())
    peer:send "four\n"
    local next_frame = client:frames()
    assert.equal("four", next_frame())
    peer:send "five"
    peer:close()
    local rest = ""
    for data in client:chunks() do rest = rest .. data end
    assert.equal("five", rest)
    assert.is_nil(client:last_error())
    assert.is_false(client:connected())
    server:close()
  end)

  it("returns itself where a connection returns itself", function()
    local client <close>, peer, server = accepted()
    assert.equal(client, client:write("a", 1))
    assert.equal(client, client:set_framing(wire.framing.fixed(2)))
    assert.equal("a1", peer:recv(2, 5))
    peer:close()
    server:close()
  end)

  it("returns no value where a connection returns none", function()
    local client <close>, peer, server = accepted()
    assert.equal(0, select("#", client:set_timeout(1)))
    assert.equal(0, select("#", client:last_error()))
    peer:close()
    server:close()
  end)

  it("says who refused, also later", function()
    local client = wire.client(NOBODY)
    local message = fails("ECONNREFUSED", client:connect(5))
    assert.equal("connect " .. NOBODY .. ": connection refused", message)
    assert.equal(message, client:strerror())
    assert.matches("Client %(127%.0%.0%.1:1, not connected%)", tostring(client))
  end)

  it("fails to connect to what is no address, and raises for what cannot be one", function()
    fails("EINVAL", wire.client("nonsense"):connect())
    raises("client_spec.*address", function() local _ = wire.client(nil) end)
    raises("client_spec.*address", function() local _ = wire.client(80) end)
  end)

  it("refuses unknown options and wrong ones when it is made", function()
    raises("unknown option 'timout' %(did you mean 'timeout'%?%)", wire.client, NOBODY,
      { timout = 1 })
    raises("on_connect", wire.client, NOBODY, { on_connect = 1 })
    raises("reconnect", wire.client, NOBODY, { reconnect = 1 })
    raises("'maxx' %(did you mean 'max'%?%)", wire.client, NOBODY, { reconnect = { maxx = 1 } })
    raises("min <= max", wire.client, NOBODY, { reconnect = { min = 2, max = 1 } })
    raises("jitter", wire.client, NOBODY, { reconnect = { jitter = 2 } })
  end)

  it("raises for misuse of connect's own options in the line that connects", function()
    local client = wire.client(NOBODY, { limits = { lines = 1 } })
    raises("client_spec.*unknown option 'lines' %(did you mean 'line'%?%)", function()
      client:connect()
    end)
    raises("client_spec.*seconds", function() client:connect "5" end)
  end)

  it("keeps what its options were when it was made", function()
    local opts = { timeout = 5 }
    local client = wire.client(NOBODY, opts)
    opts.nonsense = true
    fails("ECONNREFUSED", client:connect())
  end)

  it("closes its connection at the end of its block, and when nobody refers to it", function()
    local server <close> = echo_server()
    do
      local client <close> = connected(server)
      assert.is_true(client:connected())
      wait_until(function() return server:conn_num() == 1 end)
    end
    wait_until(function() return server:conn_num() == 0 end)
    connected(server)
    wait_until(function() return server:conn_num() == 1 end)
    collectgarbage()
    collectgarbage()
    wait_until(function() return server:conn_num() == 0 end)
  end)

  it("has clones with the same address and options, which are not connected", function()
    local greeted = 0
    local server <close> = echo_server()
    local client <close> = connected(server, {
      on_connect = function() greeted = greeted + 1 end,
    })
    local clone <close> = client:clone()
    assert.is_false(clone:connected())
    assert.is_true(clone:connect(5))
    assert.equal(2, greeted)
    assert.is_true(client:connected())
    wait_until(function() return server:conn_num() == 2 end)
  end)

  support.it_outside("works outside any task", function()
    local server = echo_server()
    local client = connected(server)
    client:send "hello\n"
    assert.equal("hello", client:recv_line(5))
    client:disconnect()
    server:close()
  end)
end)

-- ---- several tasks ---------------------------------------------------------------------

describe("Several tasks that connect one client", function()
  it("share one dial", function()
    local accepted_count = 0
    local server <close> = echo_server {
      on_accept = function() accepted_count = accepted_count + 1 end,
    }
    local client <close> = wire.client(server:addr())
    local tasks = {}
    for i = 1, 8 do tasks[i] = wire.spawn(client.connect, client, 5) end
    for _, task in ipairs(tasks) do assert.same({ true, true }, { task:join() }) end
    wire.sleep(0.02)
    assert.equal(1, accepted_count)
  end)

  it("share it when they send", function()
    local server <close>, conns = echo_server()
    local client <close> = wire.client(server:addr(), { reconnect = true })
    local tasks = {}
    for i = 1, 8 do tasks[i] = wire.spawn(client.send, client, "task ", i, "\n") end
    for _, task in ipairs(tasks) do assert.same({ true, 7 }, { task:join() }) end
    local seen = {}
    for i = 1, 8 do seen[i] = client:recv_line(5) end
    table.sort(seen)
    for i = 1, 8 do assert.equal("task " .. i, seen[i]) end
    assert.equal(1, #conns)
  end)

  it("share its failure", function()
    local client = wire.client(NOBODY)
    local tasks = {}
    for i = 1, 3 do tasks[i] = wire.spawn(client.connect, client, 5) end
    for _, task in ipairs(tasks) do
      local _, result, message, code = task:join()
      fails("ECONNREFUSED", result, message, code)
    end
  end)

  -- on_connect holds the dial until it is let go.
  local function held_client(server)
    local gate = wire.channel()
    local calls = { n = 0 }
    local client = wire.client(server:addr(), {
      on_connect = function()
        calls.n = calls.n + 1
        gate:recv()
      end,
    })
    return client, gate, calls
  end

  it("do not lose it when the one who began is cancelled or its time is over", function()
    local server <close> = echo_server()
    local client <close>, gate, calls = held_client(server)
    local first = wire.spawn(client.connect, client, 5)
    local second = wire.spawn(client.connect, client, 0.05)
    local third = wire.spawn(client.connect, client, 5)
    wait_until(function() return calls.n == 1 end)
    first:cancel()
    local _, result, message, code = second:join()
    fails("ETIMEDOUT", result, message, code)
    gate:send(true)
    assert.same({ true, true }, { third:join() })
    assert.equal("ECANCELED", (select(3, first:join())))
    assert.equal(1, calls.n)
  end)

  it("leave nothing when all of them are cancelled", function()
    local server <close> = echo_server()
    local client, _, calls = held_client(server)
    local first = wire.spawn(client.connect, client, 5)
    local second = wire.spawn(client.connect, client, 5)
    wait_until(function() return calls.n == 1 end)
    first:cancel()
    second:cancel()
    wait_until(function() return server:conn_num() == 0 end)
    assert.is_false(client:connected())
  end)

  it("get ECLOSED when it is disconnected meanwhile", function()
    local server <close> = echo_server()
    local client, _, calls = held_client(server)
    local task = wire.spawn(client.connect, client, 5)
    wait_until(function() return calls.n == 1 end)
    client:disconnect()
    local _, result, message, code = task:join()
    fails("ECLOSED", result, message, code)
    wait_until(function() return server:conn_num() == 0 end)
  end)
end)

-- ---- on_connect, on_disconnect ------------------------------------------------------------

describe("on_connect", function()
  it("has the connection before anybody else", function()
    local server <close> = echo_server()
    local client <close> = wire.client(server:addr(), {
      on_connect = function(conn)
        conn:send "auth\n"
        wire.sleep(0.01)
        assert(conn:recv_line(5) == "auth")
      end,
    })
    local answers = {}
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = wire.spawn(function()
        assert(client:connect(5))
        local answer = client:send_recv(i .. "\n", 2, 5)
        answers[#answers + 1] = answer
      end)
    end
    for _, task in ipairs(tasks) do assert.is_true(task:join()) end
    table.sort(answers)
    assert.same({ "1\n", "2\n", "3\n" }, answers)
  end)

  local function refused_by(on_connect)
    local server <close> = echo_server()
    local client = wire.client(server:addr(), { on_connect = on_connect, reconnect = QUICK })
    local result = table.pack(client:connect(5))
    assert.is_false(client:connected())
    wait_until(function() return server:conn_num() == 0 end)
    return table.unpack(result)
  end

  it("fails the connect by returning a failure", function()
    local message = fails("EPERM", refused_by(function() return nil, "wrong password", "EPERM" end))
    assert.matches("^connect 127.*: on_connect: wrong password$", message)
  end)

  it("fails the connect by returning false", function()
    fails("ECLOSED", refused_by(function() return false end))
  end)

  it("fails the connect by an error", function()
    local message = fails("EERROR", refused_by(function() error "no greeting" end))
    assert.matches("on_connect: .*no greeting", message)
  end)

  it("fails the connect by closing the connection", function()
    fails("ECLOSED", refused_by(function(conn) conn:close() end))
  end)

  it("may not use the client itself, and is told so", function()
    local server <close> = echo_server()
    local client
    client = wire.client(server:addr(), {
      reconnect = true,
      on_connect = function() client:send "x" end,
    })
    local message = fails("EERROR", client:connect(5))
    assert.matches("on_connect is given the connection", message)
  end)
end)

describe("on_disconnect", function()
  local function noting(opts)
    local lost = {}
    opts = opts or {}
    opts.on_disconnect = function(message, code)
      lost[#lost + 1] = { message = message, code = code }
    end
    return opts, lost
  end

  it("runs once when the peer ends the connection under several waiting calls", function()
    local opts, lost = noting()
    local client, peer, server = accepted(opts)
    local tasks = {}
    for i = 1, 3 do tasks[i] = wire.spawn(client.recv, client, 1, 5) end
    wire.sleep(0.01)
    peer:close()
    for _, task in ipairs(tasks) do task:join() end
    wire.sleep(0.01)
    assert.equal(1, #lost)
    assert.equal("EOF", lost[1].code)
    assert.matches("end of", lost[1].message)
    fails("ENOTCONN", client:recv(1))
    assert.equal(1, #lost)
    server:close()
  end)

  for name, finish in pairs { end_ = "close", reset = "reset" } do
    it("runs at the peer's " .. name:gsub("_", "") .. " though nobody calls", function()
      local opts, lost = noting()
      local client, peer, server = accepted(opts)
      peer[finish](peer)
      wait_until(function() return #lost == 1 end)
      assert.equal(({ close = "EOF", reset = "ECONNRESET" })[finish], lost[1].code)
      wire.sleep(0.01)
      assert.equal(1, #lost)
      assert.is_false(client:connected())
      server:close()
    end)
  end

  it("runs when a write fails behind our back", function()
    local opts, lost = noting()
    local client, peer, server = accepted(opts)
    peer:send "unread"
    wait_until(function() return client:buffered() == 6 end)
    peer:reset()
    for _ = 1, 3 do
      client:try_send "x"
      wire.sleep(0.02)
    end
    wait_until(function() return #lost == 1 end)
    server:close()
  end)

  it("is told of a reset", function()
    local opts, lost = noting()
    local client, peer, server = accepted(opts)
    peer:reset()
    fails("ECONNRESET", client:recv(1, 5))
    wire.sleep(0)
    assert.same({ "ECONNRESET" }, { lost[1].code })
    assert.equal(client:strerror(), lost[1].message)
    server:close()
  end)

  it("runs when connected() finds the end, but after all was received", function()
    local opts, lost = noting()
    local client, peer, server = accepted(opts)
    peer:send "last words\n"
    peer:close()
    wait_until(function() return client:buffered() == 11 end)
    wire.sleep(0.01)
    assert.is_true(client:connected())
    assert.equal("last words", client:recv_line(5))
    wait_until(function() return not client:connected() end)
    wire.sleep(0)
    assert.equal("EOF", lost[1].code)
    server:close()
  end)

  it("does not run for a disconnect of our own", function()
    local opts, lost = noting()
    local client, peer, server = accepted(opts)
    client:disconnect()
    client:disconnect()
    wire.sleep(0.01)
    assert.equal(0, #lost)
    peer:close()
    server:close()
  end)

  it("may fail: its error is an uncaught one of a task", function()
    local client, peer, server = accepted { on_disconnect = function() error "oh dear" end }
    peer:close()
    fails("EOF", client:recv(1, 5))
    wire.sleep(0.01)
    local errors = support.take_errors()
    assert.equal(1, #errors)
    assert.matches("oh dear", errors[1].err)
    server:close()
  end)
end)

describe("A client's dial", function()
  it("fails for a name that does not exist", function()
    local message = fails("ENOTFOUND", wire.client(("x"):rep(64) .. ":80"):connect(5))
    assert.matches("^connect x+:80: ", message)
  end)

  it("does not keep the connection when the caller was cancelled in on_connect", function()
    local server <close> = echo_server()
    local begun = false
    local client = wire.client(server:addr(), {
      on_connect = function()
        begun = true
        wire.sleep(10)
      end,
    })
    local task = wire.spawn(client.connect, client)
    wait_until(function() return begun end)
    task:cancel()
    task:join()
    wait_until(function() return server:conn_num() == 0 end)
    assert.is_false(client:connected())
  end)
end)
