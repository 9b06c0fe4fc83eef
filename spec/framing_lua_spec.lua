-- Framings that are written in Lua: a table with decode and encode.
-- What this is not: the built-in framings.
local support = require "spec.support"
local frames = require "spec.frames"
local wire = require "lunewire"

local it = support.it

-- "5:hello," and so on: the length in decimal digits, a colon, the data, a comma.
local netstring = {}

function netstring.decode(bytes)
  local digits, at = bytes:match "^(%d+):()"
  if not digits then
    if #bytes > 9 or bytes:find "^%D" then return false, "not a netstring", "EPROTO" end
    return nil, #bytes + 1
  end
  local total = at + tonumber(digits)
  if #bytes < total then return nil, total end
  return bytes:sub(at, total - 1), total
end

function netstring.encode(message) return { #message, { ":", message }, "," } end

-- A decoder that only does what a test gives it, and an end to feed it by.
local function with_decoder(decode, opts)
  opts = opts or {}
  opts.framing = { decode = decode, encode = netstring.encode }
  return wire.pipe(opts)
end

local function close_both(a, b)
  a:close()
  b:close()
end

-- Calls recv_frame, which must raise -> the error.
local function raised(conn)
  local ok, err = pcall(conn.recv_frame, conn)
  assert.is_false(ok)
  return err
end

describe("a framing in Lua that decodes", function()
  it("that asks for one byte more each time is given ever more of what is there", function()
    local calls = 0
    local a, b = with_decoder(function(bytes)
      calls = calls + 1
      local at = bytes:find("|", 1, true)
      if not at then return nil, #bytes + 1 end
      return bytes:sub(1, at - 1), at
    end)
    assert(a:send(("x"):rep(60000), "|"))
    assert.equal(60000, #assert(b:recv_frame()))
    assert.is_true(calls < 10, calls)
    close_both(a, b)
  end)

  it("gives the same messages for every split of the bytes", function()
    frames.check_every_split(netstring, "5:hello,0:,14:two\nlines\r\n\0,:,1:x,",
      { "hello", "", "two\nlines\r\n\0,:", "x" })
  end)

  it("reads back what it wrote", function()
    local messages = { "", "hello", ("x"):rep(1000), "," }
    local bytes = frames.sent(netstring, messages)
    assert.equal("0:,5:hello,1000:" .. ("x"):rep(1000) .. ",1:,,", bytes)
    assert.same(messages, (frames.received(netstring, { bytes })))
  end)

  it("is called again only when total_needed bytes are there", function()
    local sizes = {}
    local a, b = with_decoder(function(bytes)
      sizes[#sizes + 1] = #bytes
      if #bytes < 3 then return nil, 3 end
      if #bytes < 10 then return nil, 10 end
      return bytes, #bytes
    end)
    local reader = wire.spawn(b.recv_frame, b)
    for i = 1, 10 do
      wire.sleep(0)
      frames.send_pieces(a, { tostring(i % 10) })
    end
    assert.same({ true, "1234567890" }, { reader:join(5) })
    assert.same({ 1, 3, 10 }, sizes)
    close_both(a, b)
  end)

  it("may return any value as a message", function()
    local a, b = with_decoder(function(bytes)
      if #bytes < 2 then return nil, 2 end
      return { act = bytes:sub(1, 1), size = #bytes }, 2
    end)
    assert(a:send "h1b2")
    assert.same({ act = "h", size = 4 }, b:recv_frame())
    assert.same({ act = "b", size = 2 }, b:recv_frame())
    close_both(a, b)
  end)

  it("is told of the end, and may make a message of the rest", function()
    local ends = {}
    local conn = frames.given({
      decode = function(bytes, eof)
        ends[#ends + 1] = eof
        if eof and #bytes > 0 then return bytes, #bytes end
        return nil, #bytes + 1
      end,
      encode = netstring.encode,
    }, "the rest")
    assert.equal("the rest", conn:recv_frame())
    assert.equal("EOF", select(3, conn:recv_frame()))
    assert.is_false(ends[1])
    assert.is_true(ends[#ends])
    conn:close()
  end)

  it("and still needs more at the end gives EOF with the partial message", function()
    local conn = frames.given(netstring, "5:hello,9:par")
    assert.equal("hello", conn:recv_frame())
    local frame, message, code, partial = conn:recv_frame()
    assert.is_nil(frame)
    assert.matches("^recv_frame ", message)
    assert.same({ "EOF", "9:par" }, { code, partial })
    conn:close()
  end)

  it("and returns false fails the receive with its message and code, losing nothing", function()
    local a, b = with_decoder(function() return false, "bad magic", "EMAGIC" end)
    assert(a:send "junk")
    local frame, message, code = b:recv_frame()
    assert.is_nil(frame)
    assert.equal("EMAGIC", code)
    assert.matches("^recv_frame .*bad magic$", message)
    assert.equal("junk", b:recv_now())
    close_both(a, b)
  end)

  it("and raises raises it from the receive, losing nothing", function()
    local thrown = {}
    local a, b = with_decoder(function() error(thrown) end)
    assert(a:send "junk")
    assert.equal(thrown, raised(b))
    assert.equal("junk", b:recv_now())
    close_both(a, b)
  end)

  it("and raises does not hold up the next receiver", function()
    local a, b = with_decoder(function() error "no" end)
    local first = wire.spawn(b.recv_frame, b)
    local second = wire.spawn(b.recv, b, 4)
    wire.sleep(0)
    assert(a:send "junk")
    assert.equal("EERROR", select(3, first:join(5)))
    assert.same({ true, "junk" }, { second:join(5) })
    close_both(a, b)
  end)

  it("is ECLOSED after the close, also where no next message was known", function()
    local a, b = with_decoder(netstring.decode, { limits = { frame = 4 } })
    assert(a:send "9:123456789,")
    support.fails("EMSGSIZE", b:recv_frame())
    support.fails("EPROTO", b:recv_frame())
    b:close()
    support.fails("ECLOSED", b:recv_frame())
    a:close()
  end)

  it("and consumes more than there is, or less than nothing, is misuse", function()
    for _, consumed in ipairs { 5, math.maxinteger, -1, 1.5, "four", false } do
      local a, b = with_decoder(function(bytes) return bytes, consumed end)
      assert(a:send "junk")
      assert.matches("decode", raised(b))
      assert.equal("junk", b:recv_now())
      close_both(a, b)
    end
  end)

  it("and names no more than there is already is asked again when more came", function()
    for _, needed in ipairs { 0, 1, false } do
      local calls = 0
      local a, b = with_decoder(function(bytes)
        calls = calls + 1
        if #bytes < 4 then return nil, needed or nil end
        return bytes, 4
      end)
      local reader = wire.spawn(b.recv_frame, b)
      for _, piece in ipairs { "ju", "n", "k" } do
        wire.sleep(0.01)
        frames.send_pieces(a, { piece })
      end
      assert.same({ true, "junk" }, { reader:join(5) })
      assert.is_true(calls <= 3, calls)
      close_both(a, b)
    end
  end)

  it("is held to the connection's frame limit", function()
    local function never(bytes) return nil, #bytes + 1 end
    local a, b = with_decoder(never, { limits = { frame = 50 } })
    assert(a:send(("x"):rep(60)))
    assert.equal("EMSGSIZE", select(3, b:recv_frame(5)))
    close_both(a, b)
    a, b = with_decoder(function() return nil, 1 << 40 end)
    assert(a:send "x")
    assert.equal("EMSGSIZE", select(3, b:recv_frame(5)))
    assert.equal("x", b:recv_now())
    close_both(a, b)
  end)
end)

describe("a framing in Lua that encodes", function()
  it("gets the options of send_frame", function()
    local a, b = wire.pipe { framing = {
      decode = netstring.decode,
      encode = function(message, opts) return { string.char(opts.type), message } end,
    } }
    assert(a:send_frame("x", { type = 7 }))
    a:close()
    assert.equal("\7x", b:read "a")
    b:close()
  end)

  it("gets any message, and returns what send takes", function()
    local a, b = wire.pipe { framing = {
      decode = netstring.decode,
      encode = function(message) return { message.act, { " ", message.n, { "\n" } } } end,
    } }
    assert(a:send_frame { act = "set", n = 5 })
    assert.equal("set 5", b:recv_line())
    close_both(a, b)
  end)

  it("and raises raises it from send_frame, and nothing is sent", function()
    local a, b = wire.pipe { framing = {
      decode = netstring.decode,
      encode = function(message) return message.no_such_field.x end,
    } }
    assert.is_false(pcall(a.send_frame, a, {}))
    assert(a:send "next")
    a:close()
    assert.equal("next", b:read "a")
    b:close()
  end)

  it("and returns what cannot be sent is misuse, and nothing is sent", function()
    for _, wrong in ipairs { false, print, { "a", true } } do
      local a, b = wire.pipe { framing = {
        decode = netstring.decode, encode = function() return wrong end,
      } }
      assert.is_false(pcall(a.send_frame, a, "x"))
      a:close()
      assert.equal("", b:read "a")
      b:close()
    end
  end)
end)

describe("a framing in Lua", function()
  it("works over a socket, both ways at once", function()
    local client, server = support.pair { framing = netstring }
    for i = 1, 50 do assert(client:send_frame(("x"):rep(i))) end
    for i = 50, 1, -1 do assert(server:send_frame(("y"):rep(i))) end
    for i = 1, 50 do assert.equal(("x"):rep(i), server:recv_frame(5)) end
    for i = 50, 1, -1 do assert.equal(("y"):rep(i), client:recv_frame(5)) end
    close_both(client, server)
  end)

  it("trap: is asked a few times for a long message of which it knows no length", function()
    local calls = 0
    local framing = {
      decode = function(bytes)
        calls = calls + 1
        local at = bytes:find("\n", 1, true)
        if at then return bytes:sub(1, at - 1), at end
      end,
      encode = function(message) return message .. "\n" end,
    }
    local client, server = support.pair { framing = framing }
    local long = ("x"):rep(900 * 1000)
    local sender = wire.spawn(function() return assert(server:send_frame(long)) end)
    assert.is_true(client:recv_frame(20) == long)
    assert.is_true(sender:join())
    assert.is_true(calls < 500, calls)
    close_both(client, server)
  end)

  -- What is looked at for nothing is copied for nothing, by a peer's choice of sizes.
  it("trap: is given little of what follows short messages, however much that is", function()
    local COUNT <const>, LONG <const> = support.sized(60000, 60000, 6000), 700 * 1000
    local calls, given, most = 0, 0, 0
    local framing = {
      decode = function(bytes)
        calls, given = calls + 1, given + #bytes
        if #bytes < 3 then return nil, 3 end
        local total = 3 + string.unpack(">I3", bytes)
        if #bytes < total then return nil, total end
        if total == 3 then most = math.max(most, #bytes) end
        return total, total
      end,
      encode = function(message) return string.pack(">s3", message) end,
    }
    local client, server = support.pair { framing = framing }
    local sender = wire.spawn(function()
      return server:send(string.pack(">s3", ("x"):rep(LONG)), ("\0\0\0"):rep(COUNT))
    end)
    assert.equal(LONG + 3, client:recv_frame(20))
    for _ = 1, COUNT do assert.equal(3, client:recv_frame(20)) end
    assert.is_true(sender:join())
    assert.is_true(calls < 2 * COUNT, calls)
    assert.is_true(most <= 4096, most)
    assert.is_true(given < 3 * LONG + 4096 * calls, given)
    close_both(client, server)
  end, 30)

  it("that names no number is given all that is there in a few steps", function()
    local sizes = {}
    local a, b = with_decoder(function(bytes, eof)
      sizes[#sizes + 1] = #bytes
      if eof then return #bytes, #bytes end
    end)
    local sender = wire.spawn(function()
      assert(a:send(("x"):rep(200 * 1000)))
      a:close()
    end)
    assert.equal(200 * 1000, b:recv_frame(20))
    assert.is_true(sender:join())
    assert.is_true(#sizes < 30, #sizes)
    close_both(a, b)
  end)

  it("takes a message of exactly the limit, and none that is longer, however they come", function()
    for _, pieces in ipairs { { "12345:1" }, { "1", "2345", ":", "1" } } do
      for limit, outcome in pairs { [6] = { "12345:" }, [5] = { nil, "EMSGSIZE" } } do
        local a, b = with_decoder(function(bytes)
          local at = bytes:find(":", 1, true)
          if at then return bytes:sub(1, at), at end
        end, { limits = { frame = limit } })
        local reader = wire.spawn(b.recv_frame, b)
        for _, piece in ipairs(pieces) do
          wire.sleep(0)
          frames.send_pieces(a, { piece })
        end
        local _, message, _, got = reader:join(5)
        assert.same(outcome, { message, got })
        close_both(a, b)
      end
    end
  end)

  it("replaces another one at a message boundary", function()
    local conn = frames.given(wire.framing.line(), "text\n5:hello,")
    assert.equal("text", conn:recv_frame())
    conn:set_framing(netstring)
    assert.equal("hello", conn:recv_frame())
    conn:close()
  end)

  it("without a decode or an encode that can be called is misuse", function()
    local a, b = wire.pipe()
    assert.is_false(pcall(a.set_framing, a, { decode = "no", encode = netstring.encode }))
    assert.is_false(pcall(a.set_framing, a, { decode = netstring.decode, encode = 5 }))
    close_both(a, b)
  end)
end)
