-- Clients, pools and network logs over TLS: what they verify, what they use again, what arrives.
-- What this is not: TLS itself (tls_spec), the same without it (client_spec and others).
local assert = require "luassert"
local describe = require("busted").describe
local core = require "lunewire.core"
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local it, fails, raises = support.it, support.fails, support.raises

local PATIENCE <const> = 20

local function echo_server(name)
  local names = {}
  local server = assert(wire.serve("127.0.0.1:0", { tls = pki.server(name) }, function(conn)
    names[#names + 1] = conn:tls_info().servername or "nobody"
    for line in conn:lines() do conn:send(line, "\n") end
  end))
  return server, names
end

describe("A client over TLS", function()
  it("verifies the server's chain, and does not dial again in vain", function()
    local server <close> = echo_server "other_ca"
    local client = wire.client(server:addr(), { tls = pki.client(), reconnect = true })
    fails("ECERT", client:connect(PATIENCE))
  end)

  it("verifies the server's name", function()
    local server <close> = echo_server "other_host"
    fails("ECERT", wire.client(server:addr(), { tls = pki.client() }):connect(PATIENCE))
  end)

  it("names the host that it asks for (SNI)", function()
    local server <close>, names = echo_server()
    local client <close> = wire.client("localhost:" .. server:port(), { tls = pki.client() })
    assert.equal("hi\n", (assert(client:connect(PATIENCE)) and client:send_recv("hi\n", 3)))
    assert.same({ "localhost" }, names)
  end)

  it("resumes its session when it dials again", function()
    local server <close> = echo_server()
    local client <close> = wire.client(server:addr(), { tls = pki.client(), reconnect = true })
    assert.equal("one\n", client:send_recv("one\n", 4, PATIENCE))
    assert.is_false(client:tls_info().resumed)
    client:disconnect()
    assert(client:connect(PATIENCE))
    assert.equal("two\n", client:send_recv("two\n", 4, PATIENCE))
    assert.is_true(client:tls_info().resumed)
  end)

  it("fails to connect with files that are not there, and raises for unknown options", function()
    fails("ENOENT", wire.client("127.0.0.1:1", { tls = { ca = "/no/such/file" } }):connect())
    raises("client_tls_spec.*unknown option 'caa'", function()
      wire.client("127.0.0.1:1", { tls = { caa = "x" } }):connect()
    end)
  end)
end)

describe("A pool over TLS", function()
  local function ask(conn, text) return conn:send_recv(text .. "\n", #text + 1, PATIENCE) end

  it("uses connections again, though the server sends tickets meanwhile", function()
    local server <close> = echo_server()
    local pool <close> = wire.pool(server:addr(), { tls = pki.client() })
    do
      local conn <close> = assert(pool:get(PATIENCE)) -- its tickets come while it is idle
      assert.truthy(conn:tls_info().version)
    end
    wire.sleep(0.05)
    for i = 1, 5 do assert.equal(i .. "\n", pool:use(ask, tostring(i))) end
    assert.equal(1, pool:stats().created)
  end)

  it("closes an idle one when the server ends it", function()
    local conns = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", { tls = pki.server() }, function(conn)
      conns[#conns + 1] = conn
      for line in conn:lines() do conn:send(line, "\n") end
    end))
    local pool <close> = wire.pool(server:addr(), { tls = pki.client() })
    assert.equal("x\n", pool:use(ask, "x"))
    conns[1]:close()
    local limit = wire.now() + PATIENCE
    while pool:stats().idle > 0 and wire.now() < limit do wire.sleep(0.002) end
    assert.equal(0, pool:stats().idle)
    assert.equal("y\n", pool:use(ask, "y"))
  end)

  it("does not use again what was upgraded in a block", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      conn:start_tls(pki.server())
      conn:recv()
    end))
    local pool <close> = wire.pool(server:addr())
    pool:use(function(conn) conn:start_tls(pki.client { servername = "localhost" }) end)
    assert.same({ 0, 0 }, { pool:stats().idle, pool:stats().used })
  end)
end)

describe("A network log over TLS", function()
  for title, script in pairs {
    ["by log:error"] = 'log:print("regular") log:error("panic")',
    ["by log:error in a task"] = 'wire.run(function() log:print("regular") log:error("panic") end)',
    ["by an error"] = 'log:print("regular") log:print("panic") error("oh")',
    ["by an error in a task"] =
      'wire.run(function() log:print("regular") log:print("panic") error("oh") end)',
  } do
    it("delivers all lines of a script that dies " .. title, function()
      local lines = wire.channel(10)
      local server <close> = assert(wire.serve("127.0.0.1:0", { tls = pki.server() },
        function(conn)
          for line in conn:lines() do lines:send(line) end
          lines:send(select(2, conn:last_error()) or "EOF")
        end))
      local peer = support.lua([[
        local wire = require "lunewire"
        local log = assert(wire.netlog(arg[1], { tls = { ca = arg[2] } }))
      ]] .. script, server:addr(), pki.ca.ca)
      assert.equal("regular", lines:recv(PATIENCE))
      assert.equal("panic", lines:recv(PATIENCE))
      assert.equal("EOF", lines:recv(PATIENCE))
      peer:output()
      assert.equal(0, core.census().dials)
    end)
  end
end)
