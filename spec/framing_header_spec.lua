-- Framing by a header with magic, version, type and checksum, compared with a second codec that
-- is written with string.pack and computes its CRC bit by bit.
-- What this is not: another implementation's checksums (framing_peers_spec.lua).
local support = require "spec.support"
local frames = require "spec.frames"
local wire = require "lunewire"

local it = support.it
local framing = wire.framing

-- ---- a second codec ---------------------------------------------------------------------

local function crc32(bytes)
  local crc = 0xffffffff
  for i = 1, #bytes do
    crc = crc ~ bytes:byte(i)
    for _ = 1, 8 do crc = crc >> 1 ~ (crc & 1) * 0xedb88320 end
  end
  return crc ~ 0xffffffff
end

-- o: magic (a string), version, size
local function encode(o, payload, kind)
  local body = (o.magic .. ("BB>I%d"):format(o.size or 4)):gsub("^.*(BB)", "%1")
  local bytes = o.magic .. body:pack(o.version or 0, kind or 0, #payload) .. payload
  if o.checksum == false then return bytes end
  return bytes .. (">I4"):pack(crc32(bytes))
end

local MESSAGES <const> = {
  { "", 0 }, { "a", 1 }, { "hello\n\0\255", 255 }, { ("x"):rep(40), 127 }, { "", 128 },
}

local function encode_all(o, list)
  local parts = {}
  for i, message in ipairs(list) do parts[i] = encode(o, message[1], message[2]) end
  return table.concat(parts)
end

local function payloads(list)
  local result = {}
  for i, message in ipairs(list) do result[i] = message[1] end
  return result
end

local function sent(f, list)
  local a, b = wire.pipe { framing = f }
  for _, message in ipairs(list) do assert(a:send_frame(message[1], { type = message[2] })) end
  a:close()
  local bytes = b:read "a"
  b:close()
  return bytes
end

local function received(f, bytes)
  local conn, list = frames.given(f, bytes), {}
  for payload, kind in conn:frames() do list[#list + 1] = { payload, kind } end
  local _, code = conn:last_error()
  conn:close()
  return list, code
end

local shapes = {
  { magic = "LW", version = 1 },
  { magic = "M", size = 1 },
  { magic = "\0\0\255\254", version = 255, size = 2 },
  { magic = "12345678", version = 7, size = 3 },
  { magic = "\n", version = 0, size = 8 },
  { magic = "raw", version = 2, checksum = false },
}

local LW <const> = { magic = "LW", version = 1 }

describe("framing.header", function()
  for _, o in ipairs(shapes) do
    local name = ("with %d bytes of magic, %s of length, checksum %s"):format(#o.magic,
      o.size or 4, o.checksum)

    it(name .. " gives the same messages for every split of the bytes", function()
      frames.check_every_split(framing.header(o), encode_all(o, MESSAGES), payloads(MESSAGES))
    end)

    it(name .. " gives the types, and writes what a second encoder writes", function()
      local bytes = encode_all(o, MESSAGES)
      assert.same({ MESSAGES }, { received(framing.header(o), bytes) })
      assert.equal(bytes, sent(framing.header(o), MESSAGES))
    end)
  end

  it("checks with the CRC-32 that everybody knows", function()
    assert.equal(0xcbf43926, crc32 "123456789")
    -- magic 1234, version 5 (0x35), type 6 (0x36), a length of one byte: 7 (0x37)
    local o = { magic = "1234", version = 0x35, size = 1 }
    local bytes = sent(framing.header(o), { { ("8"):rep(0x37), 0x36 } })
    assert.equal("1234567" .. ("8"):rep(55), bytes:sub(1, -5))
    assert.equal(crc32(bytes:sub(1, -5)), (">I4"):unpack(bytes, -4))
    assert.equal("LW\1\7\0\5hello\x51\x5c\x7a\x87",
      sent(framing.header { magic = "LW", version = 1, size = 2 }, { { "hello", 7 } }))
  end)

  it("a number as magic takes as many bytes as it needs, the highest first", function()
    local magics = {
      [0] = "\0", [0x4c] = "L", [0xff] = "\xff", [0x100] = "\1\0", [0xCAFE] = "\xca\xfe",
      [0x10000] = "\1\0\0", [0xCAFEBABE] = "\xca\xfe\xba\xbe", [1 << 32] = "\1\0\0\0\0",
      [math.maxinteger] = "\x7f" .. ("\xff"):rep(7),
    }
    for magic, bytes in pairs(magics) do
      local o = { magic = bytes, version = 3 }
      assert.equal(encode(o, "x", 9), sent(framing.header { magic = magic, version = 3 },
        { { "x", 9 } }))
    end
  end)

  it("without a type and a version both are 0", function()
    local a, b = wire.pipe { framing = framing.header { magic = "LW" } }
    assert.equal(2 + 1 + 1 + 4 + 2 + 4, a:send_frame "hi")
    assert.equal("LW\0\0\0\0\0\2hi", b:peek(10, 5))
    assert.same({ "hi", 0 }, { b:recv_frame(5) })
    a:close()
    b:close()
  end)

  it("a type does not stay for the next message", function()
    local a, b = wire.pipe { framing = framing.header(LW) }
    assert(a:send_frame("one", { type = 9 }))
    assert(a:send_frame "two")
    assert.same({ "one", 9 }, { b:recv_frame(5) })
    assert.same({ "two", 0 }, { b:recv_frame(5) })
    a:close()
    b:close()
  end)

  it("a sender that waits for room keeps its type", function()
    local a, b = wire.pipe { framing = framing.header(LW), limits = { high_water = 1000 } }
    local sender = wire.spawn(function()
      for i = 0, 255 do assert(a:send_frame(("x"):rep(5000), { type = i })) end
      a:close()
    end)
    local expected = 0
    for _, kind in b:frames { timeout = 5 } do
      assert.equal(expected, kind)
      expected = expected + 1
    end
    assert.equal(256, expected)
    assert.is_true(sender:join(5))
    b:close()
  end)
end)

describe("corrupt bytes under framing.header", function()
  it("at any place are EPROTO, or EMSGSIZE, and never a message", function()
    local bytes = encode(LW, "payload", 3)
    local f = framing.header { magic = "LW", version = 1, max = 7 }
    for at = 1, #bytes do
      for bit = 0, 7 do
        local wrong = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1 << bit)
          .. bytes:sub(at + 1)
        local list, code = received(f, wrong)
        assert.same({ at, bit, {} }, { at, bit, list })
        assert.is_true(code == "EPROTO" or code == "EMSGSIZE", code)
      end
    end
  end)

  it("end the framed reads, what came before is delivered, every byte stays", function()
    local good, bad = encode(LW, "good", 1), encode(LW, "evil", 2):gsub("evil", "EVIL")
    local conn = frames.given(framing.header(LW), good .. bad .. good)
    assert.same({ "good", 1 }, { conn:recv_frame() })
    local message = support.fails("EPROTO", conn:recv_frame())
    assert.matches("^recv_frame ", message)
    support.fails("EPROTO", conn:recv_frame())
    support.fails("EPROTO", conn:recv_pkg())
    conn:set_framing(framing.netstring())
    support.fails("EPROTO", conn:recv_frame())
    assert.equal(bad .. good, conn:recv_now())
    conn:close()
  end)

  it("in the magic or the version are told at once, without waiting for more", function()
    for _, bytes in ipairs { "G", "LX", "LW\0", "LW\2", "GET / HTTP/1.1\r\n" } do
      local a, b = wire.pipe { framing = framing.header(LW) }
      frames.send_pieces(a, { bytes })
      support.fails("EPROTO", b:recv_frame(5))
      a:close()
      b:close()
    end
  end)

  it("of a checksum that is another's order are refused", function()
    local bytes = encode(LW, "payload")
    local conn = frames.given(framing.header(LW), bytes:sub(1, -5) .. bytes:sub(-4):reverse())
    support.fails("EPROTO", conn:recv_frame())
    conn:close()
  end)

  it("are not seen without a checksum", function()
    local o = { magic = "LW", version = 1, checksum = false }
    local list = received(framing.header(o), (encode(o, "evil", 2):gsub("evil", "EVIL")))
    assert.same({ { "EVIL", 2 } }, list)
  end)
end)

-- Address space, not memory that was touched: what malloc would have been asked for.
local function address_space()
  for line in io.lines "/proc/self/status" do
    local kib = line:match "^VmSize:%s+(%d+)"
    if kib then return tonumber(kib) end
  end
end

describe("the end and the limits of framing.header", function()
  it("an end inside the header, the payload or the checksum is EOF with what came", function()
    local bytes = encode(LW, "payload", 3)
    for n = 1, #bytes - 1 do
      local conn = frames.given(framing.header(LW), bytes:sub(1, n))
      local _, partial = support.fails("EOF", conn:recv_frame())
      assert.equal(bytes:sub(1, n), partial)
      conn:close()
    end
  end)

  it("frames tells a clean end from one inside a message", function()
    local bytes = encode(LW, "ab", 4)
    assert.same({ { { "ab", 4 } } }, { received(framing.header(LW), bytes) })
    assert.same({ { { "ab", 4 } }, "EOF" }, { received(framing.header(LW), bytes .. "LW") })
  end)

  it("max bytes are taken, one more fails before it comes, then reads refuse", function()
    local f = framing.header { magic = "LW", version = 1, max = 100 }
    local a, b = wire.pipe { framing = f }
    assert(a:send(encode(LW, ("x"):rep(100), 5), "LW\1\0\0\0\0\101"))
    assert.same({ ("x"):rep(100), 5 }, { b:recv_frame(5) })
    support.fails("EMSGSIZE", b:recv_frame(5))
    support.fails("EPROTO", b:recv_frame(5))
    support.fails("EMSGSIZE", a:send_frame(("x"):rep(101)))
    a:close()
    b:close()
  end)

  it("a payload that the length cannot count is EMSGSIZE, and the next message goes out", function()
    local a, b = wire.pipe { framing = framing.header { magic = "LW", size = 1 } }
    support.fails("EMSGSIZE", a:send_frame(("x"):rep(256)))
    assert(a:send_frame(("x"):rep(255)))
    assert.equal(("x"):rep(255), (b:recv_frame(5)))
    a:close()
    b:close()
  end)

  it("a length of eight bytes cannot overflow", function()
    for _, last in ipairs { 0xff, 0xf8, 0xf0, 0 } do
      local f = framing.header { magic = "L", size = 8, max = math.huge }
      local conn = frames.given(f, "L\0\0" .. ("\255"):rep(7) .. string.char(last))
      local _, _, code = conn:recv_frame()
      assert.is_true(code == "EMSGSIZE" or code == "EOF", code)
      conn:close()
    end
  end)

  it("the connection's frame limit holds where the framing has none", function()
    local f = framing.header(LW)
    local conn = frames.given(f, "LW\1\0\0\0\0\101", { limits = { frame = 100 } })
    support.fails("EMSGSIZE", conn:recv_frame())
    conn:close()
    conn = frames.given(f, "LW\1\0\0\16\0\1")
    support.fails("EMSGSIZE", conn:recv_frame())
    conn:close()
  end)

  it("what is announced and does not come takes no memory of its size", function()
    local announcements = {
      [framing.header { magic = "LW", max = math.huge }] = "LW\0\0\127\255\255\255start",
      [framing.netstring { max = math.huge }] = "2000000000:start",
      [framing.varint { max = math.huge }] = "\255\255\255\255\7start",
    }
    for f, bytes in pairs(announcements) do
      local a, b = wire.pipe { framing = f }
      local before = address_space()
      frames.send_pieces(a, { bytes })
      support.fails("ETIMEDOUT", b:recv_frame(0.005))
      local grown = address_space() - before
      assert.is_true(grown < 32 * 1024, grown .. " KiB")
      a:close()
      b:close()
    end
  end)
end)

describe("setting framing.header", function()
  it("works with others in turn at message boundaries, on bytes that are there already", function()
    local first = frames.given(framing.header(LW),
      encode(LW, "one", 1) .. "3:two," .. "\5three" .. "four\n" .. encode(LW, "five", 5))
    assert.same({ "one", 1 }, { first:recv_frame() })
    first:set_framing(framing.netstring())
    assert.same({ "two" }, { first:recv_frame() })
    first:set_framing(framing.varint())
    assert.same({ "three" }, { first:recv_frame() })
    assert.equal("four", first:recv_line())
    first:set_framing(framing.header(LW))
    assert.same({ "five", 5 }, { first:recv_frame() })
    support.fails("EOF", first:recv_frame())
    first:close()
  end)

  it("a framing that is replaced while a receive and a send wait for it lives on", function()
    local a, b = wire.pipe { framing = framing.header { magic = "12345678" } }
    local reader = wire.spawn(b.recv_frame, b, 5)
    wire.sleep(0)
    b:set_framing(framing.line())
    collectgarbage()
    collectgarbage()
    assert(a:send_frame("late", { type = 200 }))
    assert.same({ true, "late", 200 }, { reader:join(5) })
    a:close()
    b:close()
  end)

  it("a timeout anywhere in a message resumes where it stopped", function()
    local a, b = wire.pipe { framing = framing.header(LW) }
    local bytes = encode(LW, "body", 77)
    for i = 1, #bytes - 1 do
      frames.send_pieces(a, { bytes:sub(i, i) })
      support.fails("ETIMEDOUT", b:recv_frame(0))
    end
    frames.send_pieces(a, { bytes:sub(-1) })
    assert.same({ "body", 77 }, { b:recv_frame(5) })
    a:close()
    b:close()
  end)

  it("is an option of serve and connect", function()
    local f = framing.header { magic = 0xCAFE, version = 1 }
    local server = assert(wire.serve("127.0.0.1:0", { framing = f }, function(conn)
      for payload, kind in conn:frames() do
        conn:send_frame(payload:upper(), { type = kind + 1 })
      end
    end))
    local client <close> = assert(wire.connect(server:addr(), { framing = f }))
    server:close()
    assert(client:send_frame("hello", { type = 7 }))
    assert.same({ "HELLO", 8 }, { client:recv_frame(5) })
  end)

  it("misuse says what is wrong", function()
    local magic = "'magic' must be a string of 1 to 8 bytes or a whole number of at least 0"
    for _, wrong in ipairs { "", "123456789", -1, 1.5, {}, true } do
      support.raises(magic, framing.header, { magic = wrong })
    end
    support.raises(magic, framing.header)
    support.raises(magic, framing.header, { version = 1 })
    support.raises("'version' must be from 0 to 255", framing.header,
      { magic = "L", version = 256 })
    support.raises("'size' must be 1, 2, 3, 4 or 8", framing.header, { magic = "L", size = 5 })
    support.raises("'checksum' must be \"crc32\", or false", framing.header,
      { magic = "L", checksum = "md5" })
    support.raises("'checksum' must be", framing.header, { magic = "L", checksum = true })
    support.raises("'majic' %(did you mean 'magic'%?%)", framing.header, { majic = "L" })
    support.raises("table expected", framing.header, "LW")
  end)

  it("a wrong type is misuse, and nothing is sent", function()
    local a, b = wire.pipe { framing = framing.header(LW) }
    for _, wrong in ipairs { -1, 256, 1.5, "1", true } do
      support.raises("'type' must be a whole number from 0 to 255", a.send_frame, a, "x",
        { type = wrong })
    end
    support.raises("'typ' %(did you mean 'type'%?%)", a.send_frame, a, "x", { typ = 1 })
    a:set_framing(framing.line())
    support.raises("'type' is for framing.header", a.send_frame, a, "x", { type = 1 })
    a:close()
    assert.equal("", b:read "a")
    b:close()
  end)
end)
