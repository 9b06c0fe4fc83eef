-- Calls from places where one does not expect them: inside C functions and metamethods, inside
-- codecs and hooks; a loop inside the loop; objects that are over, and objects of somebody else.
-- What this is not: the usual places (wait_spec, channel_wait_spec), finalizers (finalizer_spec).
local assert = require "luassert"
local describe = require("busted").describe
local clients = require "spec.clients"
local support = require "spec.support"
local wire = require "lunewire"

local it, raises, eventually = support.it, support.raises, support.eventually

local function meta(members) return setmetatable({}, members) end
local function wait() wire.sleep(0.001) end

-- ---- a wait inside something -----------------------------------------------------------

-- What stands in the way, as the error names it; busted has names of its own for some.
local IN_THE_WAY = {
  [".*load.*"] = function() error(select(2, load(wait)), 0) end,
  ["for iterator"] = function() for _ in ipairs(meta { __index = wait }) do print "never" end end,
  ["table.concat"] = function() return table.concat(meta { __index = wait }, "", 1, 1) end,
  [".*unpack"] = function() return table.unpack(meta { __index = wait }, 1, 1) end,
  ["table.insert"] = function() table.insert(meta { __newindex = wait }, 1, 1) end,
  ["table.sort"] = function() table.sort { meta { __lt = wait }, meta { __lt = wait } } end,
  ["string.format"] = function() return ("%s"):format(meta { __tostring = wait }) end,
  ["string.gsub"] = function() return (("x"):gsub("x", meta { __index = wait })) end,
  ["print"] = function() print(meta { __tostring = wait }) end,
  ["require"] = function()
    table.insert(package.searchers, 2, wait)
    local _, err = pcall(require, "no.such.module")
    table.remove(package.searchers, 2)
    error(err, 0)
  end,
}

-- These Lua itself goes on with.
local SUSPENDED = {
  pairs = function() pairs(meta { __pairs = wait }) end,
  index = function() return meta({ __index = wait }).field end,
  newindex = function() meta({ __newindex = wait }).field = 1 end,
  length = function() return #meta { __len = wait } end,
  unary = function() return -meta { __unm = wait } end,
  close = function() local _ <close> = meta { __close = wait } end,
  closing_value = function() for _ in next, {}, nil, meta { __close = wait } do print() end end,
  iterator = function() for _ in meta { __call = wait } do print "never" end end,
  called = function() assert(wire.spawn(meta { __call = wait }):join()) end,
  resumed = function() assert(wire.co.resume(coroutine.create(wait))) end,
}

describe("a call that waits", function()
  for name, use in pairs(IN_THE_WAY) do
    it("inside " .. name .. " raises and names it; the task can wait as before", function()
      raises(("odd_places_spec.lua:%%d+: sleep: cannot wait inside '%s'"):format(name), use)
      wait()
    end)
  end

  it("inside metamethods of Lua code, iterators and closing values works", function()
    for name, use in pairs(SUSPENDED) do
      local task = wire.spawn(use)
      local ok, message = task:join(5)
      assert.is_true(ok, name .. ": " .. tostring(message))
    end
  end)

  it("inside a framing's decode and encode raises, loses nothing and ends no connection", function()
    local waits = true
    local codec = {
      decode = function(bytes)
        if waits then wait() end
        if #bytes < 5 then return nil, 5 end
        return bytes, #bytes
      end,
      encode = function(message)
        if waits then wait() end
        return message
      end,
    }
    local a, b = wire.pipe { framing = codec }
    raises("sleep: cannot wait", a.send_frame, a, "never sent")
    b:send "bytes"
    raises("sleep: cannot wait", a.recv_frame, a)
    waits = false
    assert.equal("bytes", a:recv_frame(5))
    assert(a:send_frame "sent")
    assert.equal("sent", b:recv(4, 5))
    a:close()
    b:close()
  end)

  it("inside on_signal, a timer and on_error works: they are tasks", function()
    local done = 0
    local function step()
      wait()
      done = done + 1
    end
    local handle = wire.on_signal("USR1", step)
    os.execute "kill -s USR1 $PPID"
    wire.after(0, step)
    wire.on_error(step)
    wire.spawn(error, "for on_error")
    eventually(function() return done == 3 end)
    handle:cancel()
  end)
end)

describe("wire.run inside the loop raises", function()
  local function check(where, enter)
    it(where .. ", and harms nothing", function()
      local message
      enter(function() message = message or select(2, pcall(wire.run, wait)) end)
      eventually(function() return message end)
      assert.matches("run: the loop is running already", message)
    end)
  end

  check("in a timer", function(nested) wire.after(0, nested) end)
  check("in on_error", function(nested)
    wire.on_error(nested)
    wire.spawn(error, "x")
  end)
  check("in a codec", function(nested)
    local a <close> = wire.pipe { framing = { decode = print, encode = nested } }
    pcall(a.send_frame, a, "x")
  end)
  check("in on_accept", function(nested)
    local server <close> = assert(wire.serve("127.0.0.1:0", { on_accept = nested }, type))
    local client <close> = assert(wire.connect(server:addr(), 5))
    client:recv(1, 5) -- on_accept has returned: it is served, and over
  end)
end)

-- ---- a server that is ended by its own functions -----------------------------------------

describe("a server that is ended", function()
  local ENDS = {
    close = function(server) server:close() end,
    shutdown = function(server) server:shutdown(1) end,
    ["shutdown in a task"] = function(server) wire.spawn(server.shutdown, server, 1) end,
    ["close of each connection"] = function(server)
      server:close()
      for _, conn in ipairs(server:conns()) do conn:close() end
    end,
    ["reset of each connection while they are listed"] = function(server)
      local list = server:conns()
      for i, conn in ipairs(list) do
        conn:reset()
        list[i] = nil
      end
      server:close()
    end,
  }
  local PLACES = { "on_accept", "on_close", "on_shutdown", "on_exit", "on_error", "handler" }

  -- What place does ends the server, whatever brings the place about.
  local function end_in(place, how)
    local server, called = nil, 0
    local function act()
      called = called + 1
      return how(server)
    end
    local opts = {}
    for _, name in ipairs { "on_accept", "on_close", "on_shutdown" } do
      if place == name then opts[name] = act end
    end
    server = assert(wire.serve("127.0.0.1:0", opts, function(conn)
      if place == "handler" then act() end
      if place == "on_error" then error "for on_error" end
      conn:recv_line()
    end))
    if place == "on_exit" then server:on_exit(act) end
    if place == "on_error" then server:on_error(act) end
    local list = {}
    for i = 1, 3 do list[i] = wire.connect(server:addr(), 5) end
    wire.sleep(0.005)
    for _, conn in pairs(list) do conn:close() end
    if place == "on_shutdown" or place == "on_exit" then server:shutdown(1) end
    eventually(function() return called > 0 end)
    server:close()
    assert.is_true(server:run())
  end

  for _, place in ipairs(PLACES) do
    it("in its own " .. place .. " comes to its end in order", function()
      for _, how in pairs(ENDS) do end_in(place, how) end
      for _, report in ipairs(support.take_errors()) do
        assert.matches("cannot wait here: the loop is running this", tostring(report.err))
      end
    end)
  end
end)

-- ---- all classes -------------------------------------------------------------------------

-- One object of each class that the core makes.
local function objects()
  local conn, other = wire.pipe { framing = wire.framing.netstring() }
  local timer = wire.after(0, print)
  timer:cancel()
  local handle = wire.on_signal("USR2", print)
  handle:cancel()
  local server = assert(wire.listen "127.0.0.1:0")
  local udp = assert(wire.udp "127.0.0.1:0")
  return {
    Conn = conn, Server = server, Udp = udp, Timer = timer, Signal = handle,
    Task = wire.spawn(function() end), Channel = wire.channel(), Semaphore = wire.mutex(),
    Context = assert(wire.tls_context {}),
  }, function()
    for _, object in ipairs { conn, other, server, udp } do object:close() end
  end
end

local function methods_of(object)
  local list = {}
  local index = debug.getmetatable(object).__index
  for name, method in pairs(type(index) == "table" and index or {}) do
    if type(method) == "function" and not name:find "^__" then list[name] = method end
  end
  return list
end

-- ---- objects that are over ---------------------------------------------------------------

-- What each method gives there, with arguments that suit it.  The first of a row: a code; "first: "
-- and the first result as text, where it succeeds; "last: " and the code that an iterator tells, if
-- any; "raises: " and the error.
local OVER <const> = {
  Conn = {
    after = { "first: Timer %(over.*", 0, print }, every = { "first: Timer %(over.*", 1, print },
    buffered = { "first: 0" }, closed = { "first: true" }, socket = { "first: %-1" },
    close = { "first: true" }, reset = { "first: true" }, close_write = { "ECLOSED" },
    chunks = { "last: ECLOSED" }, frames = { "last: ECLOSED" },
    lines = { "last: ECLOSED" }, pkgs = { "last: ECLOSED" },
    peek = { "ECLOSED", 1 }, read = { "ECLOSED", "a" }, recv = { "ECLOSED", 1 },
    recv_frame = { "ECLOSED" }, recv_line = { "ECLOSED" }, recv_now = { "ECLOSED" },
    recv_pkg = { "ECLOSED" }, recv_some = { "ECLOSED", 1 }, recv_until = { "ECLOSED", "x" },
    unread = { "ECLOSED", "x" },
    flush = { "ECLOSED" }, send = { "ECLOSED", "x" }, send_file = { "ECLOSED", "/dev/null" },
    send_frame = { "ECLOSED", "x" }, send_pkg = { "ECLOSED", "x" },
    send_recv = { "ECLOSED", "x", 1 }, send_recv_pkg = { "ECLOSED", "x" },
    try_send = { "ECLOSED", "x" }, write = { "ECLOSED", "x" },
    start_tls = { "ECLOSED", { role = "client", insecure = true } }, tls_info = { "first: nil" },
    last_error = { "first: .* pipe: closed" }, strerror = { "first: .* pipe: closed" },
    local_addr = { "first: pipe" }, remote_addr = { "first: pipe" },
    option = { "ECLOSED", "nodelay" }, stats = { "first: table.*" },
    set_deadline = { "first: nil", 0 }, set_framing = { "first: Conn .*", wire.framing.line() },
    set_idle_timeout = { "first: nil", 1 }, set_recv_buffer_wait = { "first: nil", 1 },
    set_recv_deadline = { "first: nil", 0 }, set_send_deadline = { "first: nil", 0 },
    set_timeout = { "first: nil", 1 },
  },
  Server = {
    accept = { "ECLOSED" }, addr = { "first: 127%.0%.0%.1:%d+" }, addrs = { "first: table.*" },
    close = { "first: true" }, closing = { "first: true" }, conn_num = { "first: 0" },
    conns = { "first: table.*" }, handle = { "raises: .* has no handler.*" }, -- of the Conn
    on_error = { "first: nil", type }, on_exit = { "first: nil", type },
    port = { "first: %d+" }, run = { "first: true" }, shutdown = { "first: true", 1 },
  },
  Udp = {
    close = { "first: true" }, closed = { "first: true" }, connect = { "ECLOSED", "127.0.0.1:1" },
    join = { "ECLOSED", "239.1.1.1" }, leave = { "ECLOSED", "239.1.1.1" },
    local_addr = { "first: 127%.0%.0%.1:%d+" }, remote_addr = { "ENOTCONN" },
    option = { "ECLOSED", "broadcast" }, recv = { "ECLOSED" }, recv_from = { "ECLOSED" },
    send = { "ECLOSED", "x" }, send_to = { "ECLOSED", "x", "127.0.0.1:1" },
    set_deadline = { "first: nil", 0 }, set_recv_deadline = { "first: nil", 0 },
    set_send_deadline = { "first: nil", 0 }, set_timeout = { "first: nil", 1 },
    socket = { "first: %-1" }, stats = { "first: table.*" },
  },
  Channel = {
    close = { "first: nil" }, recv = { "ECLOSED" }, send = { "ECLOSED", "x" },
    values = { "last: " },
  },
  Task = { cancel = { "first: false" }, join = { "first: true" }, status = { "first: done" } },
  Timer = { cancel = { "first: false" } }, Signal = { cancel = { "first: false" } },
}

-- What came of one call, in the words of that table.
local function told(object, form, results)
  if not results[1] then return "raises: " .. tostring(results[2]) end
  if form ~= "last" then
    local failed = results[2] == nil and results[4] ~= nil
    return failed and results[4] or "first: " .. tostring(results[2])
  end
  local value = results[2](results[3])
  if value ~= nil then return "another: " .. tostring(value) end
  return "last: " .. (object.last_error and select(2, object:last_error()) or "")
end

local function check_over(class, name, object)
  local row = assert(OVER[class][name], class .. "." .. name .. " has no row")
  local task = wire.spawn(function()
    local results = table.pack(pcall(methods_of(object)[name], object, table.unpack(row, 2)))
    return told(object, row[1]:match "^%a+", results)
  end)
  local _, text = task:join(5 * support.slowness)
  local is_told = text and text:find("^" .. row[1] .. "$")
  assert.is_truthy(is_told, ("%s.%s: %s, not %s"):format(class, name, text, row[1]))
end

describe("an object that is over", function()
  it("says so in each of its methods, or answers; none of them waits", function()
    local all, close = objects()
    close()
    all.Channel:close()
    all.Semaphore, all.Context = nil, nil -- these are never over
    OVER.Server.handle[2] = all.Conn
    for class, object in pairs(all) do
      local methods, names = methods_of(object), {}
      for name in pairs(methods) do names[#names + 1] = name end
      table.sort(names) -- last_error tells of calls before it
      for _, name in ipairs(names) do check_over(class, name, object) end
      for name in pairs(OVER[class]) do assert.is_truthy(methods[name], name) end
    end
    OVER.Server.handle[2] = nil
  end)
end)

-- ---- whose method is it? -----------------------------------------------------------------

-- A method as a program calls it, so that the error can name it.
local function caller(name)
  return assert(load(("local o, wrong = ... o.%s(wrong, print)"):format(name), "=user"))
end

describe("a method", function()
  it("called with a wrong self raises, names itself and what it wants, and points at the caller",
    function()
      local all, close = objects()
      local checked = 0
      for class, object in pairs(all) do
        local wrong = { true, 1, "text", {}, io.stdout, print, coroutine.create(print), false }
        for other, value in pairs(all) do
          if other ~= class then wrong[#wrong + 1] = value end
        end
        for name in pairs(methods_of(object)) do
          local call = caller(name)
          for _, value in ipairs(wrong) do
            local ok, err = pcall(call, object, value)
            local text = ("%s.%s(%s): %s"):format(class, name, value, err)
            assert.is_false(ok, text)
            assert.is_truthy(err:find("user:1:", 1, true), text)
            assert.is_truthy(err:find(name, 1, true) and err:find "expected", text)
            checked = checked + 1
          end
          local ok, err = pcall(call, object, nil)
          assert.is_true(not ok and err:find "expected" ~= nil, class .. "." .. name)
        end
      end
      assert.is_true(checked > 500, checked)
      close()
    end)

  it("of a connection whose metatable was taken away harms nobody at the end", function()
    local peer = support.lua [[
      local wire = require "lunewire"
      local a, b = wire.pipe()
      debug.setmetatable(a, nil)
      print(pcall(function() return a:recv(1) end))
      debug.setmetatable(1, { __index = wire })
      debug.setmetatable(nil, { __index = wire, __call = wire.now })
      print(b:send(1), pcall(b.recv, b, nil, nil))
    ]]
    local output, status = peer:output()
    assert.matches("^false\t.*attempt to index a userdata value", output)
    assert.equal(0, status, output)
  end)

  it("of a server serves on after all of it", function()
    local server <close> = assert(wire.serve("127.0.0.1:0", clients.echo))
    local client <close> = clients.connect(server)
    clients.check_echo(client, "as ever")
  end)
end)
