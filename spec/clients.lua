-- A line echo server's handler and its clients: what the specs of servers share.
-- What this is not: it makes no server.
local assert = require "luassert"
local wire = require "lunewire"

local clients = {}

-- An echo handler for lines.
function clients.echo(conn)
  for line in conn:lines() do conn:send(line, "\n") end
end

function clients.connect(server) return assert(wire.connect(server:addr(), { timeout = 5 })) end

-- One line there and back: the connection is served.
function clients.check_echo(conn, text)
  assert(conn:send(text, "\n"))
  assert.equal(text, assert(conn:recv_line(5)))
end

-- The peer has closed, or reset.
function clients.check_ended(conn)
  local data, _, code = conn:recv(1, 5)
  assert.is_nil(data)
  assert.is_true(code == "EOF" or code == "ECONNRESET", code)
end

return clients
