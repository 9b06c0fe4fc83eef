-- Scripts in a process of their own that answer questions over a control connection.
-- What this is not: a test.
local support = require "spec.support"
local wire = require "lunewire"

local child = {}

-- Stands before the script, which has `wire`; `commands`, its own: name = function(argument) ->
-- answer; and ready(...), to be called once, when it is.  It ends with the control connection.
local PRELUDE <const> = [[
local wire = require "lunewire"
local commands, ready = {}, nil
do
  local control = assert(wire.connect("127.0.0.1:" .. arg[1]))
  wire.spawn(function()
    for line in control:lines() do
      local name, argument = line:match "^(%S+)%s*(.*)$"
      control:send(commands[name](argument), "\n")
    end
    os.exit(0, true)
  end)
  function ready(...) control:send(table.concat({ ... }, " "), "\n") end
end
]]

local Child = {}
Child.__index = Child

-- Starts a script by `run(text, port, ...)` -> Child, what it gave to ready().
function child.start_by(run, script, ...)
  local control <close> = assert(wire.listen "127.0.0.1:0")
  local self = setmetatable({ peer = run(PRELUDE .. script, control:port(), ...) }, Child)
  self.conn = assert(control:accept(10 * support.slowness))
  return self, assert(self.conn:recv_line(20 * support.slowness))
end

-- The script finds the further arguments from arg[2] on.
function child.start(script, ...) return child.start_by(support.lua, script, ...) end

-- Runs a command of the script's -> its answer.
function Child:ask(...)
  assert(self.conn:send(table.concat({ ... }, " "), "\n"))
  return assert(self.conn:recv_line { timeout = 20 * support.slowness, max = 1 << 24 })
end

-- Ends the process -> what it printed, which should be nothing, and its status.
function Child:stop()
  self.conn:close()
  return self.peer:output()
end

return child
