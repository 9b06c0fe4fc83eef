-- Sending: what it takes, all or none, high water, flush, and failures that come later.
-- What this is not: the order of several senders (queues.lua), framed messages (packages.lua).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails, raises = support.it, support.fails, support.raises

local function values(pair)
  describe("send", function()
    it("takes strings, numbers and nested lists of them, and returns their bytes", function()
      local a, b = pair()
      local text = "ab12cd3.51.0-7e"
      local n = a:send("ab", 12, { "c", { "d", 3.5 } }, { { { 1.0 } } }, -7, {}, "", "e")
      assert.equal(#text, n)
      assert.equal(text, b:recv(#text))
    end)

    it("writes numbers as tostring does", function()
      local a, b = pair()
      local text = {}
      local numbers = { 0, -0.0, 1e15, 1e100, 2 ^ 53, 0.1, math.huge, -math.huge,
        math.maxinteger, math.mininteger }
      for i, x in ipairs(numbers) do
        text[i] = tostring(x)
      end
      local n = a:send(numbers)
      assert.equal(table.concat(text), b:recv(n))
    end)

    it("returns 0 for nothing", function()
      local a, b = pair()
      assert.equal(0, a:send(""))
      assert.equal(0, a:send {})
      a:send("x")
      assert.equal("x", b:recv())
    end)

    it("takes a last table with string keys as options", function()
      local a, b = pair()
      assert.equal(2, a:send("a", { "b" }, { timeout = 1 }))
      assert.equal("ab", b:recv(2))
      raises("unknown option 'timout' %(did you mean 'timeout'%?%)", a.send, a, "x", { timout = 1 })
      raises("timeout", a.send, a, "x", { timeout = "soon" })
    end)

    it("raises for what cannot be sent, and has sent nothing of it", function()
      local a, b = pair()
      for _, bad in ipairs { true, print, a, coroutine.create(print) } do
        raises("cannot send", a.send, a, "before", bad)
        raises("cannot send", a.send, a, { "before", { bad } })
        raises("cannot send", a.try_send, a, "before", bad)
        raises("cannot send", a.write, a, "before", bad)
      end
      raises("cannot send a nil", a.send, a, nil)
      raises("cannot send a nil", a.send, a, "before", nil, "after")
      a:close()
      fails("EOF", b:recv(1))
    end)

    it("raises for a list that contains itself", function()
      local a, _ = pair()
      local list = { "x" }
      list[2] = list
      raises("too deep", a.send, a, list)
    end)

    it("is one write: all of a call is there at once", function()
      local a, b = pair()
      local reader = tools.start(b.recv, b)
      a:send("head", { "er", { ":" } }, 1, "\n")
      assert.equal("header:1\n", tools.result(reader))
    end)

    it("leaves with other sends of the turn, at the latest when the loop next turns", function()
      local a, b = pair()
      local reader = tools.start(b.recv, b)
      a:send("one")
      a:send("two")
      assert.equal("onetwo", tools.result(reader))
    end)

    it("writes at once what is more than 64 KiB", function()
      local a, _ = pair()
      for _ = 1, 63 do a:send(("x"):rep(1024)) end
      a:send(("x"):rep(1023))
      assert.equal(0, a:stats().bytes_out)
      a:send("x")
      assert.is_true(a:stats().bytes_out > 0)
    end)

    it("writes a message of 32 KiB or more at once, behind what was sent before", function()
      local a, b = pair()
      local reader = tools.start(b.recv, b, 4 + 2 + 32768 + 32768 + 5)
      a:send("head")
      assert.equal(0, a:stats().bytes_out)
      a:send_pkg(("p"):rep(32768))
      a:send(("q"):rep(32768))
      assert.is_true(a:stats().bytes_out > 0)
      a:send("after")
      assert.equal("head\x80\0" .. ("p"):rep(32768) .. ("q"):rep(32768) .. "after",
        tools.result(reader))
    end)

    it("keeps what the system does not take of a long message, byte for byte", function()
      local a, b = pair()
      local function part(i) return (string.char(64 + i)):rep(30000 + 1000 * i) end
      local sender = tools.start(function()
        for i = 1, 40 do
          a:send_pkg(part(i), { header = 4 })
          a:send("-")
        end
        return "sent"
      end)
      for i = 1, 40 do
        assert.is_true(part(i) == b:recv_pkg { header = 4 })
        assert.equal("-", b:recv(1))
      end
      assert.equal("sent", tools.result(sender))
    end)

    it("takes data far larger than high water in one call", function()
      local a, b = pair()
      local data = ("0123456789abcdef"):rep(256 * 1024)
      assert.equal(#data, a:send(data))
      assert.is_true(data == b:recv(#data))
    end)
  end)

  describe("write", function()
    it("returns the connection, as a Lua file", function()
      local a, b = pair()
      assert.equal(a, a:write("one", 2):write("three"))
      assert.equal("one2three", b:recv(9))
    end)
  end)
end

local function high_water(pair)
  describe("above high water", function()
    it("trap: a send that times out has accepted nothing, so no byte goes twice", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      fails("ETIMEDOUT", a:send("never", { timeout = 0.05 }))
      fails("ETIMEDOUT", a:send("never", { timeout = 0 }))
      fails("ETIMEDOUT", a:send_pkg("never", 0.02))
      local writer = wire.spawn(a.send, a, "last")
      assert.equal(("x"):rep(accepted) .. "last", b:recv(accepted + 4))
      assert.equal(4, tools.result(writer))
      assert.equal("", b:recv_now())
    end)

    it("trap: a retried send never repeats a byte", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      local again = { timeout = 0.02, retry = { count = 300 * support.slowness, interval = 0.01 } }
      local writer = wire.spawn(a.send, a, "once", again)
      wire.sleep(0.1)
      b:recv(accepted)
      assert.equal(4, tools.result(writer))
      a:close()
      assert.equal("once", b:read("a"))
    end)

    it("a send that is cancelled has accepted nothing", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      local task = tools.start(a.send, a, "never")
      task:cancel()
      fails("ECANCELED", task:join())
      a:close()
      assert.equal(accepted, #b:recv(accepted))
      fails("EOF", b:recv(1))
    end)

    it("a list that changes while its send waits goes as one state of it or not at all", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      local list = { "one", { "two" } }
      local writer = tools.start(a.send, a, list)
      list[2] = { ("three"):rep(1000) }
      list[1] = print
      assert.equal(accepted, #b:recv(accepted))
      local ok, trouble = writer:join()
      a:close()
      assert.equal(ok and "onetwo" or "", b:read("a"))
      assert.is_true(ok or trouble:find("cannot send", 1, true) ~= nil)
      support.take_errors()
    end)

    it("unsent data stays within it and the one message that crossed it", function()
      local a, b = pair { limits = { high_water = 1000 } }
      tools.fill(a)
      assert.is_true(a:stats().unsent >= 1000)
      assert.is_true(a:stats().unsent < 1000 + 64 * 1024)
      b:close()
    end)

    it("a send waits for room and goes on when the peer reads", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      local writer = tools.start(a.send, a, "more")
      assert.equal("waiting", writer:status())
      b:recv(accepted)
      assert.equal(4, tools.result(writer))
    end)

    it("try_send never waits: EAGAIN, with nothing accepted", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      local elapsed, result, message, code = tools.timed(a.try_send, a, "never")
      fails("EAGAIN", result, message, code)
      assert.matches("^try_send ", message)
      tools.took(0, elapsed)
      a:close()
      b:recv(accepted)
      fails("EOF", b:recv(1))
    end)

    it("the connection receives all the same", function()
      local a, b = pair()
      tools.fill(a)
      tools.put(b, "hello")
      assert.equal("hello", a:recv(5))
      b:close()
    end)
  end)

  describe("try_send", function()
    it("takes all where there is room", function()
      local a, b = pair()
      assert.equal(4, a:try_send("ab", { 1, 2 }))
      assert.equal("ab12", b:recv(4))
    end)
  end)
end

local function flushing(pair)
  describe("flush", function()
    it("returns when everything sent has been handed over", function()
      local a, b = pair()
      a:send("abc")
      assert.is_true(a:stats().unsent > 0)
      assert.is_true(a:flush())
      assert.equal(0, a:stats().unsent)
      assert.equal("abc", b:recv(3, 0))
    end)

    it("returns at once when there is nothing to hand over", function()
      local a, _ = pair()
      assert.is_true(a:flush(0))
    end)

    it("returns ETIMEDOUT while the peer takes nothing, and loses nothing", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      fails("ETIMEDOUT", a:flush(0.05))
      local flusher = tools.start(a.flush, a)
      assert.equal(accepted, #b:recv(accepted))
      assert.is_true(tools.result(flusher))
    end)
  end)
end

local function failures(pair)
  -- Of a connection that the peer has reset the system may say either.
  local function broken(code)
    return code == "ECONNRESET" or code == "EPIPE"
  end

  -- Sends until that fails -> the code.
  local function break_by_sending(conn)
    local ok, _, code
    tools.await(function()
      ok, _, code = conn:send("x")
      return not ok
    end)
    return code
  end

  describe("a write that fails later", function()
    it("trap: is returned by every following send, flush and close", function()
      local a, b = pair()
      b:reset()
      local code = break_by_sending(a)
      assert.is_true(broken(code), code)
      fails(code, a:send("x"))
      fails(code, a:send_pkg("x"))
      fails(code, a:try_send("x"))
      fails(code, a:write("x"))
      fails(code, a:flush())
      fails(code, a:close())
    end)

    it("wakes every sender that waits for room", function()
      local a, b = pair()
      tools.fill(a)
      local tasks = tools.spawn_all(3, function()
        return select(3, a:send("x"))
      end)
      wire.sleep(0)
      b:reset()
      for _, code in ipairs(tools.results(tasks)) do
        assert.is_true(broken(code), code)
      end
    end)

    it("leaves what was received before it to be read", function()
      local a, b = pair()
      tools.deliver(b, a, "parting words")
      b:reset()
      break_by_sending(a)
      assert.equal("parting words", a:recv(13))
      fails(support.reset_code(pair), a:recv(1))
    end)
  end)
end

return function(transport)
  values(transport.pair)
  high_water(transport.pair)
  flushing(transport.pair)
  failures(transport.pair)
end
