-- Faults of servers that a review found, each with the test that shows it.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it, it_outside = support.it, support.it_outside

local LOCAL <const> = "127.0.0.1:0"

describe("a shutdown of a server that has ended", function()
  it("tells nobody and harms nothing", function()
    local told = 0
    local server = assert(wire.serve(LOCAL, {
      on_shutdown = function()
        told = told + 1
        error "nobody should come here"
      end,
    }, function() end))
    server:close()
    assert.is_true(server:run())
    wire.sleep(0) -- it is not anchored any more
    assert.is_true(server:shutdown(0.01))
    collectgarbage()
    wire.sleep(0.02)
    assert.equal(0, told)
  end)
end)

describe("on_accept", function()
  it_outside("may send and close while the main chunk accepts, and others go on waiting", function()
    local big = ("x"):rep(1 << 20)
    local server <close> = assert(wire.listen(LOCAL, {
      on_accept = function(conn)
        conn:send(big)
        conn:close()
      end,
    }))
    local slept = wire.spawn(function()
      wire.sleep(0.05)
      return "slept"
    end)
    local got = wire.spawn(function()
      local conn <close> = assert(wire.connect(server:addr()))
      return #assert(conn:read "a")
    end)
    support.fails("ETIMEDOUT", server:accept(0.3))
    assert.same({ true, "slept" }, { slept:join(5) })
    assert.same({ true, #big }, { got:join(5) })
  end)

  it("may give the connection to another server, which alone counts it", function()
    local other <close> = assert(wire.serve(LOCAL, function(conn) conn:send "from the other" end))
    local server <close> = assert(wire.serve(LOCAL, {
      on_accept = function(conn) other:handle(conn) end,
    }, function(conn) conn:send "from the first" end))
    local conn <close> = assert(wire.connect(server:addr()))
    assert.equal("from the other", conn:read "a")
    assert.same({ 0, 0 }, { server:conn_num(), other:conn_num() })
    conn:close()
    assert.is_true(other:shutdown(5))
    assert.is_true(server:shutdown(5))
  end)

  it("may give the connection to its own server, which handles it once", function()
    local handled, given = 0, false
    local itself
    local server <close> = assert(wire.serve(LOCAL, {
      on_accept = function(conn)
        if given then return end
        given = true -- handle() asks on_accept, too
        itself:handle(conn)
      end,
    }, function(conn)
      handled = handled + 1
      conn:recv_line()
    end))
    itself = server
    local conn <close> = assert(wire.connect(server:addr()))
    conn:send "go\n"
    assert.equal("", conn:read "a")
    assert.equal(1, handled)
    conn:close()
    assert.is_true(server:shutdown(5))
  end)
end)

-- The server's handler needs a while for its answer when the signal comes.
local SLOW <const> = [[
local wire = require "lunewire"
local server = assert(wire.serve("127.0.0.1:0", function(conn)
  print(conn:recv_line())
  wire.sleep(0.2)
  conn:send "answer\n"
end))
io.stdout:setvbuf "line"
print(server:port())
wire.on_signal("USR1", function() server[%q](server, 30) end)
wire.run()
print "returned"
]]

describe("SIGTERM", function()
  for _, method in ipairs { "close", "shutdown" } do
    it("lets handlers end whose server stopped listening by " .. method, function()
      local peer = support.lua(SLOW:format(method))
      local conn <close> = assert(wire.connect("127.0.0.1:" .. peer:line()))
      conn:send "question\n"
      assert.equal("question", peer:line())
      peer:signal "USR1"
      peer:signal "TERM"
      assert.equal("answer", conn:recv_line(10))
      conn:close()
      assert.same({ "returned\n", 0 }, { peer:output() })
    end)
  end
end)
