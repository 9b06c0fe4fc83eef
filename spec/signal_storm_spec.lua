-- Storms of signals, children that end, and a stopped process, while a server serves: no byte is
-- lost, no call fails for it, the handlers run.
-- What this is not: what each signal means (signal_spec.lua), a shutdown under load
-- (drain_spec.lua).
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local CLIENTS <const> = support.sized(200, 50, 10)
local STORM <const> = support.sized(10000, 2000, 300)
local MESSAGES <const> = support.sized(20, 10, 5)
local PATIENCE <const> = 20 * support.slowness

-- A line echo server that hears signals: "seen NAME" asks how many, "pipe" has it write into a pipe
-- that nobody reads, "quit" ends it.
-- Each handler of a signal waits a little, so that many are under way at a time.
local SERVER = [[
local wire = require "lunewire"
io.stdout:setvbuf "line"
local seen, handles = {}, {}
for _, name in ipairs { "TERM", "INT", "HUP", "USR1", "USR2", "ALRM", "CHLD", "PIPE", "WINCH" } do
  seen[name] = 0
  handles[name] = wire.on_signal(name, function()
    seen[name] = seen[name] + 1
    if seen[name] % 10 == 0 then wire.sleep(0.001) end
  end)
end
-- To a child that ends without reading a byte.
local function write_in_vain()
  local child <close> = assert(io.popen("exec true", "w"))
  child:setvbuf "no"
  local text, ok, code = ("x"):rep(100000), nil, nil
  repeat ok, _, code = child:write(text) until not ok
  return code
end
local errors = 0
wire.on_error(function(err) errors = errors + 1 print(err) end)
local server
server = assert(wire.serve("127.0.0.1:0", function(conn)
  for line in conn:lines() do
    if line == "quit" then
      for _, handle in pairs(handles) do handle:cancel() end
      conn:send "bye\n"
      return server:close()
    elseif line == "pipe" then
      conn:send(write_in_vain(), "\n")
    elseif line:match "^seen" then
      conn:send(seen[line:sub(6)], " ", errors, "\n")
    else
      conn:send(line, "\n")
    end
  end
end))
print(server:port())
wire.run()
print "returned"
]]

-- -> the peer, what connects to it, a connection for questions
local function start()
  local peer = support.lua(SERVER)
  local address = "127.0.0.1:" .. assert(peer:line())
  local function connect() return assert(wire.connect(address, PATIENCE)) end
  return peer, connect, connect()
end

local function ask(conn, question)
  assert(conn:send(question, "\n"))
  return assert(conn:recv_line(PATIENCE))
end

local function seen(conn, name)
  local count, errors = ask(conn, "seen " .. name):match "^(%d+) (%d+)$"
  assert.equal("0", errors)
  return tonumber(count)
end

-- A client that has each of its messages back, small and large ones.
local function talk(connect, id, goes_on)
  local conn <close> = connect()
  local n = 0
  repeat
    n = n + 1
    local text = ("%d:%d:%s"):format(id, n, ("x"):rep(n % 10 == 0 and 50000 or n))
    if ask(conn, text) ~= text then error("a wrong answer for " .. id) end
  until n >= MESSAGES and not goes_on()
  return n
end

-- CLIENTS talk until the storm is over; nobody has an error.
local function under_load(connect, storm)
  local over, tasks = false, {}
  for id = 1, CLIENTS do
    tasks[id] = wire.spawn(talk, connect, id, function() return not over end)
  end
  storm()
  over = true
  for _, task in ipairs(tasks) do assert(task:join(60 * support.slowness)) end
end

-- Sends the signals from a process of its own, as fast as it can.
local function storm_of(peer, names, count)
  local list = table.concat(names, " ")
  local sender = support.peer(([[bash -c 'for ((i = 0; i < %d; i++)); do for s in %s; do
    kill -s $s %d; done; done; echo sent']]):format(count // #names, list, peer.process), 60)
  assert.equal("sent", sender:line())
  local _, status = sender:output()
  assert.equal(0, status)
end

local function finish(peer, conn)
  assert.equal("bye", ask(conn, "quit"))
  local output, status = peer:output()
  assert.same({ "returned\n", 0 }, { output, status })
end

describe("a storm of signals", function()
  it(("of six kinds, %d in all, loses no byte of %d clients; each handler hears its own")
    :format(STORM, CLIENTS), function()
    local peer, connect, conn <close> = start()
    local names = { "TERM", "INT", "HUP", "USR1", "ALRM", "PIPE" }
    under_load(connect, function() storm_of(peer, names, STORM) end)
    for _, name in ipairs(names) do assert.is_true(seen(conn, name) > 0, name) end
    assert.equal(0, seen(conn, "USR2"))
    finish(peer, conn)
  end, 60)

  it("is told to its handler after it: no last signal is forgotten", function()
    local peer, _, conn <close> = start()
    for _ = 1, 20 do
      local before = seen(conn, "HUP")
      peer:signal "HUP"
      support.eventually(function() return seen(conn, "HUP") > before end)
    end
    finish(peer, conn)
  end, 30)

  it("of the system's own is told as well: SIGPIPE for a write in vain, SIGCHLD", function()
    local peer, _, conn <close> = start()
    for _ = 1, 5 do
      local before, ended = seen(conn, "PIPE"), seen(conn, "CHLD")
      assert.equal("32", ask(conn, "pipe")) -- EPIPE
      support.eventually(function()
        return seen(conn, "PIPE") > before and seen(conn, "CHLD") > ended
      end)
    end
    finish(peer, conn)
  end, 30)

  it("without a handler: sends to peers that are gone cause no SIGPIPE, SIGCHLD harms nothing",
    function()
    local peer = support.lua [[
      local wire = require "lunewire"
      io.stdout:setvbuf "line"
      local ways = {
        function(conn) return conn:send "x" end,
        function(conn) return conn:send(("x"):rep(100000)) end,
        function(conn)
          local file <close> = assert(io.open("/proc/self/exe", "rb"))
          return conn:send_file(file)
        end,
      }
      -- Sends to one that has ended, then gone: what a write may say then is EPIPE, with a signal.
      local function fail(address, send)
        local there <close> = assert(wire.listen(address))
        local conn <close> = assert(wire.connect(there:addr()))
        local other = assert(there:accept())
        other:close_write()
        assert(select(3, conn:recv(1)) == "EOF")
        other:reset()
        local ok, code, _
        repeat
          ok, _, code = send(conn)
          wire.sleep(0.001)
        until not ok
        return code
      end
      local function fail_all(name)
        local codes = {}
        for _, address in ipairs { "127.0.0.1:0", name } do
          for _, send in ipairs(ways) do codes[#codes + 1] = fail(address, send) end
        end
        return table.concat(codes, " ")
      end
      local server
      server = assert(wire.serve("127.0.0.1:0", function(conn)
        for line in conn:lines() do
          if line == "child" then
            local child <close> = assert(io.popen "echo from a child")
            line = child:read "l"
          elseif line:find "^unix:" then
            line = fail_all(line)
          end
          conn:send(line, "\n")
        end
        server:close()
      end))
      print(server:port())
      wire.run()
      print "returned"
    ]]
    local conn = assert(wire.connect("127.0.0.1:" .. peer:line(), PATIENCE))
    for i = 1, 20 do
      assert.equal("from a child", ask(conn, "child"))
      peer:signal "CHLD"
      assert.equal("text " .. i, ask(conn, "text " .. i))
      assert.equal("EPIPE EPIPE EPIPE EPIPE EPIPE EPIPE", ask(conn, support.unix_name()))
    end
    conn:close()
    assert.equal("returned\n", (peer:output()))
  end, 30)
end)

describe("a process that is stopped and continued", function()
  local function is_stopped(peer)
    local file <close> = assert(io.open(("/proc/%d/stat"):format(peer.process)))
    return file:read "a":match "%) (%a)" == "T"
  end

  local function stop(peer)
    peer:signal "STOP"
    support.eventually(function() return is_stopped(peer) end)
  end

  it("in the middle of a dialogue goes on where it was", function()
    local peer, connect, conn <close> = start()
    under_load(connect, function()
      for _ = 1, 5 do
        stop(peer)
        wire.sleep(0.01)
        peer:signal "CONT"
        assert.equal("after it", ask(conn, "after it"))
      end
    end)
    finish(peer, conn)
  end, 60)

  it("past a deadline has the bytes that came meanwhile all the same", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      io.stdout:setvbuf "line"
      wire.run(function()
        local server <close> = assert(wire.listen "127.0.0.1:0")
        print(server:port())
        local conn <close> = assert(server:accept())
        local start, beats = wire.now(), 0
        local timer = wire.every(0.02, function() beats = beats + 1 end)
        wire.spawn(os.execute, "kill -s STOP $PPID") -- as soon as the call below waits
        print((conn:recv_line(0.3)))
        print((select(3, conn:recv_line(0.3))))
        timer:cancel()
        print(beats > 0 and beats <= (wire.now() - start) / 0.02 + 1)
      end)
    ]]
    local conn <close> = assert(wire.connect("127.0.0.1:" .. peer:line(), PATIENCE))
    support.eventually(function() return is_stopped(peer) end)
    assert(conn:send "in time or not\n")
    assert(conn:flush(PATIENCE))
    wire.sleep(0.4) -- past its deadline
    peer:signal "CONT"
    assert.equal("in time or not\nETIMEDOUT\ntrue\n", (peer:output()))
  end, 30)
end)
