-- Servers that talk in lines, for the specs of those who dial: clients, pools, network logs.
-- What this is not: a test.
local assert = require "luassert"
local wire = require "lunewire"

local talkers = {}

-- Turns the loop until the condition holds; fails if it never does.
function talkers.wait_until(condition)
  local limit = wire.now() + 5
  while not condition() and wire.now() < limit do wire.sleep(0.002) end
  assert.is_true(condition())
end

-- Echoes lines; "silent" is not answered, "bye" and "reset" end the connection.
local function talk(conn)
  for line in conn:lines() do
    if line == "bye" then return end
    if line == "reset" then return conn:reset() end
    if line ~= "silent" then conn:send(line, "\n") end
  end
end

-- opts as of serve -> a server and the list of the connections that it accepted
function talkers.server(opts)
  local conns = {}
  local server = assert(wire.serve("127.0.0.1:0", opts or {}, function(conn)
    conns[#conns + 1] = conn
    talk(conn)
  end))
  return server, conns
end

talkers.talk = talk

-- ---- clients -------------------------------------------------------------------------------

function talkers.connected(server, opts)
  local client = wire.client(server:addr(), opts)
  assert(client:connect(5))
  return client
end

-- A client whose peer is not served by a handler -> client, peer, server
function talkers.accepted(opts)
  local server = assert(wire.listen "127.0.0.1:0")
  local client = talkers.connected(server, opts)
  return client, assert(server:accept(5)), server
end

-- ---- connections of a pool -----------------------------------------------------------------

function talkers.ask(conn, text)
  assert(conn:send(text, "\n"))
  return conn:recv_line(5)
end

-- Which connection is it?
function talkers.name_of(lease) return (lease:local_addr()) end

function talkers.counts(pool)
  local stats = pool:stats()
  return { stats.used, stats.idle, stats.waiting }
end

return talkers
