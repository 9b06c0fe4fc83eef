-- Framings with another implementation at the other end: python3, with its own struct and zlib.
-- What this is not: every cut and corruption; those are in the specs of each framing.
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it
local framing = wire.framing

-- Sends messages in odd pieces, reads them back reversed, and says how many were right.
local SCRIPT <const> = [[
import random, socket, struct, sys, zlib
kind, port = sys.argv[1], int(sys.argv[2])
conn = socket.create_connection(("127.0.0.1", port))
conn.settimeout(15)
stream = conn.makefile("rb")

def take(n):
    data = stream.read(n)
    assert len(data) == n, "the stream ended"
    return data

def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])

def write(data, tag):
    if kind == "varint":
        return bytes([tag]) + varint(len(data)) + data
    if kind == "netstring":
        return b"%d:%s," % (len(data), data)
    head = struct.pack(">HBBI", 0xCAFE, 1, tag, len(data)) + data
    return head + struct.pack(">I", zlib.crc32(head))

def read():
    if kind == "varint":
        tag, n, shift = take(1)[0], 0, 0
        while True:
            b = take(1)[0]
            n |= (b & 127) << shift
            shift += 7
            if b < 128: return take(n), tag
    if kind == "netstring":
        digits = b""
        while not digits.endswith(b":"): digits += take(1)
        data = take(int(digits[:-1]))
        assert take(1) == b","
        return data, None
    head = take(8)
    magic, version, tag, n = struct.unpack(">HBBI", head)
    data = take(n)
    assert (magic, version) == (0xCAFE, 1)
    assert struct.unpack(">I", take(4))[0] == zlib.crc32(head + data)
    return data, tag

rng = random.Random(1)
sizes = [0, 1, 9, 10, 99, 100, 127, 128, 255, 256, 16383, 16384, 100000]
messages = [(rng.randbytes(n), rng.randrange(256)) for n in sizes]
wire = b"".join(write(*m) for m in messages)
while wire:
    n = rng.choice([1, 2, 3, 700, 50000])
    conn.sendall(wire[:n])
    wire = wire[n:]
conn.shutdown(socket.SHUT_WR)
for data, tag in messages:
    back, tag_back = read()
    assert back == data[::-1], "other data"
    assert kind == "netstring" or tag_back == 255 - tag, "another tag"
assert stream.read() == b"", "more than was sent"
print("right:", len(messages))
]]

local kinds = {
  varint = {
    framing = framing.varint { offset = 1 },
    tag = function(head) return { head = string.char(255 - head:byte()) } end,
  },
  netstring = { framing = framing.netstring(), tag = function() end },
  header = {
    framing = framing.header { magic = 0xCAFE, version = 1 },
    tag = function(kind) return { type = 255 - kind } end,
  },
}

describe("python3", function()
  for name, kind in pairs(kinds) do
    it("understands framing." .. name .. ", and is understood", function()
      local failure
      local server <close> = assert(wire.serve("127.0.0.1:0", { framing = kind.framing },
        function(conn)
          for message, beside in conn:frames() do
            assert(conn:send_frame(message:reverse(), kind.tag(beside)))
          end
          failure = conn:last_error()
        end))
      local command = ("python3 - %s %d <<'END'\n%s\nEND"):format(name, server:port(), SCRIPT)
      assert.same({ "right: 13\n", 0 }, { support.peer(command):output() })
      assert.is_nil(failure)
    end)
  end
end)
