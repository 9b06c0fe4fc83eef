-- The options of a connection's socket: conn:option, and those of who makes connections.
-- What this is not: what a timeout or a limit does (conformance/).
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails, raises = support.it, support.fails, support.raises

describe("conn:option", function()
  it("reads and sets flags", function()
    local a, _ = support.pair()
    assert.is_true(a:option "nodelay")
    assert.is_true(a:option("nodelay", false))
    assert.is_false(a:option "nodelay")
    assert.is_true(a:option("nodelay", true))
    assert.is_true(a:option "nodelay")
    assert.is_true(a:option("keepalive", false))
    assert.equal(1, select("#", a:option "keepalive"))
    assert.is_false((a:option "keepalive"))
  end)

  it("sets the times of keepalive, and reads them behind the flag", function()
    local a, _ = support.pair()
    assert.is_true(a:option("keepalive", { idle = 30, interval = 5, count = 3 }))
    local on, times = a:option "keepalive"
    assert.is_true(on)
    assert.same({ idle = 30, interval = 5, count = 3 }, times)
    assert.is_true(a:option("keepalive", { idle = 60 }))
    assert.same({ idle = 60, interval = 5, count = 3 }, select(2, a:option "keepalive"))
    assert.is_true(a:option("keepalive", {}))
    assert.is_true((a:option "keepalive"))
  end)

  it("rounds times up to the whole seconds of the system", function()
    local a, _ = support.pair()
    assert.is_true(a:option("keepalive", { idle = 0.2, interval = 7.5 }))
    local _, times = a:option "keepalive"
    assert.same({ 1, 8 }, { times.idle, times.interval })
    assert.is_true(a:option("linger", 1.5))
    assert.equal(2, a:option "linger")
  end)

  it("reads linger as seconds, as false when there is none", function()
    local a, _ = support.pair()
    assert.is_false(a:option "linger")
    assert.is_true(a:option("linger", 5))
    assert.equal(5, a:option "linger")
    assert.is_true(a:option("linger", nil))
    assert.is_false(a:option "linger")
    assert.is_true(a:option("linger", 0))
    assert.equal(0, a:option "linger")
    assert.is_true(a:option("linger", false))
    assert.is_false(a:option "linger")
  end)

  it("trap: with a linger time the close does not block", function()
    local a, b = support.pair()
    assert.is_true(a:option("linger", 30))
    tools.fill(a)
    local elapsed = tools.timed(a.reset, a)
    tools.took(0, elapsed)
    b:close()
  end)

  it("with a linger of 0 ends the connection by a reset", function()
    local a, b = support.pair()
    assert.is_true(a:option("linger", 0))
    tools.put(a, "last words")
    assert.equal("last words", b:recv(10))
    a:close()
    fails("EOF", b:recv(1))
    tools.await(function() return not b:send "x" or b:flush() == nil end)
    fails("EPIPE", b:flush())
  end)

  it("sizes the system's buffers", function()
    local a, _ = support.pair()
    for _, name in ipairs { "recv_buffer", "send_buffer" } do
      assert.is_true(a:option(name) > 0)
      assert.is_true(a:option(name, 16384))
      local small = a:option(name)
      assert.is_true(small >= 16384)
      assert.is_true(a:option(name, 65536))
      assert.is_true(a:option(name) > small)
    end
  end)

  it("a smaller send buffer takes less of what nobody reads", function()
    local a, b = support.pair { limits = { high_water = 1 } }
    local c, d = support.pair { limits = { high_water = 1 } }
    assert.is_true(a:option("send_buffer", 4096))
    assert.is_true(b:option("recv_buffer", 4096))
    assert.is_true(c:option("send_buffer", 1 << 20))
    assert.is_true(tools.fill(a) < tools.fill(c))
    b:reset()
    d:reset()
  end)

  it("reads and sets the type of service, over IPv4 and IPv6", function()
    for _, host in ipairs { "127.0.0.1:0", "[::1]:0" } do
      local server <close> = assert(wire.listen(host))
      local a <close> = assert(wire.connect(server:addr()))
      assert.equal(0, a:option "tos")
      assert.is_true(a:option("tos", 0x10))
      assert.equal(0x10, a:option "tos")
    end
  end)

  it("raises for a name that it does not know, and says what may be meant", function()
    local a, _ = support.pair()
    raises("unknown option 'nodely' %(did you mean 'nodelay'%?%)", a.option, a, "nodely")
    raises("did you mean 'recv_buffer'", a.option, a, "recv_bufer", 1)
    raises("unknown option 'colour'$", a.option, a, "colour")
    raises("string expected", a.option, a)
    raises("string expected", a.option, a, {})
  end)

  it("raises for a value of the wrong type or out of range", function()
    local a, _ = support.pair()
    raises("boolean expected", a.option, a, "nodelay", 1)
    raises("boolean expected", a.option, a, "nodelay", nil)
    raises("must be a boolean or a table", a.option, a, "keepalive", 30)
    raises("seconds", a.option, a, "linger", true)
    raises("from 0 to 65535", a.option, a, "linger", -1)
    raises("from 0 to 65535", a.option, a, "linger", math.huge)
    raises("must be from 1", a.option, a, "recv_buffer", 0)
    raises("must be from 1", a.option, a, "send_buffer", 1 << 40)
    raises("number expected", a.option, a, "send_buffer", nil)
    raises("from 0 to 255", a.option, a, "tos", 256)
  end)

  it("is ECLOSED on a closed connection, whose misuse still raises", function()
    local a, _ = support.pair()
    a:close()
    fails("ECLOSED", a:option "nodelay")
    fails("ECLOSED", a:option("nodelay", true))
    fails("ECLOSED", a:option("keepalive", { idle = 1 }))
    raises("unknown option", a.option, a, "nodely")
    raises("boolean expected", a.option, a, "nodelay", 1)
  end)

  it("over a pipe is ENOTSUP, and the message names the option", function()
    local a, _ = wire.pipe()
    for name in ("nodelay keepalive linger recv_buffer send_buffer tos"):gmatch "%S+" do
      local message = fails("ENOTSUP", a:option(name))
      assert.is_truthy(message:find("option " .. name .. " pipe: ", 1, true))
    end
    fails("ENOTSUP", a:option("tos", 1))
    fails("ENOTSUP", a:option("keepalive", true))
    raises("unknown option", a.option, a, "nodely")
  end)
end)

describe("the option nodelay of connect and listen", function()
  for _, given in ipairs { true, false } do
    it(("is the connections' of both sides: %s"):format(given), function()
      for _, conn in ipairs { support.pair { nodelay = given } } do
        assert.equal(given, (conn:option "nodelay"))
        conn:close()
      end
    end)
  end

  it("is one that each connection may change for itself", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local a <close> = assert(wire.connect(server:addr(), 5))
    local b <close> = assert(server:accept(5))
    assert.is_true(b:option("nodelay", false))
    local c <close> = assert(wire.connect(server:addr(), 5))
    local d <close> = assert(server:accept(5))
    assert.is_false((b:option "nodelay"))
    assert.is_true((a:option "nodelay") and (c:option "nodelay") and (d:option "nodelay"))
  end)
end)

describe("the option keepalive of connect and listen", function()
  -- -> a connected pair, each end made with these options.
  local function times_of(keepalive)
    local list = {}
    for _, conn in ipairs { support.pair { keepalive = keepalive } } do
      local on, times = conn:option "keepalive"
      list[#list + 1] = on and times or false
    end
    return list
  end

  it("is on without being named", function()
    local a, b = support.pair()
    assert.is_true((a:option "keepalive"))
    assert.is_true((b:option "keepalive"))
  end)

  it("is off when false", function() assert.same({ false, false }, times_of(false)) end)

  it("sets the times", function()
    local times = { idle = 11, interval = 3, count = 4 }
    assert.same({ times, times }, times_of(times))
  end)

  it("trap: reaches the connections of serve", function()
    local seen
    local done = false
    local server = assert(wire.serve("127.0.0.1:0", { keepalive = { idle = 21 } }, function(conn)
      seen = select(2, conn:option "keepalive")
      done = true
    end))
    local conn <close> = assert(wire.connect(server:addr()))
    fails("EOF", conn:recv(1))
    tools.await(function() return done end)
    assert.equal(21, seen.idle)
    server:close()
  end)

  it("raises for keys and values that it does not know", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    for _, make in ipairs { wire.connect, wire.listen } do
      local function with(keepalive) return make(server:addr(), { keepalive = keepalive }) end
      raises("'idel' %(did you mean 'idle'%?%)", with, { idel = 3 })
      raises("'idle' must be a number of seconds", with, { idle = "3" })
      raises("'idle' of keepalive must be more than 0", with, { idle = 0 })
      raises("'interval' of keepalive must be more than 0", with, { interval = -1 })
      raises("'interval' of keepalive must be .* at most", with, { interval = math.huge })
      raises("'count' must be a whole number", with, { count = 1.5 })
      raises("'count' of keepalive must be from 1", with, { count = 0 })
      raises("'keepalive' must be a boolean or a table", with, 30)
    end
  end)
end)

describe("the option idle_timeout of serve", function()
  it("ends the receives of a silent client, and no other's", function()
    local codes = {}
    local server = assert(wire.serve("127.0.0.1:0", { idle_timeout = 0.3 }, function(conn)
      for line in conn:lines() do conn:send(line, "\n") end
      codes[#codes + 1] = select(2, conn:last_error()) or "EOF"
    end))
    local silent, lively = wire.connect(server:addr()), wire.connect(server:addr())
    for _ = 1, 2 do
      lively:send "still here\n"
      assert.equal("still here", lively:recv_line(5))
    end
    lively:close()
    silent:send "a line without e"
    fails("EOF", silent:recv(1, 5))
    tools.await(function() return #codes == 2 end)
    assert.same({ "EOF", "ETIMEDOUT" }, codes)
    server:close()
  end)
end)
