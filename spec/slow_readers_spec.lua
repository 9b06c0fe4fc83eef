-- Peers that do not read, or only slowly: what is held for each of them is bounded, whoever sends
-- to them waits and is told, and nobody else notices.
-- What this is not: peers that do not send (slow_senders_spec).
local support = require "spec.support"
local wire = require "lunewire"
local heap = require "spec.scenarios.heap"
local pki = require "spec.pki"
local tools = require "spec.conformance.tools"

local it, fails = support.it, support.fails

local KIB <const> = 1024
local PATIENCE <const> = 10 * support.slowness
local HIGH_WATER <const> = 256 * KIB

-- A connection of which the system takes little, so that a test needs to send little.
local function narrow(conn)
  conn:option("recv_buffer", 4 * KIB)
  conn:option("send_buffer", 4 * KIB)
  return conn
end

-- ---- what is held ----------------------------------------------------------------------

-- To a line "fill SIZE" messages of that size are sent until one must wait and nothing leaves any
-- more, all else is echoed.
-- The answer to `stuck` is how many there are, and the most that one had unsent.
local SERVER <const> = [[
local tls, high_water = arg[3] and { cert = arg[3], key = arg[4] }, tonumber(arg[2])
local stuck, most = 0, 0

local function fill(conn, size)
  local message = ("x"):rep(size)
  conn:option("send_buffer", 4096)
  local waited, unsent = 0, nil
  repeat
    local sent = conn:send(message, { timeout = 0.05 })
    local left = conn:stats().unsent
    waited = not sent and left == unsent and waited + 1 or 0
    most, unsent = math.max(most, left), left
  until waited == 2
  stuck = stuck + 1
  conn:send("never", { timeout = 1000 })
end

function commands.stuck() return stuck .. " " .. most end

local server = assert(wire.serve("127.0.0.1:0",
  { tls = tls, limits = { high_water = high_water, line = 2 << 20 } }, function(conn)
    for line in conn:lines() do
      local size = tonumber(line:match "^fill (%d+)$")
      if size then fill(conn, size) else conn:send(line, "\n") end
    end
  end))
ready(server:port())
wire.run()
]]

local function round_trip(conn, text)
  assert(conn:send(text, "\n"))
  assert.equal(#text, #assert(conn:recv_line { timeout = PATIENCE, max = 2 << 20 }))
end

-- n connections that the server has filled with messages of that size -> what it holds for each.
-- between: what others do meanwhile.
local function held_for_each(n, size, high_water, secure, between)
  local tls = secure and pki.server() or {}
  local server, port = heap.start(SERVER, high_water, tls.cert, tls.key)
  local opts = { timeout = PATIENCE, tls = secure and pki.client() or nil }
  local other <close> = assert(wire.connect("127.0.0.1:" .. port, opts))
  round_trip(other, "hello")
  between(other)
  local before, conns = heap.mark(server), {}
  for i = 1, n do
    conns[i] = narrow(assert(wire.connect("127.0.0.1:" .. port, opts)))
    assert(conns[i]:send("fill ", size, "\n"))
    support.eventually(function() return tonumber(server:ask "stuck":match "^%d+") == i end)
    between(other)
  end
  local held = heap.held(server)
  local most = tonumber(server:ask "stuck":match "%d+$")
  for _, conn in ipairs(conns) do conn:reset() end
  server:stop()
  return (held - before) / n, most
end

local function nothing() end

describe("a peer that never reads", function()
  if not heap.possible then return end

  for _, size in ipairs { 1000, 100000, 1000000 } do
    it(("costs its server 256 KiB and one message of %d bytes"):format(size), function()
      local each, most = held_for_each(10, size, HIGH_WATER, false, nothing)
      assert.is_true(most >= HIGH_WATER - size and most < HIGH_WATER + size, most)
      assert.is_true(each > HIGH_WATER / 2 and each < 2 * HIGH_WATER + size + 64 * KIB, each)
    end, 60)
  end

  it("costs as much over TLS, and its session", function()
    local each, most = held_for_each(10, 10000, HIGH_WATER, true, nothing)
    assert.is_true(most < HIGH_WATER + 10000 + 64 * KIB, most)
    assert.is_true(each < 2 * HIGH_WATER + (64 + 64) * KIB, each)
  end, 60)

  -- Memory goes from one connection to the next in the size to which it has grown.
  it("trap: costs no more after others had long messages", function()
    local long = ("y"):rep(1 << 20)
    local each = held_for_each(20, 500, 1000, false, function(other) round_trip(other, long) end)
    assert.is_true(each < 2 * 1500 + 64 * KIB, each)
  end, 60)
end)

-- ---- who sends to them -------------------------------------------------------------------

local function transport(name)
  for _, one in ipairs(support.transports) do
    if one.name == name then return one.pair end
  end
end

describe("a sender to a peer that does not read", function()
  for _, name in ipairs { "tcp", "unix", "tls 1.3" } do
    it("waits, and each way of sending says that its time is over, over " .. name, function()
      local a, b = transport(name)()
      local framing = wire.framing.length { size = 4 }
      a:set_framing(framing)
      local message, sent = ("m"):rep(30000), 0
      local unsent
      repeat
        unsent = a:stats().unsent
        while a:send_frame(message, 0.1) do sent = sent + 1 end
      until a:stats().unsent == unsent
      fails("ETIMEDOUT", a:send("x", { timeout = 0.01 }))
      fails("ETIMEDOUT", a:send_frame("x", 0.01))
      fails("ETIMEDOUT", a:send_pkg("x", 0.01))
      fails("ETIMEDOUT", a:send_recv("x", 1, 0.01))
      fails("ETIMEDOUT", a:flush(0.01))
      fails("EAGAIN", a:try_send "x")
      fails("ETIMEDOUT", a:send("x", { timeout = 0.001, retry = { count = 3, interval = 0.001 } }))

      -- None of these has accepted a byte, and none of those before is missing.
      a:close()
      b:set_framing(framing)
      local got = 0
      for frame in b:frames() do
        assert.equal(message, frame)
        got = got + 1
      end
      assert.is_nil((b:last_error()))
      assert.equal(sent, got)
      b:close()
    end, 30)

    it("goes on as soon as it reads, over " .. name, function()
      local a, b = transport(name)()
      local total = tools.fill(a)
      local sender = tools.start(a.send, a, "last")
      assert.equal("waiting", sender:status())
      assert.equal(total, #assert(b:recv(total, { timeout = PATIENCE, max = total })))
      assert.equal(4, tools.result(sender))
      assert.equal("last", b:recv(4, PATIENCE))
      a:close()
      b:close()
    end, 30)
  end

  it("gets its reset, whatever it waits in", function()
    local calls = {
      send = function(conn) return conn:send "x" end,
      flush = function(conn) return conn:flush() end,
      send_recv = function(conn) return conn:send_recv("x", 1) end,
      send_pkg = function(conn) return conn:send_pkg "x" end,
    }
    for name, call in pairs(calls) do
      local a, b = support.pair()
      tools.fill(a)
      local sender = tools.start(call, a)
      assert.equal("waiting", sender:status(), name)
      b:reset()
      fails("ECONNRESET", tools.result(sender))
      fails("ECONNRESET", a:send "x")
      a:close()
    end
  end)
end)

-- ---- and to others -----------------------------------------------------------------------

local READERS <const>, DEAF <const>, WORDS <const> = 90, 10, 150
local BEHIND <const> = 8 -- words, as far as a reader may be behind

describe("a broadcast to 100 connections of which 10 do not read", function()
  for _, secure in ipairs { false, true } do
    it("reaches the others whole, over " .. (secure and "TLS" or "TCP"), function()
      local accepted = wire.channel(200)
      local tls = secure and pki.server() or nil
      local server <close> = assert(wire.serve("127.0.0.1:0", { tls = tls }, function(conn)
        conn:option("send_buffer", 4 * KIB)
        accepted:send(conn)
        conn:recv()
      end))
      local context = secure and assert(wire.tls_context(pki.client())) or nil
      local function dial() return assert(wire.connect(server:addr(), { tls = context })) end

      local readers, ends, conns, got = {}, {}, {}, {}
      for i = 1, DEAF do ends[i] = narrow(dial()) end
      for i = 1, READERS do
        local conn = dial()
        ends[DEAF + i], got[i] = conn, 0
        readers[i] = wire.spawn(function()
          for number = 1, WORDS do
            local pkg = assert(conn:recv_pkg(PATIENCE))
            assert(pkg:sub(1, 8) == ("%08d"):format(number))
            got[i] = number
          end
          return true
        end)
      end
      for i = 1, READERS + DEAF do conns[i] = assert(accepted:recv(PATIENCE)) end

      -- No faster than those who read; the deaf are not waited for: who has no room misses this
      -- one, and all that follow.
      local missing, most = {}, 0
      for number = 1, WORDS do
        local message = string.pack(">s2", ("%08d"):format(number) .. ("w"):rep(8000))
        for _, conn in ipairs(conns) do
          if not missing[conn] and not conn:try_send(message) then missing[conn] = true end
          most = math.max(most, conn:stats().unsent)
        end
        support.eventually(function() return math.min(table.unpack(got)) >= number - BEHIND end)
      end
      for _, reader in ipairs(readers) do assert.is_true(tools.result(reader)) end
      local missed = 0
      for _ in pairs(missing) do missed = missed + 1 end
      assert.equal(DEAF, missed)
      assert.is_true(most >= HIGH_WATER and most <= HIGH_WATER + 9000 + 64 * KIB, most)
      for _, conn in ipairs(ends) do conn:reset() end
    end, 60)
  end
end)

describe("a server with peers that do not read", function()
  it("serves the others meanwhile, and shuts down in its time", function()
    local stuck = 0
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      if conn:recv_line() == "flood" then
        tools.fill(conn)
        stuck = stuck + 1
        conn:send "x"
      else
        for line in conn:lines() do conn:send(line, "\n") end
      end
    end))
    local deaf = {}
    for i = 1, 20 do
      deaf[i] = assert(wire.connect(server:addr()))
      assert(deaf[i]:send "flood\n")
    end
    local conn <close> = assert(wire.connect(server:addr()))
    assert(conn:send "echo\n")
    for i = 1, 200 do
      assert(conn:send(i, "\n"))
      assert.equal(tostring(i), conn:recv_line(PATIENCE))
    end
    support.eventually(function() return stuck == 20 end)
    assert(conn:send "still\n")
    assert.equal("still", conn:recv_line(PATIENCE))

    local elapsed, all_ended = tools.timed(server.shutdown, server, 0.3)
    assert.is_false(all_ended)
    tools.took(0.3, elapsed)
    for _, one in ipairs(deaf) do
      one:recv_some(1 << 26)
      while one:recv() do end -- luacheck: ignore
      fails("ECONNRESET", one:recv(1))
      one:close()
    end
  end, 30)
end)
