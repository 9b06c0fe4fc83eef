-- left_out(body, title) -> why this test is not run over links that misbehave as these do, or nil.
-- The list is spec/faults/left-out.
-- What this is not: the choice of files (.ci/faults).
local full = os.getenv("LUNEWIRE_FAULTS"):match "^[%w+]+"
local mode = full:match "^%w+"
local reasons = {}

for line in io.lines "spec/faults/left-out" do
  local modes, where, why = line:match "^([^#]-)%s*|%s*(.-)%s*|%s*(.*)$"
  for word in (modes or ""):gmatch "%S+" do
    if word == "*" or word == mode or word == full then reasons[where] = why end
  end
end

return function(body, title)
  local file = debug.getinfo(body, "S").source:match "spec/.*"
  return reasons[("%s: %s"):format(file, title)]
end
