-- wire.serve_udp: handlers, their order and number, errors in them, and the end.
-- What this is not: the socket's own methods (udp_spec, udp_net_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it, it_outside, fails, raises = support.it, support.it_outside, support.fails, support.raises

local HERE <const> = "127.0.0.1:0"
local MANY <const> = 1000
local PATIENCE <const> = 10

-- Waits until the condition holds -> whether it did.
local function eventually(condition)
  local limit = wire.now() + PATIENCE
  while not condition() and wire.now() < limit do wire.sleep(0.005) end
  return condition()
end

local function client(server)
  local udp = assert(wire.udp(HERE))
  assert(udp:connect((server:local_addr())))
  return udp
end

describe("serve_udp: a handler", function()
  it("gets the data, the sender, the socket, and whether the data was cut", function()
    local calls = {}
    local server <close> = assert(wire.serve_udp(HERE, { max = 4 }, function(...)
      calls[#calls + 1] = table.pack(...)
    end))
    local udp <close> = client(server)
    udp:send "1234"
    udp:send "12345"
    udp:send ""
    assert.is_true(eventually(function() return #calls == 3 end))
    local from = udp:local_addr()
    assert.are.same({ "1234", from, server, false, n = 4 }, calls[1])
    assert.are.same({ "1234", from, server, true, n = 4 }, calls[2])
    assert.are.same({ "", from, server, false, n = 4 }, calls[3])
  end)

  it("answers with the socket's send_to", function()
    local server <close> = assert(wire.serve_udp(HERE, function(data, from, udp)
      udp:send_to(data:upper(), from)
    end))
    local udp <close> = client(server)
    udp:send "hello"
    assert.are.equal("HELLO", (udp:recv(PATIENCE)))
  end)

  it("may be callable, or an object and the name of its method", function()
    local seen = {}
    local callable = setmetatable({}, { __call = function(self, data, from, udp)
      seen[#seen + 1] = { self, data, from, udp }
    end })
    local object = { take = function(self, data, from, udp)
      seen[#seen + 1] = { self, data, from, udp }
    end }
    for i, handler in ipairs { callable, { object, "take" } } do
      local server <close> = assert(wire.serve_udp(HERE, handler))
      local udp <close> = client(server)
      udp:send "x"
      assert.is_true(eventually(function() return #seen == i end))
      assert.are.same({ "x", (udp:local_addr()), server }, { table.unpack(seen[i], 2) })
      assert.are.equal(i == 1 and callable or object, seen[i][1])
    end
  end)

  it("gets a thousand datagrams, all in order", function()
    local got, ready = {}, 0
    local server <close> = assert(wire.serve_udp(HERE, { recv_buffer = 2 ^ 20 | 0, queue = MANY },
      function(data)
        if #got % 100 == 0 then wire.sleep(0) end
        got[#got + 1] = data
        ready = ready + 1
      end))
    local udp <close> = client(server)
    for i = 1, MANY do assert(udp:send(i)) end
    assert.is_true(eventually(function() return ready == MANY end))
    for i = 1, MANY do assert.are.equal(tostring(i), got[i]) end
    assert.are.equal(0, server:stats().drops)
  end, 20)

  it("that waits delays the next one", function()
    local running, most, order = 0, 0, {}
    local server <close> = assert(wire.serve_udp(HERE, function(data)
      running = running + 1
      most = math.max(most, running)
      wire.sleep(0.01)
      order[#order + 1] = data
      running = running - 1
    end))
    local udp <close> = client(server)
    for i = 1, 5 do udp:send(i) end
    assert.is_true(eventually(function() return #order == 5 end))
    assert.are.same({ "1", "2", "3", "4", "5" }, order)
    assert.are.equal(1, most)
  end)

  it("that waits too long lets the queue run over, which is counted", function()
    local channel_open, handled = false, 0
    local server <close> = assert(wire.serve_udp(HERE, { recv_buffer = 4096 }, function()
      while not channel_open do wire.sleep(0.005) end
      handled = handled + 1
    end))
    local udp <close> = client(server)
    for i = 1, 500 do udp:send(i) end
    channel_open = true
    assert.is_true(eventually(function() return handled + server:stats().drops == 500 end))
    assert.is_true(server:stats().drops > 0)
    assert.is_true(handled > 0)
  end)
end)

describe("serve_udp: workers", function()
  it("are as many at once as they may be, and no more", function()
    local running, most, done = 0, 0, 0
    local server <close> = assert(wire.serve_udp(HERE, { workers = 3 }, function()
      running = running + 1
      most = math.max(most, running)
      wire.sleep(0.01)
      running = running - 1
      done = done + 1
    end))
    local udp <close> = client(server)
    for i = 1, 10 do udp:send(i) end
    assert.is_true(eventually(function() return done == 10 end))
    assert.are.equal(3, most)
  end)

  it("let a fast one overtake a slow one", function()
    local order = {}
    local server <close> = assert(wire.serve_udp(HERE, { workers = 2 }, function(data)
      if data == "slow" then
        while #order < 2 do wire.sleep(0.005) end
      end
      order[#order + 1] = data
    end))
    local udp <close> = client(server)
    for _, data in ipairs { "slow", "fast", "faster" } do udp:send(data) end
    assert.is_true(eventually(function() return #order == 3 end))
    assert.are.same({ "fast", "faster", "slow" }, order)
  end)

  it("without a limit are as many as there are datagrams", function()
    local running, most = 0, 0
    local server <close> = assert(wire.serve_udp(HERE, { workers = math.huge }, function()
      running = running + 1
      most = math.max(most, running)
      while running < 20 do wire.sleep(0.005) end
    end))
    local udp <close> = client(server)
    for i = 1, 20 do udp:send(i) end
    assert.is_true(eventually(function() return most == 20 end))
  end)

  it("that never wait stay few", function()
    local handled = 0
    local server <close> = assert(wire.serve_udp(HERE, { workers = 100 }, function()
      handled = handled + 1
    end))
    local udp <close> = client(server)
    for i = 1, 50 do
      udp:send(i)
      assert.is_true(eventually(function() return handled == i end))
    end
    assert.is_true(require("lunewire.core").census().tasks <= 4)
  end)
end)

describe("serve_udp: an error in a handler", function()
  it("goes to on_error, and the next datagram is served", function()
    local got = {}
    local server <close> = assert(wire.serve_udp(HERE, function(data, from, udp)
      if data == "bad" then error "no good" end
      if data == "worse" then error(setmetatable({}, { __tostring = error })) end
      got[#got + 1] = data
      udp:send_to(data, from)
    end))
    local udp <close> = client(server)
    for _, data in ipairs { "bad", "one", "worse", "bad", "two" } do udp:send(data) end
    assert.is_true(eventually(function() return #got == 2 end))
    assert.are.same({ "one", "two" }, got)
    local errors = support.take_errors()
    assert.are.equal(3, #errors)
    assert.truthy(errors[1].err:find "serve_udp_spec.lua:%d+: no good", errors[1].err)
    assert.truthy(errors[1].traceback:find "serve_udp_spec", errors[1].traceback)
  end)

  it("of every kind leaves as many workers as before", function()
    local done, both = 0, 0
    local server <close> = assert(wire.serve_udp(HERE, { workers = 2 }, function(data)
      if data == "meet" then
        both = both + 1
        while both < 2 do wire.sleep(0.005) end
      end
      wire.sleep(0.002)
      done = done + 1
      if data == "error" then error(nil) end
      if data == "yield" then coroutine.yield() end
      if data == "canceled" then error(wire.CANCELED) end
    end))
    local udp <close> = client(server)
    for _ = 1, 3 do
      for _, data in ipairs { "error", "yield", "canceled" } do udp:send(data) end
    end
    assert.is_true(eventually(function() return done == 9 end))
    local errors = 0
    assert.is_true(eventually(function()
      errors = errors + #support.take_errors()
      return errors == 9
    end))
    udp:send "meet"
    udp:send "meet"
    assert.is_true(eventually(function() return done == 11 end))
  end)

  it("is not held up by an on_error function that waits", function()
    local reported, handled = 0, 0
    wire.on_error(function()
      while handled == 0 do wire.sleep(0.005) end
      reported = reported + 1
    end)
    local server <close> = assert(wire.serve_udp(HERE, function(data)
      if data == "bad" then error "bad" end
      handled = handled + 1
    end))
    local udp <close> = client(server)
    udp:send "bad"
    udp:send "good"
    assert.is_true(eventually(function() return reported == 1 end))
    assert.are.equal(1, handled)
  end)
end)

describe("serve_udp: the end", function()
  it_outside("keeps wire.run going until it is closed", function()
    local server = assert(wire.serve_udp(HERE, function(_, _, udp) udp:close() end))
    local udp = client(server)
    wire.after(0.02, function() udp:send "end" end)
    wire.run()
    assert.is_true(server:closed())
    assert.are.equal(1, server:stats().datagrams_in)
  end)

  it_outside("keeps wire.run going though every worker waits for another task", function()
    local server = assert(wire.serve_udp(HERE, function() wire.sleep(math.huge) end))
    local udp = client(server)
    udp:send "x"
    local ended = false
    wire.after(0.02, function() -- the only thing that holds the loop, besides the server
      wire.spawn(function()
        wire.after(0.01, function() ended = true; wire.stop() end)
      end)
    end)
    wire.run()
    assert.is_true(ended)
    assert.is_false(server:closed())
    server:close()
    for _, task in ipairs(require("lunewire.core").tasks()) do task:cancel() end
    wire.run()
  end)

  it("comes by close at once, and a handler under way goes on", function()
    local begun, ended = 0, 0
    local server = assert(wire.serve_udp(HERE, function()
      begun = begun + 1
      wire.sleep(0.05)
      ended = ended + 1
    end))
    local udp <close> = client(server)
    udp:send "one"
    udp:send "two"
    assert.is_true(eventually(function() return begun == 1 end))
    server:close()
    assert.is_true(eventually(function() return ended == 1 end))
    wire.sleep(0.02)
    assert.are.equal(1, begun)
  end)

  it("comes when a receive deadline has passed", function()
    local handled = 0
    local server = assert(wire.serve_udp(HERE, { workers = 2 }, function()
      handled = handled + 1
    end))
    local udp <close> = client(server)
    udp:send "x"
    assert.is_true(eventually(function() return handled == 1 end))
    server:set_recv_deadline(wire.now() + 0.01)
    assert.is_true(eventually(function() return server:closed() end))
  end)

  it("does not come from a refusal that a connected socket is told", function()
    local handled = 0
    local server <close> = assert(wire.serve_udp(HERE, function() handled = handled + 1 end))
    local udp <close> = assert(wire.udp(HERE))
    local gone = assert(wire.udp(HERE))
    local to = gone:local_addr()
    gone:close()
    assert(server:connect(to))
    assert(server:send "x")
    wire.sleep(0.02)
    local back <close> = assert(wire.udp(to))
    assert.is_true(eventually(function()
      back:send_to("y", (server:local_addr()))
      return handled > 0
    end))
    assert.is_false(udp:closed())
  end)

  it("may come from another task while nothing is received", function()
    local server = assert(wire.serve_udp(HERE, { workers = 5 }, error))
    wire.sleep(0.01)
    server:close()
    fails("ECLOSED", server:recv())
  end)
end)

-- ---- signals -------------------------------------------------------------------------

-- A server that handles each datagram for a while and says so; it says its process and its port.
local SERVER <const> = [[
local wire = require "lunewire"
io.stdout:setvbuf "line"
local server = assert(wire.serve_udp("127.0.0.1:0", { drain_timeout = %s }, function(data)
  print("begin " .. data)
  wire.sleep(%s)
  print("end " .. data)
end))
local stat <close> = io.open "/proc/self/stat"
wire.spawn(print, stat:read "n", (server:local_addr())) -- when the signals are watched
wire.run()
print "over"
]]

local function start(drain_timeout, work)
  local peer = support.lua(SERVER:format(drain_timeout, work))
  local pid, address = assert(peer:line()):match "^(%d+)\t(.+)$"
  return peer, pid, address
end

describe("serve_udp: SIGTERM", function()
  it("lets a handler end, serves what had come, and nothing that comes later", function()
    local peer, pid, address = start(10, 0.3)
    local udp <close> = assert(wire.udp(HERE))
    udp:send_to("one", address)
    udp:send_to("two", address)
    assert.are.equal("begin one", peer:line())
    os.execute("kill -s TERM " .. pid)
    local output, status = peer:output()
    assert.are.same({ "end one\nbegin two\nend two\nover\n", 0 }, { output, status })
  end)

  it("ends an idle one at once", function()
    local peer, pid = start(10, 0)
    os.execute("kill -s TERM " .. pid)
    assert.are.same({ "over\n", 0 }, { peer:output() })
  end)

  it("is nothing to one that was closed and collected", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      wire.spawn(function()
        for _ = 1, 2 do assert(wire.serve_udp("127.0.0.1:0", print)):close() end
        wire.sleep(0.05)
        collectgarbage() -- runs the finalizers; what they were of is swept by the next one
        collectgarbage "stop"
        local stat <close> = io.open "/proc/self/stat"
        print(stat:read "n")
        wire.sleep(60)
      end)
      wire.run()
      print "over"
    ]]
    os.execute("kill -s TERM " .. assert(peer:line()))
    assert.are.same({ "over\n", 0 }, { peer:output() })
  end)

  it("cancels what has not ended after drain_timeout", function()
    local peer, pid, address = start(0.1, 60)
    local udp <close> = assert(wire.udp(HERE))
    udp:send_to("one", address)
    assert.are.equal("begin one", peer:line())
    os.execute("kill -s TERM " .. pid)
    assert.are.same({ "over\n", 0 }, { peer:output() })
  end)
end)

describe("serve_udp: misuse", function()
  it("raises and says what to do, at the line that called", function()
    raises('serve_udp: the handler must be a function, something callable or {object, "method"}, '
      .. "not nil", wire.serve_udp, HERE)
    raises("not number", wire.serve_udp, HERE, {}, 1)
    raises("unknown option 'worker' %(did you mean 'workers'%?%)", wire.serve_udp, HERE,
      { worker = 1 }, print)
    raises("option 'workers' must be at least 1", wire.serve_udp, HERE, { workers = 0 }, print)
    raises("an address is a string", wire.serve_udp, nil, print)
    local err = raises("unknown option", function() wire.serve_udp(HERE, { x = 1 }, print) end)
    assert.truthy(err:find "serve_udp_spec.lua:%d+: unknown option", err)
    err = raises("the handler must be", function() wire.serve_udp(HERE, {}) end)
    assert.truthy(err:find "serve_udp_spec.lua:%d+: serve_udp: the handler", err)
  end)

  it("an address in use is named, and nothing is left", function()
    local holder <close> = assert(wire.udp(HERE))
    local at = holder:local_addr()
    local message = fails("EADDRINUSE", wire.serve_udp(at, print))
    assert.are.equal("serve_udp " .. at .. ": address already in use", message)
    fails("ENOTFOUND", wire.serve_udp(("x"):rep(64) .. ":1", print))
  end)
end)
