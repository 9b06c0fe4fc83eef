-- What those have in common who dial again and again (client, pool, netlog): the options of connect
-- among their own, and when the next attempt is due.
-- What this is not: dialling; that is core.connect.
local core = require "lunewire.core"
local options = require "lunewire.options"

local dial = {}

-- Of core.connect, which looks at those of kind "any" more closely.
local CONNECT <const> = {
  timeout = "seconds", tls = "any", local_addr = "any", nodelay = "boolean", keepalive = "any",
  framing = "any", limits = "any",
}

-- The options as given -> those whose keys are in `own`, those of connect: both are copies, so that
-- what the caller does to its table later changes nothing.  Misuse is raised as by error(text,
-- level) of the caller.
function dial.options(given, own, level)
  local known, mine, connect = {}, {}, {}
  for key, kind in pairs(CONNECT) do known[key] = kind end
  for key, kind in pairs(own) do known[key] = kind end
  for key, value in next, options.read(given, known, level + 1) do
    (own[key] and mine or connect)[key] = value
  end
  return mine, connect
end

-- Raises for what can be no address; one that is none yet fails in connect.
function dial.check_address(addr, level)
  local ok, text = pcall(core.split_address, addr)
  if not ok then error(text, level + 1) end
  return addr
end

-- An address for people.
function dial.address_text(addr)
  if type(addr) ~= "table" then return addr end
  local host = tostring(addr.host)
  return (host:find(":", 1, true) and "[%s]:%s" or "%s:%s"):format(host, addr.port)
end

-- Seconds from now until a time, which may be math.huge.
function dial.seconds_to(due) return due == math.huge and due or due - core.now() end

-- Calls the core; misuse comes back as `false, text`, to be raised where the user stands.
local function protected(f, ...)
  local ok, result, message, code = pcall(f, ...)
  if ok then return result, message, code end
  if result == core.CANCELED then error(result, 0) end
  return false, result
end

-- Files are read once for all connections, whose sessions can be resumed then.
local function make_context(settings)
  local tls = settings.tls
  if tls ~= true and type(tls) ~= "table" then return true end
  local context, message, code = protected(core.tls_context, tls ~= true and tls or nil)
  if context then settings.tls = context end
  return context, message, code
end

-- -> conn | nil, message, code | false, what misuse this is
function dial.connect(addr, settings, timeout)
  local made, message, code = make_context(settings)
  if not made then return made, message, code end
  local opts = { timeout = timeout }
  for key, value in pairs(settings) do
    if key ~= "timeout" then opts[key] = value end
  end
  return protected(core.connect, addr, opts)
end

-- Closes without waiting, whoever calls.
function dial.drop(conn)
  local _ <close> = conn
end

-- ---- back-off ------------------------------------------------------------------------

local Backoff = {}
Backoff.__index = Backoff

local BACKOFF <const> = { min = "seconds", max = "seconds", jitter = "any" }

local function new_backoff(min, max, jitter)
  return setmetatable({ min = min, max = max, jitter = jitter, failures = 0, at = 0 }, Backoff)
end

local function is_share(value) return type(value) == "number" and value >= 0 and value <= 1 end

-- given: true or {min=, max=, jitter=}.  After the n-th failure in a row the next attempt is due
-- in min * 2^n seconds, at most max, less a random part of it: up to the share `jitter`.
function dial.backoff(given, level)
  if given == true then given = {} end
  if type(given) ~= "table" then
    error("option 'reconnect' must be true or a table {min=, max=, jitter=}, not " .. type(given),
      level + 1)
  end
  local opts = options.read(given, BACKOFF, level + 1)
  local jitter = opts.jitter == nil and 0.5 or opts.jitter
  local min = opts.min or 0.1
  local max = opts.max or math.max(min, 30)
  if not is_share(jitter) then error("option 'jitter' must be a number from 0 to 1", level + 1) end
  if min < 0 or max < min then
    error("options 'min' and 'max' must be 0 <= min <= max", level + 1)
  end
  return new_backoff(min, max, jitter)
end

-- The same once more, from the beginning.
function Backoff:fresh()
  return new_backoff(self.min, self.max, self.jitter)
end

-- Seconds until the next attempt is due; 0 or less: now.
function Backoff:wait() return self.at - core.now() end

function Backoff:failed()
  self.failures = math.min(self.failures + 1, 60)
  local delay = math.min(self.min * 2.0 ^ self.failures, self.max)
  delay = delay * (1 - self.jitter * math.random())
  self.at = core.now() + math.max(delay, self.min)
end

-- A connection that was up since `born` is lost: what did not last for `max` counts as a failed
-- attempt, so that who is thrown out at once does not come back at once.
function Backoff:lost(born)
  if core.now() - born < self.max then return self:failed() end
  self.failures, self.at = 0, 0
end

return dial
