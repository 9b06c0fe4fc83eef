-- Addresses by name, for calls of the core that take numbers only.
-- What this is not: the lookup itself (core.resolve), trying one address after another (dial.c).
local core = require "lunewire.core"

local names = {}

-- Calls into the core for a function of ours: misuse is the user's, so the error names the
-- line that called us (`level` functions up), not one in here.
function names.protected(level, f, ...)
  local results = table.pack(pcall(f, ...))
  if not results[1] then error(results[2], level + 1) end
  return table.unpack(results, 2, results.n)
end

-- A name stands for the first of its addresses; what is no address is left for the core to
-- refuse. The user stands `level` functions up.
function names.to_numeric(addr, level)
  local host, port, numeric = names.protected(level, core.split_address, addr)
  if host == nil or numeric then return addr end
  local list, message, code = core.resolve(host)
  if not list then return nil, message, code end
  return { host = list[1], port = port }
end

return names
