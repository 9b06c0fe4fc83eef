-- wire.copy: bytes from one connection or file to another.  What joins two connections both
-- ways is in relay_spec.
local bytes_of = require "spec.bytes"
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local it, it_outside = support.it, support.it_outside
local pattern, sender, reader = bytes_of.pattern, bytes_of.sender, bytes_of.reader

local PIECE <const> = 64 * 1024
local HIGH_WATER <const> = 256 * 1024
local MILLION <const> = 1000 * 1000

-- A temporary file with this content, open for reading and writing at its start.
local function file_of(content)
  local file = assert(io.tmpfile())
  assert(file:write(content))
  assert(file:seek "set")
  return file
end

local function content_of(file)
  assert(file:seek "set")
  return file:read "a"
end

for _, transport in ipairs(support.transports) do
  describe("wire.copy over " .. transport.name, function()
    it("copies exactly n bytes and leaves what follows", function()
      local a, b = transport.pair()
      local c, d = transport.pair()
      tools.put(a, "0123456789")
      assert.equal(4, wire.copy(c, b, 4))
      assert.equal(3, wire.copy(c, b, 3.0))
      assert.equal(0, wire.copy(c, b, 0))
      assert.equal("0123456", d:recv(7))
      assert.equal("789", b:recv(3))
      assert.equal("", d:recv_now())
    end)

    it("without n copies until the end", function()
      local a, b = transport.pair()
      local c, d = transport.pair()
      local data = pattern(3 * MILLION)
      local send, receive = sender(a, data), reader(d)
      assert.equal(#data, wire.copy(c, b))
      assert.is_false(c:closed())
      c:close_write()
      assert.is_true(tools.result(receive) == data)
      tools.result(send)
    end)

    it("that ends before n bytes is EOF with the bytes copied", function()
      local a, b = transport.pair()
      local c, d = transport.pair()
      tools.put(a, "short")
      a:close_write()
      local message, bytes = support.fails("EOF", wire.copy(c, b, 1 << 40))
      assert.truthy(message:find("^copy: .*end of stream"))
      assert.equal(5, bytes)
      assert.equal("short", d:recv(5))
      message, bytes = support.fails("EOF", wire.copy(c, file_of "12", 3))
      assert.equal("copy: end of file", message)
      assert.equal(2, bytes)
    end)

    it("between connection and file, both ways, is byte for byte", function()
      local a, b = transport.pair()
      local data = pattern(MILLION)
      local source <close> = file_of(data)
      local target <close> = file_of ""
      local task = wire.spawn(function()
        local bytes = assert(wire.copy(a, source))
        a:close_write()
        return bytes
      end)
      assert.equal(#data, wire.copy(target, b))
      assert.equal(#data, tools.result(task))
      assert.is_true(content_of(target) == data)
    end)

    it("is held up by a slow reader, and then holds little", function()
      local a, b = transport.pair()
      local c, d = transport.pair()
      local data = pattern(16 * MILLION)
      local send = sender(a, data)
      local copy = wire.spawn(wire.copy, c, b, #data)
      local most, got = 0, 0
      while got < #data do
        got = got + #assert(d:recv_some(MILLION, 5))
        most = math.max(most, c:stats().unsent, a:stats().unsent)
        wire.sleep(0)
      end
      local added = transport.tls and 1024 or 0 -- by records
      assert.is_true(most <= HIGH_WATER + PIECE + added, most)
      assert.equal(#data, tools.result(copy))
      tools.result(send)
    end)

    it("trap: what the destination does not take goes back to the source", function()
      local a, b = transport.pair()
      local c, d = transport.pair()
      tools.deliver(a, b, "precious")
      tools.fill(c)
      c:set_timeout(0.02)
      local _, bytes = support.fails("ETIMEDOUT", wire.copy(c, b))
      assert.equal(0, bytes)
      c:set_timeout(nil)
      local task = tools.start(wire.copy, c, b)
      tools.await(function() return task:status() == "waiting" end)
      task:cancel()
      support.fails("ECANCELED", task:join(5))
      d:reset()
      tools.await(function() return not c:send "x" end)
      local _, _, code = c:send "x"
      local message, none = support.fails(code, wire.copy(c, b, 8))
      assert.truthy(message:find "^copy: write")
      assert.equal(0, none)
      assert.equal("precious", b:recv(8))
      local file <close> = file_of "also precious"
      support.fails(code, wire.copy(c, file))
      assert.equal("also precious", file:read "a")
    end)

    it("that timed out waiting for its source goes on where it stopped", function()
      local a, b = transport.pair()
      local c, d = transport.pair()
      tools.put(a, "one ")
      assert.equal("one ", b:peek(4, 5))
      b:set_timeout(0.02)
      local _, bytes = support.fails("ETIMEDOUT", wire.copy(c, b, 7))
      assert.equal(4, bytes)
      tools.put(a, "two")
      b:set_timeout(5 * support.slowness)
      assert.equal(3, wire.copy(c, b, 7 - bytes))
      assert.equal("one two", d:recv(7))
    end)
  end)
end

describe("wire.copy", function()
  it("copies from file to file in pieces of at most 64 KiB", function()
    local data = pattern(300000)
    local most, source = 0, file_of(data)
    local target = {}
    local read = { read = function(_, n) most = math.max(most, n) return source:read(n) end }
    local write = { write = function(self, piece) target[#target + 1] = piece return self end }
    assert.equal(#data, wire.copy(write, read, #data))
    assert.equal(PIECE, most)
    assert.is_true(table.concat(target) == data)
    assert.equal(0, wire.copy(write, read))
    source:seek "set"
    local file <close> = file_of ""
    assert.equal(#data, wire.copy(file, source))
    assert.is_true(content_of(file) == data)
    source:close()
  end)

  it("names what went wrong with a file by errno's name", function()
    local directory <close> = assert(io.open "/")
    local full <close> = assert(io.open("/dev/full", "w"))
    full:setvbuf "no"
    local readonly <close> = assert(io.open "/dev/null")
    local target <close> = file_of ""
    local message, bytes = support.fails("EISDIR", wire.copy(target, directory))
    assert.equal("copy: Is a directory", message)
    assert.equal(0, bytes)
    local source <close> = file_of "some"
    support.fails("ENOSPC", wire.copy(full, source))
    support.fails("EBADF", wire.copy(readonly, source))
    assert.equal("some", source:read "a")
  end)

  it("takes the message and code of an object's own failure", function()
    local source = { read = function() return nil, "out of tape", "ETAPE" end }
    local target = { write = function() return nil, "out of paper" end }
    local message = support.fails("ETAPE", wire.copy(target, source))
    assert.equal("copy: out of tape", message)
    message = support.fails("EIO", wire.copy(target, { read = function() return "x" end }))
    assert.equal("copy: out of paper", message)
  end)

  it("makes an echo of one connection, which nc talks to", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      assert(wire.copy(conn, conn))
    end))
    local peer = support.peer("head -c 500000 /dev/zero | nc -N 127.0.0.1 " .. server:port()
      .. " | wc -c")
    assert.equal(500000, tonumber((peer:output())))
  end)

  it_outside("works outside any task", function()
    local a, b = wire.pipe()
    assert(a:send "outside")
    a:close_write()
    local file <close> = file_of ""
    assert.equal(7, wire.copy(file, b))
    assert.equal("outside", content_of(file))
  end)

  it("refuses what cannot be read or written, and what is no count", function()
    local a, _ = wire.pipe()
    local function refuses(text, ...)
      local args = table.pack(...)
      support.raises("^spec/stream_spec.lua:%d+: copy: " .. text, function()
        local _ = wire.copy(table.unpack(args, 1, args.n))
      end)
    end
    refuses("cannot write to a nil", nil, a)
    refuses("cannot write to a number", 1, a)
    refuses("cannot read from a table", a, {})
    refuses("cannot read from a string", a, "text")
    for _, n in ipairs { -1, 1.5, "1", false } do refuses("a count of bytes", a, a, n) end
    local file = file_of ""
    file:close()
    support.raises("closed file", wire.copy, a, file)
  end)
end)
