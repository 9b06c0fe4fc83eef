-- Framing by a length field, compared with a second codec that is written with string.pack.
-- What this is not: framings that look for an end (framing_spec.lua).
local support = require "spec.support"
local frames = require "spec.frames"
local wire = require "lunewire"

local it = support.it
local framing = wire.framing

-- ---- a second codec for length fields ---------------------------------------------------

-- Reads the options as the reference words them -> format of the field, where it stands, bytes
-- dropped, and what must be added to the value for the whole message's length.
local function layout(o)
  local offset = o.offset or 0
  local uncounted = o.includes_header and 0 or offset + o.size
  local format = (o.endian == "little" and "<I" or ">I") .. o.size
  return format, offset, o.strip or offset + o.size, uncounted + (o.adjust or 0)
end

local function encode_second(o, payload)
  local format, offset, strip, bias = layout(o)
  local body = ("\0"):rep(strip) .. payload
  return body:sub(1, offset) .. format:pack(#body - bias) .. body:sub(offset + o.size + 1)
end

local function decode_second(o, bytes)
  local format, offset, strip, bias = layout(o)
  local list, at = {}, 1
  while at <= #bytes do
    local total = format:unpack(bytes, at + offset) + bias
    list[#list + 1] = bytes:sub(at + strip, at + total - 1)
    at = at + total
  end
  return list
end

local function describe_options(o)
  local words = {}
  for key, value in pairs(o) do words[#words + 1] = ("%s=%s"):format(key, value) end
  table.sort(words)
  return "length{" .. table.concat(words, ", ") .. "}"
end

local lengths = {
  { { size = 2, offset = 3 } },
  { { size = 4, offset = 1, endian = "little" } },
  { { size = 2, includes_header = true } },
  { { size = 4, offset = 2, includes_header = true, endian = "little" } },
  { { size = 2, adjust = 4 }, least = 4 },
  { { size = 2, adjust = -2 } },
  { { size = 1, includes_header = true, adjust = 3 }, least = 3 },
  { { size = 2, strip = 0 }, least = 2 },
  { { size = 1, offset = 2, strip = 0 }, least = 3 },
  { { size = 3, strip = 0, includes_header = true, endian = "little" }, least = 3 },
  { { size = 2, offset = 2, strip = 2 }, least = 2 },
  { { size = 2, strip = 5 } },
}
for _, size in ipairs { 1, 2, 3, 4, 8 } do
  for _, endian in ipairs { "big", "little" } do
    table.insert(lengths, { { size = size, endian = endian } })
  end
end

-- Messages of several lengths, the shortest of `least` bytes.
local function payloads(least)
  local list = {}
  for i, text in ipairs { "", "a", "hello\n\0\255", ("x"):rep(20), "" } do
    list[i] = ("#"):rep(least or 0) .. text
  end
  return list
end

local function encode_all(o, list)
  local parts = {}
  for i, payload in ipairs(list) do parts[i] = encode_second(o, payload) end
  return table.concat(parts)
end

describe("framing.length", function()
  for _, case in ipairs(lengths) do
    local opts = case[1]
    local name = describe_options(opts)

    it(name .. " gives the same messages for every split of the bytes", function()
      local bytes = encode_all(opts, payloads(case.least))
      frames.check_every_split(framing.length(opts), bytes, decode_second(opts, bytes))
    end)

    it(name .. " writes what a second decoder reads", function()
      local list = payloads(case.least)
      local bytes = frames.sent(framing.length(opts), list)
      assert.equal(encode_all(opts, list), bytes)
      assert.same(decode_second(opts, bytes), (frames.received(framing.length(opts), { bytes })))
    end)
  end

  it("the bytes before the field are given by head, zeros without", function()
    local f = framing.length { size = 2, offset = 3 }
    local a, b = wire.pipe { framing = f }
    assert(a:send_frame("body", { head = "abc" }))
    assert(a:send_frame "x")
    a:close()
    assert.equal("abc\0\4body" .. "\0\0\0\0\1x", b:read "a")
    b:close()
  end)

  it("a head of the wrong length is refused and nothing is sent", function()
    local a, b = wire.pipe { framing = framing.length { size = 2, offset = 3 } }
    assert.equal("EPROTO", select(3, a:send_frame("body", { head = "ab" })))
    assert.equal("EPROTO", select(3, a:send_frame("body", { head = "abcd" })))
    a:close()
    assert.equal("", b:read "a")
    b:close()
  end)

  it("with strip = 0 a message is sent as it was received, its field filled in", function()
    local f = framing.length { size = 2, offset = 1, strip = 0 }
    assert.equal("T\0\4body", frames.sent(f, { "T??body" }))
    assert.same({ "T\0\4body" }, (frames.received(f, { "T\0\4body" })))
  end)

  it("with strip = 0 data too short for its header is EPROTO", function()
    local a, b = wire.pipe { framing = framing.length { size = 2, strip = 0 } }
    assert.equal("EPROTO", select(3, a:send_frame "x"))
    a:close()
    b:close()
  end)

  it("data that the field cannot count is EMSGSIZE, and the next message goes out", function()
    local a, b = wire.pipe { framing = framing.length { size = 1 } }
    local ok, message, code = a:send_frame(("x"):rep(256))
    assert.is_nil(ok)
    assert.equal("EMSGSIZE", code)
    assert.matches("^send_frame ", message)
    assert(a:send_frame(("y"):rep(255)))
    assert.equal(("y"):rep(255), b:recv_frame())
    a:close()
    b:close()
  end)

  it("a value shorter than the header is EPROTO and every byte stays readable", function()
    for opts, bytes in pairs {
      [{ size = 2, includes_header = true }] = "\0\1rest",
      [{ size = 2, adjust = -4 }] = "\0\1rest",
      [{ size = 1, strip = 5 }] = "\3rest",
    } do
      local conn = frames.given(framing.length(opts), bytes)
      assert.equal("EPROTO", select(3, conn:recv_frame()))
      assert.equal(bytes, conn:recv_now())
      conn:close()
    end
  end)

  it("an end inside the header or the body is EOF with what came", function()
    for _, bytes in ipairs { "\0", "\0\9", "\0\9part" } do
      local conn = frames.given(framing.length { size = 2 }, bytes)
      local frame, _, code, partial = conn:recv_frame()
      assert.is_nil(frame)
      assert.same({ "EOF", bytes }, { code, partial })
      conn:close()
    end
  end)

  it("frames tells a clean end from one inside a message", function()
    local f = framing.length { size = 1 }
    assert.same({ { "ab" } }, { frames.received(f, { "\2ab" }) })
    assert.same({ { "ab" }, "EOF" }, { frames.received(f, { "\2ab\2c" }) })
  end)

  it("an announcement over the limit fails before the body, then framed reads refuse", function()
    local a, b = wire.pipe { framing = framing.length { size = 4, max = 100 } }
    assert(a:send(string.pack(">s4", ("x"):rep(100)), string.pack(">I4", 101)))
    assert.equal(("x"):rep(100), b:recv_frame())
    assert.equal("EMSGSIZE", select(3, b:recv_frame()))
    assert.equal("EPROTO", select(3, b:recv_frame()))
    assert.equal("EPROTO", select(3, b:recv_pkg()))
    assert.equal("\0\0\0\101", b:recv_now())
    a:close()
    b:close()
  end)

  it("the connection's frame limit holds where the framing has none", function()
    local f = framing.length { size = 4 }
    local conn = frames.given(f, "\0\0\0\101", { limits = { frame = 100 } })
    assert.equal("EMSGSIZE", select(3, conn:recv_frame()))
    conn:close()
    conn = frames.given(f, "\0\16\0\1")
    assert.equal("EMSGSIZE", select(3, conn:recv_frame()))
    conn:close()
  end)

  it("a field of eight bytes cannot overflow a length", function()
    local ones, zeros = ("\255"):rep(7), ("\0"):rep(7)
    for _, bytes in ipairs { "\255" .. ones, "\127" .. ones, "\255" .. zeros } do
      for _, endian in ipairs { "big", "little" } do
        local f = framing.length { size = 8, endian = endian, max = math.huge }
        local conn = frames.given(f, bytes)
        local _, _, code = conn:recv_frame()
        assert.is_true(code == "EMSGSIZE" or code == "EOF", code)
        conn:close()
      end
    end
  end)
end)

