-- The servers of bench/servers are what they claim to be: each mode gives every byte back, however
-- it came, and takes no more from a peer that does not read.  What was not right would not be fast.
-- What this is not: a measurement.  A server whose Debian package is missing is left out; what is
-- compiled comes from `make bench-build`.
local assert = require "luassert"
local busted = require "busted"
local bytes = require "spec.bytes"
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local describe, it, pending = busted.describe, support.it, busted.pending

local PATIENCE <const> = 10 * support.slowness
local MEGABYTE <const> = 1024 * 1024

-- ---- the servers ---------------------------------------------------------------------

local BUILD <const> = assert(package.searchpath("lunewire.core", package.cpath))
  :gsub("lunewire/core%.so$", "")

-- The interpreter of Debian, which the suite does not observe.
local DEBIAN <const> = "PATH=/usr/bin:$PATH "

-- Of these scripts only lunewire's is ours to observe, and not by valgrind: what a server holds
-- when it is killed is no leak.
local OURS <const> = ("%sLUA_PATH='%s' LUA_CPATH='%s' lua5.4 bench/servers/%%s.lua")
  :format(os.getenv "LUNEWIRE_SUITE" == "valgrind" and DEBIAN or "", package.path, package.cpath)
local THEIRS <const> = DEBIAN .. "lua5.4 bench/servers/%s.lua"

local function has_module(name)
  return package.searchpath(name, package.cpath) or package.searchpath(name, package.path)
end

local function has_program(name) return os.execute(("command -v %s >/dev/null"):format(name)) end

local STREAMS <const> = { "length", "line", "bulk", "once" }
local MODES <const> = { "length", "line", "bulk", "once", "tls", "udp" }

local function modes(more)
  local list = table.move(STREAMS, 1, #STREAMS, 1, {})
  return table.move(more, 1, #more, #list + 1, list)
end

local GO <const> = { command = BUILD .. "bench/go", version = "^Go %d+%.%d+[%d.]*$",
  modes = modes { "tls", "udp" }, package = not has_program "go" and "golang-go" }

local SERVERS <const> = {
  { name = "epoll", command = BUILD .. "bench/epoll", version = "^epoll of Linux %d",
    modes = modes { "udp" } },
  { name = "epoll_tls", command = BUILD .. "bench/epoll_tls", version = "^OpenSSL %d",
    modes = { "tls" } },
  { name = "uv", command = BUILD .. "bench/uv", version = "^libuv %d+%.%d+%.%d+$",
    modes = modes { "udp" } },
  { name = "lunewire", command = OURS:format "lunewire", version = "^lunewire .+, Lua 5%.4$",
    modes = MODES },
  { name = "lunewire, generational", command = OURS:format "lunewire", word = "generational",
    modes = MODES },
  { name = "luv", command = THEIRS:format "luv", version = "^luv on libuv [%d.]+, Lua 5%.4$",
    modes = modes { "udp" }, package = not has_module "luv" and "lua-luv" },
  { name = "cqueues", command = THEIRS:format "cqueues", version = "^cqueues %d+, Lua 5%.4$",
    modes = modes { "tls" }, package = not has_module "cqueues" and "lua-cqueues"
      or not has_module "_openssl" and "lua-luaossl" },
  { name = "Go", command = GO.command, version = GO.version, modes = GO.modes,
    package = GO.package },
  { name = "Go, flush", command = GO.command, word = "flush", modes = GO.modes,
    package = GO.package },
  { name = "Node.js", command = "node bench/servers/node.js", version = "^Node%.js %d+%.%d+%.%d+$",
    modes = modes { "tls", "udp" }, package = not has_program "node" and "nodejs" },
  -- It logs to its standard error that it has started.
  { name = "Tarantool", command = "tarantool bench/servers/tarantool.lua", quiet = " 2>/dev/null",
    version = "^Tarantool %d+%.%d+%.%d+", modes = modes { "udp" },
    package = not has_program "tarantool" and "tarantool" },
}

-- -> the address that it listens on
local function start(server, mode)
  local environment = mode == "tls"
    and ("BENCH_CERT=%s BENCH_KEY=%s "):format(pki.cert.good, pki.key.leaf) or ""
  local peer = support.peer(("%s%s %s %s%s"):format(environment, server.command, mode,
    server.word or "", server.quiet or ""))
  local port = assert(peer:line())
  assert(port:match "^%d+$", port)
  return "127.0.0.1:" .. port
end

-- ---- the modes of streams ------------------------------------------------------------
-- encode: a message as it goes over the line; receive: the next one, as it came.

local function packages(header)
  local format, options = ">s" .. header, { header = header, max = 16 * MEGABYTE }
  return {
    encode = function(message) return format:pack(message) end,
    receive = function(conn)
      local message, _, code = conn:recv_pkg(options)
      return message and format:pack(message), code
    end,
  }
end

local LINES <const> = {
  encode = function(message) return message:gsub("\n", "\r") .. "\n" end,
  receive = function(conn) return conn:recv_line { keep = true, max = 65535 } end,
}

local CODECS <const> = { length = packages(2), line = LINES, bulk = packages(4),
  once = packages(2), tls = packages(2) }

local function connect(address, mode)
  local conn = assert(wire.connect(address, { timeout = PATIENCE,
    tls = mode == "tls" and pki.client { servername = "localhost" } or nil }))
  conn:set_timeout(PATIENCE)
  return conn
end

-- Compared without a diff: some are long.
local function same(expected, actual, code)
  assert(actual, code)
  assert(expected == actual, ("%d bytes came back, not the %d that were sent")
    :format(#actual, #expected))
end

local ALL_BYTES <const> = (function()
  local list = {}
  for i = 0, 255 do list[#list + 1] = string.char(i) end
  return table.concat(list)
end)()

local MESSAGES <const> = { "hello", "", ALL_BYTES, "ends in \r", bytes.pattern(60000), "x",
  bytes.pattern(5000), "y" }

local function each_alone(conn, codec)
  for _, message in ipairs(MESSAGES) do
    local encoded = codec.encode(message)
    assert(conn:send(encoded))
    same(encoded, codec.receive(conn))
  end
end

local function all_in_one_write(conn, codec)
  local encoded = {}
  for i, message in ipairs(MESSAGES) do encoded[i] = codec.encode(message) end
  assert(conn:send(encoded))
  for _, one in ipairs(encoded) do same(one, codec.receive(conn)) end
end

-- In a header, behind it, far behind it.  The answer to a whole message does not wait for the rest
-- of the next one.
local function cut_anywhere(conn, codec)
  local one, two = codec.encode "first", codec.encode(bytes.pattern(300))
  for _, at in ipairs { 1, 3, 200 } do
    assert(conn:send(one, two:sub(1, at)))
    same(one, codec.receive(conn))
    assert(conn:send(two:sub(at + 1)))
    same(two, codec.receive(conn))
  end
end

-- What could not be sent within this time is taken to wait for the reader.  Should a server only
-- be slow, less is sent, and the test is milder.
local STANDSTILL <const> = 0.2

-- Sends without reading until nothing is taken any more -> how many messages were.
local function fill(conn, encoded)
  local most = 64 * MEGABYTE // #encoded
  for count = 0, most do
    local taken, _, code = conn:send(encoded, { timeout = STANDSTILL })
    if not taken then
      assert.equal("ETIMEDOUT", code)
      return count
    end
  end
  error "the server took all of it, and had nothing read"
end

local function slow_reader(conn, codec)
  local encoded = codec.encode(bytes.pattern(60000))
  for _ = 1, fill(conn, encoded) do same(encoded, codec.receive(conn)) end
  each_alone(conn, codec)
end

local function define_stream(server, mode)
  local function define(title, check)
    it(title, function()
      local conn <close> = connect(start(server, mode), mode)
      check(conn, CODECS[mode])
    end, 40)
  end

  define("gives each message back as it came", each_alone)
  define("gives back several messages that came in one write", all_in_one_write)
  define("gives back a message that came in two pieces", cut_anywhere)
  define("gives back everything to one who sends long messages and reads late", slow_reader)
end

local function define_long(server)
  it("gives back a message of 16 MiB", function()
    local conn <close> = connect(start(server, "bulk"))
    local encoded = CODECS.bulk.encode(bytes.pattern(16 * MEGABYTE))
    local sending = wire.spawn(conn.send, conn, encoded)
    same(encoded, CODECS.bulk.receive(conn))
    assert(sending:join(PATIENCE))
  end, 40)
end

local function define_once(server)
  it("gives a connection one message back and ends it, one after the other", function()
    local address, codec = start(server, "once"), CODECS.once
    for _, message in ipairs { "hello", "", ALL_BYTES, bytes.pattern(60000), "x" } do
      local conn <close> = connect(address)
      local encoded = codec.encode(message)
      assert(conn:send(encoded))
      same(encoded, codec.receive(conn))
      support.fails("EOF", conn:recv(1))
    end
  end)
end

local function define_tls(server)
  it("speaks TLS 1.3, and nothing older", function()
    local address = start(server, "tls")
    local conn <close> = connect(address, "tls")
    assert.equal("TLSv1.3", conn:tls_info().version)
    support.fails("ETLS", wire.connect(address, { timeout = PATIENCE,
      tls = pki.client { servername = "localhost", max_version = "TLSv1.2" } }))
  end)
end

-- The system loses none of so few on the loopback.
local function define_udp(server)
  it("sends every datagram back to its sender", function()
    local address = start(server, "udp")
    local one <close> = assert(wire.udp())
    local two <close> = assert(wire.udp())
    assert(one:connect(address))
    assert(two:connect(address))
    for _, message in ipairs { "hello", ALL_BYTES, bytes.pattern(9000) } do
      assert(one:send(message))
      assert(two:send(message:reverse()))
      same(message, one:recv(PATIENCE))
      same(message:reverse(), two:recv(PATIENCE))
    end
    for i = 1, 20 do assert(one:send("number " .. i)) end
    for i = 1, 20 do assert.equal("number " .. i, (one:recv(PATIENCE))) end
  end)
end

-- ---- all of them ---------------------------------------------------------------------

local DEFINE <const> = {
  length = define_stream, line = define_stream, bulk = define_stream, tls = define_stream,
  once = define_once, udp = define_udp,
}

local function define_program(server)
  it("says what it is", function()
    local output, status = support.peer(server.command .. " --version"):output()
    local line = output:match "^([^\n]+)\n$"
    assert(line and line:match(server.version), output)
    assert.equal(0, status)
  end)

  local lacks = { "nonsense" }
  for _, mode in ipairs(MODES) do lacks[#lacks + 1] = mode end
  for _, mode in ipairs(server.modes) do
    for i, other in ipairs(lacks) do
      if other == mode then table.remove(lacks, i) end
    end
  end
  for _, mode in ipairs(lacks) do
    it("does not claim the mode " .. mode, function()
      local output, status = support.peer(server.command .. " " .. mode):output()
      assert.same({ "unsupported\n", 2 }, { output, status })
    end)
  end
end

describe("bench/servers:", function()
  for _, server in ipairs(SERVERS) do
    describe(server.name, function()
      if server.package then
        return pending("is not here: Debian's package " .. server.package .. " is missing")
      end
      if server.version then define_program(server) end
      for _, mode in ipairs(server.modes) do
        describe(mode, function() DEFINE[mode](server, mode) end)
        if mode == "bulk" then describe(mode, function() define_long(server) end) end
        if mode == "tls" then describe(mode, function() define_tls(server) end) end
      end
    end)
  end
end)
