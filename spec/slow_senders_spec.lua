-- Peers that send a byte now and then, so that nothing they begin is ever complete: the documented
-- defences end each of them in its time and nobody else, and meanwhile each costs what it sent.
-- What this is not: how fast others are served meanwhile (make slow-peers tells), silent
-- handshakes (tls_flood_spec).
local support = require "spec.support"
local wire = require "lunewire"
local heap = require "spec.scenarios.heap"
local pki = require "spec.pki"
local tools = require "spec.conformance.tools"

local it = support.it

local KIB <const> = 1024
local PATIENCE <const> = 10 * support.slowness
local CROWD <const> = support.slowness == 1 and 100 or 20
local IDLE <const> = support.sized(2, 4, 10) -- far longer than anybody else is silent

-- ---- each way of beginning something -----------------------------------------------------

local F <const> = wire.framing

-- How a server reads; what a peer begins, and a byte of what never ends; a whole message.
local WAYS <const> = {
  lines = { read = "lines", begin = "GET / HTTP", more = "x", whole = "hello\n" },
  pkgs = { read = "pkgs", begin = "\255\255data", more = "x", whole = "\0\5hello" },
  length = { framing = F.length { size = 4 }, begin = "\0\15\0\0", more = "x",
    whole = "\0\0\0\5hello" },
  varint = { framing = F.varint(), begin = "\255\255\3", more = "x", whole = "\5hello" },
  netstring = { framing = F.netstring(), begin = "100000:", more = "x", whole = "5:hello," },
  header = { framing = F.header { magic = 0xCAFE, version = 1, checksum = false },
    begin = "\xCA\xFE\1\0\0\15\0\0", more = "x", whole = "\xCA\xFE\1\0\0\0\0\5hello" },
  delimiter = { framing = F.delimiter "--", begin = "abc", more = "-x", whole = "hello--" },
  in_lua = {
    framing = {
      decode = function(text)
        local at = text:find(";", 1, true)
        if at then return text:sub(1, at - 1), at end
      end,
      encode = function(message) return message .. ";" end,
    },
    begin = "abc", more = "x", whole = "hello;",
  },
}

-- n connections that begin something and go on with it, a byte at a time, until they are ended.
local function crowd(server, n, way, tls)
  local conns, tasks = {}, {}
  for i = 1, n do
    conns[i] = assert(wire.connect(server:addr(), { timeout = PATIENCE, tls = tls }))
    assert(conns[i]:send(way.begin))
    tasks[i] = wire.spawn(function()
      while conns[i]:send(way.more) and conns[i]:flush() do wire.sleep(0.02) end
    end)
  end
  return conns, tasks
end

local function dismiss(conns, tasks)
  for i, conn in ipairs(conns) do
    conn:reset()
    assert(tasks[i]:join(PATIENCE))
  end
end

-- A server that answers each message with an exclamation mark, and counts how connections end, and
-- how many there are at most.
local function serve(way, opts)
  local ends, total, most = {}, 0, 0
  opts.framing = way.framing
  opts.on_close = function(conn)
    local code = select(2, conn:last_error()) or "none"
    ends[code], total = (ends[code] or 0) + 1, total + 1
  end
  local server = assert(wire.serve("127.0.0.1:0", opts, function(conn, server)
    most = math.max(most, server:conn_num())
    for _ in conn[way.read or "frames"](conn) do conn:send "!" end
  end))
  return server, ends, function() return total, most end
end

-- Whole messages, more often than the time that anybody may be idle, until `over`.
local function behave(server, way, tls, over)
  local conn <close> = assert(wire.connect(server:addr(), { timeout = PATIENCE, tls = tls }))
  local answers = 0
  repeat
    assert(conn:send(way.whole))
    assert.equal("!", (assert(conn:recv(1))))
    answers = answers + 1
    wire.sleep(0.05)
  until over()
  return answers
end

describe(("idle_timeout ends %d peers that send"):format(CROWD), function()
  for name, way in pairs(WAYS) do
    it("what never becomes complete, received by " .. name .. ", and nobody else", function()
      local server <close>, ends, total = serve(way, { idle_timeout = IDLE })
      local start = wire.now()
      local conns, tasks = crowd(server, CROWD, way)
      assert.is_true(behave(server, way, nil, function() return total() >= CROWD end) > 1)
      assert.is_true(wire.now() - start >= IDLE * 0.8)
      assert.equal(CROWD, ends.ETIMEDOUT)
      for _, conn in ipairs(conns) do
        local data, _, code = conn:recv(1)
        assert.is_true(data == nil and (code == "EOF" or code == "ECONNRESET"), code)
      end
      dismiss(conns, tasks)
    end, 30)
  end

  it("the same over TLS", function()
    local server <close>, ends, total =
      serve(WAYS.lines, { idle_timeout = IDLE, tls = pki.server() })
    local tls = assert(wire.tls_context(pki.client()))
    local conns, tasks = crowd(server, CROWD // 2, WAYS.lines, tls)
    assert.is_true(behave(server, WAYS.lines, tls, function() return total() >= CROWD // 2 end) > 1)
    assert.equal(CROWD // 2, ends.ETIMEDOUT)
    dismiss(conns, tasks)
  end, 30)
end)

describe("a time for each call", function()
  for _, name in ipairs { "timeout", "deadline" } do
    it(("(%s) ends a receive of bytes that come one at a time, all of them kept"):format(name),
      function()
        local a, b = support.pair()
        local sender = wire.spawn(function()
          while a:send "x" and a:flush() do wire.sleep(0.01) end
        end)
        assert(b:peek(2))
        local LIMIT <const> = 0.2
        if name == "deadline" then b:set_recv_deadline(wire.now() + LIMIT) end
        local elapsed, data, _, code =
          tools.timed(b.recv, b, 1 << 20, name == "timeout" and LIMIT or nil)
        assert.is_nil(data)
        assert.equal("ETIMEDOUT", code)
        tools.took(LIMIT, elapsed)
        assert.is_true(b:buffered() > 1)
        assert.equal(b:stats().bytes_in, b:buffered())
        b:close()
        assert(sender:join(PATIENCE))
        a:close()
      end)
  end
end)

describe("max_conns", function()
  it("is used up by slow peers only until their time is over", function()
    local server <close>, ends, total =
      serve(WAYS.lines, { idle_timeout = IDLE, max_conns = 20 })
    local conns, tasks = crowd(server, 20, WAYS.lines)
    -- It stands in the backlog until then.
    assert.equal(1, behave(server, WAYS.lines, nil, function() return true end))
    local ended, most = total()
    assert.is_true(ended >= 1)
    assert.is_true(ends.ETIMEDOUT >= 1)
    assert.equal(20, most)
    dismiss(conns, tasks)
  end, 30)
end)

-- ---- what they cost ----------------------------------------------------------------------

local SERVER <const> = [[
local way, tls = arg[2], arg[3] and { cert = arg[3], key = arg[4] }
local F = wire.framing
local framings = {
  length = F.length { size = 4 }, varint = F.varint(), netstring = F.netstring(),
  header = F.header { magic = 0xCAFE, version = 1 },
}
local server = assert(wire.serve("127.0.0.1:0", { framing = framings[way], tls = tls },
  function(conn)
    if way == "lines" then
      for _ in conn:lines() do end
    elseif way == "pkg" then
      conn:recv_pkg { header = 4 }
    elseif way == "recv" then
      conn:recv(1 << 30)
    elseif way == "all" then
      conn:read "a"
    else
      conn:recv_frame()
    end
  end))
function commands.conns() return server:conn_num() end
function commands.received()
  local sum = 0
  for _, conn in ipairs(server:conns()) do sum = sum + conn:stats().bytes_in end
  return sum
end
ready(server:port())
wire.run()
]]

-- What announces 1 MiB or more; that many bytes have come then.
local BOMBS <const> = {
  length = "\0\15\255\255", pkg = "\0\15\255\255", varint = "\255\255\63", netstring = "1048576:",
  header = "\xCA\xFE\1\0\0\15\255\255", lines = "", recv = "", all = "",
}

-- What a server holds for each of n peers that have sent those bytes, in pieces, of what they
-- announced.
local function held_for_each(n, way, pieces, tls)
  local server, port = heap.start(SERVER, way, tls and tls.cert, tls and tls.key)
  wire.connect("127.0.0.1:" .. port):reset()
  wire.sleep(0.01)
  local before, conns = heap.mark(server), {}
  for i = 1, n do conns[i] = assert(wire.connect("127.0.0.1:" .. port, PATIENCE)) end
  support.eventually(function() return tonumber(server:ask "conns") == n end)
  local total = 0
  for _, piece in ipairs(pieces) do
    for _, conn in ipairs(conns) do
      assert(conn:send(piece))
      assert(conn:flush(PATIENCE))
    end
    total = total + n * #piece
    support.eventually(function() return tls or tonumber(server:ask "received") == total end)
    for _ = 1, 2 do server:ask "conns" end -- it has polled since; a handshake's bytes count nowhere
  end
  local held = heap.held(server)
  for _, conn in ipairs(conns) do conn:reset() end
  assert.same({ "", 0 }, { server:stop() })
  return (held - before) / n
end

describe("each of 200 peers that announced a megabyte and sent", function()
  if not heap.possible then return end

  for name, bomb in pairs(BOMBS) do
    for _, size in ipairs { 10, 5000, 60000 } do
      local bytes, third = bomb .. ("x"):rep(size - #bomb), math.max(#bomb, size // 3)
      local pieces = { bytes:sub(1, third), bytes:sub(third + 1, -3), bytes:sub(-2) }
      it(("%d bytes of it costs what it sent, received by %s"):format(size, name), function()
        local each = held_for_each(200, name, pieces)
        assert.is_true(each > size, each)
        -- a connection, and what its bytes take, once they are many with room for as many more
        assert.is_true(each < 1.5 * KIB + size * (size < 16000 and 1.1 or 2.2), each)
      end, 30)
    end
  end
end)

describe("each of 200 handshakes that has announced", function()
  if not heap.possible then return end

  for _, size in ipairs { 300, 16000, 131000 } do
    it(("a ClientHello of %d bytes and sent 100 of them costs its session"):format(size), function()
      local record = math.min(size + 4, 16384)
      local hello = string.pack(">BI2I2BI3I2", 22, 0x0301, record, 1, size, 0x0303)
      local each = held_for_each(200, "lines", { hello .. ("r"):rep(90) }, pki.server())
      assert.is_true(each < 80 * KIB, each)
    end, 30)
  end
end)
