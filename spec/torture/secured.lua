-- Scenarios of TLS: contexts, handshakes, echoes, over TCP and in memory.
-- What this is not: what TLS promises (the specs), what must hold afterwards (recovery.lua).
local wire = require "lunewire"

local CERT <const>, KEY <const>, CA <const> = os.getenv "TORTURE_CERT", os.getenv "TORTURE_KEY",
  os.getenv "TORTURE_CA"
local WAIT <const> = 0.5

local function echo(conn)
  assert(conn:send "one\n")
  assert(same(conn:recv_line(), "one"))
  assert(conn:send(("long"):rep(10000), "\n"))
  assert(same(conn:recv_line(), ("long"):rep(10000)))
end

local function server_context()
  return assert(wire.tls_context { cert = CERT, key = KEY, alpn = { "echo" },
    handshake_timeout = WAIT })
end

local function client_context()
  return assert(wire.tls_context { ca = CA, alpn = { "echo" }, servername = "localhost",
    handshake_timeout = WAIT })
end

local function contexts() return { server = server_context(), client = client_context() } end

local function serve(tls, more)
  local opts = { tls = tls }
  for key, value in pairs(more or {}) do opts[key] = value end
  return assert(wire.serve("127.0.0.1:0", opts, function(conn)
    for line in conn:lines() do conn:send(line, "\n") end
  end))
end

return {
  { name = "tls context", body = function() server_context() end },
  { name = "tls context of a client", body = function() client_context() end },
  { name = "tls reload", prepare = server_context, body = function(made)
    assert(made:reload())
  end },
  { name = "tls tcp", prepare = contexts, body = function(made)
    wire.run(function()
      local server <close> = serve(made.server, { on_close = function() end })
      local conn <close> = assert(wire.connect(server:addr(), { tls = made.client }))
      assert(conn:tls_info().peer_cert.subject)
      echo(conn)
    end)
  end },
  { name = "tls accept", prepare = contexts, body = function(made)
    wire.run(function()
      local server <close> = assert(wire.listen("127.0.0.1:0", { tls = made.server }))
      local task = wire.spawn(function()
        local conn <close> = assert(server:accept(WAIT))
        assert(conn:send(assert(conn:recv_line()), "\n"))
      end)
      local opts = { tls = made.client, timeout = WAIT } -- if the other task never accepts
      local conn <close> = assert(wire.connect(server:addr(), opts))
      conn:set_timeout(WAIT)
      assert(conn:send "one\n")
      assert(same(conn:recv_line(), "one"))
      assert(task:join())
    end)
  end },
  { name = "tls refused", prepare = contexts, body = function(made)
    wire.run(function()
      local told
      local server <close> = serve(made.server, { on_close = function() told = true end })
      local _, _, code = wire.connect(server:addr(), { tls = true })
      assert(code == "ECERT", code)
      for _ = 1, 50 do if not told then wire.sleep(0.001) end end
    end)
  end },
  { name = "start_tls in memory", prepare = contexts, body = function(made)
    wire.run(function()
      local a, b = assert(wire.pipe())
      local task = wire.spawn(function()
        local conn <close> = b
        conn:set_timeout(WAIT)
        assert(conn:start_tls(made.server))
        for line in conn:lines() do conn:send(line, "\n") end
      end)
      local conn <close> = a
      conn:set_timeout(WAIT)
      assert(conn:start_tls(made.client))
      echo(conn)
      conn:close()
      assert(task:join(WAIT))
    end)
  end },
}
