-- wire.netlog: lines that reach a collector, also of a script that dies.
local assert = require "luassert"
local describe = require("busted").describe
local core = require "lunewire.core"
local support = require "spec.support"
local wire = require "lunewire"

local it, fails, raises = support.it, support.fails, support.raises

local NOBODY <const> = "127.0.0.1:1"
local QUICK <const> = { min = 0.01, max = 0.02 }

-- A collector of our own -> the server, the list of lines that it has
local function collecting(addr)
  local lines = {}
  local server = assert(wire.serve(addr or "127.0.0.1:0", function(conn)
    for line in conn:lines() do lines[#lines + 1] = line end
  end))
  return server, lines
end

local function wait_until(condition)
  local limit = wire.now() + 5
  while not condition() and wire.now() < limit do wire.sleep(0.002) end
  assert.is_true(condition())
end

local function await_lines(lines, n)
  wait_until(function() return #lines >= n end)
  return lines
end

-- ---- a script that dies ------------------------------------------------------------------

-- The real nc -> the peer, its address
local function start_nc()
  local port = support.port()
  local nc = support.peer(("exec nc -lk 127.0.0.1 %d"):format(port))
  local limit = wire.now() + 10
  repeat -- nc says nothing when it listens
    local probe = wire.connect("127.0.0.1:" .. port, 5)
    if probe then
      probe:send "ready\n"
      probe:close()
    else
      wire.sleep(0.01)
    end
  until probe or wire.now() > limit
  assert.equal("ready", nc:line())
  return nc, "127.0.0.1:" .. port
end

local HEAD <const> = [[
  local wire = require "lunewire"
  local log = assert(wire.netlog(arg[1], { prefix = "[example] " }))
]]

local deaths = {
  ["by log:error in the main chunk"] = {
    'log:print("regular") log:error("panic")', { "regular", "panic" } },
  ["by log:error inside wire.run"] = {
    'wire.run(function() log:print("regular") log:error("panic") end)', { "regular", "panic" } },
  ["by log:error inside a task"] = {
    'wire.spawn(function() log:error("panic") end) wire.run()', { "panic" } },
  ["by log:error of a logger made inside a task"] = {
    'wire.run(function() wire.netlog(arg[1]):error("panic") end)', { "panic" }, bare = true },
  ["by log:error in a coroutine"] = {
    'coroutine.wrap(function() log:error("panic") end)()', { "panic" } },
  ["by log:error in table.sort"] = {
    'wire.run(function() table.sort({ 1, 2 }, function() log:error("panic") end) end)',
    { "panic" } },
  ["by an uncaught error in the main chunk"] = {
    'log:print("regular") error("panic")', { "regular" } },
  ["by an uncaught error inside wire.run"] = {
    'wire.run(function() log:print("regular") error("panic") end)', { "regular" } },
  ["at its normal end"] = { 'log:print("regular")', { "regular" } },
  ["at its normal end, in a task that has just logged"] = {
    'wire.run(function() log:print("regular") end)', { "regular" } },
  ["by SIGKILL after a flush"] = {
    'wire.run(function() log:print("regular") log:flush() os.execute "kill -KILL $PPID" end)',
    { "regular" } },
  ["by os.exit that closes the state"] = {
    'wire.run(function() log:print("regular") os.exit(3, true) end)', { "regular" } },
  ["by SIGKILL after log:error was caught"] = {
    'pcall(log.error, log, "panic") os.execute "kill -KILL $PPID"', { "panic" } },
}

-- Finalizers run in the opposite order of their objects' making.
local OLDER <const> = [[
  local log
  OBJECT = setmetatable({}, { __gc = function() log:print "late"; print "came back" end })
  log = assert(require("lunewire").netlog(arg[1]))
  log:print "one"
]]
local YOUNGER <const> = [[
  local log = assert(require("lunewire").netlog(arg[1]))
  OBJECT = setmetatable({}, { __gc = function() log:print "one"; print "came back" end })
]]

describe("The lines of a script that ends", function()
  for title, script in pairs { older = OLDER, younger = YOUNGER } do
    it("from a finalizer of something " .. title .. " do no harm", function()
      local server <close>, lines = collecting()
      local output, status = support.lua(script, server:addr()):output()
      assert.same({ "came back\n", 0 }, { output, status })
      assert.same({ "one" }, await_lines(lines, 1))
    end)
  end

  for title, case in pairs(deaths) do
    it(title .. " reach the real nc", function()
      local nc, address = start_nc()
      local prefix = case.bare and "" or "[example] "
      local script = support.lua(HEAD .. case[1], address)
      for _, line in ipairs(case[2]) do assert.equal(prefix .. line, nc:line()) end
      script:output()
    end, 20)
  end

  it("by log:error are followed by its death with the error's own text", function()
    local nc, address = start_nc()
    local output, status = support.lua(HEAD .. 'log:error("panic")', address):output()
    assert.matches(":3: panic\n", output)
    assert.equal(1, status)
    assert.equal("[example] panic", nc:line())
  end)

  it("with a large buffer reach a collector that takes its time", function()
    local most = support.sized(20000, 20000, 5000) -- it has seconds, whatever the machine
    local server = assert(wire.listen "127.0.0.1:0")
    local script = support.lua([[
      local wire = require "lunewire"
      local log = assert(wire.netlog(arg[1], { buffer = 64 * 1024 * 1024 }))
      for i = 1, tonumber(arg[2]) do assert(log:printf("%06d %s", i, ("x"):rep(492))) end
      error "panic"
    ]], server:addr(), most)
    local conn = assert(server:accept(15))
    wire.sleep(0.1)
    local count = 0
    for line in conn:lines { timeout = 10 } do
      count = count + 1
      assert(tonumber(line:sub(1, 6)) == count)
    end
    assert.is_nil(conn:last_error())
    assert.equal(most, count)
    script:output()
    conn:close()
    server:close()
  end, 30)

  it("while the collector is away are shown on standard error", function()
    local output, status = support.lua(HEAD .. 'log:print("one") log:print("two")', NOBODY):output()
    assert.equal(([[
netlog 127.0.0.1:1: not delivered (connect 127.0.0.1:1: connection refused):
[example] one
[example] two
]]), output)
    assert.equal(0, status)
  end)

  it("end although the collector is away", function()
    local output, status = support.lua(HEAD .. 'wire.run(log.error, log, "panic")', NOBODY):output()
    assert.matches("panic", output)
    assert.equal(1, status)
  end)
end)

-- ---- what a line looks like ------------------------------------------------------------------

describe("A network logger's line", function()
  local function logged(opts, ...)
    local server <close>, lines = collecting()
    local log <close> = assert(wire.netlog(server:addr(), opts))
    assert(log:print(...))
    return await_lines(lines, 1)[1]
  end

  it("is its arguments as print shows them", function()
    assert.equal("one\t2\tnil\ttrue", logged({}, "one", 2, nil, true))
    assert.equal("", logged {})
    assert.equal("object", logged({}, setmetatable({}, {
      __tostring = function() return "object" end,
    })))
  end)

  it("ends with one newline, with its text's own if there is one", function()
    local server <close>, lines = collecting()
    local log <close> = assert(wire.netlog(server:addr()))
    log:print "one\n"
    log:print "two"
    log:printf("%s and %d\n", "three", 4)
    assert.same({ "one", "two", "three and 4" }, await_lines(lines, 3))
  end)

  it("begins with what was asked for, in the order of Go's log", function()
    local text = logged({ prefix = "[x] ", date = true, time = true, file = true }, "hi")
    assert.matches("^%[x%] %d%d%d%d/%d%d/%d%d %d%d:%d%d:%d%d netlog_spec%.lua:%d+: hi$", text)
    assert.matches("^%d%d%d%d/%d%d/%d%d hi$", logged({ date = true }, "hi"))
    assert.matches("^%d%d:%d%d:%d%d hi$", logged({ time = true }, "hi"))
    assert.matches("^%d%d:%d%d:%d%d%.%d%d%d%d%d%d hi$", logged({ microseconds = true }, "hi"))
    assert.matches("^[^ ]*spec/netlog_spec%.lua:%d+: hi$", logged({ long_file = true }, "hi"))
  end)

  it("has the time of now, and UTC's if asked for", function()
    local before = os.date "!%Y/%m/%d %H:%M:%S"
    local text = logged({ date = true, time = true, utc = true }, "")
    -- os.time() may be some milliseconds behind the clock of the line
    local after = os.date("!%Y/%m/%d %H:%M:%S", os.time() + 1)
    local when = text:sub(1, 19)
    assert.is_true(before <= when and when <= after, text)
  end)

  it("names the line that logs, whichever method does", function()
    local server <close>, lines = collecting()
    local log <close> = assert(wire.netlog(server:addr(), { file = true }))
    local line = debug.getinfo(1, "l").currentline
    log:print "a"
    log:printf "b"
    pcall(function() log:error "c" end)
    local function helper() log:error("d", 2) end
    pcall(function()
      helper()
    end)
    local expected = {}
    for i, text in ipairs { "a", "b", "c" } do
      expected[i] = ("netlog_spec.lua:%d: %s"):format(line + i, text)
    end
    expected[4] = ("netlog_spec.lua:%d: d"):format(line + 6)
    assert.same(expected, await_lines(lines, 4))
  end)
end)

describe("log:error", function()
  it("raises as error does, with any value and at any level", function()
    local server <close>, lines = collecting()
    local log <close> = assert(wire.netlog(server:addr()))
    local line = debug.getinfo(1, "l").currentline
    local _, err = pcall(function() log:error "text" end)
    assert.matches("netlog_spec.lua:" .. line + 1 .. ": text$", err)
    _, err = pcall(function() log:error("text", 0) end)
    assert.equal("text", err)
    local object = setmetatable({}, { __tostring = function() return "object" end })
    _, err = pcall(function() log:error(object) end)
    assert.equal(object, err)
    assert.same({ "text", "text", "object" }, await_lines(lines, 3))
  end)

  it("raises its error in a cancelled task, too", function()
    local server <close>, lines = collecting()
    local log <close> = assert(wire.netlog(server:addr()))
    local err
    local task = wire.spawn(function()
      pcall(wire.sleep, 5)
      err = select(2, pcall(log.error, log, "panic", 0))
    end)
    wire.sleep(0)
    task:cancel()
    task:join()
    assert.equal("panic", err)
    assert.same({ "panic" }, await_lines(lines, 1))
  end)

  it("has handed the line to the system before it raises", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local log = assert(wire.netlog(server:addr()))
    local conn = assert(server:accept(5))
    pcall(log.error, log, "panic")
    assert.equal("panic\n", conn:recv(6, 0))
    log:close()
    conn:close()
  end)
end)

-- ---- a collector that is away --------------------------------------------------------------

describe("A network logger", function()
  it("delivers what was logged while the collector was away, in order", function()
    local port = support.port()
    local address = "127.0.0.1:" .. port
    local log <close> = assert(wire.netlog(address, { reconnect = QUICK }))
    for i = 1, 10 do assert.is_true(log:print(i)) end
    assert.equal(21, log:stats().queued)
    local _ <close>, lines = collecting(address)
    await_lines(lines, 10)
    assert.same({ "1", "2", "3", "4", "5", "6", "7", "8", "9", "10" }, lines)
    assert.is_true(log:stats().connected)
    assert.equal(0, log:stats().queued)
  end)

  it("finds a collector that was started again", function()
    local server, lines = collecting()
    local address = server:addr()
    local log <close> = assert(wire.netlog(address, { reconnect = QUICK }))
    log:print "before"
    await_lines(lines, 1)
    server:shutdown(0)
    wire.sleep(0.02)
    assert.is_true(log:print "between")
    local _ <close>, more = collecting(address)
    await_lines(more, 1)
    assert.same({ "between" }, more)
  end)

  it("drops what its buffer cannot hold, counts it, and says so to the collector", function()
    local port = support.port()
    local address = "127.0.0.1:" .. port
    local log <close> = assert(wire.netlog(address,
      { reconnect = QUICK, buffer = 29, prefix = "> " }))
    for i = 1, 5 do log:print("line " .. i .. ".") end
    local message = fails("EAGAIN", log:print "more")
    assert.matches("buffer is full", message)
    assert.equal(4, log:stats().dropped)
    local _ <close>, lines = collecting(address)
    await_lines(lines, 3)
    assert.same({ "> line 1.", "> line 2.", "> netlog: 4 lines dropped" },
      { lines[1], lines[2], lines[#lines] })
    log:print "after"
    assert.equal("> after", await_lines(lines, #lines + 1)[#lines])
  end)

  it("drops for a collector that takes nothing, and never waits for it", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local log = assert(wire.netlog(server:addr(), { buffer = 100000 }))
    local conn = assert(server:accept(5))
    local text = ("x"):rep(999)
    local accepted, others_ran = 0, false
    local other = wire.spawn(function() others_ran = true end)
    while log:print(text) do accepted = accepted + 1 end
    for _ = 1, 99 do fails("EAGAIN", log:print(text)) end
    assert.equal(100, log:stats().dropped)
    assert.is_false(others_ran)
    assert.is_true(other:join())
    for _ = 1, accepted do assert.equal(text, conn:recv_line(5)) end
    wire.sleep(0.01)
    assert.is_true(log:print "again")
    assert.equal("netlog: 100 lines dropped", conn:recv_line(5))
    assert.equal("again", conn:recv_line(5))
    log:close()
    conn:close()
  end, 20)

  it("drops a line that is larger than its buffer", function()
    local server <close>, lines = collecting()
    local log <close> = assert(wire.netlog(server:addr(), { buffer = 10 }))
    fails("EAGAIN", log:print "0123456789")
    assert.is_true(log:print "012345678")
    await_lines(lines, 2)
    assert.same({ "netlog: 1 line dropped", "012345678" }, lines)
  end)

  it("does not keep wire.run going, connected or not", function()
    local server <close>, lines = collecting()
    for _, address in ipairs { server:addr(), NOBODY } do
      local script = support.lua([[
        local wire = require "lunewire"
        log = assert(wire.netlog(arg[1], { reconnect = { min = 100, max = 100 } }))
        wire.run(function() log:print "one" end)
        wire.run()
        print "over"
        io.stdout:flush()
      ]], address)
      assert.equal("over", script:line())
      script:output()
    end
    await_lines(lines, 1)
  end)

  it("tries again in the background while the loop runs for something else", function()
    local port = support.port()
    local log <close> = assert(wire.netlog("127.0.0.1:" .. port, { reconnect = QUICK }))
    log:print "one"
    wire.sleep(0.1)
    local _ <close>, lines = collecting("127.0.0.1:" .. port)
    assert.same({ "one" }, await_lines(lines, 1))
  end)

  it("is collected with its timer when nobody refers to it", function()
    local log = assert(wire.netlog(NOBODY, { reconnect = { min = 100, max = 100 } }))
    log:print "lost"
    wire.sleep(0.05)
    assert.equal(1, core.census().timers)
    local stderr, shown = io.stderr, nil
    io.stderr = { write = function(_, text) shown = text end } -- luacheck: ignore
    log = nil -- luacheck: no unused
    collectgarbage()
    collectgarbage()
    io.stderr = stderr -- luacheck: ignore
    assert.matches("not delivered.*\nlost\n$", shown)
    assert.equal(0, core.census().timers)
  end)

  support.it_outside("reconnects outside any task, without a wait of the script's own", function()
    local listener = assert(wire.listen "127.0.0.1:0")
    local log = assert(wire.netlog(listener:addr(), { reconnect = { min = 0, max = 0 } }))
    local conn = assert(listener:accept(5))
    conn:reset()
    os.execute "sleep 0.05"
    local limit = wire.now() + 5
    repeat log:print "again" until log:stats().connected or wire.now() > limit
    conn = assert(listener:accept(5))
    assert.equal("again", conn:recv_line(5))
    log:close()
    conn:reset()
    listener:close()
  end)
end)

-- ---- flush, close, misuse -------------------------------------------------------------------

describe("A network logger", function()
  it("flushes: true once the system has it, the failure if nobody is there", function()
    local server <close>, lines = collecting()
    local log <close> = assert(wire.netlog(server:addr()))
    log:print "one"
    assert.is_true(log:flush(5))
    await_lines(lines, 1)
    local other = assert(wire.netlog(NOBODY))
    other:print "two"
    assert.matches("connection refused", fails("ECONNREFUSED", other:flush(5)))
    fails("ECONNREFUSED", other:close())
  end)

  it("closes once, flushed; from then on it takes no line", function()
    local server <close>, lines = collecting()
    local log = assert(wire.netlog(server:addr()))
    log:print "one"
    assert.is_true(log:close())
    assert.is_true(log:close())
    fails("ECLOSED", log:print "two")
    assert.matches("closed", tostring(log))
    wait_until(function() return server:conn_num() == 0 end)
    assert.same({ "one" }, lines)
  end)

  it("delivers behind the end of its block what it could not before", function()
    local port = support.port()
    local address = "127.0.0.1:" .. port
    local server, lines
    do
      local log <close> = assert(wire.netlog(address))
      log:print "one"
      server, lines = collecting(address)
    end
    assert.same({ "one" }, await_lines(lines, 1))
    server:close()
  end)

  it("does not care what the collector says", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local log <close> = assert(wire.netlog(server:addr()))
    local conn = assert(server:accept(5))
    for _ = 1, 20 do
      conn:send(("noise "):rep(10000))
      wire.sleep(0.002)
      log:print "x"
    end
    for _ = 1, 20 do assert.equal("x", conn:recv_line(5)) end
    conn:close()
  end)

  it("refuses misuse, and what is no address", function()
    raises("unknown option 'prefx' %(did you mean 'prefix'%?%)", wire.netlog, NOBODY,
      { prefx = 1 })
    raises("'date' must be a boolean", wire.netlog, NOBODY, { date = "yes" })
    raises("'buffer' must be a whole number >= 1, not 0", wire.netlog, NOBODY, { buffer = 0 })
    raises("the option 'buffer' is the only limit", wire.netlog, NOBODY, { limits = {} })
    raises("address", wire.netlog, nil)
    fails("EINVAL", wire.netlog "nonsense")
    local log = assert(wire.netlog(NOBODY))
    raises("netlog_spec.*bad argument", function() log:printf("%d", "x") end)
  end)
end)
