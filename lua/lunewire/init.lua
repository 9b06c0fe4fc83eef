--- Networking for Lua 5.4 in straight, blocking style.
-- Calls that wait suspend the calling task, never the process; outside any task they run the loop
-- until they are done. The public face: what the C core offers, under the names that scripts use.
--
-- ## Conventions
--
-- **Time** is seconds, with a fraction; absolute times are on the clock of `wire.now()`. **Sizes**
-- are bytes.
--
-- **Addresses** are `"host:port"`, `"1.2.3.4:80"`, `"[::1]:80"`, `":80"` (listening: all
-- interfaces, IPv4 and IPv6; connecting: this host), `"unix:/path"`, `"unix:@abstract"`, or a table
-- `{host=, port=}`, whose host is only ever a name or an IP address. Port 0 asks the system for a
-- free one.
--
-- **Failures** of the world are `nil, message, code`. The message is for people and says what was
-- being done and to whom; the code is for programs. An entry without codes does not fail.
--
-- | code | meaning |
-- |---|---|
-- | `EOF` | the peer ended its side in an orderly way |
-- | `ETIMEDOUT` | a timeout or deadline of ours passed; no byte is lost |
-- | `ECLOSED` | this side closed the object, or it is shutting down |
-- | `EMSGSIZE` | a line, frame or package over its limit |
-- | `EPROTO` | bytes that the framing cannot be, or a stream whose next message is unknown |
-- | `EAGAIN` | a call that never waits would have had to |
-- | `ECONNREFUSED`, `ENOTFOUND` | nobody listens there; there is no such host |
-- | `ECONNRESET`, `EPIPE` | the peer has ended the connection, and takes nothing any more |
-- | `ECONNABORTED` | the system gave up on an established connection |
-- | `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES` | listening: taken, not of this host, not allowed |
-- | `EINVAL` | what was given is no address, or nothing that the system can do |
-- | `EMFILE`, `ENOMEM` | no descriptor or memory is left |
-- | `ETLS` | a TLS failure that is not about a certificate; a truncated stream is one |
-- | `ECERT` | this side rejected the peer's certificate, or it sent none |
-- | `EERROR` | (of `join`) the task died of a Lua error |
-- | `ECANCELED` | (of `join`) the task was cancelled |
-- | others | the system's own names, as libuv gives them |
--
-- **Misuse** raises an error that says what to do instead: a wrong type, a negative count, an
-- unknown option, a wait where Lua cannot yield (inside `table.sort`, a plain coroutine, a
-- finalizer). Only what is beyond that is said under "Raises". A call that has to wait in a
-- cancelled task raises `wire.CANCELED`; one outside any task that nothing could ever wake raises
-- "deadlock: ...".
--
-- **Options** come last, before a trailing handler, in one table whose keys are all checked. Where
-- a call has a `timeout` among them, a plain number in that place is it.
--
-- **Timeouts are budgets**: one covers the whole call, and never replaces a deadline that was set:
-- the earlier wins. Zero or less takes what is possible without waiting, `math.huge` is none. What
-- has come satisfies a call even past its deadline.
-- @module lunewire

local core = require "lunewire.core"
local names = require "lunewire.names"
local quit = require "lunewire.quit"
local ports = require "lunewire.ports"
local stream = require "lunewire.stream"
local to_handler = require "lunewire.handler"
local udp = require "lunewire.udp"

local wire = {
  CANCELED = core.CANCELED,
  adopt = core.adopt,
  after = core.after,
  channel = core.channel,
  client = require "lunewire.client",
  co = core.co,
  connect = core.connect,
  copy = stream.copy,
  every = core.every,
  framing = core.framing,
  free_port = ports.free_port,
  mutex = core.mutex,
  netlog = require "lunewire.netlog",
  now = core.now,
  on_error = core.on_error,
  on_signal = core.on_signal,
  pipe = core.pipe,
  pool = require "lunewire.pool",
  relay = stream.relay,
  request = stream.request,
  resolve = core.resolve,
  run = core.run,
  semaphore = require "lunewire.semaphore",
  serve_udp = udp.serve,
  sleep = core.sleep,
  spawn = core.spawn,
  stop = core.stop,
  tls_context = core.tls_context,
  udp = udp.open,
}

local protected, to_numeric = names.protected, names.to_numeric

local function is_list(addr) return type(addr) == "table" and rawlen(addr) > 0 end

-- Names stand for their addresses, in a list as well.
local function all_numeric(addr)
  if not is_list(addr) then return to_numeric(addr, 3) end
  local list = {}
  for i, one in ipairs(addr) do
    local numeric, message, code = to_numeric(one, 4)
    if not numeric then return nil, message, code end
    list[i] = numeric
  end
  return list
end

local function listen(addr, opts, handler)
  local numeric, message, code = all_numeric(addr)
  if not numeric then return nil, message, code end
  local server -- no tail call: the level counts this function
  server, message, code = protected(2, core.listen, numeric, opts, handler)
  return server, message, code
end

--- Listens for connections that are taken by `server:accept()`.
-- A host name is resolved first. The file of a Unix socket is removed at the close; one to
-- which nobody listens any more is taken over.
-- @function wire.listen
-- @tparam string|table addr where to listen: "host:port", ":port" for all interfaces, IPv4 and
--   IPv6, "unix:/path", or {host=, port=}; or a list of them, all or none; port 0 asks the system
--   for a free one
-- @tparam[opt] table opts `backlog` (511), `reuse_port`, `ipv6_only`, `mode` (permissions of a Unix
--   socket's file, a number), `max_conns` (10000; above it accepting pauses), `tls` (options or a
--   context, see `tls_context`), `nodelay` (true), `keepalive` (true), `framing`, `limits`; of each
--   connection `timeout` and `idle_timeout` (seconds); `drain_timeout` (10, seconds, of shutdown);
--   `on_accept(conn)`, which must not wait, and refuses by returning false;
--   `on_close(conn, message, code)`, once for each connection not refused, with its last failure
--   if there was one; `on_shutdown(server)`. The last two run in tasks of their own.
-- @treturn Server
-- @codes EADDRINUSE, EADDRNOTAVAIL, EACCES, EINVAL, ENOTFOUND, EMFILE
-- @waits for the name only
-- @raise for an unknown option
function wire.listen(addr, opts) return listen(addr, opts) end

--- Serves each connection to an address by a handler in a task of its own.
-- The connection is closed when the handler returns; an error in it ends that connection
-- alone and goes to `on_error`.
-- @function wire.serve
-- @tparam string|table addr as of `listen`
-- @tparam[opt] table opts as of `listen`
-- @tparam function handler `handler(conn, server)`, something callable, or {object, "method"}
-- @treturn Server that is accepting already
-- @codes as of `listen`
-- @waits for the name only
-- @raise for an unknown option
function wire.serve(addr, opts, handler)
  if handler == nil then opts, handler = nil, opts end
  return listen(addr, opts, to_handler(handler, "serve", 2))
end

core.on_quit(quit)

return wire
