-- A process of a soak: does what it is told over one connection, until that ends.
--
--   worker.lua PORT NAME    of 127.0.0.1; the other end is in process.lua; NAME: for messages
--
-- What this is not: any work; a call names a module and a function of it, which has it.
local literal = require "spec.soak.literal"
local wire = require "lunewire"

local LONG <const> = { header = 4, max = 1 << 24 }

local PLANNED <const> = "planned error" -- which some handler or task is to die of

-- Errors of tasks that nobody joins fail the next call, or the one that is under way.
local uncaught

local function note_error(err, traceback)
  if tostring(err):find(PLANNED, 1, true) then return end
  uncaught = uncaught or traceback or tostring(err)
  io.stderr:write(arg[2], ": ", traceback or tostring(err), "\n")
end

local function describe(err) return debug.traceback(tostring(err)) end

local function call(request)
  local function run(...) return require(request.module)[request.name](...) end
  local ok, result = xpcall(run, describe, table.unpack(request, 1, request.n))
  local failure = uncaught
  uncaught = nil
  if not ok or failure then return { failure = ok and failure or result } end
  return { result = result }
end

local function pid()
  local stat <close> = assert(io.open "/proc/self/stat")
  return stat:read "n"
end

wire.on_error(note_error)
wire.run(function()
  local control <close> = assert(wire.connect("127.0.0.1:" .. arg[1]))
  control:send_pkg(literal.dump { pid = pid() }, LONG)
  for request in control:pkgs(LONG) do
    control:send_pkg(literal.dump(call(literal.load(request))), LONG)
  end
end)
