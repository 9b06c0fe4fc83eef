-- Operations of the fuzz target `api` on tasks and what they share: spawn, cancel, join, sleep,
-- coroutines, channels, semaphores, timers, the collector, the loop.
-- What this is not: connections (api_ops_conn.lua), servers (api_ops_serve.lua).
local host = host -- luacheck: ignore
local wire = require "lunewire"
local model = require "spec.fuzz.api_model"

local call, fail = model.call, model.fail
local ops = {}

local function op(name, fn)
  model.name_op(name)
  ops[#ops + 1] = { name = name, run = fn }
end

local TASKS_MOST <const> = 24

-- ---- tasks --------------------------------------------------------------------------------

-- What a task does; run is of api.lua.
function model.task_body(T, ctx, ...)
  model.in_call = false
  T.started = true
  local A = model.actor(T.prog, ctx or "task", T, T.depth)
  A.args = { ... }
  local ok, err = pcall(A.run, A)
  if ok then
    T.outcome = "done"
  else
    T.outcome = err == wire.CANCELED and T.canceled and "canceled" or "failed"
  end
  if not ok then error(err, 0) end
  return T.id
end

function model.new_task(A, prog)
  local tasks = model.tasks
  local T = { id = #tasks + 1, prog = prog, depth = A.depth + 1, stubborn = #prog % 2 == 1 }
  tasks[T.id] = T
  return T
end

local function pick_task(A)
  if #model.tasks > 0 then return model.tasks[A:below(#model.tasks) + 1] end
end

op("spawn", function(A)
  local prog = A:sub(48)
  if #model.tasks >= TASKS_MOST or A.depth > 4 then return end
  local T = model.new_task(A, prog)
  local ok, handle = call(A, { what = "spawn" }, wire.spawn, model.task_body, T)
  if ok then T.handle = handle end
end)

op("cancel", function(A)
  local T = pick_task(A)
  if not (T and T.handle) then return end
  if not T.outcome then T.canceled = true end
  local ok, alive = call(A, { what = "cancel" }, T.handle.cancel, T.handle)
  if ok and alive and T.over then fail "cancel() of a task that was joined said it lives" end
end)

op("join", function(A)
  local T, t = pick_task(A), A:time()
  if not (T and T.handle) then return end
  local own = T == A.T and "wait for itself" or nil
  local r = { what = "join", timeout = t, joins = T, raises = own }
  local ok, a, b, err = call(A, r, T.handle.join, T.handle, t)
  if ok then
    if T.outcome ~= "done" or b ~= T.id then
      fail("join: true, but the task " .. tostring(T.outcome))
    end
  elseif a == "EERROR" then
    if T.outcome ~= "failed" then
      fail("join: EERROR, but the task " .. tostring(T.outcome))
    end
    if err == nil and not T.error_nil then fail "join: EERROR without the error" end
  elseif a == "ECANCELED" then
    if not (T.canceled or model.signaled) then fail "join: ECANCELED, but nobody cancelled" end
  end
  if ok or a == "EERROR" or a == "ECANCELED" then T.over = true end
end)

op("status", function(A)
  local T = pick_task(A)
  if not (T and T.handle) then return end
  local s = T.handle:status()
  if T.over and s ~= "done" and s ~= "failed" and s ~= "canceled" then fail("status " .. s) end
  if T == A.T and s ~= "running" then fail("its own status is " .. s) end
  if type(tostring(T.handle)) ~= "string" then fail "no text" end
end)

local ERRORS <const> = {
  function() return "a string error" end,
  function() return { "a table" } end,
  function() return setmetatable({}, { __tostring = function() error "tostring fails" end }) end,
  function() return 42 end,
  function() return wire.CANCELED end,
  function() return nil end,
}

op("error", function(A)
  local n = A:below(#ERRORS) + 1
  if A.T then A.T.error_nil = n == 6 end
  if A.ctx ~= "main" and A.ctx ~= "gc" then error(ERRORS[n](), 0) end
end)

op("sleep", function(A)
  local t = A:time() or 0.125
  if t == math.huge then t = 64 end
  local start, busy = wire.now(), model.busy
  if not call(A, { what = "sleep" }, wire.sleep, t) then return end
  local slept = wire.now() - start
  if slept < t - 1e-9 or slept > math.max(t, 0) + model.busy - busy + 1e-9 then
    fail(("sleep(%g) took %g"):format(t, slept))
  end
end)

op("busy", function(A)
  local dt = A:below(16) / 8
  model.busy = model.busy + dt
  host.advance(dt)
end)

op("stop", function(A)
  model.stops = model.stops + 1
  call(A, { what = "stop" }, wire.stop)
end)

op("run", function(A)
  if A.ctx ~= "main" then
    return call(A, { what = "run", misuse = true }, wire.run)
  end
  local prog = A:byte() & 1 > 0 and A:sub(48) or nil
  if not prog then return call(A, { what = "run" }, wire.run) end
  local T = model.new_task(A, prog)
  call(A, { what = "run", any_error = true }, wire.run, model.task_body, T)
  T.run = true -- a deadlock or an error of its own may have ended it
end)

op("signal", function(A)
  local n = A:below(3)
  if n == 2 then
    if model.handle then return end
    local ok, handle = call(A, { what = "on_signal" }, wire.on_signal, "TERM", function()
      model.in_call = false
    end)
    if ok then model.handle = handle end
    return
  elseif model.handle then
    model.handle:cancel()
    model.handle = nil
  end
  model.signaled = true
  for _, e in ipairs(model.ends) do e.may_close = true end
  host.signal(n == 1 and 2 or 15)
end)
model.name_op "on_signal"

-- ---- coroutines ---------------------------------------------------------------------------

local function runner(A, prog, ctx)
  local inner = model.actor(prog, ctx, A.T, A.depth + 1)
  inner.outer = A
  return inner, function()
    model.in_call = false
    inner:run()
    return "over"
  end
end

-- A coroutine of wire.co, until it is over: who else may resume or close it is "meddle".
op("co", function(A)
  local prog, n = A:sub(32), A:below(4)
  if A.depth > 4 then return end
  local inner, body = runner(A, prog, "co")
  local co = wire.co.create(body)
  model.coroutines = model.coroutines or {}
  table.insert(model.coroutines, { co = co, inner = inner })
  for _ = 0, n do
    local outer = A.meddled
    local ok, good, value = pcall(wire.co.resume, co)
    model.in_call = false
    if not ok then
      if inner.meddled or A.meddled or outer then return end
      if good == wire.CANCELED or type(good) == "string" then return end
      fail("wire.co.resume raised " .. tostring(good))
    end
    if not good or value == "over" then return end
  end
end)

op("yield", function(A)
  if (A.ctx == "co" or A.ctx == "plain") and coroutine.isyieldable() then
    local now = coroutine.yield "more"
    model.in_call = false
    if now ~= nil then fail "a yield was resumed with something" end
  end
end)

op("meddle", function(A)
  local list = model.coroutines
  if not list then return end
  local c, how = list[A:below(#list) + 1], A:byte() & 3
  if c.co == coroutine.running() then return end
  c.inner.meddled = true
  if c.inner.outer then c.inner.outer.meddled = true end
  if how == 0 then
    pcall(coroutine.close, c.co)
  elseif how == 1 then
    pcall(coroutine.resume, c.co)
  else
    pcall(wire.co.resume, c.co)
  end
  model.in_call = false
end)

op("plain", function(A)
  local prog = A:sub(24)
  if A.depth > 4 then return end
  local _, body = runner(A, prog, "plain")
  local co = coroutine.create(body)
  for _ = 1, 3 do
    coroutine.resume(co)
    model.in_call = false
    if coroutine.status(co) == "dead" then return end
  end
end)

op("sort", function(A)
  local prog = A:sub(16)
  if A.depth > 4 then return end
  local inner = model.actor(prog, "sort", A.T, A.depth + 1)
  inner.outer = A
  pcall(table.sort, { 1, 2 }, function(a, b)
    model.in_call = false
    inner:run()
    return a < b
  end)
  model.in_call = false
end)

-- ---- channels -----------------------------------------------------------------------------

local channels = {}
model.channels = channels

op("channel", function(A)
  if #channels >= 6 then return end
  local ok, ch = call(A, { what = "channel" }, wire.channel, A:below(4))
  if ok then channels[#channels + 1] = { ch = ch, next = 1, state = {} } end
end)

local function pick_channel(A)
  if #channels > 0 then return channels[A:below(#channels) + 1] end
end

-- A value is "sending", then "sent" or "failed"; and "received" once.
op("channel send", function(A)
  local c, t = pick_channel(A), A:time()
  if not c then return end
  local v = c.next
  c.next = v + 1
  c.state[v] = "sending"
  local r = { what = "channel send", timeout = t, channel = c }
  local ok, code, _, _, err = call(A, r, c.ch.send, c.ch, v, t)
  local state = c.state[v]
  if ok then
    if state == "sending" then c.state[v] = "sent" end
  else
    if state == "received" and not model.was_meddled(A) then
      fail(("a value was received whose send gave %s"):format(code or err))
    end
    if code == "ECLOSED" and not c.closed then fail "channel send: ECLOSED, but it is open" end
    c.state[v] = "failed"
  end
end)

op("channel recv", function(A)
  local c, t = pick_channel(A), A:time()
  if not c then return end
  local r = { what = "channel recv", timeout = t, channel = c, receives = c }
  local ok, v = call(A, r, c.ch.recv, c.ch, t)
  if not ok then
    if v == "ECLOSED" and not c.closed then fail "channel recv: ECLOSED, but it is open" end
    return
  end
  local state = c.state[v]
  if state ~= "sending" and state ~= "sent" then
    fail(("channel recv: %s, which is %s"):format(v, state))
  end
  c.state[v] = "received"
end)

-- Nothing can happen any more: does somebody wait for a value that was sent?
function model.check_channels()
  for r in pairs(model.pending) do
    for v, state in pairs(r.receives and not model.was_meddled(r.A) and r.receives.state or {}) do
      if state == "sent" then fail(("channel recv waits, and %d was sent"):format(v)) end
    end
  end
end

op("channel close", function(A)
  local c = pick_channel(A)
  if not c then return end
  c.closed = true
  call(A, { what = "channel close" }, c.ch.close, c.ch)
end)

-- ---- semaphores ---------------------------------------------------------------------------

local semaphores = {}
model.semaphores = semaphores

op("semaphore", function(A)
  if #semaphores >= 4 then return end
  local n = A:below(3) + 1
  local ok, s = call(A, { what = "semaphore" }, wire.semaphore, n)
  if ok then semaphores[#semaphores + 1] = { s = s, n = n, held = 0 } end
end)

local function took(s)
  s.held = s.held + 1
  if s.held > s.n then fail "more permits are out than there are" end
end

local function give(A, s)
  s.held = s.held - 1
  call(A, { what = "release" }, s.s.release, s.s)
end

op("acquire", function(A)
  if #semaphores == 0 then return end
  local s, t = semaphores[A:below(#semaphores) + 1], A:time()
  if call(A, { what = "acquire", timeout = t, semaphore = s }, s.s.acquire, s.s, t) then took(s) end
end)

op("release", function(A)
  if #semaphores == 0 then return end
  local s = semaphores[A:below(#semaphores) + 1]
  if s.held > 0 then return give(A, s) end
  call(A, { what = "release", misuse = true }, s.s.release, s.s)
end)
model.give = give

-- ---- timers -------------------------------------------------------------------------------

local timers = {}
model.timers = timers

local function timer_body(T, due, every)
  model.in_call = false
  if T.timer_over then fail "a timer ran that was over" end
  local late = wire.now() - due - (model.busy - T.busy)
  if wire.now() < due - 1e-9 then fail "a timer was early" end
  if not every then
    T.timer_over = true
    if late > 1e-9 then fail(("a timer was %g s late"):format(late)) end
  end
  T.outcome, T.canceled = nil, T.canceled
  return model.task_body(T)
end

op("timer", function(A)
  local prog, t, every = A:sub(24), A:time() or 0.25, A:byte() & 3 == 0
  if #timers >= 6 or #model.tasks >= TASKS_MOST or A.depth > 4 then return end
  if t == math.huge then t = 4 end
  t = math.max(t, every and 0.125 or 0)
  local T = model.new_task(A, prog)
  T.busy = model.busy
  local e = A:byte() & 1 > 0 and model.ends[1] or nil
  local name = every and "every" or "after"
  local f, first = wire[name], t
  if e then f, first = e.conn[name], e.conn end
  local due = wire.now() + t
  local ok, timer
  if e then
    ok, timer = call(A, { what = "timer" }, f, first, t, timer_body, T, due, every)
  else
    ok, timer = call(A, { what = "timer" }, f, t, timer_body, T, due, every)
  end
  T.timer = timer
  if ok then timers[#timers + 1] = T end
  if ok and every then -- it would keep the loop going for ever
    local ender
    ender = wire.every(6 * t, function() -- again, if a signal cancelled it
      model.in_call = false
      timer:cancel()
      ender:cancel()
    end)
  end
end)

op("timer cancel", function(A)
  if #timers == 0 then return end
  local t = timers[A:below(#timers) + 1]
  call(A, { what = "timer cancel" }, t.timer.cancel, t.timer)
end)

-- ---- the collector ------------------------------------------------------------------------

op("collect", function(A)
  local how = A:below(5)
  if how == 0 then
    call(A, { what = "collect" }, collectgarbage, "step", A:byte())
  elseif how == 1 then
    call(A, { what = "collect" }, collectgarbage, "generational")
  elseif how == 2 then
    call(A, { what = "collect" }, collectgarbage, "incremental")
  elseif how == 3 then
    call(A, { what = "collect" }, collectgarbage, "incremental", 1, 1000)
  else
    call(A, { what = "collect" }, collectgarbage)
  end
end)

-- A finalizer that does something, at any time while the library is at work.
op("finalizer", function(A)
  local prog = A:sub(24)
  if A.depth > 4 then return end
  local depth = A.depth + 1
  setmetatable({}, { __gc = function()
    if not model.in_call or model.in_finalizer then return end
    model.in_call, model.in_finalizer = false, true
    local inner = model.actor(prog, "gc", nil, depth)
    inner:run()
    model.in_call, model.in_finalizer = true, false
  end })
end)

op("on_error", function(A)
  local prog = A:sub(16)
  if A.depth > 4 then return end
  model.error_prog = prog
end)

return ops
