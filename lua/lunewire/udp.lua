-- Datagram sockets as scripts ask for them, and serving them: which task handles which datagram.
-- What this is not: the socket itself and its methods (csrc/lua/ludp.c).
local core = require "lunewire.core"
local names = require "lunewire.names"
local to_handler = require "lunewire.handler"

local udp = {}

local PAUSE <const> = 0.01 -- seconds after a receive that failed: it may fail again
local LOOK <const> = 0.01

local function open(addr, opts, serving)
  local numeric, message, code = names.to_numeric(addr, 4)
  if not numeric then return nil, message, code end
  local socket, workers, drain_timeout = -- no tail call: the level counts this function
    names.protected(3, core.udp, numeric, opts, serving)
  return socket, workers, drain_timeout
end

local function is_options(value)
  return type(value) == "table" and value.host == nil and value.port == nil
end

--- Opens a socket for datagrams (UDP).
-- The system keeps what comes until it is received, in a queue of limited size; what has no room
-- there it drops, and `Udp:stats` counts that. Two options make room for more: `recv_buffer`, and
-- `queue` for datagrams that are read ahead while nobody receives.
-- @function wire.udp
-- @tparam[opt=":0"] string|table addr where to bind, as of `listen`: ":port" is all interfaces,
--   IPv4 and IPv6; with port 0 the system chooses one
-- @tparam[opt] table|number opts `timeout` (none; of each call), `max` (65535: the longest datagram
--   that is received whole), `queue` (0: datagrams read ahead), `recv_buffer`, `send_buffer`
--   (bytes of the system's queues), `broadcast` (false), `ipv6_only`, `reuse_addr`, `reuse_port`
-- @treturn Udp
-- @codes EADDRINUSE, EADDRNOTAVAIL, EACCES, EINVAL, ENOTFOUND, EMFILE
-- @waits for the name only
-- @follows net.ListenPacket of Go
function udp.open(addr, opts)
  if opts == nil and is_options(addr) then addr, opts = nil, addr end
  if addr == nil then addr = ":0" end
  local socket, message, code = open(addr, opts, false)
  return socket, message, code
end

-- ---- workers -------------------------------------------------------------------------
-- A worker is a task that receives a datagram, handles it, and receives the next. One is there
-- from the beginning; while all are busy another one is started, up to the limit. With one the
-- datagrams are handled in order.

-- All that there are, as keys; a worker that waits keeps its own alive.  Not by socket: one that is
-- collected would stay a key until the collection after.
local services = setmetatable({}, { __mode = "k" })

local Worker = {}

local work

local function start_worker(service)
  local worker = setmetatable({ service = service, idle = false, done = false }, Worker)
  core.work(service.socket, work, worker)
  service.count = service.count + 1
end

-- One that died of a handler's error is replaced; when none is left the socket is closed.
function Worker.__close(worker)
  local service = worker.service
  service.count = service.count - 1
  if worker.idle then service.idle = service.idle - 1 end
  local goes_on = not worker.done and not service.socket:closed()
  if goes_on then pcall(start_worker, service) end
end

local function receive(worker)
  local service = worker.service
  worker.idle = true
  service.idle = service.idle + 1
  local data, from, truncated = service.socket:recv_from(math.huge)
  worker.idle = false
  service.idle = service.idle - 1
  return data, from, truncated
end

local function handle(service, data, from, truncated)
  if service.idle == 0 and service.count < service.limit then start_worker(service) end
  service.handler(data, from, service.socket, truncated)
end

function work(worker)
  local _ <close> = worker
  while not worker.done do
    local data, from, truncated = receive(worker)
    local code = not data and truncated
    if data then
      handle(worker.service, data, from, truncated)
    elseif code == "ECLOSED" or code == "ETIMEDOUT" then
      worker.done = true
    else
      core.sleep(PAUSE) -- what an earlier datagram met with, or no memory
    end
  end
end

-- ---- serving -------------------------------------------------------------------------

--- Serves each datagram that comes to an address by a handler.
-- In order by default: a handler that waits delays the next datagram, which stays in the
-- socket's queue meanwhile (see `wire.udp` for its size). With `workers` that many handlers run at
-- once. An error in a handler goes to `on_error`, and the next datagram is served. The socket keeps
-- `wire.run` going until it is closed. At SIGINT and SIGTERM what had come is still served, for
-- `drain_timeout` seconds at most, then it is closed.
-- @function wire.serve_udp
-- @tparam string|table addr as of `udp`
-- @tparam[opt] table opts `workers` (1: how many handlers run at once), `drain_timeout` (10,
--   seconds), and those of `udp`
-- @tparam function handler `handler(data, from, udp, truncated)`, in a task: the results of
--   `Udp:recv_from` and the socket; something callable; or {object, "method"}
-- @treturn Udp that is served already
-- @codes as of `udp`
-- @waits for the name only
function udp.serve(addr, opts, handler)
  if handler == nil then opts, handler = nil, opts end
  handler = to_handler(handler, "serve_udp", 2)
  local socket, workers, drain_timeout = open(addr, opts, true)
  if not socket then return nil, workers, drain_timeout end -- nil, message, code
  local service = { socket = socket, handler = handler, limit = workers,
    drain_timeout = drain_timeout, count = 0, idle = 0 }
  services[service] = true
  start_worker(service)
  return socket
end

-- ---- the end of wire.run -------------------------------------------------------------

-- A deadline that has passed: what is there is still received, and nothing is awaited.
local function drain(service)
  local limit = core.now() + service.drain_timeout
  service.socket:set_recv_deadline(core.now())
  while not service.socket:closed() and core.now() < limit do core.sleep(LOOK) end
  service.socket:close()
end

-- Ends the serving of all sockets, each in a task of its own -> the tasks.
function udp.drain_all()
  local tasks = {}
  for service in pairs(services) do tasks[#tasks + 1] = core.spawn(drain, service) end
  return tasks
end

return udp
