-- bench/load, the generator that judges servers: that it measures a server that is right, and that
-- it fails at each way in which one of streams can be wrong.
local assert = require "luassert"
local describe = require("busted").describe
local loads = require "spec.loads"
local support = require "spec.support"

local it = support.it
local passes, fails, serve, at, flip = loads.passes, loads.fails, loads.serve, loads.at, loads.flip
local MIB <const> = 1024 * 1024

-- ---- what it prints ------------------------------------------------------------------

describe("bench/load with a server that is right", function()
  local function assert_measured(f)
    for _, key in ipairs { "conns", "depth", "size", "seconds", "messages", "messages_per_s",
      "mb_per_s", "p50_us", "p99_us", "p999_us", "max_us", "total" } do
      assert.is_number(f[key], key)
    end
    assert.is_true(f.messages > 0 and f.total >= f.messages)
    assert.is_true(0 < f.p50_us and f.p50_us <= f.p99_us)
    assert.is_true(f.p99_us <= f.p999_us and f.p999_us <= f.max_us)
    assert.near(f.messages / f.seconds, f.messages_per_s, 1 + 0.01 * f.messages_per_s)
    assert.near(f.messages_per_s * f.size / 1e6, f.mb_per_s, 0.1)
  end

  for _, mode in ipairs(loads.MODES) do
    it("measures " .. mode, function()
      local server <close>, port = serve(mode)
      local f = passes(mode, port, "--conns 20 --depth 7 --size 50 --seconds 0.2")
      assert.are.same({ 20, 7, 50 }, { f.conns, f.depth, f.size })
      assert.is_true(f.seconds >= 0.2)
      assert_measured(f)
      assert.are.equal(mode == "udp" and "number" or "nil", type(f.lost))
      assert.is_not_nil(server)
    end)
  end

  local LIMITS <const> = { length = 65535, line = 65534, bulk = 16 * MIB, tls = 65535,
    once = 65535, udp = 65507 }
  for mode, most in pairs(LIMITS) do
    it("sends messages of any size in " .. mode, function()
      local _ <close>, port = serve(mode)
      for _, size in ipairs { 0, 1, 7, 8, 9, 2039, 2048, 2049, 5000, most } do
        if mode ~= "udp" or size >= 8 then
          assert.are.equal(size, passes(mode, port, "--conns 2 --depth 3 --size " .. size).size)
        end
      end
      fails("--size must be a number from", mode, port, "--size " .. most + 1)
    end, 40)
  end

  it("counts the messages that the server sees", function()
    local seen = 0
    local _ <close>, port = serve("length", function(_, message)
      seen = seen + 1
      return message
    end)
    assert.are.equal(passes("length", port, "--conns 5 --depth 4").total, seen)
  end)

  it("keeps D messages in flight", function()
    local held = {}
    local _ <close>, port = serve("length", function(number, message, conn)
      if number == 0 then return message end -- the first goes alone, to show that it is served
      held[#held + 1] = message
      if #held < 6 then return "" end
      assert.are.equal("", conn:recv_now())
      local all = table.concat(held)
      held = {}
      return all
    end)
    assert.is_true(passes("length", port, "--conns 1 --depth 6").messages >= 6)
  end)
end)

-- ---- servers that are wrong ----------------------------------------------------------

describe("bench/load fails when a server", function()
  local STREAMS <const> = { "length", "line", "bulk", "tls" }
  local BUSY <const> = "--conns 3 --depth 4 --size 20"

  -- The length of a message in bytes, all of which are checked.
  local LENGTHS <const> = { length = 22, line = 21, bulk = 24, tls = 22, once = 22, udp = 20 }
  for mode, length in pairs(LENGTHS) do
    it("changes any byte: " .. mode, function()
      for position = 1, length do
        local _ <close>, port = serve(mode, at(mode == "once" and 0 or 5, function(message)
          assert.are.equal(length, #message)
          return flip(message, position)
        end))
        fails(mode == "udp" and "came back" or "came back wrong", mode, port, BUSY)
      end
    end, 40)
  end

  it("changes a byte anywhere in a long message, or moves a block of it", function()
    local spoil
    local _ <close>, port = serve("bulk", at(1, function(message) return spoil(message) end))
    local words = "--conns 1 --depth 1 --size " .. MIB
    for _, position in ipairs { 1, 4, 5, 12, 13, 65521, 65536, 131072, MIB // 2, MIB + 4 } do
      spoil = function(message) return flip(message, position) end
      fails("message 1 came back wrong", "bulk", port, words)
    end
    for _, block in ipairs { 1, 4096, 65536, MIB // 4 } do
      spoil = function(m)
        return m:sub(1, 20) .. m:sub(21 + block, 20 + 2 * block) .. m:sub(21, 20 + block)
          .. m:sub(21 + 2 * block)
      end
      fails("message 1 came back wrong", "bulk", port, words)
    end
  end, 30)

  for _, mode in ipairs(STREAMS) do
    it("leaves a reply out: " .. mode, function()
      local _ <close>, port = serve(mode, at(9, function() return "" end))
      fails("came back wrong", mode, port, BUSY)
      fails(loads.MISSING, mode, port, "--conns 1")
    end)

    it("leaves a reply out on one connection while others go on: " .. mode, function()
      local victim
      local _ <close>, port = serve(mode, at(9, function(message, conn)
        victim = victim or conn
        return conn == victim and "" or message
      end))
      fails(loads.MISSING, mode, port, "--conns 3")
    end)

    it("replies twice: " .. mode, function()
      local _ <close>, port = serve(mode, at(9, function(message) return message:rep(2) end))
      fails("came back", mode, port, BUSY)
      fails("more came back than was sent", mode, port, "--conns 1")
    end)

    it("leaves out the end of a reply: " .. mode, function()
      local _ <close>, port = serve(mode, at(9, function(message) return message:sub(1, -2) end))
      fails("came back wrong", mode, port, BUSY)
      fails(loads.MISSING, mode, port, "--conns 1")
    end)

    it("replies in another order: " .. mode, function()
      local held
      local _ <close>, port = serve(mode, function(number, message)
        if number == 4 then held = message end
        return number == 4 and "" or number == 5 and message .. held or message
      end)
      fails("message 4 came back wrong", mode, port, "--conns 1 --depth 4")
    end)

    it("replies to another connection: " .. mode, function()
      local last = ""
      local _ <close>, port = serve(mode, function(number, message)
        local reply = number == 0 and message or last
        last = message
        return reply
      end)
      fails("came back wrong", mode, port, "--conns 2")
    end)

    for name, number in pairs { ["at once"] = 0, ["later"] = 7 } do
      it("ends a connection " .. name .. ": " .. mode, function()
        local _ <close>, port = serve(mode, at(number, function() return nil end))
        fails("ended early, after %d+ messages", mode, port, BUSY)
      end)

      it("ends a connection within a reply " .. name .. ": " .. mode, function()
        local _ <close>, port = serve(mode, at(number, function(message, conn)
          conn:send(message:sub(1, -2))
          return nil
        end))
        fails("ended early", mode, port, BUSY)
      end)

      it("resets a connection " .. name .. ": " .. mode, function()
        local _ <close>, port = serve(mode, at(number, function(_, conn) conn:reset() end))
        fails("[Cc]onnection reset", mode, port, BUSY)
      end)
    end
  end
end)
