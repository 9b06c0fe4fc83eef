#!/usr/bin/env lua5.4
-- A line server as it goes into production: what a peer sends comes back in capital letters.
--
--   upper.lua [address [patience]]
--
-- The address is 127.0.0.1:1234 unless said otherwise.  A peer may send lines of 1,024 bytes at
-- most, and must send one every minute (the patience, in seconds): otherwise it is told why it
-- has to go.  SIGTERM ends the server: what was received is answered, nobody is cut off.
local wire = require "lunewire"

local address = arg[1] or "127.0.0.1:1234"
local patience = tonumber(arg[2]) or 60
local MOST <const> = 1024 -- bytes of a line

io.stdout:setvbuf("line")

local function log(...) print(os.date("%Y-%m-%d %H:%M:%S ") .. table.concat({ ... }, " ")) end

local FAREWELL <const> = {
  EMSGSIZE = ("a line has at most %d bytes\n"):format(MOST),
  ETIMEDOUT = ("no line for %g s\n"):format(patience),
  ECLOSED = "the server is going down\n",
}

-- The close that follows takes care that a farewell arrives, whatever the peer still sends.
local function shout(conn)
  for line in conn:lines() do
    conn:send(line:upper(), "\n")
  end
  local _, code = conn:last_error()
  conn:send(FAREWELL[code] or "")
end

local server = assert(wire.serve(address, {
  limits = { line = MOST },
  idle_timeout = patience,
  on_accept = function(conn) log("accepted connection from", (conn:remote_addr())) end,
  on_close = function(conn, _, why) log("closed connection from", (conn:remote_addr()), why) end,
}, shout))
print("upper server on " .. server:addr())
wire.run()
print("upper server has ended")
