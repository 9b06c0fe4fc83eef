-- UDP with real programs (nc, socat), multicast, broadcast, and what the system does with queues.
-- What this is not: what calls mean between sockets of this process (udp_spec).
local assert = require "luassert"
local describe = require("busted").describe
local namespace = require "spec.namespace"
local support = require "spec.support"
local wire = require "lunewire"

local it, fails = support.it, support.fails

local PATIENCE <const> = 10

local function port_of(udp) return (select(3, udp:local_addr())) end

-- ---- a network of their own ----------------------------------------------------------

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Runs a script (with wire) in a network that a shell command has set up -> what it printed.
local function isolated(setup, script)
  local name = os.tmpname()
  do
    local file <close> = assert(io.open(name, "w"))
    assert(file:write('local wire = require "lunewire"\n', script))
  end
  local shell = ("set -e; ip link set lo up; %s; LUA_PATH=%s LUA_CPATH=%s exec lua5.4 %s")
    :format(setup, quote(package.path), quote(package.cpath), name)
  local output, status = support.peer(namespace.unshare "" .. " sh -c " .. quote(shell)):output()
  os.remove(name)
  assert.are.equal(0, status, output)
  return output
end

-- ---- programs ------------------------------------------------------------------------

local function has_ipv6()
  local udp <close> = wire.udp "[::1]:0"
  return udp ~= nil
end

-- An echo for one datagram; the real client prints the answer and ends.
local function answer_once(udp, command)
  local client = support.peer(command)
  local data, from = assert(udp:recv_from(PATIENCE))
  assert(udp:send_to("> " .. data, from))
  assert.are.same({ "> " .. data, 0 }, { client:output() })
  return data, from
end

describe("udp with nc", function()
  it("answers over IPv4", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local data, from = answer_once(udp, "printf hello | nc -u -W 1 127.0.0.1 " .. port_of(udp))
    assert.are.equal("hello", data)
    assert.truthy(from:find "^127%.0%.0%.1:%d+$", from)
  end)

  it("answers over IPv6, and on a socket for both", function()
    if not has_ipv6() then return end
    local six <close> = assert(wire.udp "[::1]:0")
    local _, from = answer_once(six, "printf hello | nc -6 -u -W 1 ::1 " .. port_of(six))
    assert.truthy(from:find "^%[::1%]:%d+$", from)
    local both <close> = assert(wire.udp())
    answer_once(both, "printf hello | nc -6 -u -W 1 ::1 " .. port_of(both))
    answer_once(both, "printf hello | nc -4 -u -W 1 127.0.0.1 " .. port_of(both))
  end)

  it("asks a server, connected", function()
    local probe = assert(wire.udp "127.0.0.1:0")
    local port = port_of(probe)
    probe:close()
    local server = support.peer("{ printf answer; sleep 60; } | nc -u -l 127.0.0.1 " .. port)
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    assert(udp:connect("127.0.0.1:" .. port))
    local limit = wire.now() + 2 * PATIENCE
    local answer
    repeat -- until nc listens it is refused
      udp:send "question\n"
      local data, _, code = udp:recv(0.2)
      answer = data
      assert.is_true(data ~= nil or code == "ECONNREFUSED" or code == "ETIMEDOUT", code)
    until answer or wire.now() > limit
    assert.are.equal("answer", answer)
    assert.are.equal("question", server:line())
    server:stop()
  end)
end)

describe("udp with socat", function()
  -- It says hello and sends back whatever it gets.
  local function exchange(udp, kind, host)
    local socat = support.peer(("exec socat %s:%s:%d SYSTEM:'printf hello; exec cat'")
      :format(kind, host, port_of(udp)))
    local hello, from = assert(udp:recv_from(PATIENCE))
    assert.are.equal("hello", hello)
    assert(udp:connect(from))
    for _, size in ipairs { 1, 1000, 8192 } do
      local data = ("x"):rep(size)
      assert.are.equal(size, udp:send(data))
      assert.is_true(udp:recv(PATIENCE) == data, "size " .. size)
    end
    socat:stop()
  end

  it("exchanges datagrams over UDP4", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    exchange(udp, "UDP4", "127.0.0.1")
  end)

  it("exchanges datagrams over UDP6", function()
    if not has_ipv6() then return end
    local udp <close> = assert(wire.udp "[::1]:0")
    exchange(udp, "UDP6", "[::1]")
  end)

  it("reaches a connected socket only if it is the peer", function()
    local peer <close> = assert(wire.udp "127.0.0.1:0")
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    assert(udp:connect((peer:local_addr())))
    local stranger = support.peer("printf stranger | socat -u - UDP4-SENDTO:127.0.0.1:"
      .. port_of(udp))
    assert.are.equal(0, (select(2, stranger:output())))
    peer:send_to("peer", (udp:local_addr()))
    assert.are.equal("peer", (udp:recv(PATIENCE)))
    fails("ETIMEDOUT", udp:recv(0.02))
  end)

  it("receives what is sent to a group that it has joined", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local probe = assert(wire.udp ":0")
    local port = port_of(probe)
    probe:close()
    local socat = support.peer(("exec socat -u UDP4-RECVFROM:%d,ip-add-membership=239.255.7.8:lo -")
      :format(port))
    assert(udp:option("multicast_interface", "lo"))
    local sender = wire.every(0.02, function() udp:send_to("to all", "239.255.7.8:" .. port) end)
    assert.are.same({ "to all", 0 }, { socat:output() })
    sender:cancel()
  end)
end)

-- ---- multicast and broadcast ---------------------------------------------------------

local GROUP <const> = "239.255.7.7"

-- An interface that has multicast, with nobody at its other end.
local VETH <const> = "ip link add v0 index 3 type veth peer name v1;"
  .. "ip link set v1 up; ip link set v0 up;"

describe("udp: multicast", function()
  -- A sender to the group by the loopback interface.
  local function sender()
    local udp = assert(wire.udp "127.0.0.1:0")
    assert(udp:option("multicast_interface", "lo"))
    return udp
  end

  for what, at in pairs { ["an IPv4 socket"] = "0.0.0.0:0", ["a socket for both"] = ":0" } do
    it("comes to " .. what .. " that has joined, until it leaves", function()
      local member <close> = assert(wire.udp(at))
      local udp <close> = sender()
      local to = GROUP .. ":" .. port_of(member)
      assert.is_true(member:join(GROUP, "lo"))
      assert(udp:send_to("one", to))
      local data, from = member:recv_from(PATIENCE)
      assert.are.same({ "one", (udp:local_addr()) }, { data, from })
      assert.is_true(member:leave(GROUP, "lo"))
      assert(udp:send_to("two", to))
      assert(udp:send_to("direct", "127.0.0.1:" .. port_of(member)))
      assert.are.equal("direct", (member:recv(PATIENCE)))
    end)
  end

  it("comes to all who share its port", function()
    local one <close> = assert(wire.udp("0.0.0.0:0", { reuse_addr = true }))
    local two <close> = assert(wire.udp("0.0.0.0:" .. port_of(one), { reuse_addr = true }))
    local udp <close> = sender()
    for _, member in ipairs { one, two } do assert(member:join(GROUP, "127.0.0.1")) end
    assert(udp:send_to("all", GROUP .. ":" .. port_of(one)))
    for _, member in ipairs { one, two } do assert.are.equal("all", (member:recv(PATIENCE))) end
  end)

  -- By the loopback interface it would come back all the same.
  it("stays off this host without multicast_loop", function()
    local output = isolated(VETH .. "ip addr add 10.9.9.1/24 dev v0", [[
      local member, udp = assert(wire.udp "0.0.0.0:0"), assert(wire.udp "10.9.9.1:0")
      local _, _, port = member:local_addr()
      local to = "239.255.7.7:" .. port
      assert(member:join("239.255.7.7", "10.9.9.1"))
      assert(udp:option("multicast_interface", 3))
      assert(udp:option("multicast_loop", false))
      assert(udp:send_to("unheard", to))
      print(udp:option "multicast_loop")
      assert(udp:option("multicast_loop", true))
      assert(udp:send_to("heard", to))
      print((member:recv(10)))]])
    assert.are.equal("false\nheard\n", output)
  end)

  it("of IPv6 comes as well, its interface named or in the address", function()
    local output = isolated(VETH .. "ip addr add fe80::1/64 dev v0 nodad", [[
      local member, other = assert(wire.udp "[::]:0"), assert(wire.udp "[::]:0")
      assert(member:join("ff02::4242", "v0"))
      assert(other:join("ff02::4242%v0"))
      local udp = assert(wire.udp())
      for _, m in ipairs { member, other } do
        local _, _, port = m:local_addr()
        assert(udp:send_to("six", "[ff02::4242%v0]:" .. port))
        print(m:recv(10))
      end
      assert(udp:option("multicast_interface", "v0"))
      assert(member:leave("ff02::4242", "v0"))
      print(select(3, member:leave("ff02::4242", "v0")))]])
    assert.are.equal("six\tfalse\nsix\tfalse\nEADDRNOTAVAIL\n", output)
  end)

  it("needs a group, an interface that is there, and the socket's family", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local message = fails("EINVAL", udp:join("localhost"))
    assert.are.equal("join localhost: not an IP address", message)
    fails("EINVAL", udp:join("127.0.0.1", "lo"))
    assert.are.equal("join 239.1.1.1: no such device",
      (fails("ENODEV", udp:join("239.1.1.1", "nosuch0"))))
    fails("ENODEV", udp:join("239.1.1.1", "192.0.2.1"))
    fails("ENODEV", udp:join("239.1.1.1", 4000000000))
    fails("ENODEV", udp:option("multicast_interface", "nosuch0"))
    fails("EAFNOSUPPORT", udp:join("ff02::1", "lo"))
    fails("EADDRNOTAVAIL", udp:leave(GROUP, "lo"))
    assert(udp:join(GROUP, "lo"))
    fails("EADDRINUSE", udp:join(GROUP, "lo"))
    support.raises("interface is a name", udp.join, udp, GROUP, "")
    support.raises("string expected, got boolean", udp.join, udp, GROUP, true)
  end)
end)

describe("udp: broadcast", function()
  it("has to be allowed, then reaches all on the net", function()
    local member <close> = assert(wire.udp "0.0.0.0:0")
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local to = "127.255.255.255:" .. port_of(member)
    fails("EACCES", udp:send_to("x", to))
    assert.is_false(udp:option "broadcast")
    assert.is_true(udp:option("broadcast", true))
    assert.is_true(udp:option "broadcast")
    assert(udp:send_to("all", to))
    assert.are.equal("all", (member:recv(PATIENCE)))
    local allowed <close> = assert(wire.udp("127.0.0.1:0", { broadcast = true }))
    assert(allowed:send_to("again", to))
    assert.are.equal("again", (member:recv(PATIENCE)))
  end)
end)

-- ---- the system's queues -------------------------------------------------------------

describe("udp: queues", function()
  it("that are full drop the newest, and drops counts them", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local b <close> = assert(wire.udp("127.0.0.1:0", { recv_buffer = 4096 }))
    local sent <const>, to = 500, (b:local_addr())
    for i = 1, sent do assert(udp:send_to(i, to)) end
    local received = 0
    while true do
      local data = b:recv(0)
      if not data then break end
      received = received + 1
      assert.are.equal(tostring(received), data)
    end
    assert.is_true(received > 0 and received < sent)
    local stats = b:stats()
    assert.are.equal(received, stats.datagrams_in)
    assert.are.equal(sent - received, stats.drops)
    assert.are.equal(sent, udp:stats().datagrams_out)
    b:close()
    assert.are.equal(sent - received, b:stats().drops)
  end)

  it("hold more with the option queue, which the socket reads ahead", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local b <close> = assert(wire.udp("127.0.0.1:0", { recv_buffer = 4096, queue = 100 }))
    local to = b:local_addr()
    for i = 1, 100 do
      assert(udp:send_to(i, to))
      local limit = wire.now() + PATIENCE
      while b:stats().queued < i and wire.now() < limit do wire.sleep(0) end
    end
    assert.are.equal(100, b:stats().queued)
    assert.are.equal(0, b:stats().datagrams_in)
    for i = 1, 100 do assert.are.equal(tostring(i), (b:recv(0))) end
    assert.are.same({ 0, 0, 100 },
      { b:stats().queued, b:stats().drops, b:stats().datagrams_in })
  end)

  it("of the sending side make a send wait, for as long as it may", function()
    local output = isolated(
      "tc qdisc add dev lo root tbf rate 1mbit burst 2kb latency 20s", [[
      local receiver = assert(wire.udp("127.0.0.1:0", { recv_buffer = 1000000 }))
      local udp = assert(wire.udp("127.0.0.1:0", { send_buffer = 5000 }))
      local to, data = receiver:local_addr(), ("x"):rep(1000)
      local function fill(timeout) -- until the buffer is full -> why it was not taken
        for _ = 1, 1000 do
          local n, message, code = udp:send_to(data, to, timeout)
          if not n then return code end
        end
      end
      print(fill(0))
      udp:set_send_deadline(wire.now())
      print(fill())
      udp:set_send_deadline(nil)
      local before = udp:stats().datagrams_out
      local waiting = wire.spawn(function() return udp:send_to("the first in line", to) end)
      local next = wire.spawn(function() return udp:send_to("the second", to) end)
      print(waiting:join())
      print(next:join())
      print(udp:stats().datagrams_out - before)
      local got
      for i = 1, before + 1 do got = assert(receiver:recv(20)) end
      print(got, (receiver:recv(20)))
      local last -- of more than leave while they begin to wait
      for _ = 1, 50 do last = wire.spawn(function() return udp:send_to(data, to) end) end
      wire.sleep(0)
      udp:close()
      print(select(4, last:join()))]])
    assert.are.equal("ETIMEDOUT\nETIMEDOUT\ntrue\t17\ntrue\t10\n2\n"
      .. "the first in line\tthe second\nECLOSED\n", output)
  end, 30)
end)

-- ---- options -------------------------------------------------------------------------

describe("udp: options", function()
  it("are read and set", function()
    for _, at in ipairs { "127.0.0.1:0", ":0" } do
      local udp <close> = assert(wire.udp(at))
      for name, value in pairs { ttl = 7, multicast_ttl = 3, tos = 16 } do
        assert.is_true(udp:option(name, value))
        assert.are.equal(value, udp:option(name), name .. " at " .. at)
      end
      for _, name in ipairs { "recv_buffer", "send_buffer" } do
        assert.is_true(udp:option(name, 10000))
        assert.is_true(udp:option(name) >= 10000)
      end
      assert.is_true(udp:option "multicast_loop")
    end
  end)

  it("given at the beginning are those of the socket", function()
    local plain <close> = assert(wire.udp "127.0.0.1:0")
    local udp <close> = assert(wire.udp("127.0.0.1:0",
      { recv_buffer = 20000, send_buffer = 30000, broadcast = true }))
    assert.are_not.equal(plain:option "recv_buffer", udp:option "recv_buffer")
    assert.is_true(udp:option "recv_buffer" < udp:option "send_buffer")
    assert.is_true(udp:option "broadcast")
  end)

  it("say what they can hold", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    support.raises("must be from 0 to 255", udp.option, udp, "ttl", 256)
    support.raises("must be from 1 to", udp.option, udp, "recv_buffer", 0)
    support.raises("boolean expected", udp.option, udp, "broadcast", 1)
    support.raises("interface expected", udp.option, udp, "multicast_interface", nil)
    support.raises("can only be set", udp.option, udp, "multicast_interface")
    local message = fails("EINVAL", udp:option("ttl", 0))
    assert.truthy(message:find("option ttl 127.0.0.1:", 1, true), message)
  end)

  it("let IPv6 alone have a port beside IPv4", function()
    local six <close> = wire.udp("[::]:0", { ipv6_only = true })
    if not six then return end
    local four <close> = assert(wire.udp("0.0.0.0:" .. port_of(six)))
    assert(four)
    fails("EAFNOSUPPORT", six:send_to("x", "127.0.0.1:1"))
  end)
end)

describe("a name with many addresses", function()
  it("of the other family only is EAFNOSUPPORT, however many they are", function()
    local hosts = {}
    for i = 1, 150 do hosts[i] = ("fd00::%x many"):format(i) end
    local output = namespace.run(table.concat(hosts, "\n") .. "\n", [[
      local udp <close> = assert(wire.udp "127.0.0.1:0")
      print(select(3, udp:send_to("x", "many:9")), select(3, udp:connect "many:9"))
    ]])
    assert.equal("EAFNOSUPPORT\tEAFNOSUPPORT", output)
  end)
end)
