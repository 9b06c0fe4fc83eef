-- bench/load as a peer: runs it, and servers for it that have a fault or none.
-- What this is not: a spec; bench_load_spec.lua and bench_load_modes_spec.lua are.
local assert = require "luassert"
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local loads = {}

local CORE <const> = assert(package.searchpath("lunewire.core", package.cpath))
-- The program, made by make bench-build.
loads.PROGRAM = CORE:gsub("lunewire/core%.so$", "bench/load")

local PATIENCE <const> = 10 * support.slowness
local MOST <const> = 16 * 1024 * 1024 -- bytes of a message

loads.MODES = { "length", "line", "bulk", "tls", "once", "udp" }
loads.MISSING = "no reply for" -- which it says after a shorter while

-- ---- the generator -------------------------------------------------------------------

-- Runs it -> what it printed, its exit status.  environment: words for env, a command at the end.
function loads.run(mode, port, words, environment, patience)
  local command = ("env %s %s %s 127.0.0.1 %d --patience %g %s"):format(environment or "",
    loads.PROGRAM, mode, port, patience or PATIENCE, words or "")
  return support.peer(command, 30):output()
end

function loads.fields(text)
  local found = {}
  for key, value in text:gmatch "(%S+)=(%S+)" do found[key] = tonumber(value) end
  return found
end

-- It found everything right -> its line's fields.
function loads.passes(mode, port, words, environment)
  local text, status = loads.run(mode, port, "--seconds 0.05 " .. (words or ""), environment)
  assert.are.same({ 0, text }, { status, text })
  assert.truthy(text:match "^[^\n]+\n$", text)
  return loads.fields(text)
end

-- It did not, and says why.
function loads.fails(why, mode, port, words, environment)
  local patience = why == loads.MISSING and 0.3 or nil
  words = "--seconds 0.1 " .. (words or "")
  local text, status = loads.run(mode, port, words, environment, patience)
  assert.truthy(text:find("^load: [^\n]*" .. why .. "[^\n]*\n$"), text)
  assert.are.equal(1, status, text)
end

-- ---- servers -------------------------------------------------------------------------

local function packages(header)
  local format = (">s%d"):format(header)
  return function(conn)
    local data = conn:recv_pkg { header = header, max = MOST }
    return data and format:pack(data)
  end
end

loads.receivers = {
  length = packages(2),
  tls = packages(2),
  once = packages(2),
  bulk = packages(4),
  line = function(conn) return conn:recv_line { keep = true } end,
}

local function echo(_, message) return message end

-- Sends what `fault` makes of each message and of its number, counted from zero on its connection;
-- ends the connection if that is nothing.
local function serve_stream(mode, fault)
  local receive, tls = loads.receivers[mode], mode == "tls" and pki.server() or nil
  return assert(wire.serve("127.0.0.1:0", { tls = tls }, function(conn)
    for number = 0, mode == "once" and 0 or math.huge do
      local message = receive(conn)
      local reply = message and fault(number, message, conn)
      if not reply or not conn:send(reply) then return end
    end
  end))
end

-- The same with datagrams, which have a number for all clients together.
local function serve_datagrams(fault)
  local number = -1
  return assert(wire.serve_udp("127.0.0.1:0", { max = 65507, workers = 1000 },
    function(data, from, udp)
      number = number + 1
      local reply = fault(number, data, udp, from)
      if reply then udp:send_to(reply, from) end
    end))
end

-- Echoes, with that fault if any -> the server, its port.
function loads.serve(mode, fault)
  if mode == "udp" then
    local udp = serve_datagrams(fault or echo)
    return udp, select(3, udp:local_addr())
  end
  local server = serve_stream(mode, fault or echo)
  return server, server:port()
end

-- A fault of one message only; that of number zero may come before the load begins.
function loads.at(wrong_number, fault)
  return function(number, message, ...)
    if number == wrong_number then return fault(message, ...) end
    return message
  end
end

function loads.flip(message, position)
  local byte = message:byte(position)
  return message:sub(1, position - 1) .. string.char(byte ~ 1) .. message:sub(position + 1)
end

return loads
