-- What this process holds: bytes, descriptors, objects of the core.
-- What this is not: a judgement; slope.lua and the rows have the bounds.
local core = require "lunewire.core"
local heap = require "soak.heap"
local lfs = require "lfs"
local wire = require "lunewire"

local gauge = {}

local SPARES <const> = 100 -- pieces, and more than there are

local PATIENCE <const> = 30 -- seconds for what is closing; a lingering close takes 2

-- Finalizers close what others then free.
local function collect()
  for _ = 1, 3 do collectgarbage() end
end

-- The loop keeps memory of long messages for the next ones, up to 2 MB of it, and how much it is at
-- the moment says nothing.  Connections take it for what they send; a reset before the loop turns
-- frees it.
local function drop_spares()
  wire.sleep(0) -- so many calls have a turn for themselves
  local ends = {}
  for i = 1, 2 * SPARES, 2 do
    ends[i], ends[i + 1] = wire.pipe()
    ends[i]:send "x"
  end
  for _, conn in ipairs(ends) do conn:reset() end
  wire.sleep(0.01) -- pipes end in a later turn
end

function gauge.descriptors()
  local n = 0
  for _ in lfs.dir "/proc/self/fd" do n = n + 1 end
  return n
end

-- The resident bytes of this process, after malloc gave back what it could.
function gauge.resident()
  collect()
  heap.trim()
  local file <close> = assert(io.open "/proc/self/smaps_rollup")
  return tonumber(file:read("a"):match "Rss:%s*(%d+) kB") * 1024
end

gauge.census = core.census

-- A text that says what there is beyond `base`, or less than it; nil if nothing.
local function difference(base)
  local list = {}
  for name, count in pairs(core.census()) do
    if count ~= base[name] then list[#list + 1] = ("%+d %s"):format(count - base[name], name) end
  end
  table.sort(list)
  return list[1] and table.concat(list, ", ")
end

-- Lets the loop turn until the core has what it had at `base`, a census -> nil, or what differs
-- all the same.
function gauge.settle(base)
  local limit = wire.now() + PATIENCE
  collect()
  while difference(base) and wire.now() < limit do
    wire.sleep(0.01)
    collect()
  end
  return difference(base)
end

-- Bytes in use: {lua= what Lua counts, heap= all of malloc's, Lua's among them}.
function gauge.bytes()
  drop_spares()
  collect()
  return { lua = collectgarbage "count" * 1024, heap = heap.in_use() }
end

-- Settles, and measures -> as bytes(), with descriptors= and rest= (what did not settle) or nil.
function gauge.read(base)
  local rest = gauge.settle(base)
  local descriptors = gauge.descriptors()
  local read = gauge.bytes()
  read.rest, read.descriptors = rest, descriptors
  return read
end

-- The collector of this process: "incremental" or "generational".
function gauge.collector(mode) return collectgarbage(mode) end

return gauge
