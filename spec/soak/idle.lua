-- Many connections at once that are silent: what each costs the server and the client, and that all
-- of it comes back when they end.
-- What this is not: many one after another (counted.lua).
local process = require "spec.soak.process"
local report = require "spec.soak.report"
local verdict = require "spec.soak.verdict"

local idle = {}

local GAUGE <const>, ECHO <const>, VISITS <const> =
  "spec.soak.gauge", "spec.soak.echo", "spec.soak.visits"
-- Tables and heaps that have grown keep their places for the next ones.
local KEPT_LIMIT <const> = 256 -- bytes for each connection that there was at once
local AGAIN_LIMIT <const> = 32 -- when as many have come and gone once more

-- What a process has: bytes in use, and what the system counts.
local function read(p, base)
  local reading = p:call(GAUGE, "read", base)
  reading.resident = p:call(GAUGE, "resident")
  return reading
end

local function cost(name, before, with, count, limit)
  report.figure(name .. ".lua", (with.lua - before.lua) / count, "bytes/connection")
  report.less(name .. ".heap", (with.heap - before.heap) / count, limit, "bytes/connection")
  report.figure(name .. ".resident", (with.resident - before.resident) / count, "bytes/connection")
end

local function judge_rest(name, before, after, again, count)
  report.less(name .. ".kept", (after.heap - before.heap) / count, KEPT_LIMIT, "bytes/connection")
  report.less(name .. ".kept_again", (again.heap - after.heap) / count, AGAIN_LIMIT,
    "bytes/connection")
  verdict.rest(name, before, again, again.rest)
end

local function one_round(row, count, processes, base, address)
  local server, client = processes.server, processes.client
  local with = {}
  client:call(VISITS, "stay", count, address, row.tls)
  client:call(VISITS, "echo_all")
  for who, p in pairs(processes) do
    with[who] = p:call(GAUGE, "bytes")
    with[who].resident = p:call(GAUGE, "resident")
  end
  local open = server:call(GAUGE, "census").conns - base.server.conns
  report.bound(row.name .. ".open", open == count, "%d connections are open, not %d", open, count)
  client:call(VISITS, "leave")
  local after = {}
  for who, p in pairs(processes) do after[who] = read(p, base[who]) end
  return with, after
end

local function run(row, count)
  local server <close> = process.start "server"
  local client <close> = process.start "client"
  local processes, base, before = { server = server, client = client }, {}, {}
  local address = server:call(ECHO, "open", { tls = row.server_tls })
  for who, p in pairs(processes) do base[who] = p:call(GAUGE, "census") end
  report.progress("%s: a few connections", row.name)
  one_round(row, 64, processes, base, address)
  for who, p in pairs(processes) do before[who] = read(p, base[who]) end
  report.progress("%s: %d connections", row.name, count)
  local with, after = one_round(row, count, processes, base, address)
  report.progress("%s: %d connections again", row.name, count)
  local _, again = one_round(row, count, processes, base, address)
  report.figure(row.name .. ".count", count, "connections")
  for _, who in ipairs { "server", "client" } do
    cost(row.name .. "." .. who, before[who], with[who], count, row.limit)
    judge_rest(row.name .. "." .. who, before[who], after[who], again[who], count)
  end
end

function idle.run(row, count)
  local ok, message = xpcall(run, debug.traceback, row, count)
  if not ok then report.bound(row.name, false, "%s", message) end
end

return idle
