-- Scenarios of streams: listen, connect, accept, echo over each transport, framings, closing.
-- What this is not: what must hold afterwards (recovery.lua).
local wire = require "lunewire"

local function echo_line(conn, text)
  assert(conn:send(text, "\n"))
  assert(same(conn:recv_line(), text))
end

local function serve_lines(addr, opts)
  return assert(wire.serve(addr, opts or {}, function(conn)
    for line in conn:lines() do conn:send(line, "\n") end
  end))
end

local function echo_over(addr)
  return function()
    wire.run(function()
      local server <close> = serve_lines(addr)
      local conn <close> = assert(wire.connect(server:addr()))
      echo_line(conn, "one")
      echo_line(conn, ("long"):rep(10000))
    end)
  end
end

return {
  { name = "listen", body = function()
    local server <close> = assert(wire.listen("127.0.0.1:0", { backlog = 5 }))
    assert(server:port() > 0)
    assert(not wire.listen(server:addr()))
  end },
  { name = "accept", body = function()
    wire.run(function()
      local server <close> = assert(wire.listen "127.0.0.1:0")
      local task = wire.spawn(function() return assert(server:accept(0.3)) end)
      local client <close> = assert(wire.connect(server:addr()))
      local _, conn = assert(task:join())
      assert(conn:send "hello\n" and same(client:recv_line(), "hello"))
      conn:close()
    end)
  end },
  { name = "connect refused", body = function()
    wire.run(function()
      local _, _, code = wire.connect(("127.0.0.1:%d"):format(assert(wire.free_port())))
      assert(code == "ECONNREFUSED", code)
    end)
  end },
  { name = "echo tcp", body = echo_over "127.0.0.1:0" },
  { name = "echo unix", body = function()
    echo_over("unix:" .. os.getenv "TORTURE_SOCKET")()
  end },
  { name = "echo pipe", body = function()
    wire.run(function()
      local a, b = assert(wire.pipe())
      a:set_timeout(0.3) -- nobody else could end its wait if the other task never begins
      local task = wire.spawn(function()
        local conn <close> = b
        for line in conn:lines() do conn:send(line, "\n") end
      end)
      echo_line(a, "one")
      echo_line(a, ("long"):rep(10000))
      a:close_write()
      assert(task:join())
    end)
  end },
}
