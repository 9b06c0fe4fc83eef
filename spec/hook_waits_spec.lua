-- Hooks run while others wait, and cannot wait themselves: what they try touches nobody's wait.
-- What this is not: what hooks are given and may decide (server_hooks_spec), where a call says that
-- it cannot wait (wait_spec, odd_places_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local clients = require "spec.clients"
local wire = require "lunewire"

local fails = support.fails

describe("a hook that would have to wait, while the main chunk waits outside any task,", function()
  -- A server whose hook makes that call, which must raise, and a client that comes later.
  local function serve_and_dial(call)
    local server = assert(wire.serve("127.0.0.1:0", { on_accept = function()
      assert.is_false((pcall(call)))
      return true
    end }, clients.echo))
    wire.after(0.02, function() clients.connect(server):close() end)
    return server
  end

  support.it_outside("leaves it in its place", function()
    local a, b = wire.pipe()
    local server = serve_and_dial(function() wire.sleep(1) end)
    wire.after(0.1, function()
      a:send "heard\n"
      server:close() -- then nothing else could end its wait
    end)
    assert.equal("heard", b:recv_line())
  end)

  support.it_outside("comes behind it, where both receive", function()
    local a, b = wire.pipe()
    local _ <close> = serve_and_dial(function()
      fails("ETIMEDOUT", b:recv(1, 0))
      fails("ETIMEDOUT", b:recv_line(0))
      b:recv(1)
    end)
    a:send "ab"
    wire.after(0.1, function() a:send "c" end)
    assert.equal("abc", b:recv(3, 5))
  end)

  support.it_outside("takes nothing of what it sends", function()
    local channel, got = wire.channel(), nil
    local _ <close> = serve_and_dial(function()
      fails("ETIMEDOUT", channel:send("the hook's", 0))
      channel:send "the hook's, too"
    end)
    wire.after(0.1, function() got = channel:recv(5) end)
    assert.is_true(channel:send("the main chunk's", 5))
    assert.equal("the main chunk's", got)
  end)
end)
