-- Scenarios of ends: connections closed in all ways, states closed with everything in flight.
-- What this is not: what must hold afterwards (recovery.lua, and run.c for states).
local wire = require "lunewire"

local WAIT <const> = 0.3

-- Made beforehand: what Lua makes a long string in is lost for good with a dropped finalizer.
local UNSENT <const>, BULK <const> = ("unsent"):rep(100000), ("x"):rep(100000)

-- Runs fn with both ends of a TCP connection and of a pipe.
local function on_pairs(fn)
  return function()
    wire.run(function()
      local a, b = assert(wire.pipe())
      a:set_timeout(WAIT)
      b:set_timeout(WAIT)
      fn(a, b)
      local server <close> = assert(wire.listen "127.0.0.1:0")
      local c <close> = assert(wire.connect(server:addr(), { timeout = WAIT }))
      local d <close> = assert(server:accept(WAIT))
      c:set_timeout(WAIT)
      d:set_timeout(WAIT)
      fn(c, d)
    end)
  end
end

local function make_contexts()
  return {
    server = assert(wire.tls_context { cert = os.getenv "TORTURE_CERT",
      key = os.getenv "TORTURE_KEY" }),
    client = assert(wire.tls_context { ca = os.getenv "TORTURE_CA" }),
  }
end

-- A bit of everything, under way.
local function begin_everything(contexts)
  local server = assert(wire.serve("127.0.0.1:0", { on_close = function() end }, function(conn)
    conn:send(UNSENT)
    for line in conn:lines() do conn:send(line, "\n") end
  end))
  local tls = assert(wire.serve("127.0.0.1:0", { tls = contexts.server }, function(conn)
    conn:recv_line()
  end))
  local conns = {}
  for i = 1, 3 do conns[i] = assert(wire.connect(server:addr())) end
  wire.spawn(function() conns[1]:recv(1000000) end)
  wire.spawn(wire.connect, tls:addr(), { tls = contexts.client })
  wire.spawn(function() assert(wire.udp "127.0.0.1:0"):recv() end)
  wire.spawn(wire.resolve, "localhost")
  wire.spawn(wire.sleep, 100)
  wire.every(0.001, function() end)
  local a = assert(wire.pipe())
  a:send "to nobody"
  conns[2]:close()
  local channel = wire.channel()
  wire.spawn(channel.send, channel, 1)
  return conns
end

-- Runs f below n functions of C, if there is room.
local function below(n, f)
  if n > 0 then return pcall(below, n - 1, f) and nil end
  f()
end

-- How deep Lua lets anybody go here.
local function find_bottom()
  local depth, reached = 0, true
  while reached do
    depth, reached = depth + 1, false
    below(depth, function() reached = true end)
  end
  return depth - 1
end

-- The deepest that has room for a collection has none for its finalizers: Lua drops them.
local function collect_below(bottom)
  for depth = bottom + 2, bottom - 2, -1 do
    pcall(below, depth, function() collectgarbage() end)
  end
end

return {
  { name = "close", body = on_pairs(function(a, b)
    assert(a:send "last words" and a:close() and a:close())
    assert(same(b:recv(10), "last words") and not b:recv())
    assert(b:close() and not b:send "x")
  end) },
  { name = "close while others wait", body = on_pairs(function(a)
    local reader = wire.spawn(function() return select(3, a:recv()) end)
    local writer = wire.spawn(function()
      local ok, message, code = true
      while ok do ok, message, code = a:send(BULK) end
      return message, code
    end)
    wire.sleep(0)
    wire.sleep(0)
    a:close()
    assert(reader:join(WAIT) and writer:join(WAIT))
  end) },
  { name = "reset", body = on_pairs(function(a, b)
    assert(a:send "lost" and a:reset())
    b:recv(4)
    assert(not b:recv())
  end) },
  { name = "half close", body = on_pairs(function(a, b)
    assert(a:send "first" and a:close_write())
    assert(same(b:recv(5), "first") and not b:recv() and b:send "second")
    assert(same(a:recv(6), "second"))
  end) },
  { name = "delayed close", body = on_pairs(function(a, b)
    assert(a:close(0.002) and b:reset(0.004))
    assert(not b:recv() and a:closed())
  end) },
  { name = "collected", body = on_pairs(function(a)
    a:send "unread"
    local task = wire.spawn(function()
      local x = assert(wire.pipe())
      x:recv(1, { timeout = 0.001 })
    end)
    task:join()
    collectgarbage()
  end) },
  { name = "send_file, killed", prepare = function() return wire.run(find_bottom) end,
    body = function(bottom)
    wire.run(function()
      local a, _ = assert(wire.pipe { limits = { high_water = 1 } })
      local thread = wire.co.create(function() a:send_file(os.getenv "TORTURE_FILE") end)
      local task = wire.spawn(wire.co.resume, thread)
      wire.sleep(0)
      coroutine.close(thread)
      thread = nil -- luacheck: ignore
      collect_below(bottom)
      a:reset()
      task:cancel()
      task:join(WAIT)
    end)
  end },
  { name = "closed in flight", abrupt = true, prepare = make_contexts, body = function(contexts)
    wire.run(function()
      local kept = begin_everything(contexts)
      for _ = 1, 3 do wire.sleep(0) end
      return kept
    end)
  end },
  { name = "closed before it ran", abrupt = true, prepare = make_contexts,
    body = begin_everything },
  { name = "exit in flight", abrupt = true, prepare = make_contexts, body = function(contexts)
    wire.run(function()
      local kept = begin_everything(contexts)
      for _ = 1, 3 do wire.sleep(0) end
      os.exit(kept and true, true)
    end)
  end },
}
