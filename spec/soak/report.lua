-- What a soak says: figures, bounds that hold or are broken, how far it is.
--
--   NAME VALUE UNIT                   a figure
--   broken: NAME: what and why        a bound that does not hold
--   N passed, N failed                at the end: the bounds
--
-- What this is not: any measurement.
local report = {}

local passed, failed = 0, 0
local on_terminal = os.execute "test -t 2"

local function say(...)
  io.stdout:write(table.concat { ... }, "\n")
  io.stdout:flush()
end

local function plain(value)
  if math.type(value) == "integer" then return tostring(value) end
  return (("%.6f"):format(value):gsub("%.?0+$", ""):gsub("^%-0$", "0"))
end

-- Shows on a terminal what is being done, in one line that the next one replaces.
function report.progress(format, ...)
  if on_terminal then io.stderr:write("\r\27[K", (format:format(...))) end
end

function report.figure(name, value, unit) say(name, " ", plain(value), " ", unit) end

-- One test: what was promised holds, or does not, and why that is said.
function report.bound(name, holds, format, ...)
  report.progress ""
  if holds then
    passed = passed + 1
  else
    failed = failed + 1
    say("broken: ", name, ": ", (format:format(...)))
  end
end

-- A figure that must be less than `limit`.
function report.less(name, value, limit, unit)
  report.figure(name, value, unit)
  report.bound(name, value < limit, "%s %s, where the bound is less than %s", plain(value), unit,
    plain(limit))
end

-- The last line -> have all bounds held?
function report.finish()
  report.progress ""
  say(("%d passed, %d failed"):format(passed, failed))
  return failed == 0 and passed > 0
end

return report
