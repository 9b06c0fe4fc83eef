-- Whether a process has grown, and whether something is left in it: the bounds that all rows share.
-- What this is not: how that was measured (gauge.lua, slope.lua).
local report = require "spec.soak.report"

local verdict = {}

verdict.LIMIT = 1 -- byte for each

-- Growth is what both lines show: see slope.steady.
function verdict.grows(result, bytes)
  return result.slopes[bytes] >= verdict.LIMIT and result.steady[bytes] >= verdict.LIMIT
end

-- result: slopes= and steady=, of "heap" and of "lua", in bytes for each `unit`.
function verdict.growth(name, unit, result)
  for _, bytes in ipairs { "heap", "lua" } do
    local what, grown = name .. ".slope_" .. bytes, result.slopes[bytes]
    report.figure(what, grown, "bytes/" .. unit)
    if grown >= verdict.LIMIT then -- by one step, perhaps: then this says so
      report.figure(what .. ".steady", result.steady[bytes], "bytes/" .. unit)
    end
    report.bound(what, not verdict.grows(result, bytes),
      "%.3f bytes/%s, where the bound is less than %g", grown, unit, verdict.LIMIT)
  end
end

local function none(name, n, unit, what)
  report.figure(name, n, unit)
  report.bound(name, n == 0, "left: %s", what)
end

-- first, last: readings; rest: what more there is that the core counts, as a text, or nil.
function verdict.rest(name, first, last, rest)
  local left = last.descriptors - first.descriptors
  none(name .. ".descriptors_left", left, "descriptors", left)
  local objects = 0
  for n in (rest or ""):gmatch "%d+" do objects = objects + math.tointeger(n) end
  none(name .. ".census_left", objects, "objects", rest)
end

return verdict
