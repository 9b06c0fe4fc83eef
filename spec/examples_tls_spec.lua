-- examples/tls_echo.lua and tls_gateway.lua between real programs.
local assert = require "luassert"
local describe = require("busted").describe
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local DATE <const> = "%d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d"
local NOBODY <const> = "127.0.0.1:1" -- no system listens there
local PATIENCE <const> = 10 * support.slowness
local S_CLIENT <const> = "openssl s_client -quiet -verify_return_error -CAfile %s -connect %s "

local function s_client(address, ca) return S_CLIENT:format(ca, address) end

local function connect(address)
  local conn = assert(wire.connect(address, { tls = pki.client(), timeout = PATIENCE }))
  conn:set_timeout(PATIENCE)
  return conn
end

-- What is left of its output must be empty.
local function assert_ends(peer)
  peer:signal "TERM"
  assert.are.same({ "", 0 }, { peer:output() })
end

-- Nobody can connect any more.
local function await_refusal(address)
  support.eventually(function()
    local another = wire.connect(address, PATIENCE)
    if another then another:close() end
    return not another
  end)
end

describe("examples/tls_echo.lua", function()
  -- -> the process, its address
  local function start_echo(cert, key)
    local peer = support.lua("examples/tls_echo.lua", cert or pki.cert.good, key or pki.key.leaf,
      "127.0.0.1:0")
    return peer, peer:line():match "^TLS echo server on (127%.0%.0%.1:%d+)$"
  end

  local function client(ca, address)
    return support.lua("examples/tls_echo.lua", "client", ca, address):output()
  end

  -- The next line of the log, without the client.
  local function logged(peer)
    local line = peer:line()
    return line:match "^127%.0%.0%.1:%d+: (.*)$" or line
  end

  for option, expected in pairs {
    ["-tls1_2"] = "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384",
    ["-tls1_3"] = "TLSv1.3 TLS_AES_128_GCM_SHA256",
  } do
    it("answers openssl s_client " .. option .. ", and tells the session", function()
      local peer, address = start_echo()
      local openssl = support.peer("printf 'one\\ntwo\\n' | " .. s_client(address, pki.ca.ca)
        .. option .. " 2>/dev/null", PATIENCE)
      assert.are.same({ "> one", "> two" }, { openssl:line(), (openssl:line()) })
      assert.are.equal(expected, logged(peer))
      peer:signal "TERM"
      assert.are.equal("", (openssl:output()))
      assert.are.equal(0, select(2, peer:output()))
    end)
  end

  it("answers its own client, which prints the session and the answer", function()
    local peer, address = start_echo()
    local output, status = client(pki.ca.ca, address)
    assert.matches("^TLSv1%.3 [%w_]+\n> " .. DATE .. "\n$", output)
    assert.are.equal(0, status)
    assert.matches("^TLSv1%.3 [%w_]+$", logged(peer))
    assert.matches("^lines 127%.0%.0%.1:%d+: end of stream$", logged(peer))
    assert_ends(peer)
  end)

  it("is refused by a client with another CA; both say why, and it serves the next", function()
    local peer, address = start_echo()
    local output, status = client(pki.ca.other, address)
    assert.matches("^tls_echo: connect " .. address:gsub("%p", "%%%0") .. ": .*certificate", output)
    assert.are.equal(1, status)
    assert.matches("handshake 127%.0%.0%.1:%d+: .*alert unknown ca$", logged(peer))
    assert.matches("unable to get local issuer certificate",
      (support.peer(s_client(address, pki.ca.other)):output()))
    assert.matches("handshake 127%.0%.0%.1:%d+: .*alert unknown ca$", logged(peer))
    assert.matches("\n> " .. DATE .. "\n$", (client(pki.ca.ca, address)))
    peer:signal "TERM"
    assert.are.equal(0, select(2, peer:output()))
  end)

  it("answers at SIGTERM what has come, and ends", function()
    local peer, address = start_echo()
    local conn <close> = connect(address)
    assert.matches("^TLSv1.3 ", logged(peer))
    conn:send "before\n"
    assert.are.equal("> before", conn:recv_line())
    peer:signal "TERM"
    support.fails("EOF", conn:recv_line()) -- not cut off, which were ETLS
    local output, status = peer:output()
    assert.matches("^lines 127%.0%.0%.1:%d+: [^\n]+\n$", output)
    assert.are.equal(0, status)
  end)

  it("works with the certificate that its first lines tell how to make", function()
    local source <close> = assert(io.open "examples/tls_echo.lua")
    local first, second =
      source:read "a":match "\n%-%-   (openssl [^\n]*)\\\n%-%-     ([^\n]*)\n"
    local names = { cert = pki.scratch "example_cert.pem", key = pki.scratch "example_key.pem" }
    local command = (first .. second):gsub("(%w+)%.pem", names)
    local output, status = support.peer(command, PATIENCE):output()
    assert.are.equal(0, status, output)
    local peer, address = start_echo(names.cert, names.key)
    assert.matches("\n> " .. DATE .. "\n$", (client(names.cert, address)))
    peer:signal "TERM"
    assert.are.equal(0, select(2, peer:output()))
  end)

  it("explains itself without its files", function()
    local usage = "usage: tls_echo.lua CERT KEY [address]\n"
      .. "       tls_echo.lua client CA [address]\n"
    assert.are.same({ usage, 2 }, { support.lua("examples/tls_echo.lua"):output() })
    assert.are.same({ usage, 2 }, { support.lua("examples/tls_echo.lua", "client"):output() })
  end)
end)

describe("examples/tls_gateway.lua", function()
  -- -> the process, its address
  local function start_gateway(target, patience)
    local peer = support.lua("examples/tls_gateway.lua", pki.cert.good, pki.key.leaf, "127.0.0.1:0",
      target, patience)
    local address, to = peer:line():match "^forwarding TLS on (127%.0%.0%.1:%d+) to (%S+)$"
    assert.are.equal(target, to)
    return peer, address
  end

  -- The next line of the log, without the time and the client.
  local function logged(peer)
    local line = peer:line()
    return line:match("^" .. DATE .. " 127%.0%.0%.1:%d+: (.*)$") or line
  end

  -- A target that sends everything back once the client has said that this is all.
  local function serve_late_echo()
    return assert(wire.serve("127.0.0.1:0", function(conn) conn:send(conn:read "a" or "") end))
  end

  -- A target that answers each request as HTTP/1.0 does: by what it asked for, and the end.
  local function serve_http()
    return assert(wire.serve("127.0.0.1:0", function(conn)
      local request = conn:recv_until "\r\n\r\n"
      conn:send("HTTP/1.0 200 OK\r\n\r\n", request:match "^GET (%S+)", "\n")
    end))
  end

  local function curl(address, ca)
    return support.peer(("curl -sS --cacert %s https://%s/a/page"):format(ca, address), PATIENCE)
      :output()
  end

  it("makes https of a plain HTTP server, for real curl", function()
    local target <close> = serve_http()
    local peer, address = start_gateway(target:addr())
    for _ = 1, 2 do
      assert.are.same({ "/a/page\n", 0 }, { curl(address, pki.ca.ca) })
      assert.matches("^%d+ bytes there, 27 back$", logged(peer))
    end
    assert_ends(peer)
  end)

  it("joins openssl s_client with a program behind socat", function()
    local socat = support.peer(
      "exec socat -d -d TCP-LISTEN:0,bind=127.0.0.1 SYSTEM:'head -n 1 | tr a-z A-Z' 2>&1 "
      .. "| sed -u -n 's/.*listening on AF=2 //p'")
    local peer, address = start_gateway(socat:line())
    local openssl = support.peer("echo hello there | " .. s_client(address, pki.ca.ca)
      .. "2>/dev/null", PATIENCE)
    assert.are.equal("HELLO THERE\n", (openssl:output()))
    assert.are.equal("12 bytes there, 12 back", logged(peer))
    assert_ends(peer)
    socat:stop()
  end)

  it("is refused by curl with another CA, says so, and serves the next", function()
    local target <close> = serve_http()
    local peer, address = start_gateway(target:addr())
    local output, status = curl(address, pki.ca.other)
    assert.matches("SSL certificate problem", output)
    assert.are.equal(60, status)
    assert.matches("handshake 127%.0%.0%.1:%d+: .*alert unknown ca$", logged(peer))
    assert.are.same({ "/a/page\n", 0 }, { curl(address, pki.ca.ca) })
    assert.matches("^%d+ bytes there, 27 back$", logged(peer))
    assert_ends(peer)
  end)

  it("passes on the end of one direction while the other one lives on", function()
    local target <close> = serve_late_echo()
    local peer, address = start_gateway(target:addr())
    local conn <close> = connect(address)
    local data = ("0123456789"):rep(100000)
    local sending = wire.spawn(function()
      conn:send(data)
      conn:close_write()
    end)
    assert.is_true(conn:read "a" == data)
    sending:join()
    assert.are.equal("1000000 bytes there, 1000000 back", logged(peer))
    assert_ends(peer)
  end)

  it("serves many clients at once, each with its own answers", function()
    local target <close> = serve_late_echo()
    local peer, address = start_gateway(target:addr())
    local tasks = {}
    for i = 1, 20 do
      tasks[i] = wire.spawn(function()
        local conn <close> = connect(address)
        conn:send("client ", i)
        conn:close_write()
        assert.are.equal("client " .. i, conn:read "a")
      end)
    end
    for _, task in ipairs(tasks) do assert(task:join()) end
    for _ = 1, 20 do assert.matches("^%d+ bytes there, %d+ back$", logged(peer)) end
    assert_ends(peer)
  end)

  it("hangs up when the target cannot be reached, and logs why", function()
    local peer, address = start_gateway(NOBODY)
    for _ = 1, 2 do
      local conn <close> = connect(address)
      support.fails("EOF", conn:recv(1))
      assert.are.equal("connect " .. NOBODY .. ": connection refused", logged(peer))
    end
    assert_ends(peer)
  end)

  it("takes no more clients after SIGTERM, but lets those end that it has", function()
    local target <close> = serve_late_echo()
    local peer, address = start_gateway(target:addr(), PATIENCE)
    local conn <close> = connect(address)
    conn:send "before, "
    support.eventually(function() return target:conn_num() == 1 end)
    peer:signal "TERM"
    await_refusal(address)
    conn:send "and after"
    conn:close_write()
    assert.are.equal("before, and after", conn:read "a")
    local output, status = peer:output()
    assert.matches("17 bytes there, 17 back", output)
    assert.are.equal(0, status)
  end)

  it("ends after its patience, although somebody does not", function()
    local target <close> = serve_late_echo()
    local peer, address = start_gateway(target:addr(), 0.3)
    local conn <close> = connect(address)
    conn:send "never more than this"
    support.eventually(function() return target:conn_num() == 1 end)
    local start = wire.now()
    peer:signal "TERM"
    assert.is_nil((conn:recv(1)))
    local output, status = peer:output()
    assert.truthy(wire.now() - start >= 0.3, "too early")
    assert.matches("closed after %d+ bytes there, 0 back", output)
    assert.are.equal(0, status)
  end)

  it("explains itself without its four arguments", function()
    local usage = "usage: tls_gateway.lua CERT KEY listen_address target_address [patience]\n"
    assert.are.same({ usage, 2 },
      { support.lua("examples/tls_gateway.lua", "CERT", "KEY", "127.0.0.1:0"):output() })
  end)
end)
