-- The idle timeout: receives end when the peer has been silent for too long.
-- What this is not: timeouts and deadlines of calls (times.lua).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails, raises = support.it, support.fails, support.raises
local timed_out = tools.timed_out

-- A peer that pauses is never silent for as long as IDLE, but all in all it takes longer.
local STRETCH = support.sized(1, 2, 3)
local IDLE, PAUSE = STRETCH, 0.35 * STRETCH

-- Sends the pieces, each after a pause -> the longest that there was between two of them.
local function drip(conn, pieces)
  local longest, before = 0, wire.now()
  for _, piece in ipairs(pieces) do
    wire.sleep(PAUSE)
    tools.put(conn, piece)
    longest, before = math.max(longest, wire.now() - before), wire.now()
  end
  return longest
end

-- What fn(conn) returns while the peer sends these pieces, and conn's idle timeout is IDLE.  Where
-- the machine stood still for so long, the peer was idle indeed, and that was no try.
local function hear(pair, opts, pieces, fn)
  for _ = 1, 10 do
    local a, b = pair(opts)
    b:set_idle_timeout(IDLE)
    local sender = wire.spawn(drip, a, pieces)
    local results = table.pack(pcall(fn, b))
    local longest = tools.result(sender)
    a:close()
    if longest < IDLE then
      if not results[1] then error(results[2], 0) end
      return table.unpack(results, 2, results.n)
    end
  end
  error "the machine stands still again and again"
end

-- The loop does not turn, as in a long computation.
local function busy(seconds)
  local over = wire.now() + seconds
  while wire.now() < over do end
end

local function basics(pair)
  describe("an idle timeout", function()
    it("ends a receive when nothing has come for so long", function()
      local _, b = pair()
      b:set_idle_timeout(0.05)
      timed_out(0.05, b.recv_line, b)
      b:set_idle_timeout(0.05)
      timed_out(0.05, b.recv, b, 1)
      b:set_idle_timeout(0.05)
      timed_out(0.05, b.read, b, "a")
    end)

    it("counts from the last message, not from the call", function()
      local a, b = pair()
      b:set_idle_timeout(0.3)
      local start = wire.now()
      tools.put(a, "one\n")
      assert.equal("one", b:recv_line())
      wire.sleep(0.15)
      fails("ETIMEDOUT", b:recv_line())
      tools.took(0.3, wire.now() - start)
      b:set_idle_timeout(0.1)
      tools.put(a, "two\n")
      assert.equal("two", b:recv_line())
      wire.sleep(0.11)
      local late = wire.spawn(b.recv_line, b)
      wire.sleep(0)
      assert.equal("done", late:status())
    end)

    it("is over at once for every further receive, until it is set again", function()
      local _, b = pair()
      b:set_idle_timeout(0.05)
      timed_out(0.05, b.recv, b, 1)
      timed_out(0, b.recv, b, 1)
      timed_out(0, b.recv_line, b)
      b:set_idle_timeout(0.1)
      timed_out(0.1, b.recv, b, 1)
    end)

    it("closes nothing and loses nothing", function()
      local a, b = pair()
      tools.put(a, "one l")
      b:set_idle_timeout(0.05)
      timed_out(0.05, b.recv_line, b)
      assert.is_false(b:closed())
      tools.put(b, "still there?")
      assert.equal("still there?", a:recv(12))
      b:set_idle_timeout(5 * support.slowness)
      tools.put(a, "ine\n")
      assert.equal("one line", b:recv_line())
    end)

    it("is not put off by what is sent", function()
      local a, b = pair()
      b:set_idle_timeout(0.2)
      local pinger = wire.spawn(function()
        for _ = 1, 4 do
          tools.put(b, "ping")
          wire.sleep(0.05)
        end
      end)
      timed_out(0.2, b.recv, b, 1)
      tools.result(pinger)
      assert.equal(16, #a:recv(16))
    end)

    it("lets through what is buffered, even when it is over", function()
      local a, b = pair()
      tools.deliver(a, b, "one\ntwo\nthr")
      b:set_idle_timeout(0)
      assert.equal("one", b:recv_line())
      wire.sleep(0.01)
      assert.equal("two", b:recv_line())
      fails("ETIMEDOUT", b:recv_line())
      assert.equal("thr", b:recv(3))
    end)

    it("lets through what came while the loop did not turn, and counts from then", function()
      local a, b = pair()
      b:set_idle_timeout(0.2)
      tools.put(a, "one\n")
      busy(0.3)
      assert.equal("one", b:recv_line())
      timed_out(0.2, b.recv_line, b)
      b:set_idle_timeout(0.2)
      tools.put(a, "two")
      busy(0.3)
      assert.equal("two", b:recv_now())
      timed_out(0.2, b.recv_line, b)
    end)

    it("ends iterators, and last_error tells", function()
      local a, b = pair()
      b:set_idle_timeout(0.1)
      tools.put(a, "one\ntwo\n")
      assert.same({ "one", "two" }, tools.gather(b:lines()))
      assert.equal("ETIMEDOUT", select(2, b:last_error()))
    end)

    it("counts for the reply of send_recv too", function()
      local a, b = pair()
      a:set_idle_timeout(0.1)
      timed_out(0.1, a.send_recv, a, "x", 1)
      assert.equal("x", b:recv(1))
      fails("EPROTO", a:send_recv("y", 1))
    end)

    it("of nil or math.huge is none", function()
      local a, b = pair()
      for _, none in ipairs { math.huge, "nil" } do
        b:set_idle_timeout(0.05)
        if none == "nil" then none = nil end
        b:set_idle_timeout(none)
        local reader = tools.start(b.recv, b, 1)
        wire.sleep(0.1)
        assert.equal("waiting", reader:status())
        tools.put(a, "x")
        assert.equal("x", tools.result(reader))
      end
    end)

    it("raises for what is no number, and is harmless on a closed connection", function()
      local _, b = pair()
      raises("seconds", b.set_idle_timeout, b, "1")
      raises("seconds", b.set_idle_timeout, b, 0 / 0)
      raises("value expected", b.set_idle_timeout, b)
      b:close()
      b:set_idle_timeout(1)
      fails("ECLOSED", b:recv(1))
    end)
  end)
end

local function signs_of_life(pair)
  describe("a peer is not idle", function()
    it("while whole lines come", function()
      hear(pair, nil, { "one\n", "two\n", "three\n" }, function(b)
        assert.equal("one", b:recv_line())
        assert.equal("two", b:recv_line())
        assert.equal("three", b:recv_line())
        timed_out(IDLE, b.recv_line, b)
      end)
    end, 40)

    it("while bytes come, where bytes are received", function()
      local calls = {
        function(b) return assert(b:recv(3)) end,
        function(b) return assert(b:peek(3)) end,
        function(b) return assert(b:read(3)) end,
        function(b) return assert(b:send_recv("", 3)) end,
        function(b) return assert(b:recv()) .. assert(b:recv_some(5)) .. assert(b:recv()) end,
      }
      local tasks = tools.spawn_all(#calls, function(i)
        return hear(pair, nil, { "a", "b", "c" }, calls[i])
      end)
      assert.same({ "abc", "abc", "abc", "abc", "abc" }, tools.results(tasks))
    end, 40)

    it("while a package is whole again and again", function()
      hear(pair, { framing = wire.framing.fixed(2) }, { "ab", "cd", "\0\1x" }, function(b)
        assert.equal("ab", b:recv_frame())
        assert.equal("cd", b:recv_frame())
        assert.equal("x", b:recv_pkg())
      end)
    end, 40)

    it("to those who stand in line behind who hears it", function()
      hear(pair, nil, { "a", "b", "c", "line\n" }, function(b)
        local first = wire.spawn(b.recv, b, 3)
        local second = wire.spawn(b.recv_line, b)
        assert.equal("abc", tools.result(first))
        assert.equal("line", tools.result(second))
      end)
    end, 40)
  end)

  describe("trap: a peer that trickles is idle", function()
    -- Sends a byte now and then until fn, which must time out after this time, has done so;
    -- no byte is lost.
    local function trickle(seconds, framing, fn)
      local a, b = pair { framing = framing }
      local over, sent = false, 0
      local trickler = wire.spawn(function()
        repeat
          sent = sent + assert(a:send("x"))
          wire.sleep(0.02)
        until over
        a:close()
      end)
      b:set_idle_timeout(seconds)
      timed_out(seconds, fn, b)
      over = true
      tools.result(trickler)
      b:set_idle_timeout(nil)
      assert.equal(sent, #b:read("a"))
    end

    it("in a line without end", function()
      trickle(0.2, nil, function(b) return b:recv_line() end)
    end)

    it("before a delimiter that never comes", function()
      trickle(0.2, nil, function(b) return b:recv_until("END") end)
    end)

    it("in a package", function()
      trickle(0.2, nil, function(b) return b:recv_pkg { header = 1 } end)
    end)

    it("in a frame of fixed size", function()
      trickle(0.2, wire.framing.fixed(100000), function(b) return b:recv_frame() end)
    end)

    it("in a framing in Lua", function()
      local never = { decode = function() end, encode = tostring }
      trickle(0.2, never, function(b) return b:recv_frame() end)
    end)
  end)
end

local function waiting_calls(pair)
  describe("an idle timeout", function()
    it("trap: set now reaches a call that is already waiting", function()
      local _, b = pair()
      local reader = tools.start(b.recv, b, 1)
      b:set_idle_timeout(0.05)
      fails("ETIMEDOUT", tools.result(reader))
    end)

    it("set again lets a waiting call wait anew", function()
      local _, b = pair()
      b:set_idle_timeout(2 * support.slowness)
      local reader = tools.start(b.recv, b, 1)
      wire.sleep(0.2)
      b:set_idle_timeout(0.3)
      local elapsed, result, message, code = tools.timed(tools.result, reader)
      fails("ETIMEDOUT", result, message, code)
      tools.took(0.3, elapsed)
    end)

    it("cleared lets a waiting call wait on, until its own timeout", function()
      local _, b = pair()
      b:set_idle_timeout(60 * support.slowness)
      local reader = tools.start(tools.timed, b.recv, b, 1, 0.3)
      b:set_idle_timeout(0.1)
      b:set_idle_timeout(nil)
      local elapsed, result, message, code = tools.result(reader)
      fails("ETIMEDOUT", result, message, code)
      tools.took(0.3, elapsed)
    end)

    it("reaches every call that stands in line", function()
      local _, b = pair()
      local tasks = tools.spawn_all(3, function() return select(3, b:recv(1)) end)
      wire.sleep(0)
      b:set_idle_timeout(0.02)
      assert.same({ "ETIMEDOUT", "ETIMEDOUT", "ETIMEDOUT" }, tools.results(tasks))
    end)
  end)

  describe("beside an idle timeout", function()
    it("trap: an earlier deadline or timeout wins, and so does it", function()
      local _, b = pair()
      b:set_idle_timeout(60)
      timed_out(0.05, b.recv, b, 1, 0.05)
      b:set_recv_deadline(wire.now() + 0.05)
      timed_out(0.05, b.recv, b, 1)
      b:set_recv_deadline(wire.now() + 60)
      b:set_idle_timeout(0.05)
      timed_out(0.05, b.recv, b, 1, 60)
    end)

    it("trap: a deadline stays in force whatever messages come", function()
      local a, b = pair()
      b:set_idle_timeout(60)
      b:set_recv_deadline(wire.now() + 0.1)
      tools.put(a, "one\n")
      assert.equal("one", b:recv_line())
      local elapsed, result, message, code = tools.timed(b.recv_line, b)
      fails("ETIMEDOUT", result, message, code)
      tools.took(0, elapsed)
      b:set_recv_deadline(nil)
      local reader = tools.start(b.recv_line, b)
      tools.put(a, "two\n")
      assert.equal("two", tools.result(reader))
    end)

    it("a cleared deadline leaves it in force", function()
      local _, b = pair()
      b:set_idle_timeout(0.1)
      local reader = tools.start(b.recv, b, 1)
      b:set_recv_deadline(wire.now() + 60)
      b:set_recv_deadline(nil)
      fails("ETIMEDOUT", tools.result(reader))
    end)
  end)
end

return function(transport)
  basics(transport.pair)
  signs_of_life(transport.pair)
  waiting_calls(transport.pair)
end
