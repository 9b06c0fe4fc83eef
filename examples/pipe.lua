#!/usr/bin/env lua5.4
-- Connections without a network: an echo, messages on a stream, and a peer that says nothing.
--
-- Both ends of a pipe behave as those of a TCP connection do, so whatever is shown here holds
-- for a socket too; that is also how code with a Conn is tested without one.
local wire = require "lunewire"

-- One line there, one answer back.
local function echo()
  local client, server = wire.pipe()
  wire.spawn(function()
    local conn <close> = server -- the close is what ends the client's reading
    conn:send("echo: ", conn:recv_line { keep = true })
  end)
  client:send("hello\n")
  io.write(client:read("a"))
  client:close()
end

-- The stream is cut wherever it pleases the transport; the newlines say what a message is.
local function framing()
  local client, server = wire.pipe()
  local reader = wire.spawn(function()
    for message in server:lines() do
      print(("message: %q"):format(message))
    end
    server:close()
  end)
  client:send("alpha\nbra")
  client:send("vo\n")
  client:send("charlie\n")
  client:close()
  reader:join()
end

-- A deadline is a time, not a duration: it holds for all calls until it is set anew.
local function deadline()
  local client <close>, server = wire.pipe()
  client:set_recv_deadline(wire.now() + 0.05)
  local _, message, code = client:recv()
  assert(code == "ETIMEDOUT", message)
  client:set_recv_deadline(nil)
  server:send("better late")
  server:close()
  assert(client:recv() == "better late")
  print("read timed out — peer is idle, connection still usable")
end

echo()
framing()
deadline()
