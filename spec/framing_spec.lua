-- Framings on a connection: the same messages however their bytes are cut, and what becomes of
-- bytes that are no message.
-- What this is not: length fields and framings in Lua, which have specs of their own; lines and
-- packages that are received without a framing.
local support = require "spec.support"
local frames = require "spec.frames"
local wire = require "lunewire"

local it = support.it
local framing = wire.framing

-- ---- built-in framings ------------------------------------------------------------------

local texts = {
  { name = "line", framing = framing.line(), bytes = "one\ntwo words\r\n\n\r\na\rb\0c\n",
    messages = { "one", "two words", "", "", "a\rb\0c" } },
  { name = "line{keep=true}", framing = framing.line { keep = true },
    bytes = "one\ntwo\r\n\n\r\na\rb\r\r\n",
    messages = { "one\n", "two\r\n", "\n", "\r\n", "a\rb\r\r\n" } },
  { name = "delimiter of one byte", framing = framing.delimiter "\0",
    bytes = "one\0two\nlines\0\0", messages = { "one", "two\nlines", "" } },
  { name = "delimiter of four bytes", framing = framing.delimiter "\r\n\r\n",
    bytes = "a\r\nb\r\n\r\n\r\n\r\r\n\r\n\r\n\r\n",
    messages = { "a\r\nb", "\r\n\r", "" } },
  { name = "delimiter that repeats itself", framing = framing.delimiter "aab",
    bytes = "aaab" .. "xaaxaab" .. "aab", messages = { "a", "xaax", "" } },
  { name = "fixed(3)", framing = framing.fixed(3), bytes = "abcd\0\nghi",
    messages = { "abc", "d\0\n", "ghi" } },
  { name = "fixed(1)", framing = framing.fixed(1), bytes = "abc", messages = { "a", "b", "c" } },
}

describe("framing.line, delimiter and fixed", function()
  for _, case in ipairs(texts) do
    it(case.name .. " gives the same messages for every split of the bytes", function()
      frames.check_every_split(case.framing, case.bytes, case.messages)
    end)
  end

  it("a delimiter is compared as exact bytes, upper and lower case apart", function()
    assert.same({ "xendyEnd" }, (frames.received(framing.delimiter "END", { "xendyEndEND" })))
  end)

  it("a line is sent with its newline, with keep only if it lacks one", function()
    assert.equal("one\n\ntwo\r\n", frames.sent(framing.line(), { "one", "", "two\r" }))
    assert.equal("one\ntwo\n", frames.sent(framing.line { keep = true }, { "one\n", "two" }))
  end)

  it("what was received with keep and sent again is the same bytes", function()
    local bytes = "one\ntwo\r\n\n"
    local f = framing.line { keep = true }
    assert.equal(bytes, frames.sent(f, (frames.received(f, { bytes }))))
  end)

  it("a delimited message is sent with its delimiter", function()
    assert.equal("a--b----", frames.sent(framing.delimiter "--", { "a", "b", "" }))
  end)

  it("data that holds the terminator is refused and nothing of it is sent", function()
    for f, data in pairs { [framing.line()] = "a\nb", [framing.delimiter "--"] = "a--b" } do
      local a, b = wire.pipe { framing = f }
      local ok, message, code = a:send_frame(data)
      assert.is_nil(ok)
      assert.equal("EPROTO", code)
      assert.matches("^send_frame ", message)
      a:close()
      assert.equal("", b:read "a")
      b:close()
    end
  end)

  it("fixed refuses data of another length", function()
    local a, b = wire.pipe { framing = framing.fixed(3) }
    assert.equal("EMSGSIZE", select(3, a:send_frame "ab"))
    assert.equal("EMSGSIZE", select(3, a:send_frame "abcd"))
    assert(a:send_frame "abc")
    assert.equal("abc", b:recv_frame())
    a:close()
    b:close()
  end)

  it("raw gives every piece as it came, and each byte once", function()
    local pieces = { "a", "bc", "\n", ("d"):rep(1000) }
    local list = frames.received_waiting(framing.raw(), pieces)
    assert.equal(table.concat(pieces), table.concat(list))
    for _, message in ipairs(list) do assert.is_true(#message > 0) end
    assert.equal("abc", frames.sent(framing.raw(), { "a", "bc" }))
  end)

  it("an end inside a message is EOF with the partial message", function()
    local cases = { [framing.line()] = "half", [framing.delimiter "--"] = "half-",
      [framing.fixed(9)] = "half" }
    for f, bytes in pairs(cases) do
      local conn = frames.given(f, bytes)
      local frame, message, code, partial = conn:recv_frame()
      assert.same({ "EOF", bytes }, { code, partial })
      assert.is_nil(frame)
      assert.matches("^recv_frame ", message)
      conn:close()
    end
  end)
end)

describe("limits of text framings", function()
  local limited = {
    line = framing.line { max = 5 },
    delimiter = framing.delimiter("\n", { max = 5 }),
  }
  for name, f in pairs(limited) do
    it(name .. " takes max bytes without the terminator, and one more is EMSGSIZE", function()
      local conn = frames.given(f, "12345\n123456\nnext\n")
      assert.equal("12345", conn:recv_frame())
      local frame, message, code = conn:recv_frame()
      assert.is_nil(frame)
      assert.equal("EMSGSIZE", code)
      assert.matches("^recv_frame ", message)
      conn:close()
    end)

    it(name .. " over its max is not consumed: a larger max of the call receives it", function()
      local conn = frames.given(f, "123456\nnext\n")
      assert.equal("EMSGSIZE", select(3, conn:recv_frame()))
      assert.equal("123456", conn:recv_frame { max = 6 })
      assert.equal("next", conn:recv_frame())
      conn:close()
    end)

    it(name .. " without an end is EMSGSIZE as soon as it cannot fit", function()
      local a, b = wire.pipe { framing = f }
      assert(a:send "12345678")
      assert.equal("EMSGSIZE", select(3, b:recv_frame(5)))
      assert.equal("12345678", b:recv_now())
      a:close()
      b:close()
    end)
  end
end)

describe("setting a framing", function()
  it("is an option of connect, listen and serve", function()
    local f = framing.length { size = 1 }
    local server = assert(wire.serve("127.0.0.1:0", { framing = f }, function(conn)
      for frame in conn:frames() do conn:send_frame(frame:upper()) end
    end))
    local client <close> = assert(wire.connect(server:addr(), { framing = f }))
    server:close()
    assert(client:send_frame "hello")
    assert.equal("HELLO", client:recv_frame(5))
    local one, other = support.pair { framing = framing.delimiter ";" }
    assert(one:send_frame "a")
    assert.equal("a", other:recv_frame(5))
    one:close()
    other:close()
  end)

  it("takes effect at a message boundary, on bytes that are there already too", function()
    local conn = frames.given(framing.line(), "text\n" .. "\0\4body" .. "abc" .. "last\n")
    assert.equal("text", conn:recv_frame())
    conn:set_framing(framing.length { size = 2 })
    assert.equal("body", conn:recv_frame())
    conn:set_framing(framing.fixed(3))
    assert.equal("abc", conn:recv_frame())
    conn:set_framing(framing.line())
    assert.equal("last", conn:recv_frame())
    conn:close()
  end)

  it("one framing serves many connections at once", function()
    local f = framing.line()
    local a, b = wire.pipe { framing = f }
    local c, d = wire.pipe { framing = f }
    frames.send_pieces(a, { "one" })
    frames.send_pieces(c, { "two\nthree" })
    assert.equal("ETIMEDOUT", select(3, b:recv_frame(0)))
    assert.equal("two", d:recv_frame())
    frames.send_pieces(a, { "\n" })
    frames.send_pieces(c, { "\n" })
    assert.same({ "one", "three" }, { b:recv_frame(), d:recv_frame() })
    for _, conn in ipairs { a, b, c, d } do conn:close() end
  end)

  it("a timeout inside a frame resumes where it stopped", function()
    local a, b = wire.pipe { framing = framing.length { size = 2 } }
    frames.send_pieces(a, { "\0" })
    assert.equal("ETIMEDOUT", select(3, b:recv_frame(0.01)))
    frames.send_pieces(a, { "\4bo" })
    assert.equal("ETIMEDOUT", select(3, b:recv_frame { timeout = 0.01 }))
    frames.send_pieces(a, { "dy" })
    assert.equal("body", b:recv_frame())
    a:close()
    b:close()
  end)

  it("a frame without a framing is misuse that says what to do", function()
    local a, b = wire.pipe()
    assert.error_matches(function() a:recv_frame() end, "framing")
    assert.error_matches(function() a:send_frame "x" end, "framing")
    a:close()
    b:close()
  end)

  it("misuse raises", function()
    local conn, other = wire.pipe()
    local misuses = {
      function() framing.fixed() end, function() framing.fixed(-1) end,
      function() framing.fixed "three" end, function() framing.delimiter() end,
      function() framing.delimiter "" end, function() framing.line { max = -1 } end,
      function() framing.length { size = 5 } end,
      function() framing.length { size = 2, offset = -1 } end,
      function() framing.length { size = 2, strip = -1 } end,
      function() framing.length { size = 2, endian = "middle" } end,
      function() conn:set_framing "line" end, function() conn:set_framing {} end,
      function() wire.pipe { framing = 5 } end,
    }
    for i, misuse in ipairs(misuses) do assert.is_false(pcall(misuse), "misuse " .. i) end
    assert.error_matches(function() framing.length { sise = 2 } end,
      "unknown option 'sise' (did you mean 'size'?)", 1, true)
    conn:close()
    other:close()
  end)
end)
