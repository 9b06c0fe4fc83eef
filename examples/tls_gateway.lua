#!/usr/bin/env lua5.4
-- TLS in, plain out: puts TLS in front of a server that has none.
--
--   tls_gateway.lua CERT KEY listen_address target_address [patience]
--
-- CERT and KEY are PEM files; tls_echo.lua says how to make some for tests.
-- SIGTERM ends it: no more connections are taken, and those that there are have the patience, 10
-- seconds unless said otherwise, to end by themselves.  The target has as long to answer.
local wire = require "lunewire"

if not arg[4] then
  io.stderr:write("usage: tls_gateway.lua CERT KEY listen_address target_address [patience]\n")
  os.exit(2, true)
end
local cert, key, address, target = table.unpack(arg, 1, 4)
local patience = tonumber(arg[5]) or 10

io.stdout:setvbuf("line")

local function log(...) print(os.date("%Y-%m-%d %H:%M:%S ") .. string.format(...)) end

local forwarded = setmetatable({}, { __mode = "k" }) -- the connections that came so far

-- Runs once the handshake is over.  The relay passes on everything: bytes, the end of one
-- direction, a reset.
local function forward(client)
  forwarded[client] = true
  local from = client:remote_addr()
  local upstream <close>, refused = wire.connect(target, patience)
  if not upstream then return log("%s: %s", from, refused) end
  local there, message, _, so_far, back = wire.relay(client, upstream)
  if there then return log("%s: %d bytes there, %d back", from, there, message) end
  log("%s: %s after %d bytes there, %d back", from, message, so_far, back)
end

-- Whoever failed in the handshake is told of here, by a message that says who; of all others
-- forward has told.
local function tell_failed(client, message)
  if not forwarded[client] then log("%s", message or client:remote_addr() .. ": closed") end
end

local opts = { tls = { cert = cert, key = key }, on_close = tell_failed }
local server = assert(wire.serve(address, opts, forward))
print("forwarding TLS on " .. server:addr() .. " to " .. target)

-- A shutdown would end receives that are between messages, and a relay knows no messages.
wire.on_signal("TERM", function()
  server:close()
  wire.sleep(patience)
  server:shutdown(0)
end)
server:run() -- until it was closed and the last connection has ended
