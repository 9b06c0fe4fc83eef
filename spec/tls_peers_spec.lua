-- Real programs as peers over TLS: openssl, curl, GnuTLS, sslscan, haproxy.  What other
-- implementations send must be understood, and they must understand us.
-- What this is not: what goes wrong (tls_matrix_spec), contexts and upgrades (tls_spec).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"

local it = support.it

local PATIENCE <const> = 20
local MILLION <const> = 1000 * 1000

-- {ca} and the like in a command stand for files of the pki, {port} for a port.
local function fill_in(command, port)
  local files = { port = port, ca = pki.ca.ca, key = pki.key.leaf }
  return (command:gsub("{([%w_]+)}", function(name) return files[name] or pki.cert[name] end))
end

-- Runs a shell command that connects to a TLS server of ours -> its output; message and code
-- with which the connection ended here.
local function visit(command, handler, tls)
  local server <close>, await_end = sessions.serve(tls or pki.server(), handler)
  local output = support.peer(fill_in(command, server:port())):output()
  return output, await_end()
end

-- Starts a server program and dials it -> the program, a connection to it; or the program and the
-- failure.
local function dial(command, tls)
  local port = support.port()
  local peer = support.peer(fill_in(command, port))
  local conn, message, code
  repeat -- until the program listens
    conn, message, code =
      wire.connect("127.0.0.1:" .. port, { tls = tls or pki.client(), timeout = PATIENCE })
    if not conn then wire.sleep(0.02) end
  until code ~= "ECONNREFUSED"
  return peer, conn, message, code
end

-- The facts of the session first, then each line back; "bye" ends it.
local function echo(conn)
  local info = conn:tls_info()
  conn:send(("%s alpn=%s name=%s resumed=%s peer=%s\n"):format(info.version, info.alpn,
    info.servername, info.resumed, info.peer_cert and info.peer_cert.subject))
  for line in conn:lines() do
    conn:send("> ", line, "\n")
    if line == "bye" then return end
  end
end

-- ---- openssl ---------------------------------------------------------------------------

local S_CLIENT = [[openssl s_client -connect 127.0.0.1:{port} -CAfile {ca} -verify_return_error ]]
local TALK = [[printf 'hello\nbye\n' | ]] .. S_CLIENT .. "-quiet 2>/dev/null "

local FLAGS = { ["TLSv1.2"] = "-tls1_2 ", ["TLSv1.3"] = "-tls1_3 " }

describe("openssl s_client", function()
  for version, flag in pairs(FLAGS) do
    it("gets its lines back over " .. version, function()
      local output, message, code = visit(TALK .. flag, echo)
      assert.matches("^" .. version .. " alpn=nil", output)
      assert.matches("\n> hello\n> bye\n$", output)
      assert.is_nil(code, message)
    end)

    it("with a client certificate is known by it over " .. version, function()
      local tls = pki.server("chain", { ca = pki.ca.ca, verify = true })
      local output = visit(TALK .. flag ..
        "-cert {client_chain} -key {key} -cert_chain {client_chain}", echo, tls)
      assert.matches("peer=CN=a client\n", output)
    end)

    it("without one is rejected over " .. version, function()
      local tls = pki.server("good", { ca = pki.ca.ca, verify = true })
      local output, _, code = visit(TALK .. flag .. "2>&1", function() error "served" end, tls)
      assert.equal("ECERT", code)
      assert.matches("alert", output)
    end)

    it("resumes its session over " .. version, function()
      local server <close>, await_end = sessions.serve(pki.server(), echo)
      local file = pki.scratch("session of " .. version):gsub(" ", "_")
      local function talk(option)
        local peer = support.peer(fill_in(TALK .. flag .. option .. file, server:port()))
        local output = peer:output()
        await_end()
        return output:match "resumed=(%w+)"
      end
      assert.equal("false", talk "-sess_out ")
      assert.equal("true", talk "-sess_in ")
    end)

    it("sends and gets 10 MB at once over " .. version, function()
      local command = "head -c 10000000 /dev/zero | timeout 60 " .. S_CLIENT .. flag ..
        "-quiet -nocommands 2>/dev/null | wc -c"
      local got = 0
      local output = visit(command, function(conn)
        local writer = wire.spawn(function()
          for _ = 1, 100 do assert(conn:send(("x"):rep(100000))) end
        end)
        while got < 10 * MILLION do got = got + #assert(conn:recv_some(65536, PATIENCE)) end
        assert(writer:join())
      end)
      assert.equal(10 * MILLION, got)
      assert.equal(10 * MILLION, tonumber(output))
    end, 60)

    it("that is killed ends with ETLS, never EOF, over " .. version, function()
      local server <close>, await_end = sessions.serve(pki.server(), function(conn)
        assert.equal("hello", conn:recv_line(PATIENCE))
        conn:send "killed\n"
        conn:recv(1, PATIENCE)
      end)
      local peer = support.peer(fill_in("(echo hello; sleep 60) | " .. S_CLIENT .. flag ..
        "-quiet -nocommands 2>/dev/null", server:port()))
      assert.equal("killed", peer:line())
      peer:stop()
      local message, code = await_end()
      assert.equal("ETLS", code, message)
    end)
  end

  it("chooses the protocol that we like best (ALPN)", function()
    local tls = pki.server("good", { alpn = { "echo/2", "echo/1" } })
    assert.matches(" alpn=echo/2 ", (visit(TALK .. "-alpn echo/1,echo/2", echo, tls)))
    assert.matches(" alpn=echo/1 ", (visit(TALK .. "-alpn echo/1", echo, tls)))
    assert.matches(" alpn=nil ", (visit(TALK, echo, tls)))
  end)

  it("gets the certificate of the name that it asks for (SNI)", function()
    local tls = pki.server("good", { sni = {
      ["elsewhere.example.com"] = pki.server "other_host",
      ["*.example.net"] = pki.server "chain",
    } })
    local command = TALK .. "-servername %s -verify_hostname %s"
    local function asks(name, expected)
      return (visit(command:format(name, expected or name), echo, tls))
    end
    assert.matches(" name=elsewhere.example.com ", asks "elsewhere.example.com")
    assert.matches(" name=ELSEWHERE.Example.com ", asks "ELSEWHERE.Example.com")
    assert.matches(" name=localhost ", asks "localhost")
    assert.matches(" name=www.example.org ", asks "www.example.org")
    -- of the chain's file is whatever is asked for under example.net, and nothing else
    local chain = "printf 'bye\\n' | openssl s_client -connect 127.0.0.1:{port} -servername %s 2>&1"
    local function issuer(name)
      return (visit(chain:format(name), echo, tls)):match "issuer=CN = ([^\n]+)"
    end
    assert.equal("Intermediate CA", issuer "a.example.net")
    assert.equal("Test CA", issuer "a.b.example.net")
    assert.equal("Test CA", issuer "example.net")
    assert.equal("Test CA", issuer "nobody.test")
  end)

  -- Talks with an echo server line by line; a line of "R", "K" or "k" is a command to s_client.
  -- dialogue(flag, {{input, awaited output}, ...}) -> message and code at our end.
  local function dialogue(flag, steps)
    local server <close>, await_end = sessions.serve(pki.server(), echo)
    local fifo = pki.scratch "input"
    os.remove(fifo)
    assert(os.execute("mkfifo " .. fifo))
    local input <close> = assert(io.open(fifo, "r+")) -- open for reading, too: never waits
    input:setvbuf "no"
    local peer = support.peer(fill_in(S_CLIENT .. flag .. "2>&1 <" .. fifo, server:port()))
    for _, step in ipairs(steps) do
      input:write(step[1], "\n")
      repeat local line = assert(peer:line()) until line:find(step[2], 1, true)
    end
    local message, code = await_end()
    peer:stop()
    return message, code
  end

  it("may change its keys, and ask us to (TLS 1.3)", function()
    local message, code = dialogue("-tls1_3 ", {
      { "one", "> one" }, { "k", "KEYUPDATE" }, { "two", "> two" }, { "K", "KEYUPDATE" },
      { "three", "> three" }, { "four", "> four" }, { "bye", "> bye" },
    })
    assert.is_nil(code, message)
  end)

  it("may not renegotiate (TLS 1.2)", function()
    local message, code =
      dialogue("-tls1_2 ", { { "one", "> one" }, { "R", "no renegotiation" } })
    assert.equal("ETLS", code, message)
  end)

  for _, flag in ipairs { "-tls1", "-tls1_1" } do
    it("of an old version is told so and is ETLS here: " .. flag, function()
      local output, message, code = visit("openssl s_client -connect 127.0.0.1:{port} " .. flag ..
        " -cipher DEFAULT@SECLEVEL=0 2>&1", function() error "served" end)
      assert.matches("alert protocol version", output)
      assert.equal("ETLS", code)
      assert.matches("unsupported protocol", message)
    end)
  end
end)

local S_SERVER = [[openssl s_server -accept 127.0.0.1:{port} -cert {good} -key {key} ]]

describe("openssl s_server", function()
  for version, flag in pairs(FLAGS) do
    it("talks with us over " .. version, function()
      local peer, conn, message = dial(S_SERVER .. flag .. "-quiet -naccept 1 -rev")
      assert(conn, message)
      assert.equal(version, conn:tls_info().version)
      assert(conn:send "hello\n")
      assert.equal("olleh", conn:recv_line(PATIENCE))
      conn:close()
      peer:stop()
    end)

    it("gets our client certificate over " .. version, function()
      local peer, conn, message = dial(S_SERVER .. flag .. "-CAfile {ca} -Verify 2 -www 2>&1",
        pki.client_with "client_chain")
      assert(conn, message)
      assert(conn:send "GET / HTTP/1.0\r\n\r\n")
      local page = assert(conn:read "a")
      assert.matches("Subject: CN ?= ?a client", page)
      conn:close()
      peer:stop()
    end)

    it("resumes our session over " .. version, function()
      local context = assert(wire.tls_context(pki.client()))
      local peer, conn, message = dial(S_SERVER .. flag .. "-quiet -rev", context)
      local port = select(3, assert(conn, message):remote_addr())
      local function talk(with)
        assert(with:send "abc\n")
        assert.equal("cba", with:recv_line(PATIENCE))
        local resumed = with:tls_info().resumed
        with:close()
        return resumed
      end
      assert.is_false(talk(conn))
      local opts = { tls = context, timeout = PATIENCE }
      assert.is_true(talk(assert(wire.connect("127.0.0.1:" .. port, opts))))
      assert.is_true(talk(assert(wire.connect("127.0.0.1:" .. port, opts))))
      opts.tls = pki.client()
      assert.is_false(talk(assert(wire.connect("127.0.0.1:" .. port, opts))))
      peer:stop()
    end)
  end

  it("of an old version is ETLS", function()
    local peer, conn, message, code =
      dial(S_SERVER .. "-quiet -tls1_1 -cipher DEFAULT@SECLEVEL=0")
    assert.is_nil(conn)
    assert.equal("ETLS", code)
    assert.matches("protocol", message)
    peer:stop()
  end)

  it("agrees on a protocol (ALPN)", function()
    local peer, conn, message =
      dial(S_SERVER .. "-quiet -rev -alpn b,a", pki.client { alpn = { "a", "b" } })
    assert.equal("b", assert(conn, message):tls_info().alpn)
    conn:close()
    peer:stop()
  end)

  it("hears the name that we ask for, and none for an address (SNI)", function()
    local command = S_SERVER .. "-servername localhost -servername_fatal -cert2 {good} -key2 {key} "
    local peer, conn, message =
      dial(command .. "-quiet -rev", pki.client { servername = "localhost" })
    assert(conn, message)
    conn:close()
    peer:stop()
    peer, conn, message = dial(command .. "-www")
    assert(conn, message)
    assert(conn:send "GET / HTTP/1.0\r\n\r\n")
    assert.is_nil(conn:read "a":match "servername[^\n]*127")
    conn:close()
    peer:stop()
  end)

  it("that asks for a renegotiation gets none (TLS 1.2)", function()
    local peer, conn, message =
      dial("(sleep 1; echo r; sleep 0.5; echo still here) | " .. S_SERVER .. "-tls1_2 2>&1")
    assert(conn, message)
    assert(conn:send "hello\n")
    local text, _, code = conn:recv_line(PATIENCE)
    assert.is_true(text == "still here" or code == "ETLS", text or code)
    conn:reset()
    peer:stop()
  end)
end)

-- ---- curl ------------------------------------------------------------------------------

describe("curl", function()
  -- Answers GET with the path.
  local function respond(conn)
    for line in conn:lines() do
      local path = line:match "^GET (%S+) HTTP/1"
      repeat local header = conn:recv_line() until not header or header == ""
      conn:send("HTTP/1.1 200 OK\r\nContent-Length: ", #path, "\r\n\r\n", path)
    end
  end

  local CURL = "curl -sS --noproxy '*' --max-time 20 "

  for _, flag in ipairs { "--tls-max 1.2", "--tlsv1.3" } do
    it("gets pages over one connection with " .. flag, function()
      local output, _, code = visit(CURL .. flag ..
        " --cacert {ca} https://127.0.0.1:{port}/[1-3]", respond, pki.server "chain")
      assert.equal("/1/2/3", output)
      assert.is_true(code == "EOF" or code == nil, code)
    end)
  end

  it("does not trust us without our authority, which is ETLS here", function()
    local output, message, code =
      visit(CURL .. "https://127.0.0.1:{port}/ 2>&1", function() error "served" end)
    assert.matches("unable to get local issuer certificate", output)
    assert.equal("ETLS", code)
    assert.matches("unknown ca", message)
  end)

  it("without TLS is ETLS: an HTTP request", function()
    local _, message, code =
      visit(CURL .. "http://127.0.0.1:{port}/", function() error "served" end)
    assert.equal("ETLS", code)
    assert.matches("http request", message)
  end)

  it("shows a certificate if it is asked for one", function()
    local tls = pki.server("good", { ca = pki.ca.ca, verify = true })
    local output = visit(CURL ..
      "--cacert {ca} --cert {client} --key {key} https://127.0.0.1:{port}/", function(conn)
        local subject = conn:tls_info().peer_cert.subject
        repeat local line = conn:recv_line() until line == ""
        conn:send("HTTP/1.0 200 OK\r\n\r\n", subject)
      end, tls)
    assert.equal("CN=a client", output)
  end)
end)

-- ---- GnuTLS ----------------------------------------------------------------------------

local PRIORITIES = {
  ["TLSv1.2"] = "--priority NORMAL:-VERS-ALL:+VERS-TLS1.2 ",
  ["TLSv1.3"] = "--priority NORMAL:-VERS-ALL:+VERS-TLS1.3 ",
}

describe("GnuTLS", function()
  local CLIENT = "gnutls-cli --x509cafile {ca} --logfile /dev/null --port {port} localhost "

  for version, priority in pairs(PRIORITIES) do
    it("as a client gets its lines back over " .. version, function()
      local output, message, code = visit([[printf 'hello\nbye\n' | ]] .. CLIENT .. priority, echo)
      assert.matches(version, output)
      assert.matches("\n> hello\n> bye", output)
      assert.is_true(code == nil or code == "EOF", message)
    end)

    it("as a server talks with us over " .. version, function()
      local peer, conn, message = dial(
        "gnutls-serv --echo --port {port} --x509certfile {chain} --x509keyfile {key} " .. priority)
      assert(conn, message)
      assert.equal(version, conn:tls_info().version)
      assert(conn:send(("y"):rep(100000), "\n"))
      assert.equal(100000, #assert(conn:recv_line { timeout = PATIENCE, max = MILLION }))
      conn:close()
      peer:stop()
    end)
  end

  it("rejects a certificate for another name, which is ETLS here", function()
    local output, _, code = visit("echo hello | " .. CLIENT, echo, pki.server "other_host")
    assert.matches("Error in the certificate", output)
    assert.is_true(code == "ETLS" or code == "ECONNRESET", code)
  end)
end)

-- ---- sslscan ---------------------------------------------------------------------------

describe("sslscan", function()
  it("finds TLS 1.2 and 1.3 only, no renegotiation, no weak cipher", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", { tls = pki.server() }, echo))
    local report = support.peer(
      ("sslscan --no-colour 127.0.0.1:%d"):format(server:port()), 60):output()
    for version, state in pairs {
      SSLv2 = "disabled", SSLv3 = "disabled", ["TLSv1%.0"] = "disabled", ["TLSv1%.1"] = "disabled",
      ["TLSv1%.2"] = "enabled", ["TLSv1%.3"] = "enabled",
    } do
      assert.matches(("\n%s%%s+%s\n"):format(version, state), report)
    end
    assert.matches("Session renegotiation not supported", report)
    local accepted = 0
    for version, bits, cipher in report:gmatch "\n%a+%s+TLSv1%.(%d)%s+(%d+) bits%s+(%S+)" do
      accepted = accepted + 1
      assert.is_true(tonumber(bits) >= 128, cipher)
      assert.is_true(version == "3" or cipher:find "^ECDHE" ~= nil, cipher)
    end
    assert.is_true(accepted >= 4, report)
  end, 60)
end)

-- ---- haproxy ---------------------------------------------------------------------------

describe("haproxy", function()
  local CONFIG = [[
global
  log stderr local0 emerg
defaults
  mode tcp
  timeout connect 10s
  timeout client 20s
  timeout server 20s
frontend tls
  bind 127.0.0.1:%d ssl crt %s
  default_backend echo
backend echo
  balance roundrobin
  server first 127.0.0.1:%d ssl verify required ca-file %s verifyhost localhost check
  server second 127.0.0.1:%d ssl verify required ca-file %s verifyhost localhost check
]]

  local function write(name, text)
    local path = pki.scratch(name)
    local file <close> = assert(io.open(path, "w"))
    assert(file:write(text))
    return path
  end

  it("with TLS on both sides spreads connections over two servers", function()
    local counts = { 0, 0 }
    local function serve(i)
      return assert(wire.serve("127.0.0.1:0", { tls = pki.server() }, function(conn)
        for line in conn:lines() do
          counts[i] = counts[i] + 1
          conn:send("> ", line, "\n")
        end
      end))
    end
    local first <close> = serve(1)
    local second <close> = serve(2)
    local port = support.port()
    local pem = write("haproxy.pem", pki.text(pki.cert.good) .. pki.text(pki.key.leaf))
    local config = write("haproxy.cfg", CONFIG:format(port, pem, first:port(), pki.ca.ca,
      second:port(), pki.ca.ca))
    local peer = support.peer("haproxy -db -f " .. config .. " 2>&1")
    local opts = { tls = pki.client { servername = "localhost" }, timeout = PATIENCE }
    for i = 1, 6 do
      local conn, message, code
      repeat
        conn, message, code = wire.connect("127.0.0.1:" .. port, opts)
        if not conn then wire.sleep(0.02) end
      until code ~= "ECONNREFUSED"
      assert(conn, message)
      assert(conn:send("line ", i, "\n"))
      assert.equal("> line " .. i, conn:recv_line(PATIENCE))
      conn:close_write()
      assert.equal("EOF", select(3, conn:recv(1, PATIENCE)))
      conn:close()
    end
    peer:stop()
    assert.same({ 3, 3 }, counts)
  end, 30)
end)
