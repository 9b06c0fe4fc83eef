-- The exit of a server: closing, run, on_exit and on_shutdown.
-- What this is not: what a shutdown does to connections (shutdown_spec.lua).
local support = require "spec.support"
local clients = require "spec.clients"
local wire = require "lunewire"

local it, eventually = support.it, support.eventually
local LONG = 60 -- a drain time that no test waits for

local function serve(options, handler)
  return assert(wire.serve("127.0.0.1:0", options, handler))
end

-- A server, one client of it, and a function that lets the client's handler return.
local function serve_gated()
  local gate, inside = false, false
  local server = assert(wire.serve("127.0.0.1:0", function()
    inside = true
    eventually(function() return gate end)
  end))
  local client = clients.connect(server)
  eventually(function() return inside end)
  return server, client, function() gate = true end
end

describe("closing", function()
  it("is false while the server accepts, true once it was closed", function()
    local server = assert(wire.serve("127.0.0.1:0", clients.echo))
    assert.is_false(server:closing())
    server:close()
    assert.is_true(server:closing())
  end)

  it("is true after a shutdown, of a listening server too", function()
    local server = assert(wire.listen "127.0.0.1:0")
    assert.is_false(server:closing())
    server:shutdown()
    assert.is_true(server:closing())
  end)
end)

describe("run", function()
  it("waits until the server was stopped and the last handler has returned", function()
    local server, client <close>, open = serve_gated()
    local task = wire.spawn(server.run, server)
    wire.sleep(0.01)
    assert.equal("waiting", task:status())
    server:close()
    wire.sleep(0.01)
    assert.equal("waiting", task:status())
    open()
    assert.same({ true, true }, { task:join(5) })
    clients.check_ended(client)
  end)

  it("is true at once after the exit, and for every task that waits", function()
    local server = assert(wire.serve("127.0.0.1:0", clients.echo))
    local tasks = {}
    for i = 1, 3 do tasks[i] = wire.spawn(server.run, server) end
    wire.sleep(0)
    server:close()
    for _, task in ipairs(tasks) do assert.same({ true, true }, { task:join(5) }) end
    assert.is_true(server:run())
  end)

  it("ends with a shutdown that a handler asked for", function()
    local server = assert(wire.serve("127.0.0.1:0", function(_, server) server:shutdown() end))
    local task = wire.spawn(server.run, server)
    local client <close> = clients.connect(server)
    assert.same({ true, true }, { task:join(5) })
    clients.check_ended(client)
  end)

  it("ends for a server with accepters when it is closed", function()
    local server = assert(wire.listen "127.0.0.1:0")
    local task = wire.spawn(server.run, server)
    wire.sleep(0)
    server:close()
    assert.same({ true, true }, { task:join(5) })
  end)

  support.it_outside("is all that a script needs in its last line", function()
    local server = assert(wire.serve("127.0.0.1:0", function(conn, server)
      conn:send "last"
      server:close()
    end))
    local client = wire.spawn(function()
      local client <close> = clients.connect(server)
      return client:read "a"
    end)
    assert.is_true(server:run())
    assert.same({ true, "last" }, { client:join(5) })
  end)
end)

describe("on_exit", function()
  it("runs once, when the server was stopped and the last handler has returned", function()
    local server, client <close>, open = serve_gated()
    local exits = 0
    server:on_exit(function() exits = exits + 1 end)
    server:close()
    wire.sleep(0.01)
    assert.equal(0, exits)
    open()
    eventually(function() return exits > 0 end)
    clients.check_ended(client)
    client:close()
    server:close()
    server:shutdown()
    wire.sleep(0.01)
    assert.equal(1, exits)
  end)

  it("does not run when the last handler returns but the server goes on", function()
    local server, client <close>, open = serve_gated()
    local exits = 0
    server:on_exit(function() exits = exits + 1 end)
    open()
    clients.check_ended(client)
    wire.sleep(0.01)
    assert.equal(0, exits)
    server:close()
    eventually(function() return exits == 1 end)
  end)

  it("waits for a handler whose connection a shutdown has reset", function()
    local server, client <close>, open = serve_gated()
    local exits = 0
    server:on_exit(function() exits = exits + 1 end)
    assert.is_false(server:shutdown(0.01))
    wire.sleep(0.01)
    assert.equal(0, exits)
    clients.check_ended(client)
    open()
    eventually(function() return exits == 1 end)
  end)

  it("given after the exit runs at once", function()
    local server = assert(wire.serve("127.0.0.1:0", clients.echo))
    server:close()
    assert.is_true(server:run())
    local exits = 0
    server:on_exit(function() exits = exits + 1 end)
    eventually(function() return exits == 1 end)
  end)

  it("runs for a closed server that nobody refers to any more", function()
    local exits = 0
    local function start()
      local server, client, open = serve_gated()
      server:on_exit(function() exits = exits + 1 end)
      server:close()
      return client, open
    end
    local client <close>, open = start()
    collectgarbage()
    collectgarbage()
    assert.equal(0, exits)
    open()
    eventually(function() return exits == 1 end)
    clients.check_ended(client)
  end)

  it("with something that cannot be called is misuse", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    assert.is_false(pcall(server.on_exit, server, 5))
    assert.is_false(pcall(server.on_exit, server))
  end)
end)

describe("on_shutdown", function()
  it("runs once when a shutdown begins, with the server, and may wait", function()
    local calls = {}
    local server = serve({ on_shutdown = function(...)
      calls[#calls + 1] = { ... }
      wire.sleep(0.01)
      calls.closing = (...):closing()
    end }, clients.echo)
    local client = clients.connect(server)
    clients.check_echo(client, "hello")
    assert.equal(0, #calls)
    client:close()
    server:shutdown(LONG)
    server:shutdown(LONG)
    assert.is_true(calls.closing) -- the shutdown has waited for it
    assert.same({ 1, 1 }, { #calls, #calls[1] })
    assert.equal(server, calls[1][1])
  end)

  it("can say goodbye to everybody who is connected", function()
    local server = serve({ on_shutdown = function(server)
      for _, conn in ipairs(server:conns()) do conn:send "closing down\n" end
    end }, clients.echo)
    local all = {}
    for i = 1, 5 do
      all[i] = clients.connect(server)
      clients.check_echo(all[i], "hello")
    end
    local task = wire.spawn(server.shutdown, server, LONG)
    for _, client in ipairs(all) do
      assert.equal("closing down\n", client:read "a")
      client:close()
    end
    assert.same({ true, true }, { task:join(5) })
  end)

  it("does not run when the server is only closed", function()
    local called = false
    local server = serve({ on_shutdown = function() called = true end }, clients.echo)
    server:close()
    assert.is_true(server:run())
    wire.sleep(0.01)
    assert.is_false(called)
  end)

  it("that dies does not stop the shutdown", function()
    local server = serve({ on_shutdown = function() error "in the hook" end }, clients.echo)
    assert.is_true(server:shutdown(LONG))
    local errors = eventually(function()
      local taken = support.take_errors()
      return taken[1] and taken
    end)
    assert.matches("in the hook", errors[1].err)
  end)
end)
