-- Readiness and the short ways of receiving and sending, as far as a script can tell: nothing is
-- waited for in vain, nothing keeps the process busy, and no call is overtaken.
-- What this is not: readiness as the core sees it (core/test_poller.c).
local support = require "spec.support"
local wire = require "lunewire"

local it, it_outside, fails, raises = support.it, support.it_outside, support.fails, support.raises

-- Runs a Python program that has `s`, a socket connected to us -> its peer object, our end.
local function with_python(family, program)
  local at = family == "AF_UNIX" and support.unix_name() or "127.0.0.1:0"
  local server <close> = assert(wire.listen(at))
  local target = family == "AF_UNIX" and ("'\\0' + '%s'"):format(at:sub(7))
    or ("('127.0.0.1', %d)"):format(server:port())
  local peer = support.peer(([[python3 -c "
import array, os, socket, struct, sys
s = socket.socket(socket.%s)
s.connect(%s)
%s"]]):format(family, target, program))
  return peer, (assert(server:accept(10 * support.slowness)))
end

-- The process sleeps while nothing happens.
local function sleeps(seconds)
  local before = os.clock()
  wire.sleep(seconds)
  local used = os.clock() - before
  assert.is_true(used < seconds / 4, ("%.3f s of %.3f s were spent busily"):format(used, seconds))
end

describe("A short read", function()
  it("at urgent data is followed by what is behind it", function()
    local peer, conn = with_python("AF_INET", [[
for i in range(50):
  s.send(b'ab')
  s.send(b'!', socket.MSG_OOB)
  s.send(b'cd')
s.shutdown(socket.SHUT_WR)
print(s.recv(1))]])
    -- only the last byte that was marked as urgent is kept back, if nobody had read so far
    assert.equal(("abcd"):rep(50), (conn:read("a"):gsub("!", "")))
    conn:close()
    assert.equal("b''\n", (peer:output()))
  end)

  it("at sent descriptors is followed by what is behind them", function()
    local peer, conn = with_python("AF_UNIX", [[
for i in range(50):
  s.send(b'a')
  s.sendmsg([b'b'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 1]))])
  s.send(b'cd')
s.shutdown(socket.SHUT_WR)
print(s.recv(1))]])
    assert.equal(("abcd"):rep(50), conn:read "a")
    conn:close()
    assert.equal("b''\n", (peer:output()))
  end)

  it("is followed by the peer's end, and by its reset", function()
    local peer, conn = with_python("AF_INET", "s.send(b'last')")
    assert.equal("last", conn:recv(4))
    fails("EOF", conn:recv(1))
    peer:output()
    conn:close()
    peer, conn = with_python("AF_INET", [[
s.send(b'last')
s.recv(1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.close()]])
    assert.equal("last", conn:recv(4))
    conn:send "x"
    fails("ECONNRESET", conn:recv(1))
    peer:output()
    conn:close()
  end)
end)

describe("The process sleeps", function()
  it("while input waits behind output that the peer does not take", function()
    local a, b = support.pair { limits = { high_water = 1 << 20 } }
    for _ = 1, 40 do
      if not a:try_send(("x"):rep(1 << 19)) then break end
    end
    fails("EAGAIN", a:try_send "more")
    b:send(("y"):rep(1 << 20))
    sleeps(0.2)
    assert.equal(1 << 20, #a:recv(1 << 20))
    sleeps(0.1)
    a:reset()
  end)

  it("when the peer reset a connection that nobody uses", function()
    local a, b = support.pair()
    b:reset()
    sleeps(0.2)
    fails("ECONNRESET", a:recv(1))
    sleeps(0.1)
  end)

  it("when input is more than is read ahead, and the peer's end is behind it", function()
    local a, b = support.pair()
    b:send(("z"):rep(200000))
    b:close_write()
    sleeps(0.2)
    assert.equal(200000, #a:recv(200000))
    fails("EOF", a:recv(1))
    sleeps(0.1)
    b:close()
    sleeps(0.1)
  end)

  it("while half of a connection is closed, on either side", function()
    local a, b = support.pair()
    a:close_write()
    fails("EOF", b:recv(1))
    sleeps(0.1)
    b:send "still"
    assert.equal("still", a:recv(5))
    b:close_write()
    fails("EOF", a:recv(1))
    sleeps(0.1)
  end)

  it_outside("even until a time past any life", function()
    local peer = support.peer(([[LUA_PATH="%s" LUA_CPATH="%s" timeout -s INT %d lua5.4 -e '
      local wire = require "lunewire"
      wire.spawn(wire.sleep, 1e12)
      local before = os.clock()
      print(pcall(wire.run))
      print(os.clock() - before < 0.3 and "slept" or "was busy")']]):format(package.path,
      package.cpath, support.slowness))
    assert.matches("\nslept\n$", (peer:output()))
  end)
end)

describe("A call that need not wait", function()
  it("does not overtake one that waits", function()
    local a, b = wire.pipe()
    local order = {}
    local function receive(name, n)
      return wire.spawn(function() table.insert(order, name .. assert(b:recv(n))) end)
    end
    local first = receive("first ", 4)
    wire.sleep(0)
    a:send "12"
    wire.sleep(0.01)
    assert.equal(2, b:buffered())
    local second = receive("second ", 2)
    wire.sleep(0.01)
    assert.same({}, order)
    a:send "3456"
    first:join()
    second:join()
    assert.same({ "first 1234", "second 56" }, order)
  end)

  it("does not overtake a sender that waits for room", function()
    local a, b = wire.pipe { limits = { high_water = 10 } }
    a:send(("x"):rep(65536 + 20))
    local waiting = wire.spawn(a.send_pkg, a, "1st")
    wire.sleep(0)
    assert.equal("waiting", waiting:status())
    local reader = wire.spawn(b.recv, b, 65536 + 20)
    local second = wire.spawn(a.send_pkg, a, "2nd")
    reader:join()
    waiting:join()
    second:join()
    assert.equal("1st", b:recv_pkg())
    assert.equal("2nd", b:recv_pkg())
  end)

  it("gives others their turn", function()
    local _, b = wire.pipe()
    b:unread(("line\n"):rep(10000))
    local others, most, since = 0, 0, 0
    local ticker = wire.spawn(function()
      while true do
        others, since = others + 1, 0
        wire.sleep(0)
      end
    end)
    for _ = 1, 10000 do
      assert.equal("line", b:recv_line())
      since = since + 1
      most = math.max(most, since)
    end
    ticker:cancel()
    assert.is_true(others >= 10000 // 256 and most <= 2 * 256, most)
  end)

  it("gives others their turn although it fails", function()
    local a <close> = wire.pipe()
    local others = 0
    local ticker = wire.spawn(function()
      while true do
        others = others + 1
        wire.sleep(0)
      end
    end)
    local huge = ("x"):rep(70000)
    for _ = 1, 5000 do fails("EMSGSIZE", a:send_pkg(huge)) end
    ticker:cancel()
    assert.is_true(others >= 5000 // 256, others)
  end)

  it("skips what is too long, in its turn", function()
    local _, b = wire.pipe()
    b:unread(("x"):rep(300000) .. "\nshort\n" .. ("y"):rep(20) .. "\nlast\n")
    assert.equal("short", b:recv_line { max = 10, skip = true })
    assert.equal("last", b:recv_line { max = 10, skip = true })
    assert.equal(0, b:buffered())
  end)

  it("fails for a message that is too long first, then for the lost place", function()
    local a, b = wire.pipe()
    a:send_pkg(("x"):rep(100))
    a:send_pkg "next"
    wire.sleep(0.01)
    fails("EMSGSIZE", b:recv_pkg { max = 10 })
    fails("EPROTO", b:recv_pkg())
    fails("EPROTO", b:recv_pkg { max = 1000 })
    assert.equal(2 + 100 + 2 + 4, b:buffered())
  end)

  it("receives what is there although its time is over, and empty messages", function()
    local a, b = wire.pipe()
    a:send_pkg ""
    a:send_pkg "x"
    assert.equal("", b:recv_pkg(0.5))
    assert.equal("x", b:recv_pkg(0))
    assert.equal("", b:recv(0))
    fails("ETIMEDOUT", b:recv_pkg(0))
    a:close()
    fails("EOF", b:recv_pkg())
    assert.equal("", b:recv(0))
  end)
end)

describe("What is no Conn", function()
  local recv
  before_each(function()
    local a, b = wire.pipe()
    recv = a.recv
    a:reset()
    b:reset()
  end)

  it("is refused: files, other objects and values", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local semaphore, channel, task = wire.semaphore(1), wire.channel(), wire.spawn(function() end)
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local timer = wire.after(100, function() end)
    local _, directory <close> = require("lfs").dir "." -- busted has it
    for _, other in ipairs { io.stdout, io.stderr, server, semaphore, channel, task, udp, timer,
      directory, wire.framing.line(), {}, "conn", 12, true, print, coroutine.running() } do
      raises("Conn expected", recv, other, 1)
    end
    raises("Conn expected", recv, nil, 1)
    raises("Conn expected", recv)
    timer:cancel()
    task:join()
  end)

  it("is refused: a Conn that the collector has finalized", function()
    local found
    do
      local a, b = wire.pipe()
      setmetatable({ b }, { __gc = function(t) found = t[1] end })
      a:reset()
    end
    for _ = 1, 3 do collectgarbage() end
    assert(found, "nothing was finalized")
    local ok, result = pcall(found.recv, found, 1)
    assert.is_true(not ok or result == nil)
  end)
end)
