-- Unix sockets: their files and names, and programs that speak over them.
-- What this is not: what every connection does (conn_spec runs over Unix sockets, too).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it, it_outside, fails = support.it, support.it_outside, support.fails

local function echo(conn)
  for line in conn:lines() do conn:send("> ", line, "\n") end
end

-- A path of our own that does not exist, removed when the block ends.
local function fresh_path()
  local path = os.tmpname()
  os.remove(path)
  return path, setmetatable({}, { __close = function() os.remove(path) end })
end

local function output(command)
  local pipe <close> = assert(io.popen(command))
  return pipe:read "a"
end

local function exists(path)
  local ok = os.rename(path, path)
  return ok == true
end

describe("a server on a Unix socket", function()
  it("serves, and tells both ends' names", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local names
    local server <close> = assert(wire.serve("unix:" .. path, function(conn)
      names = { conn:local_addr(), (conn:remote_addr()) }
      echo(conn)
    end))
    assert.same({ "unix:" .. path, { "unix:" .. path }, 0 },
      { server:addr(), server:addrs(), server:port() })
    local conn <close> = assert(wire.connect("unix:" .. path))
    conn:send "hello\n"
    assert.equal("> hello", conn:recv_line())
    assert.same({ "unix:" .. path }, { conn:remote_addr() })
    assert.same({ "unix" }, { conn:local_addr() })
    assert.same({ "unix:" .. path, "unix" }, names)
    assert.truthy(tostring(conn):find("unix:" .. path, 1, true))
  end)

  it("makes its file with the mode that it is given", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local server <close> = assert(wire.listen("unix:" .. path, { mode = 384 })) -- 0600
    assert.is_true(server:addr() ~= nil)
    assert.equal("600 socket\n", output("stat -c '%a %F' " .. path))
  end)

  it("removes its file when it is closed, and only its own", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local server = assert(wire.listen("unix:" .. path))
    assert.is_true(exists(path))
    server:close()
    assert.is_false(exists(path))
    server = assert(wire.listen("unix:" .. path))
    os.remove(path)
    assert(io.open(path, "w")):close() -- somebody else's
    server:close()
    assert.is_true(exists(path))
  end)

  it("takes over a file to which nobody listens any more", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local dead = support.doomed_lua(([[
      local wire = require "lunewire"
      assert(wire.listen "unix:%s")
      os.execute "kill -KILL $PPID"
    ]]):format(path))
    dead:output()
    assert.is_true(exists(path))
    local server <close> = assert(wire.serve("unix:" .. path, echo))
    local conn <close> = assert(wire.connect("unix:" .. path))
    conn:send "x\n"
    assert.equal("> x", conn:recv_line())
    assert.is_true(server:addr() ~= nil)
  end)

  it("is EADDRINUSE where somebody listens, and where a file of another kind is", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local server = assert(wire.listen("unix:" .. path))
    fails("EADDRINUSE", wire.listen("unix:" .. path))
    assert.is_true(exists(path))
    server:close()
    assert(io.open(path, "w")):close()
    local message = fails("EADDRINUSE", wire.listen("unix:" .. path))
    assert.equal("listen unix:" .. path .. ": address already in use", message)
    assert.is_true(exists(path))
  end)

  it("needs no file for an abstract name", function()
    local name = support.unix_name()
    local server <close> = assert(wire.serve(name, echo))
    local conn <close> = assert(wire.connect(name))
    conn:send "x\n"
    assert.equal("> x", conn:recv_line())
    fails("EADDRINUSE", wire.listen(name))
    server:close()
    fails("ECONNREFUSED", wire.connect(name))
  end)

  it("has clients wait while its backlog is full", function()
    local name = support.unix_name() .. " full"
    local server <close> = assert(wire.listen(name, { backlog = 1 }))
    local tasks = {}
    for i = 1, 20 do
      tasks[i] = wire.spawn(function()
        local conn <close> = assert(wire.connect(name, 10))
        return conn:recv_line()
      end)
    end
    for _ = 1, 20 do
      local conn <close> = assert(server:accept(10))
      conn:send "served\n"
    end
    for _, task in ipairs(tasks) do assert.same({ true, "served" }, { task:join() }) end
  end)

  it("is one of several addresses", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local server <close> = assert(wire.serve({ "127.0.0.1:0", "unix:" .. path }, echo))
    for _, address in ipairs(server:addrs()) do
      local conn <close> = assert(wire.connect(address))
      conn:send "x\n"
      assert.equal("> x", conn:recv_line())
    end
    server:close()
    assert.is_false(exists(path))
  end)
end)

describe("an address of a Unix socket", function()
  for title, address in pairs {
    ["without a path"] = "unix:",
    ["without an abstract name"] = "unix:@",
    ["with a path that is too long"] = "unix:/" .. ("x"):rep(200),
    ["with a NUL in it"] = "unix:/a\0b",
  } do
    it(title .. " is EINVAL", function()
      fails("EINVAL", wire.connect(address))
      fails("EINVAL", wire.listen(address))
    end)
  end

  it("where nothing is, is ENOENT", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local message = fails("ENOENT", wire.connect("unix:" .. path))
    assert.equal("connect unix:" .. path .. ": no such file or directory", message)
  end)

  it("is never what a table's host says", function()
    local name = ("@lunewire host %p"):format(fresh_path)
    local server <close> = assert(wire.listen("unix:" .. name))
    fails("EINVAL", wire.connect { host = "unix:" .. name, port = 1 })
    assert.is_true(server:addr() ~= nil)
  end)
end)

describe("over a Unix socket", function()
  it_outside("a straight script connects and asks", function()
    local name = support.unix_name() .. " straight"
    local server <close> = assert(wire.serve(name, echo))
    assert.equal("> hello", wire.request(name, "hello\n", { recv = "line" }))
    assert.is_true(server:addr() ~= nil)
  end)

  it("nc and socat are served", function()
    local path, remove <close> = fresh_path() -- luacheck: ignore remove
    local server <close> = assert(wire.serve("unix:" .. path, echo))
    local nc = support.peer("printf 'one\\n' | nc -N -U " .. path)
    assert.equal("> one\n", (nc:output()))
    local socat = support.peer("printf 'two\\n' | socat - UNIX-CONNECT:" .. path)
    assert.equal("> two\n", (socat:output()))
    assert.is_true(server:addr() ~= nil)
  end)

  it("socat serves us, with an abstract name as well", function()
    local name = ("lunewire-socat-%p"):format(fresh_path):gsub("%W", "-")
    local socat = support.peer(("socat ABSTRACT-LISTEN:%s EXEC:'tr a-z A-Z'"):format(name))
    local conn
    support.eventually(function()
      conn = wire.connect("unix:@" .. name)
      return conn ~= nil
    end)
    conn:send "hello\n"
    conn:close_write()
    assert.equal("HELLO\n", conn:read "a")
    conn:close()
    socat:output()
  end)
end)
