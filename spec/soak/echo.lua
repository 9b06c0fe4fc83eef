-- Servers of a soak that echo, and are meant to be left with nothing: what a server's process does.
-- What this is not: the clients (visits.lua); the servers of the mixed soak.
local wire = require "lunewire"

local echo = {}

local BACKLOG <const>, MOST <const> = 4096, 20000

local servers = {}

-- Echoes packages; ends the connection itself behind one that begins with "S".
local function serve(conn)
  for data in conn:pkgs() do
    conn:send_pkg(data)
    if data:byte() == 0x53 then return end
  end
end

-- One that does what a careless handler does: keeps a string of each connection.
local kept = {}

local function serve_and_keep(conn)
  kept[#kept + 1] = ("kept of connection %d"):format(#kept)
  serve(conn)
end

-- opts: tls=, leaks= -> the address
function echo.open(opts)
  local server = assert(wire.serve("127.0.0.1:0", { backlog = BACKLOG, max_conns = MOST,
    tls = opts.tls }, opts.leaks and serve_and_keep or serve))
  servers[#servers + 1] = server
  return server:addr()
end

-- Datagrams -> the address
function echo.open_udp()
  local udp = assert(wire.serve_udp("127.0.0.1:0", function(data, from, udp)
    udp:send_to(data, from)
  end))
  servers[#servers + 1] = udp
  return (udp:local_addr())
end

function echo.close()
  for _, server in ipairs(servers) do server:close() end
  servers, kept = {}, {}
end

return echo
