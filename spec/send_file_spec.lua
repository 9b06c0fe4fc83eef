-- conn:send_file: a file, or a part of it, as one write.
local bytes_of = require "spec.bytes"
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local it, it_outside = support.it, support.it_outside
local pattern, reader = bytes_of.pattern, bytes_of.reader

local PIECE <const> = 64 * 1024
local HIGH_WATER <const> = 256 * 1024
local MILLION <const> = 1000 * 1000

local function pid()
  local stat <close> = assert(io.open "/proc/self/stat")
  return stat:read "n"
end

-- A file with this content for the length of a test: local path <close> = temporary "text".
local Temporary = {
  __close = function(self) os.remove(self.path) end,
}

local function temporary(content)
  local self = setmetatable({ path = os.tmpname() }, Temporary)
  local file <close> = assert(io.open(self.path, "w"))
  assert(file:write(content))
  return self
end

-- How many descriptors of this process are open on the file.
local function descriptors(path)
  local count = "readlink /proc/%d/fd/* | grep -cxF %s"
  local list <close> = assert(io.popen(count:format(pid(), path)))
  return list:read "n"
end

-- Runs until its sender waits for room.
local function await_full(conn)
  tools.await(function() return conn:stats().unsent >= HIGH_WATER end)
end

for _, transport in ipairs(support.transports) do
  describe("conn:send_file over " .. transport.name, function()
    it("sends whole files of every size, byte for byte", function()
      for _, size in ipairs { 0, 1, PIECE - 1, PIECE, PIECE + 1, 300000, 5 * MILLION } do
        local a, b = transport.pair()
        local data = pattern(size)
        local file <close> = temporary(data)
        local receive = reader(b)
        assert.equal(size, a:send_file(file.path))
        assert.equal(size > 0 and 1 or 0, a:stats().messages_out)
        a:close_write()
        assert.is_true(tools.result(receive) == data, size)
        assert.equal(0, descriptors(file.path))
      end
    end)

    it("sends a part by offset and count", function()
      local a, b = transport.pair()
      local file <close> = temporary "0123456789"
      assert.equal(6, a:send_file(file.path, 4))
      assert.equal("456789", b:recv(6))
      assert.equal(3, a:send_file(file.path, 2, 3))
      assert.equal("234", b:recv(3))
      assert.equal(2, a:send_file(file.path, nil, 2.0))
      assert.equal("01", b:recv(2))
      assert.equal(10, a:send_file(file.path, 0, 10))
      assert.equal("0123456789", b:recv(10))
      assert.equal(0, a:send_file(file.path, 4, 0))
      assert.equal(0, a:send_file(file.path, 10))
      assert.equal(0, a:send_file(file.path, 100))
      assert.equal("", b:recv_now())
    end)

    it("of a file that is too short is EOF with the bytes sent", function()
      local a, b = transport.pair()
      local file <close> = temporary(pattern(100000))
      local message, sent = support.fails("EOF", a:send_file(file.path, 10, 1 << 40))
      assert.equal(("send_file %s: end of file"):format(file.path), message)
      assert.equal(99990, sent)
      assert.is_true(assert(b:recv(99990, 5)) == pattern(100000):sub(11))
      assert.equal(0, descriptors(file.path))
      assert(a:send "the connection is as it was")
    end)

    it("is one uninterrupted write: whoever sends meanwhile comes behind it", function()
      local a, b = transport.pair()
      local data = pattern(12 * MILLION)
      local file <close> = temporary(data)
      local task = tools.start(a.send_file, a, file.path)
      local behind = tools.spawn_all(3, function(i) assert(a:send("<", i, ">")) end)
      local late = wire.spawn(function()
        local _, _, code = a:try_send "not now"
        assert(a:send_file(file.path, 0, 5))
        a:close_write()
        return code
      end)
      await_full(a)
      local receive, most = reader(b), 0
      while task:status() ~= "done" do
        most = math.max(most, a:stats().unsent)
        wire.sleep(0)
      end
      assert.is_true(tools.result(receive) == data .. "<1><2><3>" .. data:sub(1, 5))
      assert.equal(#data, tools.result(task))
      assert.equal("EAGAIN", tools.result(late))
      tools.results(behind)
      assert.is_true(most <= HIGH_WATER + PIECE, most)
      assert.equal(5, a:stats().messages_out)
    end)

    it("that times out tells how much is sent, and the rest can follow", function()
      local a, b = transport.pair()
      local data = pattern(12 * MILLION)
      local file <close> = temporary(data)
      a:set_timeout(0.05)
      local message, sent = support.fails("ETIMEDOUT", a:send_file(file.path))
      assert.truthy(message:find "^send_file .*: timed out")
      assert.equal(0, descriptors(file.path))
      assert.is_true(sent >= HIGH_WATER and sent < #data, sent)
      a:set_timeout(nil)
      local receive = reader(b)
      assert.equal(#data - sent, a:send_file(file.path, sent))
      a:close_write()
      assert.is_true(tools.result(receive) == data)
    end)

    it("ends at a deadline that is set while it waits", function()
      local a, _ = transport.pair()
      local file <close> = temporary(pattern(12 * MILLION))
      local task = tools.start(a.send_file, a, file.path)
      await_full(a)
      a:set_send_deadline(wire.now() + 0.02)
      local _, sent = support.fails("ETIMEDOUT", select(2, task:join(5)))
      assert.is_true(sent >= HIGH_WATER)
      a:reset()
    end)

    it("closes its file when it is cancelled or anything ends the connection", function()
      local file <close> = temporary(pattern(12 * MILLION))
      local ends = {
        ECANCELED = function(_, _, task) task:cancel() end,
        ECLOSED = function(a) a:close() end,
        EPIPE = function(a) a:close_write() end,
        ECONNRESET = function(_, b) b:reset() end,
      }
      for code, finish in pairs(ends) do
        local a, b = transport.pair()
        local task = tools.start(a.send_file, a, file.path)
        await_full(a)
        assert.equal(1, descriptors(file.path))
        finish(a, b, task)
        local results = table.pack(task:join(5))
        if code == "ECANCELED" then table.insert(results, 1, true) end
        if results[4] ~= "EPIPE" then assert.equal(code, results[4]) end
        if code ~= "ECANCELED" then assert.is_true(results[5] >= HIGH_WATER) end
        assert.equal(0, descriptors(file.path), code)
        a:reset()
        b:reset()
      end
    end)

    it("on a closed connection fails, its file not left open", function()
      local a, _ = transport.pair()
      local file <close> = temporary "some"
      a:close()
      local message, sent = support.fails("ECLOSED", a:send_file(file.path))
      assert.truthy(message:find "^send_file ")
      assert.equal(0, sent)
      assert.equal(0, descriptors(file.path))
    end)

    it("reads an open file from where it is, which is then behind it", function()
      local a, b = transport.pair()
      local data = "first line\n" .. pattern(200000)
      local file <close> = temporary(data)
      local open <close> = assert(io.open(file.path))
      assert.equal("first line", open:read "l")
      local receive = reader(b)
      assert.equal(10, a:send_file(open, nil, 10))
      assert.equal(21, open:seek())
      assert.equal(#data - 21, a:send_file(open))
      assert.equal(#data, open:seek())
      assert.equal(0, a:send_file(open))
      assert.equal(5, a:send_file(open, 0, 5))
      assert.equal(" line", open:read(5))
      assert.equal(4, a:send_file(open, 6, 4))
      assert.equal(10, open:seek())
      a:close_write()
      assert.is_true(tools.result(receive) == data:sub(12) .. "firstline")
    end)

    it("keeps its place in an open file that others read meanwhile", function()
      local a, b = transport.pair()
      local c, d = transport.pair()
      local data = pattern(12 * MILLION)
      local file <close> = temporary(data)
      local open <close> = assert(io.open(file.path))
      local tasks = { tools.start(a.send_file, a, open), tools.start(c.send_file, c, open, 0) }
      await_full(a)
      await_full(c)
      open:seek("set", 7)
      local receive, receive2 = reader(b), reader(d)
      for i, conn in ipairs { a, c } do
        assert.equal(#data, tools.result(tasks[i]))
        conn:close_write()
      end
      assert.is_true(tools.result(receive) == data)
      assert.is_true(tools.result(receive2) == data)
    end)
  end)
end

describe("conn:send_file", function()
  it("says what is wrong with a file by its code, and stays open", function()
    local a, b = wire.pipe()
    local directory <close> = assert(io.open "/")
    local writeonly <close> = assert(io.open("/dev/null", "w"))
    local message, sent = support.fails("ENOENT", a:send_file "/nowhere/at/all")
    assert.equal("send_file /nowhere/at/all: no such file or directory", message)
    assert.equal(0, sent)
    assert.truthy(a:strerror():find "no such file")
    support.fails("ENOENT", a:send_file "")
    support.fails("EISDIR", a:send_file "/")
    support.fails("EISDIR", a:send_file(directory))
    support.fails("EBADF", a:send_file(writeonly))
    tools.put(a, "fine")
    assert.equal("fine", b:recv(4))
  end)

  it("sends what was written to an open file but not yet flushed", function()
    local a, b = wire.pipe()
    local open <close> = assert(io.tmpfile())
    open:write "in the buffer"
    assert.equal(13, a:send_file(open, 0))
    assert.equal("in the buffer", b:recv(13))
    open:write " and on"
    open:seek("set", 0)
    assert.equal("in the buffer and on", open:read "a")
  end)

  it("sends files without a size or positions up to their end", function()
    local a, b = wire.pipe()
    local receive = reader(b)
    local status <close> = assert(io.open "/proc/version")
    local text = status:read "a"
    assert.equal(#text, a:send_file "/proc/version")
    local program <close> = assert(io.popen "echo one; sleep 0.05; echo two")
    assert.equal(8, a:send_file(program))
    support.fails("ESPIPE", a:send_file(program, 0))
    assert.equal(100000, a:send_file("/dev/zero", nil, 100000))
    a:close_write()
    assert.is_true(tools.result(receive) == text .. "one\ntwo\n" .. ("\0"):rep(100000))
  end)

  it("never waits for the writer of a FIFO", function()
    local a, _ = wire.pipe()
    local name = os.tmpname()
    assert(os.execute(("rm %s && mkfifo %s"):format(name, name)))
    assert.equal(0, a:send_file(name))
    local writer <close> = assert(io.open(name, "r+"))
    support.fails("EAGAIN", a:send_file(name))
    assert(writer:write "now"):flush()
    local _, sent = support.fails("EAGAIN", a:send_file(name))
    assert.equal(3, sent)
    os.remove(name)
  end)

  it("sends what lies beyond 4 GiB", function()
    local a, b = wire.pipe()
    local file <close> = temporary ""
    local open <close> = assert(io.open(file.path, "r+"))
    local far = (5 << 30) + 3
    assert(open:seek("set", far))
    open:write "far away"
    open:flush()
    assert.equal(8, a:send_file(file.path, far))
    assert.equal(4, a:send_file(open, far + 4))
    assert.equal("far awayaway", b:recv(12))
    assert.equal(far + 8, open:seek())
  end)

  it("ends with EBADF when its open file is closed while it waits", function()
    local a, b = wire.pipe()
    local data = pattern(2 * MILLION)
    local file <close> = temporary(data)
    local open = assert(io.open(file.path))
    local task = tools.start(a.send_file, a, open)
    await_full(a)
    open:close()
    local receive = reader(b)
    local message, sent = support.fails("EBADF", select(2, task:join(5)))
    assert.equal("send_file file: bad file descriptor", message)
    a:close_write()
    assert.is_true(tools.result(receive) == data:sub(1, sent))
  end)

  it("lets others run while a peer takes all that comes", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local peer = support.peer(("socat -u TCP:%s - | wc -c"):format(server:addr()))
    local conn = assert(server:accept(5))
    local size, ticks = 64 << 20, 0
    local task = wire.spawn(conn.send_file, conn, "/dev/zero", nil, size)
    repeat
      wire.sleep(0)
      ticks = ticks + 1
    until task:status() == "done"
    assert.is_true(ticks >= 60, ticks)
    assert.equal(size, tools.result(task))
    conn:close()
    assert.equal(size, tonumber((peer:output())))
  end, 20)

  it("serves curl a file", function()
    local data = pattern(3 * MILLION)
    local file <close> = temporary(data)
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      repeat local line = conn:recv_line() until line == ""
      conn:send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ", #data, "\r\n\r\n")
      assert(conn:send_file(file.path))
    end))
    local curl = support.peer(("curl -sS http://%s/ | cmp - %s && echo same")
      :format(server:addr(), file.path))
    assert.equal("same\n", (curl:output()))
  end)

  it_outside("works outside any task", function()
    local a, b = wire.pipe()
    local data = pattern(2 * MILLION)
    local file <close> = temporary(data)
    local receive = reader(b)
    assert.equal(#data, a:send_file(file.path))
    a:close_write()
    wire.run(function() assert.is_true(tools.result(receive) == data) end)
  end)

  it("refuses what is no file and no count, and a closed file", function()
    local a, _ = wire.pipe()
    local function refuses(text, ...)
      local args = table.pack(...)
      support.raises(text, function()
        local _ = a:send_file(table.unpack(args, 1, args.n))
      end)
    end
    local closed = assert(io.tmpfile())
    closed:close()
    refuses("path or open file expected, got nil")
    refuses("path or open file expected, got number", 12)
    refuses("the file is closed; open it again", closed)
    refuses("zero byte in the path", "/etc/passwd\0.txt")
    refuses("cannot be negative", "/etc/passwd", -1)
    refuses("cannot be negative", "/etc/passwd", 0, -1)
    refuses("count of bytes expected, got string", "/etc/passwd", "0")
    refuses("count of bytes expected, got table", "/etc/passwd", 0, {})
    refuses("number has no integer representation", "/etc/passwd", 1.5)
    assert.equal(0, descriptors "/etc/passwd")
  end)
end)
