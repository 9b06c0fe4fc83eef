-- The one-shot request: connect, send, receive, close.
local support = require "spec.support"
local wire = require "lunewire"

local it, it_outside = support.it, support.it_outside

-- A server for one test -> it, and what its handler noted: each connection's end.
local function serve(handler, opts)
  local ends = {}
  local server = assert(wire.serve("127.0.0.1:0", opts or {}, function(conn)
    handler(conn)
    local code = select(3, conn:recv(1, 5))
    ends[#ends + 1] = code or "more bytes"
  end))
  return server, ends
end

-- Runs until the handler has seen the end of n connections: each was closed by the request.
local function await_ends(ends, n)
  local give_up = wire.now() + 5
  while #ends < n do
    assert(wire.now() < give_up, "the request left its connection open")
    wire.sleep(0.002)
  end
end

local function answer_line(conn) conn:send("> ", (conn:recv_line()), "\nrest") end

describe("wire.request", function()
  it("receives a line, a count, a package, a frame or all", function()
    local server <close>, ends = serve(answer_line)
    local at = server:addr()
    assert.equal("> one", wire.request(at, "one\n", { recv = "line" }))
    assert.equal("> t", wire.request(at, { "tw", { "o\n" } }, { recv = 3 }))
    await_ends(ends, 2)
    local echo <close> = serve(function(conn) conn:send_pkg("re: " .. conn:recv_pkg()) end)
    assert.equal("re: three", wire.request(echo:addr(), "three", { recv = "pkg" }))
    local framing = wire.framing.length { size = 2 }
    local framed <close> = serve(function(conn) conn:send_frame(conn:recv_frame() .. "!") end,
      { framing = framing })
    assert.equal("four!",
      wire.request(framed:addr(), "four", { recv = "frame", framing = framing }))
    local all <close> = serve(function(conn)
      conn:send(conn:recv_line(), ("x"):rep(300000))
      conn:close_write()
    end)
    assert.equal("five" .. ("x"):rep(300000), wire.request(all:addr(), "five\n", { recv = "all" }))
    assert.equal("six" .. ("x"):rep(300000), wire.request(all:addr(), "six\n"))
  end)

  it("sends packages of the header's size", function()
    local server <close> = serve(function(conn)
      conn:send_pkg(conn:recv_pkg { header = 4 } .. "!", { header = 4 })
    end)
    local data = ("d"):rep(70000)
    assert.equal(data .. "!", wire.request(server:addr(), data, { recv = "pkg", header = 4 }))
  end)

  it("with recv = 0 awaits nothing, and the peer gets every byte", function()
    local got
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      conn:send "a greeting that nobody reads"
      got = conn:read "a"
    end))
    local data = ("0123456789"):rep(300000)
    assert.equal("", wire.request(server:addr(), data, { recv = 0 }))
    local give_up = wire.now() + 8
    repeat wire.sleep(0.005) until got or wire.now() > give_up
    assert.is_true(got == data, got and #got)
  end)

  it("that only sends is whole though the process ends right behind it", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local script = [[
      local wire = require "lunewire"
      print(wire.request(..., ("x"):rep(2000000), { recv = 0 }))]]
    local peer = support.lua(script, server:addr())
    local conn <close> = assert(server:accept(10 * support.slowness))
    conn:send "unread"
    assert.equal(2000000, #assert(conn:read "a"))
    assert.equal("\n", (peer:output()))
  end)

  it("does not end our side before the answer", function()
    local early
    local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      conn:recv_line()
      early = select(3, conn:recv(1, 0.05))
      conn:send "answer"
    end))
    assert.equal("answer", wire.request(server:addr(), "question\n"))
    assert.equal("ETIMEDOUT", early)
  end)

  it("has one timeout over all, and closes then", function()
    local seen = {}
    local server <close>, ends = serve(function(conn)
      for i = 1, 1000 do -- slower than the timeout, though each byte comes soon
        seen[i] = conn:send "x"
        if conn:recv(1, 0.02) or not seen[i] or conn:last_error() == nil then break end
      end
    end)
    for _, opts in ipairs { { timeout = 0.2, recv = "line" }, { timeout = 0.2 }, 0.2 } do
      local start = wire.now()
      support.fails("ETIMEDOUT", wire.request(server:addr(), "", opts))
      assert.is_true(wire.now() - start >= 0.199)
      assert.is_true(wire.now() - start < 5)
    end
    await_ends(ends, 3)
  end, 20)

  it("closes when its task is cancelled", function()
    local server <close>, ends = serve(function(conn) conn:recv_line() end)
    local task = wire.spawn(wire.request, server:addr(), "question\n", { recv = "line" })
    repeat wire.sleep(0.002) until server:conn_num() == 1
    task:cancel()
    support.fails("ECANCELED", task:join(5))
    await_ends(ends, 1)
  end)

  it("hands over the failure of each step, and closes", function()
    local port = support.port()
    local nobody = "127.0.0.1:" .. port
    local text = support.fails("ECONNREFUSED", wire.request(nobody, "", { recv = "line" }))
    assert.equal("connect " .. nobody .. ": connection refused", text)
    local server <close>, ends = serve(function(conn)
      conn:recv_line()
      conn:send "short"
      conn:close_write()
    end)
    local at = server:addr()
    local _, partial = support.fails("EOF", wire.request(at, "\n", { recv = 10 }))
    assert.equal("short", partial)
    support.fails("EOF", wire.request(at, "\n", { recv = "line" }))
    support.fails("EMSGSIZE", wire.request(at, "\n", { recv = "line", max = 4 }))
    support.fails("EMSGSIZE", wire.request(at, "\n", { recv = 5, max = 4 }))
    support.fails("EMSGSIZE", wire.request(at, "\n", { max = 4 }))
    support.fails("EMSGSIZE", wire.request(at, "\n", { recv = "all", limits = { all = 4 } }))
    assert.equal("short", wire.request(at, "\n", { max = 5, limits = { all = 4 } }))
    await_ends(ends, 7)
    local resetting <close> = assert(wire.serve("127.0.0.1:0", function(conn)
      conn:recv_line()
      conn:reset()
    end))
    support.fails("ECONNRESET", wire.request(resetting:addr(), "\n", { recv = "line" }))
  end)

  it("names the caller's line for misuse, and leaves nothing open", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local at = server:addr()
    local function refuses(pattern, ...)
      local args = table.pack(...)
      support.raises("^spec/request_spec.lua:%d+: .*" .. pattern, function()
        local _ = wire.request(table.unpack(args, 1, args.n))
      end)
    end
    refuses("unknown option 'timout' %(did you mean 'timeout'%?%)", at, "", { timout = 1 })
    refuses("option 'recv' must be a count", at, "", { recv = "word" })
    refuses("option 'recv' must be a count", at, "", { recv = -1 })
    refuses("option 'recv' must be a count", at, "", { recv = false })
    refuses("option 'timeout' must be", at, "", { timeout = "1" })
    refuses("option 'limits' must be a table", at, "", { limits = 1, max = 1 })
    refuses("table of options", at, "", "line")
    refuses("cannot send a nil", at)
    refuses("cannot send a table as a package", at, {}, { recv = "pkg" })
    refuses("cannot send a function", at, { print })
    refuses("an address is a string", nil, "")
  end)

  it_outside("works as a script's only line", function()
    local peer = support.peer "printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' | nc -l -N -v 127.0.0.1 0"
    local port = assert(peer:line()):match "(%d+)%s*$"
    assert.equal("HTTP/1.0 200 OK\r\n\r\nhello",
      wire.request("127.0.0.1:" .. port, "GET / HTTP/1.0\r\n\r\n", { timeout = 10 }))
  end)
end)
