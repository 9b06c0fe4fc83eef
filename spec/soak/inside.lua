-- Work of a soak that needs no network: tasks, timers, messages of channels.
-- What this is not: a test of what they do; but what each of them brings is counted.
local wire = require "lunewire"

local inside = {}

local AT_ONCE <const> = 100
local KINDS <const> = 5

local function expect(got, expected, what)
  if got ~= expected then error(("%s %s, not %s"):format(got, what, expected), 0) end
end

-- Some return, some wait first, some fail, some are cancelled before they begin or while they wait.
local function one_task(i)
  local kind = i % KINDS
  local task = wire.spawn(function()
    if kind > 0 then wire.sleep(0) end
    if kind == 2 then error "planned error" end
    if kind > 2 then wire.sleep(100) end
    return i
  end)
  if kind == 4 then wire.sleep(0) end
  if kind > 2 then task:cancel() end
  return task, kind
end

local EXPECTED <const> = { [0] = "done", "done", "failed", "canceled", "canceled" }

function inside.tasks(n)
  for first = 1, n, AT_ONCE do
    local tasks, kinds = {}, {}
    for i = first, math.min(first + AT_ONCE - 1, n) do
      tasks[#tasks + 1], kinds[#kinds + 1] = one_task(i)
    end
    for i, task in ipairs(tasks) do
      task:join()
      expect(task:status(), EXPECTED[kinds[i]], "is a task's status")
    end
  end
end

-- A third fires, a third is cancelled, a third repeats until it is cancelled.
function inside.timers(n)
  for first = 1, n, AT_ONCE do
    local fired, timers = 0, {}
    local function fire() fired = fired + 1 end
    local last = math.min(first + AT_ONCE - 1, n)
    for i = first, last do
      local make = i % 3 == 0 and wire.every or wire.after
      timers[#timers + 1] = make(i % 3 == 1 and 100 or 0.0001, fire)
    end
    while fired < (last - first) // 3 do wire.sleep(0.0002) end
    for _, timer in ipairs(timers) do timer:cancel() end
  end
end

-- From several senders to several receivers, over channels with and without room.
function inside.messages(n)
  for capacity = 0, 3 do
    local channel, sum, tasks = wire.channel(capacity), 0, {}
    local count = n // 4
    for i = 1, 4 do
      tasks[i] = wire.spawn(function()
        for k = i, count, 4 do assert(channel:send(k)) end
      end)
      tasks[i + 4] = wire.spawn(function()
        for v in channel:values() do sum = sum + v end
      end)
    end
    for i = 1, 4 do assert(tasks[i]:join()) end
    channel:close()
    for i = 5, 8 do assert(tasks[i]:join()) end
    expect(sum, count * (count + 1) // 2, "is the sum of what came")
  end
end

return inside
