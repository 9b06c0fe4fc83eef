-- The fuzz target `api`: an input is a program of calls, and this makes them.
--
-- A byte is an operation, those behind it say with what; past the end every byte is 0. The main
-- chunk goes through the input; a task, a coroutine, a handler, a finalizer has a piece of it as
-- its program. In the end everything is closed, and nothing may be left; or the state is closed as
-- it is.
-- What this is not: the operations (api_ops_*.lua), what they may return (api_model.lua).
local host = host -- luacheck: ignore
local wire = require "lunewire"
local core = require "lunewire.core"
local model = require "spec.fuzz.api_model"

local fail = model.fail
local BUDGET <const> = 300 -- operations of one input, all actors together
local left = BUDGET

-- ---- actors -------------------------------------------------------------------------------

local Actor = {}
Actor.__index = Actor

-- T: the task it runs in, or nil.
function model.actor(prog, ctx, T, depth)
  return setmetatable({ prog = prog, pos = 1, ctx = ctx, T = T, depth = depth }, Actor)
end

function Actor:byte()
  local b = self.prog:byte(self.pos)
  self.pos = self.pos + 1
  return b or 0
end

function Actor:below(n) return self:byte() % n end

-- The next bytes, as many as the next one says.
function Actor:sub(most)
  local n = self:byte() % (most + 1)
  local s = self.prog:sub(self.pos, self.pos + n - 1)
  self.pos = self.pos + n
  return s
end

local TIMES <const> = { 0, 0.125, 0.25, 0.5, 1, 3, 8, -1 }

-- Seconds, or nil for none given; all of them are whole in binary.
function Actor:time()
  local n = self:byte() % 12
  if n == 8 then return math.huge end
  return TIMES[n + 1]
end

local all = {}
for _, room in ipairs { "conn", "recv", "task", "serve" } do
  for _, op in ipairs(require("spec.fuzz.api_ops_" .. room)) do
    all[#all + 1] = op
    op.takes_end = debug.getinfo(op.run, "u").nparams == 2
  end
end

function Actor:step()
  local op, e = all[self:below(#all) + 1], nil
  if op.takes_end then
    if #model.ends == 0 then return end
    e = model.ends[self:below(#model.ends) + 1]
  end
  model.trace(self, op.name, e)
  op.run(self, e)
end

function Actor:run()
  while self.pos <= #self.prog and left > 0 and not model.abandoned do
    left = left - 1
    self:step()
    local T = self.T
    if T and T.canceled and self.saw_cancel and not T.stubborn then error(wire.CANCELED, 0) end
  end
end

-- ---- errors of tasks ----------------------------------------------------------------------

local function on_error(err, traceback, subject)
  model.in_call = false
  if type(traceback) ~= "string" then fail "on_error without a traceback" end
  local ours = type(err) ~= "string" or err:find "^a string error" or err:find "^coroutine.yield"
  if not ours then
    fail("an error in a task: " .. traceback)
  end
  if subject == nil then fail "on_error without the task" end
  local prog = model.error_prog
  model.error_prog = nil
  if not prog then return end
  -- It runs in the task that failed, and if that was cancelled so is this.
  local A = model.actor(prog, "task", nil, 3)
  A.canceled = true
  for _, T in ipairs(model.tasks) do
    if T.handle == subject then A.canceled = T.canceled end
  end
  A:run()
end

-- ---- the end ------------------------------------------------------------------------------

local function run()
  local stops
  repeat -- a signal, or a program that is not over, may have stopped it
    stops = model.stops
    for _ = 1, model.signaled and 3 or 1 do wire.run() end
    model.in_call = false
  until model.stops == stops
end

local function close_all(A)
  for _, V in ipairs(model.servers) do model.close_server(A, V) end
  for _, c in ipairs(model.clients) do c.client:disconnect() end
  for _, p in ipairs(model.pools) do p.pool:close() end
  for _, conn in ipairs(model.kept or {}) do conn:close() end
  for _, t in ipairs(model.timers) do t.timer:cancel() end
  for _, e in ipairs(model.ends) do
    model.closed(e)
    e.conn:close()
    model.in_call = false
  end
  for _, c in ipairs(model.channels) do
    c.closed = true
    c.ch:close()
  end
end

-- What it waits for has happened, and nobody told it.
local function is_forgotten(r)
  return r.e and r.e.closed or r.channel or r.what == "sleep" or r.what == "accept"
    or r.semaphore and r.semaphore.held < r.semaphore.n or r.joins and r.joins.outcome
end

local function check_waiting()
  for r in pairs(model.pending) do
    if not model.was_meddled(r.A) and is_forgotten(r) then fail(r.what .. " never returned") end
  end
end

local function cancel_all()
  for _, task in ipairs(core.tasks()) do task:cancel() end
  for _, T in ipairs(model.tasks) do T.canceled = true end
end

local function check_nothing_left()
  for name, n in pairs(core.census()) do
    if n ~= 0 then fail(("left at the end: %d %s"):format(n, name)) end
  end
end

local function forget_all()
  for _, name in ipairs { "pending", "ends", "tasks", "channels", "semaphores", "timers", "servers",
    "coroutines", "clients", "pools", "kept", "links" } do
    for i in pairs(model[name] or {}) do model[name][i] = nil end
  end
  model.handle = nil
end

local function finish(A)
  left = 0
  run()
  model.check_stuck()
  model.check_channels()
  close_all(A)
  run()
  check_waiting()
  model.signaled = true
  cancel_all()
  run()
  model.check_servers()
  forget_all()
  collectgarbage "incremental"
  collectgarbage()
  collectgarbage()
  run()
  collectgarbage()
  check_nothing_left()
end

return function(bytes)
  wire.on_error(on_error)
  local A = model.actor(bytes, "main", nil, 0)
  model.with_tls = A:byte() == 255 -- it takes twenty times as long
  A:run()
  if not model.abandoned then finish(A) end
  model.closing, model.in_call = true, model.abandoned
  host.mark(0)
end
