--- lunewire: networking for Lua 5.4 in straight, blocking style.
-- The public face: what the C core offers, under the names and habits that scripts use.
-- @module lunewire

local core = require "lunewire.core"

local wire = {
  CANCELED = core.CANCELED,
  adopt = core.adopt,
  after = core.after,
  co = core.co,
  connect = core.connect,
  every = core.every,
  framing = core.framing,
  now = core.now,
  on_error = core.on_error,
  pipe = core.pipe,
  resolve = core.resolve,
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

-- Calls into the core for a function of ours: misuse is the user's, so the error names the
-- line that called us (`level` functions up), not one in here.
local function protected(level, f, ...)
  local results = table.pack(pcall(f, ...))
  if not results[1] then error(results[2], level + 1) end
  return table.unpack(results, 2, results.n)
end

-- A name stands for the first of its addresses; what is no address is left for the core to
-- refuse.
local function to_numeric(addr)
  local host, port, numeric = protected(3, core.split_address, addr)
  if host == nil or numeric then return addr end
  local list, message, code = core.resolve(host)
  if not list then return nil, message, code end
  return { host = list[1], port = port }
end

local function listen(addr, opts, handler)
  local numeric, message, code = to_numeric(addr)
  if not numeric then return nil, message, code end
  local server -- no tail call: the level counts this function
  server, message, code = protected(2, core.listen, numeric, opts, handler)
  return server, message, code
end

--- Listens for connections that are taken by `server:accept()`.
-- A host name is resolved first, which may wait.
-- @param addr where to listen: "host:port", ":port" for all interfaces, IPv4 and IPv6, or
--   {host=, port=}; port 0 asks the system for a free one
-- @param[opt] opts backlog (511), reuse_port, ipv6_only, nodelay (true), keepalive (true),
--   framing, limits, timeout (seconds, of each receive and send)
-- @return a Server; or nil, message, code
function wire.listen(addr, opts) return listen(addr, opts) end

--- Serves each connection to an address by a handler in a task of its own.
-- The connection is closed when the handler returns; an error in it ends that connection
-- alone and goes to `on_error`.
-- @param addr as of `listen`
-- @param[opt] opts as of `listen`
-- @param handler `function(conn, server)`
-- @return a Server that is accepting already; or nil, message, code
function wire.serve(addr, opts, handler)
  if handler == nil then opts, handler = nil, opts end
  return listen(addr, opts, to_handler(handler))
end

return wire
