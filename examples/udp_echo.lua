#!/usr/bin/env lua5.4
-- An echo service by datagrams (UDP), and a client that asks it once.
--
--   udp_echo.lua [address [datagrams]]        serves, for ever or that many datagrams
--   udp_echo.lua client [address [message]]   sends the message and prints what comes back
--
-- The address is 127.0.0.1:9001 unless said otherwise; with port 0 the system chooses one.
local wire = require "lunewire"

local ADDRESS <const> = "127.0.0.1:9001"
local LONGEST <const> = 1024 -- bytes that the service takes
local TRIES <const> = 3      -- a datagram may get lost, and so may the answer
local PATIENCE <const> = 1   -- seconds for each try

-- A pipe or a log file shall see each line when it is written, as a terminal does.
io.stdout:setvbuf("line")

local function serve(address, datagrams)
  local served = 0
  local server = assert(wire.serve_udp(address, { max = LONGEST }, function(data, from, udp, cut)
    print(("%d bytes from %s%s"):format(#data, from, cut and ", cut off there" or ""))
    udp:send_to(data, from)
    served = served + 1
    if served == datagrams then udp:close() end
  end))
  local _, host, port = server:local_addr()
  print("udp echo server on " .. server:local_addr() .. ", try it:")
  print(("  printf 'hello\\n' | nc -u -W 1 %s %d"):format(host, port))
  wire.run()
end

-- Connected: only the service's datagrams come here, and so does the word that nobody is there.
local function ask(udp, message)
  local answer, why, code
  for _ = 1, TRIES do
    answer, why = udp:send(message)
    if answer then answer, why, code = udp:recv(PATIENCE) end
    if answer or code ~= "ETIMEDOUT" then break end
  end
  return answer, why
end

local function client(address, message)
  local udp <close> = assert(wire.udp())
  assert(udp:connect(address))
  print((assert(ask(udp, message))))
end

if arg[1] == "client" then
  client(arg[2] or ADDRESS, arg[3] or os.date "%Y-%m-%d %H:%M:%S")
else
  serve(arg[1] or ADDRESS, tonumber(arg[2]))
end
