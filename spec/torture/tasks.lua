-- Scenarios of tasks and what they wait for: timers, joins, cancels, errors, channels, semaphores,
-- coroutines, signals.
-- What this is not: about the network; what must hold afterwards (recovery.lua).
local wire = require "lunewire"

local WAIT <const> = 0.2

return {
  { name = "tasks", body = function()
    wire.run(function()
      local one = wire.spawn(function(...) return select("#", ...), ... end, 1, nil, 3)
      local _, n, first = assert(one:join())
      assert(n == 3 and first == 1 and one:status() == "done")
      local two = wire.spawn(function() wire.sleep(0.001) return "two" end)
      assert(same(select(2, assert(two:join())), "two"))
    end)
  end },
  { name = "cancel", body = function()
    wire.run(function()
      local closed
      local task = wire.spawn(function()
        local _ <close> = setmetatable({}, { __close = function() closed = true end })
        wire.sleep(WAIT)
      end)
      local never = wire.spawn(error)
      never:cancel()
      wire.sleep(0)
      task:cancel()
      assert(not task:join())
      assert(closed)
    end)
  end },
  { name = "errors in tasks", body = function()
    wire.run(function()
      local joined = wire.spawn(function() error("joined", 0) end)
      local _, traceback, code, err = joined:join()
      assert(traceback and code == "EERROR" and err == "joined")
      wire.spawn(error, "to standard error")
      local told
      wire.on_error(function(e) told = e end)
      wire.spawn(error, "told")
      wire.spawn(error, {})
      wire.spawn(coroutine.yield)
      wire.sleep(0.001)
      wire.on_error(function() error "in on_error" end)
      wire.spawn(error, "told badly")
      wire.sleep(0.001)
      wire.on_error(nil)
      assert(told)
    end)
  end },
  { name = "timers", body = function()
    wire.run(function()
      local ran, beats = 0, 0
      wire.after(0.001, function(n) ran = ran + n end, 1)
      local every <close> = setmetatable({ timer = wire.every(0.001, function()
        beats = beats + 1
        if beats == 2 then error "an error does not end it" end
      end) }, { __close = function(t) t.timer:cancel() end })
      local cancelled = wire.after(0.001, error)
      assert(cancelled:cancel() and every)
      local due = wire.now() + WAIT
      while beats < 3 and wire.now() < due do wire.sleep(0.001) end
      assert(ran == 1)
    end)
  end },
  { name = "timers of a connection", body = function()
    wire.run(function()
      local a <close>, b = assert(wire.pipe())
      local ran
      a:after(0, function() ran = true end)
      a:every(10, error)
      b:set_deadline(wire.now() + 0.002)
      assert(not b:recv())
      assert(ran and b:close() and a:recv() == nil)
    end)
  end },
  { name = "many timers", body = function()
    wire.run(function()
      local tasks = {}
      for i = 1, 40 do tasks[i] = wire.spawn(wire.sleep, 0.001 * (i % 3)) end
      for _, task in ipairs(tasks) do assert(task:join()) end
    end)
  end },
  { name = "channel", body = function()
    wire.run(function()
      local channel = wire.channel(2)
      local task = wire.spawn(function()
        for i = 1, 6 do assert(channel:send({ i }, WAIT)) end
        channel:close()
      end)
      local sum = 0
      for i = 1, 6 do
        sum = sum + assert(channel:recv(WAIT))[1]
        if i == 2 then wire.sleep(0) end
      end
      assert(sum == 21 and task:join() and not channel:recv(WAIT))
    end)
  end },
  { name = "channel without room", body = function()
    wire.run(function()
      local channel = wire.channel()
      local senders = {}
      for i = 1, 3 do senders[i] = wire.spawn(function() assert(channel:send({ i }, WAIT)) end) end
      wire.sleep(0)
      for i = 1, 3 do assert(assert(channel:recv(WAIT))[1] == i) end
      local receiver = wire.spawn(function() return channel:recv(WAIT) end)
      wire.sleep(0)
      assert(channel:send("last", WAIT))
      assert(select(2, assert(receiver:join())) == "last")
      for _, sender in ipairs(senders) do assert(sender:join()) end
    end)
  end },
  { name = "semaphore", body = function()
    wire.run(function()
      local mutex, order = wire.mutex(), {}
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = wire.spawn(mutex.with, mutex, function()
          wire.sleep(0)
          order[#order + 1] = i
        end)
      end
      for _, task in ipairs(tasks) do assert(task:join(WAIT)) end
      assert(#order == 3 and mutex:acquire(0))
      mutex:release()
    end)
  end },
  { name = "coroutines", body = function()
    wire.run(function()
      local words = wire.co.wrap(function(n)
        for i = 1, n do
          wire.sleep(0)
          coroutine.yield(i, "word")
        end
      end)
      local co = wire.co.create(function(...)
        local more = coroutine.yield(...)
        wire.sleep(0)
        error(more, 0)
      end)
      local sum = 0
      for i in words, 3 do sum = sum + i end
      assert(sum == 6 and select("#", wire.co.resume(co, 1, 2)) == 3)
      local ok, err = wire.co.resume(co, "failed")
      assert(not ok and err == "failed")
    end)
  end },
  { name = "signals", body = function()
    wire.run(function()
      local got
      local handle = assert(wire.on_signal("USR1", function() got = true end))
      local _ <close> = setmetatable({}, { __close = function() handle:cancel() end })
      raise "USR1"
      local due = wire.now() + WAIT
      while not got and wire.now() < due do wire.sleep(0.001) end
      assert(got)
    end)
  end },
  { name = "resolve", body = function()
    wire.run(function()
      assert(same(assert(wire.resolve "127.0.0.1")[1], "127.0.0.1"))
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = wire.spawn(function() assert(wire.resolve("localhost", { timeout = 5 })) end)
      end
      for _, task in ipairs(tasks) do assert(task:join()) end
      assert(select(3, wire.resolve("localhost", { timeout = 0 })) == "ETIMEDOUT")
      local server <close> = assert(wire.listen "localhost:0")
      local conn <close> = assert(wire.connect("localhost:" .. server:port()))
      assert(conn:remote_addr())
    end)
  end },
}
