-- What an idle connection costs a server in memory of its process.
--
--   idle.lua pid port [heap_port]
--
-- Opens connections to the server, lets each echo one package, leaves them idle, and compares
-- the process at 1,000 of them with the process at 8,000.  Prints bytes for each connection:
-- resident, proportional (pages shared with others counted in part), and, where the server tells,
-- those of its Lua heap.
-- What this is not: the kernel's part of a connection, which is the same for every server.
local wire = require "lunewire"

local FEW <const>, MANY <const> = 1000, 8000
local PATIENCE <const> = 10 -- seconds for an answer

local pid, port, heap_port = arg[1], arg[2], arg[3]
local conns = {}

local function open(count)
  for i = #conns + 1, count do
    local conn = assert(wire.connect("127.0.0.1:" .. port, PATIENCE))
    assert(conn:send_recv_pkg("hello", PATIENCE) == "hello")
    conns[i] = conn
  end
end

-- Collects the server's garbage too, so it comes before its pages are counted.
local function heap_bytes()
  if not heap_port then return nil end
  local conn <close> = assert(wire.connect("127.0.0.1:" .. heap_port, PATIENCE))
  return assert(tonumber(assert(conn:recv_line(PATIENCE))))
end

local function process()
  local heap = heap_bytes()
  local file <close> = assert(io.open("/proc/" .. pid .. "/smaps_rollup"))
  local text = file:read "a"
  local function bytes(name) return assert(tonumber(text:match(name .. ":%s*(%d+) kB"))) * 1024 end
  return { rss = bytes "Rss", pss = bytes "Pss", heap = heap }
end

open(FEW)
local few = process()
open(MANY)
local many = process()

local function each(name)
  if not few[name] then return "-" end
  return ("%.0f"):format((many[name] - few[name]) / (MANY - FEW))
end

print(("rss=%s pss=%s heap=%s"):format(each "rss", each "pss", each "heap"))
