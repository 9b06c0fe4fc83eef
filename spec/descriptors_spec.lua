-- The promise that running out of descriptors pauses accepting and nothing else: a server that
-- can have 64 of them, and 1,000 clients of another process.
-- What this is not: max_conns, the limit that a server sets itself (server_options_spec.lua).
local support = require "spec.support"
local wire = require "lunewire"

local CLIENTS = support.sized(1000, 300, 120)
local LIMIT = 64
local TICKS = 100 -- of processor time, a second (USER_HZ)

-- An echo server.  Prints its port, and when a client has asked it to stop, the most
-- connections that it had at once.
local SERVER = [[
local wire = require "lunewire"
assert(os.execute "prlimit --nofile=64 --pid $PPID")
local most = 0
local server = assert(wire.serve("127.0.0.1:0", { backlog = 2000 }, function(conn, server)
  most = math.max(most, server:conn_num())
  for line in conn:lines() do
    conn:send(line, "\n")
    if line == "stop" then server:close() end
  end
end))
io.stdout:setvbuf "line"
print(server:port())
wire.run()
print("most", most)
]]

-- Connects all clients, each with a line that it wants back.  Then, for each line that it gets
-- through its control connection:
--   settle S    waits until nobody has been served for S seconds     -> how many are served
--   echo        a line on each connection that is served             -> how many came back
--   leave N S   N of the served leave; waits until N waiting ones were served, S s at most
--                                                                    -> how many were, the time
--   stop        asks the server to stop on one, closes the others    -> how many there were
local CLIENT = [[
local wire = require "lunewire"
local address, count = "127.0.0.1:" .. arg[1], tonumber(arg[3])
local served, total, latest = {}, 0, wire.now()

local function client(id)
  local conn = assert(wire.connect(address, 100))
  assert(conn:send("hello ", id, "\n"))
  if conn:recv_line() ~= "hello " .. id then error "dropped" end
  total, latest = total + 1, wire.now()
  served[#served + 1] = conn
end

local commands = {}

function commands.settle(seconds)
  while total == 0 or wire.now() - latest < seconds do wire.sleep(0.01) end
  return #served
end

function commands.echo()
  local right = 0
  for i, conn in ipairs(served) do
    conn:send(i, "\n")
    if conn:recv_line(100) == tostring(i) then right = right + 1 end
  end
  return right
end

function commands.leave(n, seconds)
  local goal, start = total + n, wire.now()
  for _ = 1, n do table.remove(served, 1):close() end
  while total < goal and wire.now() - start < seconds do wire.sleep(0.001) end
  return total - goal + n, wire.now() - start
end

function commands.stop()
  local n = #served
  served[1]:send "stop\n"
  served[1]:recv_line(100)
  for _, conn in ipairs(served) do conn:close() end
  served = {}
  return n
end

wire.run(function()
  for id = 1, count do wire.spawn(client, id) end
  local control <close> = assert(wire.connect("127.0.0.1:" .. arg[2]))
  for line in control:lines() do
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = tonumber(word) or word end
    local command = commands[table.remove(words, 1)]
    control:send(table.concat({ command(table.unpack(words)) }, " "), "\n")
  end
end)
]]

-- A listening server that forgets what it accepts, with a collector that never runs by itself.
local FORGETFUL = [[
local wire = require "lunewire"
assert(os.execute "prlimit --nofile=64 --pid $PPID")
collectgarbage "stop"
local server = assert(wire.listen("127.0.0.1:0", { backlog = 500 }))
io.stdout:setvbuf "line"
print(server:port())
wire.run(function()
  for _ = 1, 120 do assert(server:accept()) end
end)
print "all accepted"
]]

-- Opens connections to its own listener until it cannot.
local GREEDY = [[
local wire = require "lunewire"
assert(os.execute "prlimit --nofile=64 --pid $PPID")
local server = assert(wire.listen "127.0.0.1:0")
local conns, message, code = {}, nil, nil
repeat conns[#conns + 1], message, code = wire.connect(server:addr(), 5)
until code
print(message:gsub(":%d+", ":PORT"), code)
table.remove(conns):reset()
print(wire.connect(server:addr(), 5) and "again")
]]

-- The processor time that a process has used, in ticks.
local function ticks_of(pid)
  local stat <close> = assert(io.open(("/proc/%d/stat"):format(pid)))
  local words = {}
  for word in stat:read("a"):match("%) (.*)"):gmatch "%S+" do words[#words + 1] = word end
  return words[12] + words[13]
end

-- The part of a core that a process uses during so many seconds.
local function load_of(pid, seconds)
  local ticks, start = ticks_of(pid), wire.now()
  wire.sleep(seconds)
  return (ticks_of(pid) - ticks) / TICKS / (wire.now() - start)
end

-- Starts the clients -> a function that gives them a command and returns the numbers that it
-- answers; the peer.
local function start_clients(port)
  local listener <close> = assert(wire.listen "127.0.0.1:0")
  local peer = support.lua(CLIENT, port, listener:port(), CLIENTS)
  local control = assert(listener:accept(5 * support.slowness))
  return function(...)
    control:send(table.concat({ ... }, " "), "\n")
    local answer, numbers = assert(control:recv_line(60 * support.slowness)), {}
    for n in answer:gmatch "%S+" do numbers[#numbers + 1] = tonumber(n) end
    return table.unpack(numbers)
  end, peer, control
end

local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

describe("a server without descriptors", function()
  support.it(("pauses quietly, drops none of %d clients, and recovers at once"):format(CLIENTS),
    function()
    local server = support.lua(SERVER)
    local port, start = assert(server:line()), wire.now()
    local ask, clients, control <close> = start_clients(port)

    local told = "lunewire: accept 127.0.0.1:" .. port .. ": too many open files"
    local first = assert(server:line()) -- from here on no more come in
    assert.equal(told, first:sub(1, #told))
    local most = ask("settle", 0.5 * support.slowness)
    assert.is_true(most > LIMIT / 2 and most < LIMIT, most)
    local load = load_of(server.process, 2)
    assert.is_true(load < 0.1, load)
    assert.equal(most, ask "echo")

    local left, times = CLIENTS - most, {}
    while left > 0 do
      local n = math.min(left, most - 10)
      local came, took = ask("leave", n, 10 * support.slowness)
      assert.equal(n, came)
      left, times[#times + 1] = left - n, took
    end
    table.sort(times)
    assert.is_true(times[#times // 2 + 1] < support.slowness, table.concat(times, " "))
    assert.equal(most, ask "echo")
    local exhausted = wire.now() - start

    assert.equal(most, ask "stop")
    control:close()
    local output, status = clients:output()
    assert.same({ "", 0 }, { output, status })
    output, status = server:output()
    assert.equal(0, status, output)
    local lines = 1 + count(output, told)
    assert.is_true(lines <= exhausted + 1, output)
    assert.equal(lines, count(output, "\n"), output) -- the first is read, and there is the last
    assert.equal(most, tonumber(output:match "most%s+(%d+)"))
  end, 60)

  support.it("collects garbage: what it accepted and forgot gives its descriptors back", function()
    local server = support.lua(FORGETFUL)
    local address, all = "127.0.0.1:" .. assert(server:line()), {}
    for i = 1, 120 do all[i] = assert(wire.connect(address, 5)) end
    local output, status = server:output()
    assert.matches("all accepted", output)
    assert.equal(0, status)
    for _, client in ipairs(all) do client:close() end
  end, 30)
end)

describe("connect without descriptors", function()
  support.it("is EMFILE, and works again when one is free", function()
    local output, status = support.lua(GREEDY):output()
    assert.equal("connect 127.0.0.1:PORT: too many open files\tEMFILE\nagain\n", output)
    assert.equal(0, status)
  end)
end)
