#!/usr/bin/env lua5.4
-- The server of a game of ping-pong, plain or with TLS: it answers whatever comes with "pong".
--
--   ping_server.lua [--tls CERT KEY] [address [connections]]
--
-- CERT and KEY are PEM files.  The address is 127.0.0.1:7788 unless said otherwise; with port 0 the
-- system chooses one.  It serves for ever, or that many connections.
-- A connection is closed at the peer's end and reset after an error, so that a peer that is in
-- trouble is not told that all is well.
local wire = require "lunewire"

local PATIENCE <const> = 60 -- seconds for the next ping

io.stdout:setvbuf "line"

local function play(conn)
  while true do
    local data, message, code = conn:recv_some(8, PATIENCE)
    if code == "EOF" then
      return print "server: the client closed the connection"
    elseif not data then
      print("server: recv error: " .. message)
      return conn:reset()
    end
    print("server recv " .. data)
    print "server send pong"
    local sent, why = conn:send "pong"
    if not sent then
      print("server: send error: " .. why)
      return conn:reset()
    end
  end
end

local opts = {}
if arg[1] == "--tls" then
  opts.tls = { cert = arg[2], key = arg[3] }
  table.move(arg, 4, #arg + 3, 1)
end

local connections = tonumber(arg[2]) or math.huge
local server = assert(wire.serve(arg[1] or "127.0.0.1:7788", opts, function(conn, server)
  connections = connections - 1
  -- Stops listening; connections that were accepted live on until their peers are done.
  if connections == 0 then server:close() end
  play(conn)
end))
print("ping-pong server on " .. server:addr())
wire.run()
