-- What the clients of the mixed soak share.
-- What this is not: a session.
local traffic = require "spec.soak.traffic"
local visits = require "spec.soak.visits"
local wire = require "lunewire"

local ways = {}

ways.PATIENCE = 60 -- seconds; nothing takes as long

-- What a client sees of a server that ends.
local ENDS <const> = { EOF = true, ECONNRESET = true, ECONNREFUSED = true, EPIPE = true,
  ETLS = true, ENOTCONN = true, ECLOSED = true }

local Ended = { __tostring = function(e) return e.message end }

-- Like assert, but the code travels with the message.
function ways.must(value, message, code, ...)
  if value then return value, message, code, ... end
  error(setmetatable({ ended = code, message = ("%s (%s)"):format(message, code) }, Ended), 0)
end

local function shown(value)
  value = tostring(value)
  if #value <= 40 then return ("%q"):format(value) end
  return ("%d bytes: %q..."):format(#value, value:sub(1, 40))
end

function ways.same(got, expected)
  if got ~= expected then
    error(("INTEGRITY: %s instead of %s"):format(shown(got), shown(expected)), 2)
  end
end

local function describe(err) return getmetatable(err) == Ended and err or debug.traceback(err) end

-- A task of a session's, whose error becomes that of who joins it; it goes no other way, for a
-- session that has failed itself does not join.
function ways.start(fn) return wire.spawn(xpcall, fn, describe) end

function ways.join(task)
  local _, ok, err = assert(task:join())
  if not ok then error(err, 0) end
end

-- A connection to that service: over TCP, a Unix socket, either with TLS where the service has it.
function ways.dial(world, name, opts)
  opts = opts or {}
  opts.timeout = ways.PATIENCE
  local tls = world.addresses[name .. ".tls"] and math.random(3) == 1
  local unix = world.addresses[name .. ".tls"] and math.random(3) == 1
  if tls then opts.tls = world.context end
  local address = world.addresses[tls and name .. ".tls" or name]
  if unix then address = world.unix .. name .. (tls and "-tls" or "") end
  return ways.must(wire.connect(address, opts))
end

-- Some lines there and back.
function ways.talk(conn)
  for _ = 1, math.random(1, 5) do
    local text = traffic.letters(math.random(1, 500))
    ways.must(conn:send(text, "\n"))
    ways.same(ways.must(conn:recv_line(ways.PATIENCE)), text)
  end
end

-- Ends in one of the ways that there are.
function ways.finish(conn)
  local way = math.random(4)
  if way == 1 then return conn:reset() end
  if way == 2 then
    ways.must(conn:close_write())
    local data, message, code = conn:recv(1, ways.PATIENCE)
    ways.must(not data and code == "EOF", message or "more came than was sent", code)
  end
  if way < 4 then conn:close() end -- otherwise its scope ends it
end

local function shuffled(count, n)
  local list = {}
  for i = 1, count * n do list[i] = (i - 1) % count + 1 end
  for i = #list, 2, -1 do
    local k = math.random(i)
    list[i], list[k] = list[k], list[i]
  end
  return list
end

-- Runs one session -> true if it was cut off by the end of the server, which was to end.
local function attempt(session, world)
  local ok, err = xpcall(session, describe, world)
  if ok then return false end
  if world.cycles and getmetatable(err) == Ended and ENDS[err.ended] then return true end
  error(tostring(err), 0)
end

-- Plays each session n times, in an order that the seed says, some at once -> {sessions=, cut=}
function ways.play(sessions, seed, n, world, at_once)
  math.randomseed(seed)
  world.context = assert(wire.tls_context(world.tls))
  local order, cut = shuffled(#sessions, n), 0
  visits.all(#order, at_once, function(i)
    if attempt(sessions[order[i]], world) then cut = cut + 1 end
  end)
  return { sessions = #order, cut = cut }
end

return ways
