-- TLS: contexts and their options, reload, the key log, what is known of a session.
-- What this is not: what fails on the way (tls_matrix_spec), upgrades (start_tls_spec), crowds
-- (tls_flood_spec), other programs (tls_peers_spec).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"

local it, fails, raises = support.it, support.fails, support.raises

local PATIENCE <const> = 20

local function write(path, text)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(text))
  return path
end

local function shell(command)
  local pipe <close> = assert(io.popen(command))
  return (pipe:read "a")
end

-- One connection; what both ends know of its session: at the client, at the server.
local function facts(server_tls, client_tls)
  local at_server
  local server <close>, await_end = sessions.serve(server_tls, function(conn)
    at_server = conn:tls_info()
    conn:send "hello"
    conn:recv_line()
  end)
  local conn <close> = assert(wire.connect(server:addr(), { tls = client_tls, timeout = PATIENCE }))
  assert.equal("hello", conn:recv(5, PATIENCE)) -- the tickets of TLS 1.3 come before it
  local at_client = conn:tls_info()
  conn:close()
  await_end()
  return at_client, at_server
end

-- ---- contexts --------------------------------------------------------------------------

describe("a certificate, its key and the authorities", function()
  it("come from files, or are texts in PEM", function()
    local texts = { cert = pki.text(pki.cert.chain), key = pki.text(pki.key.leaf) }
    for _, server in ipairs { pki.server "chain", texts,
      { cert = texts.cert, key = pki.key.leaf } } do
      for _, ca in ipairs { pki.ca.ca, pki.text(pki.ca.ca),
        pki.text(pki.ca.other) .. pki.text(pki.ca.ca) } do
        assert.equal("CN=localhost", facts(server, { ca = ca }).peer_cert.subject)
      end
    end
  end)

  it("come from a directory of authorities, under the names that OpenSSL gives", function()
    local directory = pki.scratch "authorities"
    assert(os.execute("mkdir -p " .. directory))
    local hash = shell("openssl x509 -noout -hash -in " .. pki.ca.ca):match "%x+"
    write(("%s/%s.0"):format(directory, hash), pki.text(pki.ca.ca))
    assert.truthy(facts(pki.server(), { ca = directory }))
    local other = pki.scratch "no_authorities"
    assert(os.execute("mkdir -p " .. other))
    local at_client = sessions.meet(pki.server(), { ca = other })
    assert.matches("^ECERT of connect", at_client)
  end)

  it("the key may be encrypted", function()
    assert.truthy(facts(
      pki.server("good", { key = pki.key.encrypted, password = pki.password }), pki.client()))
  end)

  it("made once by tls_context serve many connections, in both roles", function()
    local context = assert(wire.tls_context(pki.server("good", { ca = pki.ca.ca })))
    for _ = 1, 3 do assert.truthy(facts(context, context)) end
  end)

  -- What is wrong -> options, code and pattern of the message.
  local WRONG = {
    ["a missing file of the certificate"] =
      { function() return pki.server("good", { cert = "/nowhere/x.pem" }) end, "ENOENT",
        "/nowhere/x%.pem" },
    ["a missing file of the key"] =
      { function() return pki.server("good", { key = "/nowhere/x.pem" }) end, "ENOENT",
        "/nowhere/x%.pem" },
    ["a missing file of the authorities"] =
      { function() return { ca = "/nowhere/x.pem" } end, "ENOENT", "/nowhere/x%.pem" },
    ["a directory for the certificate"] =
      { function() return pki.server("good", { cert = "/" }) end, "%u+", " /: " },
    ["no certificate in the file"] =
      { function() return pki.server("good", { cert = pki.key.leaf }) end, "ETLS",
        "leaf%.key: no certificate" },
    ["no key in the file"] =
      { function() return pki.server("good", { key = pki.cert.good }) end, "ETLS",
        "good%.crt: no private key" },
    ["no certificate in the file of the authorities"] =
      { function() return { ca = pki.key.leaf } end, "ETLS", "leaf%.key: no certificate" },
    ["a text that is cut"] =
      { function()
        return pki.server("good", { cert = pki.text(pki.cert.good):sub(1, 200) })
      end, "ETLS", "PEM text: no certificate" },
    ["a chain of which a later certificate is cut"] =
      { function()
        return pki.server("good", { cert = pki.text(pki.cert.chain):sub(1, -100) })
      end, "ETLS", "PEM text" },
    ["a key of another certificate"] =
      { function() return pki.server("good", { key = pki.key.ca }) end, "ETLS",
        "does not belong to the certificate" },
    ["an encrypted key without a password"] =
      { function() return pki.server("good", { key = pki.key.encrypted }) end, "ETLS",
        "encrypted%.key: .*password" },
    ["an encrypted key and a wrong password"] =
      { function()
        return pki.server("good", { key = pki.key.encrypted, password = "guess" })
      end, "ETLS", "encrypted%.key: .*password" },
    ["an encrypted key and an empty password"] =
      { function()
        return pki.server("good", { key = pki.key.encrypted, password = "" })
      end, "ETLS", "encrypted%.key: .*password" },
    ["a cipher that nobody knows"] =
      { function() return { ciphers = "ROT13" } end, "ETLS", "cipher" },
    ["a cipher of TLS 1.3 that nobody knows"] =
      { function() return { ciphersuites = "TLS_ROT13" } end, "ETLS", "cipher" },
    ["a missing file under a name (sni)"] =
      { function()
        return pki.server("good", { sni = { ["a.test"] = { cert = "/nowhere/x.pem",
          key = pki.key.leaf } } })
      end, "ENOENT", "/nowhere/x%.pem" },
  }

  for title, row in pairs(WRONG) do
    local options, code, text = table.unpack(row)
    it("fail and say why: " .. title, function()
      for name, call in pairs {
        tls_context = function() return wire.tls_context(options()) end,
        connect = function() return wire.connect("127.0.0.1:1", { tls = options() }) end,
      } do
        local result, message, actual = call()
        assert.is_nil(result)
        assert.matches("^" .. code .. "$", actual)
        assert.matches("^" .. name, message)
        assert.matches(text, message)
      end
    end)
  end

  it("fail likewise where a server begins, which does not listen then", function()
    local port = support.port()
    local addr = "127.0.0.1:" .. port
    local message = fails("ENOENT", wire.listen(addr, { tls = { cert = "/nowhere/x.pem",
      key = pki.key.leaf } }))
    assert.matches("^listen.* /nowhere/x%.pem: ", message)
    assert(wire.listen(addr)):close()
  end)
end)

describe("misuse of the options raises:", function()
  local good = pki.server

  local MISUSE = {
    ["an unknown option"] = { "unknown option 'certs' %(did you mean 'cert'%?%)",
      function() return { certs = "x" } end },
    ["a number for a file"] = { "'cert'.*string",
      function() return { cert = 5, key = "x" } end },
    ["a certificate without its key"] = { "'key'",
      function() return { cert = pki.cert.good } end },
    ["a key without its certificate"] = { "'cert'", function() return { key = pki.key.leaf } end },
    ["an old version"] = { "'min_version'.*TLSv1%.2",
      function() return { min_version = "TLSv1.1" } end },
    ["a newest version before the oldest"] = { "'max_version'",
      function() return { min_version = "TLSv1.3", max_version = "TLSv1.2" } end },
    ["an odd verify"] = { "'verify'.*optional", function() return { verify = "maybe" } end },
    ["insecure that is no boolean"] = { "'insecure'.*boolean",
      function() return { insecure = "yes" } end },
    ["a protocol with an empty name"] = { "'alpn'", function() return { alpn = { "" } } end },
    ["a protocol with a long name"] = { "'alpn'",
      function() return { alpn = { ("x"):rep(256) } } end },
    ["a protocol that is a number"] = { "'alpn'", function() return { alpn = 5 } end },
    ["a zero byte in a name"] = { "'servername'.*zero",
      function() return { servername = "localhost\0.evil" } end },
    ["a list for names"] = { "'sni'", function() return good("good", { sni = { good() } }) end },
    ["an unknown option of a name"] = { "'certs'",
      function() return good("good", { sni = { ["a.test"] = { certs = "x" } } }) end },
    ["a timeout that is a text"] = { "'handshake_timeout'",
      function() return { handshake_timeout = "5" } end },
  }

  for title, row in pairs(MISUSE) do
    local text, options = table.unpack(row)
    it(title .. ", in tls_context", function()
      raises(text, function() return wire.tls_context(options()) end)
    end)

    it(title .. ", in connect", function()
      raises(text, function() return wire.connect("127.0.0.1:1", { tls = options() }) end)
    end)
  end

  it("a server without a certificate", function()
    for _, tls in ipairs { true, pki.client(), assert(wire.tls_context()) } do
      raises("certificate.*'cert' and 'key'", function()
        return wire.serve("127.0.0.1:0", { tls = tls }, print)
      end)
    end
  end)

  it("something else in place of options", function()
    raises("'tls'", function() return wire.connect("127.0.0.1:1", { tls = "yes" }) end)
    raises("'tls'", function() return wire.connect("127.0.0.1:1", { tls = 1 }) end)
    raises("table", function() return wire.tls_context(true) end)
  end)

  it("tls = false is no TLS", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", { tls = false }, function(conn)
      conn:send "plain"
    end))
    local conn <close> = assert(wire.connect(server:addr(), { tls = false }))
    assert.equal("plain", conn:recv(5))
    assert.is_nil(conn:tls_info())
  end)
end)

-- ---- names (SNI) -----------------------------------------------------------------------

describe("a name's options (sni)", function()
  it("trap: what they leave out is as outside: a client certificate is asked for", function()
    local tls = pki.server("good", { ca = pki.ca.ca, verify = true,
      sni = { localhost = { cert = pki.cert.renewed, key = pki.key.leaf } } })
    local _, at_server = sessions.meet(tls, pki.client { servername = "localhost" })
    assert.matches("^ECERT of handshake: .*no certificate", at_server)
  end)

  it("and what they say counts: their certificate, protocols, verification", function()
    local tls = pki.server("good", { alpn = { "outer" },
      sni = { localhost = pki.server("chain", { alpn = { "inner" }, ca = pki.ca.ca,
        verify = true }) } })
    local client = pki.client_with("client", { servername = "localhost",
      alpn = { "outer", "inner" } })
    local at_client, at_server = facts(tls, client)
    assert.equal("CN=Intermediate CA", at_client.peer_cert.issuer)
    assert.equal("inner", at_client.alpn)
    assert.equal("CN=a client", at_server.peer_cert.subject)
    client.servername = nil
    at_client, at_server = facts(tls, client)
    assert.equal("CN=Test CA", at_client.peer_cert.issuer)
    assert.equal("outer", at_client.alpn)
    assert.is_nil(at_server.peer_cert)
  end)

  it("without a certificate of its own have the one outside", function()
    local tls = pki.server("good", { sni = { localhost = { alpn = { "inner" } } } })
    local at_client = facts(tls, pki.client { servername = "localhost", alpn = { "inner" } })
    assert.equal("CN=localhost", at_client.peer_cert.subject)
    assert.equal("inner", at_client.alpn)
  end)

  it("may be a context that is made already", function()
    local inner = assert(wire.tls_context(pki.server "chain"))
    local tls = pki.server("good", { sni = { localhost = inner } })
    assert.equal("CN=Intermediate CA",
      facts(tls, pki.client { servername = "localhost" }).peer_cert.issuer)
  end)
end)

-- ---- reload ----------------------------------------------------------------------------

describe("reload", function()
  local function replace(path, certificate) return write(path, pki.text(certificate)) end

  it("takes new files for new connections; those that are up live on", function()
    local path = replace(pki.scratch "served.pem", pki.cert.good)
    local context = assert(wire.tls_context { cert = path, key = pki.key.leaf })
    local server <close> = assert(wire.serve("127.0.0.1:0", { tls = context }, function(conn)
      for line in conn:lines() do conn:send(line, "\n") end
    end))
    local opts = { tls = pki.client(), timeout = PATIENCE }
    local old <close> = assert(wire.connect(server:addr(), opts))
    replace(path, pki.cert.renewed)
    local before <close> = assert(wire.connect(server:addr(), opts))
    assert.is_true(context:reload())
    local new <close> = assert(wire.connect(server:addr(), opts))
    local function fingerprint(conn) return conn:tls_info().peer_cert.fingerprint end
    assert.equal(fingerprint(old), fingerprint(before))
    assert.not_equal(fingerprint(old), fingerprint(new))
    for _, conn in ipairs { old, before, new } do
      assert(conn:send "still\n")
      assert.equal("still", conn:recv_line(PATIENCE))
    end
  end)

  it("of broken or missing files fails, and all stays as it was", function()
    local path = replace(pki.scratch "served.pem", pki.cert.good)
    local context = assert(wire.tls_context { cert = path, key = pki.key.leaf })
    write(path, "nonsense")
    assert.matches("^reload.*served%.pem: no certificate", fails("ETLS", context:reload()))
    os.remove(path)
    fails("ENOENT", context:reload())
    assert.truthy(facts(context, pki.client()))
  end)

  it("takes the files of names, too; if one is broken, none of them changes", function()
    local outer = replace(pki.scratch "outer.pem", pki.cert.good)
    local inner = replace(pki.scratch "inner.pem", pki.cert.good)
    local context = assert(wire.tls_context { cert = outer, key = pki.key.leaf,
      sni = { localhost = { cert = inner, key = pki.key.leaf } } })
    local function issuer(name)
      return facts(context, pki.client { servername = name }).peer_cert.issuer
    end
    replace(outer, pki.cert.chain)
    write(inner, "nonsense")
    fails("ETLS", context:reload())
    assert.equal("CN=Test CA", issuer())
    replace(inner, pki.cert.chain)
    assert.is_true(context:reload())
    assert.equal("CN=Intermediate CA", issuer())
    assert.equal("CN=Intermediate CA", issuer "localhost")
  end)

  it("takes new authorities, and forgets sessions", function()
    local path = replace(pki.scratch "authority.pem", pki.ca.ca)
    local context = assert(wire.tls_context { ca = path })
    local server = assert(wire.tls_context(pki.server()))
    assert.is_false(facts(server, context).resumed)
    assert.is_true(facts(server, context).resumed)
    replace(path, pki.ca.other)
    assert.is_true(context:reload())
    assert.matches("^ECERT of connect", (sessions.meet(server, context)))
  end)
end)

-- ---- the key log -----------------------------------------------------------------------

describe("keylog", function()
  it("writes a file as other programs read it, line behind line", function()
    local path = pki.scratch "keys.log"
    facts(pki.server("good", { keylog = path }), pki.client { max_version = "TLSv1.2" })
    facts(pki.server(), pki.client { keylog = path })
    local text = pki.text(path)
    assert.matches("^CLIENT_RANDOM %x+ %x+\n", text)
    assert.matches("\nCLIENT_HANDSHAKE_TRAFFIC_SECRET %x+ %x+\n", text)
    assert.matches("\nSERVER_TRAFFIC_SECRET_0 %x+ %x+\n", text)
    for line in text:gmatch "[^\n]+" do assert.matches("^[%u_%d]+ %x+ %x+$", line) end
  end)

  it("is for its owner's eyes only", function()
    local path = pki.scratch "private.log"
    facts(pki.server("good", { keylog = path }), pki.client())
    assert.equal("600\n", shell("stat -c %a " .. path))
  end)

  it("that cannot be written hurts nobody", function()
    assert.truthy(facts(pki.server("good", { keylog = "/nowhere/keys.log" }), pki.client()))
  end)
end)

-- ---- facts -----------------------------------------------------------------------------

describe("tls_info", function()
  for _, version in ipairs(sessions.VERSIONS) do
    it("tells version, cipher, protocol, name and certificate at both ends, over " .. version,
      function()
        local at_client, at_server = facts(
          pki.server("good", { ca = pki.ca.ca, verify = true, alpn = { "x" } }),
          pki.client_with("client", { servername = "localhost", alpn = { "x" },
            max_version = version }))
        for _, info in ipairs { at_client, at_server } do
          assert.equal(version, info.version)
          assert.matches("AES", info.cipher)
          assert.equal("x", info.alpn)
          assert.equal("localhost", info.servername)
          assert.is_false(info.resumed)
        end
        local cert = at_client.peer_cert
        assert.equal("CN=localhost", cert.subject)
        assert.equal("CN=Test CA", cert.issuer)
        assert.same({ "DNS:localhost", "IP Address:127.0.0.1", "DNS:*.example.org" }, cert.names)
        assert.equal("2020-01-01T00:00:00Z", cert.not_before)
        assert.equal("2120-01-01T00:00:00Z", cert.not_after)
        local printed = shell("openssl x509 -noout -sha256 -fingerprint -in " .. pki.cert.good)
        assert.equal(printed:match "=(%S+)":gsub(":", ""):lower(), cert.fingerprint)
        assert.equal("CN=a client", at_server.peer_cert.subject)
      end)
  end

  it("has no certificate of a client that sent none, and no protocol without ALPN", function()
    local at_client, at_server = facts(pki.server(), pki.client())
    assert.is_nil(at_server.peer_cert)
    assert.is_nil(at_server.alpn)
    assert.is_nil(at_client.alpn)
    assert.is_nil(at_server.servername)
  end)

  it("has the certificate of a resumed session, too", function()
    local client = assert(wire.tls_context(pki.client_with "client"))
    local server = assert(wire.tls_context(pki.server("good", { ca = pki.ca.ca, verify = true })))
    facts(server, client)
    local at_client, at_server = facts(server, client)
    assert.is_true(at_client.resumed)
    assert.is_true(at_server.resumed)
    assert.equal("CN=localhost", at_client.peer_cert.subject)
    assert.equal("CN=a client", at_server.peer_cert.subject)
  end)

  it("is nil without TLS and after the close", function()
    local a, b = wire.pipe()
    assert.is_nil(a:tls_info())
    a:close()
    b:close()
    local server <close> = assert(wire.serve("127.0.0.1:0", { tls = pki.server() }, function(conn)
      conn:recv_line()
    end))
    local conn = assert(wire.connect(server:addr(), { tls = pki.client() }))
    assert.equal("TLSv1.3", conn:tls_info().version)
    conn:close()
    assert.is_nil(conn:tls_info())
  end)
end)

describe("session = false", function()
  it("resumes nothing", function()
    local client = assert(wire.tls_context(pki.client { session = false }))
    local server = assert(wire.tls_context(pki.server()))
    for _ = 1, 3 do assert.is_false(facts(server, client).resumed) end
  end)
end)

describe("sessions", function()
  it("trap: are not resumed for another name, whatever the address", function()
    local client = assert(wire.tls_context(pki.client()))
    local server = assert(wire.tls_context(pki.server()))
    assert.is_false(facts(server, client).resumed)
    local other = assert(wire.tls_context(pki.client { servername = "www.example.org" }))
    assert.is_false(facts(server, other).resumed)
    assert.is_true(facts(server, client).resumed)
  end)

  it("trap: of a server that asks for certificates are of no use without one there", function()
    local plain = assert(wire.tls_context(pki.server()))
    local strict = assert(wire.tls_context(pki.server("good", { ca = pki.ca.ca, verify = true })))
    local client = assert(wire.tls_context(pki.client()))
    facts(plain, client)
    local _, at_server = sessions.meet(strict, client)
    assert.matches("^ECERT of handshake", at_server)
  end)
end)
