-- Framings and other options of connections, for the fuzz target `api`.
-- What this is not: what is done with them (api_ops_*.lua).
local host = host -- luacheck: ignore
local wire = require "lunewire"
local model = require "spec.fuzz.api_model"

local M = {}

local function leb(n)
  local out = ""
  while n > 127 do out, n = out .. string.char(n & 127 | 128), n >> 7 end
  return out .. string.char(n)
end

local lua_framing = {
  decode = function(bytes, eof)
    model.in_call = false
    local at = bytes:find(";", 1, true)
    model.in_call = true
    if at then return bytes:sub(1, at - 1), at end
    if eof and #bytes > 4 then return false, "cut off", "EPROTO" end
  end,
  encode = function(message) return { message, ";" } end,
}

local function has(text)
  return function(rest) return rest:find(text, 1, true) end
end

local function counts(format)
  return function(rest)
    local header = format:packsize()
    return #rest >= header and #rest - header >= format:unpack(rest)
  end
end

-- The framings: how each is made, and what send_frame makes of a message (nil: not known here);
-- whole(rest): is there one, or what ends the wait all the same?
local FRAMINGS <const> = {
  { "line", function() return wire.framing.line {} end, function(d) return d .. "\n" end,
    whole = has "\n" },
  { "line", function() return wire.framing.line { max = 8, keep = true } end, whole = has "\n" },
  { "delimiter", function() return wire.framing.delimiter "ab" end,
    function(d) return d .. "ab" end, delimiter = "ab", whole = has "ab" },
  { "delimiter", function() return wire.framing.delimiter("<1", { max = 40 }) end,
    function(d) return d .. "<1" end, delimiter = "<1", whole = has "<1" },
  { "fixed", function() return wire.framing.fixed(3) end, function(d) return d end,
    whole = function(rest) return #rest >= 3 end },
  { "raw", function() return wire.framing.raw() end, function(d) return d end,
    whole = function(rest) return #rest > 0 end },
  { "length", function() return wire.framing.length { size = 2 } end,
    function(d) return string.pack(">s2", d) end, whole = counts ">I2" },
  { "length", function() return wire.framing.length { size = 4, endian = "little", max = 500 } end,
    function(d) return string.pack("<s4", d) end, little = 4, whole = counts "<I4" },
  { "length1", function() return wire.framing.length { size = 1, includes_header = true } end,
    function(d) return string.char(#d + 1) .. d end },
  { "varint", function() return wire.framing.varint { max = 70000 } end,
    function(d) return leb(#d) .. d end },
  { "netstring", function() return wire.framing.netstring {} end,
    function(d) return #d .. ":" .. d .. "," end },
  { "header", function()
    return wire.framing.header { magic = 0x4C57, version = 1, size = 4, checksum = "crc32" }
  end },
  { "lua", function() return lua_framing end, function(d) return d .. ";" end, whole = has ";" },
}

function M.pick(A)
  local n = A:below(#FRAMINGS * 2)
  return FRAMINGS[n + 1]
end

local LIMITS <const> = { { high_water = 100 }, { line = 20, frame = 30, all = 50 },
  { high_water = 5000, line = 1000 }, { frame = 1 << 20 } }

local tls

local function tls_options()
  if not tls then
    local cert, key = host.certificate()
    tls = assert(wire.tls_context { cert = cert, key = key, insecure = true,
      servername = "localhost" })
  end
  return tls
end

function M.options(A)
  local how = A:byte()
  if how & 15 == 0 then return {} end
  local f = how & 1 > 0 and M.pick(A) or nil
  return { framing = f and f[2](), limits = how & 2 > 0 and LIMITS[A:below(#LIMITS) + 1] or nil,
    tls = how & 28 == 28 and model.with_tls and tls_options() or nil }, f
end

return M
