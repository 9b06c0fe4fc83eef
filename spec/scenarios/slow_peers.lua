-- How much a thousand slow peers cost the others: the p99 of clients that behave, with and without
-- them, and what the server holds for each.  Prints lines of "name value unit",
-- and of each promise that does not hold:
--
--   lua5.4 spec/scenarios/slow_peers.lua [--short | PEERS [ROUNDS [SECONDS]]]
--
-- make slow-peers builds what it needs and runs it.  The clients are bench/load, which shares no
-- code with the library; each measurement with slow peers has one without right before it, and what
-- counts of times is the median of the rounds, so that what else the machine does counts little.
-- The short form looks at all but the times, and takes a few seconds.  Exits with 1 if a promise
-- does not hold.
-- What this is not: what becomes of the slow peers themselves (slow_senders_spec.lua).
local child = require "spec.scenarios.child"
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local IS_SHORT <const> = arg[1] == "--short"
local GIVEN <const> = IS_SHORT and { "200", "1", "0.3" } or arg
local PEERS <const> = tonumber(GIVEN[1]) or 1000
local ROUNDS <const> = tonumber(GIVEN[2]) or 5
local SECONDS <const> = tonumber(GIVEN[3]) or 1

local MOST_RATIO <const> = 2 -- of the others' p99
local HANDSHAKES <const> = 256 -- at once

local LOAD <const> = assert(package.searchpath("lunewire.core", package.cpath))
  :gsub("lunewire/core%.so$", "bench/load")

-- Echoes; what a slow peer has begun it awaits.
local SERVER <const> = [[
local way, tls = arg[2], arg[3] and { cert = arg[3], key = arg[4] }
local server = assert(wire.serve("127.0.0.1:0", { tls = tls, backlog = 2000 }, function(conn)
  conn:set_timeout(3600)
  if way == "lines" then
    for line in conn:lines { keep = true } do conn:send(line) end
  else
    for pkg in conn:pkgs() do conn:send_pkg(pkg) end
  end
end))
function commands.memory()
  local total, file <close> = 0, assert(io.open "/proc/self/smaps_rollup")
  for kib in file:read "a":gmatch "Private_%a+:%s*(%d+) kB" do total = total + kib end
  return total
end
function commands.conns() return server:conn_num() end
ready(server:port())
wire.run()
]]

-- Each of them says a byte each second, at a time of its own.  Who is thrown out comes again, a
-- second later.
local CROWD <const> = [[
local address, way, peers = "127.0.0.1:" .. arg[2], arg[3], tonumber(arg[4])
local BEGIN = { lines = "GET / HTTP/1.1", frames = "\255\255x", handshakes = "\22\3\1\2\0\1" }
local began = 0

local function slow()
  local conn <close> = assert(wire.connect(address, 60))
  assert(conn:send(BEGIN[way]))
  began = began + 1
  wire.sleep(math.random())
  while conn:try_send "x" and conn:recv(1, 1) == nil and not conn:closed() do
    if select(3, conn:recv_now()) then break end
  end
end

for _ = 1, peers do
  wire.spawn(function()
    while true do
      pcall(slow)
      wire.sleep(1)
    end
  end)
end
function commands.began()
  while began < peers do wire.sleep(0.01) end
  return began
end
ready()
wire.run()
]]

-- there: how many of the slow peers the server has at once; each may take `most` bytes of it.
local WAYS <const> = {
  { name = "lines", mode = "line", there = PEERS, most = 8 * 1024 },
  { name = "frames", mode = "length", there = PEERS, most = 8 * 1024 },
  { name = "handshakes", mode = "tls", tls = true, there = math.min(PEERS, HANDSHAKES),
    most = (64 + 49) * 1024 }, -- with the session
}

local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

local function tell(name, value, unit)
  print(("%s " .. (value < 1000 and "%.4g" or "%.0f") .. " %s"):format(name, value, unit))
end

local all_good = true

local function check(holds, what, ...)
  if holds then return end
  all_good = false
  print("FAILED: " .. what:format(...))
end

-- -> the 99th hundredth of the round trips of clients that behave, in µs; round trips a second
local function load(mode, port)
  local command = "env -u BENCH_CERT %s %s 127.0.0.1 %s --conns 16 --size 64 --seconds %g"
  local output, status = support.peer(command:format(LOAD, mode, port, SECONDS), 60):output()
  assert(status == 0, output)
  return tonumber(output:match "p99_us=(%S+)"), tonumber(output:match "total=(%d+)") / SECONDS
end

local function judge(way, ratio, memory)
  check(IS_SHORT or ratio < MOST_RATIO, "slow-%s: the others' p99 is %.2f times what it was",
    way.name, ratio)
  check(memory < way.most, "slow-%s: the server holds %.0f bytes for each", way.name, memory)
end

-- Who says a byte each second is there while the others are measured.
local function check_crowd(way, server)
  local conns = tonumber(server:ask "conns")
  check(conns >= way.there, "slow-%s: %d of %d slow peers are there", way.name, conns, way.there)
end

local function measure(way)
  local tls = way.tls and pki.server() or {}
  local server, port = child.start(SERVER, way.name, tls.cert, tls.key)
  local alone, beside, ratios, rates, memory = {}, {}, {}, {}, {}
  load(way.mode, port)
  for i = 1, ROUNDS do
    local before = tonumber(server:ask "memory")
    local p99, rate = load(way.mode, port)
    local crowd = child.start(CROWD, port, way.name, PEERS)
    crowd:ask "began"
    wire.sleep(1)
    memory[i] = (tonumber(server:ask "memory") - before) * 1024 / way.there
    alone[i], beside[i], rates[i] = p99, load(way.mode, port)
    ratios[i], rates[i] = beside[i] / p99, rates[i] / rate
    check(rates[i] > 0, "slow-%s: the others are not served", way.name)
    check_crowd(way, server)
    crowd:stop()
    if i < ROUNDS then wire.sleep(1) end
  end
  server:stop()
  local name = "slow-" .. way.name
  tell(name .. "-p99-alone", median(alone), "us")
  tell(name .. "-p99-beside", median(beside), "us")
  local ratio, most = median(ratios), math.max(table.unpack(memory))
  tell(name .. "-p99-ratio", ratio, "x")
  tell(name .. "-rate-ratio", median(rates), "x")
  tell(name .. "-memory-each", most, "bytes")
  judge(way, ratio, most)
end

io.stdout:setvbuf "line"
tell("slow-peers", PEERS, "connections")
wire.run(function()
  for _, way in ipairs(WAYS) do measure(way) end
end)
os.exit(all_good, true)
