local support = require "spec.support"
for _, t in ipairs(support.transports) do
  describe("over " .. t.name .. ":", function()
    for _, chapter in ipairs{ "idle", "quiet" } do require("spec.conformance." .. chapter)(t) end
  end)
end
