-- Servers in a process of their own whose memory is measured to the byte: what the library, OpenSSL
-- and the system's library hold, without Lua's own.
-- What this is not: a test.  Where each block is observed nothing can be measured: heap.possible is
-- false then, and the figures are 0.
local child = require "spec.scenarios.child"
local support = require "spec.support"

local heap = {}

-- Under a sanitizer or valgrind the observer has malloc's place.
heap.possible = support.slowness == 1

-- Built with the tests, beside the library.
local function module()
  return assert(package.searchpath("scenarios.heap", package.cpath))
end

-- "mark" begins the most anew.
local PRELUDE <const> = [[
local measured, heap = pcall(require, "heap")
if not measured then
  local function nothing() return 0 end
  heap = { held = nothing, peak = nothing, mark = nothing }
end
function commands.held()
  collectgarbage()
  collectgarbage()
  return heap.held() .. " " .. heap.peak()
end
function commands.mark()
  local answer = commands.held()
  heap.mark()
  return answer
end
]]

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function run(text, ...)
  local so, name = module(), os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(text))
  local words = { "LD_PRELOAD=" .. so, "LUA_PATH=" .. quote(package.path),
    "LUA_CPATH=" .. quote(so:gsub("heap%.so$", "?.so;") .. package.cpath), "exec lua5.4", name }
  for _, argument in ipairs { ... } do words[#words + 1] = quote(tostring(argument)) end
  local peer = support.peer(table.concat(words, " "), 60)
  peer.file = name
  return peer
end

-- As child.start, for a script that may be asked what it holds.
function heap.start(script, ...)
  return child.start_by(heap.possible and run or support.lua, PRELUDE .. script, ...)
end

-- -> bytes held now, the most since the last mark
function heap.held(process)
  local held, peak = process:ask("held"):match "^(%d+) (%d+)$"
  return tonumber(held), tonumber(peak)
end

-- From here on the most is counted anew -> bytes held now
function heap.mark(process)
  process:ask "held" -- what this very exchange needs is there
  return tonumber(process:ask("mark"):match "^%d+")
end

-- Ends a process whose script has a command "close", for all that it holds of its peers.
-- before: what it held -> how much more that was at most, and still is when all is closed
function heap.finish(process, before)
  local _, most = heap.held(process)
  process:ask "close"
  local kept = heap.held(process)
  local output, status = process:stop()
  assert(output == "" and status == 0, output)
  return most - before, kept - before
end

return heap
