-- examples/upper.lua: real nc sends it lines, too many bytes and nothing at all.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local DATE <const> = "%d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d"
local PATIENCE <const> = 10 * support.slowness

-- -> the process, its address
local function start_upper(idle)
  local peer = support.lua("examples/upper.lua", "127.0.0.1:0", idle)
  return peer, (peer:line():match "^upper server on (127%.0%.0%.1:%d+)$")
end

local function run_nc(input, address)
  return support.peer(input .. " | nc " .. address:gsub(":", " "), PATIENCE):output()
end

local function connect(address)
  local conn = assert(wire.connect(address, PATIENCE))
  conn:set_timeout(PATIENCE)
  return conn
end

-- The next line of the log must say this of some peer -> the peer's address
local function assert_logged(peer, what, behind)
  local line = peer:line()
  local address = line:match("^" .. DATE .. " " .. what .. " (127%.0%.0%.1:%d+)" .. behind .. "$")
  assert.truthy(address, line)
  return address
end

local function assert_ends(peer)
  peer:signal "TERM"
  assert.are.same({ "upper server has ended\n", 0 }, { peer:output() })
end

describe("examples/upper.lua", function()
  it("answers each line of nc in capital letters, and logs its coming and going", function()
    local peer, address = start_upper()
    local output = run_nc("printf 'hello\\r\\n\\nlast'", address .. " -N")
    assert.are.equal("HELLO\n\nLAST\n", output)
    local from = assert_logged(peer, "accepted connection from", "")
    assert.are.equal(from, assert_logged(peer, "closed connection from", " EOF"))
    assert_ends(peer)
  end)

  it("takes any number of lines of 1,024 bytes", function()
    local peer, address = start_upper()
    local conn <close> = connect(address)
    local line = ("x"):rep(1024)
    conn:send((line .. "\n"):rep(100))
    for _ = 1, 100 do assert.are.equal(line:upper(), conn:recv_line()) end
    conn:close()
    assert_logged(peer, "accepted connection from", "")
    assert_logged(peer, "closed connection from", " EOF")
    assert_ends(peer)
  end)

  it("tells who sends more in a line, also far more, and hangs up", function()
    local peer, address = start_upper()
    for _, size in ipairs { 1025, 1000000 } do
      local said = run_nc("(echo first; head -c " .. size .. " /dev/zero)", address)
      assert.are.equal("FIRST\na line has at most 1024 bytes\n", said)
      assert_logged(peer, "accepted connection from", "")
      assert_logged(peer, "closed connection from", " EMSGSIZE")
    end
    assert_ends(peer)
  end)

  it("gives each line its time, and then no more", function()
    local idle = 0.4 * support.slowness
    local peer, address = start_upper(idle)
    local conn <close> = connect(address)
    local start = wire.now()
    for _ = 1, 3 do
      wire.sleep(idle / 2)
      assert.are.equal("HERE", conn:send_recv("here\n", 5):sub(1, 4))
    end
    conn:send "no line" -- and no sign of life
    assert.are.equal(("no line for %g s\n"):format(idle), conn:read "a")
    assert.truthy(wire.now() - start >= 2.4 * idle, "too early")
    conn:close()
    assert_logged(peer, "accepted connection from", "")
    assert_logged(peer, "closed connection from", " ETIMEDOUT")
    assert_ends(peer)
  end)

  it("outlives a peer that resets its connection", function()
    local peer, address = start_upper()
    local conn = connect(address)
    conn:send(("never read\n"):rep(50000))
    conn:flush()
    conn:reset()
    assert_logged(peer, "accepted connection from", "")
    assert_logged(peer, "closed connection from", " %u+")
    assert.are.equal("STILL HERE\n", run_nc("echo still here", address .. " -N"))
    assert_logged(peer, "accepted connection from", "")
    assert_logged(peer, "closed connection from", " EOF")
    assert_ends(peer)
  end)

  it("ends at SIGTERM: answers what has come, and says why it goes", function()
    local peer, address = start_upper()
    local conn <close> = connect(address)
    assert.are.equal("ONE\n", conn:send_recv("one\n", 4))
    assert_logged(peer, "accepted connection from", "")
    conn:send("two\nthree\n")
    conn:flush()
    peer:signal "TERM"
    assert.are.equal("TWO\nTHREE\nthe server is going down\n", conn:read "a")
    conn:close()
    assert_logged(peer, "closed connection from", " ECLOSED")
    assert.are.same({ "upper server has ended\n", 0 }, { peer:output() })
  end)
end)
