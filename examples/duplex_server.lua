#!/usr/bin/env lua5.4
-- Full duplex: either side sends when it likes to.  This one answers a hello, notes heartbeats,
-- and tells each client to leave after a while.
--
--   duplex_server.lua [address [leave]]
--
-- The address is 127.0.0.1:8999, and a client has to leave after 10 seconds, unless said
-- otherwise.  Try it with duplex_client.lua; both need lua-cjson.
package.path = arg[0]:gsub("[^/]*$", "") .. "?.lua;" .. package.path
local duplex = require "duplex"
local wire = require "lunewire"

local address = arg[1] or "127.0.0.1:8999"
local leave = tonumber(arg[2]) or 10

io.stdout:setvbuf("line")

local acts = {}

function acts.hello(conn, msg)
  duplex.log("hello message from [%s]: %s", conn:remote_addr(), msg.Data)
  duplex.send(conn, msg.Act, "Nice to meet you!")
end

function acts.heartbeat(conn) duplex.log("heartbeat from [%s]", conn:remote_addr()) end

-- A timer of the connection ends with it: nobody is told anything who has left already.
local function serve(conn)
  conn:after(leave, duplex.send, conn, "doexit")
  local message, code = duplex.dispatch(conn, acts)
  duplex.log("%s", code == "EOF" and "client closed" or message)
end

local server = assert(wire.serve(address, serve))
print("duplex server on " .. server:addr())
wire.run()
