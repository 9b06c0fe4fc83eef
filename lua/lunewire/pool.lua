-- wire.pool: connections that many tasks share, one task at a time.
-- What this is not: watching those that are idle; the core closes what the peer or time ends.
--
-- A slot is the right to one connection; `max` of them exist.  Those never used are counted in
-- `untouched`, the others stand in a channel while nobody has them, so that who waits gets one in
-- order, and a close reaches all who wait.  Idle connections are never more than free slots.
local core = require "lunewire.core"
local dial = require "lunewire.dial"

local drop, seconds_to = dial.drop, dial.seconds_to
local methods <const> = core.conn_methods

-- {name=, connect= (function of seconds), max=, max_idle=, idle_timeout=, lifetime=, timeout=,
--  used=, untouched=, slots=, idle= (list of entries, the last used last), waiting=, created=,
--  reused=, over=}
-- An entry is a connection and what its setters had set at first: {conn=, ...}
local Pool = { __name = "lunewire.Pool" }
Pool.__index = Pool

local OWN <const> = {
  max = "count", max_idle = "any", idle_timeout = "seconds", lifetime = "seconds",
}
local GET_TIMEOUT <const> = 30

-- ---- slots -----------------------------------------------------------------------------

local function give_slot(self)
  self.used = self.used - 1
  self.slots:send(true, 0) -- there is room for all; a closed channel needs none
end

local Waiting = {
  __close = function(pool) pool[1].waiting = pool[1].waiting - 1 end,
}

local function await_slot(self, timeout)
  local _ <close> = setmetatable({ self }, Waiting)
  self.waiting = self.waiting + 1
  return self.slots:recv(timeout)
end

local function closed(self)
  return nil, ("get %s: the pool is closed"):format(self.name), "ECLOSED"
end

-- -> true | nil, message, code
local function take_slot(self, timeout)
  local got, code, _ = true, nil, nil
  if self.untouched > 0 then
    self.untouched = self.untouched - 1
  else
    got, _, code = await_slot(self, timeout)
  end
  if got then
    self.used = self.used + 1
    return true
  end
  if code == "ECLOSED" then return closed(self) end
  return nil, ("get %s: timed out, all %d are in use"):format(self.name, self.max), code
end

local Slot = { -- taken, and not yet of a lease
  __close = function(slot)
    if slot.pool then give_slot(slot.pool) end
  end,
}

-- ---- idle connections ------------------------------------------------------------------

-- Those that the core has closed meanwhile.
local function sweep(self)
  local kept = {}
  for _, entry in ipairs(self.idle) do
    if not entry.conn:closed() then kept[#kept + 1] = entry end
  end
  self.idle = kept
end

local function rest_seconds(self, conn)
  return math.min(self.idle_timeout, self.lifetime - conn:stats().age)
end

-- Time may have passed without a turn of the loop.
local function is_stale(self, entry)
  return core.now() >= entry.until_when or entry.conn:stats().age >= self.lifetime
end

-- -> an entry that is as it was when it was put back, or nil
local function take_idle(self)
  while true do
    local entry = table.remove(self.idle)
    if not entry then return nil end
    if core.resume(entry.conn) and not is_stale(self, entry) then
      self.reused = self.reused + 1
      return entry
    end
    drop(entry.conn)
  end
end

local function restore(entry)
  local conn = entry.conn
  conn:set_deadline(nil)
  conn:set_timeout(entry.timeout)
  conn:set_idle_timeout(entry.idle_timeout)
  conn:set_recv_buffer_wait(entry.buffer_wait)
  conn:set_framing(entry.framing)
end

-- false: it is not to be used again
local function keep(self, entry)
  sweep(self)
  local seconds = rest_seconds(self, entry.conn)
  if self.over or #self.idle >= self.max_idle or seconds <= 0 then return false end
  if not core.rest(entry.conn, seconds) then return false end
  entry.until_when = core.now() + seconds
  self.idle[#self.idle + 1] = entry
  return true
end

-- ---- leases ----------------------------------------------------------------------------
-- What get gives: has all methods of its connection until it is given back.
-- {pool=, entry=, conn= or nil, calls= (under way, or ended by an error), spoiled=, changed=}

local Lease = { __name = "lunewire.Lease" }
Lease.__index = Lease

local function release(lease, reuse)
  local conn, entry, pool = lease.conn, lease.entry, lease.pool
  if not conn then return false end
  lease.conn = nil
  local kept = false
  if reuse and lease.calls == 0 and not lease.spoiled and not conn:closed() then
    if lease.changed then restore(entry) end
    kept = keep(pool, entry)
  end
  if not kept then drop(conn) end
  give_slot(pool)
  return true
end

local function given_back(lease, name)
  return nil, ("%s %s: the connection was given back"):format(name, lease.pool.name), "ECLOSED"
end

-- A call that raised (a cancelled one) does not come here, and counts on.
local function finish(lease, conn, ...)
  lease.calls = lease.calls - 1
  if ... == conn then return lease, select(2, ...) end
  return ...
end

local function forward(name, method, note)
  return function(lease, ...)
    local conn = lease.conn
    if not conn then return given_back(lease, name) end
    if note then lease[note] = true end
    lease.calls = lease.calls + 1
    return finish(lease, conn, method(conn, ...))
  end
end

-- What outlives the block: the next user must not have it.
local SPOILS <const> = { close_write = true, start_tls = true, after = true, every = true }

local function note_of(name)
  if SPOILS[name] then return "spoiled" end
  return name:find "^set_" and "changed" or nil
end

for name, method in pairs(methods) do Lease[name] = forward(name, method, note_of(name)) end

local function iterate(method)
  return function(lease, ...)
    local conn = lease.conn
    if not conn then return function() end end
    local next_one = method(conn, ...)
    return function()
      if lease.conn ~= conn then return nil end
      lease.calls = lease.calls + 1
      return finish(lease, conn, next_one(conn))
    end
  end
end

for _, name in ipairs { "lines", "pkgs", "frames", "chunks" } do
  Lease[name] = iterate(methods[name])
end

-- Closed by its user: the slot is free at once.
local function ending(method)
  return function(lease, delay)
    local conn = lease.conn
    if not conn then return true end
    lease.spoiled = true
    local ok, message, code = method(conn, delay)
    if conn:closed() then release(lease, false) end
    return ok, message, code
  end
end

for _, name in ipairs { "close", "reset" } do Lease[name] = ending(methods[name]) end

function Lease:closed() return self.conn == nil or self.conn:closed() end

function Lease:socket() return self.conn and self.conn:socket() or -1 end

function Lease:__close(err) release(self, err == nil) end

-- Forgotten: its slot must not be lost; what its user did is not known.
function Lease:__gc() release(self, false) end

function Lease:__tostring()
  local state = self.conn and tostring(self.conn) or "given back"
  return ("Lease (%s, %s)"):format(self.pool.name, state)
end

-- ---- getting ---------------------------------------------------------------------------

local function new_entry(conn)
  local entry = { conn = conn }
  entry.timeout, entry.idle_timeout, entry.buffer_wait, entry.framing = core.settings(conn)
  return entry
end

local function check_conn(conn)
  if getmetatable(conn) == "lunewire.Conn" then return conn end
  error("pool: the factory must return a connection or nil, message, code; not a " .. type(conn),
    5)
end

-- -> an entry | nil, message, code
local function open(self, timeout)
  local conn, message, code = self.connect(timeout)
  if not conn then return nil, message, code end
  check_conn(conn)
  if self.over then
    drop(conn)
    return closed(self)
  end
  self.created = self.created + 1
  return new_entry(conn)
end

local function check_timeout(timeout)
  if timeout == nil or type(timeout) == "number" and timeout == timeout then return timeout end
  error("get: a number of seconds is expected, not a " .. type(timeout), 3)
end

-- -> a lease | nil, message, code.  Misuse is that of the caller's caller.
local function take(self, timeout)
  local due = core.now() + (timeout or self.timeout)
  if self.over then return closed(self) end
  local ok, message, code = take_slot(self, seconds_to(due))
  if not ok then return nil, message, code end
  local slot <close> = setmetatable({ pool = self }, Slot)
  local entry = take_idle(self)
  if not entry then
    entry, message, code = open(self, seconds_to(due))
    if not entry then return nil, message, code end
  end
  local lease = setmetatable({ pool = self, entry = entry, conn = entry.conn, calls = 0 }, Lease)
  slot.pool = nil
  return lease
end

--- Takes a connection out of the pool: the one that was idle for the shortest time, or a new one.
-- While `max` are in use the call waits for its turn, first come, first served; one that times out
-- or is cancelled takes nothing. What is given has every method of Conn, and
-- `local c <close> = pool:get()` gives it back at the end of the block, for good: calls on it
-- return ECLOSED from then on. `close` and `reset` on it end the connection, and free its place,
-- at once.
--
-- Not used again is a connection on which any call had failed, timed out, was cancelled or is
-- under way; that holds unread bytes, has ended in either direction, has a timer of its own; or
-- whose block ended by an error. A reply that nobody read and that has not arrived yet cannot be
-- seen: a block that leaves one should close the connection. Deadlines and what the `set_` methods
-- set are as before for the next user.
-- @function Pool:get
-- @tparam[opt] number timeout seconds for everything; default: the pool's option `timeout`
-- @treturn Conn in all but name
-- @codes ETIMEDOUT, ECLOSED (the pool is closed); those of `connect` or of the factory
-- @waits until it is the caller's turn, and for a new connection
-- @raise a factory that returns something else; what it raises
function Pool:get(timeout)
  local lease, message, code = take(self, check_timeout(timeout))
  return lease, message, code -- no tail call: take counts the levels
end

--- Gives a connection back before its block ends, or without one.
-- It is closed instead if it is not fit to be used again (see `get`).
-- @function Pool:put
-- @tparam Conn conn what `get` gave
-- @treturn boolean true; false if it was given back already, which is harmless
-- @waits never
-- @raise for anything that this pool did not give
function Pool:put(conn)
  if getmetatable(conn) ~= Lease or conn.pool ~= self then
    error("put: only what get of this pool gave can be given back, not a " .. type(conn), 2)
  end
  return release(conn, true)
end

--- Calls a function with a connection, which is given back whatever happens.
-- After an error, which goes on to the caller, the connection is closed.
-- @function Pool:use
-- @tparam function fn `fn(conn, ...)`
-- @param ... further arguments
-- @return the results of fn
-- @codes as of `get`
-- @waits as `get`, and as fn does
function Pool:use(fn, ...)
  if type(fn) ~= "function" and not (getmetatable(fn) or {}).__call then
    error("use: a function is expected, not a " .. type(fn), 2)
  end
  local lease <close>, message, code = take(self)
  if not lease then return nil, message, code end
  return fn(lease, ...)
end

--- Closes the idle connections; those in use are closed when they are given back.
-- Whoever waits in `get`, and every later call, gets ECLOSED. Twice is harmless. A pool that nobody
-- refers to closes its idle connections by itself.
-- @function Pool:close
-- @treturn boolean true
-- @waits never
function Pool:close()
  self.over = true
  self.slots:close()
  local idle = self.idle
  self.idle = {}
  for _, entry in ipairs(idle) do drop(entry.conn) end
  return true
end

--- Tells what the pool does.
-- @function Pool:stats
-- @treturn table `used` and `idle` (connections; being made counts as used), `waiting` (calls of
--   get), `max`, `created` and `reused` (so far)
-- @waits never
function Pool:stats()
  sweep(self)
  return { used = self.used, idle = #self.idle, waiting = self.waiting, max = self.max,
    created = self.created, reused = self.reused }
end

function Pool:__close() self:close() end

function Pool:__tostring()
  local stats = self:stats()
  return ("Pool (%s, %d used and %d idle of %d)"):format(self.name, stats.used, stats.idle,
    stats.max)
end

-- ---- making one ------------------------------------------------------------------------

local function connector(addr, settings)
  return function(timeout)
    local conn, message, code = dial.connect(addr, settings, timeout)
    if conn == false then error(message, 5) end
    return conn, message, code
  end
end

local function check_max_idle(max_idle, level)
  if max_idle == nil or math.type(max_idle) == "integer" and max_idle >= 0 then return max_idle end
  error(("option 'max_idle' must be a whole number >= 0, not %s"):format(max_idle), level + 1)
end

local function is_callable(value)
  local meta = getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

--- Makes a pool of connections to an address, or of those that a function makes.
-- Nothing is connected before the first `get`. Idle connections do not keep `wire.run` going; while
-- the loop runs they are closed when their time is over, or when the peer ends them or sends
-- anything.
-- @function wire.pool
-- @param addr as of `connect`; or a function that is called with the seconds that are left and
--   returns a Conn, or nil, message, code: the place to authenticate
-- @tparam[opt] table|number opts `max` (10): connections in all; `max_idle` (`max`);
--   `idle_timeout` (60): seconds after which an idle one is closed; `lifetime` (none): seconds
--   after which none is used again; `timeout` (30): of `get`, everything included; for an address
--   the others of `connect`
-- @treturn Pool
-- @waits never
-- @raise for what is no address; for options of `connect` with a function
-- @usage
-- local pool = wire.pool("127.0.0.1:6379", {max = 8})
-- local conn <close> = assert(pool:get())
-- conn:send("PING\r\n")
-- assert(conn:recv_line() == "+PONG")
local function pool(addr, opts)
  local own, settings = dial.options(opts, OWN, 2)
  local timeout = settings.timeout or GET_TIMEOUT
  local callable = is_callable(addr)
  settings.timeout = nil
  if callable and next(settings) then
    error(("option '%s' is for the factory to give to connect"):format((next(settings))), 2)
  end
  local max = own.max or 10
  return setmetatable({
    name = callable and "pool" or dial.address_text(dial.check_address(addr, 2)),
    connect = callable and addr or connector(addr, settings), timeout = timeout,
    max = max, max_idle = check_max_idle(own.max_idle, 2) or max,
    idle_timeout = own.idle_timeout or 60, lifetime = own.lifetime or math.huge,
    slots = core.channel(max), untouched = max, used = 0, waiting = 0, idle = {}, created = 0,
    reused = 0, over = false,
  }, Pool)
end

return pool
