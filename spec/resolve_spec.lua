-- Looking up names: what is found, who shares a lookup, and what a dead name server holds up.
-- What this is not: connecting by a name (dial_spec); the threads themselves (core/test_resolve.c).
local namespace = require "spec.namespace"
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local it, fails = support.it, support.fails

local HOSTS <const> = [[
127.0.0.1 several
127.0.0.2 several
::1 several
127.0.0.7 single
]]

-- For scripts: how many threads this process has.
local COUNT_THREADS <const> = [[
local function threads()
  for line in io.lines "/proc/self/status" do
    local n = line:match "^Threads:%s+(%d+)"
    if n then return tonumber(n) end
  end
end
]]

local function run_with_dead_dns(script)
  return namespace.run(HOSTS, COUNT_THREADS .. script, { dead_dns = true })
end

describe("resolve", function()
  it("finds every address of a name, each once", function()
    local output = namespace.run(HOSTS, [[
      local list = wire.resolve "several"
      table.sort(list)
      print(table.concat(list, " "), table.concat(wire.resolve("single", 5), " "))
    ]])
    assert.equal("127.0.0.1 127.0.0.2 ::1\t127.0.0.7", output)
  end)

  it("says of which name there is no address", function()
    local name = ("x"):rep(64) .. ".invalid" -- no DNS question can ask for that label
    local message = fails("ENOTFOUND", wire.resolve(name, 5))
    assert.equal("resolve " .. name .. ": no such host", message)
  end)

  it("takes an IP address as its own answer", function()
    assert.same({ "127.0.0.1" }, wire.resolve "127.0.0.1")
    assert.same({ "::1" }, wire.resolve("::1", 0))
  end)

  it("trap: does not stop the loop while the name server keeps silent", function()
    local output = run_with_dead_dns [[
      local beats = 0
      local timer = wire.every(0.02, function() beats = beats + 1 end)
      local message, code = select(2, wire.resolve("dead.example", 0.5))
      timer:cancel()
      print(beats >= 5, message, code)
    ]]
    assert.equal("true\tresolve dead.example: timed out\tETIMEDOUT", output)
  end)

  it("can be cancelled and leaves nothing", function()
    local output = run_with_dead_dns [[
      wire.run(function()
        local lookup = wire.spawn(wire.resolve, "dead.example")
        while census().links == 0 do wire.sleep(0.001) end
        lookup:cancel()
        print(select(3, lookup:join(5)), census().links)
      end)
    ]]
    assert.equal("ECANCELED\t0", output)
  end)

  it("leaves nothing when its time is over", function()
    local output = run_with_dead_dns [[
      print(select(3, wire.resolve("dead.example", 0.1)), census().links)
      print(select(3, wire.resolve("dead.example", 0)), census().links)
    ]]
    assert.equal("ETIMEDOUT\t0\nETIMEDOUT\t0", output)
  end)
end)

describe("lookups of one name at the same time", function()
  it("share a thread, each with a timeout of its own", function()
    local output = run_with_dead_dns [[
      local before, took = threads(), {}
      wire.run(function()
        local start, tasks = wire.now(), {}
        for i = 1, 20 do
          tasks[i] = wire.spawn(function()
            local code = select(3, wire.resolve("dead.example", i == 20 and 0.6 or 0.2))
            took[i] = code == "ETIMEDOUT" and wire.now() - start
          end)
        end
        wire.sleep(0.05)
        print(threads() - before, census().links)
        for _, task in ipairs(tasks) do task:join() end
        print(threads() - before, census().links)
      end)
      print(took[1] >= 0.2, took[19] >= 0.2, took[20] >= 0.6, took[1] < took[20])
    ]]
    assert.equal("1\t20\n1\t0\ntrue\ttrue\ttrue\ttrue", output)
  end)
end)

describe("a dead name server", function()
  -- Ten names, of which four have a thread each and six stand before the good one.
  local function good_name_after(timeout)
    return tonumber((run_with_dead_dns(([[
      local timeout = %s
      wire.run(function()
        local tasks = {}
        for i = 1, 10 do
          tasks[i] = wire.spawn(wire.resolve, "dead" .. i .. ".example", timeout)
        end
        wire.sleep(0.2)
        local start = wire.now()
        assert(wire.resolve("single", 60)[1] == "127.0.0.7")
        print(wire.now() - start)
        for _, task in ipairs(tasks) do task:cancel() end
      end)
    ]]):format(timeout))))
  end

  it("trap: does not hold up a name that is known without it", function()
    assert.is_true(good_name_after "60" < 10)
  end)

  it("trap: does not either when those who asked it have given up", function()
    assert.is_true(good_name_after "0.1" < 10)
  end)

  it("trap: does not hold up the end of the script", function()
    local elapsed, output = tools.timed(run_with_dead_dns, [[
      for i = 1, 6 do wire.spawn(wire.resolve, "dead" .. i .. ".example", 0.1) end
      wire.run()
      print(threads() > 1)
    ]])
    assert.equal("true", output)
    assert.is_true(elapsed < 15, "the process lived for " .. elapsed .. " s")
  end)
end)
