-- Exactly once: whatever ends a wait, the call that waits returns once, at once, and says why; the
-- task then waits for something else undisturbed, nobody else is disturbed, nothing is left over.
-- What this is not: two ends at the same moment, a coroutine that is closed, several who wait at
-- one place (once_many_spec); what each call waits for and what ends it (waits.lua).
local assert = require "luassert"
local describe = require("busted").describe
local once = require "spec.once"
local support = require "spec.support"
local waits = require "spec.waits"
local wire = require "lunewire"

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

-- What goes by while it waits: it is as if nothing had been, and the wait ends when it is to.
local function check_disturbed(place, name)
  local w = once.watch(place.call)
  w:check_waits()
  place.disturbs[name]()
  w:check_waits()
  wire.sleep(0.005)
  w:check_waits()
  place.serve()
  assert.equal("served", w:await())
  w:check_rest()
end

support.it("exactly once, though something else happened meanwhile", function()
  local tried = 0
  for _, wait in ipairs(waits.over {}) do
    local place, names = wait.open(), {}
    for name in pairs(place.disturbs or {}) do names[#names + 1] = name end
    place.close()
    once.at_each(wait.open, names, check_disturbed)
    tried = tried + #names
  end
  assert.is_true(tried > 3)
end, 60)
