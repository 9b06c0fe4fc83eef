-- A row of the soak: so many of one thing, by processes of their own, and what is left in each.
-- What this is not: the things; each row names a module that does them.
--
-- row: {name=, unit= (one of what is counted), step= {module, function, argument...},
--       server= {module, argument...} or nil, check= or nil}
--
-- The step is called in the client's process with a number, how many, then the address that the
-- server's `open` returned, if there is a server, then its arguments; what it returns, counts by
-- name, is added up, and check(sums, count) says what is wrong with the sums, or nothing.
local process = require "spec.soak.process"
local report = require "spec.soak.report"
local slope = require "spec.soak.slope"
local verdict = require "spec.soak.verdict"
local wire = require "lunewire"

local counted = {}

local SAMPLES <const> = 10
local GAUGE <const> = "spec.soak.gauge"

local function add(sums, more)
  for name, n in pairs(more or {}) do sums[name] = (sums[name] or 0) + n end
end

local function census_of(processes)
  local list = {}
  for i, p in ipairs(processes) do list[i] = p:call(GAUGE, "census") end
  return list
end

-- Does the work of a row -> the processes' results of slope.measure, sums, seconds
function counted.measure(row, count, samples, processes, address)
  local client, idle = processes[1], census_of(processes)
  local sums, start = {}, wire.now()
  local arguments, done = { table.unpack(row.step, 3) }, 0
  if address then table.insert(arguments, 1, address) end
  local function work(n)
    add(sums, client:call(row.step[1], row.step[2], n, table.unpack(arguments)))
    done = done + n
    report.progress("%s: %d of %d %ss", row.name, done, count, row.unit)
  end
  local function read()
    local list = {}
    for i, p in ipairs(processes) do list[i] = p:call(GAUGE, "read", idle[i]) end
    return list
  end
  local result = slope.measure(count, samples, work, read)
  return result, sums, wire.now() - start
end

-- ---- judging it ----------------------------------------------------------------------------

-- What each process has beyond its start when its server is closed.
local function close(row, processes, start)
  if processes[2] then processes[2]:call(row.server[1], "close") end
  local rest = {}
  for i, p in ipairs(processes) do rest[i] = p:call(GAUGE, "settle", start[i]) or false end
  return rest
end

local NAMES <const> = { "client", "server" }

local function judge(row, count, results, sums, rest)
  for i, result in ipairs(results) do
    local name = #results == 1 and row.name or row.name .. "." .. NAMES[i]
    report.figure(name .. ".bytes_in_use", math.floor(result.last.heap), "bytes")
    verdict.growth(name, row.unit, result)
    verdict.rest(name, result.first, result.last, result.last.rest or rest[i])
  end
  for name, n in pairs(sums) do report.figure(row.name .. "." .. name, n, row.unit .. "s") end
  if row.check then
    local wrong = row.check(sums, count)
    report.bound(row.name .. ".sums", not wrong, "%s", wrong)
  end
end

local function run(row, count, samples)
  local client <close> = process.start "client"
  local server <close> = row.server and process.start "server" or nil
  local processes = { client, server }
  local start, address = census_of(processes), nil
  if server then address = server:call(row.server[1], row.server[2], row.server[3]) end
  local results, sums, seconds = counted.measure(row, count, samples, processes, address)
  report.figure(row.name .. ".count", count, row.unit .. "s")
  report.figure(row.name .. ".seconds", seconds, "s")
  judge(row, count, results, sums, close(row, processes, start))
end

-- Runs a row: its work is done `count` times beyond what comes before the first sample.
function counted.run(row, count)
  local ok, message = xpcall(run, debug.traceback, row, count, SAMPLES)
  if not ok then report.bound(row.name, false, "%s", message) end
end

return counted
