-- The TLS matrix: what each side says when certificates, versions or bytes are not what they
-- should be.  ECERT is "this side rejected", ETLS whatever else, the other side's rejection too,
-- which in TLS 1.3 a client learns with its first receive.
-- What this is not: what other programs do (tls_peers_spec), what works (tls_spec).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"
local tools = require "spec.conformance.tools"

local it = support.it

local PATIENCE <const> = 20

-- ---- certificates ----------------------------------------------------------------------

-- Both sides' outcomes must match; a pattern is "^CODE of CALL: ... what the message says".
local function check(expected, actual, side)
  if expected == "ok" then
    assert.equal("ok", actual, side)
  else
    local code, call, text = table.unpack(expected)
    local pattern = ("^%s of %s: %s 127%%.0%%.0%%.1:%%d+: .*%s"):format(code, call, call, text)
    assert.matches(pattern, actual, 1, nil, side)
  end
end

local function cell(title, server_tls, client_tls, at_client, at_server)
  it(title, function()
    local client, server = sessions.meet(server_tls(), client_tls())
    check(at_client, client, "at the client")
    check(at_server, server, "at the server")
  end)
end

-- The same options for each version.
local function only(version, options)
  return function()
    local copy = { max_version = version }
    for key, value in pairs(options()) do copy[key] = value end
    return copy
  end
end

-- The server's certificate: what the client says of it, and what the server hears.
local SERVER_CERTIFICATES = {
  { "expired", "expired", "expired" },
  { "not yet valid", "not_yet_valid", "not yet valid" },
  { "for another address", "other_host", "IP address mismatch" },
  { "for another name", "other_host", "[Hh]ostname mismatch", "localhost" },
  { "for other names under the domain", "good", "[Hh]ostname mismatch", "a.b.example.org" },
  { "for names under the domain, not for itself", "good", "[Hh]ostname mismatch", "example.org" },
  { "for no name but its common one (RFC 9525)", "nameless", "[Hh]ostname mismatch", "localhost" },
  { "of an authority that is not trusted", "other_ca", "unable to get local issuer" },
  { "of an authority that only has the name of ours", "impostor",
    "certificate signature failure" },
  { "sent without its intermediate", "bare", "unable to get local issuer" },
  { "self-signed", "self_signed", "self.signed certificate" },
  { "issued by a certificate that is no authority", "no_authority", "invalid CA certificate" },
  { "for clients only", "client", "certificate purpose" },
}

local GOOD_CERTIFICATES = {
  { "for the address", "good" },
  { "for the name", "good", "localhost" },
  { "for the name in capitals", "good", "LOCALHOST" },
  { "for a name under the domain", "good", "www.example.org" },
  { "sent with its intermediate", "chain" },
}

describe("a client", function()
  for _, version in ipairs(sessions.VERSIONS) do
    local over = " over " .. version

    for _, row in ipairs(SERVER_CERTIFICATES) do
      local title, name, text, servername = table.unpack(row)
      local server = only(version, function() return pki.server(name) end)
      cell("rejects a certificate " .. title .. over, server,
        function() return pki.client { servername = servername } end,
        { "ECERT", "connect", text }, { "ETLS", "handshake", "alert" })
      cell("accepts with insecure a certificate " .. title .. over, server,
        function() return { insecure = true, servername = servername } end, "ok", "ok")
    end

    for _, row in ipairs(GOOD_CERTIFICATES) do
      local title, name, servername = table.unpack(row)
      cell("accepts a certificate " .. title .. over,
        only(version, function() return pki.server(name) end),
        function() return pki.client { servername = servername } end, "ok", "ok")
    end
  end

  cell("verifies although it says verify = false: only insecure switches that off",
    function() return pki.server "expired" end, function() return pki.client { verify = false } end,
    { "ECERT", "connect", "expired" }, { "ETLS", "handshake", "expired" })

  cell("trusts the system's authorities alone if it names none", pki.server,
    function() return true end,
    { "ECERT", "connect", "unable to get local issuer" }, { "ETLS", "handshake", "unknown ca" })
end)

local CLIENT_CERTIFICATES = {
  { "of an authority that is not trusted", "client_other_ca", "unable to get local issuer" },
  { "that has expired", "client_expired", "expired" },
  { "without its intermediate", "client_bare", "unable to get local issuer" },
  { "for servers only", "server_only", "certificate purpose" },
  { "that it signed itself", "self_signed", "self.signed certificate" },
}

describe("a server", function()
  for _, version in ipairs(sessions.VERSIONS) do
    -- The client has nothing more to wait for in TLS 1.3: it learns of it with what it receives.
    local call = version == "TLSv1.3" and "recv" or "connect"
    local over = " over " .. version

    local function verifying(verify)
      return only(version, function()
        return pki.server("good", { ca = pki.ca.ca, verify = verify })
      end)
    end

    for _, verify in ipairs { true, "optional" } do
      local that = verify == true and "that asks for a certificate " or "that would like one "
      for _, row in ipairs(CLIENT_CERTIFICATES) do
        local title, name, text = table.unpack(row)
        cell(that .. "rejects one " .. title .. over, verifying(verify),
          function() return pki.client_with(name) end,
          { "ETLS", call, "alert" }, { "ECERT", "handshake", text })
      end
      cell(that .. "accepts a good one" .. over, verifying(verify),
        function() return pki.client_with "client" end, "ok", "ok")
      cell(that .. "accepts one with its intermediate" .. over, verifying(verify),
        function() return pki.client_with "client_chain" end, "ok", "ok")
    end

    cell("that asks for a certificate rejects who has none" .. over, verifying(true), pki.client,
      { "ETLS", call, "alert" }, { "ECERT", "handshake", "sent no certificate" })
    cell("that would like a certificate accepts who has none" .. over, verifying "optional",
      pki.client, "ok", "ok")
    cell("that asks for no certificate takes no notice of a wrong one" .. over, verifying(false),
      function() return pki.client_with "client_other_ca" end, "ok", "ok")
    cell("with insecure still verifies the certificate that it asks for" .. over,
      only(version, function()
        return pki.server("good", { ca = pki.ca.ca, verify = true, insecure = true })
      end),
      function() return pki.client_with "client_other_ca" end,
      { "ETLS", call, "alert" }, { "ECERT", "handshake", "unable to get local issuer" })
  end

  it("that asks for a certificate learns whose it is", function()
    local got
    local tls = pki.server("good", { ca = pki.ca.ca, verify = true })
    local server <close>, await_end = sessions.serve(tls, function(conn)
      got = conn:tls_info().peer_cert
    end)
    local conn = assert(wire.connect(server:addr(), { tls = pki.client_with "client" }))
    await_end()
    conn:close()
    assert.equal("CN=a client", got.subject)
    assert.equal("CN=Test CA", got.issuer)
  end)

  cell("and a client without a version in common part",
    function() return pki.server("good", { min_version = "TLSv1.3" }) end,
    function() return pki.client { max_version = "TLSv1.2" } end,
    { "ETLS", "connect", "protocol version" }, { "ETLS", "handshake", "unsupported protocol" })

  cell("and a client without a protocol in common (ALPN) part",
    function() return pki.server("good", { alpn = { "h2" } }) end,
    function() return pki.client { alpn = { "http/1.1" } } end,
    { "ETLS", "connect", "no application protocol" },
    { "ETLS", "handshake", "no application protocol" })

  cell("and a client without a cipher in common part",
    function() return pki.server("good", { ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256" }) end,
    function()
      return pki.client { ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384", max_version = "TLSv1.2" }
    end,
    { "ETLS", "connect", "handshake failure" }, { "ETLS", "handshake", "no shared cipher" })
end)

-- ---- no TLS ----------------------------------------------------------------------------

-- What a server that expects TLS says to a peer that sends these bytes and ends its side.
local function says_to(bytes, handshake_timeout)
  local tls = pki.server("good", { handshake_timeout = handshake_timeout })
  local server <close>, await_end = sessions.serve(tls, function() error "served" end)
  local conn <close> = assert(wire.connect(server:addr()))
  assert(conn:send(bytes))
  if not handshake_timeout then conn:close_write() end
  local message, code = await_end()
  return code, message
end

-- What a client that expects TLS says to a peer that answers with these bytes.
local function hears(bytes, ends, timeout)
  local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
    conn:send(bytes)
    while not ends and conn:recv() do end -- luacheck: ignore
  end))
  local opts = { tls = pki.client(), timeout = timeout }
  local result, message, code = wire.connect(server:addr(), opts)
  assert.is_nil(result)
  return code, message
end

local JUNK = {}
for i = 1, 1000 do JUNK[i] = string.char((i * i * 7 + 3) % 256) end

local NO_TLS = {
  { "junk", table.concat(JUNK) },
  { "zeros", ("\0"):rep(1000) },
  { "a line", "hello\n" },
  { "a TLS alert alone", "\21\3\3\0\2\2\40" },
  { "a record of an impossible length", "\22\3\1\255\255" .. ("x"):rep(300) },
  { "a record with no ClientHello in it", "\22\3\1\0\5hello" },
  { "application data before any handshake", "\23\3\3\0\5hello" },
  { "a hundred empty handshake records", ("\22\3\1\0\0"):rep(100) },
  { "a ClientHello that announces 16 MB", "\22\3\1\0\10\1\255\255\255\3\3abcd" },
}

describe("what is no TLS:", function()
  for _, row in ipairs(NO_TLS) do
    local title, bytes = table.unpack(row)
    it(title .. " to a server is ETLS and reaches no handler", function()
      local code, message = says_to(bytes)
      assert.equal("ETLS", code, message)
      assert.matches("^handshake 127%.0%.0%.1:%d+: tls failure: ", message)
    end)

    it(title .. " to a client is ETLS", function()
      local code, message = hears(bytes, true, PATIENCE)
      assert.equal("ETLS", code, message)
      assert.matches("^connect 127%.0%.0%.1:%d+: tls failure: ", message)
    end)
  end

  it("an HTTP request to a server says so", function()
    local code, message = says_to "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert.equal("ETLS", code)
    assert.matches("http request", message)
  end)

  it("an HTTP answer to a client says that it is no TLS", function()
    local code, message = hears("HTTP/1.1 400 Bad Request\r\n\r\n", true, PATIENCE)
    assert.equal("ETLS", code)
    assert.matches("wrong version number", message)
  end)

  it("a peer that ends at once is ETLS to a server", function()
    local code, message = says_to ""
    assert.equal("ETLS", code)
    assert.matches("closed during the handshake", message)
  end)

  it("a peer that ends at once is ETLS to a client", function()
    local code, message = hears("", true, PATIENCE)
    assert.is_true(code == "ETLS" or code == "ECONNRESET", message)
  end)

  it("a silent peer is ETIMEDOUT to a client", function()
    local code, message = hears("", false, 0.05)
    assert.equal("ETIMEDOUT", code)
    assert.matches("^connect 127%.0%.0%.1:%d+: timed out$", message)
  end)

  it("a client to a server of plain text learns it, and the server gets no line", function()
    local lines = 0
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      for line in conn:lines { max = 100 } do
        lines = lines + 1
        conn:send("> ", line, "\n")
      end
      conn:send "what?\n"
    end))
    local result, _, code = wire.connect(server:addr(), { tls = pki.client(), timeout = PATIENCE })
    assert.is_nil(result)
    assert.equal("ETLS", code)
  end)
end)

-- ---- stalls ----------------------------------------------------------------------------

-- The first flight of a client.
local function client_hello()
  local client, near = wire.pipe()
  local task = wire.spawn(client.start_tls, client, pki.client { servername = "localhost" })
  local head = assert(near:recv(5, PATIENCE)) -- of a record (RFC 8446, 5.1)
  local hello = head .. assert(near:recv(string.unpack(">I2", head, 4), PATIENCE))
  near:close()
  task:join()
  return hello
end

-- That of a server, in answer to a ClientHello.
local function server_flight(hello)
  local far, server = wire.pipe()
  local task = wire.spawn(server.start_tls, server, pki.server())
  far:send(hello)
  local flight, timeout = {}, PATIENCE
  repeat
    local bytes = far:recv { timeout = timeout }
    flight[#flight + 1], timeout = bytes, 0.2 * support.slowness
  until not bytes
  far:close()
  task:join()
  return table.concat(flight)
end

describe("a peer that goes silent", function()
  it("after any byte of its ClientHello is dropped at the handshake timeout", function()
    local hello = client_hello()
    local tls = pki.server("good", { handshake_timeout = 0.2 })
    local server <close>, await_end = sessions.serve(tls, function() error "served" end)
    assert.is_true(#hello > 100)
    for from = 0, #hello - 1, 100 do
      local conns = {}
      for cut = from, math.min(from + 99, #hello - 1) do
        local conn = assert(wire.connect(server:addr()))
        assert(conn:send(hello:sub(1, cut)))
        assert(conn:flush())
        conns[#conns + 1] = conn
      end
      for _, conn in ipairs(conns) do
        local message, code = await_end()
        assert.equal("ETIMEDOUT", code, message)
        assert.matches("^handshake 127%.0%.0%.1:%d+: timed out$", message)
        conn:close()
      end
    end
  end, 60)

  it("after its whole ClientHello is dropped likewise", function()
    assert.equal("ETIMEDOUT", (says_to(client_hello(), 0.1)))
  end)

  it("after any byte of its answer is ETIMEDOUT to a client", function()
    -- An answer to another ClientHello, so it must not be complete.
    local flight = server_flight(client_hello())
    local first = 5 + (flight:byte(4) << 8 | flight:byte(5))
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local tasks = {}
    for cut = 0, first - 1, 9 do
      tasks[#tasks + 1] = wire.spawn(function()
        return select(3, wire.connect(server:addr(), { tls = pki.client(), timeout = 0.3 }))
      end)
      local conn = assert(server:accept(PATIENCE))
      conn:send(flight:sub(1, cut))
      conn:flush()
      tasks[#tasks] = { tasks[#tasks], conn }
    end
    assert.is_true(#tasks > 5)
    for _, pair in ipairs(tasks) do
      assert.equal("ETIMEDOUT", (tools.result(pair[1])))
      pair[2]:close()
    end
  end)
end)

describe("a peer that ends its side", function()
  it("after any byte of its ClientHello is ETLS", function()
    local hello = client_hello()
    local server <close>, await_end = sessions.serve(pki.server(), function() error "served" end)
    for cut = 0, #hello - 1, 7 do
      local conn <close> = assert(wire.connect(server:addr()))
      conn:send(hello:sub(1, cut))
      conn:close_write()
      local message, code = await_end()
      assert.equal("ETLS", code, message)
    end
  end, 30)

  it("after any record of a handshake is ETLS or its reset, on both sides", function()
    for records = 0, 3 do
      local client, near = wire.pipe()
      local far, server = wire.pipe()
      local whole_records = wire.framing.length { offset = 3, size = 2, strip = 0 }
      near:set_framing(whole_records)
      far:set_framing(whole_records)
      local at_client = wire.spawn(client.start_tls, client,
        pki.client { servername = "localhost", max_version = "TLSv1.2" })
      local at_server = wire.spawn(server.start_tls, server, pki.server())
      for i = 1, records do
        if i == 1 then
          far:send(near:recv_frame(PATIENCE))
        else
          near:send(far:recv_frame(PATIENCE))
        end
      end
      near:close()
      far:close()
      for _, task in ipairs { at_client, at_server } do
        local ok, message, code = tools.result(task)
        assert.is_nil(ok)
        assert.equal("ETLS", code, message)
      end
    end
  end)
end)
