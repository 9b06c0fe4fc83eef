-- Scenarios of servers: hooks, shutdown, errors of handlers, several at once; and what is built on
-- connections: client, pool, relay, copy, send_file.
-- What this is not: what must hold afterwards (recovery.lua).
local wire = require "lunewire"

local WAIT <const> = 0.3

local function echo(conn)
  for line in conn:lines() do conn:send(line, "\n") end
end

local function ask(conn, text)
  assert(conn:send(text, "\n"))
  assert(same(conn:recv_line(), text))
end

local function serve(opts, handler)
  return assert(wire.serve("127.0.0.1:0", opts or {}, handler or echo))
end

return {
  { name = "serve with hooks", body = function()
    wire.run(function()
      local ends = 0
      local server <close> = serve({
        max_conns = 3, timeout = 5, idle_timeout = 5, limits = { line = 100 },
        on_accept = function(conn) return conn:remote_addr() ~= nil end,
        on_close = function(conn) ends = ends + (conn and 1 or 0) end,
        on_shutdown = function() end,
      })
      server:on_exit(function() end)
      server:on_error(function() end)
      local a <close> = assert(wire.connect(server:addr()))
      local b <close> = assert(wire.connect(server:addr()))
      ask(a, "one")
      ask(b, "two")
      assert(#server:conns() == server:conn_num() and tostring(server))
      a:close()
      b:close()
      local due = wire.now() + WAIT
      while ends < 2 and wire.now() < due do wire.sleep(0.001) end
      server:close()
      server:run()
    end)
  end },
  { name = "refused by on_accept", body = function()
    wire.run(function()
      local server <close> = serve { on_accept = function() return false end }
      local conn <close> = assert(wire.connect(server:addr()))
      assert(not conn:recv_line())
    end)
  end },
  { name = "handler that fails", body = function()
    wire.run(function()
      local told = 0
      local server <close> = serve({}, function(conn)
        conn:recv_line()
        error "in a handler"
      end)
      server:on_error(function(err, traceback, conn)
        told = told + (err and traceback and conn and 1 or 0)
      end)
      local conn <close> = assert(wire.connect(server:addr()))
      assert(conn:send "die\n")
      assert(not conn:recv_line())
      wire.sleep(0.001)
      assert(told == 1)
    end)
  end },
  { name = "on_accept that fails", body = function()
    wire.run(function()
      local server <close> = serve { on_accept = function() error "in a hook" end }
      local conn <close> = assert(wire.connect(server:addr()))
      assert(not conn:recv_line())
    end)
  end },
  { name = "shutdown", body = function()
    wire.run(function()
      local server <close> = serve { on_shutdown = function() end }
      local conn <close> = assert(wire.connect(server:addr()))
      ask(conn, "one")
      assert(server:shutdown(WAIT))
      assert(not conn:recv_line() and server:closing())
    end)
  end },
  { name = "shutdown that resets", body = function()
    wire.run(function()
      local server <close> = serve({}, function(conn)
        pcall(wire.sleep, 0.02)
        conn:recv_line()
      end)
      local conn <close> = assert(wire.connect(server:addr()))
      assert(conn:send "half a line")
      wire.sleep(0.001)
      assert(not server:shutdown(0.002))
      assert(not conn:recv_line())
    end)
  end },
  { name = "handle a pipe", body = function()
    wire.run(function()
      local server <close> = serve { on_close = function() end }
      local a, b = assert(wire.pipe())
      local conn <close> = a
      conn:set_timeout(WAIT)
      assert(server:handle(b))
      ask(conn, "one")
    end)
  end },
  { name = "client", body = function()
    wire.run(function()
      local server <close> = serve()
      local client = wire.client(server:addr(), { timeout = 5, reconnect = { min = 0.001 } })
      assert(client:connect(5))
      ask(client, "one")
      client:disconnect()
      assert(client:connect(5))
      ask(client, "two")
      client:close()
    end)
  end },
  { name = "pool", body = function()
    wire.run(function()
      local server <close> = serve()
      local pool = wire.pool(server:addr(), { max = 1 })
      local _ <close> = setmetatable({}, { __close = function() pool:close() end })
      local task = wire.spawn(function()
        local conn <close> = assert(pool:get(WAIT))
        ask(conn, "one")
      end)
      local conn = assert(pool:get(WAIT))
      ask(conn, "two")
      pool:put(conn)
      assert(task:join())
    end)
  end },
  { name = "relay", body = function()
    wire.run(function()
      local server <close> = serve()
      local between <close> = serve({}, function(conn)
        wire.relay(conn, assert(wire.connect(server:addr())))
      end)
      local conn <close> = assert(wire.connect(between:addr()))
      ask(conn, "one")
      ask(conn, ("long"):rep(10000))
      conn:close_write()
      assert(not conn:recv_line())
    end)
  end },
  { name = "copy and send_file", body = function()
    wire.run(function()
      local server <close> = serve({}, function(conn)
        assert(conn:send_file(os.getenv "TORTURE_FILE", 10, 100000))
      end)
      local conn <close> = assert(wire.connect(server:addr()))
      local file <close> = assert(io.tmpfile())
      assert(wire.copy(file, conn) == 100000)
    end)
  end },
  { name = "request", body = function()
    wire.run(function()
      local server <close> = serve()
      assert(same(wire.request(server:addr(), "one\n", { recv = "line" }), "one"))
    end)
  end },
  { name = "netlog", body = function()
    wire.run(function()
      local lines = 0
      local server <close> = serve({}, function(conn)
        for _ in conn:lines() do lines = lines + 1 end
      end)
      local log = wire.netlog(server:addr(), { prefix = "torture" })
      log:print("one", 1)
      log:printf("%s", "two")
      log:close()
      local due = wire.now() + WAIT
      while lines < 2 and wire.now() < due do wire.sleep(0.001) end
    end)
  end },
}
