-- The servers of the mixed soak, all in one process: of every framing, with and without TLS, over
-- TCP and Unix sockets, and of datagrams.
-- What this is not: careful of its clients; that is the library's task.
local traffic = require "spec.soak.traffic"
local wire = require "lunewire"

local mixed_server = {}

local PATIENCE <const> = 20 -- seconds that a client may be silent
local IDLE <const> = 30

local function echo_frames(conn)
  for message, more in conn:frames { timeout = PATIENCE } do
    local opts = type(more) == "number" and { type = more } or {}
    opts.timeout = PATIENCE
    if not conn:send_frame(message, opts) then return end
  end
end

local function echo_chunks(conn)
  for chunk in conn:chunks { timeout = PATIENCE } do
    if not conn:send(chunk, { timeout = PATIENCE }) then return end
  end
end

-- Lines; "bye" ends the connection, "reset" resets it, "raise" is an error in the handler.
local function echo_lines(conn)
  for line in conn:lines { timeout = PATIENCE } do
    if line == "bye" then return end
    if line == "reset" then return conn:reset() end
    if line == "raise" then error "planned error" end
    if not conn:send(line, "\n") then return end
  end
end

-- The lines of a network log: those of one connection are in order.
local function collect_log(conn)
  local last
  for line in conn:lines { timeout = PATIENCE } do
    local n = tonumber(line:match "^log (%d+)$")
    if not n or last and n ~= last + 1 then error(("%q after line %s"):format(line, last)) end
    last = n
  end
end

-- "OFFSET COUNT" of the file that all have.
local function send_files(path)
  return function(conn)
    for line in conn:lines { timeout = PATIENCE } do
      local offset, count = line:match "^(%d+) (%d+)$"
      if not offset or not conn:send_file(path, tonumber(offset), tonumber(count)) then return end
    end
  end
end

local function upgrade(tls)
  return function(conn)
    local line = conn:recv_line(PATIENCE)
    if line == "STARTTLS" and conn:send "go\n" and conn:start_tls(tls) then echo_lines(conn) end
  end
end

local function forward(to)
  return function(conn)
    local upstream <close> = wire.connect(to, PATIENCE)
    if upstream then wire.relay(conn, upstream) end
  end
end

-- ---- all of them -----------------------------------------------------------------------

local open = {} -- {name=, server=, again= a function that listens at an address}

-- The first address is TCP; addresses: where, host:0 at first.
local function add(name, addresses, opts, handler)
  opts.idle_timeout, opts.backlog = IDLE, 4096
  local function listen(where) return assert(wire.serve(where, opts, handler)) end
  open[#open + 1] = { name = name, server = listen(addresses), listen = listen }
end

local function add_udp(host)
  local function listen(where)
    return assert(wire.serve_udp(where, { workers = 4 }, function(data, from, udp)
      udp:send_to(data, from)
    end))
  end
  open[#open + 1] = { name = "udp", server = listen(host .. ":0"), listen = listen }
end

local function address_of(one)
  if one.name == "udp" then return (one.server:local_addr()) end
  return one.server:addr()
end

-- host: an address of loopback that nobody else uses; unix: the beginning of names of Unix sockets.
-- -> name -> address
function mixed_server.open(host, unix, tls, file)
  local where = host .. ":0"
  for _, name in ipairs(traffic.names) do
    local make = traffic.framings[name].make
    add(name, { where, unix .. name }, { framing = make() }, echo_frames)
    add(name .. ".tls", { where, unix .. name .. "-tls" }, { framing = make(), tls = tls },
      echo_frames)
  end
  add("raw", { where, unix .. "raw" }, {}, echo_chunks)
  add("raw.tls", { where, unix .. "raw-tls" }, { tls = tls }, echo_chunks)
  add("lines", { where, unix .. "lines" }, {}, echo_lines)
  add("log", { where }, {}, collect_log)
  add("file", { where }, {}, send_files(file))
  add("upgrade", { where }, {}, upgrade(tls))
  add("forward", { where }, {}, forward(unix .. "raw"))
  add_udp(host)
  local addresses = {}
  for _, one in ipairs(open) do addresses[one.name] = address_of(one) end
  return addresses
end

local function stop(one, patience)
  if one.name == "udp" then return one.server:close() end
  one.server:shutdown(patience)
end

-- Ends all and listens again at once, at the same addresses.
function mixed_server.cycle(patience)
  local tasks = {}
  for i, one in ipairs(open) do
    tasks[i] = wire.spawn(function()
      local where = one.name == "udp" and address_of(one) or one.server:addrs()
      stop(one, patience)
      one.server = one.listen(where)
    end)
  end
  for _, task in ipairs(tasks) do assert(task:join()) end
end

function mixed_server.close()
  local tasks = {}
  for i, one in ipairs(open) do tasks[i] = wire.spawn(stop, one, 5) end
  for _, task in ipairs(tasks) do assert(task:join()) end
  open = {}
end

return mixed_server
