-- Channels: values that tasks hand to each other.
-- What this is not: where else than in a task they can wait (channel_wait_spec); closes, cancels
-- and collection (channel_end_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

-- Starts a task; -> the task, which has run until it waits or ends.
local function start(fn, ...)
  local task = wire.spawn(fn, ...)
  wire.sleep(0)
  return task
end

local function it_anywhere(title, body)
  support.it(title .. ", in a task", body)
  support.it_outside(title .. ", in the main chunk", body)
end

local function collect(channel)
  local list = {}
  for value in channel:values() do list[#list + 1] = value end
  return list
end

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

local CAPACITIES <const> = { 0, 1, 7, math.huge }

describe("wire.channel", function()
  support.it("takes a whole number of values, or math.huge", function()
    for _, capacity in ipairs { 0, 1, 3.0, 1e6, math.huge, math.maxinteger } do
      wire.channel(capacity):close()
    end
  end)

  support.it("has no buffer unless told", function()
    fails("ETIMEDOUT", wire.channel():send(1, 0))
    fails("ETIMEDOUT", wire.channel(nil):send(1, 0))
    fails("ETIMEDOUT", wire.channel(0):send(1, 0))
  end)

  support.it("raises for any other capacity and says what it may be", function()
    raises("whole number >= 0, or math.huge", wire.channel, -1)
    raises("whole number >= 0, or math.huge", wire.channel, 1.5)
    raises("whole number >= 0, or math.huge", wire.channel, 0 / 0)
    raises("whole number >= 0, or math.huge", wire.channel, -math.huge)
    raises("number of values expected, got string", wire.channel, "1")
    raises("number of values expected, got table", wire.channel, {})
  end)

  support.it("says in tostring whether it is open and how much is buffered", function()
    local channel = wire.channel(2)
    channel:send "x"
    assert.matches("^Channel %(open, 1 buffered%): ", tostring(channel))
    channel:close()
    assert.matches("^Channel %(closed, 1 buffered%): ", tostring(channel))
  end)

  support.it("raises for a wrong self", function()
    local channel = wire.channel(1)
    for _, method in ipairs { "send", "recv", "values", "close" } do
      raises("Channel expected", channel[method], {}, 1)
      raises("Channel expected", channel[method])
    end
  end)
end)

describe("channel:send", function()
  support.it("raises for nil and says why; nothing was sent", function()
    local channel = wire.channel(1)
    raises("nil cannot be sent.*the end", channel.send, channel, nil)
    raises("nil cannot be sent", channel.send, channel)
    raises("nil cannot be sent", channel.send, channel, nil, 0)
    fails("ETIMEDOUT", channel:recv(0))
  end)

  support.it("raises for a wrong timeout", function()
    local channel = wire.channel(1)
    raises("number of seconds", channel.send, channel, 1, "soon")
    raises("number of seconds", channel.send, channel, 1, {})
    raises("number of seconds", channel.send, channel, 1, 0 / 0)
    raises("number of seconds", channel.recv, channel, "soon")
    raises("number of seconds", channel.recv, channel, 0 / 0)
  end)

  it_anywhere("returns true at once while there is room", function()
    for _, capacity in ipairs { 1, 2, 7, 100 } do
      local channel = wire.channel(capacity)
      for i = 1, capacity do assert.is_true(channel:send(i)) end
      fails("ETIMEDOUT", channel:send("too many", 0))
      for i = 1, capacity do assert.equal(i, channel:recv()) end
      fails("ETIMEDOUT", channel:recv(0))
    end
  end)

  support.it("without a capacity returns when a receiver has taken the value", function()
    local channel, log = wire.channel(), {}
    local sender = start(function()
      log[#log + 1] = channel:send "value"
      log[#log + 1] = "sent"
    end)
    wire.sleep(0)
    assert.same({}, log)
    assert.equal("waiting", sender:status())
    assert.equal("value", channel:recv())
    sender:join()
    assert.same({ true, "sent" }, log)
  end)

  support.it("waits until there is room and keeps the order", function()
    local channel = wire.channel(1)
    channel:send(1)
    local sender = start(function() return channel:send(2) end)
    assert.equal("waiting", sender:status())
    assert.equal(1, channel:recv())
    assert.same({ true, true }, { sender:join() })
    assert.equal(2, channel:recv())
  end)

  support.it("passes values of every type as they are", function()
    local values = { false, true, 0, -1.5, 0 / 0, "", "text", {}, print, io.stdout,
      coroutine.create(print) }
    for _, capacity in ipairs(CAPACITIES) do
      local channel = wire.channel(capacity)
      local sender = wire.spawn(function()
        for _, value in ipairs(values) do channel:send(value) end
      end)
      for _, value in ipairs(values) do
        local got = channel:recv()
        assert.is_true(rawequal(value, got) or value ~= value and got ~= got)
      end
      sender:join()
    end
  end)

  support.it("of senders that wait, serves the first first", function()
    for _, capacity in ipairs { 0, 1, 7 } do
      local channel, done = wire.channel(capacity), {}
      for i = 1, capacity + 5 do
        start(function()
          channel:send(i)
          done[#done + 1] = i
        end)
      end
      assert.equal(capacity, #done)
      for i = 1, capacity + 5 do
        assert.equal(i, channel:recv())
        wire.sleep(0)
        assert.equal(math.min(capacity + i, capacity + 5), #done)
      end
      assert.same(numbers(capacity + 5), done)
    end
  end)

  support.it("returns ETIMEDOUT when its time is over; the value is never received", function()
    for _, capacity in ipairs { 0, 1 } do
      local channel = wire.channel(capacity)
      if capacity == 1 then channel:send "first" end
      local began = wire.now()
      local message = fails("ETIMEDOUT", channel:send("late", 0.03))
      assert.equal("channel send: timed out", message)
      assert.is_true(wire.now() - began >= 0.03)
      if capacity == 1 then assert.equal("first", channel:recv(0)) end
      fails("ETIMEDOUT", channel:recv(0))
    end
  end)

  support.it("that times out between others leaves their order alone", function()
    local channel = wire.channel()
    local results = {}
    for i, timeout in ipairs { math.huge, 0.01, math.huge, 0.01, math.huge } do
      start(function() results[i] = channel:send(i, timeout) == true end)
    end
    wire.sleep(0.05)
    assert.same({ [2] = false, [4] = false }, results)
    for _, i in ipairs { 1, 3, 5 } do assert.equal(i, channel:recv(0)) end
    fails("ETIMEDOUT", channel:recv(0))
    wire.sleep(0)
    assert.same({ true, false, true, false, true }, results)
  end)

  support.it("with a timeout of zero or less succeeds where a receiver waits", function()
    local channel = wire.channel()
    local receivers = {}
    for i = 1, 3 do receivers[i] = start(function() return channel:recv() end) end
    assert.is_true(channel:send(1, 0))
    assert.is_true(channel:send(2, -1))
    assert.is_true(channel:send(3, -math.huge))
    fails("ETIMEDOUT", channel:send(4, 0))
    for i, receiver in ipairs(receivers) do assert.same({ true, i }, { receiver:join() }) end
  end)
end)

describe("channel:recv", function()
  support.it("of receivers that wait, serves the first first", function()
    for _, capacity in ipairs(CAPACITIES) do
      local channel, got = wire.channel(capacity), {}
      local receivers = {}
      for i = 1, 5 do
        receivers[i] = start(function() got[i] = channel:recv() end)
      end
      for i = 1, 5 do assert.is_true(channel:send(i, 0)) end
      for _, receiver in ipairs(receivers) do receiver:join() end
      assert.same({ 1, 2, 3, 4, 5 }, got)
    end
  end)

  support.it("lets nobody who comes later take what another was given", function()
    for _, capacity in ipairs(CAPACITIES) do
      local channel = wire.channel(capacity)
      local first = start(function() return channel:recv() end)
      assert.is_true(channel:send("for the first", 0))
      fails("ETIMEDOUT", channel:recv(0))
      assert.same({ true, "for the first" }, { first:join() })
    end
  end)

  it_anywhere("returns ETIMEDOUT when its time is over", function()
    local channel = wire.channel()
    local began = wire.now()
    assert.equal("channel recv: timed out", (fails("ETIMEDOUT", channel:recv(0.03))))
    assert.is_true(wire.now() - began >= 0.03)
    fails("ETIMEDOUT", channel:recv(0))
    fails("ETIMEDOUT", channel:recv(-1))
    fails("ETIMEDOUT", channel:recv(-math.huge))
  end)

  support.it("that timed out is not given a value later", function()
    local channel = wire.channel()
    local early = wire.spawn(function() return channel:recv(0.01) end)
    local late = start(function() return channel:recv() end)
    assert.equal("ETIMEDOUT", select(4, early:join()))
    assert.is_true(channel:send("late", 0))
    assert.same({ true, "late" }, { late:join() })
  end)

  support.it("with a timeout of zero takes all that waits to be sent, without waiting", function()
    for _, capacity in ipairs { 0, 1, 3 } do
      local channel = wire.channel(capacity)
      local senders = {}
      for i = 1, 6 do senders[i] = start(function() return channel:send(i) end) end
      local finished
      wire.spawn(function() finished = true end)
      for i = 1, 6 do assert.equal(i, channel:recv(0)) end
      fails("ETIMEDOUT", channel:recv(0))
      assert.is_nil(finished)
      for _, sender in ipairs(senders) do assert.same({ true, true }, { sender:join() }) end
    end
  end)

  support.it("with math.huge waits as long as it takes", function()
    local channel = wire.channel()
    local receiver = start(function() return channel:recv(math.huge) end)
    assert.is_true(channel:send(1, math.huge))
    assert.same({ true, 1 }, { receiver:join() })
  end)
end)

describe("a producer and a consumer", function()
  for _, capacity in ipairs(CAPACITIES) do
    it_anywhere("keep the order of 1000 values, capacity " .. capacity, function()
      local channel = wire.channel(capacity)
      wire.spawn(function()
        for i = 1, 1000 do assert(channel:send(i)) end
        channel:close()
      end)
      assert.same(numbers(1000), collect(channel))
    end)

    it_anywhere("the other way round, capacity " .. capacity, function()
      local channel, list = wire.channel(capacity)
      local consumer = wire.spawn(function() list = collect(channel) end)
      for i = 1, 1000 do assert(channel:send(i)) end
      channel:close()
      consumer:join()
      assert.same(numbers(1000), list)
    end)

    support.it("in irregular steps keep the order, capacity " .. capacity, function()
      local channel = wire.channel(capacity)
      wire.spawn(function()
        for i = 1, 500 do
          assert(channel:send(i))
          if i * 7 % 11 < 3 then wire.sleep(0) end
        end
        channel:close()
      end)
      local list = {}
      for value in channel:values() do
        list[value] = value
        assert.equal(value, #list)
        if value * 5 % 13 < 4 then wire.sleep(0) end
      end
      assert.equal(500, #list)
    end)

    support.it("several of each hand every value over once, capacity " .. capacity, function()
      local channel, seen, producers, consumers = wire.channel(capacity), {}, {}, {}
      for p = 0, 4 do
        producers[p + 1] = wire.spawn(function()
          for i = 1, 100 do channel:send(p * 100 + i) end
        end)
      end
      for c = 1, 3 do
        consumers[c] = wire.spawn(function()
          for value in channel:values() do
            seen[value] = (seen[value] or 0) + 1
            if value % c == 0 then wire.sleep(0) end
          end
        end)
      end
      for _, producer in ipairs(producers) do producer:join() end
      channel:close()
      for _, consumer in ipairs(consumers) do consumer:join() end
      assert.equal(500, #seen)
      for i = 1, 500 do assert.equal(1, seen[i]) end
    end)
  end

  support.it("play ping-pong over two channels", function()
    local ping, pong = wire.channel(), wire.channel()
    wire.spawn(function()
      for n in ping:values() do pong:send(n + 1) end
      pong:close()
    end)
    local n = 0
    while n < 1000 do
      ping:send(n)
      n = pong:recv()
    end
    ping:close()
    fails("ECLOSED", pong:recv())
    assert.equal(1000, n)
  end)

  support.it("that never wait let others run, and keep the order meanwhile", function()
    local channel, turns, over = wire.channel(math.huge), 0, false
    local ticker = wire.spawn(function()
      while not over do
        turns = turns + 1
        wire.sleep(0)
      end
    end)
    local producer = wire.spawn(function()
      for i = 1, 5000 do channel:send(i) end
    end)
    for i = 1, 5000 do assert.equal(i, channel:recv()) end
    producer:join()
    over = true
    ticker:join()
    assert.is_true(turns >= 15)
  end)

  support.it("cost no memory for each value", function()
    for _, capacity in ipairs { 0, 1, 7, math.huge } do
      local channel = wire.channel(capacity)
      local consumer = wire.spawn(function() for _ in channel:values() do end end)
      local function produce(n)
        for i = 1, n do channel:send(i) end
        wire.sleep(0)
      end
      produce(600)
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      produce(600)
      local growth = collectgarbage "count" - before
      collectgarbage "restart"
      assert.is_true(growth < 1, growth .. " KB")
      channel:close()
      consumer:join()
    end
  end)

  support.it("may be a thousand tasks that wait, served in their order", function()
    local channel, order = wire.channel(), {}
    local receivers = {}
    for i = 1, 1000 do
      receivers[i] = wire.spawn(function() order[channel:recv()] = i end)
    end
    wire.sleep(0)
    for i = 1, 1000 do assert.is_true(channel:send(i, 0)) end
    for _, receiver in ipairs(receivers) do receiver:join() end
    assert.same(numbers(1000), order)
    for i = 1, 1000 do wire.spawn(channel.send, channel, i) end
    wire.sleep(0)
    for i = 1, 1000 do assert.equal(i, channel:recv(0)) end
    wire.sleep(0)
  end)
end)

describe("channel:values", function()
  support.it("ends at the close, when what was buffered has been taken", function()
    local channel = wire.channel(3)
    for i = 1, 3 do channel:send(i) end
    channel:close()
    assert.same({ 1, 2, 3 }, collect(channel))
    assert.same({}, collect(channel))
  end)

  support.it("ends while it waits", function()
    local channel = wire.channel()
    local task = start(collect, channel)
    channel:send "one"
    channel:close()
    assert.same({ true, { "one" } }, { task:join() })
  end)

  support.it("delivers false like any other value", function()
    local channel = wire.channel(2)
    channel:send(false)
    channel:send(false)
    channel:close()
    assert.same({ false, false }, collect(channel))
  end)

  support.it("can be left and gone on with", function()
    local channel = wire.channel(3)
    for i = 1, 3 do channel:send(i) end
    for value in channel:values() do
      if value == 2 then break end
    end
    assert.equal(3, channel:recv(0))
  end)
end)
