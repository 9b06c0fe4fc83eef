-- Clients of a soak that come, have something echoed and go, so many at a time: what a client's
-- process does.  Every byte that comes back is compared.
-- What this is not: the clients that misbehave.
local wire = require "lunewire"

local visits = {}

local AT_ONCE <const>, DATAGRAMS_AT_ONCE <const> = 64, 16
local PATIENCE <const> = 120 -- seconds; nobody is that slow, but nothing may hang

-- Has `visit(i)` done for each i up to n, `at_once` at a time; the first error is raised.
local function all(n, at_once, visit)
  local next_one, tasks = 0, {}
  local function work()
    while next_one < n do
      next_one = next_one + 1
      visit(next_one)
    end
  end
  for i = 1, at_once do tasks[i] = wire.spawn(work) end
  for _, task in ipairs(tasks) do
    local ok, message = task:join()
    if not ok then error(message, 0) end
  end
end

visits.all = all

local Both = { __close = function(both)
  both[1]:close()
  both[2]:close()
end }

-- local _ <close> = visits.both(a, b): both end with the scope.
function visits.both(a, b) return setmetatable({ a, b }, Both) end

-- Most reset, so that no port is held; a tenth leaves the end to the server, and a tenth ends
-- first, each from an address of this host that has ports left.
-- orderly: none resets, since a TLS session whose connection was reset is not resumed.
local function manner(i, orderly)
  local kind = orderly and i % 2 or i % 10
  if kind == 0 then return "S" end
  return kind == 1 and "C" or "R", kind == 1 and ("127.0.0.%d"):format(2 + i // 10 % 250) or nil
end

local function check(got, sent, message)
  if got ~= sent then error(("%q came back for %q: %s"):format(got, sent, message), 0) end
end

local function leave(conn, kind)
  if kind == "R" then return conn:reset() end
  if kind == "S" then
    local _, message, code = conn:recv(1)
    check(code, "EOF", message)
  end
  assert(conn:close())
end

-- One connection: connect, echo, close.
local function visit(i, address, tls, orderly)
  local kind, from = manner(i, orderly)
  local conn <close> = assert(wire.connect(address, { local_addr = from, tls = tls,
    timeout = PATIENCE }))
  local text = ("%s%d%s"):format(kind, i, ("x"):rep(i % 100))
  local echoed, message = conn:send_recv_pkg(text, PATIENCE)
  check(echoed, text, message)
  local resumed = tls and conn:tls_info().resumed
  leave(conn, kind)
  return resumed
end

local contexts = {}

-- n connections -> {resumed=} or nil; tls: {name=, options=, at_once=, orderly=} or nil, where the
-- options are those of a context that is made once and kept under that name.
function visits.streams(n, address, tls)
  local context, resumed = nil, 0
  if tls then
    contexts[tls.name] = contexts[tls.name] or assert(wire.tls_context(tls.options))
    context = contexts[tls.name]
  end
  all(n, tls and tls.at_once or AT_ONCE, function(i)
    if visit(i, address, context, tls and tls.orderly) then resumed = resumed + 1 end
  end)
  return tls and { resumed = resumed }
end

-- n datagrams there and back -> {lost=}; one that is lost is sent again.
function visits.datagrams(n, address)
  local lost, sockets = 0, {}
  local function exchange(udp, i)
    local text = ("%d %s"):format(i, ("y"):rep(i % 500))
    assert(udp:send(text))
    local echoed = udp:recv(5)
    while not echoed do
      lost = lost + 1
      assert(udp:send(text))
      echoed = udp:recv(5)
    end
    check(echoed, text, "a datagram")
  end
  all(n, DATAGRAMS_AT_ONCE, function(i)
    local udp = table.remove(sockets)
    if not udp then
      udp = assert(wire.udp "127.0.0.1:0")
      udp:connect(address)
    end
    exchange(udp, i)
    sockets[#sockets + 1] = udp
  end)
  for _, udp in ipairs(sockets) do udp:close() end
  return { lost = lost }
end

-- ---- many that stay ------------------------------------------------------------------------

local staying = {}

-- Opens n connections more, each of which has one package echoed and is silent then.
function visits.stay(n, address, tls)
  local context = tls and assert(wire.tls_context(tls.options))
  local first = #staying
  all(n, AT_ONCE, function(i)
    local conn = assert(wire.connect(address, { tls = context, timeout = PATIENCE,
      local_addr = ("127.0.0.%d"):format(2 + i % 4) }))
    local text = ("%d"):format(i)
    check(conn:send_recv_pkg(text, PATIENCE), text, "a package")
    staying[first + i] = conn
  end)
end

-- All of them have one more package echoed: they are still there.
function visits.echo_all()
  all(#staying, AT_ONCE, function(i)
    check(staying[i]:send_recv_pkg("still", PATIENCE), "still", "a package")
  end)
end

function visits.leave()
  for i, conn in ipairs(staying) do
    if i % 8 == 0 then conn:close() else conn:reset() end
  end
  staying = {}
end

return visits
