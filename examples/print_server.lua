#!/usr/bin/env lua5.4
-- A server that prints what it receives, and a client that sends it a number every second.
--
--   print_server.lua [address [count [interval]]]
--
-- Sends 10,000 numbers to 127.0.0.1:8999 unless said otherwise.  The server and its client
-- share this process, but talk through the network: anybody else may send something too.
local wire = require "lunewire"

local address = arg[1] or "127.0.0.1:8999"
local count = tonumber(arg[2]) or 10000
local interval = tonumber(arg[3]) or 1

io.stdout:setvbuf("line")

-- Each chunk is what had arrived when it was asked for: with a second between them, one number.
-- Where messages may follow each other closely, lines or packages keep them apart.
local function show(conn)
  for data in conn:chunks() do
    print(os.date("%Y-%m-%d %H:%M:%S") .. " " .. data)
  end
end

-- Outside a task each send leaves at once; nothing gathers until there is more of it.
local function send_numbers(to)
  local conn <close> = assert(wire.connect(to))
  for i = 0, count - 1 do
    assert(conn:send(i))
    wire.sleep(interval)
  end
end

local server = assert(wire.serve(address, show))
print("printing what comes to " .. server:addr())
send_numbers(server:addr())
server:close()
wire.run() -- until the last connection has ended
