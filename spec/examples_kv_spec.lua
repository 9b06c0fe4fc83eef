-- examples/kv.lua, asked by the real redis-cli and redis-benchmark, and by bytes that no client of
-- good manners would send.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local PATIENCE <const> = 10 * support.slowness

-- A server that has to end well when its variable goes out of scope: {peer=, address=, port=}
local Kv = {}
Kv.__index = Kv

function Kv:__close(err)
  if err then return end -- the peer is stopped with the others
  self.peer:signal "TERM"
  assert.are.same({ "", 0 }, { self.peer:output() })
end

local function start_kv()
  local peer = support.lua("examples/kv.lua", "127.0.0.1:0")
  local port = peer:line():match "^kv server on 127%.0%.0%.1:(%d+), try it:$"
  assert.are.equal("  redis-cli -p " .. port .. " set greeting hello", peer:line())
  return setmetatable({ peer = peer, port = port, address = "127.0.0.1:" .. port }, Kv)
end

-- Words as a client packs them.
local function packed(...)
  local words = { ... }
  for i, word in ipairs(words) do words[i] = ("$%d\r\n%s\r\n"):format(#word, word) end
  return "*" .. #words .. "\r\n" .. table.concat(words)
end

-- All that the server answers until it ends the connection.
function Kv:answers(bytes)
  local conn <close> = assert(wire.connect(self.address, PATIENCE))
  conn:set_timeout(PATIENCE)
  conn:send(bytes)
  conn:close_write()
  return (assert(conn:read "a"))
end

-- The answer to what must not be gone on with: the server ends the connection by itself.
function Kv:refusal(bytes)
  local conn <close> = assert(wire.connect(self.address, PATIENCE))
  conn:set_timeout(PATIENCE)
  conn:send(bytes)
  return (assert(conn:read "a"))
end

describe("examples/kv.lua with redis-cli", function()
  -- Each line a command, as redis-cli reads it -> what it prints.
  local function cli(kv, commands)
    local command = ("printf %%s '%s' | redis-cli -p %s"):format(commands, kv.port)
    local output, status = support.peer(command):output()
    assert.are.equal(0, status)
    return output
  end

  it("keeps, counts and removes what it is told", function()
    local kv <close> = start_kv()
    local said = cli(kv, [[
ping
ping hello
echo "two words"
set greeting "hello\r\nworld"
get greeting
GET nothing
set n 41
incr n
incr other
mget n nothing other
exists n other nothing n
dbsize
del n other nothing
dbsize
flushall
dbsize
]])
    assert.are.equal("PONG\nhello\ntwo words\nOK\nhello\r\nworld\n\nOK\n42\n1\n42\n\n1\n3\n3\n2\n"
      .. "1\nOK\n0\n", said)
  end)

  it("says what is wrong, and goes on", function()
    local kv <close> = start_kv()
    local said = cli(kv, [[
fly me
get
set k
set k v EX
set k word
incr k
set k 9223372036854775807
incr k
set k 9223372036854775808
incr k
config set save 1
ping
]])
    assert.are.equal([[
ERR unknown command 'fly'

ERR wrong number of arguments for 'get' command

ERR wrong number of arguments for 'set' command

ERR wrong number of arguments for 'set' command

OK
ERR value is not an integer or out of range

OK
ERR increment or decrement would overflow

OK
ERR value is not an integer or out of range

ERR only CONFIG GET name is known

PONG
]], said)
  end)

  it("runs the command that it suggests", function()
    local kv <close> = start_kv()
    local peer = support.peer("redis-cli -p " .. kv.port .. " set greeting hello")
    local output, status = peer:output()
    assert.are.same({ "OK\n", 0 }, { output, status })
  end)
end)

describe("examples/kv.lua with redis-benchmark", function()
  it("answers pipelined commands of fifty clients without an error", function()
    local kv <close> = start_kv()
    local peer = support.peer("redis-benchmark -t ping,set,get,incr -n 2000 -c 50 -P 16 -r 100 "
      .. "--csv -p " .. kv.port, PATIENCE)
    local output, status = peer:output()
    assert.are.equal(0, status)
    for _, name in ipairs { "PING_INLINE", "PING_MBULK", "SET", "GET", "INCR" } do
      assert.truthy(output:find('\n"' .. name .. '","', 1, true), output)
    end
    assert.falsy(output:lower():find "err", output)
    assert.falsy(output:lower():find "warning", output)
  end)

  it("answers values of a hundred thousand bytes", function()
    local kv <close> = start_kv()
    local peer = support.peer("redis-benchmark -t set,get -n 200 -c 10 -P 4 -d 100000 --csv -p "
      .. kv.port, PATIENCE)
    local output, status = peer:output()
    assert.are.equal(0, status)
    assert.falsy(output:lower():find "err", output)
    assert.are.equal(":1\r\n", kv:answers "DBSIZE\r\n")
  end)
end)

describe("examples/kv.lua", function()
  local LONG <const> = ("k"):rep(120)

  local SCRIPT <const> = packed "FLUSHALL" .. packed("SET", "a", "1\r\n2\0") .. packed("GET", "a")
    .. "\r\nPING\r\n" .. packed("MGET", "a", "b", "", "c") .. "set  b   two\n"
    .. packed("GET", "b") .. packed("SET", LONG, "") .. packed("GET", LONG) .. "*0\r\n"
    .. packed "DBSIZE"

  local ANSWERS <const> = "+OK\r\n+OK\r\n$5\r\n1\r\n2\0\r\n+PONG\r\n"
    .. "*4\r\n$5\r\n1\r\n2\0\r\n$-1\r\n$-1\r\n$-1\r\n+OK\r\n$3\r\ntwo\r\n+OK\r\n$0\r\n\r\n:3\r\n"

  it("answers many commands that come together in their order", function()
    local kv <close> = start_kv()
    assert.are.equal(ANSWERS, kv:answers(SCRIPT))
    assert.is_true(kv:answers(SCRIPT:rep(1000)) == ANSWERS:rep(1000))
  end)

  it("answers the same when the bytes come one by one", function()
    local kv <close> = start_kv()
    local clock <close> = assert(wire.connect(kv.address, PATIENCE))
    local conn <close> = assert(wire.connect(kv.address, PATIENCE))
    for i = 1, #SCRIPT do
      conn:send(SCRIPT:sub(i, i))
      conn:flush()
      assert.are.equal("+PONG\r\n", clock:send_recv("PING\r\n", 7, PATIENCE)) -- it was seen
    end
    assert.are.equal(ANSWERS, conn:recv(#ANSWERS, PATIENCE))
  end)

  it("answers the same wherever the bytes are cut in two", function()
    local kv <close> = start_kv()
    local clock <close> = assert(wire.connect(kv.address, PATIENCE))
    local conn <close> = assert(wire.connect(kv.address, PATIENCE))
    for cut = 1, #SCRIPT - 1 do
      conn:send(SCRIPT:sub(1, cut))
      conn:flush()
      assert.are.equal("+PONG\r\n", clock:send_recv("PING\r\n", 7, PATIENCE))
      conn:send(SCRIPT:sub(cut + 1))
      assert.are.equal(ANSWERS, conn:recv(#ANSWERS, PATIENCE), "cut behind byte " .. cut)
    end
  end)

  it("sends what was asked for before QUIT, and nothing after it", function()
    local kv <close> = start_kv()
    local said = kv:refusal(packed("SET", "k", "1") .. packed "quit" .. packed("SET", "l", "2"))
    assert.are.equal("+OK\r\n+OK\r\n", said)
    assert.are.equal("*2\r\n$1\r\n1\r\n$-1\r\n", kv:answers(packed("MGET", "k", "l")))
  end)

  it("keeps what it answers on one line", function()
    local kv <close> = start_kv()
    assert.are.equal("-ERR unknown command 'a  +OK'\r\n", kv:answers(packed "a\r\n+OK"))
    local long = kv:answers(packed(("x"):rep(10000)))
    assert.are.equal("-ERR unknown command '" .. ("x"):rep(64) .. "'\r\n", long)
  end)

  it("answers what came before bytes that are no command, then refuses and ends", function()
    local kv <close> = start_kv()
    for bytes, what in pairs {
      ["*x\r\n$1\r\n"] = "invalid multibulk length",
      ["*-1\r\n"] = "invalid multibulk length",
      ["*1000000000\r\n"] = "invalid multibulk length",
      ["*99999999999999999999999999"] = "invalid multibulk length",
      ["*1\r\n+PING\r\n"] = "invalid bulk length",
      ["*1\r\n$-4\r\nPING\r\n"] = "invalid bulk length",
      ["*1\r\n$99999999999999999999\r\n"] = "invalid bulk length",
      ["*1\r\n$4\r\nPINGPONG\r\n"] = "a bulk string has no end",
      ["*2\r\n$3\r\nGET\r\n$1\r\nkey\r\n"] = "a bulk string has no end",
      ["*1\r\n$5\r\nPING\r\n*1\r\n$4\r\nPING\r\n"] = "a bulk string has no end",
      [("x"):rep(5000)] = "too big inline request",
      [("x "):rep(5000) .. "\r\n"] = "too big inline request",
    } do
      local refusal = "-ERR Protocol error: " .. what .. "\r\n"
      assert.are.equal("+PONG\r\n" .. refusal, kv:refusal(packed "PING" .. bytes), bytes:sub(1, 50))
      assert.are.equal(refusal, kv:refusal(bytes), bytes:sub(1, 50))
    end
  end)

  -- In KiB, of all memory that the process ever had.
  local function peak(kv)
    local file <close> = assert(io.open(("/proc/%d/status"):format(kv.peer.process)))
    return tonumber(file:read("a"):match "VmPeak:%s*(%d+) kB")
  end

  it("refuses a length beyond its limit before it has memory for it", function()
    local kv <close> = start_kv()
    local before = peak(kv)
    local said = kv:refusal "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$999999999\r\nvalue"
    assert.are.equal("-ERR Protocol error: a command over its limit\r\n", said)
    assert.truthy(peak(kv) - before < 100000, "KiB more: " .. peak(kv) - before)
  end)

  it("waits for a command that has not come whole, and forgets it with its connection", function()
    local kv <close> = start_kv()
    for _, part in ipairs { "*", "*2", "*2\r", "*2\r\n", "*2\r\n$", "*2\r\n$3\r\nGE", "GET k" } do
      assert.are.equal("", kv:answers(part))
    end
  end)

  it("ends at SIGTERM while clients are connected", function()
    local kv <close> = start_kv()
    local conn = assert(wire.connect(kv.address, PATIENCE))
    assert.are.equal("+PONG\r\n", conn:send_recv("PING\r\n", 7, PATIENCE))
    kv.peer:signal "TERM"
    support.fails("EOF", conn:recv(1, PATIENCE))
    conn:close()
    kv.peer.signal = function() end -- it has had its signal
  end)

  it("names the address that is in use already", function()
    local holder <close> = assert(wire.listen "127.0.0.1:0")
    local output, status = support.lua("examples/kv.lua", holder:addr()):output()
    assert.are.equal(1, status)
    assert.truthy(output:find("address already in use", 1, true), output)
  end)
end)
