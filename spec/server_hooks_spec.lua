-- The hooks of servers: on_accept, on_close, and where the errors of handlers go.
-- What this is not: on_shutdown and on_exit (shutdown_spec.lua).
local support = require "spec.support"
local clients = require "spec.clients"
local wire = require "lunewire"

local it, fails, eventually = support.it, support.fails, support.eventually

local function serve(options, handler)
  return assert(wire.serve("127.0.0.1:0", options, handler or clients.echo))
end

-- An on_close that notes its calls -> the hook, the list of its calls, each {conn, message, code}.
local function recorder()
  local calls = {}
  return function(...) calls[#calls + 1] = { ... } end, calls
end

-- Waits until there are n calls -> the last of them.
local function await_calls(calls, n)
  eventually(function() return #calls >= n end)
  assert.equal(n, #calls)
  return calls[n]
end

-- Serves one connection, with a client that does something -> the arguments of on_close.
local function close_report(handler, visit, options)
  local on_close, calls = recorder()
  options = options or {}
  options.on_close = on_close
  local server <close> = serve(options, handler)
  local client <close> = clients.connect(server)
  visit(client)
  return table.unpack(await_calls(calls, 1), 1, 3)
end

local function reset(client) client:reset() end

describe("on_accept", function()
  it("runs before the handler, with the connection that the handler gets", function()
    local steps = {}
    local server <close> = serve({ on_accept = function(conn)
      steps[#steps + 1] = { "accept", conn, (conn:remote_addr()) }
    end }, function(conn)
      steps[#steps + 1] = { "handler", conn }
      clients.echo(conn)
    end)
    local client <close> = clients.connect(server)
    clients.check_echo(client, "hello")
    assert.equal(2, #steps)
    assert.same({ "accept", "handler" }, { steps[1][1], steps[2][1] })
    assert.equal(steps[1][2], steps[2][2])
    assert.equal(client:local_addr(), steps[1][3])
  end)

  it("returning false refuses: no handler, no on_close, and it is not counted", function()
    local handled, refused = 0, nil
    local on_close, calls = recorder()
    local server <close> = serve({ on_close = on_close, on_accept = function(conn)
      if refused then return true end
      refused = conn
      return false
    end }, function(conn)
      handled = handled + 1
      clients.echo(conn)
    end)
    local a <close> = clients.connect(server)
    clients.check_ended(a)
    assert.equal(0, server:conn_num())
    assert.same({}, server:conns())
    assert.is_true(refused:closed())
    local b = clients.connect(server)
    clients.check_echo(b, "welcome")
    b:close()
    await_calls(calls, 1)
    assert.equal(1, handled)
    assert.not_equal(refused, calls[1][1])
  end)

  it("refuses for false alone: nothing, nil and other values let the client in", function()
    local values, n = { n = 4, nil, 0, "", true }, 0
    local server <close> = serve { on_accept = function()
      n = n + 1
      if n <= values.n then return values[n] end
    end }
    for i = 1, values.n + 1 do
      local client <close> = clients.connect(server)
      clients.check_echo(client, "number " .. i)
    end
  end)

  it("gives a refused connection's place to the next client", function()
    local n = 0
    local server <close> = serve { max_conns = 1, on_accept = function()
      n = n + 1
      return n > 5
    end }
    for _ = 1, 5 do
      local client <close> = clients.connect(server)
      clients.check_ended(client)
    end
    local client <close> = clients.connect(server)
    clients.check_echo(client, "sixth")
  end)

  it("can set the connection up, and send before the handler does", function()
    local server <close> = serve({ on_accept = function(conn)
      conn:set_timeout(0.02)
      conn:send "first "
    end }, function(conn)
      conn:send(select(3, conn:recv(1)))
    end)
    local client <close> = clients.connect(server)
    assert.equal("first ETIMEDOUT", client:read "a")
  end)

  it("must not wait: waiting raises there, and refuses", function()
    for _, wait in ipairs { function() wire.sleep(0.01) end, function(conn) conn:recv(1) end } do
      local err
      local server <close> = serve { on_accept = wait }
      server:on_error(function(e) err = e end)
      local client <close> = clients.connect(server)
      clients.check_ended(client)
      assert.matches("cannot wait here", eventually(function() return err end))
    end
  end)

  it("dying of an error refuses and goes to the server's on_error", function()
    local reports, handled, first = {}, 0, true
    local on_close, calls = recorder()
    local server <close> = serve({ on_close = on_close, on_accept = function()
      if not first then return end
      first = false
      error "bad client"
    end }, function(conn)
      handled = handled + 1
      clients.echo(conn)
    end)
    server:on_error(function(...) reports[#reports + 1] = { ... } end)
    local a <close>, b = clients.connect(server), clients.connect(server)
    clients.check_ended(a)
    clients.check_echo(b, "served")
    b:close()
    await_calls(calls, 1)
    assert.same({ 1, 1 }, { #reports, handled })
    assert.matches("server_hooks_spec.lua:%d+: bad client", reports[1][1])
    assert.matches("traceback", reports[1][2])
  end)

  it("whose error nobody takes is reported by wire.on_error", function()
    local server <close> = serve { on_accept = function() error "unclaimed" end }
    local client <close> = clients.connect(server)
    clients.check_ended(client)
    local errors = eventually(function()
      local taken = support.take_errors()
      return taken[1] and taken
    end)
    assert.matches("unclaimed", errors[1].err)
  end)

  it("refuses a pipe's end that was handed over, and closes it", function()
    local server <close> = serve { on_accept = function() return false end }
    local a <close>, b = wire.pipe()
    fails("ECONNREFUSED", server:handle(b))
    assert.is_true(b:closed())
    clients.check_ended(a)
    assert.equal(0, server:conn_num())
  end)

  it("sieves for accepters too: accept never gives a refused connection", function()
    local seen = 0
    local server <close> = assert(wire.listen("127.0.0.1:0", { on_accept = function()
      seen = seen + 1
      return seen > 2
    end }))
    local all = {}
    for i = 1, 3 do all[i] = clients.connect(server) end
    local conn <close> = assert(server:accept(5))
    assert.equal(all[3]:local_addr(), (conn:remote_addr()))
    assert.equal(1, server:conn_num())
    clients.check_ended(all[1])
    clients.check_ended(all[2])
    for _, client in ipairs(all) do client:close() end
  end)
end)

describe("on_close", function()
  it("comes once the handler has returned, without a reason if nothing failed", function()
    local conn, message, code = close_report(function(conn) conn:send "bye" end,
      function(client) assert.equal("bye", client:read "a") end)
    assert.is_true(conn:closed())
    assert.same({}, { message, code })
  end)

  it("has EOF where the handler saw the peer's end", function()
    local handlers = { clients.echo, function(conn) conn:recv(1) end,
      function(conn) conn:recv_line() end }
    for _, handler in ipairs(handlers) do
      local _, message, code = close_report(handler, function(client) client:close() end)
      assert.equal("EOF", code)
      assert.equal("string", type(message))
    end
  end)

  it("has ECONNRESET where the peer reset the connection", function()
    local conn, message, code = close_report(clients.echo, reset)
    assert.equal("ECONNRESET", code)
    assert.equal(conn:strerror(), message)
  end)

  it("has the last failure, whatever it was", function()
    local function impatient(conn) conn:recv(1, 0.01) end
    local _, message, code = close_report(impatient, clients.check_ended)
    assert.equal("ETIMEDOUT", code)
    assert.matches("timed out", message)
    _, _, code = close_report(function(conn) conn:recv_line() end,
      function(client) client:send "too long\n" end, { limits = { line = 3 } })
    assert.equal("EMSGSIZE", code)
  end)

  it("comes for a handler that died too", function()
    local conn, _, code = close_report(function() error "as told" end, clients.check_ended)
    assert.is_true(conn:closed())
    assert.is_nil(code)
    assert.equal(1, #support.take_errors())
  end)

  it("finds its connection neither counted nor listed", function()
    local counted
    local server <close> = serve { on_close = function(conn)
      counted = { conn:closed() }
    end }
    local other <close>, client = clients.connect(server), clients.connect(server)
    clients.check_echo(other, "one")
    clients.check_echo(client, "two")
    client:close()
    eventually(function() return counted end)
    assert.same({ true }, counted)
    assert.equal(1, server:conn_num())
    assert.equal(other:local_addr(), (server:conns()[1]:remote_addr()))
  end)

  it("can still tell who it was and how much went through", function()
    local facts
    local server <close> = serve { on_close = function(conn)
      facts = { (conn:remote_addr()), conn:stats().bytes_in }
    end }
    local client = clients.connect(server)
    clients.check_echo(client, "12345")
    local address = client:local_addr()
    client:close()
    eventually(function() return facts end)
    assert.same({ address, 6 }, facts)
  end)

  it("runs in a task of its own: it may wait, and holds nobody up", function()
    local gate, done = false, 0
    local server <close> = serve { on_close = function()
      eventually(function() return gate end)
      done = done + 1
    end }
    for i = 1, 3 do
      local client <close> = clients.connect(server)
      clients.check_echo(client, "visit " .. i)
    end
    local last <close> = clients.connect(server)
    clients.check_echo(last, "served meanwhile")
    assert.equal(0, done)
    gate = true
    eventually(function() return done == 3 end)
  end)

  it("comes when the connection closes, though the handler goes on", function()
    local on_close, calls = recorder()
    local seen
    local server <close> = serve({ on_close = on_close }, function(conn)
      conn:close()
      await_calls(calls, 1)
      seen = true
    end)
    local client <close> = clients.connect(server)
    clients.check_ended(client)
    eventually(function() return seen end)
    assert.equal(1, #calls)
  end)

  it("comes exactly once for each of many, however they end", function()
    local ends = { function(conn) conn:recv_line() end, function(conn) conn:close() end,
      function(conn) conn:reset() end, function() error "as told" end,
      function(conn)
        conn:close()
        conn:reset()
        error "twice"
      end }
    local times, closed, n = {}, 0, 0
    local server <close> = serve({ on_close = function(conn)
      local address = conn:remote_addr()
      times[address] = (times[address] or 0) + 1
      closed = closed + 1
    end }, function(conn)
      n = n + 1
      ends[n % #ends + 1](conn)
    end)
    local expected = {}
    for i = 1, 50 do
      local client = clients.connect(server)
      expected[client:local_addr()] = 1
      if i % 2 == 0 then
        client:close_write()
        clients.check_ended(client)
      end
      client:close()
    end
    eventually(function() return closed >= 50 end)
    wire.sleep(0.01)
    assert.same(expected, times)
    assert.equal(20, #support.take_errors())
  end)

  it("that dies is reported like a handler, and the server lives", function()
    local server <close> = serve { on_close = function() error "in the hook" end }
    local errors = {}
    server:on_error(function(err) errors[#errors + 1] = err end)
    local client = clients.connect(server)
    client:close()
    eventually(function() return errors[1] end)
    assert.matches("in the hook", errors[1])
    local other <close> = clients.connect(server)
    clients.check_echo(other, "alive")
  end)

  it("comes for a pipe's end that was handed over", function()
    local on_close, calls = recorder()
    local server <close> = serve { on_close = on_close }
    local a, b = wire.pipe()
    server:handle(b)
    clients.check_echo(a, "hello")
    a:close()
    local call = await_calls(calls, 1)
    assert.same({ b, "EOF" }, { call[1], call[3] })
  end)

  it("comes for connections accepted by hand: closed, reset or collected", function()
    local on_close, calls = recorder()
    local server <close> = assert(wire.listen("127.0.0.1:0", { on_close = on_close }))
    local function accept()
      clients.connect(server):close()
      return assert(server:accept(5))
    end
    local function drop() assert.is_false(accept():closed()) end
    local closed = accept()
    drop()
    fails("EOF", closed:recv(1, 5))
    closed:close()
    eventually(function() return calls[1] end)
    accept():reset()
    eventually(function() return calls[2] end)
    collectgarbage()
    collectgarbage()
    await_calls(calls, 3)
    wire.sleep(0.01)
    assert.equal(3, #calls)
    local codes = {}
    for _, call in ipairs(calls) do codes[call[1] or "collected"] = call[3] or "none" end
    assert.equal("EOF", codes[closed])
  end)

  it("comes after the server was closed, and for a server that nobody refers to", function()
    local on_close, calls = recorder()
    local client = (function()
      local server = serve { on_close = on_close }
      local client = clients.connect(server)
      clients.check_echo(client, "hello")
      server:close()
      return client
    end)()
    collectgarbage()
    collectgarbage()
    client:close()
    assert.equal("EOF", await_calls(calls, 1)[3])
  end)
end)

describe("server:on_error", function()
  it("takes the errors of handlers, with their connection, from wire.on_error", function()
    local reports, conns = {}, {}
    local server <close> = serve({}, function(conn)
      conns[1] = conn
      error "as told"
    end)
    server:on_error(function(...) reports[#reports + 1] = { ... } end)
    local client <close> = clients.connect(server)
    clients.check_ended(client)
    assert.equal(1, #reports)
    assert.matches("server_hooks_spec.lua:%d+: as told$", reports[1][1])
    assert.matches("as told\nstack traceback:", reports[1][2])
    assert.equal(conns[1], reports[1][3])
    assert.same({}, support.take_errors())
  end)

  it("gets an error object of any type as it is", function()
    local thrown, got, n = { {}, false, 12, print }, {}, 0
    local server <close> = serve({}, function()
      n = n + 1
      error(thrown[n], 0)
    end)
    server:on_error(function(err) got[#got + 1] = err end)
    for i = 1, #thrown do
      local client <close> = clients.connect(server)
      clients.check_ended(client)
      assert.is_true(rawequal(thrown[i], got[i]))
    end
  end)

  it("may wait, and knows whose connection it was, which is closed already", function()
    local facts
    local server <close> = serve({}, function() error "as told" end)
    server:on_error(function(_, _, conn)
      local closed = conn:closed()
      wire.sleep(0.001)
      facts = { closed, (conn:remote_addr()) }
    end)
    local client <close> = clients.connect(server)
    clients.check_ended(client)
    eventually(function() return facts end)
    assert.same({ true, (client:local_addr()) }, facts)
  end)

  it("that dies itself leaves a line on standard error, and the server lives", function()
    local output, status = support.lua([[
      local wire = require "lunewire"
      wire.run(function()
        local server = assert(wire.serve("127.0.0.1:0", function(conn)
          if conn:recv_line(5) == "die" then error "first" end
          conn:send "alive"
        end))
        server:on_error(function() error "second" end)
        for _, line in ipairs { "die", "live" } do
          local client <close> = assert(wire.connect(server:addr(), 5))
          client:send(line, "\n")
          print(client:read "a")
        end
      end)
    ]]):output()
    assert.matches("^lunewire: [^\n]*second\n\nalive\n$", output)
    assert.equal(0, status)
  end)

  it("nil gives the errors back to wire.on_error", function()
    local server <close> = serve({}, function() error "whose" end)
    local taken = 0
    server:on_error(function() taken = taken + 1 end)
    server:on_error(nil)
    local client <close> = clients.connect(server)
    clients.check_ended(client)
    assert.equal(0, taken)
    assert.equal(1, #support.take_errors())
  end)

  it("leaves the errors of other servers and tasks alone", function()
    local one <close> = serve({}, function() error "one" end)
    local two <close> = serve({}, function() error "two" end)
    local taken = 0
    one:on_error(function() taken = taken + 1 end)
    local client <close> = clients.connect(two)
    clients.check_ended(client)
    assert.matches("two", support.take_errors()[1].err)
    assert.equal(0, taken)
  end)

  it("takes a function or nil, anything else is misuse", function()
    local server <close> = serve {}
    for _, value in ipairs { 5, "name", true } do
      assert.is_false(pcall(server.on_error, server, value))
    end
  end)
end)
