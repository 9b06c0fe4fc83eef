-- Starts processes of a soak and has them do things.
-- What this is not: what they do (worker.lua, and the modules that it is told).
local literal = require "spec.soak.literal"
local wire = require "lunewire"

local LONG <const> = { header = 4, max = 1 << 24 }
local START_SECONDS <const> = 60

-- As many descriptors as may be; and malloc's caches would hide what was freed.
local COMMAND <const> = [[ulimit -n "$(ulimit -Hn)" 2>/dev/null
GLIBC_TUNABLES=glibc.malloc.tcache_count=0 LUA_PATH=%s LUA_CPATH=%s \
  exec lua5.4 spec/soak/worker.lua %d %s]]

local Process = { __name = "soak process" }
Process.__index = Process

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- name: for messages.
local function start(name)
  local listener <close> = assert(wire.listen "127.0.0.1:0")
  local self = setmetatable({ name = name }, Process)
  self.shell = assert(io.popen(COMMAND:format(quote(package.path), quote(package.cpath),
    listener:port(), quote(name)), "w"))
  self.control = assert(listener:accept(START_SECONDS))
  self.pid = literal.load(assert(self.control:recv_pkg { header = 4, timeout = START_SECONDS })).pid
  return self
end

-- Has it call a function of a module -> its result, the first one.  Raises what it raises.
function Process:call(module, name, ...)
  local request = { module = module, name = name, n = select("#", ...), ... }
  assert(self.control:send_pkg(literal.dump(request), LONG))
  local reply, message = self.control:recv_pkg(LONG)
  if not reply then error(("the %s is gone: %s"):format(self.name, message), 0) end
  local answer = literal.load(reply)
  if answer.failure then error(("the %s: %s"):format(self.name, answer.failure), 0) end
  return answer.result
end

-- Ends it when it has heard all, or, behind a failure, at once.
function Process:stop(failure)
  if not self.shell then return end
  if failure == nil then
    self.control:close_write()
    self.control:recv(1, START_SECONDS) -- its end
  else
    os.execute(("kill -KILL %d 2>/dev/null"):format(self.pid))
  end
  self.control:reset()
  self.shell:close()
  self.shell = nil
end

Process.__close = Process.stop

return { start = start }
