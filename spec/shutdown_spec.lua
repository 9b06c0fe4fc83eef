-- Ending a server: shutdown, what it lets finish and what it ends.
-- What this is not: hooks and the exit (server_exit_spec.lua), signals (signal_spec.lua), a
-- shutdown under load (drain_spec.lua).
local support = require "spec.support"
local clients = require "spec.clients"
local wire = require "lunewire"

local it, fails, eventually = support.it, support.fails, support.eventually
local LONG = 60 -- a drain time that no test waits for

local function serve(options, handler)
  if not handler then options, handler = {}, options end
  return assert(wire.serve("127.0.0.1:0", options, handler))
end

-- A shutdown in a task of its own, under way.
local function begin_shutdown(server, timeout)
  local task = wire.spawn(server.shutdown, server, timeout)
  eventually(function() return server:closing() end)
  return task
end

local function check_result(expected, task) assert.same({ true, expected }, { task:join(8) }) end

-- The client reads what it is still sent and leaves; that ends the shutdown -> the text.
local function leave(client, task)
  local text = client:read "a"
  client:close()
  check_result(true, task)
  return text
end

local function shut_down(server, client) return leave(client, begin_shutdown(server, LONG)) end

-- Sends now: the bytes are in the other end's socket when this returns.
local function deliver(conn, data)
  assert(conn:send(data))
  assert(conn:flush(5))
end

-- The receiving calls that may stand between two messages, with the beginning of a message, its
-- rest, and what it is.
local RECEIVES = {
  { "recv", 5, first = "ab", rest = "cde", is = "abcde" },
  { "recv_line", first = "ab", rest = "cde\n", is = "abcde" },
  { "recv_until", "--", first = "ab-", rest = "-", is = "ab" },
  { "recv_pkg", first = "\0", rest = "\3abc", is = "abc" },
  { "read", "l", first = "ab", rest = "\n", is = "ab" },
  { "peek", 3, first = "ab", rest = "c", is = "abc" },
  { "recv_frame", first = "\2a", rest = "b", is = "ab" },
}

-- A server whose handler makes the one call -> it, a client, a function that awaits its results.
local function serve_receive(call)
  local waiting, results
  local server = serve({ framing = wire.framing.length { size = 1 } }, function(conn)
    waiting = true
    results = table.pack(conn[call[1]](conn, table.unpack(call, 2)))
  end)
  local client = clients.connect(server)
  eventually(function() return waiting end)
  return server, client, function()
    eventually(function() return results end)
    return table.unpack(results, 1, results.n)
  end
end

describe("shutdown ends", function()
  for _, call in ipairs(RECEIVES) do
    it(call[1] .. " between messages, with ECLOSED, at once", function()
      local server, client <close>, results = serve_receive(call)
      local start = wire.now()
      assert.equal("", shut_down(server, client))
      assert.is_true(wire.now() - start < LONG / 2)
      fails("ECLOSED", results())
    end)
  end

  it("receives that take whatever comes, too", function()
    for _, call in ipairs { { "recv" }, { "recv_some", 10 } } do
      local server, client <close>, results = serve_receive(call)
      assert.equal("", shut_down(server, client))
      fails("ECLOSED", results())
    end
  end)

  it("loops over messages, which can tell why", function()
    local message, code
    local server = serve(function(conn)
      for line in conn:lines() do conn:send(line, "\n") end
      message, code = conn:last_error()
    end)
    local client <close> = clients.connect(server)
    clients.check_echo(client, "before")
    assert.equal("", shut_down(server, client))
    assert.equal("ECLOSED", code)
    assert.equal("string", type(message))
  end)

  it("receives that begin afterwards, again and again, while sends still arrive", function()
    local gate, codes = false, {}
    local server = serve(function(conn)
      conn:send "ready\n"
      eventually(function() return gate end)
      for i = 1, 3 do codes[i] = select(3, conn:recv_line()) end
      conn:send "goodbye"
    end)
    local client <close> = clients.connect(server)
    assert.equal("ready", client:recv_line(5))
    local task = begin_shutdown(server, LONG)
    gate = true
    assert.equal("goodbye", leave(client, task))
    assert.same({ "ECLOSED", "ECLOSED", "ECLOSED" }, codes)
  end)
end)

describe("shutdown lets finish", function()
  for _, call in ipairs(RECEIVES) do
    it(call[1] .. " in the middle of a message", function()
      local server, client <close>, results = serve_receive(call)
      deliver(client, call.first)
      local task = begin_shutdown(server, LONG)
      client:send(call.rest)
      assert.equal(call.is, (results()))
      assert.equal("", leave(client, task))
    end)
  end

  it("a message whose beginning came together with the one before", function()
    local server = serve(clients.echo)
    local client <close> = clients.connect(server)
    deliver(client, "one\ntw")
    assert.equal("one", client:recv_line(5))
    local task = begin_shutdown(server, LONG)
    client:send "o\n"
    assert.equal("two\n", leave(client, task))
  end)

  it("requests that had arrived before, though the handler was busy with another", function()
    local gate, busy = false, false
    local server = serve(function(conn)
      for line in conn:lines() do
        busy = true
        eventually(function() return gate end)
        conn:send(line, "\n")
      end
    end)
    local client <close> = clients.connect(server)
    deliver(client, "one\n")
    eventually(function() return busy end)
    deliver(client, "two\nthree\n")
    local task = begin_shutdown(server, LONG)
    gate = true
    assert.equal("one\ntwo\nthree\n", leave(client, task))
  end)

  it("a send_recv that awaits its reply", function()
    local reply
    local server = serve(function(conn) reply = conn:send_recv("question", 6) end)
    local client <close> = clients.connect(server)
    assert.equal("question", client:recv(8, 5))
    local task = begin_shutdown(server, LONG)
    client:send "answer"
    assert.equal("", leave(client, task))
    assert.equal("answer", reply)
  end)

  it("what a handler does on connections of its own making", function()
    local upstream <close> = assert(wire.listen "127.0.0.1:0")
    local server = serve(function(conn)
      local behind <close> = clients.connect(upstream)
      conn:send(behind:recv_line(5))
    end)
    local client <close> = clients.connect(server)
    local far <close> = assert(upstream:accept(5))
    local task = begin_shutdown(server, LONG)
    far:send "from behind\n"
    assert.equal("from behind", leave(client, task))
  end)

  it("a handler that computes or sleeps", function()
    local finished
    local server = serve(function(conn)
      conn:send "ready\n"
      wire.sleep(0.1)
      finished = true
      conn:send "result"
    end)
    local client <close> = clients.connect(server)
    assert.equal("ready", client:recv_line(5))
    assert.equal("result", shut_down(server, client))
    assert.is_true(finished)
  end)

  it("what was sent on its way: it returns when a slow peer has everything", function()
    local size = 4 * 1024 * 1024
    local server = serve(function(conn) conn:send(("x"):rep(size)) end)
    local client <close> = clients.connect(server)
    assert(client:recv(1, 5))
    local task = begin_shutdown(server, LONG)
    fails("ETIMEDOUT", task:join(0.1))
    local got = 1
    for chunk in client:chunks() do got = got + #chunk end
    assert.equal(size, got)
    client:close()
    check_result(true, task)
  end)

  support.it_outside("a request that is in the socket, though the loop has not seen it", function()
    local server = serve(clients.echo)
    local client = clients.connect(server)
    clients.check_echo(client, "hello")
    local reader = wire.spawn(function()
      local text = client:read "a"
      client:close()
      return text
    end)
    wire.sleep(0)
    client:send "late\n" -- at once, outside a task
    assert.is_true(server:shutdown(LONG))
    assert.same({ true, "late\n" }, { reader:join(5) })
  end)

  it("clients that stood in the backlog: they are accepted and served", function()
    local handled = 0
    local server = serve(function(conn)
      handled = handled + 1
      clients.echo(conn)
    end)
    -- The loop stands still until the request is in a socket that nobody has accepted yet.
    local visitor <close> = assert(io.popen(([[exec bash -c '
      exec 3<>/dev/tcp/127.0.0.1/%d
      echo hello >&3; echo sent; cat <&3']]):format(server:port())))
    assert.equal("sent", visitor:read "l")
    assert.equal(0, handled)
    assert.is_true(server:shutdown(LONG))
    assert.equal("hello\n", visitor:read "a")
    assert.equal(1, handled)
  end)
end)

describe("shutdown after its time", function()
  it("resets what is left and returns false; the handler goes on without a connection", function()
    local gate, code = false, nil
    local server = serve(function(conn)
      conn:send "ready\n"
      eventually(function() return gate end)
      code = select(3, conn:send "too late")
    end)
    local client <close> = clients.connect(server)
    assert.equal("ready", client:recv_line(5))
    local start = wire.now()
    assert.is_false(server:shutdown(0.1))
    assert.is_true(wire.now() - start > 0.09)
    fails("ECONNRESET", client:recv(1, 5))
    gate = true
    assert.is_true(server:run())
    assert.equal("ECLOSED", code)
  end)

  it("wakes a receiver in the middle of a message with ECLOSED", function()
    local server, client <close>, results = serve_receive { "recv", 5 }
    deliver(client, "ab")
    assert.is_false(server:shutdown(0.05))
    fails("ECLOSED", results())
    fails("ECONNRESET", client:recv(1, 5))
  end)

  it("tells on_close of the connections that it reset", function()
    local closed = 0
    local server = serve({ on_close = function() closed = closed + 1 end },
      function(conn) conn:recv(5) end)
    local all = {}
    for i = 1, 3 do
      all[i] = clients.connect(server)
      deliver(all[i], "ab")
    end
    assert.is_false(server:shutdown(0.05))
    eventually(function() return closed == 3 end)
    for _, client in ipairs(all) do client:close() end
  end)

  it("resets a peer that has not taken what was sent", function()
    local size = 32 * 1024 * 1024 -- more than the system takes off our hands
    local server = serve(function(conn) conn:send(("x"):rep(size)) end)
    local client <close> = clients.connect(server)
    assert(client:recv(1, 5))
    assert.is_false(server:shutdown(0.1))
    local got = 1
    for chunk in client:chunks() do got = got + #chunk end
    assert.equal("ECONNRESET", select(2, client:last_error()))
    assert.is_true(got < size, got)
    assert.is_true(server:run())
  end)

  it("is true if the peers have everything and only have not closed their side", function()
    local server = serve(function(conn) conn:send "bye" end)
    local client <close> = clients.connect(server)
    assert.equal("bye", client:read "a")
    assert.is_true(server:shutdown(0.1))
  end)

  it("of zero resets at once what does not end by itself", function()
    local server, client <close>, results = serve_receive { "recv", 5 }
    deliver(client, "ab")
    assert.is_false(server:shutdown(0))
    fails("ECLOSED", results())
    fails("ECONNRESET", client:recv(1, 5))
    assert.is_true(serve(clients.echo):shutdown(0))
  end)

  it("is drain_timeout where none is given", function()
    local server = serve({ drain_timeout = 0.1 }, function(conn) conn:recv(5) end)
    local client <close> = clients.connect(server)
    deliver(client, "ab")
    local start = wire.now()
    assert.is_false(server:shutdown())
    assert.is_true(wire.now() - start > 0.09)
    fails("ECONNRESET", client:recv(1, 5))
  end)
end)

describe("a shutdown", function()
  it("refuses new clients and says that the server is closing", function()
    local gate = false
    local server = serve(function() eventually(function() return gate end) end)
    assert.is_false(server:closing())
    local client <close> = clients.connect(server)
    eventually(function() return server:conn_num() == 1 end)
    local task = begin_shutdown(server, LONG)
    fails("ECONNREFUSED", wire.connect(server:addr(), 5))
    assert.equal("waiting", task:status())
    gate = true
    assert.equal("", leave(client, task))
    assert.is_true(server:closing())
  end)

  it("of an idle server is true at once, and so is another one", function()
    local server = serve(clients.echo)
    assert.is_true(server:shutdown(LONG))
    assert.is_true(server:shutdown(LONG))
    assert.is_true(server:shutdown())
  end)

  it("may be called by several tasks at once: each waits for the end", function()
    local server, client <close>, results = serve_receive { "recv", 5 }
    deliver(client, "ab")
    local tasks = {}
    for i = 1, 3 do tasks[i] = begin_shutdown(server, LONG) end
    wire.sleep(0)
    for _, task in ipairs(tasks) do assert.equal("waiting", task:status()) end
    client:send "cde"
    assert.equal("abcde", results())
    assert.equal("", leave(client, tasks[1]))
    check_result(true, tasks[2])
    check_result(true, tasks[3])
  end)

  it("goes on without the task that began it", function()
    local server, client <close>, results = serve_receive { "recv_line" }
    deliver(client, "ab")
    local task = begin_shutdown(server, LONG)
    task:cancel()
    fails("ECANCELED", task:join(5))
    client:send "\n"
    assert.equal("ab", results())
    assert.equal("", shut_down(server, client))
  end)

  it("drains a server that was closed before", function()
    local server = serve(clients.echo)
    local client <close> = clients.connect(server)
    clients.check_echo(client, "before")
    server:close()
    clients.check_echo(client, "after")
    assert.equal("", shut_down(server, client))
  end)

  it("called by a handler does not wait for that very handler, whose reply arrives", function()
    local result
    local server = serve(function(conn, server)
      for line in conn:lines() do
        if line == "stop" then
          result = server:shutdown(LONG)
          conn:send "stopped"
        else
          conn:send(line, "\n")
        end
      end
    end)
    local idle = clients.connect(server)
    local client <close> = clients.connect(server)
    idle:send "first\n"
    client:send "stop\n"
    assert.equal("first\n", idle:read "a")
    idle:close()
    assert.equal("stopped", client:read "a")
    assert.is_true(result)
    assert.is_true(server:run())
  end)

  it("called by two handlers waits for neither", function()
    local results = {}
    local server = serve(function(conn, server)
      conn:recv_line()
      local result = server:shutdown(LONG)
      results[#results + 1] = result
      conn:send "stopped"
    end)
    local a, b = clients.connect(server), clients.connect(server)
    a:send "stop\n"
    b:send "stop\n"
    for _, client in ipairs { a, b } do
      assert.equal("stopped", client:read "a")
      client:close()
    end
    assert.same({ true, true }, results)
  end)

  it("gives accepters ECLOSED, and waits for what they accepted", function()
    local server = assert(wire.listen "127.0.0.1:0")
    local client <close> = clients.connect(server)
    local conn = assert(server:accept(5))
    local reader = wire.spawn(function()
      local outcome = table.pack(conn:recv_line())
      conn:close()
      return table.unpack(outcome, 1, 3)
    end)
    local accepter = wire.spawn(server.accept, server)
    wire.sleep(0)
    assert.equal("", shut_down(server, client))
    for _, task in ipairs { accepter, reader } do
      local outcome = { task:join(5) }
      assert.same({ true, nil, "ECLOSED" }, { outcome[1], outcome[2], outcome[4] })
    end
    fails("ECLOSED", server:accept())
  end)

  it("resets an accepted connection that nobody closes", function()
    local server = assert(wire.listen "127.0.0.1:0")
    local client <close> = clients.connect(server)
    local conn <close> = assert(server:accept(5))
    assert.is_false(server:shutdown(0.05))
    assert.is_true(conn:closed())
    fails("ECONNRESET", client:recv(1, 5))
  end)

  it("with something that is no time is misuse", function()
    local server <close> = serve(clients.echo)
    assert.is_false(pcall(server.shutdown, server, "soon"))
    assert.is_false(pcall(server.shutdown, server, {}))
    assert.is_false(server:closing())
  end)

  support.it_outside("outside a task runs the loop until it is done", function()
    local server, sent = serve(clients.echo), false
    local client = wire.spawn(function()
      local client <close> = clients.connect(server)
      clients.check_echo(client, "hello")
      deliver(client, "unfinished")
      sent = true
      eventually(function() return server:closing() end)
      client:send "\n"
      return client:read "a"
    end)
    eventually(function() return sent end)
    assert.is_true(server:shutdown(LONG))
    assert.same({ true, "unfinished\n" }, { client:join(5) })
  end)
end)
