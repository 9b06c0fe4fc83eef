-- Connecting: all addresses of a name side by side, what a failure says, the local address, and
-- what a connect that is given up leaves behind.
-- What this is not: looking up names (resolve_spec), the connection that comes of it.
local census = require("lunewire.core").census
local namespace = require "spec.namespace"
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local it, fails = support.it, support.fails
local slowness = support.slowness

local function unused_port()
  local server <close> = assert(wire.listen "127.0.0.1:0")
  return server:port()
end

-- Waits until nothing is left but so many links, and no dial.
local function back_to(links)
  assert.equal(0, census().dials)
  tools.await(function()
    return census().links == links
  end)
end

-- Listens, but answers no connection more, as its queue is full -> server, the connections in
-- its queue.
local function deaf_server(address)
  local links = census().links
  local server = assert(wire.listen(address, { backlog = 1 }))
  local held = {}
  repeat
    local conn = wire.connect(server:addr(), 0.1)
    held[#held + 1] = conn
  until not conn
  back_to(links + 1 + #held)
  return server, held
end

local function reset_all(conns)
  for _, conn in pairs(conns) do conn:reset() end
end

-- ---- which address --------------------------------------------------------------------

describe("a connect to this host, which has two addresses,", function()
  it("trap: goes through the second where the first does not answer", function()
    local deaf <close>, held = deaf_server "127.0.0.1:0"
    local good <close> = assert(wire.listen("[::1]:" .. deaf:port()))
    local links = census().links
    local elapsed, conn = tools.timed(wire.connect, ":" .. deaf:port())
    assert(conn)
    assert.equal(good:addr(), conn:remote_addr())
    assert.is_true(elapsed >= 0.25, "before its turn: " .. elapsed)
    assert.is_true(elapsed < 0.25 + 0.5 * slowness, "too late: " .. elapsed)
    conn:reset()
    back_to(links)
    reset_all(held)
  end)

  it("goes through the second at once where the first refuses", function()
    local good <close> = assert(wire.listen "[::1]:0")
    local conn <close> = assert(wire.connect(":" .. good:port()))
    assert.equal(good:addr(), conn:remote_addr())
  end)

  -- Both queues are emptied while both attempts are under way; their next packets, after a
  -- second, find the loop busy, which then sees both up in one look.
  it("trap: resets the one that came second", function()
    local a <close>, held_a = deaf_server "127.0.0.1:0"
    local b <close>, held_b = deaf_server("[::1]:" .. a:port())
    local links = census().links
    local dial = wire.spawn(wire.connect, ":" .. a:port())
    tools.await(function()
      return census().links == links + 2
    end)
    local accepted = {}
    for i = 1, #held_a do accepted[i] = assert(a:accept(5)) end
    for i = 1, #held_b do accepted[#held_a + i] = assert(b:accept(5)) end
    local end_of_work = wire.now() + 1.5
    repeat until wire.now() > end_of_work
    local winner = tools.result(dial)
    local at_a, at_b = assert(a:accept(5)), assert(b:accept(5))
    local won = winner:remote_addr() == a:addr()
    local chosen, other = won and at_a or at_b, won and at_b or at_a
    fails("ECONNRESET", other:recv(1, 5))
    tools.put(winner, "x")
    assert.equal("x", chosen:recv(1, 5))
    for _, list in ipairs { held_a, held_b, accepted, { winner, chosen } } do reset_all(list) end
  end)
end)

-- ---- what a failure says --------------------------------------------------------------

describe("a failed connect to several addresses", function()
  it("lists each attempt and has the last one's code", function()
    local port = unused_port()
    local message = fails("ECONNREFUSED", wire.connect(":" .. port))
    assert.equal(("connect :%d: 127.0.0.1:%d: connection refused; [::1]:%d: connection refused")
      :format(port, port, port), message)
  end)

  it("by timeout says what was tried, and what was not", function()
    local a <close>, held_a = deaf_server "127.0.0.1:0"
    local b <close>, held_b = deaf_server("[::1]:" .. a:port())
    local port, links = a:port(), census().links
    local elapsed, result, message, code = tools.timed(wire.connect, ":" .. port, 0.6)
    fails("ETIMEDOUT", result, message, code)
    assert.equal(("connect :%d: timed out; tried 127.0.0.1:%d: no answer; [::1]:%d: no answer")
      :format(port, port, port), message)
    tools.took(0.6, elapsed)
    back_to(links)

    message = fails("ETIMEDOUT", wire.connect(":" .. port, 0))
    assert.equal(("connect :%d: timed out; tried 127.0.0.1:%d: no answer; 1 not tried")
      :format(port, port), message)
    assert.equal(b:port(), port)
    back_to(links)
    reset_all(held_a)
    reset_all(held_b)
  end)
end)

describe("a cancelled connect", function()
  it("leaves none of its attempts behind", function()
    local a <close>, held_a = deaf_server "127.0.0.1:0"
    local b <close>, held_b = deaf_server("[::1]:" .. a:port())
    local links = census().links
    for attempts = 1, 2 do
      local dial = wire.spawn(wire.connect, ":" .. b:port())
      tools.await(function()
        return census().links == links + attempts
      end)
      dial:cancel()
      fails("ECANCELED", dial:join(5))
      back_to(links)
    end
    reset_all(held_a)
    reset_all(held_b)
  end)
end)

describe("a port that nobody listens on", function()
  -- The socket would be both ends: what is sent comes back.
  it("trap: is refused though the socket could meet itself there", function()
    local address = "127.0.0.1:" .. unused_port()
    local message = fails("ECONNREFUSED", wire.connect(address, { local_addr = address }))
    assert.equal(("connect %s: connection refused"):format(address), message)
  end)
end)

-- ---- the local address ----------------------------------------------------------------

describe("the local address of a connect", function()
  -- The server's word for who came.
  local function seen_by_server(local_addr)
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local client = assert(wire.connect(server:addr(), { local_addr = local_addr }))
    local conn = assert(server:accept(5))
    local text, host, port = conn:remote_addr()
    assert.equal(text, (client:local_addr()))
    client:reset()
    conn:reset()
    return host, port
  end

  it("is what the server sees", function()
    local port = unused_port()
    assert.equal("127.0.0.2", (seen_by_server "127.0.0.2:0"))
    assert.equal("127.0.0.3", (seen_by_server "127.0.0.3"))
    assert.equal("127.0.0.4", (seen_by_server { host = "127.0.0.4", port = 0 }))
    assert.same({ "127.0.0.1", port }, { seen_by_server(":" .. port) })
    assert.same({ "127.0.0.5", port }, { seen_by_server("127.0.0.5:" .. port) })
  end)

  it("leaves out the addresses of the other family", function()
    local port = unused_port()
    local message = fails("ECONNREFUSED", wire.connect(":" .. port, { local_addr = "::1" }))
    assert.equal(("connect :%d: [::1]:%d: connection refused"):format(port, port), message)
    message = fails("EAFNOSUPPORT", wire.connect("127.0.0.1:" .. port, { local_addr = "[::1]:0" }))
    assert.equal(("connect 127.0.0.1:%d: no address of the family of local_addr [::1]:0")
      :format(port), message)
  end)

  it("is named where it is taken", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local other <close> = assert(wire.listen "127.0.0.2:0")
    local message =
      fails("EADDRINUSE", wire.connect(other:addr(), { local_addr = server:addr() }))
    assert.equal(("connect %s: local_addr %s: address already in use")
      :format(other:addr(), server:addr()), message)
  end)

  it("is named where this host has no such address", function()
    local message =
      fails("EADDRNOTAVAIL", wire.connect("127.0.0.1:1", { local_addr = "192.0.2.1" }))
    assert.equal("connect 127.0.0.1:1: local_addr 192.0.2.1: address not available", message)
  end)

  it("is an address as any other, but numeric", function()
    for text, why in pairs {
      ["localhost:0"] = "not an IP address", ["127.0.0.1:65536"] = "port out of range",
      ["eth0"] = "no port",
    } do
      local message = fails("EINVAL", wire.connect("127.0.0.1:1", { local_addr = text }))
      assert.equal(("connect 127.0.0.1:1: local_addr %s: %s"):format(text, why), message)
    end
    fails("EINVAL", wire.connect("127.0.0.1:1", { local_addr = "127.0.0.1\0" }))
    support.raises("option 'local_addr' must be an address, not number",
      wire.connect, "127.0.0.1:1", { local_addr = 80 })
  end)
end)

-- ---- names, in a network of their own ---------------------------------------------------

local HOSTS = [[
127.0.0.1 several
127.0.0.2 several
::1 several
]]
for i = 1, 12 do HOSTS = HOSTS .. ("127.0.1.%d many\n"):format(i) end

describe("a name with several addresses", function()
  it("trap: connects through the one that answers", function()
    local output = namespace.run(HOSTS, [[
      local deaf = assert(wire.listen("127.0.0.1:0", { backlog = 1 }))
      local good = assert(wire.listen("127.0.0.2:" .. deaf:port()))
      while wire.connect(deaf:addr(), 0.1) do end
      local start = wire.now()
      local conn = assert(wire.connect("several:" .. deaf:port()))
      print(wire.now() - start, conn:remote_addr() == good:addr())
    ]])
    local elapsed, right = output:match "^(%S+)%s+(%a+)$"
    assert.equal("true", right, output)
    assert.is_true(tonumber(elapsed) >= 0.25, output)
    assert.is_true(tonumber(elapsed) < 0.25 + 0.6 * slowness, output)
  end)

  it("names each that failed, families in turns", function()
    local output = namespace.run(HOSTS, [[
      print(table.concat(wire.resolve "several", " "))
      print(wire.connect "several:9")
    ]])
    local order, message = output:match "^(.-)\n(.*)$"
    local refused = ": connection refused"
    local list = ({
      ["::1 127.0.0.1 127.0.0.2"] = { "[::1]:9", "127.0.0.1:9", "127.0.0.2:9" },
      ["127.0.0.1 127.0.0.2 ::1"] = { "127.0.0.1:9", "[::1]:9", "127.0.0.2:9" },
    })[order]
    assert(list, output)
    assert.equal("nil\tconnect several:9: " .. table.concat(list, refused .. "; ") .. refused ..
      "\tECONNREFUSED", message)
  end)

  it("names eight that failed and counts the others", function()
    local output = namespace.run(HOSTS, [[print(wire.connect "many:9")]])
    local message, last = output:match "^nil\t(.*)\t(%u+)$"
    assert.equal("ECONNREFUSED", last, output)
    assert.matches("^connect many:9: 127%.0%.1%.%d+:9: connection refused; ", message)
    assert.matches("refused; and 4 more$", message)
    assert.equal(8, select(2, message:gsub("connection refused", "")))
  end)

  it("trap: never meets itself where few local ports are left to choose from", function()
    local output = namespace.run(HOSTS, [[
      local range <close> = assert(io.open("/proc/sys/net/ipv4/ip_local_port_range", "w"))
      assert(range:write "40000 40003")
      assert(range:flush())
      local codes = {}
      for i = 1, 60 do
        local conn, message, code = wire.connect("127.0.0.1:" .. 40000 + i % 4)
        codes[conn and "met itself" or code] = true
      end
      print(next(codes), next(codes, (next(codes))))
    ]])
    assert.equal("ECONNREFUSED\tnil", output)
  end)
end)

describe("a connect by a name whose name server does not answer", function()
  it("trap: ends at its timeout and says that it was looking it up", function()
    local output = namespace.run(HOSTS, [[
      local start = wire.now()
      print(wire.connect("dead.example:80", 0.3))
      print(wire.now() - start, census().dials, census().links)
    ]], { dead_dns = true })
    local message, elapsed, dials, links = output:match "^nil\t(.*)\n(%S+)%s+(%d+)%s+(%d+)$"
    assert.equal("connect dead.example:80: timed out looking up the name\tETIMEDOUT", message,
      output)
    tools.took(0.3, tonumber(elapsed))
    assert.same({ "0", "0" }, { dials, links })
  end)

  it("can be cancelled and leaves nothing", function()
    local output = namespace.run(HOSTS, [[
      wire.run(function()
        local dial = wire.spawn(wire.connect, "dead.example:80")
        while census().links == 0 do wire.sleep(0.001) end
        dial:cancel()
        print(select(3, dial:join(5)), census().dials, census().links)
      end)
    ]], { dead_dns = true })
    assert.equal("ECANCELED\t0\t0", output)
  end)
end)
