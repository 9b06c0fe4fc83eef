-- Framing by netstrings: strictly as their inventor says.
-- What this is not: another implementation's netstrings (framing_peers_spec.lua).
local support = require "spec.support"
local frames = require "spec.frames"
local wire = require "lunewire"

local it = support.it
local framing = wire.framing

local TEXTS <const> = { "hello", "", "12:hello world!,", "a,b:c", ("x"):rep(100), "\0\255\n", "" }

local function encode(text) return #text .. ":" .. text .. "," end

local function encode_all(list)
  local parts = {}
  for i, text in ipairs(list) do parts[i] = encode(text) end
  return table.concat(parts)
end

-- What can be no netstring, however it goes on.
local WRONG <const> = {
  "x", ":hello,", ",", "00:,", "01:x,", "0x1:x,", "0,", " 5:hello,", "+5:hello,", "-1:x,",
  "5 :hello,", "5,hello,", "5;hello,", "5.0:hello,", "5\n:hello,", "\0", "\xb5:hello,",
  "5:hello;", "5:hello\n", "5:hello\0", "5:hellox,", "0:x", "3:hello,",
}

describe("framing.netstring", function()
  it("gives the same messages for every split of the bytes", function()
    frames.check_every_split(framing.netstring(), encode_all(TEXTS), TEXTS)
  end)

  it("writes what its inventor's page shows", function()
    assert.equal("12:hello world!,", frames.sent(framing.netstring(), { "hello world!" }))
    assert.equal("0:,", frames.sent(framing.netstring(), { "" }))
    assert.equal(encode_all(TEXTS), frames.sent(framing.netstring(), TEXTS))
  end)

  it("send_frame returns the bytes with those around the data", function()
    local a, b = wire.pipe { framing = framing.netstring() }
    assert.equal(8, a:send_frame "hello")
    assert.equal("hello", b:recv_frame(5))
    assert.equal(3, a:send_frame "")
    assert.same({ "" }, { b:recv_frame(5) })
    a:close()
    b:close()
  end)

  it("what is no netstring is EPROTO, then framed reads refuse, and every byte stays", function()
    for _, bytes in ipairs(WRONG) do
      local conn = frames.given(framing.netstring(), bytes)
      local message = support.fails("EPROTO", conn:recv_frame())
      assert.matches("^recv_frame ", message)
      support.fails("EPROTO", conn:recv_frame())
      assert.equal(bytes, conn:recv_now())
      conn:close()
    end
  end)

  it("what is no netstring is EPROTO when its bytes come one by one, too", function()
    for _, bytes in ipairs(WRONG) do
      local pieces = {}
      for i = 1, #bytes do pieces[i] = bytes:sub(i, i) end
      assert.same({ {}, "EPROTO" }, { frames.received_waiting(framing.netstring(), pieces) })
    end
  end)

  it("a wrong byte is told at once, without waiting for more", function()
    for _, bytes in ipairs { "x", "00", "1x", "5;" } do
      local a, b = wire.pipe { framing = framing.netstring() }
      frames.send_pieces(a, { bytes })
      support.fails("EPROTO", b:recv_frame(5))
      a:close()
      b:close()
    end
  end)

  it("messages before a wrong one are delivered", function()
    assert.same({ { "a", "b" }, "EPROTO" },
      { frames.received(framing.netstring(), { "1:a,1:b,1:c;" }) })
  end)

  it("the digit that makes it too long is EMSGSIZE at once, then framed reads refuse", function()
    for bytes, max in pairs { ["13"] = 12, ["2"] = 1, ["100"] = 99, ["1234"] = 123 } do
      local a, b = wire.pipe { framing = framing.netstring { max = max } }
      frames.send_pieces(a, { bytes })
      support.fails("EMSGSIZE", b:recv_frame(5))
      support.fails("EPROTO", b:recv_frame(5))
      a:close()
      b:close()
    end
  end)

  it("a flood of digits is refused before it is long", function()
    local a, b = wire.pipe { framing = framing.netstring { max = math.huge } }
    frames.send_pieces(a, { ("9"):rep(20) })
    support.fails("EMSGSIZE", b:recv_frame(5))
    a:close()
    b:close()
  end)

  it("a message of max bytes is taken and sent, one more is not", function()
    local a, b = wire.pipe { framing = framing.netstring { max = 5 } }
    assert(a:send_frame "hello")
    support.fails("EMSGSIZE", a:send_frame "hello!")
    assert(a:send_frame "again")
    assert.equal("hello", b:recv_frame(5))
    assert.equal("again", b:recv_frame(5))
    a:close()
    b:close()
  end)

  it("the connection's frame limit holds where the framing has none", function()
    local conn = frames.given(framing.netstring(), "101:", { limits = { frame = 100 } })
    support.fails("EMSGSIZE", conn:recv_frame())
    conn:close()
    conn = frames.given(framing.netstring(), "1048577")
    support.fails("EMSGSIZE", conn:recv_frame())
    conn:close()
  end)

  it("an end inside a netstring is EOF with what came", function()
    for _, bytes in ipairs { "5", "5:", "5:hel", "5:hello", "0", "0:" } do
      local conn = frames.given(framing.netstring(), bytes)
      local _, partial = support.fails("EOF", conn:recv_frame())
      assert.equal(bytes, partial)
      conn:close()
    end
  end)

  it("frames tells a clean end from one inside a message", function()
    assert.same({ { "ab" } }, { frames.received(framing.netstring(), { "2:ab," }) })
    assert.same({ { "ab" }, "EOF" }, { frames.received(framing.netstring(), { "2:ab,2:ab" }) })
  end)

  it("a timeout inside a netstring resumes where it stopped", function()
    local a, b = wire.pipe { framing = framing.netstring() }
    for _, piece in ipairs { "1", "2", ":hello ", "world!" } do
      frames.send_pieces(a, { piece })
      support.fails("ETIMEDOUT", b:recv_frame(0.005))
    end
    frames.send_pieces(a, { "," })
    assert.equal("hello world!", b:recv_frame(5))
    a:close()
    b:close()
  end)

  it("misuse says what is wrong", function()
    support.raises("'mx' %(did you mean 'max'%?%)", framing.netstring, { mx = 1 })
    support.raises("'max' must be at least 1", framing.netstring, { max = 0 })
    support.raises("table expected", framing.netstring, "5")
    local a, b = wire.pipe { framing = framing.netstring() }
    support.raises("string expected", a.send_frame, a, {})
    support.raises("messages of this framing have no type", a.send_frame, a, "x", { type = 1 })
    support.fails("EPROTO", a:send_frame("x", { head = "h" }))
    a:close()
    b:close()
  end)
end)
