-- Signals: what SIGINT and SIGTERM do to a script in wire.run, and wire.on_signal.
-- What this is not: whether a shutdown under load loses anything (drain_spec.lua).
local support = require "spec.support"
local wire = require "lunewire"

local it, eventually = support.it, support.eventually

-- Sends a signal to this very process.
local function raise_signal(name) assert(os.execute(("kill -s %s $PPID"):format(name))) end

local PRELUDE = [[
local wire = require "lunewire"
io.stdout:setvbuf "line"
local function ready() print "ready" end
local function echo(conn) for line in conn:lines() do conn:send(line, "\n") end end
local function says(text) return setmetatable({}, { __close = function() print(text) end }) end
-- Which signals the process ignores and which it catches.
local function dispositions()
  local list = {}
  for line in io.lines "/proc/self/status" do
    if line:find "^Sig[IC][gG]" then list[#list + 1] = line:gsub("%s+", " ") end
  end
  return table.concat(list, ", ")
end
]]

-- Starts a script and waits until it has printed "ready".
local function start(script, run)
  local peer = (run or support.lua)(PRELUDE .. script)
  assert.equal("ready", peer:line())
  return peer
end

-- Starts a script and sends it a signal -> its output, its exit status.
local function outcome(script, name, run)
  local peer = start(script, run)
  peer:signal(name)
  return peer:output()
end

local doomed = support.doomed_lua

local function check(expected, output, status)
  assert.equal(expected, output)
  assert.equal(0, status)
end

describe("SIGINT and SIGTERM while wire.run runs", function()
  for _, name in ipairs { "INT", "TERM" } do
    it("SIG" .. name .. " shuts every server down, and run returns", function()
      check("down\ndown\nreturned\n", outcome([[
        local function down() print "down" end
        assert(wire.serve("127.0.0.1:0", { on_shutdown = down }, echo))
        assert(wire.serve("127.0.0.1:0", { on_shutdown = down }, echo))
        wire.after(0, ready)
        wire.run()
        print "returned"
      ]], name))
    end)
  end

  it("let each of several servers run its on_exit", function()
    check("exit\nexit\nexit\nreturned\n", outcome([[
      for _, opts in ipairs { {}, {}, { drain_timeout = 0, on_shutdown = function() end } } do
        local server = assert(wire.serve("127.0.0.1:0", opts, echo))
        server:on_exit(function() print "exit" end)
      end
      wire.after(0, ready)
      wire.run()
      print "returned"
    ]], "TERM"))
  end)

  it("let a request that has begun be served to its end", function()
    local peer = support.lua(PRELUDE .. [[
      print(assert(wire.serve("127.0.0.1:0", { on_shutdown = function() print "down" end },
        echo)):port())
      wire.run()
      print "returned"
    ]])
    local client <close> = assert(wire.connect("127.0.0.1:" .. peer:line(), 5))
    client:send "one\ntw"
    assert.equal("one", client:recv_line(5))
    peer:signal "TERM"
    assert.equal("down", peer:line())
    client:send "o\n"
    assert.equal("two", client:recv_line(5))
    check("returned\n", peer:output())
  end)

  it("reset what is not over after drain_timeout, and cancel its handler", function()
    local peer = support.lua(PRELUDE .. [[
      print(assert(wire.serve("127.0.0.1:0", { drain_timeout = 0.1 }, function(conn)
        conn:send "hello\n"
        local _ <close> = says "handler canceled"
        wire.sleep(1000)
      end)):port())
      wire.run()
      print "returned"
    ]])
    local client <close> = assert(wire.connect("127.0.0.1:" .. peer:line(), 5))
    assert.equal("hello", client:recv_line(5))
    peer:signal "TERM"
    support.fails("ECONNRESET", client:recv_line())
    check("handler canceled\nreturned\n", peer:output())
  end)

  it("cancel the tasks left over behind the servers", function()
    check("down\nclosed\nreturned\n", outcome([[
      assert(wire.serve("127.0.0.1:0", { on_shutdown = function() print "down" end }, echo))
      wire.spawn(function()
        local _ <close> = says "closed"
        ready()
        wire.sleep(1000)
      end)
      wire.run()
      print "returned"
    ]], "TERM"))
  end)

  it("cancel the tasks of a script without servers", function()
    check("closed\nreturned\n", outcome([[
      wire.spawn(function()
        local _ <close> = says "closed"
        ready()
        wire.sleep(1000)
      end)
      wire.run()
      print "returned"
    ]], "INT"))
  end)

  it("cancel a main task, which wire.run says", function()
    local output, status = outcome([[
      print(pcall(wire.run, function()
        local _ <close> = says "closed"
        ready()
        wire.sleep(1000)
      end))
    ]], "INT")
    check("closed\nfalse\tthe main task was cancelled\n", output, status)
  end)

  it("let a main task that waits for its server return its results", function()
    check("main\ttrue\n", outcome([[
      print(wire.run(function()
        local server = assert(wire.serve("127.0.0.1:0", echo))
        ready()
        return "main", server:run()
      end))
    ]], "TERM"))
  end)

  it("wake an accept loop with ECLOSED, which ends it in order", function()
    check("ECLOSED\n", outcome([[
      wire.run(function()
        local server = assert(wire.listen "127.0.0.1:0")
        ready()
        print(select(3, server:accept()))
      end)
    ]], "TERM"))
  end)

  it("end a script whose main task does not heed a cancel, once it returns", function()
    check("tried\nstubborn\n", outcome([[
      print(wire.run(function()
        ready()
        pcall(wire.sleep, 1000)
        print "tried"
        return "stubborn"
      end))
    ]], "TERM"))
  end)

  it("do not wait for timers", function()
    check("returned\n", outcome([[
      assert(wire.serve("127.0.0.1:0", echo))
      wire.after(1000, print, "never")
      wire.every(1000, print, "never")
      wire.after(0, ready)
      wire.run()
      print "returned"
    ]], "TERM"))
  end)

  it("do nothing to a script that is not in wire.run: it dies as any other", function()
    local output, status = outcome("ready() wire.sleep(1000) print 'survived'", "TERM", doomed)
    assert.same({ "", 143 }, { output, status })
  end)
end)

describe("a second signal", function()
  for name, expected in pairs { INT = 130, TERM = 143 } do
    it("SIG" .. name .. " ends a shutdown that lasts, with status " .. expected, function()
      local peer = doomed(PRELUDE .. [[
        local server = assert(wire.serve("127.0.0.1:0",
          { on_shutdown = function() print "down" end }, function(conn)
            conn:send "hello"
            conn:recv(5)
          end))
        print(server:port())
        wire.run()
        print "returned"
      ]])
      local client <close> = assert(wire.connect("127.0.0.1:" .. peer:line(), 5))
      assert.equal("hello", client:recv(5, 5))
      client:send "ab"
      client:flush()
      peer:signal(name)
      assert.equal("down", peer:line())
      peer:signal(name)
      local output, status = peer:output()
      assert.same({ "", expected }, { output, status })
    end)
  end

  for name, status in pairs { INT = 130, TERM = 143 } do
    it(("SIG%s ends a script even while Lua code is busy"):format(name), function()
      local peer = start(([[
        wire.run(function()
          io.popen "kill -s %s $PPID":close() -- os.execute ignores SIGINT meanwhile
          ready()
          while true do end
        end)
      ]]):format(name), doomed)
      peer:signal(name)
      assert.same({ "", status }, { peer:output() })
    end)
  end

  for first, second in pairs { INT = "TERM", TERM = "INT" } do
    it(("SIG%s after SIG%s ends a shutdown that keeps Lua code busy"):format(second, first),
      function()
      local peer = start([[
        assert(wire.serve("127.0.0.1:0", {
          on_shutdown = function()
            print "down"
            while true do end
          end
        }, function() end))
        wire.after(0, ready)
        wire.run()
      ]], doomed)
      peer:signal(first)
      assert.equal("down", peer:line())
      peer:signal(second)
      assert.same({ "", second == "INT" and 130 or 143 }, { peer:output() })
    end)
  end
end)

describe("on_signal", function()
  it("runs its function in a task at each signal", function()
    local times = 0
    local handle = wire.on_signal("SIGUSR1", function()
      wire.sleep(0.001)
      times = times + 1
    end)
    for i = 1, 3 do
      raise_signal "USR1"
      eventually(function() return times == i end)
    end
    handle:cancel()
  end)

  it("takes a name with and without SIG", function()
    local seen = {}
    local handles = {}
    for _, name in ipairs { "SIGHUP", "HUP", "SIGUSR2", "USR2" } do
      handles[name] = wire.on_signal(name, function() seen[#seen + 1] = name end)
    end
    raise_signal "HUP"
    eventually(function() return #seen == 2 end)
    raise_signal "USR2"
    eventually(function() return #seen == 4 end)
    table.sort(seen)
    assert.same({ "HUP", "SIGHUP", "SIGUSR2", "USR2" }, seen)
    for _, handle in pairs(handles) do handle:cancel() end
  end)

  it("runs every handler of a signal, and no more the one that was cancelled", function()
    local seen = { a = 0, b = 0 }
    local a = wire.on_signal("USR1", function() seen.a = seen.a + 1 end)
    local b = wire.on_signal("USR1", function() seen.b = seen.b + 1 end)
    raise_signal "USR1"
    eventually(function() return seen.a == 1 and seen.b == 1 end)
    a:cancel()
    a:cancel()
    raise_signal "USR1"
    eventually(function() return seen.b == 2 end)
    wire.sleep(0)
    assert.equal(1, seen.a)
    b:cancel()
  end)

  it("hears signals of different names apart", function()
    local seen = ""
    local one = wire.on_signal("USR1", function() seen = seen .. "1" end)
    local two = wire.on_signal("USR2", function() seen = seen .. "2" end)
    raise_signal "USR2"
    eventually(function() return seen == "2" end)
    raise_signal "USR1"
    eventually(function() return seen == "21" end)
    one:cancel()
    two:cancel()
  end)

  it("whose function dies is reported, and hears the next signal", function()
    local times = 0
    local handle = wire.on_signal("USR1", function()
      times = times + 1
      if times == 1 then error "in the handler" end
    end)
    raise_signal "USR1"
    eventually(function() return times == 1 end)
    raise_signal "USR1"
    eventually(function() return times == 2 end)
    handle:cancel()
    local errors = support.take_errors()
    assert.equal(1, #errors)
    assert.matches("in the handler", errors[1].err)
  end)

  support.it_outside("does not keep wire.run going", function()
    local handle = wire.on_signal("USR1", print)
    wire.run()
    handle:cancel()
  end)

  it("with an unknown name, or one that cannot be caught, is misuse", function()
    for _, name in ipairs { "SIGNOPE", "nope", "", "SIG", "KILL", "SIGSTOP" } do
      support.raises("signal", wire.on_signal, name, print)
    end
    assert.is_false(pcall(wire.on_signal, 15, print))
    assert.is_false(pcall(wire.on_signal, "HUP"))
    assert.is_false(pcall(wire.on_signal, "HUP", 5))
  end)

  it("replaces the shutdown while it is there", function()
    local peer = start([[
      assert(wire.serve("127.0.0.1:0", { on_shutdown = function() print "down" end }, echo))
      local handle
      handle = wire.on_signal("TERM", function()
        handle:cancel() -- before the next signal can come
        print "mine"
      end)
      wire.after(0, ready)
      wire.run()
      print "returned"
    ]])
    peer:signal "TERM"
    assert.equal("mine", peer:line())
    peer:signal "TERM"
    check("down\nreturned\n", peer:output())
  end)

  it("can shut a server down in its own way, which lets run return", function()
    check("true\nreturned\n", outcome([[
      local server = assert(wire.serve("127.0.0.1:0", echo))
      wire.on_signal("HUP", function() print(server:shutdown(1)) end)
      wire.after(0, ready)
      wire.run()
      print "returned"
    ]], "HUP"))
  end)

  it("for SIGTERM leaves SIGINT its meaning", function()
    check("down\nreturned\n", outcome([[
      assert(wire.serve("127.0.0.1:0", { on_shutdown = function() print "down" end }, echo))
      wire.on_signal("TERM", print)
      wire.after(0, ready)
      wire.run()
      print "returned"
    ]], "INT"))
  end)

  it("for SIGINT is not ended by a second one", function()
    local peer = start([[
      local n = 0
      wire.on_signal("INT", function()
        n = n + 1
        print(n)
        if n == 3 then wire.stop() end
      end)
      wire.after(0, ready)
      wire.after(1000, print)
      wire.run()
    ]])
    for i = 1, 3 do
      peer:signal "INT"
      assert.equal(tostring(i), peer:line())
    end
    check("", peer:output())
  end)

  it("cancelled gives the signal its default action back", function()
    local output, status = outcome([[
      wire.on_signal("USR1", print):cancel()
      wire.after(0, ready)
      wire.after(1000, print)
      wire.run()
    ]], "USR1", doomed)
    assert.same({ "", 138 }, { output, status })
  end)
end)

describe("after wire.run", function()
  it("SIGTERM kills as before", function()
    local output, status = outcome([[
      wire.run(wire.sleep, 0.01)
      ready()
      while true do end
    ]], "TERM", doomed)
    assert.same({ "", 143 }, { output, status })
  end)

  it("SIGINT is the interpreter's again, which raises an error", function()
    local output, status = outcome([[
      wire.run(wire.sleep, 0.01)
      ready()
      while true do end
    ]], "INT")
    assert.matches("interrupted!", output)
    assert.equal(1, status)
  end)

  it("the process catches and ignores the same signals as before it", function()
    local peer = support.lua(PRELUDE .. [[
      local before = dispositions()
      wire.run(wire.sleep, 0.01)
      local after = dispositions()
      print(before == after or before .. " then " .. after)
    ]])
    check("true\n", peer:output())
  end)

  it("a signal that was ignored before is ignored again", function()
    local peer = support.lua [[
      if arg[1] then
        require "lunewire".run(function() end)
        os.execute "kill -s TERM $PPID"
        print "alive"
      else
        os.execute("trap '' TERM; exec lua5.4 " .. arg[0] .. " inner")
      end
    ]]
    check("alive\n", peer:output())
  end)

  it("a shutdown by a signal can be followed by another run", function()
    local peer = start([[
      assert(wire.serve("127.0.0.1:0", echo))
      wire.after(0, ready)
      wire.run()
      print(wire.run(function()
        wire.sleep(0.01)
        return "again"
      end))
    ]])
    peer:signal "TERM"
    check("again\n", peer:output())
  end)
end)
