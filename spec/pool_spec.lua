-- wire.pool: whose turn it is, factories, options.
-- What this is not: which connections are used again (pool_reuse_spec).
local assert = require "luassert"
local describe = require("busted").describe
local core = require "lunewire.core"
local support = require "spec.support"
local talkers = require "spec.talkers"
local wire = require "lunewire"

local it, fails, raises = support.it, support.fails, support.raises

local NOBODY <const> = "127.0.0.1:1"

local ask, counts, name_of, talking_server, wait_until =
  talkers.ask, talkers.counts, talkers.name_of, talkers.server, talkers.wait_until

describe("A pool", function()
  it("connects at the first get and uses the connection again", function()
    local server <close>, conns = talking_server()
    local pool <close> = wire.pool(server:addr())
    assert.same({ 0, 0, 0 }, counts(pool))
    for i = 1, 5 do
      local conn <close> = assert(pool:get(5))
      assert.same({ 1, 0, 0 }, counts(pool))
      assert.equal("ask " .. i, ask(conn, "ask " .. i))
    end
    assert.same({ 0, 1, 0 }, counts(pool))
    assert.equal(1, #conns)
    assert.equal(1, pool:stats().created)
    assert.equal(4, pool:stats().reused)
  end)

  it("gives what has every method of a connection", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(server:addr(), { framing = wire.framing.line() })
    local conn <close> = assert(pool:get(5))
    for name in pairs(core.conn_methods) do
      assert.equal("function", type(conn[name]), name)
    end
    assert.equal(conn, conn:write("one\ntwo\n"))
    local lines = {}
    for line in conn:lines() do
      lines[#lines + 1] = line
      if #lines == 2 then break end
    end
    assert.same({ "one", "two" }, lines)
    conn:send_frame "three"
    local next_frame = conn:frames { timeout = 5 }
    assert.equal("three", next_frame())
    assert.equal(server:addr(), (conn:remote_addr()))
    assert.is_true(conn:socket() >= 0)
    assert.is_false(conn:closed())
  end)

  it("lets each of many tasks have one of few connections, one at a time", function()
    local server <close>, conns = talking_server()
    local pool <close> = wire.pool(server:addr(), { max = 3 })
    local inside, most, done = {}, 0, 0
    local tasks = {}
    for i = 1, 30 do
      tasks[i] = wire.spawn(function()
        local conn <close> = assert(pool:get(5))
        local name = name_of(conn)
        assert(not inside[name])
        inside[name] = true
        local count = 0
        for _ in pairs(inside) do count = count + 1 end
        most = math.max(most, count)
        assert(ask(conn, "task " .. i) == "task " .. i)
        inside[name] = nil
        done = done + 1
      end)
    end
    for _, task in ipairs(tasks) do assert(task:join()) end
    assert.equal(30, done)
    assert.equal(3, most)
    assert.equal(3, #conns)
    assert.same({ 0, 3, 0 }, counts(pool))
  end)

  it("serves those who wait in the order in which they came", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(server:addr(), { max = 1 })
    local order, tasks = {}, {}
    do
      local held <close> = assert(pool:get(5))
      assert.equal("x", ask(held, "x"))
      for i = 1, 4 do
        tasks[i] = wire.spawn(function()
          local conn <close> = assert(pool:get(5))
          order[#order + 1] = i
          wire.sleep(0.001)
          conn:stats()
        end)
        wire.sleep(0)
      end
      assert.same({ 1, 0, 4 }, counts(pool))
    end
    assert.equal("late", pool:use(ask, "late"))
    assert.same({ 1, 2, 3, 4 }, order)
    for _, task in ipairs(tasks) do assert(task:join()) end
  end)

  it("uses the connection that was idle for the shortest time", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(server:addr())
    local first, second = assert(pool:get(5)), assert(pool:get(5))
    local name = name_of(first)
    pool:put(second)
    pool:put(first)
    local again <close> = assert(pool:get(5))
    assert.equal(name, name_of(again))
  end)

  support.it_outside("works outside any task", function()
    local server = talking_server()
    local pool = wire.pool(server:addr(), { max = 1 })
    for i = 1, 3 do
      local conn <close> = assert(pool:get(5))
      assert.equal("ask", ask(conn, "ask"), i)
    end
    assert.equal(1, pool:stats().created)
    pool:close()
    server:close()
  end)
end)

-- ---- waiting -------------------------------------------------------------------------------

describe("A get that waits", function()
  local function full_pool(opts)
    local server = talking_server()
    opts = opts or {}
    opts.max = 1
    local pool = wire.pool(server:addr(), opts)
    return pool, assert(pool:get(5)), server
  end

  it("times out, and loses no place", function()
    local pool <close>, held, server = full_pool()
    local start = wire.now()
    local message = fails("ETIMEDOUT", pool:get(0.05))
    assert.is_true(wire.now() - start >= 0.05)
    assert.matches("^get 127.*: timed out, all 1 are in use$", message)
    fails("ETIMEDOUT", pool:get(0))
    pool:put(held)
    local again <close> = assert(pool:get(0))
    fails("ETIMEDOUT", pool:get(0))
    server:close()
    again:close()
  end)

  it("has the pool's timeout, if no other", function()
    local pool <close>, held, server = full_pool { timeout = 0.05 }
    fails("ETIMEDOUT", pool:get())
    held:close()
    server:close()
  end)

  it("is cancelled, and loses no place", function()
    local pool <close>, held, server = full_pool()
    local waiting = {}
    for i = 1, 3 do waiting[i] = wire.spawn(function() return pool:get(5) end) end
    wire.sleep(0)
    waiting[1]:cancel()
    waiting[2]:cancel()
    assert.equal("ECANCELED", (select(3, waiting[1]:join())))
    pool:put(held)
    local ok, lease = waiting[3]:join(5)
    assert.is_true(ok)
    assert.equal("x", ask(lease, "x"))
    pool:put(lease)
    assert.same({ 0, 1, 0 }, counts(pool))
    server:close()
  end)

  it("is cancelled in the very turn in which its place was given to it", function()
    local pool <close>, held, server = full_pool()
    local waiting = wire.spawn(function()
      local conn <close> = assert(pool:get(5))
      wire.sleep(1)
      conn:stats()
    end)
    wire.sleep(0)
    pool:put(held)
    waiting:cancel()
    waiting:join()
    local again <close> = assert(pool:get(5))
    assert.equal("x", ask(again, "x"))
    server:close()
  end)

  it("is cancelled while it connects, and gives its place back", function()
    local gate = wire.channel()
    local server <close> = talking_server()
    local pool <close> = wire.pool(function()
      local conn = assert(wire.connect(server:addr()))
      if gate then gate:recv() end
      return conn
    end, { max = 1 })
    local first = wire.spawn(function() return pool:get(5) end)
    wire.sleep(0.01)
    first:cancel()
    first:join()
    gate = nil
    collectgarbage()
    local conn <close> = assert(pool:get(5))
    assert.equal("x", ask(conn, "x"))
  end)

  it("gets the place of a connection that is closed because it broke", function()
    local pool <close>, held, server = full_pool()
    local waiting = wire.spawn(function()
      local conn <close> = assert(pool:get(5))
      return ask(conn, "x"), name_of(conn)
    end)
    wire.sleep(0)
    local name = name_of(held)
    fails("ETIMEDOUT", held:recv(1, 0))
    pool:put(held)
    local ok, answer, other = waiting:join(5)
    assert.same({ true, "x" }, { ok, answer })
    assert.are_not.equal(name, other)
    server:close()
  end)

  it("gets its place when the connection in use is closed by its user", function()
    local pool <close>, held, server = full_pool()
    local waiting = wire.spawn(function()
      local conn <close> = assert(pool:get(5))
      return ask(conn, "x")
    end)
    wire.sleep(0)
    assert.is_true(held:close())
    assert.same({ true, "x" }, { waiting:join(5) })
    assert.is_true(held:closed())
    server:close()
  end)

  it("gets its place when the user of a connection forgot it", function()
    local pool <close>, held, server = full_pool()
    assert.is_false(held:closed())
    held = nil -- luacheck: no unused
    local waiting = wire.spawn(function()
      local conn <close> = assert(pool:get(5))
      return ask(conn, "x")
    end)
    wire.sleep(0)
    collectgarbage()
    collectgarbage()
    assert.same({ true, "x" }, { waiting:join(5) })
    server:close()
  end)

  it("gets ECLOSED when the pool is closed, at once", function()
    local pool, held, server = full_pool()
    local waiting = {}
    for i = 1, 3 do waiting[i] = wire.spawn(function() return pool:get(5) end) end
    wire.sleep(0)
    pool:close()
    for _, task in ipairs(waiting) do
      local _, result, message, code = task:join(1)
      fails("ECLOSED", result, message, code)
    end
    fails("ECLOSED", pool:get())
    assert.equal("still mine", ask(held, "still mine"))
    assert.is_true(pool:put(held))
    assert.same({ 0, 0, 0 }, counts(pool))
    wait_until(function() return server:conn_num() == 0 end)
    server:close()
  end)

  it("gives its place to the next when connecting fails", function()
    local server <close> = talking_server()
    local tries = 0
    local pool <close> = wire.pool(function(timeout)
      tries = tries + 1
      if tries == 1 then return wire.connect(NOBODY, timeout) end
      return wire.connect(server:addr(), timeout)
    end, { max = 1 })
    local first = wire.spawn(function() return pool:get(5) end)
    local second = wire.spawn(function()
      local conn <close> = assert(pool:get(5))
      return ask(conn, "x")
    end)
    local _, result, message, code = first:join()
    fails("ECONNREFUSED", result, message, code)
    assert.same({ true, "x" }, { second:join(5) })
  end)
end)

-- ---- factories, options, misuse -----------------------------------------------------------------

describe("A pool of a function's connections", function()
  it("takes what the function makes, within the time that is left", function()
    local times = {}
    local a, b = wire.pipe()
    local pool <close> = wire.pool(function(timeout)
      times[#times + 1] = timeout
      return a
    end)
    local conn <close> = assert(pool:get(5))
    conn:send "x"
    assert.equal("x", b:recv(1, 5))
    assert.is_true(times[1] > 4 and times[1] <= 5)
    b:close()
  end)

  it("returns what it returns when it fails", function()
    local pool <close> = wire.pool(function() return nil, "no luck", "ELUCK" end, { max = 1 })
    for _ = 1, 3 do assert.equal("no luck", fails("ELUCK", pool:get())) end
  end)

  it("passes its error on, and loses no place", function()
    local pool <close> = wire.pool(function() error "oh dear" end, { max = 1 })
    for _ = 1, 3 do raises("oh dear", pool.get, pool) end
    assert.same({ 0, 0, 0 }, counts(pool))
  end)

  it("raises for what is no connection", function()
    local pool <close> = wire.pool(function() return {} end, { max = 1 })
    for _ = 1, 2 do
      raises("pool_spec.*must return a connection or nil, message, code; not a table", function()
        local _ = pool:get()
      end)
      raises("^[^:]*pool_spec.*must return", function() local _ = pool:use(print) end)
    end
  end)

  it("takes no options of connect", function()
    raises("'nodelay' is for the factory", wire.pool, print, { nodelay = true })
  end)
end)

describe("A pool", function()
  it("returns the failure to connect", function()
    local pool <close> = wire.pool(NOBODY, { max = 1 })
    for _ = 1, 3 do
      assert.equal("connect 127.0.0.1:1: connection refused", fails("ECONNREFUSED", pool:get(5)))
    end
    fails("ECONNREFUSED", pool:use(print))
    assert.same({ 0, 0, 0 }, counts(pool))
  end)

  it("refuses misuse, and says what to do instead", function()
    raises("unknown option 'maxidle' %(did you mean 'max_idle'%?%)", wire.pool, NOBODY,
      { maxidle = 1 })
    raises("'max' must be a whole number >= 1, not 0", wire.pool, NOBODY, { max = 0 })
    raises("'max_idle' must be a whole number >= 0", wire.pool, NOBODY, { max_idle = -1 })
    raises("address", wire.pool, nil)
    local pool <close> = wire.pool(NOBODY)
    local other <close> = wire.pipe()
    raises("only what get of this pool gave", pool.put, pool, other)
    raises("only what get of this pool gave", pool.put, pool, nil)
    raises("use: a function is expected", pool.use, pool, 1)
    raises("get: a number of seconds", pool.get, pool, "1")
  end)

  it("refuses what another pool gave", function()
    local server <close> = talking_server()
    local one <close> = wire.pool(server:addr())
    local two <close> = wire.pool(server:addr())
    local conn <close> = assert(one:get(5))
    raises("only what get of this pool gave", two.put, two, conn)
  end)

  it("hands the results of use on, and its arguments in", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(server:addr())
    assert.same({ 1, nil, 3, n = 3 }, table.pack(pool:use(function(conn, a, b)
      assert(conn:stats())
      return a, nil, b
    end, 1, 3)))
    assert.same({ 0, 1, 0 }, counts(pool))
  end)

  it("says what it is", function()
    local pool = wire.pool(NOBODY, { max = 4 })
    assert.equal("Pool (127.0.0.1:1, 0 used and 0 idle of 4)", tostring(pool))
    assert.is_true(pool:close())
    assert.is_true(pool:close())
  end)
end)
