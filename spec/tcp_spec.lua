-- What is TCP's alone: resets, real peers, lingering, flow control, addresses, and what
-- happens to unsent bytes when the script ends.
-- What this is not: what holds on every transport (conn_spec).
local census = require("lunewire.core").census
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local it, fails = support.it, support.fails
local plain = (os.getenv "LUNEWIRE_SUITE" or "plain") == "plain"

-- Two megabytes of which every line is different.  Made before any test: it takes a while where
-- the machine is observed, and a peer that ends waits only 5 s for us.
local ANSWER = (function()
  local lines = {}
  for i = 1, 200000 do
    lines[i] = ("%010d\n"):format(i)
  end
  return table.concat(lines)
end)()

-- Connects a program, with its standard input and output: %d is the port -> peer, Conn.
local function connect_peer(command)
  local server <close> = assert(wire.listen "127.0.0.1:0")
  local peer = support.peer((command:gsub("%%d", tostring(server:port()))))
  return peer, (assert(server:accept(5 * support.slowness)))
end

describe("a reset over TCP", function()
  it("trap: in the middle of a package is ECONNRESET, once for each call", function()
    local a, b = support.pair()
    tools.deliver(a, b, "\0\3one\0\5tw")
    local reader = wire.spawn(function()
      return tools.gather(b:pkgs())
    end)
    wire.sleep(0.01)
    a:reset()
    assert.same({ "one" }, tools.result(reader))
    assert.equal("ECONNRESET", select(2, b:last_error()))
    fails("ECONNRESET", b:recv_pkg())
  end)

  it("trap: after every byte loses nothing that had come", function()
    local stream = "\0\3one\0\0\0\5three"
    for cut = 1, #stream do
      local a, b = support.pair()
      tools.deliver(a, b, stream:sub(1, cut))
      a:reset()
      local got = ""
      for data in b:pkgs() do
        got = got .. string.pack(">s2", data)
      end
      assert.equal("ECONNRESET", select(2, b:last_error()))
      got = got .. b:recv(b:buffered())
      assert.equal(stream:sub(1, cut), got)
      fails("ECONNRESET", b:recv(1))
    end
  end)

  -- The system resets where a socket is closed with unread input.
  it("by a real peer in the middle of a package is ECONNRESET", function()
    local peer, conn = connect_peer [[bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d
      printf "\\0\\3one\\0\\5tw" >&3
      until read -t 0 -u 3; do sleep 0.01; done']]
    assert.equal("one", conn:recv_pkg(5))
    tools.put(conn, "never read")
    fails("ECONNRESET", conn:recv_pkg(5))
    assert.equal("\0\5tw", conn:recv(4))
    conn:close()
    peer:output()
  end)

  it("of a peer that is still sending ends both its directions", function()
    local a, b = support.pair()
    local reader = tools.start(a.recv, a, 1)
    b:reset()
    local result, message, code = tools.result(reader)
    fails("ECONNRESET", result, message, code)
    assert.equal("recv " .. a:remote_addr() .. ": connection reset by peer", message)
  end)

  -- Is this side's port in TIME_WAIT (state 06) with that peer's?
  local function in_time_wait(port, peer_port)
    local wanted = (":%04X [%%x]+:%04X 06 "):format(port, peer_port)
    for line in io.lines "/proc/net/tcp" do
      if line:find(wanted) then return true end
    end
    return false
  end

  it("leaves no socket in TIME_WAIT, where an orderly close leaves one", function()
    for _, way in ipairs { "reset", "close" } do
      local a, b = support.pair()
      local port, peer_port = select(3, a:local_addr()), select(3, a:remote_addr())
      a[way](a)
      fails(way == "reset" and "ECONNRESET" or "EOF", b:recv(1))
      b:close()
      tools.await(function()
        return census().links == 0
      end)
      assert.equal(way == "close", in_time_wait(port, peer_port))
      assert.is_false(in_time_wait(peer_port, port))
    end
  end)

  it("of a filled connection throws the unsent bytes away", function()
    local a, b = support.pair()
    local accepted = tools.fill(a)
    a:reset()
    local got = 0
    for chunk in b:chunks() do
      got = got + #chunk
    end
    assert.equal("ECONNRESET", select(2, b:last_error()))
    assert.is_true(got < accepted)
  end)
end)

describe("a real peer over TCP", function()
  it("trap: that sends a byte at a time is understood as any other", function()
    local peer, conn = connect_peer
      "printf 'one\\r\\ntwo\\n\\0\\5threeEND1234' | socat -u -b1 - TCP:127.0.0.1:%d,nodelay"
    assert.equal("one", conn:recv_line(5))
    assert.equal("two", conn:recv_line(5))
    assert.equal("three", conn:recv_pkg(5))
    assert.equal("", conn:recv_until("END", 5))
    assert.equal("1234", conn:recv(4, 5))
    fails("EOF", conn:recv(1, 5))
    conn:close()
    peer:output()
  end)

  it("that ends its side gets the answer all the same", function()
    local peer, conn = connect_peer "printf 'question' | nc -N 127.0.0.1 %d"
    assert.equal("question", conn:read "a")
    conn:send "answer"
    conn:close()
    assert.equal("answer", peer:output())
  end)

  it("trap: that never had its own input read gets an answer of 2 MB whole", function()
    local peer, conn = connect_peer "head -c 300000 /dev/zero | nc -N 127.0.0.1 %d"
    conn:recv(1, 5)
    conn:send(ANSWER)
    conn:close()
    assert.is_true(ANSWER == peer:output())
  end)

  it("trap: that never had its one line read gets an answer of 2 MB whole", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      assert(conn:peek(1, 5))
      conn:send(ANSWER)
    end))
    local client = assert(wire.connect(server:addr()))
    tools.put(client, "GET / HTTP/1.0\r\n\r\n")
    wire.sleep(0.05)
    assert.is_true(ANSWER == client:recv(#ANSWER))
    fails("EOF", client:recv(1))
  end)
end)

describe("lingering over TCP", function()
  it("trap: takes what the peer still sends, so that no answer is lost to a reset", function()
    local a, b = support.pair()
    a:send(ANSWER)
    a:close()
    local parts, left = {}, #ANSWER
    while left > 0 do
      assert(b:send(("x"):rep(20000)))
      parts[#parts + 1] = assert(b:recv(math.min(left, 100000)))
      left = left - #parts[#parts]
    end
    assert.is_true(ANSWER == table.concat(parts))
    fails("EOF", b:recv(1))
  end)

  it("ends after 2 s though the peer never ends its side", function()
    local a, b = support.pair()
    a:send "bye"
    local elapsed = tools.timed(function()
      a:close()
      tools.await(function()
        return census().links <= 1
      end)
    end)
    tools.took(2, elapsed)
    assert.equal("bye", b:recv(3))
    fails("EOF", b:recv(1))
  end)

  it("ends as soon as the peer ends its side", function()
    local a, b = support.pair()
    a:close()
    b:close()
    local elapsed = tools.timed(tools.await, function()
      return census().links == 0
    end)
    assert.is_true(elapsed < 1.5, elapsed)
  end)

  it("resets a peer that takes nothing for 10 s", function()
    local a, b = support.pair()
    local accepted = tools.fill(a)
    a:close()
    wire.sleep(8)
    assert.equal(2, census().links)
    local give_up = wire.now() + 10
    repeat
      wire.sleep(0.1)
    until census().links == 1 or wire.now() > give_up
    assert.equal(1, census().links)
    local got = 0
    for chunk in b:chunks() do
      got = got + #chunk
    end
    assert.equal("ECONNRESET", select(2, b:last_error()))
    assert.is_true(got < accepted)
  end, 30)
end)

-- Both ends in one process: a writer as fast as it can, a reader that takes a rest after each
-- mebibyte.  Prints the bytes that came in order, the most that was unsent and buffered, and
-- by how many KiB the process grew.
local FLOW = [[
local wire = require "lunewire"
local TOTAL, BLOCK = ..., 64 * 1024
TOTAL = TOTAL // BLOCK

local function status(key)
  for line in io.lines "/proc/self/status" do
    local n = line:match("^" .. key .. ":%s+(%d+)")
    if n then return tonumber(n) end
  end
end

local server = assert(wire.listen "127.0.0.1:0")
local writer = assert(wire.connect(server:addr()))
local reader = assert(server:accept())
local unsent, buffered, good = 0, 0, 0
local before = status "VmRSS"

wire.spawn(function()
  for i = 1, TOTAL do
    assert(writer:send(("%08d"):format(i), ("x"):rep(BLOCK - 8)))
    unsent = math.max(unsent, writer:stats().unsent)
  end
  writer:close()
end)

wire.run(function()
  for i = 1, TOTAL do
    local block = assert(reader:recv(BLOCK))
    if tonumber(block:sub(1, 8)) == i and block:sub(9) == ("x"):rep(BLOCK - 8) then
      good = good + #block
    end
    if i % 16 == 0 then wire.sleep(0.001) end
    buffered = math.max(buffered, reader:buffered())
  end
  assert(select(3, reader:recv(1)) == "EOF")
end)
print(good, unsent, buffered, status "VmHWM" - before)
]]

describe("100 MiB over TCP to a slow reader", function()
  local KIB = 1024
  local total = (plain and 100 or 16) * KIB * KIB
  local good, unsent, buffered, growth

  it("arrive whole", function()
    local output, exit = support.lua(FLOW, total):output()
    assert.equal(0, exit, output)
    good, unsent, buffered, growth = output:match "(%d+)%s+(%d+)%s+(%d+)%s+(-?%d+)"
    assert.equal(total, tonumber(good), output)
  end, 60)

  it("trap: keep within high water plus the one message that crossed it", function()
    assert.is_true(tonumber(unsent) > 0, "nothing ever waited: the test says nothing")
    assert.is_true(tonumber(unsent) <= 256 * KIB + 64 * KIB, unsent)
  end)

  it("keep what is read ahead of the reader within 64 KiB", function()
    assert.is_true(tonumber(buffered) > 0, "nothing was read ahead: the test says nothing")
    assert.is_true(tonumber(buffered) <= 64 * KIB, buffered)
  end)

  -- The bound: 4 MiB for both ends, of which Lua's own blocks of 64 KiB are the most; what
  -- passes through is 25 times that.  An observed process has another size.
  it("grow the process by less than 4 MiB", function()
    if not plain then return end
    assert.is_true(tonumber(growth) < 4 * KIB, growth)
  end)
end)

describe("the facts of a TCP connection:", function()
  it("each end names the other, also after the close", function()
    local a, b = support.pair()
    for _ = 1, 2 do
      local text, host, port = a:local_addr()
      assert.equal("127.0.0.1", host)
      assert.equal("integer", math.type(port))
      assert.equal("127.0.0.1:" .. port, text)
      assert.same({ text, host, port }, { b:remote_addr() })
      assert.same({ b:local_addr() }, { a:remote_addr() })
      a:close()
      b:close()
      tools.await(function()
        return census().links == 0
      end)
    end
  end)

  it("an IPv6 address is in brackets with its port", function()
    local server <close> = assert(wire.listen "[::1]:0")
    local a = assert(wire.connect(server:addr()))
    local text, host, port = a:remote_addr()
    assert.same({ "[::1]:" .. server:port(), "::1", server:port() }, { text, host, port })
    a:close()
    assert.equal("::1", select(2, a:local_addr()))
  end)

  it("socket is the descriptor, and -1 once closed", function()
    local a, b = support.pair()
    assert.equal("integer", math.type(a:socket()))
    assert.is_true(a:socket() > 2 and b:socket() > 2 and a:socket() ~= b:socket())
    a:close()
    b:reset()
    assert.equal(-1, a:socket())
    assert.equal(-1, b:socket())
  end)

  it("a descriptor is given back when the connection is", function()
    local a, b = support.pair()
    local before = { a:socket(), b:socket() }
    a:reset()
    b:reset()
    tools.await(function()
      return census().links == 0
    end)
    a, b = support.pair()
    local after = { a:socket(), b:socket() }
    table.sort(before)
    table.sort(after)
    assert.same(before, after)
  end)
end)

describe("a failed connect", function()
  local function unused_port()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    return server:port()
  end

  it("names the operation, the address and what was wrong", function()
    local refused = "127.0.0.1:" .. unused_port()
    local nowhere = ("x"):rep(64) .. ".invalid:80" -- no DNS question can ask for that label
    local cases = {
      { refused, "ECONNREFUSED", "connection refused" },
      { "127.0.0.1", "EINVAL", "." },
      { nowhere, "ENOTFOUND", "no such host" },
    }
    for _, case in ipairs(cases) do
      local message = fails(case[2], wire.connect(case[1], 5))
      assert.equal("connect " .. case[1] .. ": ", message:sub(1, #case[1] + 10))
      assert.matches(case[3], message:sub(#case[1] + 11))
    end
  end)

  -- A full queue of connections that nobody accepts drops the first packet of the next one.
  it("trap: that nobody answers is ETIMEDOUT at the end of its budget", function()
    local server <close> = assert(wire.listen("127.0.0.1:0", { backlog = 1 }))
    local held, last = {}
    repeat
      last = table.pack(tools.timed(wire.connect, server:addr(), { timeout = 0.2 }))
      held[#held + 1] = last[2]
    until not last[2] or #held > 600
    local message = fails("ETIMEDOUT", table.unpack(last, 2, last.n))
    assert.equal("connect " .. server:addr() .. ": timed out", message)
    tools.took(0.2, last[1])
  end)
end)

-- A script that connects to the address that it is given and sends 2 MB of numbered lines.
local SENDER = [[
local wire = require "lunewire"
local lines = {}
for i = 1, 200000 do lines[i] = ("%%010d\n"):format(i) end
local conn
local function main(address)
  conn = assert(wire.connect(address))
  conn:send(lines)
  %s
end
%s
]]

describe("2 MB that a script sends over TCP as it ends", function()
  local ways = {
    { "without a close", "", "main(...)" },
    { "with a close", "conn:close()", "main(...)" },
    { "in a task, without a close", "", "wire.run(main, ...)" },
    { "in a task, with a close", "conn:close()", "wire.run(main, ...)" },
    { "by <close>", "local scoped <close> = conn", "main(...)" },
    { "by os.exit, closing the state", "os.exit(0, true)", "main(...)" },
    { "by an error", "error 'on purpose'", "main(...)" },
  }
  for _, way in ipairs(ways) do
    it("arrive whole " .. way[1], function()
      local server <close> = assert(wire.listen "127.0.0.1:0")
      local child = support.lua(SENDER:format(way[2], way[3]), server:addr())
      local conn <close> = assert(server:accept(5 * support.slowness))
      conn:set_timeout(5 * support.slowness)
      wire.sleep(0.1) -- longer than it takes to send what the system will hold
      assert.is_true(ANSWER == conn:read "a")
      fails("EOF", conn:recv(1))
      conn:close()
      local output, exit = child:output()
      assert.equal(way[2]:find "error" and 1 or 0, exit, output)
    end)
  end

  it("arrive whole though the peer sends all the while", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local child = support.lua(SENDER:format("conn:close()", "main(...)"), server:addr())
    local conn = assert(server:accept(5 * support.slowness))
    local noise = wire.spawn(function()
      while conn:send(("x"):rep(1000)) do
        wire.sleep(0.001)
      end
    end)
    local got, message = conn:recv(2200000, 30)
    assert.is_true(ANSWER == got, message)
    conn:close()
    tools.result(noise)
    assert.equal(0, select(2, child:output()))
  end)

  support.it_outside("are handed over before close returns outside any task", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local peer = support.peer("nc -d 127.0.0.1 " .. server:port())
    local conn = assert(server:accept(5 * support.slowness))
    conn:send(ANSWER)
    conn:close()
    assert.equal(0, conn:stats().unsent)
    assert.is_true(ANSWER == peer:output())
  end)
end)
