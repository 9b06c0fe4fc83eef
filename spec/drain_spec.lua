-- The promise that SIGTERM loses no accepted request: 200 clients of one process, a server in
-- another, and the signal at a random moment.
-- What this is not: what a shutdown does to each kind of call (shutdown_spec.lua).
--
-- `make drain` is the long form: LUNEWIRE_DRAIN_ROUNDS=1000, a fifth of them over TLS; it prints
-- its totals.  LUNEWIRE_DRAIN_SEED=n repeats a failed round.
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local CLIENTS = support.sized(200, 100, 20)
local LONG = tonumber(os.getenv "LUNEWIRE_DRAIN_ROUNDS")
local ROUNDS = { tcp = support.sized(4, 4, 2), tls = support.sized(2, 2, 1) }
if LONG then ROUNDS = { tcp = LONG - LONG // 5, tls = LONG // 5 } end
local SEED = tonumber(os.getenv "LUNEWIRE_DRAIN_SEED")
local DRAIN_SECONDS = 10 * support.slowness

-- Prints its port.  Counts each request that a handler received, works on some of them for a
-- while, answers "id:number:" and much text behind it; what is there when a handler ends is left.
-- Prints both counts at the exit.
local SERVER = [[
local wire = require "lunewire"
math.randomseed(tonumber(arg[1]))
local received, left = 0, 0
local options = { drain_timeout = tonumber(arg[2]) }
if arg[3] then options.tls = { cert = arg[3], key = arg[4] } end
local server = assert(wire.serve("127.0.0.1:0", options, function(conn)
  for request in conn:lines() do
    received = received + 1
    if math.random(4) == 1 then wire.sleep(math.random() * 0.05) end
    conn:send(request, ":", ("x"):rep(#request * math.random(0, 300)), "\n")
    if math.random(20) == 1 then conn:flush() end
  end
  local rest = conn:recv(conn:buffered())
  for _ in (rest or ""):gmatch "\n" do left = left + 1 end
end))
io.stdout:setvbuf "line"
print(server:port())
wire.run()
print(received, left)
]]

-- Each client sends numbered requests on connection after connection until one cannot be made:
-- one at a time or several at once, whole or in two pieces.  Prints "served" at the first reply;
-- at the end how many complete replies came, how many of them were not what the request was, and
-- of each request that had none since when the system had it, or its beginning.
local CLIENT = [[
local wire = require "lunewire"
local address, count = "127.0.0.1:" .. arg[2], tonumber(arg[3])
local options = { tls = arg[4] and wire.tls_context { ca = arg[4] } }
math.randomseed(tonumber(arg[1]))
local replies, wrong, unanswered = 0, 0, {}
io.stdout:setvbuf "line"

-- -> did all of them leave?  Notes since when the system had something of each.
local function send_requests(conn, id, first, last, since)
  local text, begins = "", {}
  for n = first, last do
    begins[n] = #text
    text = text .. ("%d:%d\n"):format(id, n)
  end
  local cut = math.random(4) == 1 and math.random(#text - 1) or #text
  for _, piece in ipairs { text:sub(1, cut), text:sub(cut + 1) } do
    if not (conn:send(piece) and conn:flush()) then return end
    for n = first, last do
      since[n] = since[n] or begins[n] < cut and wire.now() or nil
    end
    if cut < #text then wire.sleep(math.random() * 0.01) end
    cut = #text
  end
  return true
end

local function await_replies(conn, id, first, last, since)
  for n = first, last do
    local reply = conn:recv_line()
    if not reply then
      for none = n, last do unanswered[#unanswered + 1] = since[none] end
      return
    end
    replies = replies + 1
    if replies == 1 then print "served" end
    if not reply:match(("^%d:%d:x*$"):format(id, n)) then wrong = wrong + 1 end
  end
  return true
end

local function visit(conn, id, n)
  for _ = 1, math.random(10) do
    local last = n + math.random(0, 3)
    local since = {}
    local sent = send_requests(conn, id, n + 1, last + 1, since)
    if not (await_replies(conn, id, n + 1, last + 1, since) and sent) then return end
    n = last + 1
  end
  return n
end

local function client(id)
  local n = 0
  while n do
    local conn <close> = wire.connect(address, options)
    if not conn then return end
    n = visit(conn, id, n)
  end
end

wire.run(function()
  local tasks = {}
  for id = 1, count do tasks[id] = wire.spawn(client, id) end
  for _, task in ipairs(tasks) do assert(task:join()) end
end)
print(replies, wrong, table.unpack(unanswered))
]]

-- -> the peer's remaining output, its numbers; its exit status must be 0.
local function numbers(peer, seed)
  local output, status = peer:output()
  assert.equal(0, status, ("seed %d: %s"):format(seed, output))
  local list = {}
  for n in output:gmatch "[%d.]+" do list[#list + 1] = tonumber(n) end
  return list
end

-- How many requests of which the system had something at that time were never answered.
local function lost(replies, at)
  local count = 0
  for i = 3, #replies do
    if replies[i] < at then count = count + 1 end
  end
  return count
end

-- -> how many requests were served.
local function round(seed, transport)
  math.randomseed(seed)
  local is_tls = transport == "tls"
  local server = support.lua(SERVER, seed, DRAIN_SECONDS,
    table.unpack(is_tls and { pki.cert.good, pki.key.leaf } or {}))
  local clients = support.lua(CLIENT, seed, assert(server:line()), CLIENTS,
    table.unpack(is_tls and { pki.ca.ca } or {}))
  assert.equal("served", clients:line())
  wire.sleep(math.random() * 0.5)
  local start = wire.now() -- the signal comes once a shell has started, with what is on its way
  server:signal "TERM"
  local received, left = table.unpack(numbers(server, seed))
  local took = wire.now() - start
  local replies = numbers(clients, seed)
  local expected = { replies = received, wrong = 0, left = 0, lost = 0 }
  assert.same(expected, { replies = replies[1], wrong = replies[2], left = left,
    lost = lost(replies, start) }, "seed " .. seed)
  assert.is_true(took < DRAIN_SECONDS, ("seed %d: it took %f s"):format(seed, took))
  return received
end

describe("SIGTERM at a random moment", function()
  local done, served = { tcp = 0, tls = 0 }, 0

  for transport, rounds in pairs(ROUNDS) do
    support.it(("loses no request that was accepted, in %d rounds with %d clients over %s")
      :format(rounds, CLIENTS, transport), function()
      local first = SEED or os.time()
      for i = 1, rounds do
        served = served + round(first + i - 1, transport)
        done[transport] = done[transport] + 1
      end
    end, rounds * 15)
  end

  -- Rounds that failed are not counted, and are told by the test.
  teardown(function()
    if not LONG then return end
    local rounds = done.tcp + done.tls
    print(("\nrounds %d with %d clients, %d over TLS"):format(rounds, CLIENTS, done.tls))
    print(("replies %d to as many accepted requests, 0 lost"):format(served))
  end)
end)
