-- Operations of the fuzz target `api` on servers, what dials them (connect, pool, client), and
-- what joins connections (relay, copy).
-- What this is not: connections (api_ops_conn.lua), tasks (api_ops_task.lua).
local host = host -- luacheck: ignore
local wire = require "lunewire"
local model = require "spec.fuzz.api_model"

local call, fail = model.call, model.fail
local ops = {}
local conn_options = require("spec.fuzz.api_framings").options

local function op(name, fn)
  model.name_op(name)
  ops[#ops + 1] = { name = name, run = fn }
end

local servers, pools, clients = {}, {}, {}
model.servers, model.pools, model.clients = servers, pools, clients

local ENDS_MOST <const> = 24

local function pick(A, list)
  if #list > 0 then return list[A:below(#list) + 1] end
end

-- ---- connections that were dialled and accepted -------------------------------------------

-- The two streams of a connection, by the address of who dialled.
local links = {}
model.links = links

local function link_of(key)
  local link = links[key]
  if not link then
    link = { up = model.stream(), down = model.stream() }
    link.up.ended, link.up.loose = true, true -- whose it is: perhaps a client's or a pool's
    links[key] = link
  end
  return link
end

-- Until it is accepted, the other side may refuse it.
local function add_dialled(conn, f)
  local link = link_of(conn:local_addr())
  link.up.ended, link.up.loose = false, link.down.loose
  link.down.ended = not link.accepted
  local e = model.add_end(conn, link.up, link.down, { framing = f })
  if not link.up.to then link.up.to = { conn = nil } end
  return e
end

local function add_accepted(conn, V)
  local link = link_of(conn:remote_addr())
  link.accepted = true
  link.down.ended = V.shut or V.loose or model.signaled
  link.up.loose, link.down.loose = V.loose or link.up.loose, V.loose or link.down.loose
  return model.add_end(conn, link.down, link.up, { framing = V.framing, timeout = V.timeout,
    server = V })
end

local function find_end(conn)
  for _, e in ipairs(model.ends) do
    if e.conn == conn then return e end
  end
end

-- ---- servers --------------------------------------------------------------------------------

local function handler(V)
  return function(conn, server)
    model.in_call = false
    if server ~= V.server then fail "the handler got another server" end
    V.running = V.running + 1
    local e = find_end(conn) or add_accepted(conn, V)
    e.server = V
    local T = model.new_task({ depth = V.depth }, V.prog)
    local ok, err = pcall(model.task_body, T)
    model.closed(e)
    e.inp.ended = e.inp.ended or V.shut
    V.running = V.running - 1
    if not ok then error(err, 0) end
  end
end

local function hook(V, prog)
  model.in_call = false
  return model.actor(prog, "task", nil, V.depth):run()
end

local function on_accept(V, prog)
  return function(conn)
    model.in_call = false
    model.actor(prog, "hook", nil, V.depth):run()
    local refused = #prog % 4 == 3
    if not refused and not conn:closed() then V.admitted = V.admitted + 1 end
    model.in_call = true
    return not refused
  end
end

local function on_close(V)
  return function(conn, message, code)
    model.in_call = false
    V.told = V.told + 1
    if not conn:closed() then fail "on_close of an open connection" end
    if (message == nil) ~= (code == nil) then fail "on_close with half a failure" end
    if V.closed_conns[conn] then fail "on_close twice for one connection" end
    V.closed_conns[conn] = true
  end
end

local function on_exit(V)
  return function()
    model.in_call = false
    V.exits = V.exits + 1
    if V.exits > 1 then fail "on_exit twice" end
    if not V.server:closing() then fail "on_exit of a server that listens" end
  end
end

local function server_options(A, V)
  local opts, f = conn_options(A)
  local prog = A:sub(8)
  opts.max_conns = ({ 1, 2, 4, 10000 })[A:below(4) + 1]
  opts.drain_timeout = A:time()
  if opts.drain_timeout == nil or opts.drain_timeout < 0 then opts.drain_timeout = 1 end
  opts.on_accept = A:byte() & 1 > 0 and on_accept(V, prog) or nil
  opts.on_close = opts.on_accept and on_close(V)
  opts.on_shutdown = function() hook(V, prog) end
  V.framing, V.loose, V.tls, V.counts = f, opts.tls ~= nil, opts.tls, opts.on_close ~= nil
  return opts
end

op("serve", function(A)
  local accepts = A:byte() & 3 == 0
  local V = { prog = A:sub(40), depth = A.depth + 1, running = 0, admitted = 0, told = 0, exits = 0,
    closed_conns = {} }
  if #servers >= 3 or A.depth > 3 or model.closing then return end
  local opts = server_options(A, V)
  local r = { what = "serve" }
  local ok, server
  if accepts then
    ok, server = call(A, r, wire.listen, "127.0.0.1:0", opts)
  else
    ok, server = call(A, r, wire.serve, { "127.0.0.1:0", "127.0.0.2:0" }, opts, handler(V))
  end
  if not ok then return end
  V.server, V.accepts = server, accepts
  servers[#servers + 1] = V
  server:on_exit(on_exit(V))
end)

op("accept", function(A)
  local V, t = pick(A, servers), A:time()
  if not V or #model.ends >= ENDS_MOST then return end
  local r = { what = "accept", timeout = t, misuse = not V.accepts }
  local ok, conn = call(A, r, V.server.accept, V.server, t)
  if ok then
    add_accepted(conn, V)
  elseif conn == "ECLOSED" and not (V.closed or V.shut or model.signaled) then
    fail "accept: ECLOSED, but it listens"
  end
end)

-- Its connections may end at any time from now on.
local function shut(V)
  V.shut = true
  for _, e in ipairs(model.ends) do
    if e.server == V then e.out.ended, e.out.cut, e.may_close = true, true, true end
  end
end

op("shutdown", function(A)
  local V, t = pick(A, servers), A:time()
  if not V then return end
  shut(V)
  local r = { what = "shutdown", timeout = t and math.max(t, 0) or nil }
  local ok, all = call(A, r, V.server.shutdown, V.server, t)
  if ok and type(all) ~= "boolean" then fail "shutdown did not tell" end
end)

function model.close_server(A, V)
  V.closed = true
  call(A, { what = "server close" }, V.server.close, V.server)
end
model.name_op "server close"

op("server close", function(A)
  local V = pick(A, servers)
  if V then model.close_server(A, V) end
end)

op("handle", function(A, e)
  local V = pick(A, servers)
  if not V or not e.peer or A.ctx == "hook" then return end -- on_accept would call itself
  e.may_close, e.handed = true, true
  e.out.ended, e.out.cut = true, true -- it is the server's from now on
  V.counts = false
  call(A, { what = "handle", misuse = true }, V.server.handle, V.server, e.conn)
end)

op("server facts", function(A)
  local V = pick(A, servers)
  if not V then return end
  local s = V.server
  local n = s:conn_num()
  if math.type(n) ~= "integer" or n < 0 then fail("conn_num() is " .. tostring(n)) end
  if #s:conns() > n then fail "more connections than conn_num()" end
  if s:port() < 1 or s:addr() ~= s:addrs()[1] then fail "no address" end
  if V.closed and not s:closing() then fail "a closed server listens" end
  if A:byte() & 7 == 0 then call(A, { what = "server facts" }, s.run, s) end
end)

op("descriptors run out", function(A) host.refuse_accepts(A:below(4)) end)

-- Once all has ended: each connection was told of once, and the server's end.
function model.check_servers()
  for _, V in ipairs(servers) do
    if V.exits ~= 1 then fail(("on_exit %d times"):format(V.exits)) end
    if V.running ~= 0 then fail "a handler has not ended" end
    if V.counts and V.told ~= V.admitted then
      fail(("on_close %d times, for %d connections"):format(V.told, V.admitted))
    end
  end
end

-- ---- connecting -----------------------------------------------------------------------------

local HOSTS <const> = { "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1", "127.0.0.4",
  "127.0.0.5", "127.0.0.6", "127.0.0.7", "many.test", "one.test", "slow.test", "never.test",
  "xyz.test" }

local function address(A)
  local V, name = pick(A, servers), HOSTS[A:below(#HOSTS) + 1]
  if A:byte() & 15 == 15 then return name .. ":9", V end
  return ("%s:%d"):format(name, V and V.server:port() or 9), V
end

op("connect", function(A)
  local addr, V = address(A)
  local t = A:time() or 2
  if #model.ends >= ENDS_MOST then return end
  local opts, f = conn_options(A)
  opts.timeout, opts.tls = t, V and V.tls and { insecure = true } or nil
  local r = { what = "connect", timeout = t }
  local ok, conn = call(A, r, wire.connect, addr, opts)
  if ok then add_dialled(conn, f) end
end)

local CLIENTS_MOST <const> = 4

op("client", function(A)
  local addr = address(A)
  if #clients >= CLIENTS_MOST then return end
  local c = { lost = 0 }
  local ok, client = call(A, { what = "client" }, wire.client, addr, { timeout = 2,
    reconnect = A:byte() & 1 > 0 and { min = 0.125, max = 1, jitter = 0 } or nil,
    on_disconnect = function()
      model.in_call = false
      c.lost = c.lost + 1
    end })
  c.client = client
  if ok then clients[#clients + 1] = c end
end)

local CLIENT_CALLS <const> = { "connect", "connected", "send", "recv_line", "disconnect",
  "recv_some", "close", "clone", "flush", "send_pkg" }

op("client call", function(A)
  local c = pick(A, clients)
  if not c then return end
  local name, t = CLIENT_CALLS[A:below(#CLIENT_CALLS) + 1], A:time() or 1
  local client, r = c.client, { what = "client call", untimed = true }
  local f = client[name]
  if name == "send" or name == "send_pkg" then
    call(A, r, f, client, "a line\n")
  elseif name == "recv_some" then
    call(A, r, f, client, 10, t)
  elseif name == "clone" or name == "connected" or name == "disconnect" or name == "close" then
    call(A, r, f, client)
  else
    call(A, r, f, client, t)
  end
end)

-- ---- pools ----------------------------------------------------------------------------------

local function pipe_factory(prog)
  local n = 0
  return function()
    model.in_call = false
    n = n + 1
    if prog:byte(n) == 1 then return nil, "the factory has none", "ECONNREFUSED" end
    local a, b = wire.pipe()
    model.kept = model.kept or {}
    table.insert(model.kept, b)
    return a
  end
end

op("pool", function(A)
  local addr, max, prog = address(A), A:below(3) + 1, A:sub(6)
  local own = A:byte() & 1 > 0
  if #pools >= 2 then return end
  local ok, pool = call(A, { what = "pool" }, wire.pool, own and pipe_factory(prog) or addr,
    { max = max, max_idle = A:below(3), idle_timeout = A:below(2) + 0.5, lifetime = 4 })
  if ok then pools[#pools + 1] = { pool = pool, max = max } end
end)

local function check_pool(p)
  local s = p.pool:stats()
  if s.used < 0 or s.idle < 0 or s.used + s.idle > p.max then
    fail(("pool of %d: %d used, %d idle"):format(p.max, s.used, s.idle))
  end
end

op("pool use", function(A)
  local p, t, how, prog = pick(A, pools), A:time() or 1, A:byte(), A:sub(12)
  if not p then return end
  check_pool(p)
  local r = { what = "pool use", timeout = t, untimed = true }
  local ok, conn = call(A, r, p.pool.get, p.pool, t)
  check_pool(p)
  if not ok then return end
  local codes = { what = "pool use", untimed = true }
  call(A, codes, conn.send, conn, "x")
  local inner = model.actor(prog, A.ctx, A.T, A.depth + 1)
  inner.outer = A
  if A.depth < 4 then pcall(inner.run, inner) end
  model.in_call = false
  if how & 3 == 1 then
    call(A, { what = "pool use", untimed = true }, conn.close, conn)
  elseif how & 3 == 2 then
    call(A, { what = "pool use", untimed = true }, conn.recv_some, conn, 1, 0)
  end
  if how & 12 ~= 12 then call(A, { what = "pool use" }, p.pool.put, p.pool, conn) end
  check_pool(p)
end)

op("pool close", function(A)
  local p = pick(A, pools)
  if p then call(A, { what = "pool close" }, p.pool.close, p.pool) end
end)

-- ---- joining --------------------------------------------------------------------------------

local function loosen(e)
  e.inp.loose, e.out.loose, e.may_close = true, true, true
end

op("relay", function(A, e)
  local other, t = pick(A, model.ends), A:time()
  if model.relayed or other == e.peer then return end -- bytes could go round for ever
  model.relayed = other ~= e
  loosen(e)
  loosen(other)
  for _, one in ipairs { e, other } do
    one.out.ended, one.out.cut, one.inp.cut = true, true, true
  end
  local a, b = e.conn, other.conn
  local r = { what = "relay", misuse = a == b, untimed = true }
  local ok, n = call(A, r, wire.relay, a, b, { timeout = t, idle_timeout = A:time() })
  if a == b then return end
  if ok and math.type(n) ~= "integer" then fail "relay did not count" end
  if not (a:closed() and b:closed() or model.was_meddled(A)) then
    fail "relay left a connection open"
  end
end)

op("copy", function(A, e)
  local other, n = pick(A, model.ends), A:byte()
  e.inp.loose, other.out.loose = true, true
  local ok, total = call(A, { what = "copy", untimed = true }, wire.copy, other.conn, e.conn, n)
  if ok and total ~= n then fail "copy gave another number of bytes" end
end)

-- ---- the state ------------------------------------------------------------------------------

-- It is closed as it is.
op("abandon", function(A)
  if A.ctx == "main" and A:byte() & 1 > 0 then model.abandoned = true end
end)

return ops
