-- Servers in a process of their own whose memory is measured to the byte: what the library, OpenSSL
-- and the system's library hold, without Lua's own.
-- What this is not: a test, or of use where every block is observed (heap.possible is false then).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"

local heap = {}

-- Under a sanitizer or valgrind the observer has malloc's place.
heap.possible = support.slowness == 1

local COMPILE <const> = "cc -O1 -shared -fPIC -Wall -Wextra -D_GNU_SOURCE $(pkg-config --cflags lua5.4) "
  .. "-o %s spec/scenarios/heap.c"

-- The module, which goes with the other scratch files.
local function module()
  local name = pki.scratch "heap.so"
  if not io.open(name) then assert(os.execute(COMPILE:format(name))) end
  return name
end

-- Before the script: `wire`, `heap`, and the control connection, which answers each line with what
-- is held and the most that was at once; "mark" begins the latter anew.
local PRELUDE <const> = [[
local wire, heap = require "lunewire", require "heap"
local commands = {} -- of the script's own: name = function(argument) -> answer
do
  local control = assert(wire.connect("127.0.0.1:" .. arg[1]))
  wire.spawn(function()
    for line in control:lines() do
      collectgarbage()
      collectgarbage()
      local name, argument = line:match "^(%S+)%s*(.*)$"
      local answer = commands[name] and commands[name](argument)
      if name == "mark" then heap.mark() end
      control:send(answer or heap.held() .. " " .. heap.peak(), "\n")
    end
    os.exit(0, true)
  end)
  function ready(...) control:send(table.concat({ ... }, " "), "\n") end
end
]]

local Measured = {}
Measured.__index = Measured

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Starts a script, which says ready(...) once -> the measured process, what it said (a string).
function heap.start(script, ...)
  local control <close> = assert(wire.listen "127.0.0.1:0")
  local so, name = module(), os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(PRELUDE, script))
  file:close()
  local words = { "LD_PRELOAD=" .. so, "LUA_PATH=" .. quote(package.path),
    "LUA_CPATH=" .. quote(so:gsub("heap%.so$", "?.so;") .. package.cpath),
    "exec lua5.4", name, control:port() }
  for _, argument in ipairs { ... } do words[#words + 1] = quote(tostring(argument)) end
  local self = setmetatable({ peer = support.peer(table.concat(words, " "), 60) }, Measured)
  self.conn = assert(control:accept(10))
  self.said = assert(self.conn:recv_line(10))
  os.remove(name)
  return self, self.said
end

-- Runs a command of the script's -> its answer.
function Measured:ask(...)
  assert(self.conn:send(table.concat({ ... }, " "), "\n"))
  return assert(self.conn:recv_line(20))
end

-- -> bytes held now, the most since the last mark
function Measured:held(command)
  local held, peak = self:ask(command or "held"):match "^(%d+) (%d+)$"
  return tonumber(held), tonumber(peak)
end

-- From here on the most is counted anew -> bytes held now
function Measured:mark()
  self:held "held" -- what this very exchange needs is there
  return (self:held "mark")
end

-- Ends the process -> what it printed, which should be nothing, and its status.
function Measured:stop()
  self.conn:close()
  return self.peer:output()
end

return heap
