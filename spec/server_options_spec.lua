-- The options of servers: many addresses, how many connections, what the connections get.
-- What this is not: hooks (server_hooks_spec.lua), drain_timeout (shutdown_spec.lua).
local support = require "spec.support"
local clients = require "spec.clients"
local wire = require "lunewire"

local it, fails, eventually = support.it, support.fails, support.eventually

local BOTH = { "127.0.0.1:0", "127.0.0.2:0" }

local has_ipv6 = (function()
  local server = wire.listen "[::1]:0"
  if server then server:close() end
  return server ~= nil
end)()

-- A handler that answers each line with it, and a line that it is there at the beginning.
local function greet(conn)
  conn:send "hello\n"
  clients.echo(conn)
end

local function served(client, timeout) return client:recv_line(timeout or 5) == "hello" end

-- Not served, although the client waits a little.
local function check_waits(client) fails("ETIMEDOUT", client:recv_line(0.1)) end

-- The processor's seconds that `seconds` of waiting cost, as a part of them.
local function load_of(seconds)
  local clock, start = os.clock(), wire.now()
  wire.sleep(seconds)
  return (os.clock() - clock) / (wire.now() - start)
end

describe("a list of addresses", function()
  it("is listened on as a whole, and read back in its order", function()
    local server <close> = assert(wire.serve(BOTH, clients.echo))
    local list = server:addrs()
    assert.equal(2, #list)
    assert.matches("^127%.0%.0%.1:%d+$", list[1])
    assert.matches("^127%.0%.0%.2:%d+$", list[2])
    assert.equal(list[1], (server:addr()))
    assert.equal(list[1], "127.0.0.1:" .. server:port())
    for _, address in ipairs(list) do
      local client <close> = assert(wire.connect(address, 5))
      clients.check_echo(client, address)
      assert.equal(address, (client:remote_addr()))
    end
  end)

  it("may mix IPv4 with IPv6", function()
    if not has_ipv6 then return pending "this machine has no IPv6" end
    local server <close> = assert(wire.serve({ "[::1]:0", "127.0.0.1:0" }, clients.echo))
    local list = server:addrs()
    assert.matches("^%[::1%]:%d+$", list[1])
    for _, address in ipairs(list) do
      local client <close> = assert(wire.connect(address, 5))
      clients.check_echo(client, address)
    end
  end)

  it("may hold tables, and one address alone is a list of one for addrs()", function()
    local server <close> = assert(wire.serve({ { host = "127.0.0.2", port = 0 }, BOTH[1] },
      clients.echo))
    assert.matches("^127%.0%.0%.2:%d+$", server:addrs()[1])
    assert.equal(2, #server:addrs())
    local other <close> = assert(wire.listen { host = "127.0.0.1", port = 0 })
    assert.same({ (other:addr()) }, other:addrs())
  end)

  it("is counted together: conn_num() and conns() are those of all addresses", function()
    local server <close> = assert(wire.serve(BOTH, clients.echo))
    local list = server:addrs()
    local a <close> = assert(wire.connect(list[1], 5))
    local b <close> = assert(wire.connect(list[2], 5))
    clients.check_echo(a, "a")
    clients.check_echo(b, "b")
    assert.equal(2, server:conn_num())
    assert.equal(2, #server:conns())
  end)

  it("is closed as a whole", function()
    local server = assert(wire.serve(BOTH, clients.echo))
    local list = server:addrs()
    server:close()
    for _, address in ipairs(list) do fails("ECONNREFUSED", wire.connect(address, 5)) end
    assert.same(list, server:addrs())
  end)

  it("gives accepters the connections of every address", function()
    local server <close> = assert(wire.listen(BOTH))
    for _, address in ipairs(server:addrs()) do
      local task = wire.spawn(server.accept, server, 5)
      wire.sleep(0)
      local client <close> = assert(wire.connect(address, 5))
      local _, conn = assert(task:join(5))
      assert.equal(client:local_addr(), (conn:remote_addr()))
      conn:close()
    end
  end)

  it("starves none of its addresses while another one is busy", function()
    local server <close> = assert(wire.listen(BOTH))
    local list, busy = server:addrs(), {}
    for i = 1, 20 do busy[i] = assert(wire.connect(list[1], 5)) end
    local quiet <close> = assert(wire.connect(list[2], 5))
    local turn
    for i = 1, 21 do
      local conn <close> = assert(server:accept(5))
      if conn:remote_addr() == quiet:local_addr() then turn = i end
    end
    for _, client in ipairs(busy) do client:close() end
    assert.is_true(turn <= 10, turn)
  end)

  it("of which one fails leaves none open, and the message names that one", function()
    local taken <close> = assert(wire.listen "127.0.0.1:0")
    local probe = assert(wire.listen "127.0.0.1:0")
    local free = probe:addr()
    probe:close()
    for _, list in ipairs { { free, taken:addr() }, { taken:addr(), free } } do
      local message = fails("EADDRINUSE", wire.serve(list, clients.echo))
      assert.truthy(message:find(taken:addr() .. ": address already in use", 1, true), message)
      assert.is_nil(message:find(free, 1, true), message)
      local again <close> = assert(wire.listen(free))
      assert.equal(free, (again:addr()))
    end
  end)

  it("with something else in it, or with nothing, is misuse", function()
    for _, list in ipairs { {}, { "127.0.0.1:0", 5 }, { "127.0.0.1:0", { host = "::1" } },
      { false, "127.0.0.1:0" } } do
      assert.is_false(pcall(wire.listen, list))
      assert.is_false(pcall(wire.serve, list, clients.echo))
    end
  end)
end)

describe("max_conns", function()
  it("lets the next client wait until one of the served has gone", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", { max_conns = 2 }, greet))
    local a, b <close> = clients.connect(server), clients.connect(server)
    assert.is_true(served(a) and served(b))
    local c <close> = clients.connect(server)
    check_waits(c)
    assert.equal(2, server:conn_num())
    a:close()
    assert.is_true(served(c))
    clients.check_echo(b, "still there")
    assert.equal(2, server:conn_num())
  end)

  it("refuses nobody, and serves in the order in which they came", function()
    local order = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", { max_conns = 1 }, function(conn)
      order[#order + 1] = conn:recv_line(5)
      conn:send "done\n"
    end))
    local all, expected = {}, {}
    for i = 1, 20 do
      all[i] = clients.connect(server)
      all[i]:send(i, "\n")
      expected[i] = tostring(i)
    end
    for _, client in ipairs(all) do
      assert.equal("done", client:recv_line(5))
      client:close()
    end
    assert.same(expected, order)
  end)

  it("counts a connection that is still closing, for its descriptor is in use", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", { max_conns = 1 },
      function(conn) conn:send "hello\n" end))
    local a, b <close> = clients.connect(server), clients.connect(server)
    assert.equal("hello\n", a:read "a")
    assert.equal(0, server:conn_num())
    check_waits(b)
    a:close()
    assert.is_true(served(b))
  end)

  it("does not count a connection that was reset", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", { max_conns = 1 }, function(conn)
      conn:send "hello\n"
      conn:flush()
      if not conn:recv_line(5) then conn:reset() end
    end))
    local a <close> = clients.connect(server)
    local b <close> = clients.connect(server)
    assert.is_true(served(a))
    a:close_write()
    assert.is_true(served(b))
  end)

  it("goes on when a handler has died", function()
    local first = true
    local server <close> = assert(wire.serve("127.0.0.1:0", { max_conns = 1 }, function(conn)
      if first then
        first = false
        conn:recv_line(5)
        error "as told"
      end
      greet(conn)
    end))
    local a, b <close> = clients.connect(server), clients.connect(server)
    check_waits(b)
    a:send "die\n"
    a:close()
    assert.is_true(served(b))
    assert.equal(1, #support.take_errors())
  end)

  it("waits without using the processor", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", { max_conns = 1 }, greet))
    local a <close> = clients.connect(server)
    local b <close> = clients.connect(server)
    assert.is_true(served(a))
    check_waits(b)
    local load = load_of(0.3)
    assert.is_true(load < 0.5, load)
  end)

  it("holds for accept too", function()
    local server <close> = assert(wire.listen("127.0.0.1:0", { max_conns = 1 }))
    local a <close> = clients.connect(server)
    local b <close> = clients.connect(server)
    local conn = assert(server:accept(5))
    fails("ETIMEDOUT", server:accept(0.1))
    local task = wire.spawn(server.accept, server, 5)
    wire.sleep(0)
    a:close()
    conn:close()
    local _, second = assert(task:join(5))
    assert.equal(b:local_addr(), (second:remote_addr()))
    second:close()
  end)

  it("lets the server be closed while clients wait: they are turned away", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", { max_conns = 1 }, greet))
    local a <close> = clients.connect(server)
    local b <close> = clients.connect(server)
    assert.is_true(served(a))
    check_waits(b)
    server:close()
    clients.check_ended(b)
    clients.check_echo(a, "lives on")
  end)
end)

describe("conns", function()
  it("lists the very connections that the handlers have, while they are open", function()
    local seen = {}
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      seen[conn] = true
      greet(conn)
    end))
    assert.same({}, server:conns())
    local a, b <close> = clients.connect(server), clients.connect(server)
    assert.is_true(served(a) and served(b))
    local list = server:conns()
    assert.equal(2, #list)
    assert.is_true(seen[list[1]] and seen[list[2]] and list[1] ~= list[2])
    a:close()
    eventually(function() return server:conn_num() == 1 end)
    assert.equal(2, #list)
    list = server:conns()
    assert.equal(1, #list)
    assert.equal(b:local_addr(), (list[1]:remote_addr()))
  end)

  it("reaches everybody: what is sent on each of them arrives", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", greet))
    local all = {}
    for i = 1, 10 do
      all[i] = clients.connect(server)
      assert.is_true(served(all[i]))
    end
    for _, conn in ipairs(server:conns()) do conn:send "for all\n" end
    for _, client in ipairs(all) do
      assert.equal("for all", client:recv_line(5))
      client:close()
    end
  end)

  it("lists what was accepted by hand, and a pipe's end that was handed over", function()
    local listener <close> = assert(wire.listen "127.0.0.1:0")
    local client <close> = clients.connect(listener)
    local conn <close> = assert(listener:accept(5))
    assert.same({ conn }, listener:conns())
    assert.equal(client:local_addr(), (listener:conns()[1]:remote_addr()))
    local server <close> = assert(wire.serve("127.0.0.1:0", greet))
    local a <close>, b = wire.pipe()
    server:handle(b)
    assert.is_true(served(a))
    assert.equal(b, server:conns()[1])
  end)

  it("lists them too when the server is told of their ends", function()
    local ended = wire.channel(2)
    local function on_close(conn) ended:send(conn) end
    local server <close> = assert(wire.serve("127.0.0.1:0", { on_close = on_close }, greet))
    local a, b <close> = clients.connect(server), clients.connect(server)
    assert.is_true(served(a) and served(b))
    local list = server:conns()
    assert.equal(2, #list)
    a:close()
    local gone = assert(ended:recv(5))
    assert.is_true(gone == list[1] or gone == list[2])
    assert.same({ gone == list[1] and list[2] or list[1] }, server:conns())
  end)

  it("lists them from the first line of their handler to the last one", function()
    local seen = wire.channel(2)
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn, server)
      seen:send(server:conns()[1] == conn)
      conn:recv_line()
      seen:send(server:conns()[1] == conn)
    end))
    local client = clients.connect(server)
    assert.is_true(seen:recv(5))
    assert(client:send "\n")
    assert.is_true(seen:recv(5))
    clients.check_ended(client)
    client:close()
    assert.same({}, server:conns())
  end)

  it("keeps no connection from being collected", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local client <close> = clients.connect(server)
    assert.equal(1, (function()
      local _ = assert(server:accept(5))
      return #server:conns()
    end)())
    collectgarbage()
    collectgarbage()
    assert.same({}, server:conns())
    clients.check_ended(client)
  end)
end)

describe("options of the listening socket", function()
  it("backlog says how many may wait to be accepted", function()
    local server <close> = assert(wire.listen("127.0.0.1:0", { backlog = 1 }))
    local a <close> = clients.connect(server)
    local b <close> = clients.connect(server)
    assert.truthy(a and b) -- Linux takes one more than the backlog
    fails("ETIMEDOUT", wire.connect(server:addr(), 0.2))
  end)

  it("without backlog hundreds may wait", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local all = {}
    for i = 1, 400 do all[i] = clients.connect(server) end
    for i = 1, 400 do
      assert(server:accept(5)):reset()
      all[i]:reset()
    end
  end)

  it("reuse_port lets several servers listen on one port", function()
    local one <close> = assert(wire.serve("127.0.0.1:0", { reuse_port = true }, clients.echo))
    local two = assert(wire.serve(one:addr(), { reuse_port = true }, clients.echo))
    assert.equal(one:port(), two:port())
    fails("EADDRINUSE", wire.serve(one:addr(), clients.echo))
    two:close()
    local client <close> = clients.connect(one)
    clients.check_echo(client, "the other one lives")
  end)

  it("ipv6_only leaves the IPv4 port to others", function()
    if not has_ipv6 then return pending "this machine has no IPv6" end
    local server <close> = assert(wire.serve(":0", { ipv6_only = true }, clients.echo))
    local port = server:port()
    fails("ECONNREFUSED", wire.connect("127.0.0.1:" .. port, 5))
    local client <close> = assert(wire.connect("[::1]:" .. port, 5))
    clients.check_echo(client, "six")
    local other <close> = assert(wire.listen("127.0.0.1:" .. port))
    assert.equal(port, other:port())
  end)
end)

describe("options that each connection gets", function()
  it("idle_timeout ends a receive on a connection that has been quiet", function()
    local code, lines
    local server <close> = assert(wire.serve("127.0.0.1:0", { idle_timeout = 0.1 }, function(conn)
      lines = 0
      for line in conn:lines() do
        lines = lines + 1
        conn:send(line, "\n")
      end
      code = select(2, conn:last_error())
    end))
    local client <close> = clients.connect(server)
    local start = wire.now()
    clients.check_echo(client, "one")
    clients.check_ended(client)
    assert.is_true(wire.now() - start > 0.09)
    assert.same({ 1, "ETIMEDOUT" }, { lines, code })
  end)

  it("keepalive is on unless it was switched off", function()
    local function timers(options)
      local server <close> = assert(wire.serve("127.0.0.1:0", options, greet))
      local client <close> = clients.connect(server)
      assert.is_true(served(client))
      local ss <close> = assert(io.popen(("ss -Htno state established 'sport = :%d'")
        :format(server:port())))
      return ss:read "a"
    end
    assert.matches("timer:%(keepalive", timers {})
    assert.matches("^%S+%s+%S+%s+127.0.0.1:", timers { keepalive = false })
    assert.is_nil(timers { keepalive = false }:find "timer:%(keepalive")
  end)
end)

describe("misuse of options", function()
  it("a wrong type or a negative number raises before anything listens", function()
    for _, options in ipairs { { max_conns = -1 }, { max_conns = "many" }, { max_conns = 1.5 },
      { backlog = -1 }, { idle_timeout = "long" }, { drain_timeout = {} }, { timeout = true },
      { on_accept = 5 }, { on_close = "name" }, { on_shutdown = true } } do
      local key = next(options)
      support.raises(key, wire.serve, "127.0.0.1:0", options, clients.echo)
      support.raises(key, wire.listen, "127.0.0.1:0", options)
    end
  end)

  it("an unknown option among the new ones names the one that was meant", function()
    support.raises("did you mean 'max_conns'", wire.serve, "127.0.0.1:0", { max_conn = 1 }, greet)
    support.raises("did you mean 'on_close'", wire.listen, "127.0.0.1:0", { onclose = print })
    support.raises("did you mean 'drain_timeout'", wire.listen, "127.0.0.1:0",
      { drain_timout = 1 })
  end)
end)
