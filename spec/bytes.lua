-- Long rows of bytes, and tasks that send and receive them: what the specs of copies share.
-- What this is not: it asserts nothing.
local wire = require "lunewire"

local bytes = {}

local PIECE <const> = 64 * 1024

-- n bytes that show where one is missing or twice.
function bytes.pattern(n, seed)
  local unit = {}
  for i = 1, 997 do unit[i] = string.char((i * i + (seed or 0)) % 256) end
  local text = table.concat(unit)
  return text:rep(n // #text + 1):sub(1, n)
end

-- A task that sends the data and ends this side.
function bytes.sender(conn, data)
  return wire.spawn(function()
    for at = 1, #data, PIECE do assert(conn:send(data:sub(at, at + PIECE - 1))) end
    assert(conn:close_write())
  end)
end

-- A task that receives until the end -> all of it, and the code of a failure.
function bytes.reader(conn)
  return wire.spawn(function()
    local parts = {}
    for chunk in conn:chunks() do parts[#parts + 1] = chunk end
    return table.concat(parts), select(2, conn:last_error())
  end)
end

return bytes
