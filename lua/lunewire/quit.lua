-- What the first SIGINT or SIGTERM does while wire.run runs: every server ends gracefully, then the
-- tasks that are left are cancelled, then wire.run returns.
-- What this is not: who notices the signal, and what a second one does (csrc/lua/lsignal.c).
local core = require "lunewire.core"
local udp = require "lunewire.udp"

local PATIENCE <const> = 1 -- seconds for cancelled tasks to clean up
local LOOK <const> = 0.01

-- All ended by themselves: its exit follows, and on_exit begins before run returns; unless the one
-- handler left called shutdown, too, and goes on.
local function shut_down(server)
  if server:shutdown() then core.spawn(server.run, server):join(PATIENCE) end
end

local function shut_down_servers()
  local tasks = udp.drain_all()
  for _, server in ipairs(core.servers()) do
    tasks[#tasks + 1] = core.spawn(shut_down, server)
  end
  for _, task in ipairs(tasks) do task:join() end
end

local function cancel_tasks()
  local limit = core.now() + PATIENCE
  for _, task in ipairs(core.tasks()) do task:cancel() end
  while #core.tasks() > 0 and core.now() < limit do core.sleep(LOOK) end
end

return function()
  shut_down_servers()
  core.sleep(0) -- who waited for a server goes first
  cancel_tasks()
  core.stop()
end
