-- wire.adopt: a socket that somebody else opened becomes a connection.
-- What this is not: what a connection does (conformance/).
--
-- Lua alone cannot open a socket, so most tests are scripts which get theirs from bash, which
-- connects descriptor 3, or from socat, which is an inetd.
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails, raises = support.it, support.fails, support.raises

local scripts = {}

local function script_file(text)
  local name = os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  assert(file:write('local wire = require "lunewire"\n', text))
  scripts[#scripts + 1] = name
  return name
end

local function environment()
  return ("LUA_PATH='%s' LUA_CPATH='%s'"):format(package.path, package.cpath)
end

-- How the system sees a descriptor: its flags say whether it blocks and survives exec.
local FLAGS = [[
  local function flags(fd)
    local file <close> = assert(io.open("/proc/self/fdinfo/" .. fd))
    local n = tonumber(file:read("a"):match "flags:%s*(%d+)", 8)
    return n & tonumber("4000", 8) ~= 0 and "nonblocking" or "blocking",
      n & tonumber("2000000", 8) ~= 0 and "cloexec" or "inherited"
  end
]]

-- Runs the script with descriptor 3 connected to us -> its peer, our end.
local function with_descriptor(text)
  local server <close> = assert(wire.listen "127.0.0.1:0")
  local peer = support.peer(("%s bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; exec lua5.4 %s'"):format(
    environment(), server:port(), script_file(text)))
  return peer, (assert(server:accept(10)))
end

-- Prints everything that the script printed if it failed.
local function check_output(peer, expected)
  local output, status = peer:output()
  assert.equal(expected, output)
  assert.equal(0, status)
end

-- The descriptors of this process; listed with none open for it.
local function descriptors()
  local stat <close> = assert(io.open "/proc/self/stat")
  local pid = stat:read "n"
  stat:close()
  local name = os.tmpname()
  os.execute(("ls /proc/%d/fd > %s"):format(pid, name))
  local set = {}
  for fd in io.lines(name) do set[tonumber(fd)] = true end
  os.remove(name)
  return set
end

local function remove_scripts()
  for _, name in ipairs(scripts) do os.remove(name) end
  scripts = {}
end

describe("wire.adopt", function()
  after_each(remove_scripts)

  it("makes a connection of a TCP socket, which knows its addresses", function()
    local peer, conn = with_descriptor [[
      local conn = assert(wire.adopt(3))
      print(conn:local_addr(), conn:socket())
      for line in conn:lines() do conn:send("> ", line, "\n") end
      conn:send "bye"
      assert(conn:close())
    ]]
    assert.equal((conn:remote_addr()) .. "\t3", (peer:line():gsub("\t.*\t", "\t")))
    conn:send "one\ntwo\n"
    assert.equal("> one", conn:recv_line(10))
    assert.equal("> two", conn:recv_line(10))
    conn:close_write()
    assert.equal("bye", conn:read "a")
    check_output(peer, "")
  end)

  it("makes the descriptor one that neither blocks nor survives exec", function()
    local peer, conn = with_descriptor(FLAGS .. [[
      print(flags(3))
      local conn = assert(wire.adopt(3))
      print(flags(3))
      conn:reset()
      print(io.open "/proc/self/fdinfo/3" == nil)
    ]])
    check_output(peer, "blocking\tinherited\nnonblocking\tcloexec\ntrue\n")
    fails("ECONNRESET", conn:recv(1))
  end)

  it("trap: a call that waits on it does not stop the loop", function()
    local peer, conn = with_descriptor [[
      local conn = assert(wire.adopt(3))
      local ticks = 0
      local timer = wire.every(0.01, function()
        ticks = ticks + 1
        if ticks == 3 then conn:send "go" end
      end)
      print(conn:recv_line())
      timer:cancel()
      print(ticks >= 3)
    ]]
    assert.equal("go", conn:recv(2, 10))
    conn:send "on\n"
    check_output(peer, "on\ntrue\n")
  end)

  it("serves under an inetd, standard input being the socket", function()
    local script = script_file [[
      local conn <close> = assert(wire.adopt(0))
      for line in conn:lines() do conn:send(line:upper(), "\n") end
    ]]
    local inetd = support.peer(environment() .. " socat -d -d TCP-LISTEN:0,bind=127.0.0.1,fork "
      .. "SYSTEM:'lua5.4 " .. script .. "; echo over >&2',nofork")
    local port
    repeat
      port = assert(inetd:line()):match "listening on .*:(%d+)$"
    until port
    local clients = {}
    for i = 1, 3 do
      clients[i] = assert(wire.connect("127.0.0.1:" .. port))
      clients[i]:send("client ", i, "\n")
    end
    for i = 1, 3 do assert.equal("CLIENT " .. i, clients[i]:recv_line(10)) end
    for i = 1, 3 do
      clients[i]:close_write()
      fails("EOF", clients[i]:recv(1, 10))
    end
    local over = 0 -- none is to be killed on its way out
    repeat
      if assert(inetd:line()) == "over" then over = over + 1 end
    until over == 3
    inetd:stop()
  end)

  it("makes a connection of one end of a socketpair", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local script = script_file [[
      local conn = assert(wire.adopt(0))
      print(conn:local_addr())
      print(conn:remote_addr())
      print(conn)
      print(select(3, conn:option "nodelay"))
      print((conn:option "keepalive"))
      print((select(2, conn:recv(5, 0.01))))
      io.stdout:flush()
      conn:send(("x"):rep(1000000))
      conn:close()
    ]]
    local peer = support.peer(("%s socat TCP:127.0.0.1:%d EXEC:'lua5.4 %s'"):format(environment(),
      server:port(), script))
    local conn = assert(server:accept(10))
    for _, expected in ipairs { "unix", "unix", "Conn (unix -> unix, open)", "ENOTSUP", "true",
      "recv unix: timed out" } do
      assert.equal(expected, conn:recv_line(10))
    end
    assert.equal(1000000, #conn:read "a")
    check_output(peer, "")
  end)

  it("takes the options of a connection", function()
    local peer, conn = with_descriptor [[
      local conn = assert(wire.adopt(3, { timeout = 0.05, framing = wire.framing.fixed(3),
        limits = { line = 4 }, nodelay = false, keepalive = { idle = 77 } }))
      print(conn:recv_frame(10))
      print(select(3, conn:recv(1)))
      print(conn:option "nodelay", select(2, conn:option "keepalive").idle)
      conn:send "next"
      print(select(3, conn:recv_line(10)))
    ]]
    conn:send "abc"
    assert.equal("next", conn:recv(4, 10))
    conn:send "a long line"
    check_output(peer, "abc\nETIMEDOUT\nfalse\t77\nEMSGSIZE\n")
  end)

  it("takes an idle timeout, and a number as the timeout of each call", function()
    local peer, ours = with_descriptor [[
      local conn = assert(wire.adopt(3, { idle_timeout = 0.05, keepalive = false }))
      print(select(3, conn:recv(1, 10)))
      print(conn:option "keepalive")
      conn:close()
    ]]
    check_output(peer, "ETIMEDOUT\nfalse\n")
    fails("EOF", ours:recv(1))
    peer, ours = with_descriptor [[print(select(3, wire.adopt(3, 0.05):recv(1)))]]
    check_output(peer, "ETIMEDOUT\n")
    fails("EOF", ours:recv(1))
  end)

  it("raises for options and descriptors that cannot be, and takes nothing over", function()
    local a, b = support.pair()
    local fd = a:socket()
    raises("'timout' %(did you mean 'timeout'%?%)", wire.adopt, fd, { timout = 1 })
    raises("'backlog'", wire.adopt, fd, { backlog = 1 })
    raises("'idel' %(did you mean 'idle'%?%)", wire.adopt, fd, { keepalive = { idel = 1 } })
    raises("not a framing", wire.adopt, fd, { framing = 1 })
    raises("number expected", wire.adopt)
    raises("number expected", wire.adopt, io.stdin)
    raises("integer", wire.adopt, 1.5)
    tools.put(a, "x")
    assert.equal("x", b:recv(1))
  end)

  it("raises in a finalizer", function()
    local err
    setmetatable({}, { __gc = function() err = select(2, pcall(wire.adopt, 0)) end })
    collectgarbage()
    assert.is_truthy(err:find "finalizer")
  end)
end)

describe("what wire.adopt cannot take", function()
  after_each(remove_scripts)

  it("is no descriptor: EBADF, and the message says which", function()
    local message = fails("EBADF", wire.adopt(-1))
    assert.equal("adopt descriptor -1: bad file descriptor", message)
    fails("EBADF", wire.adopt(1 << 40))
    fails("EBADF", wire.adopt(19999))
    local a <close> = support.pair()
    local fd = a:socket()
    a:close()
    tools.await(function() return select(3, wire.adopt(fd)) == "EBADF" end)
  end)

  it("is a file, a datagram socket: it stays open and as it was", function()
    local peer = support.peer(environment()
      .. " bash -c 'exec 3</dev/null 4<>/dev/udp/127.0.0.1/9; exec lua5.4 "
      .. script_file(FLAGS .. [[
      print(wire.adopt(3))
      print(flags(3))
      print(wire.adopt(4))
      print(flags(4))
    ]]) .. "'")
    check_output(peer, table.concat({
      "nil\tadopt descriptor 3: socket operation on non-socket\tENOTSOCK",
      "blocking\tinherited",
      "nil\tadopt descriptor 4: not a stream socket\tEPROTOTYPE",
      "blocking\tinherited",
      "" }, "\n"))
  end)

  it("is a socket that listens: ENOTCONN, and it goes on listening", function()
    local before = descriptors()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local found = false
    for fd in pairs(descriptors()) do
      if not before[fd] then
        local conn, _, code = wire.adopt(fd)
        assert.is_nil(conn)
        found = found or code == "ENOTCONN"
      end
    end
    assert.is_true(found)
    local client = assert(wire.connect(server:addr()))
    assert(server:accept(5)):send "hello"
    assert.equal("hello", client:recv(5))
  end)

  it("trap: is a connection's already: EEXIST, and the connection goes on", function()
    local a, b = support.pair()
    local message = fails("EEXIST", wire.adopt(a:socket()))
    assert.is_truthy(message:find "a connection has it already$")
    fails("EEXIST", wire.adopt(b:socket()))
    tools.put(a, "x")
    assert.equal("x", b:recv(1))
  end)

  it("trap: is a connection's that the loop does not look at, its peer being ahead", function()
    local a, b = support.pair { limits = { all = math.huge } }
    local sent = tools.fill(a)
    fails("EEXIST", wire.adopt(b:socket()))
    local reader = wire.spawn(b.recv, b, sent)
    assert.equal(sent, #tools.result(reader))
  end)

  it("is a connection's that is closing", function()
    local a, b = support.pair()
    local fd = a:socket()
    tools.fill(a)
    a:close()
    fails("EEXIST", wire.adopt(fd))
    b:reset()
    a:reset()
  end)
end)
