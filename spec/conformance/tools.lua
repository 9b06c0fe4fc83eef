-- What the specs of connections share: ways to bring a connection into a state
-- that a test begins with, and to run tasks beside it.
-- What this is not: a test, or anything of use without a connection (support.lua).
local assert = require "luassert"
local support = require "spec.support"
local wire = require "lunewire"

local tools = {}

-- Calls fn -> the seconds it took, its results.
function tools.timed(fn, ...)
  local start = wire.now()
  local results = table.pack(fn(...))
  return wire.now() - start, table.unpack(results, 1, results.n)
end

-- Not before its time, and not out of all proportion later.
function tools.took(seconds, elapsed)
  assert.is_true(elapsed >= seconds * 0.8, "too early: " .. elapsed)
  assert.is_true(elapsed < seconds + 5 * support.slowness, "too late: " .. elapsed)
end

-- fn(...) times out, after so many seconds.
function tools.timed_out(seconds, fn, ...)
  local elapsed, result, message, code = tools.timed(fn, ...)
  support.fails("ETIMEDOUT", result, message, code)
  tools.took(seconds, elapsed)
end

-- Sends and has it handed over.
function tools.put(conn, ...)
  assert(conn:send(...))
  assert(conn:flush(5 * support.slowness))
end

-- Puts this into the other end's buffer, with nobody reading there.
function tools.deliver(from, to, ...)
  local there = to:buffered()
  local n = assert(from:send(...))
  assert(to:peek(there + n, 5 * support.slowness))
end

local TURNS <const> = 10 -- of the loop; time alone says little while the machine stands still

-- Sends until nothing more is accepted nor leaves, as the peer does not read; it may read ahead
-- yet, and that takes a while -> bytes accepted.
-- piece, quiet: what is sent each time, and for how long nothing is to happen.
function tools.fill(conn, piece, quiet)
  piece, quiet = piece or ("x"):rep(64 * 1024), (quiet or 0.05) * support.slowness
  local total, unsent, since, turns = 0, nil, nil, 0
  repeat
    local n = conn:try_send(piece)
    local left = conn:stats().unsent
    if n or left ~= unsent then unsent, since, turns = left, wire.now(), 0 end
    total, turns = total + (n or 0), turns + 1
    wire.sleep(0.001)
  until turns > TURNS and wire.now() - since >= quiet
  return total
end

tools.await = support.eventually

-- Spawns fn(...) and lets it run until it waits -> Task.
function tools.start(fn, ...)
  local task = wire.spawn(fn, ...)
  tools.await(function()
    return task:status() ~= "ready"
  end)
  return task
end

-- The results of a task that must end well.
function tools.result(task)
  local results = table.pack(task:join(8 * support.slowness))
  assert(results[1], results[2])
  return table.unpack(results, 2, results.n)
end

-- Spawns fn(i) for i = 1..n, in this order -> list of tasks.
function tools.spawn_all(n, fn)
  local tasks = {}
  for i = 1, n do
    tasks[i] = wire.spawn(fn, i)
  end
  return tasks
end

-- The first results of all these tasks.
function tools.results(tasks)
  local list = {}
  for i, task in ipairs(tasks) do
    list[i] = tools.result(task)
  end
  return list
end

-- What an iterator gives, as a list.
function tools.gather(...)
  local list = {}
  for value in ... do
    list[#list + 1] = value
  end
  return list
end

return tools
