-- Scenarios of datagrams: an echo between sockets, and a server with its handler.
-- What this is not: what must hold afterwards (recovery.lua).
local wire = require "lunewire"

local WAIT <const> = 0.3

local function at_close(object)
  return setmetatable({}, { __close = function() object:close() end })
end

return {
  { name = "udp", body = function()
    wire.run(function()
      local a <close> = assert(wire.udp "127.0.0.1:0")
      local b <close> = assert(wire.udp "127.0.0.1:0")
      local address = b:local_addr()
      local task = wire.spawn(function()
        local data, from = assert(b:recv_from(WAIT))
        assert(b:send_to(data, from))
      end)
      wire.sleep(0)
      assert(a:send_to("one", address))
      local data, from, truncated = assert(a:recv_from(WAIT))
      assert(same(data, "one") and same(from, address) and not truncated)
      assert(task:join() and a:connect(address) and a:send "two" and same(b:recv(WAIT), "two"))
    end)
  end },
  { name = "serve_udp", body = function()
    wire.run(function()
      local server = assert(wire.serve_udp("127.0.0.1:0", { workers = 2 }, function(data, from, udp)
        udp:send_to(data, from)
      end))
      local _ <close> = at_close(server)
      local client <close> = assert(wire.udp())
      assert(client:connect((server:local_addr())))
      for i = 1, 3 do assert(client:send("n" .. i)) end
      for _ = 1, 3 do assert(client:recv(WAIT)) end
    end)
  end },
}
