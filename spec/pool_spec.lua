-- wire.pool: whose turn it is, and which connections are never used again.
local assert = require "luassert"
local describe = require("busted").describe
local core = require "lunewire.core"
local support = require "spec.support"
local wire = require "lunewire"

local it, fails, raises = support.it, support.fails, support.raises

local NOBODY <const> = "127.0.0.1:1"

-- Says who it is, and echoes lines; "silent" lines are not answered.
local function talk(conn)
  for line in conn:lines() do
    if line == "bye" then return end
    if line == "reset" then return conn:reset() end
    if line ~= "silent" then conn:send(line, "\n") end
  end
end

-- -> a server and the list of the connections that it accepted
local function talking_server()
  local conns = {}
  local server = assert(wire.serve("127.0.0.1:0", function(conn)
    conns[#conns + 1] = conn
    talk(conn)
  end))
  return server, conns
end

local function wait_until(condition)
  local limit = wire.now() + 5
  while not condition() and wire.now() < limit do wire.sleep(0.002) end
  assert.is_true(condition())
end

local function ask(conn, text)
  assert(conn:send(text, "\n"))
  return conn:recv_line(5)
end

-- Which connection is it?
local function name_of(lease) return (lease:local_addr()) end

local function counts(pool)
  local stats = pool:stats()
  return { stats.used, stats.idle, stats.waiting }
end

-- Runs fn with a connection; is the same one used again afterwards?
local function reused_after(pool, fn)
  local first
  pcall(pool.use, pool, function(conn)
    first = name_of(conn)
    return fn(conn)
  end)
  local lease <close> = assert(pool:get(5))
  local same = name_of(lease) == first
  assert.equal("fresh", ask(lease, "fresh"))
  return same
end

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

-- ---- never used again ---------------------------------------------------------------------------

describe("A pool's connection", function()
  local cases = {
    ["is used again after a block that left it as it was"] = { true, function(conn)
      ask(conn, "x")
    end },
    ["is not used again after a receive that timed out"] = { false, function(conn)
      conn:recv(1, 0.01)
    end },
    ["is not used again after an iterator that timed out"] = { false, function(conn)
      for _ in conn:lines { timeout = 0.01 } do error "a line" end
    end },
    ["is not used again after a cancelled receive"] = { false, function(conn)
      local task = wire.spawn(function() pcall(conn.recv, conn, 1) end)
      wire.sleep(0)
      task:cancel()
      task:join()
    end },
    ["is not used again after a cancelled iterator"] = { false, function(conn)
      local task = wire.spawn(function()
        pcall(function() for _ in conn:lines() do error "a line" end end)
      end)
      wire.sleep(0)
      task:cancel()
      task:join()
    end },
    ["is not used again while another task receives from it"] = { false, function(conn)
      wire.spawn(function() return conn:recv(1) end)
      wire.sleep(0)
    end },
    ["is not used again with unread bytes"] = { false, function(conn)
      conn:send "one\ntwo\n"
      assert(conn:recv_line(5) == "one")
      assert(conn:peek(4, 5) == "two\n")
    end },
    ["is not used again with unread bytes that the system still has"] = { false, function(conn)
      conn:send "one\n"
      wire.sleep(0.05)
    end },
    ["is not used again after a failed send_recv"] = { false, function(conn)
      conn:send_recv("silent\n", 1, 0.01)
    end },
    ["is not used again when the peer has ended it"] = { false, function(conn)
      conn:send "bye\n"
      conn:read "a"
    end },
    ["is not used again after a reset"] = { false, function(conn)
      conn:send "reset\n"
      conn:recv(1, 5)
    end },
    ["is not used again after a close_write"] = { false, function(conn) conn:close_write() end },
    ["is not used again when it will be closed later"] = { false, function(conn)
      conn:close(5)
    end },
    ["is not used again with a timer of its own"] = { false, function(conn)
      conn:after(5, print)
    end },
    ["is not used again when its block ended by an error"] = { false, function() error "oh" end },
  }
  for title, case in pairs(cases) do
    it(title, function()
      local server <close> = talking_server()
      local pool <close> = wire.pool(server:addr(), { max = 1 })
      assert.equal(case[1], reused_after(pool, case[2]))
      wait_until(function() return server:conn_num() == 1 end)
    end)
  end

  it("is not used again when <close> ends a block by an error", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(server:addr())
    local name
    raises("oh", function()
      local conn <close> = assert(pool:get(5))
      name = name_of(conn)
      error "oh"
    end)
    local conn <close> = assert(pool:get(5))
    assert.are_not.equal(name, name_of(conn))
    assert.equal(2, pool:stats().created)
  end)

  it("is not used again, nor its descriptor kept, once the peer ended it while idle", function()
    local server <close>, conns = talking_server()
    local pool <close> = wire.pool(server:addr())
    local before = core.census().links
    pool:use(ask, "x")
    assert.same({ 0, 1, 0 }, counts(pool))
    conns[1]:close()
    wait_until(function() return pool:stats().idle == 0 end)
    wait_until(function() return core.census().links == before end)
    assert.equal("y", pool:use(ask, "y"))
    assert.equal(2, pool:stats().created)
  end)

  it("is not used again once the peer sent something while idle", function()
    local server <close>, conns = talking_server()
    local pool <close> = wire.pool(server:addr())
    pool:use(ask, "x")
    conns[1]:send "surprise\n"
    wait_until(function() return pool:stats().idle == 0 end)
    assert.equal("y", pool:use(ask, "y"))
  end)

  support.it_outside("is not used again after an end that no turn of the loop saw", function()
    local listener = assert(wire.listen "127.0.0.1:0")
    local pool = wire.pool(listener:addr())
    local first = assert(pool:get(5))
    local name = name_of(first)
    local peer = assert(listener:accept(5))
    pool:put(first)
    peer:reset()
    os.execute "sleep 0.05"
    local second = assert(pool:get(5))
    assert.are_not.equal(name, name_of(second))
    second:reset()
    pool:close()
    listener:close()
  end)

  it("is as new for the next user, whatever the block had set", function()
    local server <close> = talking_server()
    local framing = wire.framing.line()
    local pool <close> = wire.pool(server:addr(), { max = 1, framing = framing })
    assert.is_true(reused_after(pool, function(conn)
      conn:set_timeout(0.001)
      conn:set_deadline(wire.now() - 1)
      conn:set_idle_timeout(0.001)
      conn:set_recv_buffer_wait(3)
      conn:set_framing(wire.framing.fixed(1000))
    end))
    pool:use(function(conn)
      wire.after(0.05, function() conn:send "silent\nx\n" end)
      assert.equal("x\n", conn:recv())
      conn:send_frame "y"
      assert.equal("y", conn:recv_frame())
    end)
    assert.equal(1, pool:stats().created)
  end)

  it("keeps what the factory had set", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(function(timeout)
      local conn = assert(wire.connect(server:addr(), timeout))
      conn:set_timeout(0.05)
      return conn
    end, { max = 1 })
    assert.is_true(reused_after(pool, function(conn) conn:set_timeout(5) end))
    local conn <close> = assert(pool:get(5))
    fails("ETIMEDOUT", conn:recv(1))
  end)

  it("is out of reach once it was given back", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(server:addr(), { max = 1 })
    local stale = assert(pool:get(5))
    local lines = stale:lines()
    assert.is_true(pool:put(stale))
    local conn <close> = assert(pool:get(5))
    local message = fails("ECLOSED", stale:send "mine\n")
    assert.matches("the connection was given back", message)
    fails("ECLOSED", stale:recv(1))
    assert.is_nil(lines())
    for _ in stale:lines() do error "a line" end
    assert.is_true(stale:close())
    assert.is_true(stale:closed())
    assert.equal(-1, stale:socket())
    assert.matches("given back", tostring(stale))
    assert.equal("x", ask(conn, "x"))
  end)

  it("can be put back twice without harm", function()
    local server <close> = talking_server()
    local pool <close> = wire.pool(server:addr(), { max = 2 })
    local conn = assert(pool:get(5))
    assert.is_true(pool:put(conn))
    assert.is_false(pool:put(conn))
    assert.same({ 0, 1, 0 }, counts(pool))
    local one <close> = assert(pool:get(5))
    local two <close> = assert(pool:get(5))
    assert.are_not.equal(name_of(one), name_of(two))
    fails("ETIMEDOUT", pool:get(0))
  end)
end)

-- ---- idle ones ------------------------------------------------------------------------------

describe("A pool's idle connections", function()
  -- A pool with n idle connections.
  local function idle_pool(server, n, opts)
    local pool = wire.pool(server:addr(), opts)
    local leases = {}
    for i = 1, n do
      leases[i] = assert(pool:get(5))
      assert(ask(leases[i], "x"))
    end
    for i = 1, n do pool:put(leases[i]) end
    return pool
  end

  it("are at most max_idle", function()
    local server <close> = talking_server()
    local pool <close> = idle_pool(server, 3, { max_idle = 1 })
    assert.same({ 0, 1, 0 }, counts(pool))
    wait_until(function() return server:conn_num() == 1 end)
    local none <close> = idle_pool(server, 2, { max_idle = 0 })
    assert.same({ 0, 0, 0 }, counts(none))
    wait_until(function() return server:conn_num() == 1 end)
  end)

  it("are closed after idle_timeout, without anybody's call", function()
    local server <close> = talking_server()
    local pool <close> = idle_pool(server, 2, { idle_timeout = 0.05 })
    local start = wire.now()
    wait_until(function() return server:conn_num() == 0 end)
    assert.is_true(wire.now() - start >= 0.03)
    assert.same({ 0, 0, 0 }, counts(pool))
    assert.equal("y", pool:use(ask, "y"))
  end)

  it("are closed when their lifetime is over, those in use when they come back", function()
    local server <close> = talking_server()
    local pool <close> = idle_pool(server, 1, { lifetime = 0.05 })
    wait_until(function() return server:conn_num() == 0 end)
    local conn = assert(pool:get(5))
    wire.sleep(0.06)
    assert.equal("z", ask(conn, "z"))
    pool:put(conn)
    assert.same({ 0, 0, 0 }, counts(pool))
    wait_until(function() return server:conn_num() == 0 end)
  end)

  support.it_outside("are not used after their time if no turn of the loop closed them", function()
    local server = talking_server()
    for _, opts in ipairs { { idle_timeout = 0.02 }, { lifetime = 0.02 } } do
      local pool = idle_pool(server, 1, opts)
      os.execute "sleep 0.05"
      assert.equal("y", pool:use(ask, "y"))
      assert.equal(2, pool:stats().created)
      pool:close()
    end
    server:close()
  end)

  it("are closed with the pool", function()
    local server <close> = talking_server()
    do
      local pool <close> = idle_pool(server, 2)
      wait_until(function() return server:conn_num() == 2 end)
      assert.equal(2, pool:stats().idle)
    end
    wait_until(function() return server:conn_num() == 0 end)
  end)

  it("are closed when nobody refers to the pool", function()
    local server <close> = talking_server()
    idle_pool(server, 2)
    wait_until(function() return server:conn_num() == 2 end)
    collectgarbage()
    collectgarbage()
    wait_until(function() return server:conn_num() == 0 end)
  end)

  it("do not keep wire.run going", function()
    local server <close> = talking_server()
    local script = support.lua([[
      local wire = require "lunewire"
      pool = wire.pool(arg[1], { idle_timeout = 1000 })
      wire.spawn(function()
        pool:use(function(conn) print(conn:send_recv("hello\n", 6)) end)
      end)
      wire.run()
      print(pool:stats().idle)
    ]], server:addr())
    assert.same({ "hello\n\n1\n", 0 }, { script:output() })
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
