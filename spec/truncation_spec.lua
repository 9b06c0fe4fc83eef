-- Messages that a peer cuts at every byte, by an end or by a reset, and lengths that nothing could
-- hold: for each framing over TCP, and for records of TLS.
-- What this is not: every split of good bytes (framing_*_spec), memory (slow_senders_spec).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"
local tools = require "spec.conformance.tools"

local it, fails = support.it, support.fails

local PATIENCE <const> = 10 * support.slowness
local F <const> = wire.framing

local in_lua = {
  decode = function(bytes)
    if #bytes < 3 then return nil, 3 end
    local total = 3 + string.unpack(">I3", bytes)
    if total > 1 << 20 then return false, "too long", "EMSGSIZE" end
    if #bytes < total then return nil, total end
    return bytes:sub(4, total), total
  end,
  encode = function(message) return string.pack(">s3", message) end,
}

-- Where a message is whole although the stream ends there is in `whole`.
local KINDS <const> = {
  line = { framing = F.line(), bytes = "hello\r\n" },
  kept = { framing = F.line { keep = true }, bytes = "hello\r\n", keeps = true },
  delimiter = { framing = F.delimiter "-->", bytes = "he-->" },
  fixed = { framing = F.fixed(7), bytes = "seven!!" },
  length_1 = { framing = F.length { size = 1 }, bytes = "\5hello" },
  length = { framing = F.length { size = 4 }, bytes = "\0\0\0\5hello" },
  length_8 = { framing = F.length { size = 8, endian = "little" }, bytes = "\3\0\0\0\0\0\0\0abc" },
  offset = { framing = F.length { size = 2, offset = 3, adjust = -5, strip = 5 },
    bytes = "abc\0\8xyz" },
  whole = { framing = F.length { size = 2, offset = 1, strip = 0 }, bytes = "t\0\3abc" },
  varint = { framing = F.varint(), bytes = "\131\0abc" },
  netstring = { framing = F.netstring(), bytes = "12:hello world!," },
  header = { framing = F.header { magic = 0xCAFE, version = 1 } },
  in_lua = { framing = in_lua, bytes = "\0\0\3abc" },
}

do
  local a, b = wire.pipe()
  a:set_framing(KINDS.header.framing)
  assert(a:send_frame("hello", { type = 7 }))
  a:close()
  KINDS.header.bytes = assert(b:read "a")
  b:close()
end

-- One whole message, then `bytes`; then the peer ends its side, or resets.
local function given(kind, bytes, ending)
  local a, b = support.pair()
  b:set_framing(kind.framing)
  tools.deliver(a, b, kind.bytes, bytes)
  a[ending](a)
  return b
end

describe("a message that is cut at every byte", function()
  for name, kind in pairs(KINDS) do
    it(("by an end is EOF with what came, framed by %s"):format(name), function()
      for cut = 0, #kind.bytes - 1 do
        local b = given(kind, kind.bytes:sub(1, cut), "close")
        assert.truthy((b:recv_frame(PATIENCE)))
        local _, partial = fails("EOF", b:recv_frame(PATIENCE))
        assert.equal(cut > 0 and kind.bytes:sub(1, cut) or nil, partial)
        local message, nothing = fails("EOF", b:recv_frame(PATIENCE))
        assert.matches("end of stream", message)
        assert.is_nil(nothing)
        b:close()
      end
    end, 30)

    it(("by an end is told by frames(), framed by %s"):format(name), function()
      for cut = 0, #kind.bytes - 1 do
        local b, count = given(kind, kind.bytes:sub(1, cut), "close"), 0
        for _ in b:frames { timeout = PATIENCE } do count = count + 1 end
        assert.equal(1, count)
        -- A clean end is none to speak of.
        local _, code = b:last_error()
        assert.equal(cut > 0 and "EOF" or nil, code)
        assert.equal(kind.bytes:sub(1, cut), b:recv(b:buffered()))
        b:close()
      end
    end, 30)

    it(("by a reset is ECONNRESET, and what came stays, framed by %s"):format(name), function()
      for cut = 0, #kind.bytes - 1 do
        local b = given(kind, kind.bytes:sub(1, cut), "reset")
        assert.truthy((b:recv_frame(PATIENCE)))
        for _ = 1, 2 do
          local _, partial = fails("ECONNRESET", b:recv_frame(PATIENCE))
          assert.is_nil(partial)
        end
        assert.equal(kind.bytes:sub(1, cut), b:recv(b:buffered()))
        fails("ECONNRESET", b:recv(1))
        b:close()
      end
    end, 30)
  end
end)

-- The other ways of receiving: what they need, and what is one.
local CALLS <const> = {
  recv_pkg = { "\0\3abc", function(conn) return conn:recv_pkg(PATIENCE) end },
  recv_pkg_4 = { "\0\0\0\3abc",
    function(conn) return conn:recv_pkg { header = 4, timeout = PATIENCE } end },
  recv = { "12345", function(conn) return conn:recv(5, PATIENCE) end },
  recv_line = { "a line\r\n", function(conn) return conn:recv_line(PATIENCE) end },
  recv_until = { "until--", function(conn) return conn:recv_until("--", PATIENCE) end },
}

describe("a call that is cut at every byte of what it needs", function()
  for name, row in pairs(CALLS) do
    local bytes, call = table.unpack(row)
    for ending, code in pairs { close = "EOF", reset = "ECONNRESET" } do
      it(("by a %s is %s in %s, with what came"):format(ending, code, name), function()
        for cut = 0, #bytes - 1 do
          local a, b = support.pair()
          local part = bytes:sub(1, cut)
          if cut > 0 then tools.deliver(a, b, part) end
          local waiting = tools.start(call, b)
          a[ending](a)
          local _, partial = fails(code, tools.result(waiting))
          if ending == "reset" then partial = b:recv(b:buffered()) end
          assert.equal(part, partial or "")
          fails(code, call(b))
          b:close()
        end
      end, 30)
    end
  end
end)

-- ---- records of TLS ----------------------------------------------------------------------

describe("a TLS stream that is cut at every byte of a record", function()
  for _, version in ipairs(sessions.VERSIONS) do
    for ending, code in pairs { close = "ETLS", reset = "ECONNRESET" } do
      it(("by a %s is %s, behind all whole records, over %s"):format(ending, code, version),
        function()
          local step, cut, length = support.slowness > 1 and 7 or 1, 0, 1
          while cut < length do
            local client, near, far, server =
              sessions.tapped(pki.client { servername = "localhost", max_version = version })
            assert(server:send "whole")
            near:send(far:recv_frame(PATIENCE))
            assert(server:send "cut off")
            local record = far:recv_frame(PATIENCE)
            length = #record
            near:send(record:sub(1, cut))
            near:flush()
            if ending == "reset" then assert.equal("whole", client:recv(5, PATIENCE)) end
            near[ending](near)
            if ending == "close" then assert.equal("whole", client:recv(5, PATIENCE)) end
            for _ = 1, 2 do fails(code, client:recv(1, PATIENCE)) end
            assert.equal(0, client:buffered())
            fails(code, client:recv_line(PATIENCE))
            far:close()
            server:close()
            client:close()
            cut = cut + step
          end
          assert.is_true(length > 20 and length < 60, length)
        end, 60)
    end
  end

  -- Sizes at which a record, a page or a read ends.
  it("or of any size arrives whole if it is not", function()
    local a, b = support.transports[5].pair { limits = { all = 4 << 20 } }
    local sizes, total = {}, 0
    for _, around in ipairs { 0, 255, 4096, 16384, 32768, 65536, 131072 } do
      for more = -2, 2 do
        if around + more > 0 then sizes[#sizes + 1] = around + more end
      end
    end
    local writer = wire.spawn(function()
      for i, n in ipairs(sizes) do
        assert(a:send(string.char(96 + i % 26):rep(n)))
        assert(a:flush())
        total = total + n
      end
      a:close_write()
    end)
    for i, n in ipairs(sizes) do
      assert.is_true(assert(b:recv(n, PATIENCE)) == string.char(96 + i % 26):rep(n), n)
    end
    tools.result(writer)
    fails("EOF", b:recv(1, PATIENCE))
    assert.equal(total, b:stats().bytes_in)
    a:close()
    b:close()
  end, 30)
end)

-- ---- lengths that nothing could hold -----------------------------------------------------

local MAX <const> = 1 << 20 -- limits.frame

local function numbers(format, most)
  return function(n) return n >= 0 and n <= most and string.pack(format, n) or nil end
end

local function varint(n)
  local out = {}
  while n < 0 or n > 127 do
    out[#out + 1] = string.char(n & 127 | 128)
    n = n >> 7
  end
  return table.concat(out) .. string.char(n)
end

-- What announces a message of n bytes, or nil where the field cannot.
local ANNOUNCE <const> = {
  length = { F.length { size = 4 }, numbers(">I4", 0xFFFFFFFF) },
  length_8 = { F.length { size = 8 }, function(n) return string.pack(">I8", n) end },
  little_8 = { F.length { size = 8, endian = "little" },
    function(n) return string.pack("<I8", n) end },
  including = { F.length { size = 8, includes_header = true },
    function(n) return string.pack(">I8", n >= 0 and n < math.maxinteger - 8 and n + 8 or n) end },
  adjusted = { F.length { size = 8, adjust = 100 },
    function(n) return string.pack(">I8", n >= 0 and n - 100 or n) end },
  varint = { F.varint(), varint },
  netstring = { F.netstring(), function(n) return ("%u:"):format(n) end },
  header = { F.header { magic = 0xCAFE, version = 1, checksum = false },
    function(n) return n >= 0 and n <= 0xFFFFFFFF and string.pack(">I2BBI4", 0xCAFE, 1, 0, n) end },
  header_8 = { F.header { magic = 0xCAFE, version = 1, size = 8 },
    function(n) return string.pack(">I2BBI8", 0xCAFE, 1, 0, n) end },
}

local BOMBS <const> = {
  MAX + 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 62,
  math.maxinteger - 1, math.maxinteger, math.mininteger, -2, -1, -- the last three: unsigned
}

-- How many of these bytes decide: all, but of digits in decimal no more than exceed the limit.
local function deciding(bytes)
  local digits = bytes:match "^(%d+):$"
  if not digits then return #bytes end
  local n = #tostring(MAX)
  return tonumber(digits:sub(1, n)) > MAX and n or n + 1
end

-- It is awaited until the byte that decides has come.
local function check_refused(a, b, bytes)
  local reader, n = tools.start(b.recv_frame, b, PATIENCE), deciding(bytes)
  tools.put(a, bytes:sub(1, n - 1))
  tools.await(function() return b:stats().bytes_in == n - 1 end)
  tools.await(function() return reader:status() ~= "ready" end)
  assert.equal("waiting", reader:status())
  a:send(bytes:sub(n, n))
  fails("EMSGSIZE", tools.result(reader))
  fails("EPROTO", b:recv_frame(PATIENCE))
  assert.equal(n, b:buffered())
  a:send(bytes:sub(n + 1))
  assert.equal(bytes, b:recv(#bytes, PATIENCE))
end

describe("a length", function()
  for name, row in pairs(ANNOUNCE) do
    local framing, announce = table.unpack(row)

    it("over the limit is refused where it is known, and every byte stays: " .. name, function()
      local tried = 0
      for _, n in ipairs(BOMBS) do
        local bytes = announce(n)
        if bytes and not (name == "netstring" and n < 0) then
          local a, b = support.pair { framing = framing }
          check_refused(a, b, bytes)
          a:close()
          b:close()
          tried = tried + 1
        end
      end
      assert.is_true(tried >= 5, tried)
    end, 30)

    it("of exactly the limit is awaited: " .. name, function()
      local a, b = support.pair { framing = framing }
      a:send(announce(MAX))
      fails("ETIMEDOUT", b:recv_frame(0.05))
      assert.equal(#announce(MAX), b:buffered())
      a:close()
      b:close()
    end)
  end
end)
