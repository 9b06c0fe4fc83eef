#!/usr/bin/env lua5.4
-- A client of Redis: RESP, pipelined, over the connections of one pool.
--
--   redis_client.lua [--tls CA] address command [argument...]     asks once, prints the reply
--   redis_client.lua [--tls CA] address                           eight tasks count together
--
-- The address is host:port, or unix:/path of the server's socket.  CA is a PEM file with the
-- certificate that the server's must come from.
local wire = require "lunewire"

local TASKS <const>, BATCHES <const>, BATCH <const> = 8, 10, 100
local PATIENCE <const> = 5 -- seconds for each reply, and to connect
local KEY <const> = "lunewire:example:counter"

local Null = setmetatable({}, { __tostring = function() return "(nil)" end })

-- ---- RESP ------------------------------------------------------------------------------

-- A command as Redis reads it: a list of strings, each with its length before it.
local function encode(command)
  local parts = { ("*%d\r\n"):format(#command) }
  for _, word in ipairs(command) do
    word = tostring(word)
    parts[#parts + 1] = ("$%d\r\n%s\r\n"):format(#word, word)
  end
  return table.concat(parts)
end

local receive

local function receive_string(conn, n)
  if n < 0 then return Null end
  local data, message, code = conn:recv(n, { timeout = PATIENCE, max = 512 * 1024 * 1024 })
  if not data then return nil, message, code end
  local ended
  ended, message, code = conn:recv(2, PATIENCE)
  if not ended then return nil, message, code end
  return data
end

local function receive_list(conn, n)
  if n < 0 then return Null end
  local list = {}
  for i = 1, n do
    local value, message, code = receive(conn)
    if value == nil then return nil, message, code end
    list[i] = value
  end
  return list
end

local texts = {
  ["+"] = function(text) return text end,
  ["-"] = function(text) return { error = text } end,
}
local counted = {
  [":"] = function(_, n) return n end,
  ["$"] = receive_string,
  ["*"] = receive_list,
}

-- -> string, integer, list, Null or {error=} | nil, message, code
function receive(conn)
  local line, message, code = conn:recv_line(PATIENCE)
  if not line then return nil, message, code end
  local kind, rest = line:sub(1, 1), line:sub(2)
  if texts[kind] then return texts[kind](rest) end
  local n = math.tointeger(tonumber(rest))
  if n and counted[kind] then return counted[kind](conn, n) end
  conn:close() -- what else may come here is anybody's guess
  return nil, "this is no reply of Redis: " .. line, "EPROTO"
end

-- Sends all commands at once and then takes the replies -> list of them | nil, message, code.
-- When a reply is missing the connection has failed or timed out: the pool does not use it again.
local function pipeline(conn, commands)
  local requests = {}
  for i, command in ipairs(commands) do requests[i] = encode(command) end
  local sent, message, code = conn:send(requests)
  if not sent then return nil, message, code end
  return receive_list(conn, #commands)
end

-- ---- what the script does -----------------------------------------------------------------

local function show(value, indent)
  if type(value) ~= "table" or value == Null then return print(indent .. tostring(value)) end
  if value.error then return print(indent .. "(error) " .. value.error) end
  for i, item in ipairs(value) do show(item, ("%s%d) "):format(indent, i)) end
  if #value == 0 then print(indent .. "(empty list)") end
end

local function ask(pool, command)
  local replies, message = pool:use(pipeline, { command })
  if not replies then
    io.stderr:write("redis_client: ", message, "\n")
    os.exit(1, true)
  end
  show(replies[1], "")
end

local function count_on(pool)
  local commands = {}
  for i = 1, BATCH do commands[i] = { "INCR", KEY } end
  for _ = 1, BATCHES do assert(pool:use(pipeline, commands)) end
end

local function count_together(pool)
  assert(pool:use(pipeline, { { "DEL", KEY } }))
  local tasks, start = {}, wire.now()
  for i = 1, TASKS do tasks[i] = wire.spawn(count_on, pool) end
  for _, task in ipairs(tasks) do assert(task:join()) end
  local seconds = wire.now() - start
  local replies = assert(pool:use(pipeline, { { "GET", KEY }, { "DEL", KEY } }))
  print(("%d tasks over %d connections counted to %s"):format(TASKS, pool:stats().created,
    replies[1]))
  io.stderr:write(("%.0f commands a second\n"):format(TASKS * BATCHES * BATCH / seconds))
end

local opts = { max = 4, timeout = PATIENCE }
if arg[1] == "--tls" then
  opts.tls = { ca = arg[2] }
  table.move(arg, 3, #arg + 2, 1)
end
if not arg[1] then
  io.stderr:write "usage: redis_client.lua [--tls CA] address [command [argument...]]\n"
  os.exit(2, true)
end

wire.run(function()
  local pool <close> = wire.pool(arg[1], opts)
  if arg[2] then
    ask(pool, { table.unpack(arg, 2) })
  else
    count_together(pool)
  end
end)
