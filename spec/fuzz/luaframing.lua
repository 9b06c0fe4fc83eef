-- What the fuzz target "luaframing" does with an input: the same stream goes through a framing of
-- the core and through one in Lua that means the same, at once and in pieces. All give the same
-- messages and the same end.
--
-- The first byte says which framing, the second how the one in Lua asks for more, the third how the
-- stream is cut; a run of bytes is short for many, so that streams grow beyond what is looked at in
-- one go.
-- What this is not: framings that break their promise, but for one kind, which must be told so.
local wire = require "lunewire"
local core = require "lunewire.core"

local MAX <const> = 9000
local MESSAGES <const> = 100

-- ---- framings --------------------------------------------------------------------------

-- Each: the core's, and a function of (bytes, eof, hint) -> as decode; hint(n): the total needed,
-- or nothing, as the input wishes.
local kinds <const> = {
  { -- a length of two bytes
    wire.framing.length { max = MAX },
    function(bytes, _, hint)
      if #bytes < 2 then return nil, hint(2) end
      local n = string.unpack(">I2", bytes)
      if n > MAX then return false, "too long", "EMSGSIZE" end
      if #bytes < 2 + n then return nil, hint(2 + n) end
      return bytes:sub(3, 2 + n), 2 + n
    end,
  },
  { -- lines
    wire.framing.line { max = MAX },
    function(bytes, _, hint)
      local at = bytes:find("\n", 1, true)
      local text = bytes:sub(1, (at or #bytes + 1) - 1)
      if text:sub(-1) == "\r" then text = text:sub(1, -2) end
      if #text > MAX then return false, "too long", "EMSGSIZE" end
      if not at then return nil, hint(#bytes + 1) end
      return text, at
    end,
  },
  { -- five bytes
    wire.framing.fixed(5),
    function(bytes, _, hint)
      if #bytes < 5 then return nil, hint(5) end
      return bytes:sub(1, 5), 5
    end,
  },
  { -- ended by two bytes
    wire.framing.delimiter("--", { max = MAX }),
    function(bytes, _, hint)
      local at = bytes:find("--", 1, true)
      if (at or #bytes) > MAX + 1 then return false, "too long", "EMSGSIZE" end
      if not at then return nil, hint(#bytes + 1) end
      return bytes:sub(1, at - 1), at + 1
    end,
  },
}

local function in_lua(decode, way)
  local function hint(n) return way == 0 and n or way == 1 and n - 1 or nil end
  return {
    decode = function(bytes, eof) return decode(bytes, eof, hint) end,
    encode = function(message) return message end,
  }
end

-- A message, and no count of the bytes that it could have taken?
local function is_wrong(message, used, have)
  return message and not (math.type(used) == "integer" and used >= 1 and used <= have)
end

-- Answers with what the input has, right or wrong, and notes which.
local function untrue(bytes)
  local at = 0
  local function next_value()
    at = at % math.max(#bytes, 1) + 1
    local b = bytes:byte(at) or 0
    if b < 64 then return b end
    return ({ nil, false, true, "text", 1 << 60, -1, 0.5, {}, 0 / 0 })[b % 9 + 1]
  end
  local framing = { encode = next_value }
  function framing.decode(given)
    local message, used, code = next_value(), next_value(), next_value()
    framing.wrong = is_wrong(message, used, #given)
    return message, used, code
  end
  return framing
end

-- ---- streams ---------------------------------------------------------------------------

-- A byte of 0xff, one more and a length: a run.
local function expand(bytes)
  local parts, at = {}, 1
  while at <= #bytes and #parts < 400 do
    local from, to = bytes:find("\xff..", at)
    parts[#parts + 1] = bytes:sub(at, (from or #bytes + 1) - 1)
    if not from then break end
    parts[#parts + 1] = bytes:sub(from + 1, from + 1):rep(100):rep(bytes:byte(to))
    at = to + 1
  end
  return table.concat(parts):sub(1, 20000)
end

-- Each flush is a piece that is read by itself; the pipe holds all of it.
local function write(conn, stream, cut)
  local n = cut == 0 and #stream or cut + #stream // 20
  for at = 1, #stream, math.max(n, 1) do
    assert(conn:send(stream:sub(at, at + math.max(n, 1) - 1)))
    assert(conn:flush())
  end
  conn:close()
end

-- -> what was received, and the code of its end; a raised text counts as one
local function receive_all(framing, stream, cut)
  local first, second = wire.pipe { framing = framing }
  local a <close> = first
  write(second, stream, cut)
  local list = {}
  while #list < MESSAGES do
    local ok, message, _, code = pcall(a.recv_frame, a)
    if not ok then return list, "raised" end
    if type(framing) == "table" and framing.wrong then error "a wrong count was taken" end
    if message == nil then return list, code end
    list[#list + 1] = message
  end
  return list, "many"
end

-- ---- what must hold ---------------------------------------------------------------------

local function check_same(one, end_one, other, end_other)
  for i = 1, math.max(#one, #other) do
    if one[i] ~= other[i] then error(("message %d differs"):format(i)) end
  end
  if end_one ~= end_other then error(("ends differ: %s, %s"):format(end_one, end_other)) end
end

local function check_census()
  for _ = 1, 20 do
    local left = 0
    for _, n in pairs(core.census()) do left = left + n end
    if left == 0 then return end
    collectgarbage()
    wire.sleep(0)
  end
  error "something is left behind"
end

return function(bytes)
  local which, way, cut = bytes:byte(1, 3)
  local stream = expand(bytes:sub(4))
  local kind = kinds[(which or 0) % (#kinds + 1)]
  cut = (cut or 0) % 64
  if kind then
    local want, ended = receive_all(kind[1], stream, 0)
    check_same(want, ended, receive_all(kind[1], stream, cut))
    local own = in_lua(kind[2], (way or 0) % 3)
    check_same(want, ended, receive_all(own, stream, 0))
    check_same(want, ended, receive_all(own, stream, cut))
  else
    receive_all(untrue(bytes), stream, cut)
  end
  check_census()
end
