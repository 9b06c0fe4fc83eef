-- Servers with a handler: who runs it, what its errors end, how connections are counted.
-- What this is not: listening, accepting and closing (listen_spec.lua); what a connection can do.
local support = require "spec.support"
local clients = require "spec.clients"
local wire = require "lunewire"

local it = support.it

describe("serve", function()
  it("runs the handler for each connection, in a task of its own, with the server", function()
    local seen = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn, server)
      seen[#seen + 1] = { conn:remote_addr(), server }
      clients.echo(conn)
    end))
    local a <close>, b = clients.connect(server), clients.connect(server)
    clients.check_echo(b, "second first")
    clients.check_echo(a, "both at once")
    b:close()
    server:close()
    assert.equal(2, #seen)
    assert.equal(server, seen[1][2])
    assert.equal(a:local_addr(), seen[1][1])
    assert.equal(b:local_addr(), seen[2][1])
  end)

  it("takes a callable table as its handler", function()
    local got
    local callable = setmetatable({}, { __call = function(...) got = { ... } end })
    local server <close> = assert(wire.serve("127.0.0.1:0", callable))
    local client <close> = clients.connect(server)
    clients.check_ended(client)
    server:close()
    assert.equal(callable, got[1])
    assert.matches("^%S*[Cc]onn", tostring(got[2]))
    assert.equal(server, got[3])
  end)

  it("takes an object and a method's name as its handler", function()
    local object = { greeting = "welcome" }
    function object:on_connection(conn, server) conn:send(self.greeting, server:port(), "\n") end
    local server <close> = assert(wire.serve("127.0.0.1:0", { object, "on_connection" }))
    local client <close> = clients.connect(server)
    assert.equal("welcome" .. server:port(), client:recv_line(5))
  end)

  it("closes the connection when the handler returns, behind what it sent", function()
    local served
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      served = conn
      conn:send "bye"
    end))
    local client <close> = clients.connect(server)
    assert.equal("bye", client:read "a")
    assert.is_true(served:closed())
  end)

  it("a handler that returns at once only ends its connection", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function() end))
    for _ = 1, 20 do
      local client <close> = clients.connect(server)
      clients.check_ended(client)
    end
    assert.equal(0, server:conn_num())
  end)

  it("a handler that closes its own connection wakes its waiting receiver with ECLOSED", function()
    local outcome
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      local reader = wire.spawn(conn.recv, conn, 1)
      wire.sleep(0)
      conn:close()
      outcome = { reader:join(5) }
    end))
    local client <close> = clients.connect(server)
    clients.check_ended(client)
    server:close()
    wire.sleep(0)
    assert.same({ true, nil, "ECLOSED" }, { outcome[1], outcome[2], outcome[4] })
  end)

  it("lives without a reference to it", function()
    local address = (function() return assert(wire.serve("127.0.0.1:0", function(conn, server)
      clients.check_echo(conn, "hello")
      server:close()
    end)):addr() end)()
    collectgarbage()
    collectgarbage()
    wire.sleep(0.01)
    collectgarbage()
    local client <close> = assert(wire.connect(address, 5))
    assert.equal("hello", client:recv_line(5))
    client:send "hello\n"
    clients.check_ended(client)
  end)

  it("gives its options to every connection", function()
    local codes = {}
    local options = { timeout = 0.02, limits = { line = 3 } }
    local server <close> = assert(wire.serve("127.0.0.1:0", options, function(conn)
      codes[1] = select(3, conn:recv(1))
      conn:send "go"
      codes[2] = select(3, conn:recv_line(5))
    end))
    local client <close> = clients.connect(server)
    assert.equal("go", client:recv(2, 5))
    client:send "1234\n"
    clients.check_ended(client)
    server:close()
    assert.same({ "ETIMEDOUT", "EMSGSIZE" }, codes)
  end)

  it("serves a hundred clients at once and counts them exactly", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    local all = {}
    assert.equal(0, server:conn_num())
    for i = 1, 100 do all[i] = clients.connect(server) end
    for i, client in ipairs(all) do clients.check_echo(client, "number " .. i) end
    assert.equal(100, server:conn_num())
    for i = 100, 1, -1 do
      all[i]:close_write()
      clients.check_ended(all[i])
      assert.equal(i - 1, server:conn_num())
      all[i]:close()
    end
  end)

  it("keeps a connection with a waiting task alive without a reference", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    local client <close> = clients.connect(server)
    clients.check_echo(client, "before")
    collectgarbage()
    collectgarbage()
    clients.check_echo(client, "after")
  end)

  it("does not leak the connection of a handler whose write failed", function()
    local code
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      repeat
        local ok, _, failed = conn:send(("x"):rep(100000))
        code = failed
      until not ok
    end))
    local client <close> = clients.connect(server)
    assert(client:recv(200000, 5))
    client:reset()
    local start = wire.now()
    while server:conn_num() > 0 and wire.now() - start < 5 do wire.sleep(0.001) end
    assert.equal(0, server:conn_num())
    assert.is_true(code == "ECONNRESET" or code == "EPIPE", code)
  end)

  it("goes on after a client that reset its connection before it was accepted", function()
    local codes = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      codes[#codes + 1] = select(3, conn:recv(1)) or "data"
    end))
    local one = clients.connect(server)
    one:reset()
    local two <close> = clients.connect(server)
    two:send "x"
    clients.check_ended(two)
    server:close()
    assert.equal("data", codes[#codes])
    assert.equal(0, server:conn_num())
  end)
end)

describe("handler isolation", function()
  it("an error in a handler ends that connection alone and goes to on_error", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      for line in conn:lines() do
        if line == "die" then error "as told" end
        conn:send(line, "\n")
      end
    end))
    local a <close>, b = clients.connect(server), clients.connect(server)
    clients.check_echo(a, "a")
    clients.check_echo(b, "b")
    b:send "die\n"
    clients.check_ended(b)
    clients.check_echo(a, "still here")
    assert.equal(1, server:conn_num())
    b:close()
    server:close()
    local errors = support.take_errors()
    assert.equal(1, #errors)
    assert.matches("server_spec.lua:%d+: as told$", errors[1].err)
    assert.matches("server_spec.lua", errors[1].traceback)
    assert.matches("traceback", errors[1].traceback)
  end)

  it("an error object of any type reaches on_error as it is, and the server lives", function()
    local described = setmetatable({}, { __tostring = function() return "described" end })
    local hostile = setmetatable({}, { __tostring = function() error "no text" end })
    local thrown = { "text", 42, true, {}, described, hostile, print, io.stdout,
      coroutine.create(print) }
    local next_one = 0
    local server <close> = assert(wire.serve("127.0.0.1:0", function()
      next_one = next_one + 1
      error(thrown[next_one], 0)
    end))
    for i = 1, #thrown + 1 do -- the last one is error(nil)
      local client <close> = clients.connect(server)
      clients.check_ended(client)
      local errors = support.take_errors()
      assert.equal(1, #errors)
      assert.is_true(rawequal(thrown[i], errors[1].err), "error object " .. i)
    end
  end)

  it("a stack overflow in a handler ends that connection alone", function()
    local function deeper(n) return 1 + deeper(n + 1) end
    local first = true
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      if first then
        first = false
        deeper(1)
      end
      clients.echo(conn)
    end))
    local a, b <close> = clients.connect(server), clients.connect(server)
    clients.check_ended(a)
    a:close()
    clients.check_echo(b, "alive")
    server:close()
    assert.matches("stack overflow", support.take_errors()[1].err)
  end)

  it("closing a variable of a handler that died works, and its errors are reported", function()
    local closed = false
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      local _ <close> = setmetatable({}, { __close = function()
        closed = true
        conn:send "last words"
      end })
      error "dying"
    end))
    local client <close> = clients.connect(server)
    assert.equal("last words", client:read "a")
    server:close()
    assert.is_true(closed)
    assert.equal(1, #support.take_errors())
  end)
end)

describe("handle", function()
  it("treats a pipe's end as an accepted connection", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    local a, b = wire.pipe()
    server:handle(b)
    clients.check_echo(a, "through the pipe")
    assert.equal(1, server:conn_num())
    a:close_write()
    clients.check_ended(a)
    assert.equal(0, server:conn_num())
    assert.is_true(b:closed())
    a:close()
  end)

  it("takes a connection once, open, and only where there is a handler", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    local listener <close> = assert(wire.listen "127.0.0.1:0")
    local a, b = wire.pipe()
    assert.error_matches(function() listener:handle(b) end, "handler")
    server:handle(b)
    assert.is_false(pcall(server.handle, server, b))
    assert.equal(1, server:conn_num())
    a:close()
    b:close()
    assert.equal("ECLOSED", select(3, server:handle(b)))
    assert.equal(0, server:conn_num())
  end)

  it("reports an error of the handler and closes the pipe", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function() error "oops" end))
    local a, b = wire.pipe()
    server:handle(b)
    clients.check_ended(a)
    a:close()
    server:close()
    assert.matches("oops", support.take_errors()[1].err)
  end)
end)

describe("misuse of a server", function()
  it("an unknown option raises and names the one that was meant", function()
    assert.error_matches(function() wire.serve("127.0.0.1:0", { backlgo = 5 }, clients.echo) end,
      "unknown option 'backlgo' (did you mean 'backlog'?)", 1, true)
    assert.error_matches(function() wire.listen("127.0.0.1:0", { timout = 5 }) end,
      "unknown option 'timout' (did you mean 'timeout'?)", 1, true)
  end)

  it("a handler that cannot be called raises before anything listens", function()
    for _, handler in ipairs { 5, "name", {}, { {} } } do
      assert.is_false(pcall(wire.serve, "127.0.0.1:0", handler))
      assert.is_false(pcall(wire.serve, "127.0.0.1:0", {}, handler))
    end
    assert.is_false(pcall(wire.serve, "127.0.0.1:0"))
  end)

  it("a wrong type where an address or a connection belongs raises", function()
    for _, address in ipairs { 8999, true, {}, { host = "127.0.0.1" }, { host = 5, port = 0 } } do
      assert.is_false(pcall(wire.listen, address))
      assert.is_false(pcall(wire.serve, address, clients.echo))
    end
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    assert.is_false(pcall(server.handle, server, "conn"))
    assert.is_false(pcall(server.handle, server))
    assert.is_false(pcall(server.accept, server, "soon"))
  end)
end)
