-- Free ports.
local support = require "spec.support"
local wire = require "lunewire"

local it, it_outside = support.it, support.it_outside

local function distinct(list)
  local seen = {}
  for _, port in ipairs(list) do
    assert.equal("integer", math.type(port))
    assert.is_true(port > 0 and port < 65536, port)
    assert.is_nil(seen[port], "chosen twice: " .. port)
    seen[port] = true
  end
end

describe("wire.free_port", function()
  it("gives one port, on which a server can listen at once", function()
    local port, more = wire.free_port()
    assert.is_nil(more)
    for _, host in ipairs { "127.0.0.1", "" } do
      local server <close> = assert(wire.listen(host .. ":" .. port))
      assert.equal(port, server:port())
    end
  end)

  it("trap: n ports are n different ones, all held until all are chosen", function()
    local ports = { wire.free_port(200) }
    assert.equal(200, #ports)
    distinct(ports)
  end)

  it("trap: all of them are free for other programs when it returns", function()
    local ports = { wire.free_port(20) }
    for i, port in ipairs(ports) do
      local socat = "timeout 0.5 socat TCP6-LISTEN:%d,ipv6only=%d,reuseaddr=0 /dev/null; echo $?"
      if i > 3 then break end
      local listening = support.peer(socat:format(port, i % 2))
      assert.equal("124", listening:line(), "socat could not listen on port " .. port)
      listening:output()
    end
    local servers = {}
    for i, port in ipairs(ports) do servers[i] = assert(wire.listen("127.0.0.1:" .. port)) end
    for _, server in ipairs(servers) do server:close() end
  end)

  it("never gives a port that somebody listens on, be it on one address only", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    for _ = 1, 20 do
      for _, port in ipairs { wire.free_port(20) } do assert.not_equal(server:port(), port) end
    end
  end)

  it("gives tasks that ask at the same time all that they asked for", function()
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = wire.spawn(function() return wire.free_port(10) end)
    end
    for _, task in ipairs(tasks) do
      local results = { task:join() }
      assert.is_true(table.remove(results, 1))
      assert.equal(10, #results)
      distinct(results)
    end
  end)

  it("without descriptors fails with EMFILE and holds nothing", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      local held = {}
      wire.sleep(0)
      repeat
        local file = io.open "/dev/null"
        held[#held + 1] = file
      until not file
      for _ = 1, 10 do table.remove(held):close() end
      for _ = 1, 3 do
        local port, message, code = wire.free_port(50)
        print(port, message, code)
      end
      print(select("#", wire.free_port(5)))]]
    local text, status = peer:output()
    local line = "nil\tfree_port: listen :0: too many open files\tEMFILE\n"
    assert.same({ line:rep(3) .. "5\n", 0 }, { text, status })
  end)

  it_outside("gives ports outside any task", function() distinct { wire.free_port(3) } end)

  it("refuses what is no count", function()
    for _, n in ipairs { 0, -1, 65536, 1.5, "2", true } do
      support.raises("spec/free_port_spec.lua:%d+: free_port: a count from 1 to 65535", function()
        local _ = wire.free_port(n)
      end)
    end
  end)
end)
