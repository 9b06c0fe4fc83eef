-- What must hold once there is memory again: what nobody uses any more goes, and the state works.
-- What this is not: under torture itself; all allocations succeed here.
local wire = require "lunewire"
local census = require("lunewire.core").census

local recovery = {}
local PATIENCE = 4 -- seconds; closing connections linger for 2

local function leftovers()
  local list = {}
  for name, count in pairs(census()) do
    if count > 0 then list[#list + 1] = ("%d %s"):format(count, name) end
  end
  table.sort(list)
  return list[1] and table.concat(list, ", ")
end

local function collect()
  collectgarbage()
  collectgarbage()
end

-- What lives without its user is anchored in tables of the registry: servers that listen, timers
-- that are armed, tasks that serve a socket.  A body that died had no time to close them.
local ENDS = { ["lunewire.Server"] = "close", ["lunewire.Udp"] = "close",
  ["lunewire.Timer"] = "cancel", ["lunewire.Signal"] = "cancel" }

local function end_one(value)
  local metatable = type(value) == "userdata" and debug.getmetatable(value)
  local method = metatable and ENDS[metatable.__name]
  if method then value[method](value) end
end

local function end_anchored()
  for _, anchors in pairs(debug.getregistry()) do
    for _, value in pairs(type(anchors) == "table" and anchors or {}) do
      end_one(value)
      if type(value) == "userdata" then end_one(debug.getuservalue(value, 2)) end
    end
  end
end

-- Turns the loop until nothing is left, or for so many seconds.
local function settle(seconds)
  local start = wire.now()
  collect()
  while leftovers() and wire.now() - start < seconds do
    wire.run(wire.sleep, 0.001)
    collect()
  end
  return leftovers()
end

-- -> nil, or what is left all the same.
function recovery.recover()
  collect()
  end_anchored()
  return settle(PATIENCE)
end

-- An echo as if nothing had happened.
function recovery.again()
  wire.run(function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      for line in conn:lines() do conn:send(line, "\n") end
    end))
    local conn <close> = assert(wire.connect(server:addr(), { timeout = 5 }))
    assert(conn:send "once more\n")
    assert(conn:recv_line { timeout = 5 } == "once more")
  end)
end

return recovery
