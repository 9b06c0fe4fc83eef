-- The echo server that is measured: packages come in, the same packages go out, as any script
-- would write it.  Serves until it is killed.
--
--   echo.lua [generational]     generational garbage collection; otherwise Lua's default
--
-- Prints two ports: that of the service, and one where a connection is told the bytes that Lua's
-- heap holds after a collection, on a line.
-- What this is not: tuned; what it leaves out is what a user would leave out.
local wire = require "lunewire"

if arg[1] == "generational" then collectgarbage "generational" end

local echo = assert(wire.serve("127.0.0.1:0", function(conn)
  for p in conn:pkgs() do conn:send_pkg(p) end
end))

local heap = assert(wire.serve("127.0.0.1:0", function(conn)
  collectgarbage()
  collectgarbage() -- what had a finalizer went in the first only as far as that
  conn:send(math.floor(collectgarbage "count" * 1024), "\n")
end))

io.stdout:setvbuf "line"
print(echo:port(), heap:port())
wire.run()
