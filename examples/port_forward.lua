#!/usr/bin/env lua5.4
-- Forwards connections: whoever connects here is talking to the target.
--
--   port_forward.lua listen_address target_address [patience]
--
-- SIGTERM ends it: no more connections are taken, and those that there are have the patience, 10
-- seconds unless said otherwise, to end by themselves.  The target has as long to answer.
local wire = require "lunewire"

if not arg[2] then
  io.stderr:write("usage: port_forward.lua listen_address target_address [patience]\n")
  os.exit(2, true)
end
local address, target, patience = arg[1], arg[2], tonumber(arg[3]) or 10

io.stdout:setvbuf("line")

local function log(...) print(os.date("%Y-%m-%d %H:%M:%S ") .. string.format(...)) end

-- The relay passes on everything: bytes, the end of one direction, a reset.
local function forward(client)
  local from = client:remote_addr()
  local upstream <close>, refused = wire.connect(target, patience)
  if not upstream then return log("%s: %s", from, refused) end
  local there, message, _, so_far, back = wire.relay(client, upstream)
  if there then return log("%s: %d bytes there, %d back", from, there, message) end
  log("%s: %s after %d bytes there, %d back", from, message, so_far, back)
end

local server = assert(wire.serve(address, forward))
print("forwarding " .. server:addr() .. " to " .. target)

-- A shutdown would end receives that are between messages, and a relay knows no messages.
wire.on_signal("TERM", function()
  server:close()
  wire.sleep(patience)
  server:shutdown(0)
end)
server:run() -- until it was closed and the last connection has ended
