-- wire.netlog: a logger that writes lines to a collector.
-- What this is not: reliable delivery; TCP tells nobody what the collector has read.
--
-- While there is a connection a line goes to it at once: from there it leaves even if the script
-- dies, because connections that close are written out when the Lua state is closed. Nobody else
-- holds lines, but the queue while the collector is away.
local core = require "lunewire.core"
local dial = require "lunewire.dial"

local drop, seconds_to = dial.drop, dial.seconds_to
local recv_now <const> = core.conn_methods.recv_now

-- {addr=, name=, opts=, settings= (of connect), timeout=, capacity= (bytes), backoff=,
--  conn= or nil, born=, dialing= (a task) or nil, retry= (a timer) or nil, failure=, over=,
--  queue=, queued= (bytes), missing= (lines dropped and not yet told), lines=, dropped= (so far)}
local Logger = { __name = "lunewire.Netlog" }
Logger.__index = Logger

local OWN <const> = {
  prefix = "string", date = "boolean", time = "boolean", microseconds = "boolean",
  utc = "boolean", file = "boolean", long_file = "boolean", buffer = "count", reconnect = "any",
}
local TIMEOUT <const> = 5
local BUFFER <const> = 64 * 1024

-- ---- what a line looks like ------------------------------------------------------------

local function stamp(opts)
  local text = ""
  if not (opts.date or opts.time or opts.microseconds) then return text end
  local second, micro = core.wall_clock()
  local zone = opts.utc and "!" or ""
  if opts.date then text = os.date(zone .. "%Y/%m/%d ", second) end
  if opts.time or opts.microseconds then text = text .. os.date(zone .. "%H:%M:%S", second) end
  if opts.microseconds then text = text .. (".%06d"):format(micro) end
  return text:find " $" and text or text .. " "
end

-- level: of the function whose line is shown, as error() counts from the caller.
local function position(opts, level)
  if not (opts.file or opts.long_file) then return "" end
  local info = debug.getinfo(level + 1, "Sl")
  if not info or info.currentline < 0 then return "???:0: " end
  local name = info.short_src
  if not opts.long_file then name = name:match "([^/\\]*)$" end
  return ("%s:%d: "):format(name, info.currentline)
end

local function line_of(self, text, level)
  local opts = self.opts
  local newline = text:sub(-1) == "\n" and "" or "\n"
  return (opts.prefix or "") .. stamp(opts) .. position(opts, level + 1) .. text .. newline
end

-- ---- dropping --------------------------------------------------------------------------

local function drop_line(self)
  self.missing = self.missing + 1
  self.dropped = self.dropped + 1
  return nil, ("netlog %s: the buffer is full: the line is dropped"):format(self.name), "EAGAIN"
end

-- What stands in place of the missing lines; "" if none is missing.
local function notice(self)
  if self.missing == 0 then return "" end
  return ("%snetlog: %d %s dropped\n"):format(self.opts.prefix or "", self.missing,
    self.missing == 1 and "line" or "lines")
end

-- ---- the connection --------------------------------------------------------------------

local function lost(self)
  drop(self.conn)
  self.conn = nil
  self.backoff:lost(self.born)
end

-- Is it there, as far as is known?  What a collector says interests nobody.  In a state that is
-- being closed the connection may be gone already: then the call raises.
local function is_up(self)
  local conn = self.conn
  if not conn then return false end
  local ok, heard, message = pcall(recv_now, conn)
  if ok and heard then return true end
  if ok then
    self.failure = message
    lost(self)
  end
  self.conn = nil
  return false
end

-- -> bytes | nil, message, code. EAGAIN: as many bytes as the buffer may hold are unsent.
local function hand_over(self, ...)
  local sent, message, code = self.conn:try_send(notice(self), ...)
  if sent then
    self.missing = 0
  elseif code ~= "EAGAIN" then
    self.failure = message
    lost(self)
  end
  return sent, message, code
end

local function hand_over_queue(self)
  if #self.queue == 0 and self.missing == 0 then return end
  if #self.queue > 0 and not self.conn:try_send(self.queue) then return lost(self) end
  self.queue, self.queued = {}, 0
  if self.missing > 0 then hand_over(self) end
end

local reach

-- The timer must not keep a forgotten logger.
local WEAK <const> = { __mode = "v" }

local function retry_later(self, seconds)
  if self.retry or self.over or #self.queue == 0 then return end
  local box = setmetatable({ self }, WEAK)
  self.retry = core.background(core.after(seconds, function()
    local log = box[1]
    if not log then return end
    log.retry = nil
    reach(log)
  end))
end

local function attempt(self, timeout)
  local conn, message, code = dial.connect(self.addr, self.settings, timeout)
  if not conn then
    self.failure = message
    if conn == nil then self.backoff:failed() end
    return conn, message, code
  end
  self.conn, self.born = conn, core.now()
  hand_over_queue(self)
  return true
end

local Dialing = {
  __close = function(mark) mark[1].dialing = nil end,
}

local function run_dial(self, timeout)
  local ok, message, code
  do
    local _ <close> = setmetatable({ self }, Dialing)
    ok, message, code = attempt(self, timeout)
  end
  if not ok then retry_later(self, self.backoff:wait()) end
  if self.over and self.conn then lost(self) end
  return ok, message, code
end

-- One that was cancelled before it began could not say that it is over.
local function is_dialing(self)
  return self.dialing and self.dialing:status() ~= "canceled"
end

-- A task dials, if it is time.
function reach(self)
  if is_dialing(self) then return end
  local wait = self.backoff:wait()
  if wait > 0 then return retry_later(self, wait) end
  self.dialing = core.spawn(run_dial, self, self.timeout)
end

-- Where nobody turns the loop for long, a dial would not come on: one turn, which waits for
-- nothing.
local function turn_once()
  if core.outside() then core.sleep(0) end
end

-- ---- one line --------------------------------------------------------------------------

local function enqueue(self, line)
  if self.missing > 0 or self.queued + #line > self.capacity then return drop_line(self) end
  self.queue[#self.queue + 1] = line
  self.queued = self.queued + #line
  reach(self)
  turn_once()
  return true
end

local function accept(self, line)
  if #line > self.capacity then return drop_line(self) end
  if is_up(self) then
    local sent, _, code = hand_over(self, line)
    if sent then return true end
    if code == "EAGAIN" then return drop_line(self) end
  end
  return enqueue(self, line)
end

-- level: as of position().
local function log(self, text, level)
  if self.over then
    return nil, ("netlog %s: the logger is closed"):format(self.name), "ECLOSED"
  end
  local ok, message, code = accept(self, line_of(self, text, level + 1))
  if not ok then return nil, message, code end
  self.lines = self.lines + 1
  return true
end

-- ---- the user's ------------------------------------------------------------------------

--- Logs a line: its arguments as `print` shows them, separated by tabs.
-- The line goes to the connection at once, or waits in the buffer while the collector is away; a
-- full buffer drops it. It never waits for the network. Outside a task, while there is no
-- connection, it lets the loop turn once, so that the next one can come up. A text that ends with a
-- newline gets no second one; one inside it is sent as it is.
-- @function Netlog:print
-- @param ... any values
-- @treturn boolean true: it is on its way
-- @codes EAGAIN (the buffer is full), ECLOSED
-- @waits never
function Logger:print(...)
  local texts = table.pack(...)
  for i = 1, texts.n do texts[i] = tostring(texts[i]) end
  local ok, message, code = log(self, table.concat(texts, "\t"), 2)
  if not ok then return nil, message, code end -- no tail call: a level is counted
  return true
end

--- Logs a line that `string.format` makes.
-- @function Netlog:printf
-- @tparam string format as of `string.format`
-- @param ... its arguments
-- @treturn boolean true: it is on its way
-- @codes as of `Netlog:print`
-- @waits never
-- @raise what string.format raises
function Logger:printf(format, ...)
  local made, text = pcall(string.format, format, ...)
  if not made then error(text, 2) end
  local ok, message, code = log(self, text, 2)
  if not ok then return nil, message, code end
  return true
end

-- -> true once there is a connection. Tries once, whatever the back-off says.
local function await_connection(self, due)
  if is_up(self) then return true end
  if not is_dialing(self) then
    self.dialing = core.spawn(run_dial, self, seconds_to(due))
  end
  local joined, ok, message, code = self.dialing:join(seconds_to(due))
  if self.conn then return true end
  if not joined then message, code = ok, message end
  return nil, ("netlog %s: %s"):format(self.name, message or self.failure), code or "ENOTCONN"
end

--- Waits until everything logged was handed to the system.
-- Tries once to connect, if there is no connection.
-- @function Netlog:flush
-- @tparam[opt] number timeout seconds; default: the option `timeout`
-- @treturn boolean true
-- @codes ETIMEDOUT, those of `connect`, ECONNRESET, EPIPE
-- @waits until the system has it, or at most `timeout`
function Logger:flush(timeout)
  local due = core.now() + (timeout or self.timeout)
  local ok, message, code = await_connection(self, due)
  if not ok then return nil, message, code end
  if self.missing > 0 then hand_over(self) end
  if not self.conn then return nil, self.failure, "ECONNRESET" end
  return self.conn:flush(seconds_to(due))
end

--- Logs a line, flushes, and raises an error.
-- What is raised is what the global `error` would raise in its place. A cancel that interrupts the
-- flush does not take its place; where nothing may wait it raises without flushing.
-- @function Netlog:error
-- @param message the error value; what is logged is its text
-- @tparam[opt=1] integer level whose position is put before a string, as of the global `error`
-- @waits until the line was handed to the system, at most the option `timeout`
-- @raise always
function Logger:error(message, level)
  level = level or 1
  log(self, tostring(message), math.max(level, 1) + 1)
  pcall(self.flush, self)
  error(message, level > 0 and level + 1 or 0)
end

-- No line is accepted any more; those that were leave by themselves.
local function finish(self)
  self.over = true
  if self.retry then self.retry:cancel() end
  self.retry = nil
  if is_up(self) then
    hand_over_queue(self)
    if self.conn then lost(self) end
  elseif #self.queue > 0 then
    self.backoff.at = 0
    reach(self)
  end
end

--- Flushes and closes.
-- Twice is harmless. At the end of a `<close>` variable's block nothing waits: what was accepted
-- leaves behind it, for as long as the loop still turns.
-- @function Netlog:close
-- @tparam[opt] number timeout seconds for the flush; default: the option `timeout`
-- @treturn boolean true
-- @codes as of `Netlog:flush`: not everything was handed over
-- @waits as `Netlog:flush`
function Logger:close(timeout)
  if self.over then return true end
  local ok, message, code = true, nil, nil
  if self.conn or #self.queue > 0 then ok, message, code = self:flush(timeout) end
  if not ok then self.queue, self.queued, self.missing = {}, 0, 0 end
  finish(self)
  return ok, message, code
end

--- Tells what became of the lines.
-- @function Netlog:stats
-- @treturn table `lines` (accepted), `dropped`, `queued` (bytes that wait for a connection),
--   `connected`, `failure` (message of the last one, or nil)
-- @waits never
function Logger:stats()
  return { lines = self.lines, dropped = self.dropped, queued = self.queued,
    connected = is_up(self), failure = self.failure }
end

function Logger:__close()
  if not self.over then finish(self) end
end

-- Nothing can wait here and nobody is left to be told: what was not delivered is shown.
function Logger:__gc()
  self.over = true
  if self.retry then self.retry:cancel() end
  local left = table.concat(self.queue) .. notice(self)
  if left == "" or self.conn then return end
  io.stderr:write(("netlog %s: not delivered (%s):\n%s"):format(self.name, self.failure, left))
end

function Logger:__tostring()
  local state = self.over and "closed" or self.conn and "connected" or "not connected"
  return ("Netlog (%s, %s)"):format(self.name, state)
end

-- ---- making one ------------------------------------------------------------------------

--- Makes a logger that writes lines to a collector (`nc -lk 1902`, syslog over TCP, ...).
-- The first connection is awaited, for at most `timeout`: whatever is logged after that leaves even
-- if the script dies in the next line. A collector that is away is no failure: lines wait in the
-- buffer, and further attempts are made, with a back-off, at the next lines and while the loop runs
-- (they do not keep `wire.run` going).
--
-- A line looks as one of Go's package log: prefix, date, time, position, text.
--
-- What is delivered at the end: everything accepted while there was a connection, also after an
-- uncaught error, for up to 5 s of the peer's taking it (`os.exit` without `true` as second
-- argument closes nothing: `flush` before). Lines that still wait for a collector then are written
-- to standard error. What a collector had not read when it died is lost: TCP does not tell.
-- @function wire.netlog
-- @tparam string|table addr as of `connect`
-- @tparam[opt] table|number opts `prefix`; `date` (2009/01/23), `time` (01:23:23), `microseconds`,
--   `utc`, `file` (name.lua:23), `long_file` (dir/name.lua:23): flags, none is set; `buffer`
--   (64 KiB): bytes that may be unsent, and that may wait for a collector; lines beyond are
--   dropped, counted, and told of by one line as soon as there is room; `timeout` (5): of each
--   attempt and flush; `reconnect`: {`min` (0.1), `max` (30), `jitter` (0.5)}; `tls` and others of
--   `connect`
-- @treturn Netlog also if there is no connection yet
-- @codes EINVAL (what is no address)
-- @waits until there is a connection or the attempt has failed, at most `timeout`
-- @raise for options that do not exist
-- @follows log of Go
-- @usage
-- local log = wire.netlog("localhost:1902", {prefix = "[example] ", date = true, file = true})
-- log:print("a regular message")
-- log:error("a panic")
local function netlog(addr, opts)
  local own, settings = dial.options(opts, OWN, 2)
  dial.check_address(addr, 2)
  local timeout, capacity = settings.timeout or TIMEOUT, own.buffer or BUFFER
  if settings.limits then error("option 'limits': the option 'buffer' is the only limit", 2) end
  settings.timeout, settings.limits = nil, { high_water = capacity }
  local self = setmetatable({
    addr = addr, name = dial.address_text(addr), opts = own, settings = settings,
    timeout = timeout, capacity = capacity,
    backoff = dial.backoff(own.reconnect == nil and true or own.reconnect, 2),
    over = false, queue = {}, queued = 0, missing = 0, lines = 0, dropped = 0,
  }, Logger)
  local ok, message, code = attempt(self, timeout)
  if ok == false then error(message, 2) end
  if code == "EINVAL" then return nil, message, code end
  return self
end

return netlog
