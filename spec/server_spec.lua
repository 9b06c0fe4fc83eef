-- Servers: accepting, handlers and what their errors end, counting, closing.
-- What this is not: what a connection can do once it is there.
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

-- An echo handler for lines.
local function echo(conn)
  for line in conn:lines() do conn:send(line, "\n") end
end

local function connect(server) return assert(wire.connect(server:addr(), { timeout = 5 })) end

-- One line there and back: the connection is served.
local function check_echo(conn, text)
  assert(conn:send(text, "\n"))
  assert.equal(text, assert(conn:recv_line(5)))
end

-- The peer has closed, or reset.
local function check_ended(conn)
  local data, _, code = conn:recv(1, 5)
  assert.is_nil(data)
  assert.is_true(code == "EOF" or code == "ECONNRESET", code)
end

local has_ipv6 = (function()
  local server, _, code = wire.listen "[::1]:0"
  if server then server:close() end
  return code ~= "EAFNOSUPPORT" and code ~= "EADDRNOTAVAIL"
end)()

describe("serve", function()
  it("runs the handler for each connection, in a task of its own, with the server", function()
    local seen = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn, server)
      seen[#seen + 1] = { conn:remote_addr(), server }
      echo(conn)
    end))
    local a <close>, b = connect(server), connect(server)
    check_echo(b, "second first")
    check_echo(a, "both at once")
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
    local client <close> = connect(server)
    check_ended(client)
    server:close()
    assert.equal(callable, got[1])
    assert.matches("^%S*[Cc]onn", tostring(got[2]))
    assert.equal(server, got[3])
  end)

  it("takes an object and a method's name as its handler", function()
    local object = { greeting = "welcome" }
    function object:on_connection(conn, server) conn:send(self.greeting, server:port(), "\n") end
    local server <close> = assert(wire.serve("127.0.0.1:0", { object, "on_connection" }))
    local client <close> = connect(server)
    assert.equal("welcome" .. server:port(), client:recv_line(5))
  end)

  it("closes the connection when the handler returns, behind what it sent", function()
    local served
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      served = conn
      conn:send "bye"
    end))
    local client <close> = connect(server)
    assert.equal("bye", client:read "a")
    assert.is_true(served:closed())
  end)

  it("a handler that returns at once only ends its connection", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function() end))
    for _ = 1, 20 do
      local client <close> = connect(server)
      check_ended(client)
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
    local client <close> = connect(server)
    check_ended(client)
    server:close()
    wire.sleep(0)
    assert.same({ true, nil, "ECLOSED" }, { outcome[1], outcome[2], outcome[4] })
  end)

  it("lives without a reference to it", function()
    local address = (function() return assert(wire.serve("127.0.0.1:0", function(conn, server)
      check_echo(conn, "hello")
      server:close()
    end)):addr() end)()
    collectgarbage()
    collectgarbage()
    wire.sleep(0.01)
    collectgarbage()
    local client <close> = assert(wire.connect(address, 5))
    assert.equal("hello", client:recv_line(5))
    client:send "hello\n"
    check_ended(client)
  end)

  it("gives its options to every connection", function()
    local codes = {}
    local options = { timeout = 0.02, limits = { line = 3 } }
    local server <close> = assert(wire.serve("127.0.0.1:0", options, function(conn)
      codes[1] = select(3, conn:recv(1))
      conn:send "go"
      codes[2] = select(3, conn:recv_line(5))
    end))
    local client <close> = connect(server)
    assert.equal("go", client:recv(2, 5))
    client:send "1234\n"
    check_ended(client)
    server:close()
    assert.same({ "ETIMEDOUT", "EMSGSIZE" }, codes)
  end)

  it("serves a hundred clients at once and counts them exactly", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", echo))
    local clients = {}
    assert.equal(0, server:conn_num())
    for i = 1, 100 do clients[i] = connect(server) end
    for i, client in ipairs(clients) do check_echo(client, "number " .. i) end
    assert.equal(100, server:conn_num())
    for i = 100, 1, -1 do
      clients[i]:close_write()
      check_ended(clients[i])
      assert.equal(i - 1, server:conn_num())
      clients[i]:close()
    end
  end)

  it("goes on after a client that reset its connection before it was accepted", function()
    local codes = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      codes[#codes + 1] = select(3, conn:recv(1)) or "data"
    end))
    local one = connect(server)
    one:reset()
    local two <close> = connect(server)
    two:send "x"
    check_ended(two)
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
    local a <close>, b = connect(server), connect(server)
    check_echo(a, "a")
    check_echo(b, "b")
    b:send "die\n"
    check_ended(b)
    check_echo(a, "still here")
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
      local client <close> = connect(server)
      check_ended(client)
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
      echo(conn)
    end))
    local a, b <close> = connect(server), connect(server)
    check_ended(a)
    a:close()
    check_echo(b, "alive")
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
    local client <close> = connect(server)
    assert.equal("last words", client:read "a")
    server:close()
    assert.is_true(closed)
    assert.equal(1, #support.take_errors())
  end)
end)

describe("handle", function()
  it("treats a pipe's end as an accepted connection", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", echo))
    local a, b = wire.pipe()
    server:handle(b)
    check_echo(a, "through the pipe")
    assert.equal(1, server:conn_num())
    a:close_write()
    check_ended(a)
    assert.equal(0, server:conn_num())
    assert.is_true(b:closed())
    a:close()
  end)

  it("reports an error of the handler and closes the pipe", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function() error "oops" end))
    local a, b = wire.pipe()
    server:handle(b)
    check_ended(a)
    a:close()
    server:close()
    assert.matches("oops", support.take_errors()[1].err)
  end)
end)

describe("listen and accept", function()
  it("gives connections in the order in which they came", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    for i = 1, 3 do
      local client <close> = connect(server)
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
    local client <close> = connect(server)
    conn = assert(server:accept(5))
    assert.equal(client:local_addr(), (conn:remote_addr()))
    conn:close()
  end)

  it("accept with a timeout of zero takes what is there and does not wait", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    assert.equal("ETIMEDOUT", select(3, server:accept(0)))
    local client <close> = connect(server)
    local conn <close> = assert(server:accept(0))
    assert.equal(client:local_addr(), (conn:remote_addr()))
  end)

  it("several accepters each get one connection, first come first served", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local tasks = {}
    for i = 1, 3 do tasks[i] = wire.spawn(server.accept, server, 5) end
    wire.sleep(0)
    for i = 1, 3 do
      local client <close> = connect(server)
      local _, conn = assert(tasks[i]:join(5))
      assert.equal(client:local_addr(), (conn:remote_addr()))
      conn:close()
    end
  end)

  it("an accepter that was cancelled takes no connection with it", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local first = wire.spawn(server.accept, server)
    local second = wire.spawn(server.accept, server)
    wire.sleep(0)
    first:cancel()
    local client <close> = connect(server)
    local _, conn = assert(second:join(5))
    assert.equal(client:local_addr(), (conn:remote_addr()))
    conn:close()
    assert.equal("ECANCELED", select(3, first:join(5)))
  end)
end)

describe("closing a server", function()
  it("leaves established connections alone and refuses new ones", function()
    local server = assert(wire.serve("127.0.0.1:0", echo))
    local address = server:addr()
    local client <close> = connect(server)
    check_echo(client, "before")
    server:close()
    check_echo(client, "after")
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
    local server = assert(wire.serve("127.0.0.1:0", echo))
    local address = server:addr()
    local client <close> = connect(server)
    check_echo(client, "established")
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
      local client <close> = connect(server)
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
    local server <close> = assert(wire.serve("[::1]:0", echo))
    assert.equal("[::1]:" .. server:port(), (server:addr()))
    local client <close> = connect(server)
    check_echo(client, "six")
    assert.equal(server:addr(), (client:remote_addr()))
  end)

  it("a port in use is EADDRINUSE with the address in the message", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local second, message, code = wire.listen(server:addr())
    assert.is_nil(second)
    assert.equal("EADDRINUSE", code)
    assert.equal(("listen %s: address already in use"):format(server:addr()), message)
    second, message, code = wire.serve(server:addr(), echo)
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

describe("misuse of a server", function()
  it("an unknown option raises and names the one that was meant", function()
    assert.error_matches(function() wire.serve("127.0.0.1:0", { backlgo = 5 }, echo) end,
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
      assert.is_false(pcall(wire.serve, address, echo))
    end
    local server <close> = assert(wire.serve("127.0.0.1:0", echo))
    assert.is_false(pcall(server.handle, server, "conn"))
    assert.is_false(pcall(server.handle, server))
    assert.is_false(pcall(server.accept, server, "soon"))
  end)
end)
