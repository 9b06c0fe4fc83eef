-- The user's finalizers: __gc functions that call into the library, while the script runs and
-- when its state closes.
-- What this is not: collection of the library's own objects (lifetime_spec).
local support = require "spec.support"
local wire = require "lunewire"

-- Calls fn once, in a finalizer, and collects it at once.
local function in_finalizer(fn)
  setmetatable({}, { __gc = fn })
  collectgarbage()
  collectgarbage()
end

-- A finalizer that runs at every collection until disarm() -> disarm, which is to be called.
local function at_every_collection(fn)
  local armed = true
  local function arm()
    setmetatable({}, { __gc = function()
      if not armed then return end
      fn()
      arm()
    end })
  end
  arm()
  return function() armed = false end
end

-- Runs fn with a collector that is busy all the time.
local function collecting(fn)
  collectgarbage("incremental", 1, 1000)
  local ok, err = pcall(fn)
  collectgarbage("incremental", 200, 100)
  if not ok then error(err, 0) end
end

-- ---- while the script runs --------------------------------------------------------------

describe("A finalizer in the main chunk", function()
  local calls = {
    ["conn:close()"] = function(conn) return conn:close() end,
    ["wire.sleep"] = function() return wire.sleep(0.001) end,
    ["wire.sleep(0)"] = function() return wire.sleep(0) end,
    ["task:join"] = function(_, task) return task:join() end,
    ["wire.run"] = function() return wire.run() end,
    ["wire.listen"] = function() return wire.listen "127.0.0.1:0" end,
    ["wire.connect"] = function() return wire.connect("127.0.0.1:1", 1) end,
    ["wire.resolve"] = function() return wire.resolve("localhost", 1) end,
  }
  for name, call in pairs(calls) do
    support.it_outside("that calls " .. name .. " runs no task", function()
      local client, conn = support.pair()
      local ran, in_it = false, nil
      local task = wire.spawn(function() ran = true end)
      in_finalizer(function()
        pcall(call, client, task)
        in_it = ran
      end)
      assert.is_false(in_it)
      assert.is_true(task:join())
      assert.is_true(ran)
      client:reset()
      conn:reset()
    end)
  end

  support.it_outside("cannot wait, says so, and leaves no place in the line", function()
    local a, b = wire.pipe()
    local ok, err
    in_finalizer(function() ok, err = pcall(a.recv, a, 1) end)
    assert.is_false(ok)
    assert.matches("finalizer", err)
    b:send "x"
    assert.equal("x", a:recv(1, 2))
  end)

  support.it_outside("does not lose the place of the chunk's own receive", function()
    local a, b = wire.pipe()
    local disarm = at_every_collection(function() pcall(wire.sleep, 0) end)
    local chunk, other = {}, {}
    wire.spawn(function()
      for line in a:lines() do other[#other + 1] = line end
    end)
    for i = 1, 400 do b:send(("%04d"):format(i), ("x"):rep(60), "\n") end
    b:close_write()
    collecting(function()
      for line in a:lines() do chunk[#chunk + 1] = line end
    end)
    disarm()
    wire.run()
    assert.equal(400, #chunk + #other)
  end)
end)

describe("A finalizer that receives on the connection whose bytes are being handed over", function()
  local COUNT = 3000

  -- Every line is counted, whoever got it.
  local function tally()
    local seen = {}
    return seen, function(line)
      if not line then return end
      local number = tonumber(line:sub(1, 4))
      seen[number] = (seen[number] or 0) + 1
    end
  end

  local function assert_each_once(seen)
    for i = 1, COUNT do
      if seen[i] ~= 1 then error(("line %d came %d times"):format(i, seen[i] or 0), 2) end
    end
  end

  local function send_all(conn)
    for i = 1, COUNT do conn:send(("%04d"):format(i), ("x"):rep(100), "\n") end
    conn:close_write()
  end

  for _, transport in ipairs(support.transports) do
    support.it("lets each line arrive exactly once over " .. transport.name, function()
      local a, b = transport.pair()
      local seen, note = tally()
      wire.spawn(send_all, b)
      local disarm = at_every_collection(function() note((a:recv_line(0))) end)
      collecting(function()
        for line in a:lines() do note(line) end
      end)
      disarm()
      assert_each_once(seen)
      a:close()
      b:close()
    end)

    support.it("lets each byte arrive exactly once over " .. transport.name, function()
      local a, b = transport.pair()
      local total = 0
      local function note(data) total = total + #(data or "") end
      wire.spawn(send_all, b)
      local disarm = at_every_collection(function() note((a:recv_now())) end)
      collecting(function()
        for piece in a:chunks() do note(piece) end
      end)
      disarm()
      assert.equal(COUNT * 105, total)
      a:close()
      b:close()
    end)
  end
end)

-- ---- when the state closes ---------------------------------------------------------------

-- Each call in a finalizer; every line is one that came back, well or with an error.
local CALLS = [[
  local calls = {
    { "now", function() return wire.now() end },
    { "pipe", function() return wire.pipe() end },
    { "listen", function() return wire.listen "127.0.0.1:0" end },
    { "serve", function() return wire.serve("127.0.0.1:0", print) end },
    { "after", function() return wire.after(1, print) end },
    { "every", function() return wire.every(1, print) end },
    { "sleep", function() return wire.sleep(0.01) end },
    { "run", function() return wire.run() end },
    { "run(fn)", function() return wire.run(print) end },
    { "stop", function() return wire.stop() end },
    { "connect", function() return wire.connect("127.0.0.1:1", 1) end },
    { "connect to a name", function() return wire.connect("localhost:1", 1) end },
    { "resolve", function() return wire.resolve "localhost" end },
    { "spawn", function() return wire.spawn(print) end },
    { "on_error", function() return wire.on_error(print) end },
    { "co.wrap", function() return wire.co.wrap(print) end },
    { "census", function() return require("lunewire.core").census() end },
    { "close", function() return CONN:close() end },
    { "close later", function() return OTHER:close(1) end },
    { "send", function() return OTHER:send "x" end },
    { "recv", function() return OTHER:recv(1) end },
    { "tostring", function() return tostring(CONN), tostring(OTHER), tostring(TASK) end },
    { "addresses", function() return CONN:local_addr(), OTHER:remote_addr() end },
    { "cancel", function() return TASK:cancel() end },
    { "cancel who waits", function() READER:cancel() SLEEPER:cancel() RECEIVER:cancel() end },
    { "join", function() return TASK:join() end },
    { "timer", function() return TIMER:cancel() end },
    { "server", function() return SERVER:close() end },
  }
  local function call_all()
    for _, call in ipairs(calls) do
      io.write(call[1], "\n"):flush()
      pcall(call[2])
    end
    print "came back"
  end]]

local OBJECTS = [[
  CONN, OTHER = wire.pipe()
  READER = wire.spawn(OTHER.recv, OTHER)
  SLEEPER = wire.spawn(wire.sleep, 100)
  RECEIVER = wire.spawn(function() return wire.channel():recv() end)
  wire.sleep(0)
  SERVER = wire.serve("127.0.0.1:0", function() print "a handler ran" end)
  TASK = wire.spawn(function() print "a task ran" end)
  TIMER = wire.after(1, print)]]

local FINALIZER = "  FINALIZER = setmetatable({}, { __gc = call_all })"
local MODULE = [[  wire = require "lunewire"]]

local function check_child(...)
  local peer = support.lua(table.concat({ "local wire", ... }, "\n"))
  local output, status = peer:output()
  assert.matches("server\ncame back\n$", output)
  assert.is_nil(output:find(" ran\n", 1, true))
  assert.equal(0, status)
end

describe("A closing state's finalizer", function()
  support.it("older than the module calls into it without harm", function()
    check_child(CALLS, FINALIZER, MODULE, OBJECTS)
  end)

  support.it("older than the module, which opened nothing, calls into it without harm", function()
    check_child(CALLS, FINALIZER, MODULE)
  end)

  support.it("younger than the objects calls into them, runs no task, leaves nothing", function()
    check_child(CALLS, MODULE, OBJECTS, FINALIZER)
  end)

  support.it("older than the objects calls into them, runs no task, leaves nothing", function()
    check_child(CALLS, MODULE, FINALIZER, OBJECTS)
  end)

  support.it("older than the module may call what it kept of it", function()
    local peer = support.lua [[
      local now, spawn
      X = setmetatable({}, { __gc = function() print(pcall(now), pcall(spawn, print)) end })
      now, spawn = require("lunewire").now, require("lunewire").spawn
    ]]
    local output, status = peer:output()
    assert.matches("^false.*closing", output)
    assert.equal(0, status)
  end)
end)
