-- What many timers and many tasks cost that only wait:
--
--   scale.lua [quick]
--
-- Prints, a line of key=value for each:
--   name=timers_idle   CPU of a loop that sleeps for seconds=, with count= timers and with none
--   name=timers_echo   CPU of one echoed package, with count= timers and with none
--   name=channels      CPU of one message passed to a waiting task, of count= and of few
-- cpu is the median with many, base_cpu that with none or few, both in µs and measured in turn.
-- What this is not: a test of speed against others; each figure is compared with its own base.
local wire = require "lunewire"

local quick = arg[1] == "quick"
local ROUNDS <const> = quick and 1 or 5
local TIMERS <const>, FAR <const> = 100000, 3600 -- seconds until the first could be due
local IDLE_SECONDS <const> = quick and 0.3 or 3
local ECHOES <const> = quick and 1000 or 10000
local MANY_TASKS <const>, FEW_TASKS <const> = 10000, 64
local MESSAGES <const> = quick and 20000 or 200000

-- µs of CPU that this process used for a call.
local function cpu_of(fn, ...)
  local start = os.clock()
  fn(...)
  return (os.clock() - start) * 1e6
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local function report(name, count, many, base)
  local cpu, base_cpu = median(many), median(base)
  print(("name=%s count=%d cpu=%.3f base_cpu=%.3f"):format(name, count, cpu, base_cpu))
end

-- ---- timers ------------------------------------------------------------------------------

local function nothing() end

-- Due in no order, as timers of real connections are.
local function arm()
  local timers = {}
  for i = 1, TIMERS do timers[i] = wire.after(FAR + i * 7919 % TIMERS / 100, nothing) end
  return timers
end

local function disarm(timers)
  for _, timer in ipairs(timers) do timer:cancel() end
end

-- What fn says without and with the timers, a list of each.
local function compare_timers(rounds, fn)
  local many, base = {}, {}
  for i = 1, rounds do
    collectgarbage()
    base[i] = fn()
    local timers = arm()
    collectgarbage()
    many[i] = fn()
    disarm(timers)
  end
  return many, base
end

local function idle() return cpu_of(wire.sleep, IDLE_SECONDS) end

local function serve_echo()
  return assert(wire.serve("127.0.0.1:0", function(conn)
    for p in conn:pkgs() do conn:send_pkg(p) end
  end))
end

local function echo(conn)
  for _ = 1, ECHOES do assert(conn:send_recv_pkg "hello" == "hello") end
end

local function measure_timers()
  report("timers_idle seconds=" .. IDLE_SECONDS, TIMERS, compare_timers(1, idle))
  local server = serve_echo()
  local conn <close> = assert(wire.connect(server:addr()))
  report("timers_echo", TIMERS, compare_timers(ROUNDS, function()
    return cpu_of(echo, conn) / ECHOES
  end))
  server:close()
end

-- ---- tasks that wait on channels ----------------------------------------------------------

-- So many tasks, each waiting on a channel of its own; received.count is what all have got.
local function start_tasks(count, received)
  local channels, tasks = {}, {}
  for i = 1, count do
    local channel = wire.channel()
    channels[i] = channel
    tasks[i] = wire.spawn(function()
      for _ in channel:values() do received.count = received.count + 1 end
    end)
  end
  wire.sleep(0) -- all of them wait now
  return channels, tasks
end

local function stop_tasks(channels, tasks)
  for _, channel in ipairs(channels) do channel:close() end
  for _, task in ipairs(tasks) do assert(task:join()) end
end

local function pass(channels)
  for i = 1, MESSAGES do channels[i % #channels + 1]:send(i) end
end

local function measure_tasks(count)
  local received = { count = 0 }
  local channels, tasks = start_tasks(count, received)
  collectgarbage()
  local cpu = cpu_of(pass, channels) / MESSAGES
  stop_tasks(channels, tasks)
  assert(received.count == MESSAGES, "a message was lost")
  return cpu
end

local function measure_channels()
  local many, base = {}, {}
  for i = 1, ROUNDS do
    base[i] = measure_tasks(FEW_TASKS)
    many[i] = measure_tasks(MANY_TASKS)
  end
  report("channels", MANY_TASKS, many, base)
end

wire.run(function()
  measure_timers()
  measure_channels()
end)
