-- What goes over the wire of the mixed soak: framings, and messages of which every byte is known.
-- What this is not: who sends it.
local wire = require "lunewire"

local traffic = {}

local LETTERS <const> = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
local LENGTH <const> = 1 << 19

local function make_base(byte)
  local list = {}
  for i = 1, 4099 do list[i] = byte() end
  local unit = table.concat(list)
  return unit:rep(LENGTH // #unit + 1)
end

local function letter()
  local i = math.random(#LETTERS)
  return LETTERS:sub(i, i)
end

math.randomseed(4711)
local text = make_base(letter)
local binary = make_base(function() return string.char(math.random(0, 255)) end)

local function cut(base, n)
  local at = math.random(LENGTH - n)
  return base:sub(at, at + n - 1)
end

-- n bytes, anything; n letters and digits.
function traffic.bytes(n) return cut(binary, n) end
function traffic.letters(n) return cut(text, n) end

-- Mostly short, now and then long.
function traffic.size(most)
  local n = math.random(8) == 1 and math.random(0, most) or math.random(0, 400)
  return math.min(n, most)
end

local in_lua = {}

function in_lua.decode(bytes)
  if #bytes < 2 then return nil, 2 end
  local n = 2 + (">I2"):unpack(bytes)
  if #bytes < n then return nil, n end
  return bytes:sub(3, n), n
end

function in_lua.encode(message) return { (">I2"):pack(#message), message } end

-- name -> {make= a new framing, message= a new message}
traffic.framings = {
  line = { make = function() return wire.framing.line { max = 100000 } end,
    message = function() return traffic.letters(traffic.size(90000)) end },
  delimiter = { make = function() return wire.framing.delimiter("||", { max = 100000 }) end,
    message = function() return traffic.letters(traffic.size(90000)) end },
  fixed = { make = function() return wire.framing.fixed(64) end,
    message = function() return traffic.bytes(64) end },
  length = { make = function() return wire.framing.length { size = 4, endian = "little" } end,
    message = function() return traffic.bytes(traffic.size(200000)) end },
  varint = { make = function() return wire.framing.varint() end,
    message = function() return traffic.bytes(traffic.size(90000)) end },
  netstring = { make = function() return wire.framing.netstring() end,
    message = function() return traffic.bytes(traffic.size(90000)) end },
  header = { make = function()
    return wire.framing.header { magic = 0xCAFE, version = 1, checksum = "crc32" }
  end, message = function() return traffic.bytes(traffic.size(90000)) end },
  lua = { make = function() return in_lua end,
    message = function() return traffic.bytes(traffic.size(30000)) end },
}

traffic.names = {}
for name in pairs(traffic.framings) do traffic.names[#traffic.names + 1] = name end
table.sort(traffic.names)

return traffic
