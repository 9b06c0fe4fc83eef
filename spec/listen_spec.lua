-- Listening sockets: accepting by hand, closing, addresses.
-- What this is not: handlers (server_spec.lua).
local support = require "spec.support"
local clients = require "spec.clients"
local wire = require "lunewire"

local it = support.it

local has_ipv6 = (function()
  local server, _, code = wire.listen "[::1]:0"
  if server then server:close() end
  return code ~= "EAFNOSUPPORT" and code ~= "EADDRNOTAVAIL"
end)()

describe("listen and accept", function()
  it("gives connections in the order in which they came", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    for i = 1, 3 do
      local client <close> = clients.connect(server)
      client:send(i, "\n")
    end
    for i = 1, 3 do
      local conn <close> = assert(server:accept(5))
      assert.equal(tostring(i), conn:recv_line(5))
    end
  end)

  it("accept with a timeout gives ETIMEDOUT and accepts later all the same", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local start = wire.now()
    local conn, message, code = server:accept(0.05)
    local took = wire.now() - start
    assert.is_nil(conn)
    assert.equal("ETIMEDOUT", code)
    assert.equal("accept " .. server:addr() .. ": timed out", message)
    assert.is_true(took > 0.04 and took < 5, took)
    local client <close> = clients.connect(server)
    conn = assert(server:accept(5))
    assert.equal(client:local_addr(), (conn:remote_addr()))
    conn:close()
  end)

  it("accept with a timeout of zero takes what is there and does not wait", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    assert.equal("ETIMEDOUT", select(3, server:accept(0)))
    local client <close> = clients.connect(server)
    local conn <close> = assert(server:accept(0))
    assert.equal(client:local_addr(), (conn:remote_addr()))
  end)

  it("several accepters each get one connection, first come first served", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local tasks = {}
    for i = 1, 3 do tasks[i] = wire.spawn(server.accept, server, 5) end
    wire.sleep(0)
    for i = 1, 3 do
      local client <close> = clients.connect(server)
      local _, conn = assert(tasks[i]:join(5))
      assert.equal(client:local_addr(), (conn:remote_addr()))
      conn:close()
    end
  end)

  it("count an accepted connection until it is closed, reset or collected", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local function accept()
      clients.connect(server):close()
      return assert(server:accept(5))
    end
    local conns = { accept(), accept(), accept() }
    assert.equal(3, server:conn_num())
    conns[3] = nil
    collectgarbage()
    collectgarbage()
    assert.equal(2, server:conn_num())
    conns[2]:close()
    assert.equal(1, server:conn_num())
    conns[1]:reset()
    assert.equal(0, server:conn_num())
  end)

  it("accept on a server that has a handler is misuse", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    assert.error_matches(function() server:accept(0) end, "wire.listen")
  end)

  it("an accepter that was cancelled takes no connection with it", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local first = wire.spawn(server.accept, server)
    local second = wire.spawn(server.accept, server)
    wire.sleep(0)
    first:cancel()
    local client <close> = clients.connect(server)
    local _, conn = assert(second:join(5))
    assert.equal(client:local_addr(), (conn:remote_addr()))
    conn:close()
    assert.equal("ECANCELED", select(3, first:join(5)))
  end)
end)

describe("closing a server", function()
  it("leaves established connections alone and refuses new ones", function()
    local server = assert(wire.serve("127.0.0.1:0", clients.echo))
    local address = server:addr()
    local client <close> = clients.connect(server)
    clients.check_echo(client, "before")
    server:close()
    clients.check_echo(client, "after")
    assert.equal(1, server:conn_num())
    assert.equal("ECONNREFUSED", select(3, wire.connect(address, 5)))
  end)

  it("wakes every accepter with ECLOSED, and later calls get it too", function()
    local server = assert(wire.listen "127.0.0.1:0")
    local one = wire.spawn(server.accept, server)
    local two = wire.spawn(server.accept, server, 5)
    wire.sleep(0)
    server:close()
    for _, task in ipairs { one, two } do
      local outcome = { task:join(5) }
      assert.same({ true, nil, "ECLOSED" }, { outcome[1], outcome[2], outcome[4] })
    end
    local conn, message, code = server:accept()
    assert.is_nil(conn)
    assert.equal("ECLOSED", code)
    assert.matches("^accept 127.0.0.1:%d+: ", message)
  end)

  it("twice is harmless, and a <close> variable closes it", function()
    local address
    do
      local server <close> = assert(wire.listen "127.0.0.1:0")
      address = server:addr()
      server:close()
      server:close()
    end
    assert.equal("ECONNREFUSED", select(3, wire.connect(address, 5)))
  end)

  it("frees its port at once", function()
    local server = assert(wire.serve("127.0.0.1:0", clients.echo))
    local address = server:addr()
    local client <close> = clients.connect(server)
    clients.check_echo(client, "established")
    server:close()
    local again <close> = assert(wire.listen(address))
    assert.equal(address, again:addr())
  end)

  support.it_outside("from a handler lets wire.run return", function()
    local server = assert(wire.serve("127.0.0.1:0", function(conn, server)
      server:close()
      conn:send "last"
    end))
    local got
    wire.spawn(function()
      local client <close> = clients.connect(server)
      got = client:read "a"
    end)
    wire.run()
    assert.equal("last", got)
  end)
end)

describe("addresses of a server", function()
  it("port 0 is read back by port() and addr()", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    assert.is_true(server:port() > 0)
    assert.equal("127.0.0.1:" .. server:port(), (server:addr()))
    local other <close> = assert(wire.listen { host = "127.0.0.1", port = 0 })
    assert.not_equal(server:port(), other:port())
  end)

  it('":0" takes connections over IPv4 and IPv6', function()
    local server <close> = assert(wire.serve(":0", function(conn)
      conn:send((conn:remote_addr()))
    end))
    local hosts = has_ipv6 and { "127.0.0.1:", "[::1]:" } or { "127.0.0.1:" }
    for _, host in ipairs(hosts) do
      local client <close> = assert(wire.connect(host .. server:port(), 5))
      assert.equal(client:local_addr(), client:read "a")
    end
  end)

  it('"[::1]:0" listens on IPv6', function()
    if not has_ipv6 then return pending "this machine has no IPv6" end
    local server <close> = assert(wire.serve("[::1]:0", clients.echo))
    assert.equal("[::1]:" .. server:port(), (server:addr()))
    local client <close> = clients.connect(server)
    clients.check_echo(client, "six")
    assert.equal(server:addr(), (client:remote_addr()))
  end)

  it("a name is resolved to listen on it", function()
    local server <close> = assert(wire.listen "localhost:0")
    local client <close> = assert(wire.connect("localhost:" .. server:port(), 5))
    assert.equal(server:addr(), (client:remote_addr()))
  end)

  it("a port in use is EADDRINUSE with the address in the message", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local second, message, code = wire.listen(server:addr())
    assert.is_nil(second)
    assert.equal("EADDRINUSE", code)
    assert.equal(("listen %s: address already in use"):format(server:addr()), message)
    second, message, code = wire.serve(server:addr(), clients.echo)
    assert.is_nil(second)
    assert.equal("EADDRINUSE", code)
    assert.truthy(message:find(server:addr() .. ": address already in use", 1, true))
  end)

  it("an address that this machine does not have is EADDRNOTAVAIL", function()
    local server, message, code = wire.listen "192.0.2.1:0"
    assert.is_nil(server)
    assert.equal("EADDRNOTAVAIL", code)
    assert.matches("^listen 192.0.2.1:0: ", message)
  end)
end)
