--- lunewire: networking for Lua 5.4 in straight, blocking style.
-- The public face: what the C core offers, under the names and habits that scripts use.
-- @module lunewire

local core = require "lunewire.core"

local wire = {
  CANCELED = core.CANCELED,
  after = core.after,
  co = core.co,
  connect = core.connect,
  every = core.every,
  framing = core.framing,
  listen = core.listen,
  now = core.now,
  on_error = core.on_error,
  pipe = core.pipe,
  run = core.run,
  sleep = core.sleep,
  spawn = core.spawn,
  stop = core.stop,
}

-- A handler is a function, something callable, or {object, "method"}.
local function to_handler(handler)
  if type(handler) == "function" then return handler end
  local meta = getmetatable(handler)
  if type(meta) == "table" and meta.__call then
    return function(conn, server) return handler(conn, server) end
  end
  local object, method = nil, nil
  if type(handler) == "table" then object, method = handler[1], handler[2] end
  if object == nil or type(method) ~= "string" then
    error('serve: the handler must be a function, something callable or {object, "method"}, not '
      .. type(handler), 3)
  end
  return function(conn, server) return object[method](object, conn, server) end
end

--- Serves each connection to an address by a handler in a task of its own.
-- The connection is closed when the handler returns; an error in it ends that connection
-- alone and goes to `on_error`.
-- @param addr where to listen: "host:port", ":port" for all interfaces, or {host=, port=}
-- @param[opt] opts backlog (511), reuse_port, ipv6_only, nodelay (true), keepalive (true),
--   framing, limits, timeout (seconds, of each receive and send)
-- @param handler `function(conn, server)`
-- @return a Server that is accepting already; or nil, message, code
function wire.serve(addr, opts, handler)
  if handler == nil then opts, handler = nil, opts end
  return core.listen(addr, opts, to_handler(handler))
end

return wire
