-- The ends of a connection: close, reset, half-close, <close>, collection.
-- What this is not: what a socket does after its end (tcp_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails = support.it, support.fails

-- A delay within which everything else of a test is over.
local LATER <const> = 1 * support.slowness

-- Everything up to the end, in a task -> Task of the number of bytes.
local function count_to_end(conn)
  return wire.spawn(function()
    local n = 0
    for chunk in conn:chunks() do
      n = n + #chunk
    end
    assert(not conn:last_error())
    return n
  end)
end

local function closing(pair)
  describe("close", function()
    it("returns at once, and the peer gets all that was sent, then EOF", function()
      local a, b = pair()
      local data = ("0123456789"):rep(300000)
      a:send(data)
      tools.took(0, (tools.timed(a.close, a)))
      assert.is_true(data == b:recv(#data))
      fails("EOF", b:recv(1))
    end)

    it("loses nothing with unread input on the closing side", function()
      local a, b = pair()
      local data = ("x"):rep(1000000)
      tools.put(b, "never read\n")
      a:send(data)
      a:close()
      assert.is_true(data == b:recv(#data))
      fails("EOF", b:recv(1))
    end)

    it("discards what was received", function()
      local a, b = pair()
      tools.deliver(b, a, "data")
      a:close()
      fails("ECLOSED", a:recv_now())
      assert.equal(0, a:buffered())
    end)

    it("twice is harmless", function()
      local a, _ = pair()
      assert.is_true(a:close())
      assert.is_true(a:close())
      a:close(0.01)
      a:reset()
      assert.is_true(a:closed())
    end)

    it("while another task waits in recv returns ECLOSED there", function()
      local _, b = pair()
      local reader = tools.start(b.recv, b, 1)
      assert.is_true(b:close())
      local result, message, code = tools.result(reader)
      fails("ECLOSED", result, message, code)
      assert.matches("^recv .*closed$", message)
    end)

    it("in a task that does not wait lets the waiting one see it later, once", function()
      local _, b = pair()
      local seen = 0
      local reader = tools.start(function()
        fails("ECLOSED", b:recv(1))
        seen = seen + 1
        fails("ECLOSED", b:recv(1))
      end)
      b:close()
      assert.equal(0, seen)
      tools.result(reader)
      assert.equal(1, seen)
    end)

    it("with a delay leaves the connection working until then", function()
      local a, b = pair()
      local reader = tools.start(a.recv, a, 1)
      a:close(LATER)
      assert.is_false(a:closed())
      tools.put(a, "still")
      assert.equal("still", b:recv(5))
      tools.put(b, "x")
      assert.equal("x", tools.result(reader))
      fails("EOF", b:recv(1))
      assert.is_true(a:closed())
    end)

    it("with a delay wakes who waits then", function()
      local _, b = pair()
      b:close(0.05)
      local elapsed, result, message, code = tools.timed(b.recv, b, 1)
      fails("ECLOSED", result, message, code)
      tools.took(0.05, elapsed)
    end)

    it("at once overtakes one with a delay", function()
      local a, b = pair()
      a:close(60)
      a:close()
      fails("EOF", b:recv(1))
    end)
  end)

  describe("reset", function()
    it("lets the peer see ECONNRESET, or an end where the transport has no reset", function()
      local a, b = pair()
      assert.is_true(a:reset())
      assert.is_true(a:closed())
      fails(support.reset_code(pair), b:recv(1))
      fails("ECLOSED", a:recv(1))
    end)

    it("with a delay leaves the connection working until then", function()
      local a, b = pair()
      a:reset(LATER)
      assert.is_false(a:closed())
      tools.put(a, "still")
      assert.equal("still", b:recv(5))
      fails(support.reset_code(pair), b:recv(1))
    end)

    it("ends a close that is still flushing", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      a:close()
      a:reset()
      local got = 0
      local chunk, code, _
      repeat
        chunk, _, code = b:recv_some(65536)
        got = got + #(chunk or "")
      until not chunk
      assert.equal(support.reset_code(pair), code)
      assert.is_true(got < accepted)
    end)
  end)
end

local function half_closing(pair)
  local megabyte = ("x"):rep(1024 * 1024)

  describe("close_write", function()
    it("ends one direction behind what was sent; the other lives on", function()
      local a, b = pair()
      a:send("request")
      assert.is_true(a:close_write())
      assert.equal("request", b:recv(7))
      fails("EOF", b:recv(1))
      tools.put(b, "answer")
      assert.equal("answer", a:recv(6))
      assert.is_false(a:closed())
      assert.is_false(b:closed())
    end)

    it("trap: of both ends lets everything through in both directions", function()
      local a, b = pair()
      local from_b, from_a = count_to_end(a), count_to_end(b)
      for _, conn in ipairs { a, b } do
        for _ = 1, 4 do
          assert(conn:send(megabyte))
        end
        assert(conn:close_write())
      end
      assert.equal(4 * #megabyte, tools.result(from_a))
      assert.equal(4 * #megabyte, tools.result(from_b))
    end)

    it("trap: with data still flowing the other way for long after", function()
      local a, b = pair()
      a:close_write()
      fails("EOF", b:recv(1))
      local counter = count_to_end(a)
      for _ = 1, 8 do
        assert(b:send(megabyte))
        wire.sleep(0)
      end
      b:close()
      assert.equal(8 * #megabyte, tools.result(counter))
    end)

    it("makes a following send EPIPE", function()
      local a, b = pair()
      a:close_write()
      fails("EPIPE", a:send("x"))
      fails("EPIPE", a:try_send("x"))
      b:close()
    end)

    it("lets a send that waits for room know, at the latest when there is room", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      local writer = tools.start(a.send, a, "more")
      a:close_write()
      assert.equal(accepted, #b:recv(accepted))
      fails("EOF", b:recv(1))
      local result, message, code = tools.result(writer)
      fails("EPIPE", result, message, code)
    end)

    it("twice is harmless, and so is a close behind it", function()
      local a, b = pair()
      assert.is_true(a:close_write())
      assert.is_true(a:close_write())
      assert.is_true(a:close())
      fails("EOF", b:recv(1))
    end)

    it("lets unsent data through though the peer reads only later", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      a:close_write()
      local counter = count_to_end(b)
      assert.equal(accepted, tools.result(counter))
    end)
  end)
end

local function scopes(pair)
  describe("<close>", function()
    it("closes at the end of the block, behind what was sent", function()
      local a, b = pair()
      do
        local conn <close> = a
        conn:send("bye")
      end
      assert.is_true(a:closed())
      assert.equal("bye", b:recv(3))
      fails("EOF", b:recv(1))
    end)

    it("closes when the block ends by an error", function()
      local a, b = pair()
      local ok = pcall(function()
        local conn <close> = a
        error("on purpose: " .. tostring(conn))
      end)
      assert.is_false(ok)
      fails("EOF", b:recv(1))
    end)

    it("closes when the task is cancelled", function()
      local a, b = pair()
      local task = tools.start(function()
        local conn <close> = a
        conn:recv(1)
      end)
      task:cancel()
      fails("EOF", b:recv(1))
    end)
  end)

  describe("collection", function()
    it("closes a connection that nothing refers to", function()
      local ends = table.pack(pair())
      tools.put(ends[1], "bye")
      ends[1] = nil
      collectgarbage()
      collectgarbage()
      assert.equal("bye", ends[2]:recv(3))
      fails("EOF", ends[2]:recv(1))
    end)

    it("flushes what it had been given to send", function()
      local ends = table.pack(pair())
      local data = ("x"):rep(1000000)
      ends[1]:send(data)
      ends[1] = nil
      collectgarbage()
      collectgarbage()
      assert.is_true(data == ends[2]:recv(#data))
      fails("EOF", ends[2]:recv(1))
    end)

    it("spares a connection in which a task waits", function()
      local ends = table.pack(pair())
      local reader = tools.start(function()
        local conn = ends[1]
        ends[1] = nil
        return conn:recv(3)
      end)
      collectgarbage()
      collectgarbage()
      tools.put(ends[2], "abc")
      assert.equal("abc", tools.result(reader))
    end)

    it("spares a connection in which a task waits for room to send", function()
      local ends = table.pack(pair())
      local accepted = tools.fill(ends[1])
      local writer = tools.start(function()
        local conn = ends[1]
        ends[1] = nil
        return conn:send("more")
      end)
      collectgarbage()
      collectgarbage()
      assert.equal("more", ends[2]:recv(accepted + 4):sub(-4))
      assert.equal(4, tools.result(writer))
    end)

    it("does not wait for a close with a delay", function()
      local ends = table.pack(pair())
      ends[1]:close(60)
      ends[1] = nil
      collectgarbage()
      collectgarbage()
      fails("EOF", ends[2]:recv(1, 5 * support.slowness))
    end)

    it("spares the data of an iterator's connection during its loop", function()
      local ends = table.pack(pair())
      tools.put(ends[2], "one\ntwo\nthree\n")
      ends[2]:close()
      local lines = {}
      for line in table.remove(ends, 1):lines() do
        lines[#lines + 1] = line
        collectgarbage()
      end
      assert.same({ "one", "two", "three" }, lines)
    end)
  end)
end

local function outside(transport)
  describe("outside any task", function()
    support.it_outside("calls wait by running the loop", function()
      local a, b = transport.pair()
      wire.after(0.02, function()
        a:send("hello\n")
      end)
      assert.equal("hello", b:recv_line())
      fails("ETIMEDOUT", b:recv(1, 0.02))
      b:close()
      a:close()
    end)

    support.it_outside("send writes at once", function()
      local a, b = transport.pair()
      a:send("abc")
      assert.equal(0, a:stats().unsent)
      assert.equal("abc", b:recv(3, 0))
    end)

    support.it_outside("close runs the loop until everything is flushed", function()
      local a, b = transport.pair()
      local data = ("x"):rep(16 * 1024 * 1024)
      local counter = count_to_end(b)
      a:send(data)
      assert.is_true(a:stats().unsent > 0)
      assert.is_true(a:close())
      assert.equal(0, a:stats().unsent)
      assert.equal(#data, tools.result(counter))
      b:close()
    end)
  end)
end

return function(transport)
  closing(transport.pair)
  half_closing(transport.pair)
  scopes(transport.pair)
  outside(transport)
end
