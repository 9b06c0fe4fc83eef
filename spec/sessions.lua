-- TLS sessions between two ends of ours, and a way to stand between them: what the specs of TLS
-- share.
-- What this is not: other programs (support.peer), certificates (pki.lua).
local wire = require "lunewire"
local pki = require "spec.pki"
local support = require "spec.support"
local tools = require "spec.conformance.tools"

local sessions = {}

local PATIENCE <const> = 20 -- seconds, for what must come soon

sessions.VERSIONS = { "TLSv1.2", "TLSv1.3" }

-- A server for one connection, whose end is to be known:
-- sessions.serve(tls, handler) -> server, a function that waits for the end of the next
-- connection -> its message and code.
function sessions.serve(tls, handler)
  local ends = wire.channel(1000)
  local function on_close(_, message, code) ends:send({ message, code }, 0) end
  local server = assert(wire.serve("127.0.0.1:0", { tls = tls, on_close = on_close }, handler))
  return server, function()
    local ended = assert(ends:recv(PATIENCE))
    return ended[1], ended[2]
  end
end

-- What came of it on one side: a string "ok", or "CODE of CALL: message".
local function outcome(call, message, code)
  if not code then return "ok" end
  return ("%s of %s: %s"):format(code, call, message)
end

local function greet(conn)
  assert(conn:send "hello")
  conn:recv_line()
end

-- One connection -> what came of it at the client (of "connect" or "recv"), at the server.
function sessions.meet(server_tls, client_tls)
  local served = false
  local server <close>, await_end = sessions.serve(server_tls, function(conn)
    served = true
    greet(conn)
  end)
  local at_client
  local conn, message, code = wire.connect(server:addr(), { tls = client_tls, timeout = PATIENCE })
  if conn then
    local greeting
    greeting, message, code = conn:recv(5, PATIENCE)
    at_client = outcome("recv", message, not greeting and code or nil)
    conn:close()
  else
    at_client = outcome("connect", message, code)
  end
  message, code = await_end()
  return at_client, outcome("handshake", message, not served and code or nil)
end

-- ---- in between ------------------------------------------------------------------------

-- The first handshake of a process takes its time on a slow machine.
local function patient(tls)
  if type(tls) == "table" then
    tls.handshake_timeout = tls.handshake_timeout or 10 * support.slowness
  end
  return tls
end

-- Both ends of a connection start TLS at once -> the results of start_tls at the client, then
-- those at the server, each as a list.
function sessions.handshake(client, client_tls, server, server_tls)
  local task = wire.spawn(function() return table.pack(server:start_tls(patient(server_tls))) end)
  local at_client = table.pack(client:start_tls(patient(client_tls)))
  return at_client, tools.result(task)
end

-- Passes TLS records on, one at a time, until it is cancelled.
local function forward(from, to)
  return wire.spawn(function()
    for record in from:frames() do
      if not to:send(record) then return end
    end
  end)
end

local WHOLE_RECORDS <const> = wire.framing.length { offset = 3, size = 2, strip = 0 }

-- Passes records between near and far until the client has heard "ready", which the server says
-- behind the tickets of TLS 1.3; then nothing passes by itself any more.
local function pass_on(near, far)
  near:set_framing(WHOLE_RECORDS)
  far:set_framing(WHOLE_RECORDS)
  local tasks = { forward(near, far), forward(far, near) }
  return function(client)
    assert(client:recv_line(PATIENCE) == "ready")
    for _, task in ipairs(tasks) do
      task:cancel()
      task:join()
    end
  end
end

-- A client and a server over pipes, with the wire between them in the test's hands:
-- client, near, far, server.  near and far speak in whole records of TLS (recv_frame, send), and
-- nothing passes from one to the other any more by itself.
function sessions.tapped(client_tls, server_tls)
  local client, near = wire.pipe()
  local far, server = wire.pipe()
  local await_ready = pass_on(near, far)
  local at_client, at_server = sessions.handshake(client,
    client_tls or pki.client { servername = "localhost" }, server, server_tls or pki.server())
  assert(at_client[1], at_client[2])
  assert(at_server[1], at_server[2])
  assert(server:send "ready\n")
  await_ready(client)
  return client, near, far, server
end

-- The same with a client of a server that listens, and says "ready\n": client, near, far.
function sessions.tapped_to(server, client_tls)
  local client, near = wire.pipe()
  local far = assert(wire.connect(server:addr(), PATIENCE))
  local await_ready = pass_on(near, far)
  assert(client:start_tls(patient(client_tls)))
  await_ready(client)
  return client, near, far
end

return sessions
