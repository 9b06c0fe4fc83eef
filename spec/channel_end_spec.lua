-- The ends of channels and of those who wait for them: close, cancel, time, collection.
-- What this is not: values on their ordinary way (channel_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

-- Starts a task; -> the task, which has run until it waits or ends.
local function start(fn, ...)
  local task = wire.spawn(fn, ...)
  wire.sleep(0)
  return task
end

-- Keeps everybody from running, also the timers, until the seconds have passed.
local function block(seconds)
  local due = wire.now() + seconds
  while wire.now() < due do end
end

-- What a task's function returned, without the leading true.
local function results(task) return select(2, assert(task:join(5))) end

-- Starts pcall(channel[method], channel, ...) in a task that ends however the call ends.
local function start_call(channel, method, ...)
  return start(pcall, channel[method], channel, ...)
end

local function assert_canceled(task)
  local ok, err = results(task)
  assert.is_false(ok)
  assert.equal(wire.CANCELED, err)
end

local function collect_garbage()
  collectgarbage()
  collectgarbage()
end

describe("channel:close", function()
  support.it("lets what was buffered be received, then each recv fails with ECLOSED", function()
    local channel = wire.channel(2)
    channel:send(1)
    channel:send(2)
    channel:close()
    assert.equal(1, channel:recv())
    assert.equal(2, channel:recv(0))
    for _ = 1, 2 do
      assert.equal("channel recv: closed", (fails("ECLOSED", channel:recv())))
      fails("ECLOSED", channel:recv(0))
    end
  end)

  support.it("lets every send fail with ECLOSED, with room and without", function()
    local channel = wire.channel(1)
    channel:close()
    assert.equal("channel send: closed", (fails("ECLOSED", channel:send(1))))
    fails("ECLOSED", channel:send(1, 0))
    fails("ECLOSED", channel:recv(0))
    local full = wire.channel(1)
    full:send(1)
    full:close()
    fails("ECLOSED", full:send(2))
  end)

  support.it("wakes every receiver that waits with ECLOSED", function()
    local channel = wire.channel(1)
    local receivers = {}
    for i = 1, 3 do receivers[i] = start(channel.recv, channel) end
    channel:close()
    for _, receiver in ipairs(receivers) do fails("ECLOSED", results(receiver)) end
  end)

  support.it("wakes every sender that waits with ECLOSED; what it had is not received", function()
    for _, capacity in ipairs { 0, 1 } do
      local channel, senders = wire.channel(capacity), {}
      if capacity == 1 then channel:send "buffered" end
      for i = 1, 3 do senders[i] = start(channel.send, channel, i) end
      channel:close()
      if capacity == 1 then assert.equal("buffered", channel:recv()) end
      fails("ECLOSED", channel:recv())
      for _, sender in ipairs(senders) do fails("ECLOSED", results(sender)) end
      fails("ECLOSED", channel:recv())
    end
  end)

  support.it("does not take back what a receiver has been given", function()
    local channel = wire.channel()
    local receiver = start(channel.recv, channel)
    local sender = start(channel.send, channel, "given")
    channel:close()
    assert.equal("given", results(receiver))
    assert.is_true(results(sender))
    fails("ECLOSED", channel:recv(0))
  end)

  support.it("does not take back what a waiting sender got rid of", function()
    local channel = wire.channel(1)
    channel:send(1)
    local sender = start(channel.send, channel, 2)
    assert.equal(1, channel:recv())
    channel:close()
    assert.equal(2, channel:recv())
    assert.is_true(results(sender))
  end)

  support.it("twice is harmless and returns nothing", function()
    local channel = wire.channel()
    assert.equal(0, select("#", channel:close()))
    assert.equal(0, select("#", channel:close()))
  end)

  support.it("is what a <close> variable does at the end of its block", function()
    local receiver, kept
    do
      local channel <close> = wire.channel()
      receiver, kept = start(channel.recv, channel), channel
    end
    fails("ECLOSED", results(receiver))
    fails("ECLOSED", kept:send(1))
    pcall(function()
      local channel <close> = wire.channel(1)
      kept = channel
      error "leaves the block"
    end)
    fails("ECLOSED", kept:send(1))
  end)
end)

describe("a receiver", function()
  support.it("that is cancelled sees wire.CANCELED and takes nothing", function()
    for _, method in ipairs { "recv", "values" } do
      local channel = wire.channel()
      local receiver = start(pcall, function()
        if method == "recv" then channel:recv() else for _ in channel:values() do end end
      end)
      receiver:cancel()
      fails("ETIMEDOUT", channel:send("lost?", 0))
      assert_canceled(receiver)
      fails("ETIMEDOUT", channel:recv(0))
    end
  end)

  support.it("that is cancelled after it was given a value returns it, once", function()
    local channel = wire.channel()
    local after
    local receiver = start(function()
      local value = channel:recv()
      after = { pcall(channel.recv, channel) }
      return value
    end)
    assert.is_true(channel:send("given", 0))
    receiver:cancel()
    assert.equal("given", results(receiver))
    assert.same({ false, wire.CANCELED }, after)
    fails("ETIMEDOUT", channel:recv(0))
  end)

  support.it("that is cancelled before the send leaves the value to the next", function()
    for _, capacity in ipairs { 0, 1 } do
      local channel = wire.channel(capacity)
      local first, second = start_call(channel, "recv"), start_call(channel, "recv")
      first:cancel()
      assert.is_true(channel:send("for the second", 0))
      assert_canceled(first)
      assert.same({ true, "for the second" }, { results(second) })
    end
  end)

  support.it("that is cancelled before the send leaves the value in the buffer", function()
    local channel = wire.channel(1)
    local receiver = start_call(channel, "recv")
    receiver:cancel()
    assert.is_true(channel:send("stays", 0))
    assert_canceled(receiver)
    assert.equal("stays", channel:recv(0))
  end)

  support.it("one of several that were given values keeps its own when it is cancelled", function()
    local channel = wire.channel()
    local receivers = {}
    for i = 1, 3 do receivers[i] = start_call(channel, "recv") end
    for i = 1, 3 do assert.is_true(channel:send(i, 0)) end
    receivers[1]:cancel()
    receivers[2]:cancel()
    for i = 1, 3 do assert.same({ true, i }, { results(receivers[i]) }) end
  end)

  support.it("whose time ends while a value is on its way to it returns the value", function()
    local channel = wire.channel()
    local receiver = start(channel.recv, channel, 0.01)
    block(0.02)
    assert.is_true(channel:send("just in time", 0))
    assert.equal("just in time", results(receiver))
  end)

  support.it("whose time is over before the send has left the line", function()
    for _, capacity in ipairs { 0, 1 } do
      local channel = wire.channel(capacity)
      local receiver
      wire.spawn(function()
        receiver = start(channel.recv, channel, 0.01)
        block(0.03)
      end)
      wire.sleep(0.005) -- due together with the receiver's time, and before it
      local sent = channel:send("exactly once", 0) == true
      local got, _, code = results(receiver)
      assert.equal(capacity == 1, sent)
      assert.equal(sent and "exactly once" or nil, got)
      assert.equal(not sent and "ETIMEDOUT" or nil, code)
      fails("ETIMEDOUT", channel:recv(0))
    end
  end)

  support.it("that was cancelled still takes what is there without waiting", function()
    local channel = wire.channel(1)
    channel:send "there"
    local receiver = start(function()
      pcall(wire.sleep, 1e6)
      return channel:recv(), channel:send "reply"
    end)
    receiver:cancel()
    assert.same({ "there", true }, { results(receiver) })
    assert.equal("reply", channel:recv(0))
  end)
end)

describe("a sender", function()
  support.it("that is cancelled sees wire.CANCELED; its value is never received", function()
    for _, capacity in ipairs { 0, 1 } do
      local channel = wire.channel(capacity)
      if capacity == 1 then channel:send "buffered" end
      local sender = start_call(channel, "send", "never")
      sender:cancel()
      if capacity == 1 then assert.equal("buffered", channel:recv(0)) end
      fails("ETIMEDOUT", channel:recv(0))
      assert_canceled(sender)
      fails("ETIMEDOUT", channel:recv(0))
    end
  end)

  support.it("that is cancelled while a receiver comes delivers nothing", function()
    local channel = wire.channel()
    local sender = start_call(channel, "send", "never")
    sender:cancel()
    fails("ETIMEDOUT", channel:recv(0.02))
    assert_canceled(sender)
  end)

  support.it("that is cancelled after its value was taken returns true", function()
    for _, capacity in ipairs { 0, 1 } do
      local channel = wire.channel(capacity)
      if capacity == 1 then channel:send "buffered" end
      local sender = start_call(channel, "send", "taken")
      if capacity == 1 then assert.equal("buffered", channel:recv(0)) end
      assert.equal("taken", channel:recv(0))
      sender:cancel()
      assert.same({ true, true }, { results(sender) })
      fails("ETIMEDOUT", channel:recv(0))
    end
  end)

  support.it("that is cancelled between others leaves their order alone", function()
    local channel, senders = wire.channel(), {}
    for i = 1, 5 do senders[i] = start_call(channel, "send", i) end
    senders[1]:cancel()
    senders[3]:cancel()
    for _, i in ipairs { 2, 4, 5 } do assert.equal(i, channel:recv(0)) end
    fails("ETIMEDOUT", channel:recv(0))
    assert_canceled(senders[1])
    assert_canceled(senders[3])
    for _, i in ipairs { 2, 4, 5 } do assert.same({ true, true }, { results(senders[i]) }) end
  end)

  support.it("whose time ends after its value was taken returns true", function()
    local channel = wire.channel()
    local sender = start(channel.send, channel, "taken", 0.01)
    block(0.02)
    assert.equal("taken", channel:recv(0))
    assert.is_true(results(sender))
  end)

  support.it("whose time is over as a receiver comes delivers once, or not at all", function()
    for _, timeout in ipairs { 0, 5 } do
      local channel = wire.channel()
      local sender
      wire.spawn(function()
        sender = start(channel.send, channel, "exactly once", 0.01)
        block(0.03)
      end)
      wire.sleep(0.005) -- due together with the sender's time, and before it
      local got, _, code = channel:recv(timeout)
      local sent, _, send_code = results(sender)
      assert.equal(got == "exactly once", sent == true)
      assert.equal(got == nil and "ETIMEDOUT" or nil, code)
      assert.equal(sent == nil and "ETIMEDOUT" or nil, send_code)
      fails("ETIMEDOUT", channel:recv(0))
    end
  end)
end)

describe("a value whose send did not succeed", function()
  local function assert_let_go(attempt)
    local channel = wire.channel()
    local weak = setmetatable({}, { __mode = "v" })
    do
      local value = {}
      weak[1] = value
      attempt(channel, value)
    end
    collect_garbage()
    assert.is_nil(weak[1])
    fails("ETIMEDOUT", channel:recv(0))
  end

  support.it("is not kept after a timeout", function()
    assert_let_go(function(channel, value)
      fails("ETIMEDOUT", channel:send(value, 0))
      fails("ETIMEDOUT", channel:send(value, 0.001))
    end)
  end)

  support.it("is not kept after a cancel", function()
    assert_let_go(function(channel, value)
      local sender = start(channel.send, channel, value)
      sender:cancel()
      fails("ECANCELED", sender:join())
    end)
  end)

  support.it("is not kept after a send of a task that was cancelled before", function()
    assert_let_go(function(channel, value)
      local sender = start(function()
        pcall(wire.sleep, 1e6)
        channel:send(value)
      end)
      sender:cancel()
      fails("ECANCELED", sender:join())
    end)
  end)

  support.it("is not kept after a send where Lua cannot wait", function()
    assert_let_go(function(channel, value)
      raises("wire%.co", coroutine.wrap(function() channel:send(value) end))
    end)
  end)

  support.it_outside("is not kept after a deadlock", function()
    assert_let_go(function(channel, value)
      raises("^deadlock", channel.send, channel, value)
    end)
  end)
end)

describe("a channel that nothing refers to", function()
  support.it("is collected with what is buffered in it", function()
    local weak = setmetatable({}, { __mode = "v" })
    do
      local channel = wire.channel(math.huge)
      for i = 1, 5 do
        local value = {}
        weak[i] = value
        channel:send(value)
      end
      weak.channel = channel
      channel:send(channel)
    end
    collect_garbage()
    assert.same({}, weak)
  end)

  support.it("gives a value up once it was received", function()
    for _, capacity in ipairs { 0, 1, 7 } do
      local channel = wire.channel(capacity)
      local weak = setmetatable({}, { __mode = "v" })
      local sender = start(function()
        for i = 1, 10 do
          weak[i] = {}
          channel:send(weak[i])
        end
      end)
      for _ = 1, 10 do channel:recv() end
      sender:join()
      collect_garbage()
      assert.same({}, weak)
    end
  end)

  support.it("gives up what was received although its buffer grew meanwhile", function()
    local channel = wire.channel(math.huge)
    local weak = setmetatable({}, { __mode = "v" })
    local function send(first, last)
      for i = first, last do
        local value = {}
        weak[i] = value
        channel:send(value)
      end
    end
    send(1, 4)
    for i = 1, 2 do assert.equal(weak[i], channel:recv()) end
    send(5, 7) -- the buffer is a ring: it is full, and goes round its end, as the last one comes
    for i = 3, 7 do assert.equal(weak[i], channel:recv()) end
    collect_garbage()
    assert.same({}, weak)
  end)

  support.it("gives up what was taken from a sender whose coroutine was killed then", function()
    for _, capacity in ipairs { 0, 1 } do
      local channel = wire.channel(capacity)
      local weak = setmetatable({}, { __mode = "v" })
      if capacity == 1 then channel:send "buffered" end
      local thread = wire.co.create(function()
        local value = {}
        weak[1] = value
        channel:send(value)
      end)
      local task = start(wire.co.resume, thread)
      for _ = 0, capacity do assert(channel:recv(0)) end
      coroutine.close(thread)
      collect_garbage()
      assert.is_nil(weak[1])
      task:join()
    end
  end)

  support.it("lives while a task waits for it, and the task until it is cancelled", function()
    local weak = setmetatable({}, { __mode = "v" })
    local task = start(function()
      local channel = wire.channel()
      weak[1] = channel
      channel:recv()
    end)
    collect_garbage()
    assert.is_not_nil(weak[1])
    assert.equal("waiting", task:status())
    task:cancel()
    task:join()
    collect_garbage()
    assert.is_nil(weak[1])
  end)

  -- The one way in which a task can stand in line of a channel that it does not refer to.
  for _, method in ipairs { "recv", "send" } do
    support.it("wakes a task whose coroutine was killed in its " .. method, function()
      local thread = wire.co.create(function()
        local channel = wire.channel()
        channel[method](channel, method == "send" and {} or nil)
      end)
      local task = start(wire.co.resume, thread)
      support.without_collection(function()
        assert.is_true(coroutine.close(thread))
        assert.equal("waiting", task:status())
      end)
      collect_garbage()
      assert.is_false((results(task)))
    end)
  end

  support.it("passes over a task whose coroutine was killed and that is running", function()
    local channel = wire.channel()
    local thread = wire.co.create(function() channel:recv() end)
    local first = start(channel.recv, channel)
    local task = start(function()
      assert(not wire.co.resume(thread)) -- it was killed, but the task stands in line for it
      return channel:send("not to itself", 0)
    end)
    local receiver = start_call(channel, "recv")
    coroutine.close(thread)
    first:cancel() -- now the task is the first, and is told to look
    assert.is_true(results(task))
    assert.same({ true, "not to itself" }, { results(receiver) })
  end)

  support.it_outside("may have tasks of both kinds waiting when the state is closed", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      local channel, full = wire.channel(), wire.channel(1)
      full:send {}
      for i = 1, 20 do
        wire.spawn(channel.recv, channel, i % 2 == 0 and 1e6 or nil)
        wire.spawn(full.send, full, {}, i % 2 == 0 and 1e6 or nil)
        wire.spawn(function() for v in channel:values() do print(v) end end)
      end
      wire.run(wire.sleep, 0.001)
      setmetatable({}, { __gc = function()
        channel:close()
        full:close()
        print(pcall(full.recv, full))
      end })
      print "over"
    ]]
    local output, status = peer:output()
    assert.matches("^over\n", output)
    assert.matches("true\ttable: ", output)
    assert.equal(0, status)
  end)
end)
