-- bench/load in the modes that are more than a stream of messages: once, tls, udp, idle; misuse.
local assert = require "luassert"
local describe = require("busted").describe
local loads = require "spec.loads"
local namespace = require "spec.namespace"
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it
local passes, fails, serve, at, flip = loads.passes, loads.fails, loads.serve, loads.at, loads.flip

describe("bench/load in the mode once fails when a server", function()
  local visits = 0

  -- A fault of one visit only, in the midst of the others.
  local function serve_visits(fault)
    visits = 0
    local server <const> = assert(wire.serve("127.0.0.1:0", function(conn)
      local message = loads.receivers.once(conn)
      if not message then return end
      visits = visits + 1
      if visits ~= 11 then conn:send(message) else fault(message, conn) end
    end))
    return server, server:port()
  end

  it("does not reply", function()
    local _ <close>, port = serve_visits(function() end)
    fails("ended early, after 0 bytes", "once", port, "--conns 3")
  end)

  it("ends within the reply", function()
    local _ <close>, port = serve_visits(function(message, conn) conn:send(message:sub(1, 30)) end)
    fails("ended early, after 30 bytes", "once", port, "--conns 3")
  end)

  it("says more", function()
    local _ <close>, port = serve_visits(function(message, conn) conn:send(message, "x") end)
    fails("more came back than was sent", "once", port, "--conns 3")
  end)

  it("resets the connection behind the reply", function()
    local _ <close>, port = serve_visits(function(message, conn)
      conn:send(message)
      conn:flush()
      conn:reset()
    end)
    fails("[Cc]onnection reset", "once", port, "--conns 3")
  end)

  it("does not end the connection, or does not say anything either", function()
    for _, reply in ipairs { true, false } do
      local _ <close>, port = serve_visits(function(message, conn)
        if reply then conn:send(message) end
        conn:recv(1)
      end)
      fails(loads.MISSING, "once", port, "--conns 3")
    end
  end)
end)

describe("bench/load over TLS", function()
  it("takes any certificate, or those that it is told to trust", function()
    local _ <close>, port = serve "tls"
    passes("tls", port)
    passes("tls", port, "", "BENCH_CERT=" .. pki.ca.ca)
    passes("tls", port, "", "BENCH_CERT=" .. pki.cert.good)
    fails("certificate verify failed", "tls", port, "", "BENCH_CERT=" .. pki.ca.other)
    fails("/nowhere.pem", "tls", port, "", "BENCH_CERT=/nowhere.pem")
  end)

  it("fails when a server has TLS 1.2 only, or none", function()
    local old <close> = assert(wire.serve("127.0.0.1:0",
      { tls = pki.server("good", { max_version = "TLSv1.2" }) }, function(conn) conn:recv(1) end))
    fails("TLS: ", "tls", old:port())
    local plain <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      conn:recv_some(100)
      conn:send "this is no TLS\n"
    end))
    fails("TLS: ", "tls", plain:port())
  end)

  it("fails when the stream ends without TLS saying so, within a record or between two", function()
    local _ <close>, port = serve "tls"
    local bytes
    local proxy <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      local upstream <close> = assert(wire.connect("127.0.0.1:" .. port))
      local copying = wire.spawn(wire.copy, upstream, conn)
      wire.copy(conn, upstream, bytes)
      copying:cancel()
    end))
    for _, cut in ipairs { 0, 100, 5000, 20000, 20001, 20050 } do
      bytes = cut
      fails("ended early", "tls", proxy:port(), "--conns 1 --seconds 60")
    end
  end)
end)

-- ---- datagrams -----------------------------------------------------------------------

describe("bench/load in the mode udp", function()
  it("takes replies in any order", function()
    local held = {}
    local _ <close>, port = serve("udp", function(_, data, udp, from)
      held[#held + 1] = data
      if #held < 5 then return nil end
      for i = #held, 1, -1 do udp:send_to(held[i], from) end
      held = {}
    end)
    assert.is_true(passes("udp", port, "--conns 1 --depth 5").messages >= 5)
  end)

  it("counts what is lost and sends others instead", function()
    local _ <close>, port = serve("udp", function(number, data)
      return number % 100 ~= 50 and data or nil
    end)
    local f = passes("udp", port, "--conns 2 --depth 2 --seconds 0.5")
    assert.is_true(f.lost > 0 and f.lost < f.total)
  end)

  -- A number's low half is its place in flight: the next one there shows that the last is lost.
  it("takes a reply that comes late for one that was lost, but not twice", function()
    local function place(data) return ("=I2"):unpack(data) end
    local times, late
    local function reply(number, data, udp, from)
      if number == 3 then
        late = data
        return nil
      elseif late and place(late) == place(data) then
        for _ = 1, times do udp:send_to(late, from) end
        late = nil
      end
      return data
    end
    local words = "--conns 1 --depth 2 --seconds 0.5"
    times = 1
    local once <close>, port = serve("udp", reply)
    assert.is_not_nil(once)
    assert.is_true(passes("udp", port, words).lost >= 1)
    times = 2
    local _ <close>, other = serve("udp", reply)
    fails("came back unawaited", "udp", other, words)
  end)

  local WORDS <const> = "--conns 2 --depth 3 --size 20"

  local wrong = {
    ["a reply comes twice"] = { "came back unawaited", function(data, udp, from)
      udp:send_to(data, from)
      return data
    end },
    ["a reply is shorter"] = { "another length", function(data) return data:sub(1, -2) end },
    ["a reply is longer"] = { "another length", function(data) return data .. "x" end },
    ["a reply is empty"] = { "another length", function() return "" end },
  }
  for what, case in pairs(wrong) do
    it("fails when " .. what, function()
      local _ <close>, port = serve("udp", at(9, case[2]))
      fails(case[1], "udp", port, WORDS)
    end)
  end

  it("fails when a reply goes to another socket", function()
    local last
    local _ <close>, port = serve("udp", function(_, data, udp, from)
      if last and last.from ~= from then udp:send_to(data, last.from) end
      last = { from = from }
      return data
    end)
    fails("came back wrong", "udp", port, WORDS)
  end)

  it("fails when nothing comes, or nothing more", function()
    for _, count in ipairs { 0, 50 } do
      local _ <close>, port = serve("udp", function(number, data)
        return number < count and data or nil
      end)
      fails(loads.MISSING, "udp", port, WORDS .. " --seconds 2")
    end
  end)
end)

-- ---- idle connections ----------------------------------------------------------------

describe("bench/load in the modes idle and idle-tls", function()
  -- Each connection weighs 300,000 bytes, which stay although nothing else happens.
  local HEAVY <const> = [[
    local wire = require "lunewire"
    local tls = arg[1] and { cert = arg[1], key = arg[2] } or nil
    local server = assert(wire.serve("127.0.0.1:0", { tls = tls }, function(conn)
      local weight <const> = ("x"):rep(300000)
      for data in conn:pkgs() do conn:send_pkg(data) end
      return weight
    end))
    io.stdout:setvbuf "line"
    print(server:port())
    wire.run()]]

  local WORDS <const> = "--few 5 --many 45 --pid "

  for mode, certificate in pairs { idle = {}, ["idle-tls"] = { pki.cert.good, pki.key.leaf } } do
    it("tells what a connection costs: " .. mode, function()
      local server = support.lua(HEAVY, table.unpack(certificate))
      local port = tonumber(server:line())
      local text, status = loads.run(mode, port, WORDS .. server.process)
      assert.are.same({ 0, text }, { status, text })
      local f = loads.fields(text)
      assert.are.same({ 5, 45 }, { f.few, f.many })
      for _, key in ipairs { "rss_per_conn", "pss_per_conn" } do -- an observer needs more
        assert.is_true(150000 < f[key] and f[key] < 450000 * support.slowness, text)
      end
    end)
  end

  it("fails when a reply is wrong, or there is no such process", function()
    local changed <close>, port = serve("length", at(0, function(data) return flip(data, 10) end))
    assert.is_not_nil(changed)
    fails("came back wrong", "idle", port, WORDS .. 1)
    local _ <close>, other = serve "length"
    fails("/proc/1073741824/smaps_rollup", "idle", other, WORDS .. (1 << 30))
  end)

  it("fails when the server ends a connection", function()
    local _ <close>, port = serve("length", function(number, message, conn)
      if number == 0 then conn:send(message) end
      return nil
    end)
    fails("ended early, after 1 messages", "idle", port, WORDS .. 1)
  end)

  it("fails when it is not told whose memory, or told fewer than few", function()
    fails("%-%-pid", "idle", 1)
    fails("%-%-few must be less than %-%-many", "idle", 1, "--pid 1 --few 10 --many 10")
  end)
end)

-- ---- the server's process --------------------------------------------------------------

describe("bench/load --pid", function()
  -- The first message of each connection costs a second of CPU.
  local SLOW_TO_BEGIN <const> = [[
    local wire = require "lunewire"
    local server = assert(wire.serve("127.0.0.1:0", function(conn)
      local from = os.clock()
      for data in conn:pkgs() do
        while os.clock() < from + 1 do end
        conn:send_pkg(data)
      end
    end))
    io.stdout:setvbuf "line"
    print(server:port())
    wire.run()]]

  it("tells the CPU of the server while messages are counted, and not before", function()
    local server = support.lua(SLOW_TO_BEGIN)
    local port = tonumber(server:line())
    local f = passes("length", port, "--conns 1 --seconds 0.2 --pid " .. server.process)
    assert.is_true(f.cpu_ns > 0)
    assert.is_true(f.cpu_ns + f.waited_ns < (f.seconds + 0.1) * 1e9)
  end)

  it("tells none without it", function()
    local _ <close>, port = serve "length"
    assert.is_nil(passes("length", port).cpu_ns)
  end)

  it("fails when there is no such process", function()
    local _ <close>, port = serve "length"
    fails("/proc/1073741824/task", "length", port, "--pid " .. (1 << 30))
  end)
end)

-- ---- many connections ----------------------------------------------------------------

describe("bench/load with more connections than", function()
  it("descriptors are permitted at first", function()
    local _ <close>, port = serve "length"
    passes("length", port, "--conns 100", "prlimit --nofile=50:300")
    fails("[Tt]oo many open files", "length", port, "--conns 100", "prlimit --nofile=50:60")
  end)

  -- Serves one run of the generator.
  local SERVER <const> = [[
    local mode, load = %q, %q
    local range = assert(io.open("/proc/sys/net/ipv4/ip_local_port_range", "w"))
    assert(range:write "40000 40049")
    assert(range:close())
    local stat <close> = assert(io.open "/proc/self/stat")
    local server = assert(wire.serve("127.0.0.1:0", function(conn)
      for data in conn:pkgs() do
        conn:send_pkg(data)
        if mode == "once" then return end
      end
    end))
    assert(wire.serve_udp(server:addr(), function(data, from, udp) udp:send_to(data, from) end))
    local output = assert(io.popen(("%%s %%s 127.0.0.1 %%d --conns 120 --seconds 0.1 2>&1; "
      .. "kill -s TERM %%d"):format(load, mode, server:port(), stat:read "n")))
    wire.run()
    print(output:read "a")]]

  for _, mode in ipairs { "length", "once", "udp" } do
    it("ports are left: " .. mode, function()
      local f = loads.fields(namespace.run("", SERVER:format(mode, loads.PROGRAM)))
      assert.are.equal(120, f.conns)
      assert.is_true(f.messages > 0)
    end)
  end
end)

-- ---- misuse --------------------------------------------------------------------------

describe("bench/load", function()
  it("fails when nobody is there", function()
    local port = support.port()
    for _, mode in ipairs(loads.MODES) do fails("[Cc]onnection refused", mode, port) end
  end)

  it("says what is wrong with its arguments", function()
    fails("there is no mode nothing", "nothing", 1)
    fails("MODE HOST PORT", "length", 1, "2")
    fails("MODE HOST PORT", "length", 1, "--deep 1")
    for _, option in ipairs { "conns", "depth", "seconds", "patience" } do
      for _, value in ipairs { "0", "-1", "x", "1x", "''", "nan" } do
        fails("%-%-" .. option .. " must be a number from", "length", 1,
          ("--%s %s"):format(option, value))
      end
    end
    fails("PORT must be a number from 1 to 65535", "length", 65536)
  end)
end)
