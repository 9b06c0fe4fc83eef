-- The examples of clients, pools and network logs, each in a process of its own, against real
-- peers: nc, socat, openssl and redis-server.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local NOBODY <const> = "127.0.0.1:1" -- no system listens there

local function run_example(name, ...)
  return support.lua("examples/" .. name .. ".lua", ...):output()
end

local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

-- Connects until somebody listens.
local function await_listener(address)
  local limit = wire.now() + 10
  repeat
    local conn = wire.connect(address, 5)
    if conn then
      conn:close()
      return
    end
    wire.sleep(0.01)
  until wire.now() > limit
  error("nobody listens on " .. address)
end

-- ---- a directory with a certificate of 127.0.0.1 and localhost ---------------------------

local Directory = {
  __close = function(dir) os.execute("rm -r " .. dir.name) end,
}

local function directory()
  local name = os.tmpname()
  os.remove(name)
  assert(os.execute("mkdir " .. name))
  return setmetatable({ name = name }, Directory)
end

local REQUEST <const> = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 " ..
  "-nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost " ..
  "-keyout %s/key -out %s/cert 2>/dev/null"

local function certificate()
  local dir = directory()
  assert(os.execute(REQUEST:format(dir.name, dir.name)))
  dir.cert, dir.key = dir.name .. "/cert", dir.name .. "/key"
  return dir
end

-- ---- ping-pong ---------------------------------------------------------------------------

local function start_ping_server(...)
  local server = support.lua("examples/ping_server.lua", ...)
  local address = server:line():match "^ping%-pong server on (127%.0%.0%.1:%d+)$"
  return server, assert(address)
end

describe("examples/ping_server.lua", function()
  it("answers the real nc, and closes after its end", function()
    local server, address = start_ping_server("127.0.0.1:0", 1)
    local nc = support.peer("printf ping | nc -N " .. address:gsub(":", " "))
    assert.same({ "pong", 0 }, { nc:output() })
    local output, status = server:output()
    assert.equal([[
server recv ping
server send pong
server: the client closed the connection
]], output)
    assert.equal(0, status)
  end)

  it("resets after an error", function()
    local server, address = start_ping_server("127.0.0.1:0", 1)
    local conn = assert(wire.connect(address))
    assert.equal("pong", conn:send_recv("ping", 4, 5))
    conn:reset()
    local output, status = server:output()
    assert.matches("server: recv error: recv_some 127%.0%.0%.1:%d+: connection reset", output)
    assert.equal(0, status)
  end)

  it("with --tls answers the real openssl", function()
    local files <close> = certificate()
    local server, address = start_ping_server("--tls", files.cert, files.key, "127.0.0.1:0", 1)
    local client = support.peer(("(printf ping; sleep 60) | openssl s_client -quiet " ..
      "-no_ign_eof -verify_return_error -CAfile %s -connect %s 2>/dev/null"):format(files.cert,
      address))
    assert.equal("pong", client.conn:recv(4))
    client:stop()
    local output = server:output()
    assert.matches("server recv ping\nserver send pong\n", output)
  end)
end)

describe("examples/ping_pool.lua", function()
  it("lets eight tasks share four connections", function()
    local server, address = start_ping_server("127.0.0.1:0", 4)
    local output, status = run_example("ping_pool", address, 3, 0.01)
    assert.equal(24, count(output, "client %d: recv pong\n"), output)
    for player = 1, 8 do
      assert.equal(3, count(output, "client " .. player .. ": recv pong\n"), output)
    end
    assert.matches("4 connections made, used again 20 times\n$", output)
    assert.equal(0, status)
    assert.equal(24, count((server:output()), "server send pong\n"))
  end)

  it("plays over one connection, one at a time", function()
    local server, address = start_ping_server("127.0.0.1:0", 1)
    local output = run_example("ping_pool", address, 2, 0, 1)
    assert.equal(16, count(output, "recv pong\n"), output)
    assert.matches("1 connections made, used again 15 times\n$", output)
    server:output()
  end)

  it("with --tls verifies the server", function()
    local files <close> = certificate()
    local other <close> = certificate()
    local server, address = start_ping_server("--tls", files.cert, files.key, "127.0.0.1:0", 2)
    local output = run_example("ping_pool", "--tls", other.cert, address, 1)
    assert.equal(8, count(output, "client %d: connect 127"), output)
    assert.equal(0, count(output, "pong"), output)
    output = run_example("ping_pool", "--tls", files.cert, address, 2, 0, 2)
    assert.equal(16, count(output, "recv pong\n"), output)
    server:output()
  end)

  it("never gives a broken connection to the next one", function()
    local turns = 0
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      while conn:recv(4) do
        turns = turns + 1
        if turns == 3 then return conn:reset() end
        conn:send "pong"
      end
    end))
    local output = run_example("ping_pool", server:addr(), 2, 0, 1)
    assert.equal(15, count(output, "recv pong\n"), output)
    assert.equal(1, count(output, "client %d: recv 127[^\n]*reset"), output)
    assert.matches("2 connections made", output)
  end)

  it("says so when nobody answers", function()
    local output, status = run_example("ping_pool", NOBODY, 1)
    assert.equal(8, count(output, "client %d: connect 127%.0%.0%.1:1: connection refused\n"))
    assert.equal(0, status)
  end)
end)

-- ---- the network log ---------------------------------------------------------------------

describe("examples/netlog.lua", function()
  local DATE <const> = "%d%d%d%d/%d%d/%d%d"

  it("delivers its lines to the real nc, though it dies", function()
    local port = support.port()
    local nc = support.peer("exec nc -lk 127.0.0.1 " .. port)
    await_listener("127.0.0.1:" .. port)
    local output, status = run_example("netlog", "127.0.0.1:" .. port)
    assert.matches("netlog%.lua:%d+: This is a panic%.\n", output)
    assert.equal(1, status)
    local head = "^%[example%] " .. DATE .. " netlog%.lua:%d+: "
    assert.matches(head .. "This is a regular message$", nc:line())
    assert.matches(head .. "%d+ bytes are in use by Lua$", nc:line())
    assert.matches(head .. "This is a panic%.$", nc:line())
  end)

  it("shows its lines when there is no collector", function()
    local output, status = run_example("netlog", NOBODY)
    assert.matches("not delivered %(connect 127%.0%.0%.1:1: connection refused%)", output)
    assert.matches("This is a regular message\n", output)
    assert.equal(1, status)
  end)

  it("with --tls delivers to a collector with a certificate", function()
    local files <close> = certificate()
    local port = support.port()
    local collector = support.peer(("exec socat -u OPENSSL-LISTEN:%d,bind=127.0.0.1,reuseaddr," ..
      "fork,verify=0,cert=%s,key=%s STDOUT 2>/dev/null"):format(port, files.cert, files.key))
    await_listener("127.0.0.1:" .. port)
    run_example("netlog", "--tls", files.cert, "127.0.0.1:" .. port)
    assert.matches("This is a regular message$", collector:line())
    collector:line()
    assert.matches("This is a panic%.$", collector:line())
  end)
end)

-- ---- Redis -------------------------------------------------------------------------------

local Redis = {}

function Redis:__close()
  self.peer:stop()
end

-- redis-server with its files in a directory.
local function start_redis(dir, port, arguments)
  local peer = support.peer(("exec redis-server --dir %s --save '' --daemonize no %s"):format(
    dir.name, arguments))
  if port then await_listener("127.0.0.1:" .. port) end
  return setmetatable({ peer = peer }, Redis)
end

local function ask(...) return (run_example("redis_client", ...)) end

describe("examples/redis_client.lua with redis-server", function()
  it("asks and prints replies of every kind", function()
    local dir <close> = directory()
    local port = support.port()
    local _ <close> = start_redis(dir, port, "--port " .. port)
    local address = "127.0.0.1:" .. port
    assert.equal("PONG\n", ask(address, "PING"))
    assert.equal("OK\n", ask(address, "SET", "key", "two words"))
    assert.equal("two words\n", ask(address, "GET", "key"))
    assert.equal("(nil)\n", ask(address, "GET", "nothing"))
    assert.equal("1\n", ask(address, "INCR", "number"))
    assert.equal("2\n", ask(address, "RPUSH", "list", "a", "b"))
    assert.equal("1) a\n2) b\n", ask(address, "LRANGE", "list", 0, -1))
    assert.equal("(empty list)\n", ask(address, "LRANGE", "none", 0, -1))
    assert.matches("^%(error%) ERR ", ask(address, "NOSUCH"))
  end, 20)

  it("counts from eight tasks, pipelined, over the connections of a pool", function()
    local dir <close> = directory()
    local port = support.port()
    local _ <close> = start_redis(dir, port, "--port " .. port)
    local output, status = run_example("redis_client", "127.0.0.1:" .. port)
    assert.matches("^8 tasks over 4 connections counted to 8000\n", output)
    assert.equal(0, status)
  end, 20)

  it("does the same over a Unix socket", function()
    local dir <close> = directory()
    local port = support.port()
    local path = dir.name .. "/socket"
    local _ <close> = start_redis(dir, port, ("--port %d --unixsocket %s"):format(port, path))
    assert.matches("^8 tasks over 4 connections counted to 8000\n", ask("unix:" .. path))
  end, 20)

  it("does the same with --tls", function()
    local files <close> = certificate()
    local port = support.port()
    local _ <close> = start_redis(files, port, ("--port 0 --tls-port %d --tls-cert-file %s " ..
      "--tls-key-file %s --tls-ca-cert-file %s --tls-auth-clients no"):format(port, files.cert,
      files.key, files.cert))
    local address = "127.0.0.1:" .. port
    assert.equal("PONG\n", ask("--tls", files.cert, address, "PING"))
    assert.matches("^8 tasks over 4 connections counted to 8000\n",
      ask("--tls", files.cert, address))
    local other <close> = certificate()
    assert.matches("redis_client: connect 127.*certificate",
      ask("--tls", other.cert, address, "PING"))
  end, 20)

  it("says who refused, and explains itself without an argument", function()
    local output, status = run_example("redis_client", NOBODY, "PING")
    assert.same({ "redis_client: connect " .. NOBODY .. ": connection refused\n", 1 },
      { output, status })
    output, status = run_example "redis_client"
    assert.matches("^usage: redis_client.lua", output)
    assert.equal(2, status)
  end)

  it("says so when what answers is no Redis", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      conn:recv_some(100)
      conn:send "HTTP/1.1 400 Bad Request\r\n\r\n"
    end))
    local output, status = run_example("redis_client", server:addr(), "PING")
    assert.equal("redis_client: this is no reply of Redis: HTTP/1.1 400 Bad Request\n", output)
    assert.equal(1, status)
  end)
end)
