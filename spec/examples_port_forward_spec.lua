-- examples/port_forward.lua between real programs.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local DATE <const> = "%d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d"
local NOBODY <const> = "127.0.0.1:1" -- no system listens there
local PATIENCE <const> = 10 * support.slowness

-- -> the process, its address
local function start_forward(target, patience)
  local peer = support.lua("examples/port_forward.lua", "127.0.0.1:0", target, patience)
  local address, to = peer:line():match "^forwarding (127%.0%.0%.1:%d+) to (%S+)$"
  assert.are.equal(target, to)
  return peer, address
end

local function assert_ends(peer)
  peer:signal "TERM"
  assert.are.same({ "", 0 }, { peer:output() })
end

-- The next line of the log, without the time and the client.
local function logged(peer)
  local line = peer:line()
  return line:match("^" .. DATE .. " 127%.0%.0%.1:%d+: (.*)$") or line
end

local function connect(address)
  local conn = assert(wire.connect(address, PATIENCE))
  conn:set_timeout(PATIENCE)
  return conn
end

-- A target that sends everything back once the client has said that this is all.
local function serve_late_echo()
  return assert(wire.serve("127.0.0.1:0", function(conn) conn:send(conn:read "a" or "") end))
end

describe("examples/port_forward.lua", function()
  it("joins real nc with a program behind socat, and counts the bytes", function()
    local socat = support.peer(
      "exec socat -d -d TCP-LISTEN:0,bind=127.0.0.1 SYSTEM:'tr a-z A-Z' 2>&1 | sed -u -n "
      .. "'s/.*listening on AF=2 //p'")
    local peer, address = start_forward(socat:line())
    local nc = support.peer("printf 'hello there' | nc -N " .. address:gsub(":", " "), PATIENCE)
    assert.are.same({ "HELLO THERE", 0 }, { nc:output() })
    assert.are.equal("11 bytes there, 11 back", logged(peer))
    assert_ends(peer)
    socat:stop()
  end)

  it("passes on the end of one direction while the other one lives on", function()
    local target <close> = serve_late_echo()
    local peer, address = start_forward(target:addr())
    local conn <close> = connect(address)
    local data = ("0123456789"):rep(100000)
    local sending = wire.spawn(function()
      conn:send(data)
      conn:close_write()
    end)
    assert.is_true(conn:read "a" == data)
    sending:join()
    assert.are.equal("1000000 bytes there, 1000000 back", logged(peer))
    assert_ends(peer)
  end)

  it("serves many clients at once, each with its own answers", function()
    local target <close> = serve_late_echo()
    local peer, address = start_forward(target:addr())
    local tasks = {}
    for i = 1, 50 do
      tasks[i] = wire.spawn(function()
        local conn <close> = connect(address)
        conn:send("client ", i)
        conn:close_write()
        assert.are.equal("client " .. i, conn:read "a")
      end)
    end
    for _, task in ipairs(tasks) do assert(task:join()) end
    for _ = 1, 50 do assert.truthy(logged(peer):find "^%d bytes there, %d back$") end
    assert_ends(peer)
  end)

  it("hangs up when the target cannot be reached, and logs why", function()
    local peer, address = start_forward(NOBODY)
    for _ = 1, 2 do
      local conn <close> = connect(address)
      support.fails("EOF", conn:recv(1))
      assert.are.equal("connect " .. NOBODY .. ": connection refused", logged(peer))
    end
    assert_ends(peer)
  end)

  it("passes on a reset as a reset, and logs what went through before", function()
    local target <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      conn:send "some"
      conn:recv(4)
      conn:reset()
    end))
    local peer, address = start_forward(target:addr())
    local conn <close> = connect(address)
    assert.are.equal("some", conn:recv(4))
    conn:send "more"
    support.fails("ECONNRESET", conn:recv(1))
    local line = logged(peer)
    assert.truthy(line:find("connection reset", 1, true), line)
    assert.truthy(line:find(" after 4 bytes there, 4 back", 1, true), line)
    assert_ends(peer)
  end)

  it("takes no more clients after SIGTERM, but lets those end that it has", function()
    local target <close> = serve_late_echo()
    local peer, address = start_forward(target:addr())
    local conn <close> = connect(address)
    conn:send "before, "
    conn:flush()
    support.eventually(function() return target:conn_num() == 1 end)
    peer:signal "TERM"
    support.eventually(function()
      local another = wire.connect(address, PATIENCE)
      if another then another:close() end
      return not another
    end)
    conn:send "and after"
    conn:close_write()
    assert.are.equal("before, and after", conn:read "a")
    conn:close()
    local output, status = peer:output()
    assert.truthy(output:find("17 bytes there, 17 back", 1, true), output)
    assert.are.equal(0, status)
  end)

  it("ends after its patience, although somebody does not", function()
    local target <close> = serve_late_echo()
    local peer, address = start_forward(target:addr(), 0.3)
    local conn <close> = connect(address)
    conn:send "never more than this"
    conn:flush()
    support.eventually(function() return target:conn_num() == 1 end)
    local start = wire.now()
    peer:signal "TERM"
    support.fails("ECONNRESET", conn:recv(1))
    local output, status = peer:output()
    assert.truthy(wire.now() - start >= 0.3, "too early")
    assert.truthy(output:find("closed after 20 bytes there, 0 back", 1, true), output)
    assert.are.equal(0, status)
  end)

  it("explains itself without its two addresses", function()
    local output, status = support.lua("examples/port_forward.lua", "127.0.0.1:0"):output()
    assert.are.equal("usage: port_forward.lua listen_address target_address [patience]\n", output)
    assert.are.equal(2, status)
  end)
end)
