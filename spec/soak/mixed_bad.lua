-- Clients of the mixed soak that misbehave: reset, vanish, are slow, send what is none of the
-- protocol, do not read, give up.
-- What this is not: a judge; whatever the servers do to these is right, as long as they live and
-- nothing is left (and the clients of mixed_good.lua notice nothing).
local traffic = require "spec.soak.traffic"
local ways = require "spec.soak.mixed_ways"
local wire = require "lunewire"

local mixed_bad = {}

local AT_ONCE <const> = 16
local SOON <const> = 0.02 -- seconds

local sessions = {}

local function any_service(world)
  local names = {}
  for name in pairs(world.addresses) do
    if name ~= "udp" and name ~= "log" then names[#names + 1] = name end
  end
  table.sort(names)
  return world.addresses[names[math.random(#names)]]
end

-- Without TLS, also where the server expects it.
local function dial(world, address)
  return ways.must(wire.connect(address or any_service(world), ways.PATIENCE))
end

-- The beginning of a good message, of some framing.
local function beginning()
  local all = ("%s"):format(traffic.bytes(math.random(1, 60)))
  local kind = math.random(5)
  if kind == 1 then return (">I2"):pack(300) .. all end
  if kind == 2 then return "100:" .. all end
  if kind == 3 then return "\xCA\xFE\1\0" .. (">I4"):pack(1000) .. all end
  if kind == 4 then return "\22\3\1\2\0\1\0\1\xFC\3\3" .. all end -- of a ClientHello
  return all
end

-- Resets before it has said anything, or in the middle of it.
sessions[#sessions + 1] = function(world)
  local conn = dial(world)
  if math.random(2) == 1 then conn:send(beginning()) end
  if math.random(2) == 1 then conn:recv(1, SOON) end
  conn:reset()
end

-- Is forgotten.
sessions[#sessions + 1] = function(world)
  local conn = dial(world)
  conn:send(beginning())
  conn = nil -- luacheck: ignore
  if math.random(4) == 1 then collectgarbage() end
end

-- Junk, and perhaps an end behind it.
sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world)
  conn:send(traffic.bytes(math.random(1, 5000)))
  if math.random(2) == 1 then conn:close_write() end
  conn:recv(1, SOON)
end

-- A byte now and then.
sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world)
  for byte in beginning():sub(1, 12):gmatch "." do
    if not conn:send(byte) then break end
    wire.sleep(0.001)
  end
  if math.random(2) == 1 then conn:reset() end
end

-- Reads nothing of what comes back.
sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, world.addresses[math.random(2) == 1 and "raw" or "forward"])
  conn:send(traffic.bytes(300000), { timeout = SOON })
  wire.sleep(SOON)
  conn:reset()
end

-- Announces more than may be.
sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, world.addresses.length)
  conn:send(("<I4"):pack(0x7FFFFFFF), "x")
  conn:recv(1, 1)
end

-- A handshake with somebody whom this side does not trust, or that is given up.
sessions[#sessions + 1] = function(world)
  local name = traffic.names[math.random(#traffic.names)]
  local tls = math.random(2) == 1 and true or world.tls
  local conn = wire.connect(world.addresses[name .. ".tls"], { tls = tls,
    timeout = math.random(2) == 1 and ways.PATIENCE or math.random() * 0.002 })
  if conn then conn:reset() end
end

-- A whole TLS connection without close_notify behind it.
sessions[#sessions + 1] = function(world)
  local conn = wire.connect(world.addresses["raw.tls"], { tls = world.context, timeout = 1 })
  if not conn then return end
  conn:send(traffic.bytes(math.random(1, 40000)))
  conn:recv_some(math.random(1, 1000), 1)
  conn:reset()
end

-- A connect that is cancelled, or has no time.
sessions[#sessions + 1] = function(world)
  local task = wire.spawn(function()
    local conn = wire.connect(any_service(world), math.random(2) == 1 and 0 or ways.PATIENCE)
    if conn then conn:close() end
  end)
  if math.random(2) == 1 then wire.sleep(0) end
  task:cancel()
  task:join()
end

-- Datagrams of every size, and some to where nobody is.
sessions[#sessions + 1] = function(world)
  local udp <close> = assert(wire.udp "127.0.0.1:0")
  for _ = 1, 5 do
    udp:send_to(traffic.bytes(math.random(0, 3000)), world.addresses.udp)
    udp:send_to("nobody", world.nobody)
  end
  udp:recv_from(SOON)
end

-- n sessions of each kind -> {sessions=, cut=}
function mixed_bad.play(seed, n, world)
  world.cycles = true -- a refused connection is what such a client earns
  local sums = ways.play(sessions, seed, n, world, AT_ONCE)
  collectgarbage() -- the servers need not wait for those that were forgotten
  return sums
end

return mixed_bad
