-- The mixed soak: rounds in which clients that behave and clients that do not talk to servers of
-- everything, in three processes; between them everything must have come to rest, and be measured.
-- In every third round all servers shut down in the middle and listen again at once; every round
-- has another collector.
-- What this is not: what they say to each other (mixed_server.lua, mixed_good.lua, mixed_bad.lua).
local pki = require "spec.pki"
local process = require "spec.soak.process"
local report = require "spec.soak.report"
local slope = require "spec.soak.slope"
local verdict = require "spec.soak.verdict"
local wire = require "lunewire"

local mixed = {}

local GAUGE <const> = "spec.soak.gauge"
local SERVER <const> = "spec.soak.mixed_server"
local PLAYERS <const> = { good = "spec.soak.mixed_good", bad = "spec.soak.mixed_bad" }
local NAMES <const> = { "server", "good", "bad" }
local EACH <const> = 4 -- sessions of a kind in a round
local WARM_UP <const> = 4 -- rounds that are not measured
local COLLECTORS <const> = { "incremental", "generational" }
local FILE_BYTES <const> = 250000

-- ---- one round -------------------------------------------------------------------------

-- A file that the servers send from, which goes with the certificates.
local function make_file()
  local text, path = {}, pki.scratch "soak-file"
  for i = 1, FILE_BYTES // 8 do text[i] = ("%07d\n"):format(i) end
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(table.concat(text)))
  return path, table.concat(text)
end

-- What all rounds have in common; host: a loopback address of our own, where nobody takes a port
-- between two servers.
function mixed.new_world()
  local stat <close> = assert(io.open "/proc/self/stat")
  local pid = stat:read "n"
  local path, text = make_file()
  return {
    host = ("127.%d.%d.7"):format(1 + pid // 250 % 250, 1 + pid % 250),
    unix = ("unix:@soak-%d-"):format(pid),
    path = path, file = text, tls = pki.client { servername = "localhost" },
    pipe_tls = pki.server("good", { ca = pki.ca.ca, servername = "localhost" }),
  }
end

local function play(p, module, seed, world)
  return wire.spawn(p.call, p, module, "play", seed, EACH, world)
end

local function result_of(task)
  local ok, result = task:join()
  if not ok then error(result, 0) end
  return result
end

-- -> sums of both players
local function one_round(ps, number, seed, world)
  for i, p in ipairs(ps) do p:call(GAUGE, "collector", COLLECTORS[(number + i) % 2 + 1]) end
  world.addresses = ps[1]:call(SERVER, "open", world.host, world.unix, pki.server(), world.path)
  world.nobody = world.host .. ":9"
  world.cycles = number % 3 == 0
  local players = { play(ps[2], PLAYERS.good, seed, world), play(ps[3], PLAYERS.bad, seed, world) }
  if world.cycles then
    wire.sleep(0.05)
    ps[1]:call(SERVER, "cycle", 0.1)
  end
  local good, bad = result_of(players[1]), result_of(players[2])
  ps[1]:call(SERVER, "close")
  return good, bad
end

-- ---- all of them -----------------------------------------------------------------------

-- {lines= (of each process, points), first=, last=, sessions=, cut=, rounds=}
local function play_rounds(ps, seed, goes_on)
  local base, world = {}, mixed.new_world()
  for i, p in ipairs(ps) do base[i] = p:call(GAUGE, "census") end
  local sums = { sessions = 0, cut = 0, rounds = 0, rests = {}, lines = {} }
  while goes_on(sums.rounds) do
    sums.rounds = sums.rounds + 1
    report.progress("mixed: round %d, %d sessions", sums.rounds, sums.sessions)
    local good, bad = one_round(ps, sums.rounds, seed + sums.rounds, world)
    sums.sessions = sums.sessions + good.sessions + bad.sessions
    sums.cut = sums.cut + good.cut
    for i, p in ipairs(ps) do
      local reading = p:call(GAUGE, "read", base[i])
      sums.rests[i] = sums.rests[i] or reading.rest
      if sums.rounds > WARM_UP then
        sums.lines[i] = sums.lines[i] or {}
        table.insert(sums.lines[i], { sums.sessions, reading })
      end
    end
  end
  return sums
end

-- Of the good clients' sessions only those may be cut off that the end of a server met.
local CUT_MOST <const> = 0.2

local function judge(i, sums)
  local name, line, result = "mixed." .. NAMES[i], sums.lines[i], { slopes = {}, steady = {} }
  for _, bytes in ipairs { "heap", "lua" } do
    local points = {}
    for k, point in ipairs(line) do points[k] = { point[1], point[2][bytes] } end
    result.slopes[bytes], result.steady[bytes] = slope.fit(points), slope.steady(points)
  end
  verdict.growth(name, "session", result)
  verdict.rest(name, line[1][2], line[#line][2], sums.rests[i])
end

local function run(seed, goes_on)
  local server <close> = process.start "server"
  local good <close> = process.start "good clients"
  local bad <close> = process.start "bad clients"
  local start = wire.now()
  local sums = play_rounds({ server, good, bad }, seed, goes_on)
  report.figure("mixed.rounds", sums.rounds, "rounds")
  report.figure("mixed.sessions", sums.sessions, "sessions")
  report.figure("mixed.cut", sums.cut, "sessions")
  report.figure("mixed.seconds", wire.now() - start, "s")
  report.bound("mixed.integrity", true, "")
  report.bound("mixed.cut", sums.cut < CUT_MOST * sums.sessions, "%d of %d sessions were cut off",
    sums.cut, sums.sessions)
  for i = 1, 3 do judge(i, sums) end
end

-- Rounds as long as goes_on(how many there were).
function mixed.run(seed, goes_on)
  report.figure("mixed.seed", seed, "seed")
  local ok, message = xpcall(run, debug.traceback, seed, goes_on)
  if not ok then report.bound("mixed.integrity", false, "%s", message) end
end

return mixed
