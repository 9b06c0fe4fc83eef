-- Exactly once: whatever ends a wait, the call that waits returns once, at once, and says why; the
-- task then waits for something else undisturbed, nobody else is disturbed, nothing is left over.
-- What this is not: two ends at the same moment, a coroutine that is closed, several who wait at
-- one place (once_many_spec); what each call waits for and what ends it (waits.lua).
local describe = require("busted").describe
local once = require "spec.once"
local support = require "spec.support"
local waits = require "spec.waits"

-- What happens in this process is told within a few turns.
local SOON = { ["close"] = true, ["reset"] = true, ["a cancel"] = true,
  ["a deadline in the past"] = true, ["a receive deadline in the past"] = true,
  ["a send deadline in the past"] = true }

local function check(place, name)
  local cause = once.causes(place)[name]
  local w = once.watch(place.call, cause.timeout)
  if not cause.timeout then w:check_waits() end
  cause[1](place, w)
  once.check_code(w:await(SOON[name]), cause)
  w:check_rest()
end

describe("exactly once:", function()
  for _, wait in ipairs(waits.list) do
    support.it(wait.name .. ", whatever ends it", function()
      once.at_each(wait.open, once.names(wait.open), check)
    end, 30)
  end
end)
