#!/usr/bin/env lua5.4
-- Eight tasks that play ping-pong over the few connections of one pool.
--
--   ping_pool.lua [--tls CA] [address [rounds [interval [max]]]]
--
-- CA is a PEM file with the certificate that the server's must come from.  Each task plays that
-- many rounds (3), with so many seconds between them (0.1), over at most `max` connections (4).
-- Try it with ping_server.lua.
local wire = require "lunewire"

local TASKS <const> = 8
local PATIENCE <const> = 3 -- seconds to connect, and for each answer

io.stdout:setvbuf "line"

local opts = { timeout = PATIENCE }
if arg[1] == "--tls" then
  opts.tls = { ca = arg[2] }
  table.move(arg, 3, #arg + 2, 1)
end

local rounds, interval = tonumber(arg[2]) or 3, tonumber(arg[3]) or 0.1
opts.max = tonumber(arg[4]) or 4
local pool = wire.pool(arg[1] or "127.0.0.1:7788", opts)

-- The connection goes back to the pool at the end of the function; after an error it does not, and
-- the next one who asks gets another.
local function play_round(player)
  local conn <close>, message = pool:get()
  if not conn then return print(("client %d: %s"):format(player, message)) end
  local sent, why = conn:send "ping"
  if not sent then return print(("client %d: send error: %s"):format(player, why)) end
  local answer, problem = conn:recv(4, PATIENCE)
  print(("client %d: %s"):format(player, answer and "recv " .. answer or problem))
end

local function play(player)
  for round = 1, rounds do
    play_round(player)
    if round < rounds then wire.sleep(interval) end -- without a connection: others have it
  end
end

wire.run(function()
  local tasks = {}
  for player = 1, TASKS do tasks[player] = wire.spawn(play, player) end
  for _, task in ipairs(tasks) do task:join() end
  local stats = pool:stats()
  print(("%d connections made, used again %d times"):format(stats.created, stats.reused))
  pool:close()
end)
