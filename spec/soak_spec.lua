-- That the soak (spec/soak) sees what it is for: a server that leaks a little with each connection
-- is found, one that does not is not; and a bound that is broken fails the run.
-- What this is not: the soak; make soak and make soak-short are that.
local counted = require "spec.soak.counted"
local mixed = require "spec.soak.mixed"
local pki = require "spec.pki"
local process = require "spec.soak.process"
local slope = require "spec.soak.slope"
local support = require "spec.support"
local verdict = require "spec.soak.verdict"
local wire = require "lunewire"

local CONNECTIONS = ({ sanitize = 500, valgrind = 200 })[os.getenv "LUNEWIRE_SUITE"] or 1000
local SAMPLES = 5
local VISITS <const>, ECHO <const> = "spec.soak.visits", "spec.soak.echo"

local function measure(leaks)
  local client <close> = process.start "client"
  local server <close> = process.start "server"
  local address = server:call(ECHO, "open", { leaks = leaks })
  local row = { name = "test", unit = "connection", step = { VISITS, "streams" } }
  local results = counted.measure(row, CONNECTIONS, SAMPLES, { client, server }, address)
  server:call(ECHO, "close")
  for i = 1, 2 do
    assert.is_nil(results[i].last.rest)
    assert.equal(results[i].first.descriptors, results[i].last.descriptors)
  end
  return results[1], results[2]
end

-- A straight line with one step in it.
local function points(each, step, at)
  local list = {}
  for i = 0, 10 do list[i + 1] = { i * 10, i * 10 * each + (i > (at or 5) and step or 0) } end
  return list
end

describe("the soak", function()
  support.it("finds no growth where nothing is kept", function()
    local client, server = measure(false)
    for _, result in ipairs { client, server } do
      assert.is_false(verdict.grows(result, "lua"), result.slopes.lua)
      assert.is_false(verdict.grows(result, "heap"), result.slopes.heap)
    end
  end, 60)

  support.it("finds a server that keeps a string of each connection", function()
    local client, server = measure(true)
    assert.is_true(verdict.grows(server, "lua"), server.slopes.lua)
    assert.is_true(server.slopes.lua > 30, server.slopes.lua)
    if support.slowness == 1 then -- elsewhere malloc is another
      assert.is_true(verdict.grows(server, "heap"), server.slopes.heap)
    end
    assert.is_false(verdict.grows(client, "lua"), client.slopes.lua)
  end, 60)

  support.it("is told by an error that a process has had", function()
    local client <close> = process.start "client"
    support.raises("the client: .*connection refused", function()
      client:call(VISITS, "streams", 1, "127.0.0.1:1")
    end)
    support.raises("the client: .*not found", function() client:call("spec.soak.no", "field") end)
    support.raises("the client is gone", function() client:call("os", "exit", 1, true) end)
  end, 30)

  support.it("notices one byte that is wrong", function()
    local server = assert(wire.serve("127.0.0.1:0", function(conn)
      local data = conn:recv_pkg()
      conn:send_pkg(#data == 50 and data:sub(1, -2) .. "?" or data)
    end))
    local client <close> = process.start "client"
    client:call(VISITS, "streams", 10, server:addr())
    support.raises("x%?. came back for", function()
      client:call(VISITS, "streams", 100, server:addr())
    end)
    server:shutdown(1)
  end, 30)
end)

-- One round of it with a few sessions of each kind; `change` may change what the clients get.
local function play_mixed(change)
  local server <close> = process.start "server"
  local good <close> = process.start "good clients"
  local world = mixed.new_world()
  world.addresses = server:call("spec.soak.mixed_server", "open", world.host, world.unix,
    pki.server(), world.path)
  change(world)
  local sums = good:call("spec.soak.mixed_good", "play", 1, 1, world)
  server:call("spec.soak.mixed_server", "close")
  return sums
end

describe("the mixed soak", function()
  support.it("has every session end well where nothing is wrong", function()
    local sums = play_mixed(function() end)
    assert.is_true(sums.sessions > 20, sums.sessions)
    assert.equal(0, sums.cut)
  end, 60)

  support.it("notices a byte that a server changes", function()
    local wrong = assert(wire.serve("127.0.0.1:0", function(conn)
      for chunk in conn:chunks() do conn:send(chunk:sub(1, -2), "?") end
    end))
    support.raises("INTEGRITY", play_mixed, function(world)
      world.addresses.forward = wrong:addr()
    end)
    wrong:shutdown(0)
  end, 60)

  support.it("takes no end for granted that was not announced", function()
    local rude = assert(wire.serve("127.0.0.1:0", function(conn) conn:reset() end))
    support.raises("ECONNRESET", play_mixed, function(world)
      world.addresses.upgrade = rude:addr()
    end)
    rude:shutdown(0)
  end, 60)
end)

describe("a slope", function()
  it("is that of the line; a steady one has no step in it", function()
    assert.equal(0, slope.fit(points(0, 0)))
    assert.is_true(math.abs(slope.fit(points(3, 0)) - 3) < 1e-9)
    assert.is_true(slope.fit(points(0, 1000)) > 10)
    for at = 1, 9 do assert.equal(0, slope.steady(points(0, 1000, at))) end
    assert.equal(3, slope.steady(points(3, 1000)))
  end)
end)

local REPORT = [[
local report = require "spec.soak.report"
report.less("small", 1, 2, "bytes")
report.less(arg[1], tonumber(arg[2]), 2, "bytes")
os.exit(report.finish(), true)
]]

describe("a report", function()
  support.it("ends with the numbers, and fails when a bound is broken", function()
    local output, status = support.lua(REPORT, "fine", 0.5):output()
    assert.equal("small 1 bytes\nfine 0.5 bytes\n2 passed, 0 failed\n", output)
    assert.equal(0, status)
    output, status = support.lua(REPORT, "large", 2):output()
    assert.equal("small 1 bytes\nlarge 2 bytes\n"
      .. "broken: large: 2 bytes, where the bound is less than 2\n1 passed, 1 failed\n", output)
    assert.equal(1, status)
  end)
end)
