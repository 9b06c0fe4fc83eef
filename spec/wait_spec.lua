-- Waiting where Lua can and where it cannot: odd places for a call that waits.
-- What this is not: wire.co, which makes coroutines that can (co_spec).
local support = require "spec.support"
local wire = require "lunewire"

local raises, fails = support.raises, support.fails

-- The error that teaches; afterwards the task can wait as before.
local function assert_teaches(pattern, fn, ...)
  local err = raises(pattern, fn, ...)
  assert.matches("sleep", tostring(err))
  wire.sleep(0.001)
end

local function wait() wire.sleep(0.001) end

describe("a call that waits, in a task", function()
  support.it("inside a plain coroutine.wrap raises and names wire.co", function()
    assert_teaches("wire%.co", coroutine.wrap(wait))
    local client, server = wire.pipe()
    local lines = coroutine.wrap(function() coroutine.yield(server:recv_line()) end)
    raises("recv_line.*wire%.co", lines)
    client:close()
    server:close()
  end)

  support.it("inside coroutine.resume returns that error", function()
    local ok, err = coroutine.resume(coroutine.create(wait))
    assert.is_false(ok)
    assert.matches("wire%.co", err)
    wait()
  end)

  support.it("inside wire.co, inside a plain coroutine, raises and names wire.co", function()
    assert_teaches("wire%.co", coroutine.wrap(function() wire.co.wrap(wait)() end))
  end)

  support.it("inside a plain coroutine, inside wire.co, raises and names wire.co", function()
    assert_teaches("wire%.co", wire.co.wrap(function() coroutine.wrap(wait)() end))
  end)

  support.it("inside a plain coroutine that need not wait works", function()
    local client, server = wire.pipe()
    client:send "here"
    assert(server:peek(4))
    assert.equal("here", coroutine.wrap(function() return server:recv(4) end)())
    client:close()
    server:close()
  end)

  support.it("inside table.sort's comparator names 'sort'", function()
    assert_teaches("sort'", function() table.sort({ 2, 1 }, wait) end)
  end)

  support.it("inside table.sort's comparator, where pcall calls sort, names it too", function()
    assert_teaches("sort'", table.sort, { 2, 1 }, wait)
  end)

  support.it("inside string.gsub's function names 'gsub'", function()
    assert_teaches("gsub'", function() return (("text"):gsub(".", wait)) end)
  end)

  support.it("inside require names 'require'", function()
    package.preload["spec.waiting"] = wait
    assert_teaches("require'", function() require "spec.waiting" end)
    package.preload["spec.waiting"] = nil
  end)

  support.it("inside a __tostring that tostring calls names 'tostring'", function()
    local object = setmetatable({}, { __tostring = wait })
    assert_teaches("tostring'", function() return tostring(object) end)
  end)

  support.it("inside pcall inside a comparator names 'sort', not pcall", function()
    local ok, err
    table.sort({ 2, 1 }, function(a, b)
      ok, err = pcall(wait)
      return a < b
    end)
    assert.is_false(ok)
    assert.matches("sort'", err)
    wait()
  end)

  support.it("inside a finalizer raises and says so", function()
    local ok, err
    setmetatable({}, { __gc = function() ok, err = pcall(wait) end })
    collectgarbage()
    assert.is_false(ok)
    assert.matches("sleep: cannot wait", err)
    wait()
  end)

  support.it("inside a debug hook raises and says so", function()
    local ok, err
    debug.sethook(function()
      debug.sethook()
      ok, err = pcall(wait)
    end, "l")
    local _ = 1
    assert.is_false(ok)
    assert.matches("sleep: cannot wait", err)
    wait()
  end)

  support.it("inside xpcall's message handler raises and does not hang", function()
    local inside
    xpcall(error, function() inside = { pcall(wait) } end, "x")
    assert.is_false(inside[1])
    assert.matches("sleep: cannot wait", inside[2])
    wait()
  end)

  support.it("inside metamethods that Lua code calls works", function()
    local function lesser()
      wait()
      return true
    end
    local meta = { __lt = lesser, __le = lesser, __eq = lesser }
    function meta.__index(_, key)
      wait()
      return key
    end
    function meta.__concat()
      wait()
      return "joined"
    end
    function meta.__call(_, x)
      wait()
      return x
    end
    local a, b = setmetatable({}, meta), setmetatable({}, meta)
    assert.is_true(a < b and a <= b and a == b)
    assert.equal("key", a.key)
    assert.equal("joined", a .. b)
    assert.equal(3, a(3))
  end)

  support.it("inside pcall, xpcall, dofile, __close and an iterator works", function()
    local steps = 0
    local function step()
      wait()
      steps = steps + 1
    end
    assert.is_true((pcall(step)))
    assert.is_true((xpcall(step, print)))
    do local _ <close> = setmetatable({}, { __close = step }) end
    for _ in function() step() end do end
    assert.equal(4, steps)
  end)
end)

describe("coroutine.yield directly in a task", function()
  support.it("ends the task with an error that says what to do", function()
    local after = false
    local task = wire.spawn(function()
      coroutine.yield()
      after = true
    end)
    local message = fails("EERROR", task:join())
    assert.matches("coroutine.yield", message)
    assert.equal("failed", task:status())
    assert.is_false(after)
  end)

  support.it("is reported if nobody joins, with the task and its position", function()
    local task = wire.spawn(function() coroutine.yield(1, 2, 3) end)
    wire.sleep(0.01)
    local list = support.take_errors()
    assert.equal(1, #list)
    assert.matches("coroutine.yield", tostring(list[1].err))
    assert.matches("wait_spec.lua", list[1].traceback)
    assert.equal(task, list[1].task)
  end)

  support.it("closes the task's <close> variables", function()
    local closed = false
    local task = wire.spawn(function()
      local _ <close> = setmetatable({}, { __close = function() closed = true end })
      coroutine.yield()
    end)
    fails("EERROR", task:join())
    assert.is_true(closed)
  end)

  support.it_outside("of the main task is raised by run", function()
    raises("coroutine.yield", wire.run, coroutine.yield)
  end)

  support.it("in a connection's handler closes that connection alone", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      if conn:recv_line() == "yield" then coroutine.yield() end
      conn:send "ok\n"
    end))
    local bad <close> = assert(wire.connect(server:addr()))
    local good <close> = assert(wire.connect(server:addr()))
    bad:send "yield\n"
    fails("EOF", bad:recv_line { timeout = 5 })
    good:send "fine\n"
    assert.equal("ok", good:recv_line { timeout = 5 })
    assert.equal(1, #support.take_errors())
  end)
end)

describe("a call that waits, outside any task", function()
  support.it_outside("inside table.sort turns the loop as elsewhere", function()
    local list = { 3, 1, 2 }
    table.sort(list, function(a, b)
      wait()
      return a < b
    end)
    assert.same({ 1, 2, 3 }, list)
  end)

  support.it_outside("while the loop runs finalizers raises and does not nest the loop", function()
    local ok, err
    wire.spawn(function()
      setmetatable({}, { __gc = function() ok, err = pcall(wait) end })
      collectgarbage()
    end)
    wire.run()
    assert.is_false(ok)
    assert.matches("sleep: cannot wait", err)
  end)
end)

describe("odd uses in a handler", function()
  -- A server whose handler runs what the client names; the next client is served as before.
  local odd = {
    sort = function(conn) table.sort({ 2, 1 }, function() return conn:recv(1) end) end,
    metamethod = function(conn)
      return tostring(setmetatable({}, { __tostring = function() return conn:recv(1) end }))
    end,
    coroutine = function(conn) coroutine.wrap(function() conn:recv(1) end)() end,
    ["error object"] = function(conn) error { conn = conn } end,
    ["stack overflow"] = function(conn)
      local function overflow() return 1 + overflow(conn) end
      overflow()
    end,
  }

  local function assert_served(name, use)
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      if conn:recv_line() == name then use(conn) end
      conn:send "served\n"
    end))
    for _ = 1, 2 do
      local bad <close> = assert(wire.connect(server:addr()))
      bad:send(name, "\n")
      fails("EOF", bad:recv_line { timeout = 5 * support.slowness })
      local good <close> = assert(wire.connect(server:addr()))
      good:send "plain\n"
      assert.equal("served", good:recv_line { timeout = 5 * support.slowness })
    end
    assert.equal(2, #support.take_errors())
  end

  for name, use in pairs(odd) do
    support.it("leave the server alive: " .. name, function()
      support.without_collection(function() assert_served(name, use) end)
    end)
  end
end)
