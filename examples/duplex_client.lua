#!/usr/bin/env lua5.4
-- The client of duplex_server.lua: sends heartbeats, says hello once, and leaves when it is told.
--
--   duplex_client.lua [address [beat [hello]]]
--
-- The address is 127.0.0.1:8999, the heart beats every second, and hello is said after 3 seconds,
-- unless said otherwise.  SIGTERM closes the connection.
package.path = arg[0]:gsub("[^/]*$", "") .. "?.lua;" .. package.path
local duplex = require "duplex"
local wire = require "lunewire"

local address = arg[1] or "127.0.0.1:8999"
local beat = tonumber(arg[2]) or 1
local hello = tonumber(arg[3]) or 3

io.stdout:setvbuf("line")

local acts = {}

function acts.hello(conn, msg)
  duplex.log("hello response message from [%s]: %s", conn:remote_addr(), msg.Data)
end

function acts.heartbeat(conn) duplex.log("heartbeat from [%s]", conn:remote_addr()) end

function acts.doexit(conn)
  duplex.log("exit command from [%s]", conn:remote_addr())
  conn:close()
end

-- One task receives; the timers' tasks send.  They end with the connection.
wire.run(function()
  local conn <close> = assert(wire.connect(address))
  wire.on_signal("TERM", function() conn:close() end)
  conn:every(beat, duplex.send, conn, "heartbeat")
  conn:after(hello, duplex.send, conn, "hello", "My name's John!")
  local message, code = duplex.dispatch(conn, acts)
  if code == "EOF" then
    duplex.log("server closed")
  elseif code ~= "ECLOSED" then
    duplex.log("%s", message)
  end
end)
