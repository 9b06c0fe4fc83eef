-- Bytes from here to there: copy, relay, and the one-shot request.
-- What this is not: how one connection receives and sends (core).
local core = require "lunewire.core"
local options = require "lunewire.options"

local stream = {}

local PIECE <const> = 64 * 1024
local HUGE <const> = math.huge

local function index(object, name) return object[name] end

-- object.name if it is a function; not everything can be indexed.
local function method(object, name)
  local ok, member = pcall(index, object, name)
  return ok and type(member) == "function" and member or nil
end

-- ---- copy ----------------------------------------------------------------------------

-- A connection gives what is there; a file's read would wait for a whole piece.
local function reader_of(src)
  local read = method(src, "recv_some") or method(src, "read")
  if read then return read end
  error(("copy: cannot read from a %s; a connection, an open file or anything with a method "
    .. "'read' is expected"):format(type(src)), 3)
end

local function writer_of(dst)
  local write = method(dst, "write")
  if write then return write end
  error(("copy: cannot write to a %s; a connection, an open file or anything with a method "
    .. "'write' is expected"):format(type(dst)), 3)
end

local function check_bytes(n)
  if n == nil or math.type(n) == "integer" and n >= 0 then return n end
  if math.type(n) == "float" and n >= 0 and math.tointeger(n) then return math.tointeger(n) end
  error(("copy: a count of bytes is expected, not %s"):format(n), 3)
end

-- Files say errno.
local function code_of(code)
  if math.type(code) == "integer" then return core.error_name(code) end
  return code or "EIO"
end

-- -> data, or nil, message, code: "EOF" at the end, which a file tells by nil alone.
local function next_piece(src, read, max)
  local data, message, code = read(src, max)
  if data and data ~= "" then return data end
  if message == nil or code == "EOF" then return nil, message or "end of file", "EOF" end
  return nil, message, code_of(code)
end

-- What the destination did not take must not be lost: it goes back where it came from, if
-- that is possible.
local function give_back(src, data)
  local unread, seek = method(src, "unread"), method(src, "seek")
  if unread then
    pcall(unread, src, data)
  elseif seek then
    pcall(seek, src, "cur", -#data)
  end
end

-- -> true, or nil, message, code. A cancel raises here, too.
local function put_piece(dst, write, src, data)
  local returned, ok, message, code = pcall(write, dst, data)
  if returned and ok then return true end
  give_back(src, data)
  if not returned then error(ok, 0) end
  return nil, message or "write failed", code_of(code)
end

--- Copies bytes from one connection or file to another.
-- Either side may be a Conn, an open Lua file or anything with a method `read` or `write` that
-- behaves as a file's. Pieces have at most 64 KiB, whatever n is; a piece of a connection is
-- what is there. When the destination fails, or the task is cancelled, what it did not take goes
-- back to the source, if that is a connection or a file with positions. Neither side is
-- closed. The times that apply are the connections' own, for each piece anew. Files stop the
-- loop for as long as the system takes for a piece.
-- @function wire.copy
-- @tparam Conn|file dst where to
-- @tparam Conn|file src where from
-- @tparam[opt] integer n exactly so many bytes; default: until the end of src
-- @treturn integer bytes copied
-- @codes EOF: src ended before n bytes; those of either side, of a file as its errno says
--   (ENOSPC, EISDIR, EBADF ...); each with the bytes copied as 4th result
-- @waits for src to have something and for dst to have room
-- @raise for what has no such method, a closed file, a negative count; where Lua cannot yield
-- @follows io.CopyN and io.Copy of Go
function stream.copy(dst, src, n)
  local write, read = writer_of(dst), reader_of(src)
  n = check_bytes(n)
  local total = 0
  while n == nil or total < n do
    local data, message, code = next_piece(src, read, n and math.min(n - total, PIECE) or PIECE)
    if code == "EOF" and n == nil then break end
    local ok = nil
    if data then
      ok, message, code = put_piece(dst, write, src, data)
    end
    if not ok then return nil, "copy: " .. message, code, total end
    total = total + #data
  end
  return total
end

-- ---- relay ---------------------------------------------------------------------------
-- Two directions, each in a task: the caller's and one more.  What they share is the relay:
-- {a=, b=, due=, idle=, last=, ab=, ba=, message=, code=, raised=, over=}; what ends it, ends
-- both, because a connection that was reset wakes whoever waits for it.

local RELAY <const> = { timeout = "seconds", idle_timeout = "seconds" }

-- Without an orderly end of both sides, neither peer must see one.
local function hang_up(r)
  r.over = true
  for _, conn in ipairs { r.a, r.b } do
    if not conn:closed() then conn:reset() end
  end
end

local Relay = {
  __close = function(r)
    if not r.over then hang_up(r) end
  end,
}

-- The first failure is the relay's.  What came before it was given to the other side, and
-- leaves before the reset as far as the system takes it.
local function fail(r, message, code)
  if r.code then return end
  r.message, r.code = "relay: " .. message, code
  r.a:flush(0)
  r.b:flush(0)
  hang_up(r)
end

-- When to look at the time again.
local function due_of(r) return math.min(r.due, r.last + r.idle) end

local function seconds_to(due) return due == HUGE and HUGE or due - core.now() end

-- The system's buffers hold much for a peer that is slow: what goes out of them is a sign of life,
-- too.
local function moves(r)
  local flight = r.a:stats().in_flight + r.b:stats().in_flight
  local moved = flight ~= (r.flight or 0)
  r.flight = flight
  return moved
end

-- A call failed that waited until `due` -> is it to be tried again?  A side that takes output
-- slowly is not idle, nor is one whose own time has not come: the other direction moved it.
local function goes_on(r, due, message, code)
  local now = core.now()
  if code ~= "ETIMEDOUT" or now < due - 0.001 then -- or a deadline of the connection itself
    fail(r, message, code)
  elseif now >= r.due then
    fail(r, "timed out", code)
  else
    r.last = math.max(r.last, now - math.min(r.a:stats().idle, r.b:stats().idle))
    if moves(r) then r.last = now end
    if now < r.last + r.idle then return true end
    fail(r, ("timed out: no byte either way for %g s"):format(r.idle), code)
  end
  return false
end

local function pass_on(r, dst, data, opts)
  repeat
    local due = due_of(r)
    opts.timeout = seconds_to(due)
    local sent, message, code = dst:send(data, opts)
    if sent then return true end
  until not goes_on(r, due, message, code)
  return false
end

-- One side has ended: the other one is told, behind all that came before.
local function pass_end(r, dst)
  local ok, message, code = dst:close_write()
  if not ok then return fail(r, message, code) end
  repeat
    local due = due_of(r)
    ok, message, code = dst:flush(seconds_to(due))
  until ok or not goes_on(r, due, message, code)
end

local function pump(r, src, dst, way)
  local opts = {}
  repeat
    local due = due_of(r)
    local data, message, code = src:recv_some(PIECE, seconds_to(due))
    if data then
      r.last = core.now()
      if not pass_on(r, dst, data, opts) then return end
      r[way] = r[way] + #data
    elseif code == "EOF" then
      return pass_end(r, dst)
    end
  until not data and not goes_on(r, due, message, code)
end

-- The other direction's task reports to nobody: its errors are the caller's.
local function pump_back(r)
  local ok, err = pcall(pump, r, r.b, r.a, "ba")
  if ok then return end
  if err ~= core.CANCELED then r.raised = err end
  r.message, r.code = "relay: the task was cancelled", "ECANCELED"
  hang_up(r)
end

local function check_conn(value, which)
  if method(value, "recv_some") and method(value, "close_write") then return value end
  error(("relay: the %s argument must be a connection, not a %s"):format(which, type(value)), 3)
end

--- Joins two connections: what comes in on one goes out on the other, both ways.
-- What is buffered already goes first. The end of one side is passed on as the end of output
-- of the other (`close_write`), while the other direction lives on. When both sides have ended and
-- everything was handed to the system, both connections are closed.
--
-- Anything else ends both at once, by a reset: a stream that was cut off must not look complete
-- to the other peer. So a reset of one side arrives at the other side as a reset; so does a
-- timeout, a cancel of the calling task, and a close of one of the two by somebody else.
--
-- A side that takes its bytes slowly slows the other one down: no more than the high-water mark
-- and 64 KiB wait in either direction. The times of `set_timeout` do not apply; deadlines and
-- `set_idle_timeout` of either connection do, and end the relay.
-- @function wire.relay
-- @tparam Conn a one connection
-- @tparam Conn b the other one
-- @tparam[opt] table opts `timeout`: seconds that the whole of it may take (none);
--   `idle_timeout`: seconds without a byte either way, in or out (none)
-- @treturn integer bytes from a to b, followed by the bytes from b to a
-- @codes ETIMEDOUT, ECLOSED, ECONNRESET, EPIPE, ETLS and others of either side, each with the
--   bytes from a to b and those from b to a as 4th and 5th result; ECANCELED: its second task
--   was cancelled
-- @waits until both sides have ended
-- @raise for anything but two different connections; where Lua cannot yield
function stream.relay(a, b, opts)
  check_conn(a, "first")
  check_conn(b, "second")
  if a == b then
    error("relay: a connection cannot be joined to itself; wire.copy(conn, conn) is an echo", 2)
  end
  opts = options.read(opts, RELAY, 2)
  local now = core.now()
  local r <close> = setmetatable({
    a = a, b = b, ab = 0, ba = 0, last = now,
    idle = opts.idle_timeout or HUGE, due = now + (opts.timeout or HUGE),
  }, Relay)
  local tie = core.tie(a, b)
  local other = core.guard(a, pump_back, r) -- if that dies at once, nobody else could wake pump
  pump(r, a, b, "ab")
  local ended, message, code = other:join()
  if not ended then fail(r, message, code) end
  if r.raised ~= nil then error(r.raised, 0) end
  if r.code then return nil, r.message, r.code, r.ab, r.ba end
  r.over = true
  tie:cut()
  a:close()
  b:close()
  return r.ab, r.ba
end

-- ---- request -------------------------------------------------------------------------

local REQUEST_TIMEOUT <const> = 30

-- The options of request itself; all others are connect's.
local OWN <const> = { recv = true, max = true, header = true }

-- Each way of receiving: how the data goes and how the answer comes.
local ways = {
  all = function(conn) return conn:read "a" end, -- max is among the connection's limits
  line = function(conn, opts) return conn:recv_line { max = opts.max } end,
  pkg = function(conn, opts) return conn:recv_pkg { max = opts.max, header = opts.header } end,
  frame = function(conn, opts) return conn:recv_frame { max = opts.max } end,
}

-- Nothing is to come: the request is over once the system has the data.
local function receive_count(conn, opts)
  if opts.recv == 0 then
    local ok, message, code = conn:flush()
    if not ok then return nil, message, code end
  end
  return conn:recv(opts.recv, { max = opts.max })
end

local function receiver_of(recv)
  if recv == nil then return ways.all end
  if math.type(recv) == "integer" and recv >= 0 then return receive_count end
  if type(recv) == "string" and ways[recv] then return ways[recv] end
  error(("request: option 'recv' must be a count, \"line\", \"pkg\", \"frame\" or \"all\", not %s")
    :format(recv), 3)
end

local function check_data(data, recv)
  local kind = type(data)
  if kind == "string" or kind == "number" or (kind == "table" and recv ~= "pkg") then return end
  error(("request: cannot send a %s%s; strings, numbers and lists of them can be sent")
    :format(kind, recv == "pkg" and " as a package" or ""), 3)
end

-- max of all that comes is one of the connection's limits.
local function limits_of(opts)
  local limits = { all = opts.max }
  if type(opts.limits or limits) ~= "table" then return opts.limits end
  for key, value in next, opts.limits or {} do limits[key] = limits[key] or value end
  return limits
end

local function connect_options(opts)
  local result = { timeout = REQUEST_TIMEOUT }
  for key, value in next, opts do
    if not OWN[key] then result[key] = value end
  end
  if opts.max and (opts.recv == nil or opts.recv == "all") then result.limits = limits_of(opts) end
  return result
end

-- Calls the core for a function of ours: misuse is the user's, so the error names the line
-- that called us.
local function protected(f, ...)
  local ok, result, message, code = pcall(f, ...)
  if not ok then error(result, 3) end
  return result, message, code
end

local function send(conn, data, opts)
  if opts.recv == "pkg" then return conn:send_pkg(data, { header = opts.header }) end
  if opts.recv == "frame" then return conn:send_frame(data) end
  return conn:send(data)
end

--- Asks one question: connects, sends, receives, closes.
-- One timeout covers all of it, and the connection is closed in every case. Our side is not
-- ended before the answer is there: many servers take that for an abort.
--
-- `recv = 0` awaits nothing: the result is `""` once the system has taken all the data, which is
-- delivered behind the close, for as long as the peer takes it.
-- @function wire.request
-- @tparam string|table addr as of `connect`
-- @tparam string|number|table data what `send` takes: a string, a number, a list of them
-- @tparam[opt] table|number opts `recv`: what the answer is: `"all"` up to the end of the stream
--   (the default), `"line"`, a count of bytes, `"pkg"` (data goes as a package, too), `"frame"`
--   (of the option `framing`; data goes as a frame, too); `max`: limit of the answer;
--   `header`: of packages (2); `timeout`: seconds for all together (30); all others are those
--   of `connect`. A number is the timeout
-- @treturn string what the receive gives
-- @codes those of `connect`, `send` and the receive: ETIMEDOUT, ECONNREFUSED, ENOTFOUND, EOF
--   (with what had come as 4th result), EMSGSIZE, ECONNRESET and others
-- @waits until the answer is there
-- @raise for wrong data, unknown options; where Lua cannot yield
function stream.request(addr, data, opts)
  if type(opts) == "number" then opts = { timeout = opts } end
  if opts ~= nil and type(opts) ~= "table" then
    error("request: a table of options is expected, not a " .. type(opts), 2)
  end
  opts = opts or {}
  local receive = receiver_of(opts.recv)
  check_data(data, opts.recv)
  local settings = connect_options(opts)
  local start = core.now()
  local connected, message, code = protected(core.connect, addr, settings)
  if not connected then return nil, message, code end
  local conn <close> = connected
  conn:set_deadline(start + settings.timeout)
  local sent
  sent, message, code = protected(send, conn, data, opts)
  if not sent then return nil, message, code end
  return receive(conn, opts)
end

return stream
