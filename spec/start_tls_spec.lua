-- start_tls: a connection that is live already gets TLS, on both roles, over TCP and pipes.
-- What this is not: what a session refuses (tls_matrix_spec), contexts (tls_spec).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"
local tools = require "spec.conformance.tools"

local it, fails, raises = support.it, support.fails, support.raises

local PATIENCE <const> = 20

local function client_tls(more)
  local options = pki.client { servername = "localhost" }
  for name, value in pairs(more or {}) do options[name] = value end
  return options
end

local function upgrade(a, b)
  local at_a, at_b = sessions.handshake(a, client_tls(), b, pki.server())
  assert(at_a[1], at_a[2])
  assert(at_b[1], at_b[2])
end

local PLAIN = {
  { name = "tcp", pair = support.pair },
  { name = "a pipe", pair = function() return wire.pipe() end },
}

for _, transport in ipairs(PLAIN) do
  local pair = transport.pair

  describe("start_tls over " .. transport.name, function()
    it("upgrades both ends, which go on as before", function()
      local a, b = pair()
      tools.put(a, "STARTTLS\n")
      assert.equal("STARTTLS", b:recv_line())
      tools.put(b, "go ahead\n")
      assert.equal("go ahead", a:recv_line())
      upgrade(a, b)
      assert.equal("TLSv1.3", a:tls_info().version)
      tools.put(a, "secret\n")
      assert.equal("secret", b:recv_line())
      assert(b:send(("x"):rep(300000)))
      assert.equal(300000, #a:recv(300000, PATIENCE))
      a:close()
      fails("EOF", b:recv(1))
    end)

    it("returns true at both ends", function()
      local a, b = pair()
      local at_a, at_b = sessions.handshake(a, client_tls(), b, pki.server())
      assert.same({ true, n = 1 }, at_a)
      assert.same({ true, n = 1 }, at_b)
    end)

    it("takes the other roles if it is told to", function()
      local a, b = pair()
      local server, client = pki.server(), client_tls { role = "client" }
      server.role = "server"
      local at_a, at_b = sessions.handshake(a, server, b, client)
      assert(at_a[1], at_a[2])
      assert(at_b[1], at_b[2])
      assert.equal("CN=localhost", b:tls_info().peer_cert.subject)
    end)

    it("trap: what was sent before goes out in plain, all of it, and first", function()
      local a, b = pair()
      local plain = ("plain\n"):rep(200000)
      assert(b:send(plain))
      local task = wire.spawn(b.start_tls, b, pki.server())
      assert.is_true(plain == a:recv(#plain, PATIENCE))
      assert(a:start_tls(client_tls()))
      tools.result(task)
    end)

    it("trap: bytes that are buffered already belong to the handshake", function()
      local a, b = pair()
      a:send "STARTTLS\n"
      local task = wire.spawn(a.start_tls, a, client_tls())
      assert(b:peek(9 + 100, PATIENCE)) -- the ClientHello is here, too
      assert.equal("STARTTLS", b:recv_line())
      assert(b:start_tls(pki.server()))
      assert.is_true(tools.result(task))
      tools.put(b, "hello")
      assert.equal("hello", a:recv(5, PATIENCE))
    end)

    it("trap: plain text injected before the handshake is never data at a server", function()
      local a, b = pair()
      tools.put(a, "STARTTLS\nDELETE everything\n")
      assert.equal("STARTTLS", b:recv_line())
      assert(b:peek(18, PATIENCE))
      local task = wire.spawn(a.start_tls, a, client_tls())
      fails("ETLS", b:start_tls(pki.server()))
      fails("ECLOSED", b:recv_now())
      fails("ECLOSED", b:recv_line())
      assert.equal(0, b:buffered())
      assert.is_nil((tools.result(task)))
    end)

    it("trap: nor at a client", function()
      local a, b = pair()
      tools.put(b, "go ahead\n250 mail accepted\n")
      assert.equal("go ahead", a:recv_line())
      assert(a:peek(18, PATIENCE))
      local task = wire.spawn(b.start_tls, b, pki.server())
      fails("ETLS", a:start_tls(client_tls()))
      fails("ECLOSED", a:recv_line())
      assert.equal(0, a:buffered())
      assert.is_nil((tools.result(task)))
    end)

    it("trap: nor is what was pushed back by unread", function()
      local a, b = pair()
      b:unread "DELETE everything\n"
      local task = wire.spawn(a.start_tls, a, client_tls())
      fails("ETLS", b:start_tls(pki.server()))
      fails("ECLOSED", b:recv_line())
      tools.result(task)
    end)

    it("that is not answered is ETIMEDOUT in time and closes", function()
      local a, b = pair()
      local elapsed, result, message, code =
        tools.timed(a.start_tls, a, client_tls { timeout = 0.05 })
      assert.matches("^start_tls .*: timed out$", (fails("ETIMEDOUT", result, message, code)))
      tools.took(0.05, elapsed)
      assert.is_true(a:closed())
      elapsed, result, message, code =
        tools.timed(b.start_tls, b, pki.server("good", { handshake_timeout = 0.05 }))
      fails(code == "ETLS" and "ETLS" or "ETIMEDOUT", result, message, code)
      assert.is_true(b:closed() and elapsed < 5)
    end)

    it("of a context takes its handshake timeout", function()
      local _, b = pair()
      local context = assert(wire.tls_context(pki.server("good", { handshake_timeout = 0.05 })))
      local elapsed, result, message, code = tools.timed(b.start_tls, b, context)
      fails("ETIMEDOUT", result, message, code)
      tools.took(0.05, elapsed)
    end)

    it("that is cancelled closes: half a session is of no use to anybody", function()
      local a, b = pair()
      local task = tools.start(a.start_tls, a, client_tls())
      task:cancel()
      fails("ECANCELED", task:join())
      assert.is_true(a:closed())
      fails("ETLS", b:start_tls(pki.server()))
    end)

    it("while the connection is closed by somebody else is ECLOSED", function()
      local a, _ = pair()
      local task = tools.start(a.start_tls, a, client_tls())
      a:close()
      local result, message, code = tools.result(task)
      fails("ECLOSED", result, message, code)
    end)

    it("with a certificate for somebody else is ECERT here, ETLS there, and closes", function()
      local a, b = pair()
      local at_a, at_b = sessions.handshake(a, client_tls { servername = "other.test" },
        b, pki.server())
      assert.matches("^start_tls .*[Hh]ostname mismatch",
        (fails("ECERT", table.unpack(at_a, 1, 3))))
      assert.matches("^start_tls .*alert", (fails("ETLS", table.unpack(at_b, 1, 3))))
      assert.is_true(a:closed())
      assert.is_true(b:closed())
    end)

    it("stands in line behind a receive that waits", function()
      local a, b = pair()
      local reader = tools.start(b.recv_line, b)
      local server = tools.start(b.start_tls, b, pki.server())
      tools.put(a, "STARTTLS\n")
      assert.equal("STARTTLS", tools.result(reader))
      assert(a:start_tls(client_tls()))
      assert.is_true(tools.result(server))
    end)

    it("lets those that send and receive meanwhile wait for the session", function()
      local a, b = pair()
      local server = tools.start(b.start_tls, b, pki.server())
      local reader = tools.start(b.recv_line, b)
      local client = tools.start(a.start_tls, a, client_tls())
      assert(a:send "behind it\n")
      tools.result(client)
      tools.result(server)
      assert.equal("behind it", tools.result(reader))
    end)

    it("lets bytes through at once that came together with the end of the handshake", function()
      local a, b = pair()
      local server = tools.start(b.start_tls, b, pki.server())
      local client = wire.spawn(function()
        assert(a:start_tls(client_tls { max_version = "TLSv1.3" }))
        return a:send("early\n")
      end)
      tools.result(client)
      tools.result(server)
      assert.equal("early", b:recv_line(PATIENCE))
    end)

    it("with framing, deadlines and limits set before keeps them", function()
      local a, b = pair()
      b:set_framing(wire.framing.length { size = 2 })
      a:set_framing(wire.framing.length { size = 2 })
      upgrade(a, b)
      assert(a:send_frame "framed")
      assert.equal("framed", b:recv_frame(PATIENCE))
      b:set_recv_deadline(wire.now() - 1)
      fails("ETIMEDOUT", b:recv_frame())
    end)

    it("counts the bytes of its data, not those of its records", function()
      local a, b = pair()
      tools.put(a, "12345")
      assert.equal("12345", b:recv(5))
      upgrade(a, b)
      tools.put(a, "1234567")
      assert.equal("1234567", b:recv(7))
      assert.equal(12, b:stats().bytes_in)
      assert.equal(12, a:stats().bytes_out)
    end)

    it("after the peer's end is a failure, not a wait", function()
      local a, b = pair()
      a:close_write()
      fails("ETLS", b:start_tls(pki.server()))
      a:close()
    end)

    it("after our own half-close is EPIPE", function()
      local a, b = pair()
      a:close_write()
      fails("EPIPE", a:start_tls(client_tls()))
      b:close()
    end)

    it("of a closed connection is ECLOSED", function()
      local a, _ = pair()
      a:close()
      local message = fails("ECLOSED", a:start_tls(client_tls()))
      assert.matches("^start_tls ", message)
    end)

    it("takes a file's failure as it is, and leaves the connection alone", function()
      local a, b = pair()
      fails("ENOENT", a:start_tls(client_tls { ca = "/nowhere/x.pem" }))
      tools.put(a, "plain")
      assert.equal("plain", b:recv(5))
    end)
  end)

  describe("misuse of start_tls over " .. transport.name .. " raises:", function()
    it("twice", function()
      local a, b = pair()
      upgrade(a, b)
      raises("TLS already", a.start_tls, a, client_tls())
    end)

    it("a server without a certificate", function()
      local _, b = pair()
      raises("certificate", b.start_tls, b, pki.client())
      raises("certificate", b.start_tls, b, true)
    end)

    it("a client that does not say whom it expects", function()
      local a, _ = pair()
      raises("servername", a.start_tls, a, pki.client())
      raises("servername", a.start_tls, a, true)
    end)

    it("an odd role, an unknown option, no options", function()
      local a, b = pair()
      raises("'role'.*client", a.start_tls, a, client_tls { role = "boss" })
      raises("'rol' %(did you mean 'role'%?%)", a.start_tls, a, client_tls { rol = "client" })
      raises("'timeout'", a.start_tls, a, client_tls { timeout = "soon" })
      raises("true, a table", a.start_tls, a)
      raises("true, a table", a.start_tls, a, "localhost")
      upgrade(a, b) -- nothing of all this has harmed it
    end)
  end)

  describe("many upgrades at once over " .. transport.name, function()
    it("trap: all come to an end, also those whose first bytes were there before", function()
      local COUNT <const> = 24
      local client = assert(wire.tls_context(client_tls { handshake_timeout = 60 }))
      local server = assert(wire.tls_context(pki.server("good", { handshake_timeout = 60 })))
      local ends = {}
      for i = 1, COUNT do ends[i] = table.pack(pair()) end
      local tasks = tools.spawn_all(COUNT, function(i)
        return (assert(ends[i][1]:start_tls(client)))
      end)
      for i = 1, COUNT do assert(ends[i][2]:peek(100, PATIENCE)) end
      for i = 1, COUNT do
        tasks[COUNT + i] = wire.spawn(function() return (assert(ends[i][2]:start_tls(server))) end)
      end
      for _, task in ipairs(tasks) do assert(task:join(60)) end
    end, 60)
  end)
end

describe("start_tls", function()
  it("outside a task runs the loop", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      if conn:recv_line() == "STARTTLS" and conn:start_tls(pki.server()) then
        conn:send "secret\n"
      end
    end))
    local conn <close> = assert(wire.connect(server:addr()))
    conn:send "STARTTLS\n"
    assert(conn:start_tls(client_tls()))
    assert.equal("secret", conn:recv_line(PATIENCE))
  end)

  it("with insecure needs no name", function()
    local a, b = wire.pipe()
    local at_a = sessions.handshake(a, { insecure = true }, b, pki.server())
    assert.is_true(at_a[1])
    assert.is_nil(b:tls_info().servername)
  end)

  it("inside another TLS connection is refused, for it has TLS already", function()
    local a = wire.pipe { tls = pki.server("good", { insecure = true }) }
    raises("TLS already", a.start_tls, a, { insecure = true })
    a:reset()
  end)
end)
