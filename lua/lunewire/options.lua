-- Options tables of the functions that are written in Lua: every key and type is checked.
-- What this is not: the options of the core's functions, which it checks itself (lopts.c).
local options = {}

-- Edits that turn a into b.
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local up = row[j]
      local change = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(up + 1, row[j - 1] + 1, diagonal + change)
      diagonal = up
    end
  end
  return row[#b]
end

-- What may have been meant by an unknown key; further off than two edits it is no slip.
local function suggestion(key, known)
  local best, least = nil, 3
  for name in pairs(known) do
    local d = distance(key, name)
    if d < least then best, least = name, d end
  end
  return best and (" (did you mean '%s'?)"):format(best) or ""
end

local function is_seconds(value) return type(value) == "number" and value == value end

local function is_count(value) return math.type(value) == "integer" and value >= 1 end

local function is_callable(value)
  local meta = getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

-- What a key may hold: how its values are recognised, and what they are called.
local kinds = {
  any = { function() return true end, "anything" },
  boolean = { function(value) return type(value) == "boolean" end, "a boolean" },
  count = { is_count, "a whole number >= 1" },
  ["function"] = { is_callable, "a function" },
  seconds = { is_seconds, "a number of seconds" },
  string = { function(value) return type(value) == "string" end, "a string" },
}

local function complaint(key, value, known)
  if type(key) ~= "string" then
    return "options are named: unexpected key of type " .. type(key)
  end
  local kind = kinds[known[key]]
  if not kind then return ("unknown option '%s'%s"):format(key, suggestion(key, known)) end
  if kind[1](value) then return nil end
  local given = type(value) == "number" and value or type(value)
  return ("option '%s' must be %s, not %s"):format(key, kind[2], given)
end

-- What a user gave as options, checked: a table, nil, or a number, which stands for the option
-- "timeout" -> a table, taken as it is, whatever its metatable says.
-- known: the keys, each with its kind: {timeout = "seconds"}.
-- level: whose fault misuse is, as error() counts from the function that calls this.
function options.read(given, known, level)
  if given == nil then return {} end
  if type(given) == "number" then given = { timeout = given } end
  if type(given) ~= "table" then
    error("a table of options is expected, not a " .. type(given), level + 1)
  end
  for key, value in next, given do
    local text = complaint(key, value, known)
    if text then error(text, level + 1) end
  end
  return given
end

return options
