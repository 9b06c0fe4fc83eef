-- The rows of paths that are seldom taken; each is run in a process of its own.
-- What this is not: the paths (paths_ends.lua, paths_rest.lua).
local pki = require "spec.pki"

local ENDS <const>, REST <const> = "spec.soak.paths_ends", "spec.soak.paths_rest"
local FEW <const> = 200

local server = pki.server("good", { ca = pki.ca.ca })
local trusting = pki.client { servername = "localhost" }
local other = { ca = pki.ca.other, servername = "localhost" }

-- {module, function, how many in full, arguments...}
local list = {
  { ENDS, "refused", 100000 },
  { ENDS, "refused_name", 20000 },
  { ENDS, "no_address", 100000 },
  { ENDS, "connect_late", 100000 },
  { ENDS, "connect_canceled", 100000 },
  { ENDS, "handshake_refused", 20000, server, other },
  { ENDS, "handshake_junk", 50000, server },
  { ENDS, "handshake_late", 50000, server },
  { ENDS, "pipe_forgotten", 50000, server, trusting },
  { ENDS, "start_tls", 20000, server, trusting },
  { ENDS, "receive_late", 100000 },
  { ENDS, "receive_canceled", 100000 },
  { ENDS, "receive_in_tasks", 100000 },
  { ENDS, "co_left", 100000 },
  { ENDS, "handler_fails", 50000 },
  { ENDS, "unsent", 20000 },
  { ENDS, "shutdown", 20000 },
  { ENDS, "requests", 50000 },
  { REST, "unix_again", 50000 },
  { REST, "listen_again", 50000 },
  { REST, "free_ports", 20000 },
  { REST, "lookups", 20000 },
  { REST, "contexts", 10000, server },
  { REST, "framings", 100000 },
  { REST, "limits", 100000 },
  { REST, "reconnecting", 50000 },
  { REST, "clients", 50000 },
  { REST, "pools", 50000 },
  { REST, "loggers", 50000 },
  { REST, "relays", 50000 },
  { REST, "files", 20000 },
  { REST, "sockets", 50000 },
  { REST, "signals", 100000 },
  { REST, "locks", 100000 },
}

local rows = {}
for i, path in ipairs(list) do
  rows[i] = { name = "path." .. path[2], unit = "call", many = path[3], few = FEW,
    step = { path[1], path[2], table.unpack(path, 4) } }
end
return rows
