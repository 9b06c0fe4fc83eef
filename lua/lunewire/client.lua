-- wire.client: one connection to one address, which can be lost and dialled again.
-- What this is not: several connections (pool.lua), how a connection comes up (core.connect).
local core = require "lunewire.core"
local dial = require "lunewire.dial"

local drop, seconds_to = dial.drop, dial.seconds_to

-- {addr=, name=, opts=, settings= (connect's options), backoff= or nil, conn= or nil,
--  last= (the connection before), dialing= or nil, parted= (disconnected by the user),
--  born= (when conn came up), message= (of the last failure), refused= (a receive without conn)}
local Client = { __name = "lunewire.Client" }
Client.__index = Client

local OWN <const> = { reconnect = "any", on_connect = "function", on_disconnect = "function" }
local CONNECT_TIMEOUT <const> = 30
local GRACE <const> = 0.02 -- the attempt itself shall be the one to say that time is over

local function new(addr, given, level)
  local own, settings = dial.options(given, OWN, level + 1)
  local backoff = own.reconnect and dial.backoff(own.reconnect, level + 1) or nil
  return setmetatable({
    addr = addr, name = dial.address_text(addr), opts = own, settings = settings,
    backoff = backoff,
  }, Client)
end

-- ---- losing a connection -------------------------------------------------------------

local function failed(self, message, code)
  self.message = message
  return nil, message, code
end

local function not_connected(self, what)
  return failed(self, ("%s %s: not connected"):format(what, self.name), "ENOTCONN")
end

local function lose(self, conn, message, code)
  if self.conn ~= conn then return end
  self.conn, self.last = nil, conn
  if self.backoff then self.backoff:lost(self.born) end
  if code == "EOF" then
    drop(conn)
  else
    conn:reset()
  end
  self.message = message
  if self.opts.on_disconnect and not self.parted then
    core.spawn(self.opts.on_disconnect, message, code)
  end
end

-- The connection, or nil: one that is over, as far as is known, is lost here.
local function current(self)
  local conn = self.conn
  if not conn then return nil end
  local message, code = core.ended(conn)
  if message then lose(self, conn, message, code) end
  return self.conn
end

local WEAK <const> = { __mode = "v" }

-- An end that comes while nobody calls is noticed, too; but this must not keep the client.
local function watch(self)
  local box = setmetatable({ self }, WEAK)
  core.watch(self.conn, function()
    if box[1] then current(box[1]) end
  end)
end

-- What a call on the connection gave is what the client gives.
local function settle(self, conn, ...)
  if select("#", ...) == 0 then return end
  local first, message, code = ...
  if first == conn then return self, select(2, ...) end
  if first == nil and message then
    self.message = message
    if core.ended(conn) then lose(self, conn, message, code) end
  end
  return ...
end

-- ---- dialling ------------------------------------------------------------------------
-- A task of its own dials for all who wait for it; when nobody does any more it is cancelled.
-- A dial is {task=, waiting=, due= (the latest of those who wait), failure=, parted=}.

local Fresh = { -- a connection that is not yet anybody's
  __close = function(fresh)
    if fresh.conn then drop(fresh.conn) end
  end,
}

-- -> conn, or nil, message, code: on_connect had it first.
local function introduce(self, conn)
  local hook = self.opts.on_connect
  if not hook then return conn end
  local fresh <close> = setmetatable({ conn = conn }, Fresh)
  local ok, result, message, code = pcall(hook, conn)
  if not ok and result == core.CANCELED then error(result, 0) end
  local prefix = ("connect %s: on_connect: "):format(self.name)
  if not ok then return nil, prefix .. tostring(result), "EERROR" end
  if result == false or (result == nil and message ~= nil) then
    return nil, prefix .. tostring(message or "refused"), code or "ECLOSED"
  end
  message, code = core.ended(conn)
  if message then return nil, prefix .. message, code end
  fresh.conn = nil
  return conn
end

-- What no further attempt would change.
local FINAL <const> = { EINVAL = true, ECERT = true }

-- -> conn | nil, message, code | false, what misuse this is.  The last result: is it final?
local function attempt(self, d)
  local conn, message, code = dial.connect(self.addr, self.settings, seconds_to(d.due))
  if not conn then return conn, message, code, conn == false or FINAL[code] end
  conn, message, code = introduce(self, conn)
  return conn, message, code, true
end

local function timed_out(self, d)
  local cause = d.failure and "; the last attempt: " .. d.failure or ""
  return nil, ("connect %s: timed out%s"):format(self.name, cause), "ETIMEDOUT"
end

local function dial_again(self, d)
  repeat
    local wait = self.backoff and self.backoff:wait() or 0
    if wait > 0 then core.sleep(math.min(wait, seconds_to(d.due))) end
    if core.now() >= d.due and d.failure then return timed_out(self, d) end
    local conn, message, code, final = attempt(self, d)
    if conn then return conn end
    d.failure = message
    if self.backoff and not final then self.backoff:failed() end
    local later = code == "ETIMEDOUT" and core.now() < d.due
    if final or not (self.backoff or later) then return conn, message, code end
  until false
end

-- The body of the dial's task.
local function run_dial(self, d)
  local conn, message, code = dial_again(self, d)
  if self.dialing == d then
    self.dialing = nil
    if conn then
      self.conn, self.born, self.refused = conn, core.now(), nil
      watch(self)
    end
  elseif conn then
    drop(conn)
  end
  if conn then return true end
  return conn, message, code
end

local function give_up_dial(self, d)
  if self.dialing == d then self.dialing = nil end
  d.task:cancel()
end

local Waiter = {
  __close = function(waiter)
    local d = waiter.dial
    d.waiting = d.waiting - 1
    if d.waiting == 0 then give_up_dial(waiter.client, d) end
  end,
}

local function begin_dial(self)
  local d = { waiting = 0, due = 0 }
  self.dialing = d
  d.task = core.spawn(function()
    d.thread = coroutine.running()
    return run_dial(self, d)
  end)
  return d
end

local function dial_ended(self, d, code)
  if d.parted then
    return nil, ("connect %s: disconnected meanwhile"):format(self.name), "ECLOSED"
  end
  if code == "ETIMEDOUT" then return timed_out(self, d) end
  give_up_dial(self, d)
  return nil, ("connect %s: cancelled"):format(self.name), "ECANCELED"
end

-- -> true | nil, message, code
local function await_dial(self, timeout, level)
  local d = self.dialing or begin_dial(self)
  if d.thread and d.thread == coroutine.running() then
    error("on_connect is given the connection: the client is not connected yet", level + 1)
  end
  d.waiting = d.waiting + 1
  local _ <close> = setmetatable({ client = self, dial = d }, Waiter)
  d.due = math.max(d.due, core.now() + timeout)
  local joined, result, message, code = d.task:join(timeout + GRACE)
  if joined and result == false then error(message, level + 1) end
  if joined then return result, message, code end
  if self.conn then return true end
  if message == "EERROR" then error(code, 0) end
  return dial_ended(self, d, message)
end

-- ---- the user's --------------------------------------------------------------------------

local function check_timeout(timeout, what)
  if timeout == nil or type(timeout) == "number" and timeout == timeout then return timeout end
  error(("%s: a number of seconds is expected, not a %s"):format(what, type(timeout)), 3)
end

--- Makes a client of an address; nothing is connected yet.
-- It has every method of Conn, which work on its connection, and returns `ENOTCONN` from them while
-- it has none. Options that belong to a connection (`set_timeout`, `set_framing` and others) end
-- with it; `on_connect` is the place to set them.
--
-- The connection is lost at the peer's end, once everything was received, and at a failure that
-- leaves nothing to receive: found by a call, or by the loop. A peer that ended only its own side
-- counts as gone. With `reconnect`, `connect` and the methods that send (but `try_send`, which
-- never waits) then dial again: at once after a connection that lasted, otherwise after a pause
-- that doubles from `min` to `max` with each failure, less a random part of it. Nothing is ever
-- sent twice: a send that failed has failed, though the next one may succeed.
-- @function wire.client
-- @tparam string|table addr as of `connect`
-- @tparam[opt] table|number opts those of `connect`: `timeout` (30), `tls` (its files are read
--   at the first connect) and others; `reconnect`: true or {`min` (0.1), `max` (30), `jitter`
--   (0.5, a share)}; `on_connect(conn)`: called after each dial, before anybody else has the
--   connection; false, or nil and a message, or an error fails the connect;
--   `on_disconnect(message, code)`: runs in a task of its own once for each lost connection (not
--   for one that `disconnect` ended)
-- @treturn Client
-- @waits never
-- @raise for what is no address
-- @usage
-- local client <close> = wire.client("db.internal:6379", {reconnect = true})
-- client:send("PING\r\n") -- dials
-- assert(client:recv_line() == "+PONG")
local function client(addr, opts)
  return new(dial.check_address(addr, 2), opts, 2)
end

--- Connects, if it is not connected.
-- Tasks that call this at the same time share one dial. With `reconnect` it goes on until it
-- succeeds or the time is over; what no attempt can change (`EINVAL`, `ECERT`, a failure of
-- `on_connect`) is returned at once.
-- @function Client:connect
-- @tparam[opt] number timeout seconds for everything; default: the option `timeout`
-- @treturn boolean true; at once if it is connected
-- @codes those of `wire.connect`; ETIMEDOUT; ECLOSED (disconnected meanwhile); EERROR (of
--   `on_connect`)
-- @waits until a connection is there
function Client:connect(timeout)
  check_timeout(timeout, "connect")
  if current(self) then return true end
  self.parted = false
  local ok, message, code = await_dial(self, timeout or self.settings.timeout or CONNECT_TIMEOUT, 2)
  if ok then return true end
  return failed(self, message, code)
end

--- Tells whether there is a connection, and its peer is not known to have ended it.
-- @function Client:connected
-- @treturn boolean
-- @waits never
function Client:connected() return current(self) ~= nil end

-- method: of the connection: close or reset
local function part(self, method, delay)
  local conn, d = self.conn, self.dialing
  self.parted = true
  if d then
    d.parted = true
    give_up_dial(self, d)
  end
  if not conn then return true end
  if not (delay and delay > 0) then self.conn, self.last = nil, conn end
  return method(conn, delay)
end

--- Closes the connection, and ends a dial under way, whose callers get ECLOSED.
-- Nothing dials again before the next `connect`. Twice is harmless.
-- @function Client:disconnect
-- @treturn boolean true
-- @codes a write that had failed
-- @waits never in a task; outside, until everything was handed to the system
function Client:disconnect() return part(self, core.conn_methods.close) end

--- Makes another client with the same address and options, not connected.
-- @function Client:clone
-- @treturn Client
-- @waits never
function Client:clone()
  local copy = {}
  for _, key in ipairs { "addr", "name", "opts", "settings" } do copy[key] = self[key] end
  copy.backoff = self.backoff and self.backoff:fresh()
  return setmetatable(copy, Client)
end

--- Tells why the last call that failed did so.
-- @function Client:strerror
-- @treturn string|nil its message
-- @waits never
function Client:strerror() return self.message end

function Client:__close() part(self, drop) end

function Client:__tostring()
  local state = self.conn and "connected" or self.dialing and "connecting" or "not connected"
  return ("Client (%s, %s)"):format(self.name, state)
end

-- ---- every method of Conn ------------------------------------------------------------

local methods <const> = core.conn_methods

-- Where the options stand among the arguments; 0: last, if they are a table with keys.
local OPTIONS_AT <const> = { send = 0, send_pkg = 2, send_frame = 2, send_recv = 3,
  send_recv_pkg = 2 }
local SENDS <const> = { "send", "write", "send_pkg", "send_frame", "send_recv", "send_recv_pkg",
  "send_file" }
local ITERATORS <const> = { "lines", "pkgs", "frames", "chunks" }
local FACTS <const> = { "stats", "local_addr", "remote_addr" } -- also of one that is over

for name, method in pairs(methods) do
  Client[name] = Client[name] or name:sub(1, 2) ~= "__" and function(self, ...)
    local conn = self.conn
    if conn then return settle(self, conn, method(conn, ...)) end
    local _, message, code = not_connected(self, name)
    self.refused = { message, code }
    return nil, message, code
  end or nil
end

local function timeout_among(args, name)
  local at = OPTIONS_AT[name]
  if at == 0 then at = args.n end
  local opts = at and args[at]
  if type(opts) == "table" then opts = opts.timeout end
  return type(opts) == "number" and (OPTIONS_AT[name] > 0 or type(args[at]) == "table") and opts, at
end

-- What the dial left of the call's time is the send's.
local function shorten(args, at, timeout)
  if type(args[at]) == "number" then
    args[at] = timeout
    return
  end
  local opts = {}
  for key, value in next, args[at] do opts[key] = value end
  opts.timeout = timeout
  args[at] = opts
end

local function dial_and_send(self, name, ...)
  local args, start = table.pack(...), core.now()
  local timeout, at = timeout_among(args, name)
  local ok, message, code =
    await_dial(self, timeout or self.settings.timeout or CONNECT_TIMEOUT, 2)
  if not ok then return failed(self, ("%s: %s"):format(name, message), code) end
  local conn = self.conn
  if not conn then return not_connected(self, name) end
  if timeout then shorten(args, at, timeout - (core.now() - start)) end
  return settle(self, conn, methods[name](conn, table.unpack(args, 1, args.n)))
end

for _, name in ipairs(SENDS) do
  local method = methods[name]
  Client[name] = function(self, ...)
    local conn = self.conn
    if self.backoff then conn = current(self) end
    if conn then return settle(self, conn, method(conn, ...)) end
    if self.backoff and not self.parted then return dial_and_send(self, name, ...) end
    return not_connected(self, name)
  end
end

-- An iterator's end says nothing itself: the connection knows.
local function note_end(self, conn, first, ...)
  if first == nil then
    self.message = conn:strerror()
    local message, code = core.ended(conn)
    if message then lose(self, conn, self.message or message, code) end
  end
  return first, ...
end

for _, name in ipairs(ITERATORS) do
  local method = methods[name]
  Client[name] = function(self, ...)
    local conn = self.conn
    if not conn then
      local _, message, code = not_connected(self, name)
      self.refused = { message, code }
      return function() end
    end
    local next_one = method(conn, ...)
    return function() return note_end(self, conn, next_one(conn)) end
  end
end

for _, name in ipairs(FACTS) do
  local method = methods[name]
  Client[name] = function(self)
    local conn = self.conn or self.last
    if conn then return method(conn) end
    return not_connected(self, name)
  end
end

function Client:last_error()
  if self.refused then return table.unpack(self.refused) end
  local conn = self.conn or self.last
  if conn then return conn:last_error() end
end

function Client:closed() return self.conn == nil or self.conn:closed() end

function Client:socket() return self.conn and self.conn:socket() or -1 end

function Client:close(delay) return part(self, methods.close, check_timeout(delay, "close")) end

function Client:reset(delay) return part(self, methods.reset, check_timeout(delay, "reset")) end

return client
