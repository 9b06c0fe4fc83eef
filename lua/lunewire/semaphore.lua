-- Semaphore:with, the one method of semaphores that runs a function of the user's.
-- What this is not: permits and their order; that is csrc/lua/lsemaphore.c.  It returns what
-- makes a semaphore.

local core = require "lunewire.core"

local Semaphore = core.semaphore_methods
local acquire, release = Semaphore.acquire, Semaphore.release
local NAME <const> = getmetatable(core.mutex())

local Held = { __close = function(held) release(held.semaphore) end }

local function is_callable(value)
  local meta = getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

--- Runs a function while holding a permit.
-- The permit is released whatever happens: an error goes on to the caller, and so does a cancel.
-- @function Semaphore:with
-- @tparam function fn what to run; it may wait
-- @tparam[opt] any ... its arguments
-- @treturn any the results of fn
-- @waits until a permit is free
-- @raise what fn raises; as `Semaphore:acquire`
function Semaphore:with(fn, ...)
  if getmetatable(self) ~= NAME then
    error("semaphore with: Semaphore expected, not " .. type(self), 2)
  end
  if not is_callable(fn) then
    error("semaphore with: a function expected, not " .. type(fn), 2)
  end
  local held = setmetatable({ semaphore = self }, Held) -- memory may run out: before the permit
  assert(acquire(self))
  local _ <close> = held
  return fn(...)
end

return core.semaphore
