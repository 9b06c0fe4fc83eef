-- Framing by a varint, compared with a second codec that counts in base 128.
-- What this is not: another implementation's varints (framing_peers_spec.lua).
local support = require "spec.support"
local frames = require "spec.frames"
local wire = require "lunewire"

local it = support.it
local framing = wire.framing

-- ---- a second codec ---------------------------------------------------------------------

local function number(n)
  local digits = {}
  repeat
    digits[#digits + 1] = n % 128
    n = n // 128
  until n == 0
  for i = 1, #digits - 1 do digits[i] = digits[i] + 128 end
  return string.char(table.unpack(digits))
end

local function encode(payload, head) return (head or "") .. number(#payload) .. payload end

local TEXTS <const> = { "", "a", "hello\n\0\255", ("x"):rep(127), ("y"):rep(128), "" }

local function encode_all(list, head)
  local parts = {}
  for i, payload in ipairs(list) do parts[i] = encode(payload, head) end
  return table.concat(parts)
end

-- Ten bytes that all say that another follows, and others that are no number of 64 bits.
local TOO_LONG <const> = {
  ("\128"):rep(10), ("\255"):rep(10), ("\255"):rep(9) .. "\2", ("\128"):rep(9) .. "\127",
}

describe("framing.varint", function()
  it("gives the same messages for every split of the bytes", function()
    frames.check_every_split(framing.varint(), encode_all(TEXTS), TEXTS)
  end)

  it("with an offset gives the same messages for every split of the bytes", function()
    frames.check_every_split(framing.varint { offset = 3 }, encode_all(TEXTS, "\255\0h"), TEXTS)
  end)

  it("writes what a second encoder writes", function()
    assert.equal(encode_all(TEXTS), frames.sent(framing.varint(), TEXTS))
    assert.equal(encode_all(TEXTS, "\0\0"), frames.sent(framing.varint { offset = 2 }, TEXTS))
  end)

  it("counts 300 bytes as protobuf's guide does: ac 02", function()
    local text = ("z"):rep(300)
    local bytes = frames.sent(framing.varint(), { text })
    assert.equal("\xac\x02", bytes:sub(1, 2))
    assert.same({ text }, (frames.received(framing.varint(), { bytes })))
  end)

  it("send_frame returns the bytes with those of the header", function()
    local a, b = wire.pipe { framing = framing.varint { offset = 1 } }
    assert.equal(1 + 2 + 128, a:send_frame(("x"):rep(128)))
    a:close()
    b:close()
  end)

  it("takes needless zero groups, up to ten bytes in all", function()
    for zeros = 0, 8 do
      local bytes = "\x83" .. ("\x80"):rep(zeros) .. "\0" .. "abc"
      assert.same({ "abc" }, (frames.received(framing.varint(), { bytes })))
    end
  end)

  it("a length of more than 64 bits is EPROTO and every byte stays readable", function()
    for _, bytes in ipairs(TOO_LONG) do
      local conn = frames.given(framing.varint { max = math.huge }, bytes .. "rest")
      local message = support.fails("EPROTO", conn:recv_frame())
      assert.matches("^recv_frame ", message)
      support.fails("EPROTO", conn:recv_frame())
      support.fails("EPROTO", conn:recv_pkg())
      assert.equal(bytes .. "rest", conn:recv_now())
      conn:close()
    end
  end)

  it("a length of 64 bits cannot overflow", function()
    local conn = frames.given(framing.varint { max = math.huge }, ("\255"):rep(9) .. "\1")
    support.fails("EMSGSIZE", conn:recv_frame())
    conn:close()
  end)

  it("the iterator ends at bytes that are no length and tells why", function()
    local list, code = frames.received(framing.varint(), { "\2ab", TOO_LONG[1] })
    assert.same({ "ab" }, list)
    assert.equal("EPROTO", code)
  end)
end)

describe("framing.varint with an offset", function()
  it("gives the bytes before the length as a second result", function()
    local conn = frames.given(framing.varint { offset = 2 }, "ab\5hello" .. "\0\255\0" .. "cd\1x")
    assert.same({ "hello", "ab" }, { conn:recv_frame() })
    assert.same({ "", "\0\255" }, { conn:recv_frame() })
    assert.same({ "x", "cd" }, { conn:recv_frame() })
    support.fails("EOF", conn:recv_frame())
    conn:close()
  end)

  it("without gives the message alone", function()
    local conn = frames.given(framing.varint(), "\1x")
    assert.equal(1, select("#", conn:recv_frame()))
    conn:close()
  end)

  it("frames gives them too", function()
    local conn = frames.given(framing.varint { offset = 1 }, "\16\3abc" .. "\32\0")
    local got = {}
    for body, head in conn:frames() do got[#got + 1] = { body, head } end
    assert.same({ { "abc", "\16" }, { "", "\32" } }, got)
    assert.is_nil(conn:last_error())
    conn:close()
  end)

  it("sends what head gives, zeros without", function()
    local a, b = wire.pipe { framing = framing.varint { offset = 2 } }
    assert(a:send_frame("body", { head = "hh" }))
    assert(a:send_frame "x")
    a:close()
    assert.equal("hh\4body" .. "\0\0\1x", b:read "a")
    b:close()
  end)

  it("what was received with its head and sent again is the same bytes", function()
    local f = framing.varint { offset = 255 }
    local head = ("0123456789"):rep(26):sub(1, 255)
    local a, b = wire.pipe { framing = f }
    assert(a:send_frame("body", { head = head }))
    local body, got = b:recv_frame(5)
    assert(b:send_frame(body, { head = got }))
    assert.equal(head .. "\4body", a:recv(260, 5))
    a:close()
    b:close()
  end)

  -- A collector that is busy all the time, and a finalizer at each of its rounds.
  local function with_finalizers(fn, body)
    local armed = true
    local function arm()
      setmetatable({}, { __gc = function()
        if not armed then return end
        fn()
        arm()
      end })
    end
    arm()
    collectgarbage("incremental", 1, 1000)
    local ok, err = pcall(body)
    collectgarbage("incremental", 200, 100)
    armed = false
    if not ok then error(err, 0) end
  end

  local COUNT <const> = support.sized(400, 400, 200)

  -- Messages that are made of their head, each counted, whoever got it -> total so far.
  local function tally()
    local total = 0
    return function(body, head)
      if body and body ~= head:rep(300) then error(head .. " with " .. body:sub(1, 8), 2) end
      if body then total = total + 1 end
      return total
    end
  end

  local meddlers = {
    ["receives on another connection"] = function(_, c, d)
      c:send(("noise"):rep(10000))
      c:flush(0)
      d:recv_now()
    end,
    ["takes every third message"] = function(conn, _, _, note, turn)
      if turn % 3 == 0 then note(conn:recv_frame(0)) end
    end,
  }
  for name, meddle in pairs(meddlers) do
    it("head and message belong together though a finalizer " .. name, function()
      local a, b = support.pair { framing = framing.varint { offset = 4 } }
      local c, d = support.pair()
      local note, turns = tally(), 0
      wire.spawn(function()
        for i = 1, COUNT do
          a:send_frame(("%04d"):format(i):rep(300), { head = ("%04d"):format(i) })
        end
        a:close_write()
      end)
      local function finalizer()
        turns = turns + 1
        meddle(b, c, d, note, turns)
      end
      with_finalizers(finalizer, function()
        for body, head in b:frames() do
          note(body, head)
          local _ = ("garbage"):rep(1000 + #head % 7) -- for whole rounds of the collector
        end
      end)
      assert.equal(COUNT, note())
      assert.is_true(turns > COUNT // 40, turns)
      for _, conn in ipairs { a, b, c, d } do conn:reset() end
    end)
  end

  it("a head of another length is EPROTO and nothing is sent", function()
    local a, b = wire.pipe { framing = framing.varint { offset = 2 } }
    support.fails("EPROTO", a:send_frame("body", { head = "h" }))
    support.fails("EPROTO", a:send_frame("body", { head = "hhh" }))
    a:set_framing(framing.varint())
    support.fails("EPROTO", a:send_frame("body", { head = "h" }))
    a:close()
    assert.equal("", b:read "a")
    b:close()
  end)
end)

describe("the end and the limits of framing.varint", function()
  it("an end inside the length, the offset or the body is EOF with what came", function()
    for _, bytes in ipairs { "h", "h\x83", "h\3", "h\3ab" } do
      local conn = frames.given(framing.varint { offset = 1 }, bytes)
      local _, partial = support.fails("EOF", conn:recv_frame())
      assert.equal(bytes, partial)
      conn:close()
    end
  end)

  it("frames tells a clean end from one inside a message", function()
    assert.same({ { "ab" } }, { frames.received(framing.varint(), { "\2ab" }) })
    assert.same({ { "ab" }, "EOF" }, { frames.received(framing.varint(), { "\2ab\2c" }) })
    assert.same({ { "ab" }, "EOF" }, { frames.received(framing.varint(), { "\2ab\x82" }) })
  end)

  it("max bytes are taken, one more fails before it comes, then reads refuse", function()
    local a, b = wire.pipe { framing = framing.varint { max = 300 } }
    assert(a:send(encode(("x"):rep(300)), number(301)))
    assert.equal(("x"):rep(300), b:recv_frame(5))
    support.fails("EMSGSIZE", b:recv_frame(5))
    support.fails("EPROTO", b:recv_frame(5))
    assert.equal(number(301), b:recv_now())
    support.fails("EMSGSIZE", a:send_frame(("x"):rep(301)))
    assert.equal(302, a:send_frame(("x"):rep(300)))
    a:close()
    b:close()
  end)

  it("the limit of the connection or of the call holds where there is one", function()
    local conn = frames.given(framing.varint(), number(101), { limits = { frame = 100 } })
    support.fails("EMSGSIZE", conn:recv_frame())
    conn:close()
    conn = frames.given(framing.varint { max = 1000 }, "\5hello", nil)
    support.fails("EMSGSIZE", conn:recv_frame { max = 4 })
    conn:close()
    conn = frames.given(framing.varint(), number(1024 * 1024 + 1))
    support.fails("EMSGSIZE", conn:recv_frame())
    conn:close()
  end)

  it("a timeout inside the length, the head or the body resumes where it stopped", function()
    local a, b = wire.pipe { framing = framing.varint { offset = 1 } }
    for _, piece in ipairs { "h", "\x84", "\0", "bo" } do
      frames.send_pieces(a, { piece })
      support.fails("ETIMEDOUT", b:recv_frame(0.005))
    end
    frames.send_pieces(a, { "dy" })
    assert.same({ "body", "h" }, { b:recv_frame(5) })
    a:close()
    b:close()
  end)

  it("misuse says what is wrong", function()
    support.raises("'ofset' %(did you mean 'offset'%?%)", framing.varint, { ofset = 1 })
    support.raises("'offset' must be at most 255", framing.varint, { offset = 256 })
    support.raises("'offset' is out of range", framing.varint, { offset = -1 })
    support.raises("'offset' must be a whole number", framing.varint, { offset = "1" })
    support.raises("'max' must be at least 1", framing.varint, { max = 0 })
    support.raises("table expected", framing.varint, 5)
  end)
end)
