-- Many connections at once between two processes, one client script and one server script.
-- What this is not: a benchmark; it measures nothing but what must be exact.
local support = require "spec.support"
local wire = require "lunewire"

-- Under an observer each step costs many times more, and what is looked for shows with fewer.
local CONNECTIONS = support.sized(5000, 1000, 200)
local PACKAGES = 10

-- Prints its port and its descriptors; serves so many connections; prints the most that were
-- open at once, how many are still counted, and its descriptors again.
local SERVER = [[
local wire = require "lunewire"
local lfs = require "lfs"
local expected, ended, most = tonumber(arg[1]), 0, 0

local function descriptors()
  local n = 0
  for _ in lfs.dir "/proc/self/fd" do n = n + 1 end
  return n
end

local server = assert(wire.serve("127.0.0.1:0", function(conn, server)
  most = math.max(most, server:conn_num())
  for package in conn:pkgs() do conn:send_pkg(package) end
  ended = ended + 1
end))
io.stdout:setvbuf "line"
local start = descriptors()
print(server:port())
print(start)

wire.run(function()
  while ended < expected do wire.sleep(0.01) end
  local patience = wire.now() + 20
  while descriptors() > start and wire.now() < patience do wire.sleep(0.01) end
  print(most, server:conn_num(), descriptors())
  server:close()
end)
]]

-- Opens all connections, some at a time so that no backlog overflows; then sends on all at
-- once; then closes all.  Prints connections opened, packages that came back right.
local CLIENT = [[
local wire = require "lunewire"
local address, count, packages = arg[1], tonumber(arg[2]), tonumber(arg[3])
local conns, right = {}, 0

local function open(first)
  for i = first, count, 100 do conns[i] = assert(wire.connect(address)) end
end

local function exchange(i)
  for k = 1, packages do
    local package = ("%d:%d:"):format(i, k) .. ("x"):rep(i * k % 500)
    assert(conns[i]:send_pkg(package))
    if conns[i]:recv_pkg() == package then right = right + 1 end
  end
end

local function all(fn, last)
  local tasks = {}
  for i = 1, last do tasks[i] = wire.spawn(fn, i) end
  for _, task in ipairs(tasks) do assert(task:join()) end
end

wire.run(function()
  all(open, 100)
  all(exchange, count)
  print(#conns, right)
  for _, conn in ipairs(conns) do conn:close() end
end)
]]

-- An echo server that can have 40 descriptors; prints the most connections that it had at once.
local SMALL_SERVER = [[
local wire = require "lunewire"
assert(os.execute "prlimit --nofile=40 --pid $PPID")
local most = 0
local server = assert(wire.serve("127.0.0.1:0", function(conn, server)
  most = math.max(most, server:conn_num())
  for line in conn:lines() do
    conn:send(line, "\n")
    if line == "stop" then server:close() end
  end
end))
io.stdout:setvbuf "line"
print(server:port())
wire.run()
print(most)
]]

local function numbers(text)
  local list = {}
  for n in text:gmatch "%-?%d+" do list[#list + 1] = tonumber(n) end
  return list
end

describe("one server script and one client script", function()
  support.it(("echo %d packages on each of %d connections and leave nothing open")
    :format(PACKAGES, CONNECTIONS), function()
    local server = support.lua(SERVER, CONNECTIONS)
    local port, start = assert(server:line()), tonumber(server:line())
    local client = support.lua(CLIENT, "127.0.0.1:" .. port, CONNECTIONS, PACKAGES)
    client.conn:set_timeout(60)
    server.conn:set_timeout(60)
    local output, status = client:output()
    assert.same({ CONNECTIONS, CONNECTIONS * PACKAGES }, numbers(output), output)
    assert.equal(0, status, output)
    output, status = server:output()
    assert.same({ CONNECTIONS, 0, start }, numbers(output), output)
    assert.equal(0, status, output)
  end, 60)
end)

describe("a server that runs out of descriptors", function()
  support.it("pauses accepting and ends nothing: every client is served in the end", function()
    local server = support.lua(SMALL_SERVER)
    local address, served = "127.0.0.1:" .. assert(server:line()), 0
    local function visit(i)
      local conn <close> = assert(wire.connect(address))
      conn:send(i, "\n")
      assert(conn:recv_line() == tostring(i))
      wire.sleep(0.05) -- keeps its descriptor for a while
      served = served + 1
    end
    local tasks = {}
    for i = 1, 200 do tasks[i] = wire.spawn(visit, i) end
    for _, task in ipairs(tasks) do assert(task:join()) end
    assert.equal(200, served)
    local last <close> = assert(wire.connect(address))
    last:send "stop\n"
    assert.equal("stop", last:recv_line(5))
    last:close()
    local output = server:output()
    assert.truthy(output:find "accept 127%.0%.0%.1:%d+: too many open files; accepting rests while")
    local most = tonumber(output:match "(%d+)\n$")
    assert.is_true(most > 20 and most < 40, most)
  end, 60)
end)
