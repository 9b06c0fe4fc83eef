-- The conformance of connections: the same tests over every transport, unchanged.
-- What belongs to one transport alone is in a spec of its own (tcp_spec).
local support = require "spec.support"

local chapters = {
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

for _, transport in ipairs(support.transports) do
  describe("a connection over " .. transport.name .. ":", function()
    for _, chapter in ipairs(chapters) do
      require("spec.conformance." .. chapter)(transport)
    end
  end)
end
