-- How much a thousand slow peers cost the others: the p99 of clients that behave, with and without
-- them, and what the server holds for each.  Prints lines of "name value unit":
--
--   lua5.4 spec/scenarios/slow_peers.lua [PEERS [ROUNDS [SECONDS]]]
--
-- make slow-peers builds what it needs and runs it.  The clients are bench/load, which shares no
-- code with the library; each measurement with slow peers has one without right before it, and what
-- is told is the median of the rounds.
-- What this is not: a test; slow_senders_spec.lua is.
local child = require "spec.scenarios.child"
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local PEERS <const> = tonumber(arg[1]) or 1000
local ROUNDS <const> = tonumber(arg[2]) or 5
local SECONDS <const> = tonumber(arg[3]) or 1

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

local WAYS <const> = {
  { name = "lines", mode = "line" },
  { name = "frames", mode = "length" },
  { name = "handshakes", mode = "tls", tls = true },
}

local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

local function tell(name, value, unit) print(("%s %.4g %s"):format(name, value, unit)) end

-- -> the 99th hundredth of the round trips of clients that behave, in µs; round trips a second
local function load(mode, port)
  local command = "env -u BENCH_CERT %s %s 127.0.0.1 %s --conns 16 --size 64 --seconds %g"
  local output, status = support.peer(command:format(LOAD, mode, port, SECONDS), 60):output()
  assert(status == 0, output)
  return tonumber(output:match "p99_us=(%S+)"), tonumber(output:match "total=(%d+)") / SECONDS
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
    memory[i] = (tonumber(server:ask "memory") - before) * 1024 / PEERS
    alone[i], beside[i], rates[i] = p99, load(way.mode, port)
    ratios[i], rates[i] = beside[i] / p99, rates[i] / rate
    crowd:stop()
    wire.sleep(1)
  end
  server:stop()
  local name = "slow-" .. way.name
  tell(name .. "-p99-alone", median(alone), "us")
  tell(name .. "-p99-beside", median(beside), "us")
  tell(name .. "-p99-ratio", median(ratios), "x")
  tell(name .. "-rate-ratio", median(rates), "x")
  tell(name .. "-memory-each", median(memory), "bytes")
end

io.stdout:setvbuf "line"
tell("slow-peers", PEERS, "connections")
wire.run(function()
  for _, way in ipairs(WAYS) do measure(way) end
end)
os.exit(0, true)
