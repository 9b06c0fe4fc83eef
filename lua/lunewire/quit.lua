-- What the first SIGINT or SIGTERM does while wire.run runs: every server ends gracefully, then the
-- tasks that are left are cancelled, then wire.run returns.
-- What this is not: who notices the signal, and what a second one does (csrc/lua/lsignal.c).
local core = require "lunewire.core"
local udp = require "lunewire.udp"

local PATIENCE <const> = 1 -- seconds for cancelled tasks to clean up
local LOOK <const> = 0.01

-- The exit follows when all has ended, and its on_exit must begin before the tasks left over are
-- cancelled. A handler that called shutdown itself may go on, though, and so may one whose
-- connection was reset.
local function shut_down(server)
  local all = server:shutdown()
  core.spawn(server.run, server):join(all and PATIENCE or LOOK)
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
