-- Connections of a soak that come to nothing or end early, again and again, both ends in this
-- process: what is seldom taken must not leak either.
-- What this is not: paths without an end (paths_rest.lua).
local visits = require "spec.soak.visits"
local wire = require "lunewire"

local ends = {}

local NOBODY <const> = "127.0.0.1:1"
local AT_ONCE <const>, COLLECT_EVERY <const> = 8, 100

-- nil, a message and one of these codes
local function fails(codes, result, message, code)
  if result == nil and codes:find(code, 1, true) then return end
  error(("%s, %s, %s instead of nil, a message and %s"):format(result, message, code, codes), 0)
end

-- Runs body(i, address) n times beside a server, of which as many connections end.  How many of
-- them wait for the collector is not left to chance: the table of all connections stays as large
-- as that was.
local function beside(n, opts, handler, body)
  local server <close> = assert(wire.serve("127.0.0.1:0", opts, handler))
  local address = server:addr()
  visits.all(n, AT_ONCE, function(i)
    body(i, address)
    if i % COLLECT_EVERY == 0 then collectgarbage() end
  end)
  server:shutdown(10)
end

local function echo(conn)
  for line in conn:lines() do conn:send(line, "\n") end
end

-- ---- connecting ------------------------------------------------------------------------

function ends.refused(n)
  for _ = 1, n do fails("ECONNREFUSED", wire.connect(NOBODY)) end
end

-- By name, over each of its addresses.
function ends.refused_name(n)
  for _ = 1, n do fails("ECONNREFUSED", wire.connect "localhost:1") end
end

function ends.no_address(n)
  for i = 1, n do
    fails("EINVAL", wire.connect("no address " .. i))
    fails("ENOENT ECONNREFUSED", wire.connect("unix:/nonexistent/" .. i))
  end
end

function ends.connect_late(n)
  beside(n, {}, echo, function(_, address)
    local conn = wire.connect(address, 0)
    if conn then conn:reset() end
  end)
end

function ends.connect_canceled(n)
  beside(n, {}, echo, function(i, address)
    local task = wire.spawn(function()
      local conn <close> = wire.connect(address)
      wire.sleep(10)
      return conn
    end)
    for _ = 1, i % 4 do wire.sleep(0) end
    task:cancel()
    task:join()
  end)
end

-- ---- TLS -------------------------------------------------------------------------------

-- server: the server's options; other: a client's that does not trust it.
function ends.handshake_refused(n, server, other)
  local context = assert(wire.tls_context(other))
  beside(n, { tls = server }, echo, function(_, address)
    fails("ECERT", wire.connect(address, { tls = context }))
  end)
end

function ends.handshake_junk(n, server)
  beside(n, { tls = server }, echo, function(i, address)
    local conn <close> = assert(wire.connect(address))
    conn:send(i % 2 == 0 and "GET / HTTP/1.0\r\n\r\n" or "\22\3\1\2\0\1\0\1\xFC\3\3junk")
    if i % 2 == 0 then conn:recv(1000) end
    conn:reset()
  end)
end

function ends.handshake_late(n, server)
  beside(n, { tls = server }, echo, function(i, address)
    local opts = { insecure = true }
    fails("ETIMEDOUT", wire.connect(address, { tls = opts, timeout = i % 2 * 1e-5 }))
  end)
end

-- In memory, and left open: the collector ends both.
function ends.pipe_forgotten(n, server, client)
  local opts = { servername = client.servername }
  for name, value in pairs(server) do opts[name] = value end
  local context = assert(wire.tls_context(opts))
  for i = 1, n do
    local a, b = wire.pipe { tls = i % 2 == 0 and context or nil }
    if i % 3 == 0 then
      local task = wire.spawn(function() b:recv_line() end)
      a:send "hello\n"
      task:join()
    end
    if i % 50 == 0 then collectgarbage() end
  end
end

function ends.start_tls(n, server, client)
  local there, here = assert(wire.tls_context(server)), assert(wire.tls_context(client))
  for i = 1, n do
    local a <close>, b = wire.pipe()
    local bad = i % 4 == 0
    local task = wire.spawn(function()
      if not bad then return b:start_tls(there) end
      b:send "this is no TLS\n"
      b:close()
    end)
    local ok, message, code = a:start_tls(here)
    if bad then fails("ETLS EPIPE ECONNRESET EOF", ok, message, code) else assert(ok, message) end
    task:join()
    b:close()
  end
end

-- ---- calls that end early ---------------------------------------------------------------

function ends.receive_late(n)
  local a, b = wire.pipe()
  local _ <close> = visits.both(a, b)
  for i = 1, n do
    a:set_recv_deadline(i % 3 == 0 and wire.now() or nil)
    fails("ETIMEDOUT", a:recv_line(i % 50 == 0 and 1e-4 or 0))
  end
  a:set_recv_deadline(nil)
  b:send "x\n"
  assert(a:recv_line() == "x")
end

-- Each in a task of its own, cancelled or killed with what it waits for.
function ends.receive_canceled(n)
  local a, b = wire.pipe()
  local _ <close> = visits.both(a, b)
  for i = 1, n do
    local task = wire.spawn(function()
      if i % 3 == 0 then return a:send_recv("x", 1) end
      if i % 3 == 1 then return a:recv_pkg() end
      local next_line, state = a:lines()
      return next_line(state)
    end)
    if i % 2 == 0 then wire.sleep(0) end
    task:cancel()
    task:join()
    b:recv_now()
  end
end

function ends.receive_in_tasks(n)
  local a, b = wire.pipe()
  local _ <close> = visits.both(a, b)
  for first = 1, n, 100 do
    local tasks, last = {}, math.min(first + 99, n)
    for i = first, last do
      tasks[#tasks + 1] = wire.spawn(function() return a:recv_line() end)
      b:send(i, "\n")
    end
    for i, task in ipairs(tasks) do assert(select(2, task:join()) == tostring(first + i - 1)) end
  end
end

-- An iterator that waits, in a coroutine of its own: finished, left, or closed while it waits.
function ends.co_left(n)
  local a, b = wire.pipe()
  local _ <close> = visits.both(a, b)
  for i = 1, n do
    local co = wire.co.create(function()
      while true do coroutine.yield(a:recv_line()) end
    end)
    b:send "word\n"
    assert(select(2, wire.co.resume(co)) == "word")
    if i % 3 == 0 then coroutine.close(co) end
    if i % 3 == 1 then
      local task = wire.spawn(wire.co.resume, co)
      wire.sleep(0)
      task:cancel()
      task:join()
    end
  end
end

-- ---- ways to end ------------------------------------------------------------------------

-- By the handler's error, a hook's refusal, a delay, timers that go with it, unsent bytes.
function ends.handler_fails(n)
  local opts = { on_close = function() end, on_accept = function(conn)
    return (select(3, conn:remote_addr())) % 5 > 0
  end }
  beside(n, opts, function(conn)
    conn:after(100, print)
    conn:every(100, print)
    if conn:recv_line() == "raise" then error "planned error" end
    conn:close(1e-4)
    wire.sleep(2e-4)
  end, function(i, address)
    local conn <close> = wire.connect(address) -- nil: refused so soon
    if not conn then return end
    conn:send(i % 2 == 0 and "raise\n" or "close\n")
    conn:recv(1)
    conn:reset()
  end)
end

function ends.unsent(n)
  local text = ("x"):rep(400000)
  for i = 1, n do
    local a, b <close> = wire.pipe()
    a:try_send(text)
    a:send(text:sub(1, i), { timeout = 0 })
    b:recv_some(1000)
    if i % 2 == 0 then a:reset() else a:close(0.0001) end
    b:reset()
    if i % 2 == 1 then wire.sleep(0.001) end
  end
end

function ends.shutdown(n)
  for i = 1, n do
    local server = assert(wire.serve("127.0.0.1:0", { on_shutdown = function() end }, echo))
    local conn <close> = assert(wire.connect(server:addr()))
    conn:send "hello\n"
    conn:recv_line()
    if i % 3 == 0 then conn:reset() end
    if i % 3 == 1 then conn:close() end -- otherwise the server resets it
    server:shutdown(i % 3 == 2 and 0 or 10)
  end
end

function ends.requests(n)
  beside(n, {}, echo, function(i, address)
    local text = "text " .. i
    assert(wire.request(address, text .. "\n", { recv = "line" }) == text)
    fails("ECONNREFUSED", wire.request(NOBODY, "x", { recv = "line" }))
  end)
end

return ends
