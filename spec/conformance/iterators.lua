-- The iterators lines, pkgs, frames and chunks, and last_error.
-- What this is not: what one message is.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, raises, gather = support.it, support.raises, tools.gather

local function clean_ends(pair)
  describe("at the end of the stream", function()
    it("lines gave every line, and last_error nothing", function()
      local a, b = pair()
      tools.put(a, "one\ntwo\r\n\nfour\n")
      a:close()
      assert.same({ "one", "two", "", "four" }, gather(b:lines()))
      assert.equal(0, select("#", b:last_error()))
    end)

    it("trap: lines delivers a last line without its newline, and that is a clean end", function()
      local a, b = pair()
      tools.put(a, "one\nlast")
      a:close()
      assert.same({ "one", "last" }, gather(b:lines()))
      assert.equal(0, select("#", b:last_error()))
    end)

    it("lines leaves the ends on with keep", function()
      local a, b = pair()
      tools.put(a, "one\ntwo\r\nlast")
      a:close()
      assert.same({ "one\n", "two\r\n", "last" }, gather(b:lines { keep = true }))
    end)

    it("pkgs gave every package, the empty one too", function()
      local a, b = pair()
      for _, data in ipairs { "one", "", "three" } do
        a:send_pkg(data, { header = 3 })
      end
      a:close()
      assert.same({ "one", "", "three" }, gather(b:pkgs { header = 3 }))
      assert.equal(0, select("#", b:last_error()))
    end)

    it("frames gave every frame", function()
      local a, b = pair { framing = wire.framing.fixed(3) }
      tools.put(a, "onetwo")
      a:close()
      assert.same({ "one", "two" }, gather(b:frames()))
      assert.equal(0, select("#", b:last_error()))
    end)

    it("chunks gave every byte once", function()
      local a, b = pair()
      local data = ("0123456789"):rep(50000)
      local writer = wire.spawn(function()
        a:send(data)
        a:close()
      end)
      local chunks = gather(b:chunks())
      assert.is_true(#chunks > 1)
      assert.is_true(data == table.concat(chunks))
      assert.equal(0, select("#", b:last_error()))
      tools.result(writer)
    end)

    it("chunks of a max are no longer than that", function()
      local a, b = pair()
      tools.deliver(a, b, "abcdefgh")
      a:close()
      assert.same({ "abc", "def", "gh" }, gather(b:chunks { max = 3 }))
    end)

    it("a stream without a message gives none", function()
      local a, b = pair()
      a:close()
      assert.same({}, gather(b:lines()))
      assert.same({}, gather(b:pkgs()))
      assert.same({}, gather(b:chunks()))
      assert.equal(0, select("#", b:last_error()))
    end)
  end)
end

local function failures(pair)
  describe("at a failure", function()
    local function ends_with(code, b)
      local message, got = b:last_error()
      assert.equal(code, got)
      assert.is_string(message)
    end

    it("lines ends, and last_error tells of the timeout", function()
      local a, b = pair()
      tools.put(a, "one\ntw")
      assert.same({ "one" }, gather(b:lines(0.05)))
      ends_with("ETIMEDOUT", b)
    end)

    it("trap: another loop goes on where a timeout stopped the first", function()
      local a, b = pair()
      tools.put(a, "one\ntw")
      gather(b:lines { timeout = 0.05 })
      tools.put(a, "o\nthree\n")
      a:close()
      assert.same({ "two", "three" }, gather(b:lines()))
      assert.equal(0, select("#", b:last_error()))
    end)

    it("lines ends at a line over its max, which is still there", function()
      local a, b = pair()
      tools.put(a, "one\nmuch too long\n")
      assert.same({ "one" }, gather(b:lines { max = 5 }))
      ends_with("EMSGSIZE", b)
      assert.equal("much too long", b:recv_line())
    end)

    it("trap: the limit of lines is one for each line", function()
      local a, b = pair()
      tools.put(a, ("12345\n"):rep(100))
      a:close()
      assert.equal(100, #gather(b:lines { max = 5 }))
      assert.equal(0, select("#", b:last_error()))
    end)

    it("lines with skip passes over a line that is too long", function()
      local a, b = pair()
      tools.put(a, "one\nmuch too long\ntwo\n")
      a:close()
      assert.same({ "one", "two" }, gather(b:lines { max = 5, skip = true }))
    end)

    it("pkgs ends with EOF inside a package, and that is a failure", function()
      local a, b = pair()
      tools.put(a, "\0\3one\0\5tw")
      a:close()
      assert.same({ "one" }, gather(b:pkgs()))
      ends_with("EOF", b)
    end)

    it("frames ends with EOF inside a frame, and that is a failure", function()
      local a, b = pair { framing = wire.framing.fixed(3) }
      tools.put(a, "onetw")
      a:close()
      assert.same({ "one" }, gather(b:frames()))
      ends_with("EOF", b)
    end)

    it("frames takes no frame for a whole one that the end cut off", function()
      for _, framing in ipairs { wire.framing.line(), wire.framing.delimiter "\n" } do
        local a, b = pair { framing = framing }
        tools.put(a, "one\ntw")
        a:close()
        assert.same({ "one" }, gather(b:frames()))
        ends_with("EOF", b)
      end
    end)

    it("pkgs ends at a package over its max", function()
      local a, b = pair()
      tools.put(a, "\0\3one\0\9long")
      assert.same({ "one" }, gather(b:pkgs { max = 8 }))
      ends_with("EMSGSIZE", b)
    end)

    it("a loop ends when its connection is closed beside it", function()
      local a, b = pair()
      tools.put(a, "one\n")
      local reader = tools.start(function()
        return gather(b:lines())
      end)
      b:close()
      assert.same({ "one" }, tools.result(reader))
      ends_with("ECLOSED", b)
    end)

    it("a reset by the peer ends a loop and is told", function()
      local a, b = pair()
      tools.put(a, "one\n")
      local reader = wire.spawn(function()
        return gather(b:lines())
      end)
      tools.await(function()
        return b:stats().messages_in == 1
      end)
      a:reset()
      assert.same({ "one" }, tools.result(reader))
      local code = support.reset_code(pair)
      if code == "EOF" then -- a clean end is no failure
        assert.equal(0, select("#", b:last_error()))
      else
        ends_with(code, b)
      end
    end)
  end)
end

local function last_error(pair)
  describe("last_error", function()
    it("gives nothing on a new connection", function()
      assert.equal(0, select("#", pair():last_error()))
    end)

    it("trap: is not changed by sends", function()
      local a, b = pair()
      support.fails("ETIMEDOUT", b:recv(1, 0.02))
      local message, code = b:last_error()
      b:send("data")
      b:close_write()
      support.fails("EPIPE", b:send("more"))
      assert.same({ message, code }, { b:last_error() })
      assert.equal("data", a:recv(4))
    end)

    it("is cleared by a clean end", function()
      local a, b = pair()
      support.fails("ETIMEDOUT", b:recv_line(0.02))
      tools.put(a, "one\n")
      a:close()
      assert.same({ "one" }, gather(b:lines()))
      assert.equal(0, select("#", b:last_error()))
    end)
  end)

  describe("an iterator", function()
    it("raises for an unknown option at once, not in the loop", function()
      local _, b = pair()
      raises("unknown option 'timout' %(did you mean 'timeout'%?%)", b.lines, b, { timout = 1 })
      raises("unknown option", b.pkgs, b, { keep = true })
      raises("unknown option", b.chunks, b, { header = 2 })
      raises("set_framing", function()
        gather(b:frames())
      end)
    end)

    it("takes a plain number as the timeout of each receive", function()
      local a, b = pair()
      tools.put(a, "\0\1x")
      assert.same({ "x" }, gather(b:pkgs(0.05)))
      assert.same({}, gather(b:chunks(0.05)))
    end)

    it("may be left and begun again", function()
      local a, b = pair()
      tools.put(a, "one\ntwo\nthree\n")
      a:close()
      for line in b:lines() do
        if line == "two" then break end
      end
      assert.same({ "three" }, gather(b:lines()))
    end)
  end)
end

return function(transport)
  describe("iterators", function()
    clean_ends(transport.pair)
    failures(transport.pair)
    last_error(transport.pair)
  end)
end
