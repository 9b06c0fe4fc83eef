-- What a connection says of itself, and what it says to misuse.
-- What this is not: addresses and descriptors, which a transport may not have (tcp_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails, raises = support.it, support.fails, support.raises

local function facts(pair)
  describe("strerror", function()
    it("is the message of the last failure", function()
      local _, b = pair()
      local message = fails("ETIMEDOUT", b:recv(1, 0.01))
      assert.equal(message, b:strerror())
      b:close()
      message = fails("ECLOSED", b:send("x"))
      assert.equal(message, b:strerror())
    end)

    it("names the operation, the peer and what happened", function()
      local a, b = pair()
      a:close()
      fails("EOF", b:recv_line())
      assert.equal("recv_line " .. b:remote_addr() .. ": end of stream", b:strerror())
    end)
  end)

  describe("stats", function()
    it("count bytes and messages both ways", function()
      local a, b = pair()
      a:send("one\n", "two\n")
      a:send_pkg("three")
      a:flush()
      assert.equal("one", b:recv_line())
      assert.equal("two", b:recv_line())
      assert.equal("three", b:recv_pkg())
      local out, back = a:stats(), b:stats()
      assert.equal(15, out.bytes_out)
      assert.equal(2, out.messages_out)
      assert.equal(0, out.bytes_in)
      assert.equal(15, back.bytes_in)
      assert.equal(3, back.messages_in)
      assert.equal(0, back.messages_out)
    end)

    it("tell the unsent bytes", function()
      local a, _ = pair()
      a:send("abc")
      assert.equal(3, a:stats().unsent)
      a:flush()
      assert.equal(0, a:stats().unsent)
    end)

    it("tell age and idle time in seconds", function()
      local a, b = pair()
      tools.deliver(b, a, "x") -- behind what a handshake has to say yet
      wire.sleep(0.05)
      local stats = a:stats()
      assert.is_true(stats.age >= 0.04 and stats.age < 5 * support.slowness)
      assert.is_true(stats.idle >= 0.04 and stats.idle <= stats.age + 0.01)
      tools.deliver(b, a, "x")
      assert.is_true(a:stats().idle < a:stats().age)
    end)

    it("can be asked of a closed connection", function()
      local a, b = pair()
      tools.put(a, "abc")
      b:recv(3)
      b:close()
      assert.equal(3, b:stats().bytes_in)
    end)
  end)

  describe("tostring", function()
    it("says what it is, with whom, and whether it is open", function()
      local a, _ = pair()
      assert.matches("^Conn ", tostring(a))
      assert.truthy(tostring(a):find(a:remote_addr(), 1, true))
      assert.truthy(tostring(a):find("open", 1, true))
      a:close()
      assert.falsy(tostring(a):find("open", 1, true))
      assert.truthy(tostring(a):find(a:remote_addr(), 1, true))
    end)
  end)
end

-- Calls that can fail of the world, with arguments that are in order.
local CALLS = {
  recv = { 1 },
  recv_some = { 1 },
  recv_now = {},
  recv_line = {},
  recv_until = { ";" },
  recv_pkg = {},
  read = { "l" },
  peek = { 1 },
  unread = { "x" },
  send = { "x" },
  try_send = { "x" },
  send_pkg = { "x" },
  send_recv = { "x", 1 },
  send_recv_pkg = { "x" },
  write = { "x" },
  flush = {},
  close_write = {},
}

local function closed(pair)
  describe("on a closed connection", function()
    for name, arguments in pairs(CALLS) do
      it(name .. " returns ECLOSED and names itself", function()
        local a, _ = pair()
        a:close()
        local message = fails("ECLOSED", a[name](a, table.unpack(arguments)))
        assert.matches("^" .. name .. " .*: closed$", message)
      end)
    end

    it("frames are refused likewise", function()
      local a = pair { framing = wire.framing.line() }
      a:close()
      fails("ECLOSED", a:recv_frame())
      fails("ECLOSED", a:send_frame("x"))
    end)

    it("iterators give nothing and last_error tells why", function()
      local a, _ = pair()
      a:close()
      for _, name in ipairs { "lines", "pkgs", "chunks" } do
        assert.same({}, tools.gather(a[name](a)))
        assert.equal("ECLOSED", select(2, a:last_error()))
      end
    end)

    it("settings and facts do no harm", function()
      local a, _ = pair()
      a:close()
      a:set_timeout(1)
      a:set_deadline(wire.now() + 1)
      a:set_recv_deadline(nil)
      a:set_send_deadline(nil)
      a:set_framing(wire.framing.line())
      assert.equal(0, a:buffered())
      assert.equal(-1, a:socket())
      assert.is_true(a:closed())
      a:last_error()
      a:strerror()
      a:stats()
      a:local_addr()
      a:remote_addr()
    end)

    it("no call waits: one in a task of its own ends at once", function()
      local a, _ = pair()
      a:close()
      local task = wire.spawn(a.recv, a, 1)
      local result, message, code = tools.result(task)
      fails("ECLOSED", result, message, code)
    end)
  end)
end

local function misuse(pair)
  describe("an unknown option", function()
    it("raises, names it and what was meant", function()
      local a, _ = pair()
      local pattern = "unknown option 'timout' %(did you mean 'timeout'%?%)"
      for _, name in ipairs { "recv_line", "recv_pkg", "recv" } do
        raises(pattern, a[name], a, { timout = 1 })
      end
      raises(pattern, a.recv, a, 1, { timout = 1 })
      raises(pattern, a.send_pkg, a, "x", { timout = 1 })
      raises(pattern, a.send_recv, a, "x", 1, { timout = 1 })
      raises("'kep' %(did you mean 'keep'%?%)", a.recv_line, a, { kep = true })
    end)

    it("raises without a guess when nothing is like it", function()
      local a, _ = pair()
      raises("unknown option 'elephant'$", a.recv_line, a, { elephant = 1 })
    end)

    it("raises for an option of another call", function()
      local a, _ = pair()
      raises("unknown option 'keep'", a.recv, a, 1, { keep = true })
      raises("unknown option 'header'", a.recv_line, a, { header = 2 })
    end)

    it("raises for a limit that is none", function()
      raises("'lines' %(did you mean 'line'%?%)", pair, { limits = { lines = 1 } })
      raises("limits", pair, { limits = 5 })
      raises("unknown option 'limit' %(did you mean 'limits'%?%)", pair, { limit = {} })
      collectgarbage()
    end)
  end)

  describe("a wrong type", function()
    it("raises and says what belongs there", function()
      local a, _ = pair()
      raises("whole number", a.recv_line, a, { max = "big" })
      raises("boolean", a.recv_line, a, { keep = 1 })
      raises("options", a.recv_line, a, "keep")
      raises("at least 1", a.recv_line, a, { max = 0 })
      raises("at least 1", a.recv_line, a, { max = -1 })
      raises("whole number", a.recv_pkg, a, { header = "2" })
      raises("framing", a.set_framing, a, 5)
      raises("Conn", a.recv, "not a connection", 1)
      raises("Conn", a.recv, io.stdout, 1)
      raises("Conn", a.send)
    end)

    it("leaves the connection as it was", function()
      local a, b = pair()
      tools.deliver(b, a, "data\n")
      pcall(a.recv, a, -1)
      pcall(a.recv_line, a, { max = "big" })
      pcall(a.send, a, {}, print)
      assert.equal("data", a:recv_line())
      tools.put(a, "ok")
      assert.equal("ok", b:recv(2))
    end)
  end)
end

return function(transport)
  facts(transport.pair)
  closed(transport.pair)
  misuse(transport.pair)
end
