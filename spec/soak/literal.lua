-- Plain values as text and back: what the processes of a soak tell each other.
-- What this is not: for what comes from anybody else; it is Lua that is run.
local literal = {}

local function write(value, out)
  if type(value) ~= "table" then
    out[#out + 1] = ("%q"):format(value)
    return
  end
  out[#out + 1] = "{"
  for key, one in pairs(value) do
    out[#out + 1] = ("[%q]="):format(key)
    write(one, out)
    out[#out + 1] = ","
  end
  out[#out + 1] = "}"
end

-- nil, booleans, numbers, strings, and tables of them.
function literal.dump(value)
  local out = {}
  write(value, out)
  return table.concat(out)
end

function literal.load(text) return assert(load("return " .. text, "=literal", "t", {}))() end

return literal
