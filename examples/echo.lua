#!/usr/bin/env lua5.4
-- An echo service, and the client that asks it for an answer every second.
--
--   echo.lua [address [connections]]                serves, for ever or that many connections
--   echo.lua client [address [count [interval]]]    asks, for ever or that often
--
-- The address is 127.0.0.1:8999 unless said otherwise; with port 0 the system chooses one.
local wire = require "lunewire"

local ADDRESS <const> = "127.0.0.1:8999"
local PATIENCE <const> = 5 -- seconds for an answer

-- A pipe or a log file shall see each line when it is written, as a terminal does.
io.stdout:setvbuf("line")

local function serve(address, connections)
  local accepted = 0
  local server = assert(wire.serve(address, function(conn, server)
    accepted = accepted + 1
    -- Stops listening; connections that were accepted live on until their peers are done.
    if accepted == connections then server:close() end
    for line in conn:lines() do
      conn:send("> ", line, "\n")
    end
  end))
  print("echo server on " .. server:addr() .. ", try it:")
  print("  printf 'hello\\n' | nc -q1 127.0.0.1 " .. server:port())
  wire.run()
end

-- One question on a connection of its own, closed whichever way this function is left.
local function ask(address)
  local conn <close>, no_conn = wire.connect(address, PATIENCE)
  if not conn then return nil, no_conn end
  conn:send(os.date("%Y-%m-%d %H:%M:%S"), "\n")
  local reply, no_reply = conn:recv_line(PATIENCE)
  if not reply then return nil, no_reply end
  return reply .. " " .. conn:local_addr() .. " " .. conn:remote_addr()
end

-- A server that is away for a while is no reason to give up.
local function client(address, count, interval)
  for i = 1, count do
    local answer, message = ask(address)
    if answer then
      print(answer)
    else
      io.stderr:write(message, "\n")
    end
    if i < count then wire.sleep(interval) end
  end
end

if arg[1] == "client" then
  client(arg[2] or ADDRESS, tonumber(arg[3]) or math.huge, tonumber(arg[4]) or 1)
else
  serve(arg[1] or ADDRESS, tonumber(arg[2]))
end
