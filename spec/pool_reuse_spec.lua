-- wire.pool: which connections are used again, and which are closed.
-- What this is not: who gets them, and when (pool_spec).
local assert = require "luassert"
local describe = require("busted").describe
local core = require "lunewire.core"
local support = require "spec.support"
local talkers = require "spec.talkers"
local wire = require "lunewire"

local it, fails, raises = support.it, support.fails, support.raises

local ask, counts, name_of, talking_server, wait_until =
  talkers.ask, talkers.counts, talkers.name_of, talkers.server, talkers.wait_until

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
