-- What is used while something else goes away: a framing that is replaced under a waiting
-- call, a coroutine that is closed in its wait, stacks that must grow, states that close.
-- What this is not: what the user's finalizers may call (finalizer_spec).
local support = require "spec.support"
local wire = require "lunewire"
local census = require("lunewire.core").census

local fails = support.fails

-- Long enough to be no interned string, made at run time so that nothing else holds it.
local START <const> = os.time()
local function delimiter() return ("x"):rep(100) .. START end

-- What was freed must not look as it was.
local function collect_and_overwrite()
  collectgarbage()
  collectgarbage()
  local junk = {}
  for i = 1, 2000 do junk[i] = ("%d"):format(i) .. ("z"):rep(i % 160) end
  return junk
end

-- Takes away the only reference to the framing of a call that waits.
local function drop_framing(conn)
  conn:set_framing(nil)
  return collect_and_overwrite()
end

-- ---- a framing under a waiting call --------------------------------------------------

describe("A framing that is taken away and collected", function()
  support.it("under a waiting recv_frame serves it to its end", function()
    local a, b = wire.pipe()
    a:set_framing(wire.framing.delimiter(delimiter()))
    local task = wire.spawn(a.recv_frame, a)
    wire.sleep(0)
    local junk = drop_framing(a)
    assert(b:send("the frame", delimiter(), "rest"))
    assert.same({ true, "the frame" }, { task:join(2) })
    assert.equal("rest", a:recv(4, 2))
    assert.equal(2000, #junk)
  end)

  support.it("under a waiting recv_frame that finds no delimiter leaves the partial", function()
    local a, b = wire.pipe()
    a:set_framing(wire.framing.delimiter(delimiter()))
    local task = wire.spawn(a.recv_frame, a)
    wire.sleep(0)
    local junk = drop_framing(a)
    assert(b:send("part ", ("x"):rep(200)))
    b:close()
    local results = { task:join(2) }
    assert.is_true(results[1])
    local _, partial = fails("EOF", table.unpack(results, 2, 5))
    assert.equal("part " .. ("x"):rep(200), partial)
    assert.equal(2000, #junk)
  end)

  support.it("under a waiting send_frame is what frames its message", function()
    local a, b = wire.pipe { limits = { high_water = 10 } }
    a:set_framing(wire.framing.delimiter(delimiter()))
    assert(a:send(("y"):rep(100000)))
    local task = wire.spawn(a.send_frame, a, "data")
    wire.sleep(0)
    assert.equal("waiting", task:status())
    local junk = drop_framing(a)
    assert.equal(100000, #assert(b:recv(100000, 2)))
    assert.same({ true, 4 + #delimiter() }, { task:join(2) })
    assert.equal("data" .. delimiter(), b:recv(4 + #delimiter(), 2))
    assert.equal(2000, #junk)
  end)
end)

-- A framing in Lua: three bytes are a message.  It asks for them one by one.
local function triples(calls)
  return {
    decode = function(bytes)
      calls.n = calls.n + 1
      if #bytes < 3 then return nil, #bytes + 1 end
      return bytes:sub(1, 3), 3
    end,
    encode = function(message) return message end,
  }
end

describe("A framing in Lua that is taken away under a waiting recv_frame", function()
  for _, how in ipairs { "it_outside", "it" } do
    local where = how == "it" and "in a task" or "of the main chunk"
    support[how](where .. " goes on, and whoever stands behind it is served", function()
      local calls = { n = 0 }
      local client, conn = support.pair()
      conn:set_framing(triples(calls))
      wire.spawn(function()
        client:send "x"
        wire.sleep(0.02)
        conn:set_framing(nil)
        collectgarbage()
        client:send "yzq"
      end)
      assert.equal("xyz", conn:recv_frame(5))
      assert.equal("q", conn:recv(1, 5))
      client:reset()
      conn:reset()
    end)
  end

  support.it_outside("does not spin while it waits", function()
    local calls = { n = 0 }
    local client, conn = support.pair()
    conn:set_framing(triples(calls))
    wire.spawn(function()
      client:send "x"
      wire.sleep(0.02)
      conn:set_framing(nil)
      client:send "y"
    end)
    local cpu = os.clock()
    fails("ETIMEDOUT", conn:recv_frame(0.5))
    assert.is_true(os.clock() - cpu < 0.25, "it was busy")
    assert.is_true(calls.n < 10, "decode was called over and over")
    assert.equal("xy", conn:recv(2, 5))
    client:reset()
    conn:reset()
  end)
end)

-- ---- a coroutine that is closed in its wait -------------------------------------------

-- A server whose backlog is full: one more connection is not answered.
local function deaf_server()
  local server = assert(wire.listen("127.0.0.1:0", { backlog = 1 }))
  local held = {}
  for i = 1, 4 do held[i] = wire.connect(server:addr(), 0.05) or nil end
  return server, held
end

-- Runs fn(...) in a wire.co coroutine of a task of its own, closes that coroutine while it
-- waits, collects it and cancels the task.
local function close_in_wait(fn, ...)
  local co = wire.co.create(fn)
  local task = wire.spawn(wire.co.resume, co, ...)
  wire.sleep(0)
  assert.equal("waiting", task:status())
  assert.is_true(coroutine.close(co))
  co = nil
  local junk = collect_and_overwrite()
  task:cancel()
  local ok, _, code = task:join(5)
  assert.is_true(ok or code == "ECANCELED", code)
  return co, junk
end

describe("coroutine.close of a wire.co coroutine", function()
  support.it("that waits in connect gives up the dial when it is collected", function()
    local server <close>, held = deaf_server()
    close_in_wait(wire.connect, server:addr(), 30)
    collectgarbage()
    assert.equal(0, census().dials)
    for _, conn in pairs(held) do conn:reset() end
  end)

  support.it("that waits in connect to a name, and again many times, harms nothing", function()
    for _ = 1, 20 do close_in_wait(wire.connect, "localhost:1") end
  end)

  support.it("that waits in resolve gives up the lookup", function()
    for _ = 1, 20 do close_in_wait(wire.resolve, "localhost") end
  end)
end)

describe("A cancelled connect", function()
  support.it("leaves no dial behind, without a collection", function()
    local server <close>, held = deaf_server()
    local task = wire.spawn(wire.connect, server:addr(), 30)
    wire.sleep(0.01)
    collectgarbage "stop"
    local before = census().dials
    task:cancel()
    fails("ECANCELED", task:join(5))
    local after = census().dials
    collectgarbage "restart"
    assert.same({ 1, 0 }, { before, after })
    for _, conn in pairs(held) do conn:reset() end
  end)
end)

-- ---- stacks that must grow --------------------------------------------------------------

local function many(n) return table.unpack({}, 1, n) end

describe("Many arguments", function()
  for _, n in ipairs { 10000, 18000, 250000 } do
    support.it(("of wire.spawn, %d of them, arrive or raise an error"):format(n), function()
      support.without_collection(function()
        local ok, task = pcall(wire.spawn, function(...) return (select("#", ...)) end, many(n))
        if not ok then return assert.matches("stack", task) end
        local results = { task:join(5) }
        if results[1] then return assert.equal(n, results[2]) end
        assert.equal("EERROR", results[3])
      end)
      support.take_errors()
    end)

    support.it(("of wire.after, %d of them, arrive or raise an error"):format(n), function()
      support.without_collection(function()
        local got
        local function note(...) got = select("#", ...) end
        local ok, err = pcall(wire.after, 0, note, many(n))
        if not ok then return assert.matches("stack", err) end
        wire.sleep(0.05)
        assert.is_true(got == n or #support.take_errors() == 1)
      end)
    end)
  end

  support.it_outside("of a timer reach it through a driver with a small stack", function()
    local got = {}
    local function note(...) got[#got + 1] = select("#", ...) end
    for n = 5, 205, 10 do wire.after(0, note, many(n)) end
    coroutine.wrap(wire.sleep)(0.05)
    assert.equal(21, #got)
  end)
end)

-- ---- states that close, and metatables ------------------------------------------------

describe("A stack overflow that loses finalizers", function()
  support.it("leaves nothing behind the closed state", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      wire.on_error(function() end)
      local function deep(n, ...) -- 100 values more: fewer levels fill the stack
        local conn = wire.pipe()
        if n % 3 == 0 then conn:close() end
        return 1 + deep(n + 1, ...)
      end
      collectgarbage("incremental", 50, 400)
      for i = 1, 8 do wire.spawn(deep, i, table.unpack({}, 1, 100)):join() end
      wire.run()
      print "over"
    ]]
    local output, status = peer:output()
    assert.equal("over\n", output)
    assert.equal(0, status)
  end, 30)
end)

describe("getmetatable", function()
  support.it("shows a string, and so no finalizer to call by hand", function()
    local conn <close> = wire.pipe()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local timer = wire.after(0, function() end)
    local objects = { Conn = conn, Server = server, Timer = timer,
      Task = wire.spawn(function() end), ["the framing"] = wire.framing.line() }
    for name, object in pairs(objects) do
      assert.equal("string", type(getmetatable(object)), name)
      assert.is_false(pcall(setmetatable, object, {}), name)
    end
  end)
end)
