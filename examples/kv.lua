#!/usr/bin/env lua5.4
-- A key-value server that speaks the protocol of Redis (RESP 2), for redis-cli and its like.
--
--   kv.lua [address]
--
-- The address is 127.0.0.1:6379 unless said otherwise.  Serves until SIGTERM or SIGINT: what has
-- been received by then is still answered.  The data has no limit but memory, and is gone with the
-- process.
local wire = require "lunewire"

-- What one client may make us hold, each more than enough for a sane one.
local MOST_BYTES <const> = 1048576 -- of a command
local MOST_WORDS <const> = 1024    -- of a command
local MOST_LINE <const> = 1024     -- bytes of a command typed by hand
local MOST_DIGITS <const> = 9      -- of a length

local match, sub = string.match, string.sub

-- ---- from bytes to commands ----------------------------------------------------------
-- A command is a list of words: *2 \r\n $4 \r\n ECHO \r\n $5 \r\n hello \r\n, or the same on
-- one line as a human would type it.  The functions here return what they took and where the
-- next begins; or nil and how many bytes are needed; or false and what is wrong.

-- A word, with its length before and its end behind it, takes this many bytes at least.
local LEAST_WORD <const> = #"$0\r\n\r\n"

local function bad(what) return false, "Protocol error: " .. what end

-- The number behind a mark, of which there may be no more than the beginning yet.
local function take_number(bytes, at, pattern, what)
  local digits, after = match(bytes, pattern, at)
  if digits and #digits <= MOST_DIGITS then return tonumber(digits), after end
  local cut = #bytes - at <= MOST_DIGITS + 1 and match(bytes, "^.?%d*\r?$", at)
  if cut then return nil, #bytes + 1 end
  return bad(what)
end

local function take_word(bytes, at)
  local length, start = take_number(bytes, at, "^%$(%d+)\r\n()", "invalid bulk length")
  if not length then return length, start end
  local after = start + length + 2
  if after > #bytes + 1 then return nil, after - 1 end
  if sub(bytes, after - 2, after - 1) ~= "\r\n" then return bad "a bulk string has no end" end
  return sub(bytes, start, after - 3), after
end

local function take_words(bytes, at, count)
  local words = {}
  for i = 1, count do
    local word, after = take_word(bytes, at)
    if word == nil then return nil, after + (count - i) * LEAST_WORD end
    if not word then return false, after end
    words[i], at = word, after
  end
  return words, at
end

-- Nearly all commands are two or three short words without a line end: one pattern takes them at
-- once, and their lengths, written as LENGTH has them, only have to be compared.
local SHORT <const> = "%$(%d%d?)\r\n([^\r]*)\r\n"
local TWO <const> = "^%*2\r\n" .. SHORT .. SHORT .. "()"
local THREE <const> = "^%*3\r\n" .. SHORT .. SHORT .. SHORT .. "()"

local LENGTH = {}
for n = 0, 99 do LENGTH[n] = tostring(n) end

-- What match found, or nothing: then the bytes have to be looked at more closely.
local function two(n1, word1, n2, word2, after)
  if n1 and n1 == LENGTH[#word1] and n2 == LENGTH[#word2] then
    return { word1, word2 }, after
  end
end

local function three(n1, word1, n2, word2, n3, word3, after)
  if n1 and n1 == LENGTH[#word1] and n2 == LENGTH[#word2] and n3 == LENGTH[#word3] then
    return { word1, word2, word3 }, after
  end
end

local function take_line(bytes, at)
  local line, after = match(bytes, "^([^\n]*)\n()", at)
  if (after or #bytes) - at > MOST_LINE then return bad "too big inline request" end
  if not line then return nil, #bytes + 1 end
  local words = {}
  for word in line:gmatch "%S+" do words[#words + 1] = word end
  return words, after
end

local function take_command(bytes, at)
  local words, after = two(match(bytes, TWO, at))
  if not words then words, after = three(match(bytes, THREE, at)) end
  if words then return words, after end
  if sub(bytes, at, at) ~= "*" then return take_line(bytes, at) end
  local count, start = take_number(bytes, at, "^%*(%d+)\r\n()", "invalid multibulk length")
  if not count then return count, start end
  if count > MOST_WORDS then return bad "invalid multibulk length" end
  return take_words(bytes, start, count)
end

-- A framing whose messages are all the commands that have come: who sends a hundred without
-- waiting for answers shall not make us look at the rest a hundred times.
local resp = {}

function resp.decode(bytes)
  local batch, at = {}, 1
  while at <= #bytes do
    local words, after = take_command(bytes, at)
    if words == nil then
      if at == 1 then return nil, after end
      break
    end
    if not words then
      batch.bad, at = after, #bytes + 1
    else
      batch[#batch + 1], at = words, after
    end
  end
  return batch, at - 1
end

function resp.encode(reply) return reply end

-- ---- the data and its commands -------------------------------------------------------

local data, size = {}, 0

local function put(key, value)
  if data[key] == nil then size = size + 1 end
  data[key] = value
end

local function remove(key)
  if data[key] == nil then return 0 end
  data[key], size = nil, size - 1
  return 1
end

local function ok(conn) conn:send "+OK\r\n" end

local function integer(conn, n) conn:send(":", n, "\r\n") end

local function bulk(conn, value)
  if value then
    conn:send("$" .. #value .. "\r\n" .. value .. "\r\n")
  else
    conn:send "$-1\r\n"
  end
end

local function array(conn, values, n)
  conn:send("*", n, "\r\n")
  for i = 1, n do bulk(conn, values[i]) end
end

local function fail(conn, message) conn:send("-ERR ", message, "\r\n") end

-- By name: the least and the most arguments, and the function, which sends the answer and
-- returns true if the connection shall end.
local commands = {}

commands.PING = { 0, 1, function(conn, text)
  if text then bulk(conn, text) else conn:send "+PONG\r\n" end
end }

commands.ECHO = { 1, 1, bulk }

commands.QUIT = { 0, math.huge, function(conn)
  ok(conn)
  return true
end }

commands.GET = { 1, 1, function(conn, key) bulk(conn, data[key]) end }

commands.SET = { 2, 2, function(conn, key, value)
  put(key, value)
  ok(conn)
end }

-- Sending may wait, and others change the data meanwhile: what belongs together is read first.
commands.MGET = { 1, math.huge, function(conn, ...)
  local values, n = {}, select("#", ...)
  for i = 1, n do values[i] = data[select(i, ...)] end
  array(conn, values, n)
end }

commands.DEL = { 1, math.huge, function(conn, ...)
  local removed = 0
  for _, key in ipairs { ... } do removed = removed + remove(key) end
  integer(conn, removed)
end }

commands.EXISTS = { 1, math.huge, function(conn, ...)
  local found = 0
  for _, key in ipairs { ... } do
    if data[key] then found = found + 1 end
  end
  integer(conn, found)
end }

commands.INCR = { 1, 1, function(conn, key)
  local text = data[key] or "0"
  local n = text:find "^-?%d+$" and math.tointeger(tonumber(text))
  if not n then return fail(conn, "value is not an integer or out of range") end
  if n == math.maxinteger then return fail(conn, "increment or decrement would overflow") end
  put(key, tostring(n + 1))
  integer(conn, n + 1)
end }

commands.DBSIZE = { 0, 0, function(conn) integer(conn, size) end }

commands.FLUSHALL = { 0, 1, function(conn)
  data, size = {}, 0
  ok(conn)
end }

-- redis-cli and redis-benchmark ask these when they start.  Nothing here can be configured.
commands.COMMAND = { 0, math.huge, function(conn) array(conn, {}, 0) end }

commands.CONFIG = { 1, math.huge, function(conn, verb, name)
  if verb:upper() ~= "GET" or not name then return fail(conn, "only CONFIG GET name is known") end
  array(conn, { name, "" }, 2)
end }

-- ---- connections ---------------------------------------------------------------------

local function run(conn, words)
  local name = words[1]
  local command = commands[name] or commands[name:upper()]
  if not command then
    return fail(conn, "unknown command '" .. sub(name, 1, 64):gsub("%c", " ") .. "'")
  end
  local given = #words - 1
  if given < command[1] or given > command[2] then
    return fail(conn, "wrong number of arguments for '" .. name:lower() .. "' command")
  end
  return command[3](conn, table.unpack(words, 2))
end

local function serve(conn)
  for batch in conn:frames() do
    for _, words in ipairs(batch) do
      if words[1] and run(conn, words) then return end
    end
    if batch.bad then return fail(conn, batch.bad) end
  end
  local _, code = conn:last_error()
  if code == "EMSGSIZE" then fail(conn, "Protocol error: a command over its limit") end
end

local opts = { framing = resp, limits = { frame = MOST_BYTES } }
local server = assert(wire.serve(arg[1] or "127.0.0.1:6379", opts, serve))
io.stdout:setvbuf("line")
print("kv server on " .. server:addr() .. ", try it:")
print("  redis-cli -p " .. server:port() .. " set greeting hello")
wire.run()
