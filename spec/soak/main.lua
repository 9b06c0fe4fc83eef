-- Scale and soak: many connections at once, many one after another, many of everything, and what
-- is left of them.  Servers and clients are processes of their own.
--
--   lua5.4 spec/soak/main.lua short [ROW...]     little of each, in less than a minute
--   lua5.4 spec/soak/main.lua SECONDS [ROW...]   the full numbers, and so long the mixed soak
--
-- ROW: some of those of rows.lua and paths.lua, and "mixed".
-- SOAK_SEED in the environment repeats a mixed soak.
-- Prints what report.lua says; the exit status is 1 if a bound is broken.
-- What this is not: a measurement of speed; no bound is about time.
local counted = require "spec.soak.counted"
local idle = require "spec.soak.idle"
local mixed = require "spec.soak.mixed"
local paths = require "spec.soak.paths"
local report = require "spec.soak.report"
local rows = require "spec.soak.rows"
local wire = require "lunewire"

local FEW_ROUNDS <const> = 16

local short = arg[1] == "short"
local wanted = #arg > 1 and {} or nil
for i = 2, #arg do wanted[arg[i]] = true end

local function each(list, run)
  for _, row in ipairs(list) do
    if not wanted or wanted[row.name] then run(row, short and row.few or row.many) end
  end
end

local function mix()
  local seed = tonumber(os.getenv "SOAK_SEED") or short and 1 or os.time()
  local till = wire.now() + (short and 0 or tonumber(arg[1]))
  mixed.run(seed, function(rounds) return rounds < FEW_ROUNDS or wire.now() < till end)
end

wire.run(function()
  each(rows.idle, idle.run)
  each(rows.counted, counted.run)
  each(paths, counted.run)
  if not wanted or wanted.mixed then mix() end
end)
os.exit(report.finish(), true)
