-- The conformance of connections: the same tests over every transport, unchanged.
-- What this is not: a spec; those choose the transports, so that each of the slower ones has a
-- process of its own.
local describe = require("busted").describe
local support = require "spec.support"

local CHAPTERS <const> = {
  "receive",
  "lines",
  "packages",
  "iterators",
  "times",
  "idle",
  "quiet",
  "queues",
  "send",
  "ends",
  "facts",
  "chaos",
}

-- tls: of which transports, by their field of that name; nil: of those without.
return function(tls)
  for _, transport in ipairs(support.transports) do
    if transport.tls == tls then
      describe("a connection over " .. transport.name .. ":", function()
        for _, chapter in ipairs(CHAPTERS) do require("spec.conformance." .. chapter)(transport) end
      end)
    end
  end
end
