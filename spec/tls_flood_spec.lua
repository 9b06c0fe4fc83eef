-- TLS and crowds: silent clients, more handshakes than are good, floods, slow readers, much data,
-- and what a connection costs in memory.
-- What this is not: the speed of anything (bench).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"
local tools = require "spec.conformance.tools"

local it, fails = support.it, support.fails

local PATIENCE <const> = 20
local KIB <const> = 1024
local MIB <const> = 1024 * KIB

local function echo(conn)
  for line in conn:lines() do conn:send("> ", line, "\n") end
end

local function dial(server, more)
  return assert(wire.connect(server:addr(), { tls = pki.client(more), timeout = PATIENCE }))
end

local function check_echo(conn, text)
  assert(conn:send(text, "\n"))
  assert.equal("> " .. text, conn:recv_line(PATIENCE))
end

-- n connections that say nothing.
local function silent(server, n)
  local conns = {}
  for i = 1, n do conns[i] = assert(wire.connect(server:addr(), PATIENCE)) end
  return conns
end

local function close_all(conns)
  for _, conn in ipairs(conns) do conn:close() end
end

-- ---- handshakes that do not come to an end ---------------------------------------------

describe("silent clients", function()
  it("200 of them delay nobody", function()
    local server <close> = sessions.serve(pki.server(), echo)
    local conns = silent(server, 200)
    local elapsed = tools.timed(function()
      for i = 1, 5 do
        local conn <close> = dial(server)
        check_echo(conn, "line " .. i)
      end
    end)
    assert.is_true(elapsed < 2 * support.slowness, elapsed)
    for _, conn in ipairs(conns) do assert.equal("", conn:recv_now()) end
    close_all(conns)
  end, 60)

  it("are dropped at the handshake timeout, each told to on_close, no handler is run", function()
    local server <close>, await_end =
      sessions.serve(pki.server("good", { handshake_timeout = 0.3 }), function() error "served" end)
    local elapsed = tools.timed(function()
      local conns = silent(server, 200)
      for _ = 1, 200 do
        local message, code = await_end()
        assert.equal("ETIMEDOUT", code)
        assert.matches("^handshake 127%.0%.0%.1:%d+: timed out$", message)
      end
      for _, conn in ipairs(conns) do
        local data, _, code = conn:recv(1, PATIENCE)
        assert.is_nil(data)
        assert.is_true(code == "EOF" or code == "ECONNRESET", code)
      end
      close_all(conns)
    end)
    assert.is_true(elapsed >= 0.25, elapsed)
    assert.equal(0, server:conn_num())
  end, 60)

  it("one that says a byte now and then gains no time by it", function()
    local server <close>, await_end =
      sessions.serve(pki.server("good", { handshake_timeout = 0.3 }), function() error "served" end)
    local conn = assert(wire.connect(server:addr()))
    local start = wire.now()
    local trickle = wire.spawn(function()
      -- the beginning of a ClientHello that announces 16 KiB
      for byte in ("\22\3\1\64\0\1\0\63\252\3\3" .. ("x"):rep(10000)):gmatch "." do
        if not conn:send(byte) or not conn:flush(1) then return end
        wire.sleep(0.01)
      end
    end)
    local _, code = await_end()
    assert.equal("ETIMEDOUT", code)
    assert.is_true(wire.now() - start < 5)
    trickle:cancel()
    trickle:join()
    conn:reset()
  end, 30)

  it("beyond 256 drop the oldest, with ETLS, and nobody else", function()
    local server <close>, await_end = sessions.serve(pki.server(), echo)
    local served <close> = dial(server)
    local conns = silent(server, 266)
    local first = {}
    for i = 1, 10 do
      local message, code = await_end()
      assert.equal("ETLS", code)
      assert.matches("^handshake .*too many handshakes", message)
      first[message:match "127%.0%.0%.1:%d+"] = i
    end
    for i, conn in ipairs(conns) do
      assert.equal(i <= 10, first[conn:local_addr()] ~= nil, i)
    end
    fails("ECONNRESET", conns[1]:recv(1, PATIENCE))
    assert.equal("", conns[11]:recv_now())
    check_echo(served, "undisturbed")
    assert.equal(257, server:conn_num())
    close_all(conns)
  end, 60)

  it("end at once when the server shuts down, and nobody else suffers", function()
    local server, await_end = sessions.serve(pki.server(), echo)
    local conns = silent(server, 20)
    local conn <close> = dial(server)
    check_echo(conn, "served")
    local elapsed, all_ended = tools.timed(server.shutdown, server, 60)
    assert.is_true(all_ended)
    assert.is_true(elapsed < 10 * support.slowness, elapsed)
    fails("EOF", conn:recv(1, PATIENCE))
    local closed = 0
    for _ = 1, 21 do
      if select(2, await_end()) == "ECLOSED" then closed = closed + 1 end
    end
    assert.is_true(closed >= 20, closed)
    for _, one in ipairs(conns) do assert.is_nil((one:recv(1, PATIENCE))) end
    close_all(conns)
  end, 60)

  it("that have begun to speak are reset when the time of a shutdown is over", function()
    local server = sessions.serve(pki.server(), echo)
    local conns = silent(server, 5)
    for _, conn in ipairs(conns) do assert(conn:send "\22\3\1\2\0\1") end
    local served <close> = dial(server) -- behind them
    check_echo(served, "served")
    local elapsed, all_ended = tools.timed(server.shutdown, server, 0.2)
    assert.is_false(all_ended)
    tools.took(0.2, elapsed)
    for _, conn in ipairs(conns) do fails("ECONNRESET", conn:recv(1, PATIENCE)) end
    close_all(conns)
  end, 30)

  it("trap: unlike one whose handshake ends just then: its request is answered", function()
    for _ = 1, 5 do
      local server, await_end = sessions.serve(pki.server(), echo)
      local conn <close> = dial(server) -- the server has not seen the end of it yet
      assert(conn:send "request\n")
      assert(conn:flush())
      local elapsed, all_ended = tools.timed(server.shutdown, server, 60)
      assert.equal("> request", conn:recv_line(PATIENCE))
      fails("EOF", conn:recv(1, PATIENCE))
      assert.is_true(all_ended)
      assert.is_true(elapsed < 10 * support.slowness, elapsed)
      await_end()
    end
  end, 60)

  it("of a closed server are not left over", function()
    local server = sessions.serve(pki.server("good", { handshake_timeout = 0.1 }), echo)
    local conns = silent(server, 5)
    dial(server):close()
    server:close()
    for _, conn in ipairs(conns) do
      assert.is_nil((conn:recv(1, PATIENCE)))
      conn:close()
    end
  end, 30)
end)

describe("a failed handshake", function()
  it("tells on_close once, and standard error nothing", function()
    local output, status = support.lua([[
      local wire, pki = require "lunewire", require "spec.pki"
      local ends, count = wire.channel(10), 0
      local function on_close(conn, message, code)
        count = count + 1
        ends:send(code)
      end
      local function serve(more)
        return assert(wire.serve("127.0.0.1:0",
          { tls = pki.server("good", more), on_close = on_close }, print))
      end
      local server, impatient = serve(), serve { handshake_timeout = 0.1 }
      wire.run(function()
        local junk = assert(wire.connect(server:addr()))
        junk:send "GET / HTTP/1.0\r\n\r\n"
        print(ends:recv(20))
        local silent = assert(wire.connect(impatient:addr()))
        print(ends:recv(20))
        local stranger = wire.connect(server:addr(), { tls = true })
        print(ends:recv(20))
        local gone = assert(wire.connect(server:addr()))
        gone:reset()
        print(ends:recv(20))
        print(count, server:conn_num(), impatient:conn_num())
        junk:close()
        silent:close()
        server:close()
        impatient:close()
      end)
    ]]):output()
    assert.equal("ETLS\nETIMEDOUT\nETLS\nECONNRESET\n4\t0\t0\n", output)
    assert.equal(0, status)
  end, 30)

  it("lets the alert reach a peer that goes on sending", function()
    local server <close>, await_end = sessions.serve(pki.server(), echo)
    for _ = 1, 10 do
      local conn = assert(wire.connect(server:addr()))
      assert(conn:send "\22\3\1\0\4\2\0\0\0") -- a ServerHello
      assert(conn:flush())
      assert.equal("ETLS", (select(2, await_end())))
      local writer = wire.spawn(function()
        for _ = 1, 20 do
          assert(conn:send(("x"):rep(10000)))
          assert(conn:flush(PATIENCE))
          wire.sleep(0.002)
        end
        conn:close_write()
      end)
      local alert = conn:recv(7, PATIENCE)
      assert.truthy(alert, conn:strerror())
      assert.matches("^\21\3[\0-\4]\0\2\2", alert)
      fails("EOF", conn:recv(1, PATIENCE))
      tools.result(writer)
      conn:close()
    end
  end, 30)
end)

-- ---- much data -------------------------------------------------------------------------

local function pattern(n)
  local words = {}
  for i = 1, n // 16 do words[i] = ("%015d\n"):format(i) end
  return table.concat(words)
end

for _, version in ipairs(sessions.VERSIONS) do
  describe("much data over " .. version, function()
    it("a package of 10 MB there and one back at once arrive whole", function()
      local data = pattern(10 * MIB)
      local opts = { limits = { frame = 16 * MIB }, tls = pki.server() }
      local function talk(conn)
        local reader = wire.spawn(conn.recv_pkg, conn, { header = 4 })
        assert(conn:send_pkg(data, { header = 4 }))
        return select(2, assert(reader:join(60 * support.slowness))) == data
      end
      local at_server
      local server <close> = assert(wire.serve("127.0.0.1:0", opts, function(conn)
        at_server = talk(conn)
      end))
      local conn <close> = assert(wire.connect(server:addr(), { limits = opts.limits,
        tls = pki.client { max_version = version }, timeout = PATIENCE }))
      assert.is_true(talk(conn))
      fails("EOF", conn:recv(1, PATIENCE))
      assert.is_true(at_server)
    end, 60)

    it("a slow reader bounds what its sender holds", function()
      local most, total, over = 0, 0, false
      local server <close> = sessions.serve(pki.server(), function(conn)
        local piece = ("y"):rep(100000)
        while not over do
          local n = conn:send(piece, { timeout = 0.05 })
          total = total + (n or 0)
          most = math.max(most, conn:stats().unsent)
          over = over or not n
        end
      end)
      local conn <close> = dial(server, { max_version = version })
      tools.await(function() return over end)
      assert.is_true(most <= (256 + 64) * KIB + 100000 + 8 * KIB, most)
      assert.equal(total, #assert(conn:recv(total, PATIENCE)))
    end, 60)

    it("a reader that takes a byte at a time gets all of them", function()
      local server <close> = sessions.serve(pki.server(), function(conn)
        conn:send(("0123456789"):rep(5000))
      end)
      local conn <close> = dial(server, { max_version = version })
      for i = 0, 49999 do
        if conn:recv(1, PATIENCE) ~= tostring(i % 10) then error("byte " .. i) end
      end
      fails("EOF", conn:recv(1, PATIENCE))
    end, 30)

    it("what is not read stays with its sender, not in our memory", function()
      local server <close> = sessions.serve(pki.server(), function(conn)
        wire.sleep(0.3)
        assert.is_true(conn:buffered() <= 64 * KIB, conn:buffered())
        conn:read "a"
      end)
      local conn <close> = dial(server, { max_version = version })
      local accepted = tools.fill(conn)
      assert.is_true(accepted > 0)
      conn:close_write()
      fails("EOF", conn:recv(1, PATIENCE))
    end, 30)
  end)
end

-- ---- changes of keys -------------------------------------------------------------------

-- The shell command of a peer that floods this server.
local function flood_of(server, count)
  local program = pki.scratch "key_updates"
  if not io.open(program) then
    assert(os.execute(("cc -o %s spec/key_updates.c -lssl -lcrypto"):format(program)))
  end
  return ("%s %d %d"):format(program, server:port(), count)
end

-- Round trips on another connection while fn runs -> the longest of them in seconds.
local function slowest_while(fn)
  local server <close> = sessions.serve(pki.server(), echo)
  local other <close> = dial(server)
  local task, slowest = wire.spawn(fn), 0
  repeat
    slowest = math.max(slowest, (tools.timed(check_echo, other, "undisturbed")))
    wire.sleep(0.005)
  until task:status() == "done" or task:status() == "failed"
  tools.result(task)
  return slowest
end

describe("changes of keys", function()
  it("20,000 of them by a peer that reads nothing leave memory bounded", function()
    local flooded
    local server <close>, await_end = sessions.serve(pki.server(), function(conn)
      flooded = conn
      echo(conn)
    end)
    local peer = support.peer(flood_of(server, 20000), 120)
    local over, most = false, 0
    local watcher = wire.spawn(function()
      while not over do
        if flooded then most = math.max(most, flooded:stats().unsent + flooded:buffered()) end
        wire.sleep(0.002)
      end
    end)
    peer:output()
    await_end()
    over = true
    watcher:join()
    assert.truthy(flooded)
    assert.is_true(most <= 192 * KIB, most)
  end, 120)

  it("in floods from several peers delay others by no more than a moment", function()
    local server <close> = sessions.serve(pki.server(), echo)
    local command = flood_of(server, 50000)
    local slowest = slowest_while(function()
      local peers = {}
      for i = 1, 4 do peers[i] = support.peer("timeout 5 " .. command, 120) end
      for _, peer in ipairs(peers) do peer:output() end
    end)
    assert.is_true(slowest < 0.5 * support.slowness, slowest)
  end, 120)

  it("now and then, with data between them, are no fault", function()
    local server <close>, await_end = sessions.serve(pki.server(), echo)
    local output, status = support.peer(flood_of(server, 10), 120):output()
    assert.equal("> still here\n", output)
    assert.equal(0, status)
    assert.equal("EOF", (select(2, await_end())))
  end, 60)
end)

-- ---- memory ----------------------------------------------------------------------------

-- Where every block is observed, the observer's memory would be measured.
local is_observed = support.slowness > 1

describe("an idle TLS connection", function()
  -- A server in a process of its own, which prints its private memory when it is asked to.
  local SERVER = [[
    local wire, pki = require "lunewire", require "spec.pki"
    local server = assert(wire.serve("127.0.0.1:0", { tls = pki.server() }, function(conn)
      for line in conn:lines() do
        if line == "memory" then
          collectgarbage()
          collectgarbage()
          local file <close> = io.open "/proc/self/smaps_rollup"
          line = 0
          for kib in file:read "a":gmatch "Private_%a+:%s*(%d+) kB" do line = line + kib end
        end
        conn:send(line, "\n")
      end
    end))
    print(server:port(), pki.ca.ca)
    io.stdout:flush()
    wire.run()
  ]]

  if is_observed then return end

  it("takes at most 20 KiB of the process's memory", function()
    local peer = support.doomed_lua and support.doomed_lua(SERVER) or support.lua(SERVER)
    local port, ca = assert(peer:line()):match "^(%d+)%s+(%S+)$"
    local context = assert(wire.tls_context { ca = ca })
    local conns = {}
    local function grow_to(n)
      for i = #conns + 1, n do
        conns[i] = assert(wire.connect("127.0.0.1:" .. port, { tls = context, timeout = PATIENCE }))
        assert(conns[i]:send "hello\n")
        assert.equal("hello", conns[i]:recv_line(PATIENCE))
      end
      assert(conns[1]:send "memory\n")
      return assert(tonumber(conns[1]:recv_line(PATIENCE))) * KIB
    end
    grow_to(50)
    local few = grow_to(100)
    local each = (grow_to(300) - few) / 200
    close_all(conns)
    peer:stop()
    assert.is_true(each > 1 * KIB and each <= 20 * KIB, each)
  end, 60)
end)
