-- conn:after and conn:every: timers that end with their connection.
-- What this is not: when a timer fires and how its runs behave (timer_spec).
local support = require "spec.support"
local wire = require "lunewire"
local census = require("lunewire.core").census
local tools = require "spec.conformance.tools"

local it, raises = support.it, support.raises

-- A function that counts its calls, and the count.
local function counter()
  local calls = { n = 0 }
  return function() calls.n = calls.n + 1 end, calls
end

local function runs(pair)
  it("after runs its function once, with its arguments only", function()
    local a, _ = pair()
    local got
    a:after(0.02, function(...) got = table.pack(...) end, 1, nil, "x", nil)
    tools.await(function() return got end)
    assert.same({ 1, nil, "x", nil, n = 4 }, got)
    wire.sleep(0.05)
    assert.equal(0, census().timers)
  end)

  it("every runs its function again and again", function()
    local a, _ = pair()
    local count, calls = counter()
    local timer = a:every(0.01, count)
    tools.await(function() return calls.n >= 3 end)
    assert.is_true(timer:cancel())
    local n = calls.n
    wire.sleep(0.05)
    assert.equal(n, calls.n)
    assert.is_false(timer:cancel())
  end)

  it("the function may wait, and use the connection", function()
    local a, b = pair()
    a:after(0.01, function()
      a:send "ping"
      wire.sleep(0.01)
      a:send "pong"
    end)
    assert.equal("pingpong", b:recv(8, 5))
  end)

  it("its errors are reported and end nothing", function()
    local a, _ = pair()
    local n = 0
    a:every(0.01, function()
      n = n + 1
      error "in a beat"
    end)
    tools.await(function() return n >= 2 end)
    a:close()
    assert.is_truthy(support.take_errors()[1].err:find "in a beat")
  end)

  it("a timer that never fires keeps nothing alive", function()
    local a, _ = pair()
    local count, calls = counter()
    local timer = a:after(math.huge, count)
    assert.equal(0, census().timers)
    assert.is_false(timer:cancel())
    a:close()
    assert.equal(0, calls.n)
  end)

  it("raises as after and every do", function()
    local a, _ = pair()
    raises("number expected", a.after, a, "soon", print)
    raises("function expected", a.after, a, 1)
    raises("interval", a.every, a, 0, print)
    raises("interval", a.every, a, math.huge, print)
    raises("Conn expected", a.after, 1, print)
  end)
end

local function ends(pair)
  -- The timer is over: it does not run, is not counted, and says so.
  local function check_over(timer, calls)
    local n = calls.n
    assert.equal(0, census().timers)
    wire.sleep(0.04)
    assert.equal(n, calls.n)
    assert.is_truthy(tostring(timer):find "over")
    assert.is_false(timer:cancel())
  end

  for _, how in ipairs { "close", "reset" } do
    it("trap: a heartbeat ends with its connection, by " .. how, function()
      local a, _ = pair()
      local count, calls = counter()
      local timer = a:every(0.01, count)
      tools.await(function() return calls.n >= 2 end)
      a[how](a)
      check_over(timer, calls)
    end)

    it("an after that is still to come never does, by " .. how, function()
      local a, _ = pair()
      local count, calls = counter()
      local timer = a:after(0.02, count)
      a[how](a)
      check_over(timer, calls)
      assert.equal(0, calls.n)
    end)

    it("a delayed end takes its timers along when it comes, by " .. how, function()
      local a, _ = pair()
      local count, calls = counter()
      local timer = a:every(0.01, count)
      tools.await(function() return calls.n >= 2 end)
      a[how](a, 0.1)
      assert.is_false(a:closed())
      assert.equal(1, census().timers)
      tools.await(function() return a:closed() end)
      check_over(timer, calls)
    end)
  end

  it("the end of its block ends a timer", function()
    local count, calls = counter()
    local timer
    do
      local a <close> = pair()
      timer = a:every(0.01, count)
    end
    check_over(timer, calls)
  end)

  it("trap: collecting a connection ends its timers", function()
    local count, calls = counter()
    local timer = pair():every(0.01, count)
    tools.await(function()
      collectgarbage()
      return census().timers == 0
    end)
    check_over(timer, calls)
  end)

  it("a function that refers to the connection keeps it, as long as it is armed", function()
    local seen = setmetatable({}, { __mode = "k" })
    local calls = 0
    do
      local a, _ = pair()
      seen[a] = true
      a:after(0.05, function()
        calls = calls + 1
        return a
      end)
    end
    collectgarbage()
    assert.is_not_nil(next(seen))
    tools.await(function()
      collectgarbage()
      return next(seen) == nil
    end)
    assert.equal(1, calls)
  end)

  it("trap: a run that has not begun when the connection closes never does", function()
    local a, _ = pair()
    local count, calls = counter()
    local after, every = a:after(0.01, count), a:every(0.01, count)
    local busy = wire.now() + 0.03
    while wire.now() < busy do end -- both are due when the loop turns
    wire.spawn(function()
      wire.sleep(0)
      a:close()
    end)
    a:close()
    check_over(after, calls)
    check_over(every, calls)
    assert.equal(0, calls.n)
  end)

  it("trap: neither does one that was spawned already", function()
    for yields = 0, 3 do
      local a, _ = pair()
      local after_close = 0
      local function late() if a:closed() then after_close = after_close + 1 end end
      a:after(0.01, late)
      a:every(0.01, late)
      wire.spawn(function()
        local busy = wire.now() + 0.02
        while wire.now() < busy do end
        for _ = 1, yields do wire.sleep(0) end
        a:close()
      end)
      wire.sleep(0.05)
      assert.equal(0, after_close)
    end
  end)

  it("a run under way goes on", function()
    local a, _ = pair()
    local begun, over = false, false
    a:every(0.01, function()
      begun = true
      wire.sleep(0.05)
      over = a:closed()
    end)
    tools.await(function() return begun end)
    a:close()
    tools.await(function() return over end)
  end)

  it("a run may close its own connection", function()
    local a, _ = pair()
    local count, calls = counter()
    local timer = a:every(0.01, function()
      count()
      a:close()
    end)
    tools.await(function() return a:closed() end)
    check_over(timer, calls)
    assert.equal(1, calls.n)
  end)

  it("a cancelled timer leaves the others, wherever it stands among them", function()
    for gone = 1, 3 do
      local a, _ = pair()
      local timers = {}
      for i = 1, 3 do timers[i] = a:after(60, print) end
      assert.is_true(timers[gone]:cancel())
      assert.equal(2, census().timers)
      a:close()
      assert.equal(0, census().timers)
    end
  end)

  it("on a closed connection a timer is over from the beginning", function()
    local a, _ = pair()
    local count, calls = counter()
    a:close()
    check_over(a:after(0, count), calls)
    check_over(a:every(0.01, count), calls)
    assert.equal(0, calls.n)
  end)

  it("ends while a close still waits for the peer to take what was sent", function()
    local a, b = pair()
    local count, calls = counter()
    local timer = a:every(0.01, count)
    tools.fill(a)
    a:close()
    check_over(timer, calls)
    b:reset()
  end)
end

for _, transport in ipairs(support.transports) do
  describe("a connection's timer over " .. transport.name .. ":", function()
    runs(transport.pair)
    ends(transport.pair)
  end)
end

describe("a connection's timer", function()
  it("trap: ends with the handler of its connection", function()
    local count, calls = counter()
    local timer
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      timer = conn:every(0.01, count)
      conn:recv(1)
    end))
    local client = assert(wire.connect(server:addr()))
    tools.await(function() return calls.n >= 2 end)
    client:send "x"
    support.fails("EOF", client:recv(1, 5))
    assert.equal(0, census().timers)
    assert.is_false(timer:cancel())
    client:close()
  end)

  support.it_outside("trap: does not keep wire.run going when its connection is closed", function()
    local a, b = wire.pipe()
    local start = wire.now()
    a:every(0.01, function() end)
    a:after(60, function() end)
    wire.after(0.05, function()
      a:close()
      b:close()
    end)
    wire.run()
    assert.is_true(wire.now() - start < 30)
  end)

  it("of a script that ends is freed with it", function()
    local script = support.lua [[
      local wire = require "lunewire"
      local a, b = wire.pipe()
      local timer = a:every(0.01, function() b:send "x" end)
      a:after(1000, print)
      wire.sleep(0.05)
      print "over"
    ]]
    assert.equal("over\n", (script:output()))
  end)
end)
