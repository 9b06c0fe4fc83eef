-- The faults of the links of this process, for specs that choose them: arm and tally of lfaults.c.
-- What this is not: in any module but that of the faults' build (make test-faults).
local module = assert(package.searchpath("lunewire.core", package.cpath))
return assert(package.loadlib(module, "luaopen_lunewire_faults"), "not the faults' build")()
