-- Packages of the simple protocol: a big-endian length, then the data.
-- What this is not: the other framings (framing_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails, raises = support.it, support.fails, support.raises

local function both_ways(pair)
  describe("a package", function()
    for header = 1, 4 do
      it("has a big-endian length of " .. header .. " bytes with that header", function()
        local a, b = pair()
        assert.equal(header + 5, a:send_pkg("hello", { header = header }))
        assert.equal(string.pack(">s" .. header, "hello"), b:recv(header + 5))
        tools.put(b, string.pack(">s" .. header, "world"))
        assert.equal("world", a:recv_pkg { header = header })
      end)
    end

    it("has a header of two bytes by default", function()
      local a, b = pair()
      a:send_pkg("hello")
      assert.equal("\0\5hello", b:recv(7))
      tools.put(b, "\0\5world")
      assert.equal("world", a:recv_pkg())
    end)

    it("trap: is the empty string when empty, not nil", function()
      local a, b = pair()
      a:send_pkg("")
      a:send_pkg("next")
      assert.equal("", b:recv_pkg())
      assert.equal("next", b:recv_pkg())
    end)

    it("is cut by its length, whatever the pieces were", function()
      local a, b = pair()
      local reader = tools.start(function()
        return b:recv_pkg() .. "," .. b:recv_pkg()
      end)
      for byte in ("\0\3abc\0\2de"):gmatch(".") do
        tools.put(a, byte)
      end
      assert.equal("abc,de", tools.result(reader))
    end)

    it("may be as long as its header can say", function()
      local a, b = pair()
      local data = ("x"):rep(65535)
      local writer = wire.spawn(a.send_pkg, a, data)
      assert.is_true(data == b:recv_pkg())
      assert.equal(65537, tools.result(writer))
    end)

    it("is refused by send_pkg as EMSGSIZE when the header cannot say its length", function()
      local a, b = pair()
      local message = fails("EMSGSIZE", a:send_pkg(("x"):rep(256), { header = 1 }))
      assert.matches("^send_pkg ", message)
      fails("EMSGSIZE", a:send_pkg(("x"):rep(65536)))
      a:send_pkg("fits")
      assert.equal("fits", b:recv_pkg())
    end)

    it("trap: is completed after a timeout between header and body", function()
      local a, b = pair()
      tools.put(a, "\0\5")
      fails("ETIMEDOUT", b:recv_pkg(0.05))
      tools.put(a, "he")
      fails("ETIMEDOUT", b:recv_pkg(0.05))
      tools.put(a, "llo\0\2ok")
      assert.equal("hello", b:recv_pkg())
      assert.equal("ok", b:recv_pkg())
    end)

    it("is EOF with the partial message where the stream ends inside it", function()
      for _, wire_bytes in ipairs { "\0", "\0\5", "\0\5hel" } do
        local a, b = pair()
        tools.put(a, wire_bytes)
        a:close()
        local _, partial = fails("EOF", b:recv_pkg())
        assert.equal(wire_bytes, partial)
      end
    end)

    it("raises for a header that is none of 1 to 4", function()
      local a, b = pair()
      raises("header", b.recv_pkg, b, { header = 0 })
      raises("header", b.recv_pkg, b, { header = 5 })
      raises("header", a.send_pkg, a, "x", { header = 5 })
      raises("string", a.send_pkg, a)
    end)
  end)
end

local function too_long(pair)
  describe("a package over its limit", function()
    it("trap: is EMSGSIZE, and framed reads are EPROTO from then on", function()
      local a, b = pair()
      tools.put(a, string.pack(">s2", ("x"):rep(2000)), string.pack(">s2", "next"))
      local message = fails("EMSGSIZE", b:recv_pkg { max = 1000 })
      assert.matches("^recv_pkg ", message)
      fails("EPROTO", b:recv_pkg { max = 1000 })
      fails("EPROTO", b:recv_pkg())
      b:set_framing(wire.framing.length { size = 2 })
      fails("EPROTO", b:recv_frame())
    end)

    it("fails by its header alone", function()
      local a, b = pair()
      tools.put(a, "\xff\xff\xff\xff")
      fails("EMSGSIZE", b:recv_pkg { header = 4 })
    end)

    it("leaves what was received to reads without framing", function()
      local a, b = pair()
      tools.put(a, "\0\009123456789rest")
      fails("EMSGSIZE", b:recv_pkg { max = 8 })
      assert.equal("\0\009123456789", b:recv(11))
      assert.equal("rest", b:recv(4))
    end)

    it("may not fail at exactly max", function()
      local a, b = pair()
      tools.put(a, "\0\8", "12345678")
      assert.equal("12345678", b:recv_pkg { max = 8 })
    end)

    it("is one over limits.frame, 1 MiB by default", function()
      local a, b = pair()
      local data = ("x"):rep(1024 * 1024)
      local writer = wire.spawn(function()
        a:send_pkg(data, { header = 4 })
        a:send_pkg(data .. "x", { header = 4 })
      end)
      assert.is_true(data == b:recv_pkg { header = 4 })
      fails("EMSGSIZE", b:recv_pkg { header = 4 })
      b:close()
      tools.result(writer)
    end)

    it("is one over limits.frame where that is set", function()
      local a, b = pair { limits = { frame = 4 } }
      tools.put(a, "\0\4four\0\5fives")
      assert.equal("four", b:recv_pkg())
      fails("EMSGSIZE", b:recv_pkg())
    end)
  end)
end

local function frames(pair)
  describe("send_frame and recv_frame", function()
    it("use the framing that both ends were given", function()
      local a, b = pair { framing = wire.framing.length { size = 4, endian = "little" } }
      assert.equal(9, a:send_frame("hello"))
      assert.equal("hello", b:recv_frame())
    end)

    it("use a framing set later, at a message boundary", function()
      local a, b = pair()
      tools.put(a, "\0\2ok", "line\r\n")
      assert.equal("ok", b:recv_pkg())
      b:set_framing(wire.framing.line())
      assert.equal("line", b:recv_frame())
      b:send_frame("answer")
      assert.equal("answer\n", a:recv(7))
    end)

    it("trap: an over-long frame is EMSGSIZE and framed reads are EPROTO", function()
      local a, b = pair { framing = wire.framing.length { size = 2, max = 4 } }
      tools.put(a, "\0\5fives\0\4four")
      fails("EMSGSIZE", b:recv_frame())
      fails("EPROTO", b:recv_frame())
      fails("EPROTO", b:recv_pkg())
    end)

    it("resume after a timeout inside a frame", function()
      local a, b = pair { framing = wire.framing.length { size = 2 } }
      tools.put(a, "\0\5he")
      fails("ETIMEDOUT", b:recv_frame(0.05))
      tools.put(a, "llo")
      assert.equal("hello", b:recv_frame())
    end)

    it("stop at set_framing(nil)", function()
      local a, b = pair { framing = wire.framing.line() }
      tools.put(a, "one\ntwo\n")
      assert.equal("one", b:recv_frame())
      b:set_framing(nil)
      raises("set_framing", b.recv_frame, b)
      assert.equal("two", b:recv_line())
    end)

    it("raise and name set_framing where there is none", function()
      local a, b = pair()
      raises("set_framing", b.recv_frame, b)
      raises("set_framing", a.send_frame, a, "x")
    end)
  end)
end

local function exchange(pair)
  -- Answers each package with itself, in order, until the end.
  local function echo(conn)
    for data in conn:pkgs() do
      conn:send_pkg("re:" .. data)
    end
  end

  describe("send_recv_pkg", function()
    it("sends a package and returns the answer", function()
      local a, b = pair()
      local server = wire.spawn(echo, b)
      assert.equal("re:one", a:send_recv_pkg("one"))
      assert.equal("re:", a:send_recv_pkg(""))
      a:close()
      tools.result(server)
    end)

    it("gives each of many callers its own answer", function()
      local a, b = pair()
      local server = wire.spawn(echo, b)
      local tasks = tools.spawn_all(20, function(i)
        return a:send_recv_pkg("request " .. i)
      end)
      for i, answer in ipairs(tools.results(tasks)) do
        assert.equal("re:request " .. i, answer)
      end
      a:close()
      tools.result(server)
    end)

    it("is EPROTO after one that failed with a reply owed", function()
      local a, b = pair()
      fails("ETIMEDOUT", a:send_recv_pkg("one", { timeout = 0.05 }))
      assert.equal("one", b:recv_pkg())
      b:send_pkg("late")
      fails("EPROTO", a:send_recv_pkg("two"))
      assert.equal("late", a:recv_pkg())
      a:close()
      fails("EOF", b:recv_pkg())
    end)
  end)
end

return function(transport)
  both_ways(transport.pair)
  too_long(transport.pair)
  frames(transport.pair)
  exchange(transport.pair)
end
