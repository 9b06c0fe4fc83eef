-- Channels where Lua is not simply a task: coroutines, other functions in the way, the main chunk.
-- What this is not: what channels do (channel_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

local function it_anywhere(title, body)
  support.it(title .. ", in a task", body)
  support.it_outside(title .. ", in the main chunk", body)
end

local function collect(channel)
  local list = {}
  for value in channel:values() do list[#list + 1] = value end
  return list
end

describe("a channel call", function()
  it_anywhere("waits inside coroutines of wire.co", function()
    local channel = wire.channel()
    local doubled = wire.co.wrap(function()
      for value in channel:values() do coroutine.yield(value * 2) end
    end)
    wire.spawn(wire.co.wrap(function()
      for i = 1, 3 do channel:send(i) end
      channel:close()
    end))
    local list = {}
    for value in doubled do list[#list + 1] = value end
    assert.same({ 2, 4, 6 }, list)
  end)

  support.it("raises inside a plain coroutine and names wire.co, if it has to wait", function()
    local channel = wire.channel(1)
    raises("channel recv: .*wire%.co", coroutine.wrap(function() channel:recv() end))
    raises("channel values: .*wire%.co", coroutine.wrap(function() collect(channel) end))
    assert.is_true(coroutine.wrap(function() return channel:send(1) end)())
    raises("channel send: .*wire%.co", coroutine.wrap(function() channel:send(2) end))
    assert.equal(1, coroutine.wrap(function() return channel:recv() end)())
    fails("ETIMEDOUT", channel:recv(0))
  end)

  support.it("raises inside table.sort and names it, if it has to wait", function()
    local channel = wire.channel()
    raises("channel recv: .*sort'", table.sort, { 2, 1 }, function() return channel:recv() end)
    raises("channel send: .*sort'", table.sort, { 2, 1 }, function() return channel:send(1) end)
    fails("ETIMEDOUT", channel:recv(0))
  end)

  support.it("works inside a finalizer if it need not wait", function()
    local channel, ok, err = wire.channel(1)
    setmetatable({}, { __gc = function()
      channel:send "from a finalizer"
      ok, err = pcall(channel.send, channel, "no room")
    end })
    collectgarbage()
    assert.is_false(ok)
    assert.matches("channel send: cannot wait inside a finalizer", err)
    assert.equal("from a finalizer", channel:recv(0))
    fails("ETIMEDOUT", channel:recv(0))
  end)
end)

describe("a channel, outside any task,", function()
  support.it_outside("passes values to tasks and back while the call turns the loop", function()
    local there, back = wire.channel(), wire.channel()
    wire.spawn(function()
      for value in there:values() do back:send(value .. "!") end
      back:close()
    end)
    for _, word in ipairs { "one", "two" } do
      there:send(word)
      assert.equal(word .. "!", back:recv())
    end
    there:close()
    fails("ECLOSED", back:recv())
  end)

  support.it_outside("raises a deadlock if nobody could ever come", function()
    local channel = wire.channel()
    raises("^deadlock: channel recv", channel.recv, channel)
    raises("^deadlock: channel send", channel.send, channel, 1)
    raises("deadlock: channel values", collect, channel)
    fails("ETIMEDOUT", channel:recv(0)) -- the value of the failed send is gone
    fails("ETIMEDOUT", channel:recv(0.001))
    local task = wire.spawn(function() return channel:recv() end)
    raises("^deadlock: channel recv", channel.recv, channel)
    channel:send "found"
    assert.same({ true, "found" }, { task:join() })
  end)

  support.it_outside("does not keep wire.run going for tasks that only wait for it", function()
    local channel = wire.channel()
    local receiver = wire.spawn(function() return channel:recv() end)
    local sender = wire.spawn(function() return wire.channel():send(1) end)
    wire.run()
    assert.equal("waiting", receiver:status())
    assert.equal("waiting", sender:status())
    channel:send "later"
    assert.same({ true, "later" }, { receiver:join() })
    sender:cancel()
    sender:join()
  end)

  support.it_outside("keeps wire.run going until a timeout of a call is over", function()
    local channel = wire.channel()
    local receiver = wire.spawn(function() return channel:recv(0.02) end)
    wire.run()
    assert.equal("done", receiver:status())
    assert.equal("ETIMEDOUT", select(4, receiver:join()))
  end)

  support.it_outside("lets the main task of wire.run deadlock with an error", function()
    local channel = wire.channel()
    raises("^deadlock", wire.run, function() return channel:recv() end)
    channel:close()
    wire.run()
  end)
end)
