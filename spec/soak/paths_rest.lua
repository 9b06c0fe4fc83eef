-- What else a soak does again and again in one process: objects that are made and dropped, names,
-- files, clients that dial again, pools, loggers.
-- What this is not: connections that end early (paths_ends.lua).
local traffic = require "spec.soak.traffic"
local visits = require "spec.soak.visits"
local wire = require "lunewire"

local rest = {}

local NOBODY <const> = "127.0.0.1:1"

local function temporary(text)
  local name = os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(text))
  return name
end

-- "bye" ends the connection.
local function echo(conn)
  for line in conn:lines() do
    if line == "bye" then return end
    conn:send(line, "\n")
  end
end

local function with_server(body)
  local server <close> = assert(wire.serve("127.0.0.1:0", echo))
  body(server:addr())
  server:shutdown(10)
end

local function ask(conn, text)
  assert(conn:send(text, "\n"))
  assert(conn:recv_line(60) == text)
end

-- ---- listening -------------------------------------------------------------------------

-- The same file, and an abstract name; with a connection each, and without.  The loop keeps each
-- name that it has seen.
local path = os.tmpname()
os.remove(path)

function rest.unix_again(n)
  for i = 1, n do
    local address = i % 2 == 0 and "unix:" .. path or ("unix:@soak%s"):format(path)
    local server = assert(wire.listen(address))
    if i % 3 == 0 then
      assert(wire.connect(address)):close()
      assert(server:accept(60)):close()
    end
    server:close()
  end
end

function rest.listen_again(n)
  for i = 1, n do
    local server = assert(wire.listen(i % 2 == 0 and "127.0.0.1:0" or { "127.0.0.1:0", "[::1]:0" }))
    local task = wire.spawn(server.accept, server, 60)
    if i % 2 == 0 then wire.sleep(0) end
    server:close()
    task:join()
    local _, _, code = wire.listen "192.0.2.1:1"
    assert(code == "EADDRNOTAVAIL", code)
  end
end

function rest.free_ports(n)
  for _ = 1, n do assert(wire.free_port(2)) end
end

-- ---- names ------------------------------------------------------------------------------

function rest.lookups(n)
  visits.all(n, 4, function(i)
    if i % 3 == 0 then
      local task = wire.spawn(wire.resolve, "localhost")
      wire.sleep(0)
      task:cancel()
      task:join()
    elseif i % 3 == 1 then
      wire.resolve("localhost", 0)
    else
      assert(wire.resolve "localhost")
    end
  end)
end

-- ---- contexts, framings, limits -----------------------------------------------------------

function rest.contexts(n, server)
  for i = 1, n do
    local context = assert(wire.tls_context(server))
    if i % 2 == 0 then assert(context:reload()) end
    local none, _, code = wire.tls_context { cert = "/nonexistent", key = "/nonexistent" }
    assert(none == nil and code, code)
    if i % 20 == 0 then collectgarbage() end
  end
end

function rest.framings(n)
  local a, b = wire.pipe()
  local _ <close> = visits.both(a, b)
  for i = 1, n do
    local one = traffic.framings[traffic.names[i % #traffic.names + 1]]
    local message = one.message()
    a:set_framing(one.make())
    b:set_framing(one.make())
    assert(a:send_frame(message))
    assert(b:recv_frame() == message)
    if i % 100 == 0 then collectgarbage "step" end
  end
end

function rest.limits(n)
  for i = 1, n do
    local a, b = wire.pipe { limits = { line = i % 1000 + 1, all = i + 1 } }
    local _ <close> = visits.both(a, b)
    a:send(("x"):rep(i % 1000 + 2), "\n")
    local line, _, code = b:recv_line(60)
    assert(line == nil and code == "EMSGSIZE", code)
  end
end

-- ---- clients, pools, loggers ----------------------------------------------------------------

function rest.reconnecting(n)
  with_server(function(address)
    local client = wire.client(address, { reconnect = { min = 0.0001, max = 0.001 },
      on_connect = function() return true end, on_disconnect = function() end })
    for i = 1, n do
      assert(client:connect(60))
      ask(client, "line " .. i)
      assert(client:send "bye\n")
      assert(not client:recv_line(60))
    end
    client:disconnect()
  end)
end

function rest.clients(n)
  with_server(function(address)
    for i = 1, n do
      local client = wire.client(address)
      assert(client:connect(60))
      local other = client:clone()
      ask(client, "line")
      if i % 2 == 0 then client:disconnect() else client:reset() end
      other:disconnect()
      local gone = wire.client(NOBODY, { reconnect = { min = 100, max = 100 } })
      assert(not gone:connect(0.00001))
    end
  end)
end

function rest.pools(n)
  with_server(function(address)
    local pool
    for i = 1, n do
      pool = pool or wire.pool(address, { max = 2, idle_timeout = 100 })
      pool:use(function(conn) ask(conn, "line") end)
      local conn = assert(pool:get(60))
      if i % 3 == 0 then conn:reset() end
      if i % 3 == 1 then
        conn:send "nobody reads the reply\n"
        conn:peek(1, 60)
      end
      pool:put(conn)
      if i % 10 == 0 then
        pool:close()
        pool = nil
      end
    end
    if pool then pool:close() end
    local gone = wire.pool(NOBODY, { max = 1 })
    for _ = 1, n do assert(not gone:get(60)) end
    gone:close()
  end)
end

-- Some are dropped with lines that no collector took, which they write to standard error: nowhere,
-- in this process, from now on.
function rest.loggers(n)
  rawset(io, "stderr", { write = function() end })
  with_server(function(address)
    for i = 1, n do
      local away = i % 3 == 0
      local log = assert(wire.netlog(away and NOBODY or address, { buffer = 1000, date = true,
        reconnect = { min = 100, max = 100 } }))
      for k = 1, 5 do log:printf("line %d %s", k, ("x"):rep(i % 300)) end
      if not away then log:close() end
    end
  end)
end

-- ---- copies -----------------------------------------------------------------------------

function rest.relays(n)
  local text = ("relay "):rep(2000)
  for i = 1, n do
    local a <close>, b = wire.pipe()
    local c, d <close> = wire.pipe()
    local task = wire.spawn(wire.relay, b, c)
    a:send(text)
    assert(d:recv(#text, 60) == text)
    if i % 3 == 0 then a:reset() end
    if i % 3 == 1 then task:cancel() end
    if i % 3 == 2 then
      a:close_write()
      d:close_write()
    end
    task:join()
  end
end

function rest.files(n)
  local text = ("file "):rep(30000)
  local name = temporary(text)
  for i = 1, n do
    local a, b <close> = wire.pipe()
    local task = wire.spawn(function()
      if i % 3 == 0 then a:send_file "/nonexistent" end
      if i % 3 == 1 then return a:send_file(name, i % 1000), a:close() end
      local file <close> = assert(io.open(name))
      wire.copy(a, file)
      a:close()
    end)
    if i % 5 == 0 then b:reset() else b:read "a" end
    task:join()
    a:reset()
  end
  os.remove(name)
end

-- ---- datagrams, signals, locks --------------------------------------------------------------

function rest.sockets(n)
  for i = 1, n do
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local task = wire.spawn(udp.recv_from, udp, 60)
    if i % 2 == 0 then udp:send_to("hello", (udp:local_addr())) end
    if i % 3 == 0 then
      udp:send_to("nobody", NOBODY)
      udp:join "224.0.0.251"
    end
    wire.sleep(0)
    if i % 2 == 1 then task:cancel() end
    task:join()
  end
end

function rest.signals(n)
  for _ = 1, n do wire.on_signal("USR1", print):cancel() end
end

function rest.locks(n)
  for i = 1, n do
    local mutex, channel = wire.mutex(), wire.channel(i % 2)
    mutex:acquire()
    local tasks = { wire.spawn(mutex.acquire, mutex), wire.spawn(channel.recv, channel),
      wire.spawn(mutex.acquire, mutex, 0), wire.spawn(channel.recv, channel, 0) }
    wire.sleep(0)
    for k, task in ipairs(tasks) do
      if (i + k) % 3 == 0 then task:cancel() end
    end
    mutex:release()
    channel:close()
    for _, task in ipairs(tasks) do
      task:cancel()
      task:join()
    end
  end
end

return rest
