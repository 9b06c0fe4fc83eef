-- Bad input: each kind fails with its own code or error and a message that names the operation
-- and the address, and nothing that was received is lost.
-- What this is not: how good input is received and sent.
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local KIB = 1024

-- A failed call returned nil, a message that begins with its name and the address, and a code.
local function check_failed(what, address, code, ...)
  local result, message, got = ...
  assert.is_nil(result)
  assert.equal(code, got, message)
  local begin = what .. " " .. address .. ": "
  assert.equal(begin, message:sub(1, #begin))
  assert.is_true(#message > #begin, "no reason in the message")
end

-- Runs body with both ends of each transport, and the address that messages of the second show.
local function over_each(title, body, opts)
  for _, transport in ipairs(support.transports) do
    it(title .. " (" .. transport.name .. ")", function()
      local a, b = transport.pair(opts and opts())
      body(a, b, (b:remote_addr()))
      a:close()
      b:close()
    end, 20)
  end
end

-- Raises with exactly this text behind the position.
local function check_misuse(text, call, ...)
  local ok, err = pcall(call, ...)
  assert.is_false(ok, "not refused: expected " .. text)
  assert.truthy(tostring(err):find(text, 1, true), tostring(err))
end

-- Everything that was sent is still there.
local function check_nothing_lost(conn, bytes) assert.equal(bytes, conn:recv(#bytes, 5)) end

describe("a line over its limit", function()
  over_each("of 64 KiB without its newline is a line", function(a, b)
    for _, newline in ipairs { "\n", "\r\n" } do
      a:send(("x"):rep(64 * KIB), newline)
      assert.equal(64 * KIB, #assert(b:recv_line(5)))
    end
  end)

  over_each("of one byte more is EMSGSIZE and not consumed", function(a, b, peer)
    local long = ("x"):rep(64 * KIB + 1)
    a:send(long, "\nnext\n")
    check_failed("recv_line", peer, "EMSGSIZE", b:recv_line(5))
    check_failed("recv_line", peer, "EMSGSIZE", b:recv_line(5))
    assert.equal(long, b:recv_line { timeout = 5, max = 64 * KIB + 1 })
    assert.equal("next", b:recv_line(5))
  end)

  over_each("that has no end yet is EMSGSIZE, and every byte of it stays", function(a, b, peer)
    local long = ("x"):rep(64 * KIB + 10)
    a:send(long)
    check_failed("recv_line", peer, "EMSGSIZE", b:recv_line(5))
    check_nothing_lost(b, long)
  end)

  over_each("is discarded up to its newline with skip", function(a, b, peer)
    a:send(("x"):rep(200 * KIB), "\nnext\n", ("y"):rep(70 * KIB), "\nlast\n")
    check_failed("recv_line", peer, "EMSGSIZE", b:recv_line(5))
    assert.equal("next", b:recv_line { timeout = 5, skip = true })
    assert.equal("last", b:recv_line { timeout = 5, skip = true })
  end)

  over_each("is measured per line, not per connection", function(a, b)
    for i = 1, 300 do a:send(("x"):rep(1000), i, "\n") end
    for i = 1, 300 do
      assert.equal(("x"):rep(1000) .. i, b:recv_line { timeout = 5, max = 1024 })
    end
  end)

  over_each("ends lines(), and last_error tells", function(a, b, peer)
    a:send "short\nmuch longer\nnext\n"
    local got = {}
    for line in b:lines { max = 5, timeout = 5 } do got[#got + 1] = line end
    assert.same({ "short" }, got)
    local message, code = b:last_error()
    assert.equal("EMSGSIZE", code)
    assert.truthy(message:find(peer, 1, true))
    check_nothing_lost(b, "much longer\nnext\n")
  end)

  over_each("of the connection: a partial table changes only its keys", function(a, b, peer)
    a:send(("x"):rep(11), "\n")
    check_failed("recv_line", peer, "EMSGSIZE", b:recv_line(5))
    assert.equal(12, #b:recv(12, 5))
    a:send_pkg(("y"):rep(60000))
    assert.equal(60000, #b:recv_pkg(5))
  end, function() return { limits = { line = 10 } } end)

  over_each("until a delimiter is EMSGSIZE and not consumed", function(a, b, peer)
    a:send "123456789--next--"
    check_failed("recv_until", peer, "EMSGSIZE", b:recv_until("--", { max = 8, timeout = 5 }))
    assert.equal("123456789", b:recv_until("--", { max = 9, timeout = 5 }))
    assert.equal("next", b:recv_until("--", 5))
  end)

  over_each("of everything is EMSGSIZE and not consumed", function(a, b, peer)
    a:send(("z"):rep(1001))
    a:close()
    check_failed("read", peer, "EMSGSIZE", b:read "a")
    check_nothing_lost(b, ("z"):rep(1001))
  end, function() return { limits = { all = 1000 } } end)
end)

describe("a package over its limit", function()
  over_each("fails by its header alone, before its data came", function(a, b, peer)
    a:send(string.pack(">I4", 1024 * KIB + 1))
    check_failed("recv_pkg", peer, "EMSGSIZE", b:recv_pkg { header = 4, timeout = 5 })
  end)

  over_each("does not desynchronise the stream: framed reads refuse", function(a, b, peer)
    local bytes = string.pack(">s2", ("x"):rep(20)) .. string.pack(">s2", "innocent")
    a:send(bytes)
    check_failed("recv_pkg", peer, "EMSGSIZE", b:recv_pkg { max = 19, timeout = 5 })
    check_failed("recv_pkg", peer, "EPROTO", b:recv_pkg(5))
    check_failed("recv_pkg", peer, "EPROTO", b:recv_pkg { max = 1000, timeout = 5 })
    check_failed("recv_frame", peer, "EPROTO", b:recv_frame(5))
    check_nothing_lost(b, bytes)
  end, function() return { framing = wire.framing.length { size = 2 } } end)

  over_each("of exactly the limit is received", function(a, b)
    a:send_pkg(("x"):rep(19))
    a:send_pkg("")
    assert.equal(("x"):rep(19), b:recv_pkg { max = 19, timeout = 5 })
    assert.equal("", b:recv_pkg { max = 19, timeout = 5 })
  end)

  over_each("of the connection counts for every header size", function(a, b, peer)
    for size = 1, 4 do a:send(string.pack(">s" .. size, ("x"):rep(50))) end
    for size = 1, 4 do assert.equal(("x"):rep(50), b:recv_pkg { header = size, timeout = 5 }) end
    a:send(string.pack(">s3", ("x"):rep(51)))
    check_failed("recv_pkg", peer, "EMSGSIZE", b:recv_pkg { header = 3, timeout = 5 })
  end, function() return { limits = { frame = 50 } } end)

  over_each("ends pkgs(), and last_error tells", function(a, b)
    a:send_pkg "ab"
    a:send_pkg "abcd"
    local got = {}
    for package in b:pkgs { max = 3, timeout = 5 } do got[#got + 1] = package end
    assert.same({ "ab" }, got)
    assert.equal("EMSGSIZE", select(2, b:last_error()))
  end)

  over_each("that its header cannot count is not sent at all", function(a, b)
    check_failed("send_pkg", (a:remote_addr()), "EMSGSIZE", a:send_pkg(("x"):rep(65536)))
    check_failed("send_pkg", (a:remote_addr()), "EMSGSIZE",
      a:send_pkg(("x"):rep(256), { header = 1 }))
    assert(a:send_pkg "good")
    assert.equal("good", b:recv_pkg(5))
  end)

  -- Address space, not memory that was touched: what malloc would have been asked for.
  local function address_space()
    for line in io.lines "/proc/self/status" do
      local kib = line:match "^VmSize:%s+(%d+)"
      if kib then return tonumber(kib) end
    end
  end

  it("that is announced at the limit, and never comes, takes no memory of its size", function()
    local conns, readers, before = {}, {}, address_space()
    for i = 1, 100 do
      local a, b = wire.pipe()
      a:send(string.pack(">I4", 1024 * KIB), "start")
      readers[i] = wire.spawn(b.recv_pkg, b, { header = 4 })
      conns[2 * i - 1], conns[2 * i] = a, b
    end
    wire.sleep(0.01)
    local grown = address_space() - before
    assert.is_true(grown < 32 * KIB, grown .. " KiB for 100 announcements of 1 MiB")
    for _, conn in ipairs(conns) do conn:close() end
    for _, reader in ipairs(readers) do reader:join(5) end
  end)
end)

describe("a count", function()
  over_each("that is negative, nil or no integer is misuse, and nothing is lost", function(a, b)
    a:send "kept\n"
    for _, count in ipairs { -1, math.mininteger, 1.5, 0 / 0, math.huge, true } do
      assert.is_false(pcall(b.recv, b, count))
    end
    check_misuse("negative", b.recv, b, -1)
    assert.is_false(pcall(b.recv, b, nil))
    for _, name in ipairs { "recv_some", "peek", "read" } do
      assert.is_false(pcall(b[name], b, -1), name)
    end
    check_nothing_lost(b, "kept\n")
  end)

  over_each("of a header outside 1 to 4 is misuse", function(a, b)
    for _, header in ipairs { 0, 5, -1, 1.5, "two" } do
      assert.is_false(pcall(b.recv_pkg, b, { header = header }), "recv_pkg")
      assert.is_false(pcall(a.send_pkg, a, "x", { header = header }), "send_pkg")
    end
    a:send "kept"
    check_nothing_lost(b, "kept")
  end)

  over_each("of zero is the empty string at once", function(_, b)
    assert.equal("", b:recv(0))
    assert.equal("", b:recv(0, { timeout = 0 }))
  end)
end)

describe("an unknown option", function()
  local meant = "unknown option 'timout' (did you mean 'timeout'?)"

  over_each("raises from every receiving call, and nothing is lost", function(a, b)
    a:send "kept"
    local wrong = { timout = 1 }
    for _, name in ipairs { "recv_line", "recv_pkg", "recv", "lines", "pkgs", "chunks" } do
      check_misuse(meant, b[name], b, wrong)
    end
    check_misuse(meant, b.recv, b, 4, wrong)
    check_misuse(meant, b.recv_some, b, 4, wrong)
    check_misuse(meant, b.recv_until, b, "x", wrong)
    check_misuse(meant, b.peek, b, 4, wrong)
    check_nothing_lost(b, "kept")
  end)

  over_each("raises from every sending call, and nothing is sent", function(a, b)
    local wrong = { timout = 1 }
    check_misuse(meant, a.send, a, "x", wrong)
    check_misuse(meant, a.send_pkg, a, "x", wrong)
    check_misuse(meant, a.send_recv, a, "x", 1, wrong)
    check_misuse(meant, a.send_recv_pkg, a, "x", wrong)
    a:close()
    assert.equal("EOF", select(3, b:recv(1, 5)))
  end)

  it("raises from connect, listen, serve and pipe", function()
    check_misuse(meant, wire.connect, "127.0.0.1:1", { timout = 1 })
    check_misuse(meant, wire.listen, "127.0.0.1:0", { timout = 1 })
    check_misuse(meant, wire.serve, "127.0.0.1:0", { timout = 1 }, print)
    check_misuse("unknown option 'framign' (did you mean 'framing'?)", wire.pipe,
      { framign = wire.framing.line() })
    check_misuse("unknown option 'lien' (did you mean 'line'?)", wire.pipe,
      { limits = { lien = 5 } })
    check_misuse("unknown option 'no_such_thing'", wire.pipe, { no_such_thing = true })
  end)

  it("of the wrong type raises and names it", function()
    check_misuse("'timeout'", wire.connect, "127.0.0.1:1", { timeout = "soon" })
    check_misuse("'limits'", wire.pipe, { limits = 5 })
    check_misuse("'line'", wire.pipe, { limits = { line = "long" } })
    check_misuse("'line'", wire.pipe, { limits = { line = -1 } })
    check_misuse("framing", wire.pipe, { framing = "line" })
  end)
end)

describe("an address", function()
  local bad = { "", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536",
    "127.0.0.1:-1", "127.0.0.1: 80", "1:2:3", "::1:80", "[::1]", "[::1:80", "[127.0.0.1]:80",
    "[::1]80", ("x"):rep(300) .. ":80" }

  it("that is none is EINVAL, names itself and says what is wrong with it", function()
    for _, address in ipairs(bad) do
      check_failed("connect", address, "EINVAL", wire.connect(address))
      check_failed("listen", address, "EINVAL", wire.listen(address))
      local server, message, code = wire.serve(address, print)
      assert.is_nil(server)
      assert.equal("EINVAL", code)
      assert.truthy(message:find(address, 1, true))
    end
  end)

  it("with a zero byte is EINVAL", function()
    assert.equal("EINVAL", select(3, wire.connect "127.0.0.1:80\0"))
    assert.equal("EINVAL", select(3, wire.listen "127.0.0.1\0:80"))
  end)

  it("in a table is only ever a name or an IP address", function()
    local hosts = { "unix:/tmp/socket", "127.0.0.1:80", "a/b", "a b", "[::1]", "a\0b", "" }
    for _, host in ipairs(hosts) do
      local conn, message, code = wire.connect { host = host, port = 1 }
      assert.is_nil(conn)
      assert.matches("^connect ", message)
      assert.not_equal("ENOENT", code)
    end
    for _, port in ipairs { -1, 65536 } do
      local conn, _, code = wire.connect { host = "127.0.0.1", port = port }
      assert.is_nil(conn)
      assert.equal("EINVAL", code)
    end
  end)

  it("of a wrong type is misuse", function()
    for _, address in ipairs { 80, true, {}, { host = "127.0.0.1" }, { port = 80 },
      { host = "127.0.0.1", prot = 80 } } do
      assert.is_false(pcall(wire.connect, address))
    end
    assert.is_false(pcall(wire.connect))
  end)
end)

describe("a connect that fails", function()
  local function unused_port()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    return server:port()
  end

  it("refused is ECONNREFUSED, in the words of the manual", function()
    local address = "127.0.0.1:" .. unused_port()
    local conn, message, code = wire.connect(address)
    assert.is_nil(conn)
    assert.equal("ECONNREFUSED", code)
    assert.equal(("connect %s: connection refused"):format(address), message)
  end)

  it("with a name tries it and names what was asked for", function()
    local address = "localhost:" .. unused_port()
    check_failed("connect", address, "ECONNREFUSED", wire.connect(address))
  end)

  -- A label of more than 63 bytes is in no DNS question: the answer comes from this machine.
  it("by a name that cannot be resolved is ENOTFOUND", function()
    local address = ("x"):rep(64) .. ".invalid:80"
    check_failed("connect", address, "ENOTFOUND", wire.connect(address, 5))
  end)

  support.it_outside("does so outside any task too", function()
    local address = "127.0.0.1:" .. unused_port()
    check_failed("connect", address, "ECONNREFUSED", wire.connect(address))
  end)
end)
