-- Free TCP ports.
-- What this is not: a promise; between the answer and its use a port belongs to nobody.
local core = require "lunewire.core"

local ports = {}

local Held = {
  __close = function(servers)
    for _, server in ipairs(servers) do
      if server then server:close() end
    end
  end,
}

-- Room for all is made before the first one is held, so that nothing is lost if memory runs out.
local function slots(n)
  local list = {}
  for i = 1, n do list[i] = false end
  return list
end

--- Finds free TCP ports: free on all interfaces, IPv4 and IPv6, and distinct.
-- All of them are held until all are chosen, then released. The system chooses, and it may
-- choose the same ports at the next call. Who can listen on port 0 and read the port back
-- (`server:port()`) needs none of this, and no other program can come in between.
-- @function wire.free_port
-- @tparam[opt=1] integer n how many
-- @treturn integer port, followed by the others
-- @codes EMFILE and others of `listen`
-- @waits never
-- @raise for what is no whole number from 1 to 65535
function ports.free_port(n)
  n = n == nil and 1 or n
  if math.type(n) ~= "integer" or n < 1 or n > 65535 then
    error(("free_port: a count from 1 to 65535 is expected, not %s"):format(n), 2)
  end
  local held <close> = setmetatable(slots(n), Held)
  local list = slots(n)
  for i = 1, n do
    local server, message, code = core.listen ":0"
    if not server then return nil, "free_port: " .. message, code end
    held[i] = server
    list[i] = server:port()
  end
  return table.unpack(list)
end

return ports
