-- The echo server that is measured, as any script would write it.
--
--   lunewire.lua MODE                  length, line, bulk, once, tls, udp; prints its port, serves
--                                      until it is killed; tls takes the files BENCH_CERT and
--                                      BENCH_KEY
--   lunewire.lua MODE generational     collects garbage by generations, not as Lua does by default
--   lunewire.lua --version             prints which commit it is
--
-- What this is not: tuned; what it leaves out is what a user would leave out.
local wire = require "lunewire"

local ADDRESS <const> = "127.0.0.1:0"
local BACKLOG <const> = 4096
local MEGABYTE <const> = 1024 * 1024

local function serve(handler, opts)
  opts.backlog = BACKLOG
  return assert(wire.serve(ADDRESS, opts, handler)):port()
end

local function packages(conn)
  for p in conn:pkgs() do conn:send_pkg(p) end
end

local modes = {}

function modes.length() return serve(packages, {}) end

function modes.line()
  return serve(function(conn)
    for line in conn:lines { keep = true } do conn:send(line) end
  end, {})
end

function modes.bulk()
  local long <const> = { header = 4 }
  return serve(function(conn)
    for p in conn:pkgs(long) do conn:send_pkg(p, long) end
  end, { limits = { frame = 16 * MEGABYTE } })
end

function modes.once()
  return serve(function(conn)
    local p = conn:recv_pkg()
    if p then conn:send_pkg(p) end
  end, {})
end

function modes.tls()
  return serve(packages, { tls = {
    cert = os.getenv "BENCH_CERT", key = os.getenv "BENCH_KEY", min_version = "TLSv1.3",
  } })
end

function modes.udp()
  local udp = assert(wire.serve_udp(ADDRESS, function(data, from, udp) udp:send_to(data, from) end))
  return (select(3, udp:local_addr()))
end

local function commit()
  local git <close> = io.popen "git describe --always --dirty 2>/dev/null"
  return git:read "l" or "without a repository"
end

local mode, collector = arg[1], arg[2]
if mode == "--version" then
  print(("lunewire %s, %s"):format(commit(), _VERSION))
  os.exit(0, true)
elseif not modes[mode] then
  io.stderr:write "unsupported\n"
  os.exit(2, true)
end

if collector == "generational" then collectgarbage "generational" end
io.stdout:setvbuf "line"
print(modes[mode]())
wire.run()
