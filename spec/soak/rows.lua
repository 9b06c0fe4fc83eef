-- The rows of the soak, and how many of each: many= in full, few= in the short form.
-- What this is not: how a row is run (counted.lua).
local pki = require "spec.pki"

local VISITS <const>, ECHO <const> = "spec.soak.visits", "spec.soak.echo"
local HERE <const> = "spec.soak.inside"

-- One at a time, for a context keeps one ticket of a host, which is used once.
local function client_tls(session)
  return { name = session and "session" or "full", orderly = session,
    at_once = session and 1 or nil,
    options = pki.client { servername = "localhost", session = session } }
end

local function none(name)
  return function(sums)
    if sums[name] ~= 0 then return ("%d %s, where none may be"):format(sums[name], name) end
  end
end

local function nearly_all(name)
  return function(sums, count)
    if sums[name] < count * 0.9 then return ("only %d %s"):format(sums[name], name) end
  end
end

-- limit: bytes that one connection may cost either process.
local idle_rows = {
  { name = "idle.tcp", many = 10000, few = 1000, limit = 4096 },
  { name = "idle.tls", many = 10000, few = 1000, limit = 32768, server_tls = pki.server(),
    tls = client_tls(false) },
}

local counted_rows = {
  { name = "churn.tcp", unit = "connection", many = 1000000, few = 20000,
    server = { ECHO, "open", {} }, step = { VISITS, "streams" } },
  { name = "churn.tls", unit = "connection", many = 100000, few = 1000,
    server = { ECHO, "open", { tls = pki.server() } },
    step = { VISITS, "streams", client_tls(false) }, check = none "resumed" },
  { name = "churn.tls_resumed", unit = "connection", many = 100000, few = 1000,
    server = { ECHO, "open", { tls = pki.server() } },
    step = { VISITS, "streams", client_tls(true) }, check = nearly_all "resumed" },
  { name = "tasks", unit = "task", many = 1000000, few = 20000, step = { HERE, "tasks" } },
  { name = "timers", unit = "timer", many = 1000000, few = 20000, step = { HERE, "timers" } },
  { name = "channels", unit = "message", many = 1000000, few = 20000,
    step = { HERE, "messages" } },
  { name = "churn.udp", unit = "datagram", many = 1000000, few = 20000,
    server = { ECHO, "open_udp" }, step = { VISITS, "datagrams" }, check = none "lost" },
}

return { idle = idle_rows, counted = counted_rows }
