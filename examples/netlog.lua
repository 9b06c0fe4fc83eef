#!/usr/bin/env lua5.4
-- A script that logs to a collector and dies; what it logged arrives all the same.
--
--   netlog.lua [--tls CA] [address]
--
-- The address is localhost:1902 unless said otherwise.  Start a collector before:
--
--   nc -lk 1902
local wire = require "lunewire"

local opts = { prefix = "[example] ", date = true, file = true }
if arg[1] == "--tls" then
  opts.tls = { ca = arg[2] }
  table.move(arg, 3, #arg + 2, 1)
end

local log = assert(wire.netlog(arg[1] or "localhost:1902", opts))

log:print "This is a regular message"
log:printf("%d bytes are in use by Lua", collectgarbage "count" * 1024 // 1)
log:error "This is a panic."
