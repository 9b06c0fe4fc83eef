-- Errors: objects of every type, thrown in every place that runs functions of the user's; stacks
-- that overflow there; a process that is ended there.
-- What this is not: how an uncaught error is reported (task_spec), where a server sends those of
-- its handlers (server_hooks_spec).
local assert = require "luassert"
local describe = require("busted").describe
local clients = require "spec.clients"
local support = require "spec.support"
local wire = require "lunewire"

local it, eventually = support.it, support.eventually

local function raise() error "no text" end

local VALUES = {
  ["a nil"] = { nil }, ["false"] = { false }, ["a number"] = { 42 }, ["a table"] = { {} },
  ["a function"] = { print }, ["a coroutine"] = { coroutine.create(print) },
  ["a file"] = { io.stdout },
  ["an object whose __tostring raises"] = { setmetatable({}, { __tostring = raise }) },
  ["an object whose __tostring is no text"] =
    { setmetatable({}, { __tostring = function() return {} end }) },
  ["an object with a __name of the wrong type"] = { setmetatable({}, { __name = {} }) },
  ["a huge text"] = { ("x"):rep(1 << 20) }, ["a text with a zero"] = { "a\0b" },
  ["wire.CANCELED, though nobody cancelled it,"] = { wire.CANCELED },
}

-- ---- places ----------------------------------------------------------------------------
-- Each runs fn once in its own way; reports: how many errors of it reach on_error.

-- A server with these options that has had one client, and has ended.
local function serve_once(opts, handler, set_up)
  handler = handler or function(conn) conn:recv_line() end
  local server = assert(wire.serve("127.0.0.1:0", opts, handler))
  if set_up then set_up(server) end
  local client = assert(wire.connect(server:addr(), 5))
  client:send "a line\n"
  client:recv(1, 5)
  client:close()
  assert(server:shutdown(5) ~= nil)
  server:run()
end

local function with_codec(codec, call)
  local a, b = wire.pipe { framing = codec }
  b:send "bytes"
  pcall(call, a)
  a:reset()
  b:reset()
end

local PLACES = {
  ["a task"] = { function(fn) wire.spawn(fn) end, reports = 1 },
  ["a handler"] = { function(fn) serve_once({}, fn) end, reports = 1 },
  ["on_accept"] = { function(fn) serve_once { on_accept = fn } end, reports = 1 },
  ["on_close"] = { function(fn) serve_once { on_close = fn } end, reports = 1 },
  ["on_shutdown"] = { function(fn) serve_once { on_shutdown = fn } end, reports = 1 },
  ["on_exit"] = { function(fn)
    serve_once({}, nil, function(server) server:on_exit(fn) end)
  end, reports = 1 },
  ["a timer"] = { function(fn) wire.after(0, fn) end, reports = 1 },
  ["a connection's timer"] = { function(fn)
    local a, b = wire.pipe()
    a:after(0, fn)
    wire.after(0.01, function()
      a:reset()
      b:reset()
    end)
  end, reports = 1 },
  ["on_signal"] = { function(fn)
    local handle
    handle = wire.on_signal("USR2", function()
      handle:cancel()
      fn()
    end)
    os.execute "kill -s USR2 $PPID"
  end, reports = 1 },
  ["a <close> variable"] = { function(fn)
    wire.spawn(function() local _ <close> = setmetatable({}, { __close = fn }) end)
  end, reports = 1 },
  ["a handler of datagrams"] = { function(fn)
    local udp, begun
    udp = assert(wire.serve_udp("127.0.0.1:0", function()
      begun = true
      fn()
    end))
    udp:send_to("x", (udp:local_addr()))
    eventually(function() return begun end)
    udp:close()
  end, reports = 1 },
  ["a semaphore's function"] = { function(fn)
    local mutex = wire.mutex()
    pcall(mutex.with, mutex, fn)
    assert.is_true(mutex:acquire(0))
  end, reports = 0 },
  ["a generator"] = { function(fn) pcall(wire.co.wrap(fn)) end, reports = 0 },
  ["a codec's decode"] = { function(fn)
    with_codec({ decode = fn, encode = fn }, function(conn) return conn:recv_frame(5) end)
  end, reports = 0 },
  ["a codec's encode"] = { function(fn)
    with_codec({ decode = fn, encode = fn }, function(conn) return conn:send_frame("x", 5) end)
  end, reports = 0 },
  ["a pool's factory"] = { function(fn)
    local pool <close> = wire.pool(fn, { max = 1 })
    for _ = 1, 3 do pcall(pool.get, pool, 1) end
    assert.same({ 0, 0 }, { pool:stats().used or 0, pool:stats().idle or 0 })
  end, reports = 0 },
}

-- A server and a connection of it that live through everything.
local function survivor()
  local server = assert(wire.serve("127.0.0.1:0", clients.echo))
  local client = clients.connect(server)
  return function()
    clients.check_echo(client, "alive")
    client:reset()
    server:close()
  end
end

-- The errors that reached on_error: as many as the place reports, and no more within some turns.
local function take_reports(place)
  local list = {}
  local function take()
    table.move(support.take_errors(), 1, 9, #list + 1, list)
    return #list >= PLACES[place].reports
  end
  eventually(take)
  for _ = 1, 6 do wire.sleep(0) end
  take()
  assert.equal(PLACES[place].reports, #list)
  return list
end

local function throw_in(place, value)
  local thrown = 0
  PLACES[place][1](function()
    thrown = thrown + 1
    error(value, 0)
  end)
  eventually(function() return thrown > 0 end)
  for _, report in ipairs(take_reports(place)) do
    assert.is_true(rawequal(value, report.err))
    assert.equal("string", type(report.traceback))
  end
end

describe("an error object that is thrown in", function()
  for place in pairs(PLACES) do
    it(place .. " is reported once as it is, or raised; others live", function()
      local check_survivor = survivor()
      for name, value in pairs(VALUES) do
        local ok, err = pcall(throw_in, place, value[1])
        if not ok then error(name .. ": " .. tostring(err), 0) end
      end
      check_survivor()
    end, 30)
  end
end)

-- ---- overflows -----------------------------------------------------------------------------

local function many() return table.unpack({}, 1, 200) end -- values: fewer levels fill the stack

local OVERFLOWS = {
  ["Lua's stack"] = function()
    local function deep(...) return 1 + deep(...) end
    return deep(many())
  end,
  ["C's stack, by gsub"] = function()
    local function deep() return (("x"):gsub("x", deep)) end
    return deep()
  end,
  ["C's stack, by coroutines"] = function()
    local function deep() return wire.co.wrap(deep)() end
    return deep()
  end,
  ["C's stack, by metamethods"] = function()
    local object = setmetatable({}, {})
    getmetatable(object).__index = function(t, key) return t[key .. "x"] end
    return object.x
  end,
  ["a message handler"] = function()
    local function handler(_, ...) return handler("x", ...) .. "" end
    local ok, err = xpcall(error, function(err) return handler(err, many()) end, "x")
    assert.is_false(ok)
    error(err, 0)
  end,
  ["a text that is too long"] = function() return ("x"):rep(1 << 40) end,
}

describe("an overflow in", function()
  for place in pairs(PLACES) do
    it(place .. " is an error as any other", function()
      local check_survivor = survivor()
      for _, overflow in pairs(OVERFLOWS) do
        support.without_collection(function()
          local begun = false
          PLACES[place][1](function()
            begun = true
            return overflow()
          end)
          eventually(function() return begun end)
          take_reports(place)
        end)
      end
      check_survivor()
    end, 30)
  end

  local IN_ON_ERROR <const> = {
    ["Lua's stack"] = { "local function fn() return 1 + fn() end", "stack overflow" },
    ["C's stack, by gsub"] = { "local function fn() return ((('x'):gsub('x', fn))) end",
      "C stack overflow" },
    ["C's stack, by coroutines"] = { "local function fn() return wire.co.wrap(fn)() end",
      "C stack overflow" },
    ["C's stack, by metamethods"] = { [[
      local object = setmetatable({}, {})
      getmetatable(object).__index = function(t, key) return t[key .. "x"] end
      local function fn() return object.x end]], "C stack overflow" },
    ["a text that is too long"] = { "local function fn() return ('x'):rep(1 << 40) end",
      "too large" },
  }
  for name, row in pairs(IN_ON_ERROR) do
    it(name .. " by wire.on_error leaves a line on standard error, and the loop goes on", function()
      local output, status = support.lua("local wire = require 'lunewire'\n" .. row[1] .. [[

        wire.on_error(fn)
        wire.spawn(error, "first")
        wire.after(0.01, print, "alive")
        wire.run()
      ]]):output()
      assert.matches("error in the on_error function: .*" .. row[2], output)
      assert.matches("alive\n$", output)
      assert.equal(0, status)
    end, 30)
  end
end)

-- ---- the end of the process ------------------------------------------------------------------

describe("os.exit", function()
  -- Each calls leave() in a process that has a server, a client in the middle of a message, a
  -- timer and tasks that wait.
  local SCRIPT <const> = [[
    local wire = require "lunewire"
    local leave_in, closes = ..., select(2, ...) == "true"
    local function leave() os.exit(7, closes) end
    local function when(place) return place == leave_in and leave or nil end
    wire.on_error(when "on_error")
    local server = assert(wire.serve("127.0.0.1:0", { on_accept = when "on_accept",
      on_close = when "on_close", on_shutdown = when "on_shutdown" }, function(conn)
        if leave_in == "handler" then leave() end
        if leave_in == "on_error" then error "x" end
        conn:recv_line()
      end))
    if leave_in == "on_exit" then server:on_exit(leave) end
    if leave_in == "finalizer" then setmetatable({}, { __gc = leave }) end
    wire.spawn(wire.sleep, 100)
    wire.after(100, print)
    wire.run(function()
      local conn = assert(wire.connect(server:addr(), 5))
      conn:send "a line\n"
      if leave_in == "codec" then
        local a = wire.pipe { framing = { decode = leave, encode = leave } }
        a:send_frame "x"
      end
      if leave_in == "timer" then wire.after(0, leave) end
      if leave_in == "generator" then wire.co.wrap(function() wire.sleep(0) leave() end)() end
      conn:recv(1, 0.05)
      if leave_in == "finalizer" then collectgarbage() end
      conn:close()
      server:shutdown(1)
      wire.sleep(1)
      print "still here"
    end)
  ]]
  for _, place in ipairs { "handler", "on_accept", "on_close", "on_shutdown", "on_exit", "on_error",
    "codec", "timer", "generator", "finalizer" } do
    it("in " .. place .. " ends the process with its status, state closed or not", function()
      for _, closes in ipairs { "true", "false" } do
        local run = closes == "true" and support.lua or support.doomed_lua
        local output, status = run(SCRIPT, place, closes):output()
        assert.same({ "", 7 }, { output, status }, closes)
      end
    end, 30)
  end
end)
