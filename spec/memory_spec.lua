-- What one connection may hold, measured to the byte in a server of its own process: for each way
-- of receiving, while a peer floods it with messages as long as can be, tiny ones, ones that never
-- end and ones that are too long.
-- What this is not: which code each of them gives (limits_spec, framing_*_spec).
local support = require "spec.support"
local wire = require "lunewire"
local heap = require "spec.scenarios.heap"
local pki = require "spec.pki"

local KIB <const> = 1024

local SERVER <const> = [[
local F = wire.framing
local way, limit, tls = arg[2], tonumber(arg[3]), arg[4] and { cert = arg[4], key = arg[5] }
local limits = { line = limit, frame = limit, all = limit, high_water = limit }

-- Each reads until it fails.
local function frames(framing)
  return { framing = framing, read = function(conn) for _ in conn:frames() do end end }
end

-- The length stands in three bytes before the data, as far as this side sees it.
local in_lua = {
  decode = function(bytes)
    if #bytes < 3 then return nil, 3 end
    local total = 3 + string.unpack(">I3", bytes)
    if #bytes < total then return nil, total end
    return bytes:sub(4, total), total
  end,
  encode = function(message) return string.pack(">s3", message) end,
}

local ways = {
  recv_line = { read = function(conn) while conn:recv_line() do end end },
  skip = { read = function(conn) while conn:recv_line { skip = true } do end end },
  lines = { read = function(conn) for _ in conn:lines() do end end },
  read_l = { read = function(conn) while conn:read "l" do end end },
  recv_until = { read = function(conn) while conn:recv_until "\r\n--\r\n" do end end },
  recv_pkg = { read = function(conn) while conn:recv_pkg { header = 4 } do end end },
  read_a = { read = function(conn) conn:read "a" end },
  recv = { read = function(conn) while conn:recv() do end end },
  recv_n = { read = function(conn) while conn:recv(limit) do end end },
  recv_some = { read = function(conn) while conn:recv_some(limit) do end end },
  peek = { read = function(conn) while conn:peek(limit) and conn:recv(limit) do end end },
  quiet = { read = function(conn)
    conn:set_recv_buffer_wait(0.01)
    while conn:recv() do end
  end },
  nobody = { read = function() end },
  echo = { read = function(conn)
    conn:option("send_buffer", 4096)
    for line in conn:lines() do conn:send(line) end
  end },
  unread = { read = function(conn)
    for line in conn:lines { keep = true } do
      conn:unread(line)
      assert(conn:recv_line() == line:sub(1, -2))
    end
  end },
  line = frames(F.line()),
  delimiter = frames(F.delimiter "\r\n--\r\n"),
  fixed = frames(F.fixed(limit)),
  length = frames(F.length { size = 4 }),
  length_8 = frames(F.length { size = 8, endian = "little" }),
  whole = frames(F.length { size = 3, offset = 1, strip = 0 }),
  varint = frames(F.varint()),
  netstring = frames(F.netstring()),
  header = frames(F.header { magic = 0xCAFE, version = 1, checksum = "crc32" }),
  in_lua = frames(in_lua),
}

local over, last = wire.channel(), nil
local server = assert(wire.serve("127.0.0.1:0",
  { limits = limits, framing = ways[way].framing, tls = tls },
  function(conn)
    last = conn
    ways[way].read(conn)
    collectgarbage()
    over:recv() -- reads no more
  end))

function commands.received() return last and last:stats().bytes_in or 0 end

function commands.close()
  over:close()
  last:reset()
  last = nil
  while server:conn_num() > 0 do wire.sleep(0.001) end
  return ""
end

ready(server:port())
wire.run()
]]

-- What a peer sends for each way: a message of n bytes of data on the wire, and one that is longer
-- than the limit n allows, as far as it is needed for that to be known.
local function lines(terminator)
  return {
    message = function(n) return ("x"):rep(n) .. terminator end,
    bomb = function(n) return ("x"):rep(n + #terminator + 1) end,
  }
end

local function counted(pack)
  return {
    message = function(n) return pack(n, ("x"):rep(n)) end,
    bomb = function(n) return pack(n + 1, "") end,
  }
end

local function bytes(n) return ("x"):rep(n) end
local plain = { message = bytes, bomb = bytes }

local function packed(format)
  return counted(function(n, data) return format:pack(n) .. data end)
end

local function varint(n)
  local out = ""
  while n >= 128 do
    out, n = out .. string.char(n % 128 + 128), n // 128
  end
  return out .. string.char(n)
end

-- The checksum of so many x is not this: the message is read whole, and refused.
local function header(n, data) return (">I2BBI4"):pack(0xCAFE, 1, 0, n) .. data .. "sum!" end

local WAYS <const> = {
  recv_line = lines "\n", lines = lines "\r\n", read_l = lines "\n", line = lines "\n",
  skip = lines "\n", recv_until = lines "\r\n--\r\n", delimiter = lines "\r\n--\r\n",
  unread = lines "\n", echo = lines "\n",
  recv_pkg = packed ">I4", length = packed ">I4", length_8 = packed "<I8",
  whole = counted(function(n, data) return (">I4"):pack(n - 4) .. data:sub(5) end),
  in_lua = counted(function(n, data) return (">I3"):pack(n - 3) .. data:sub(4) end),
  varint = counted(function(n, data) return varint(n) .. data end),
  netstring = counted(function(n, data) return n .. ":" .. data .. "," end),
  header = counted(header),
  recv = plain, recv_n = plain, recv_some = plain, peek = plain, read_a = plain, nobody = plain,
  quiet = plain, fixed = plain,
}

-- These stop reading at some time: the first message is refused, or nobody takes the answers.
local STOPS <const> = { header = true, read_a = true, nobody = true, echo = true }

-- Of these the loop keeps memory for others (SPARES_MOST in csrc/core/buf.h), which is not theirs;
-- how much more they hold than the rest: where something is put back there is some room beside it.
local LEAVES <const> = { unread = 5 * KIB }
local SPARES <const> = 2 * (1024 + 64) * KIB

-- They never have a whole message in memory.
local GATHERS_NOT <const> = { recv = true, recv_some = true, nobody = true }

local PATIENCE <const> = 10 * support.slowness
local SESSION <const> = 2 * 50 * KIB -- with its buffers, and what is kept of them for the next

-- The first session of a process brings memory that stays.
local function greet(port, opts)
  local conn = assert(wire.connect("127.0.0.1:" .. port, opts))
  assert(conn:send "\n")
  assert(conn:flush(PATIENCE))
  conn:reset()
end

-- Sends so much; stops: or as much as is taken by one who stops reading at some time.
local function flood(conn, piece, most, stops)
  local total, refused = 0, 0
  while total < most and refused < 2 do
    local n, message = conn:send(piece, { timeout = stops and 0.05 or PATIENCE })
    if not stops then assert(n, message) end
    total, refused = total + (n or 0), n and 0 or refused + 1
  end
  return total
end

-- All that was sent, and by whom reads on all of it is received, before the one that is too long.
local function attack(server, conn, name, limit)
  local way, stops, sent = WAYS[name], STOPS[name], 0
  local message = way.message(limit)
  local function send(piece, most) sent = sent + flood(conn, piece, most, stops) end
  send(message:rep(math.max(1, 100000 // #message)), stops and 20000 * KIB or 2000 * KIB)
  -- one that is not over yet
  send(message:sub(1, -2), #message - 1)
  wire.sleep(0.02)
  send(message:sub(-1), 1)
  send(way.message(5):rep(10000), 500 * KIB)
  local function is_received() return tonumber(server:ask "received") >= sent end
  if not stops then support.eventually(is_received) end
  flood(conn, way.bomb(limit), 1, true)
  flood(conn, ("y"):rep(64 * KIB), 20000 * KIB, true)
  wire.sleep(0.05)
end

-- -> the most bytes that the process held because of one connection, its own memory of the loop
-- included; how much of that it still holds when the connection is over
local function most_held(name, limit, secure)
  local tls = secure and pki.server() or {}
  local server, port = heap.start(SERVER, name, limit, tls.cert, tls.key)
  local opts = { timeout = PATIENCE, tls = secure and pki.client() or nil }
  if secure then greet(port, opts) end
  local before = heap.mark(server)
  local conn <close> = assert(wire.connect("127.0.0.1:" .. port, opts))
  attack(server, conn, name, limit)
  return heap.finish(server, before)
end

-- Of a message there are two copies at most, where it is received and the string that it becomes;
-- the latter is not among what is measured.  at_least: what there must have been.
local function check(name, limit, more, at_least, secure)
  local most, kept = most_held(name, limit, secure)
  if LEAVES[name] then
    assert.is_true(kept <= SPARES, kept)
    most = most - math.max(kept, 0)
  end
  assert.is_true(most <= limit + more, most)
  if heap.possible then assert.is_true(most >= at_least, most) else assert.equal(0, most) end
end

-- What it holds of its output: up to the limit, and the message that crosses that.
local function answers(name, limit) return name == "echo" and 2 * limit or 0 end

-- What gathers may be in the loop's page as long as it fits there.
local function least(name, limit)
  if name == "echo" then return 2 * limit end
  return (GATHERS_NOT[name] or limit < 64 * KIB) and 1 or limit
end

describe("one connection holds little more than its limit", function()
  -- Where nothing is measured it is for the observer.
  local names = { "recv_line", "recv_until", "header", "in_lua", "nobody", "echo" }
  if heap.possible then
    names = {}
    for name in pairs(WAYS) do names[#names + 1] = name end
  end

  for _, name in ipairs(names) do
    for _, limit in ipairs { 1000, 100000 } do
      support.it(("received by %s, with a limit of %d"):format(name, limit), function()
        local more = 66 * KIB + answers(name, limit) + (LEAVES[name] or 0)
        check(name, limit, more, least(name, limit))
      end, 30)
    end
  end

  for _, name in ipairs { "lines", "length", "recv", "read_a", "in_lua", "nobody" } do
    support.it(("and its session, received by %s over TLS"):format(name), function()
      check(name, 100000, SESSION + 66 * KIB, least(name, 100000), true)
    end, 30)
  end
end)
