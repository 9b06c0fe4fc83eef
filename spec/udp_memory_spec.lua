-- What a datagram socket may hold while it is flooded, measured to the byte in a process of its
-- own: the datagrams that it reads ahead (option queue), the one in the loop's page, nothing else.
-- What this is not: what the system keeps for it, and drops (udp_net_spec); a stream (memory_spec).
local heap = require "spec.scenarios.heap"
local support = require "spec.support"
local wire = require "lunewire"

local KIB <const> = 1024

local SERVER <const> = [[
local way, opts = arg[2], { queue = tonumber(arg[3]), max = tonumber(arg[4]) }
local never = wire.channel()
local ways = {
  nobody = function() return wire.udp("127.0.0.1:0", opts) end,
  receiver = function()
    local udp = wire.udp("127.0.0.1:0", opts)
    wire.spawn(function() while udp:recv() do end end)
    return udp
  end,
  ["workers that wait"] = function()
    opts.workers = 4
    return wire.serve_udp("127.0.0.1:0", opts, function() never:recv() end)
  end,
}
local udp = assert(ways[way]())
function commands.queued() return udp:stats().queued end
function commands.seen() return udp:stats().datagrams_in + udp:stats().drops end
function commands.close()
  udp:close()
  never:close()
  return ""
end
ready((udp:local_addr()))
wire.run()
]]

local FLOODS <const> = { { bytes = 60000, count = 300 }, { bytes = 1, count = 600 },
  { bytes = 0, count = 300 } }

-- The server answers after every third, so the system need not drop many of them.
local function flood(server, udp, to, how)
  local data = ("x"):rep(how.bytes)
  for i = 1, how.count do
    assert(udp:send_to(data, to, 5 * support.slowness))
    if i % 3 == 0 then server:ask "seen" end
  end
end

-- -> the most that the process held because of the flood, what of that it holds when all is closed
local function most_held(way, queue, max, how)
  local server, to = heap.start(SERVER, way, queue, max)
  local udp <close> = assert(wire.udp "127.0.0.1:0")
  assert(udp:send_to("the first makes the page", to))
  local before = heap.mark(server)
  flood(server, udp, to, how)
  local took = way ~= "nobody" -- what was received makes room in the queue
  support.eventually(function()
    if way == "receiver" then return tonumber(server:ask "seen") >= how.count end
    return tonumber(server:ask "queued") >= (took and math.max(0, queue - 4) or queue)
  end)
  return heap.finish(server, before)
end

local EACH <const> = 256 -- beside its bytes
local PAGE <const> = 66 * KIB

describe("udp: a flooded socket holds what it may read ahead, and one datagram", function()
  for _, way in ipairs { "nobody", "receiver", "workers that wait" } do
    for _, queue in ipairs { 0, 50 } do
      support.it(("before %s, with a queue of %d"):format(way, queue), function()
        for _, how in ipairs(FLOODS) do
          for _, max in ipairs { 65535, 1000 } do
            local most, kept = most_held(way, queue, max, how)
            local each = math.min(how.bytes, max)
            assert.is_true(most <= queue * (each + EACH) + PAGE, most)
            assert.is_true(kept <= PAGE, kept)
            if heap.possible and way ~= "receiver" then
              assert.is_true(most >= (queue - 4) * each, most)
            end
          end
        end
      end, 60)
    end
  end
end)
