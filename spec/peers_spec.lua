-- Real programs as peers: nc, socat, curl.  What another implementation of the sockets does
-- must be understood, and it must understand us.
-- What this is not: every behaviour of a connection; pairs of our own are enough for those.
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local MILLION = 1000 * 1000

-- Runs a shell command that connects to a server of ours with this handler; %d in it is the
-- server's port -> its output.
local function visit(handler, command)
  local server <close> = assert(wire.serve("127.0.0.1:0", handler))
  local peer = support.peer((command:gsub("%%d", server:port())))
  return (peer:output())
end

-- Starts a server program; %d in its command is a port -> the program, a connection to it.
local function dial(command)
  local server = assert(wire.listen "127.0.0.1:0")
  local address, port = server:addr(), server:port()
  server:close()
  local peer = support.peer((command:gsub("%%d", port)))
  local conn, message
  repeat -- until the program listens
    conn, message = wire.connect(address, 5)
    if not conn then wire.sleep(0.01) end
  until conn or not message:find "refused"
  return peer, assert(conn, message)
end

local function echo(conn)
  for line in conn:lines() do conn:send("> ", line, "\n") end
end

describe("nc as a client", function()
  it("gets its line back from the echo server", function()
    assert.equal("> hello\n", visit(echo, [[printf 'hello\n' | nc -N 127.0.0.1 %d]]))
  end)

  it("gets its last line back though it lacks the newline", function()
    assert.equal("> one\n> two\n", visit(echo, [[printf 'one\r\ntwo' | nc -N 127.0.0.1 %d]]))
  end)

  it("gets a 2 MB answer whole though its own input was never read", function()
    local function handler(conn) conn:send(("x"):rep(2 * MILLION)) end
    for _, input in ipairs { [[printf 'unread\n']], [[(printf 'unread\n'; sleep 0.5)]],
      [[head -c 200000 /dev/zero]] } do
      local output = visit(handler, input .. " | nc -N 127.0.0.1 %d | wc -c")
      assert.equal(2 * MILLION, tonumber(output), input)
    end
  end)

  it("that reads slowly gets every byte, and the sender's memory stays bounded", function()
    local most = 0
    local function handler(conn)
      local piece = ("y"):rep(100000)
      for _ = 1, 200 do
        assert(conn:send(piece))
        most = math.max(most, conn:stats().unsent)
      end
    end
    local output = visit(handler, [[nc -N 127.0.0.1 %d | (sleep 0.3; wc -c)]])
    assert.equal(20 * MILLION, tonumber(output))
    assert.is_true(most <= 256 * 1024 + 100000, most)
  end, 30)

  it("that ends in the middle of a package gives EOF with the partial package", function()
    local outcome
    visit(function(conn) outcome = { conn:recv_pkg() } end,
      [[printf '\000\012part' | nc -N 127.0.0.1 %d]])
    assert.same({ "EOF", "\0\10part" }, { outcome[3], outcome[4] })
  end)

  it("talks to us over IPv6", function()
    local server <close>, _, code = wire.serve("[::1]:0", echo)
    if code == "EADDRNOTAVAIL" or code == "EAFNOSUPPORT" then return pending "no IPv6 here" end
    assert(server, code)
    local peer = support.peer("printf 'six\\n' | nc -6 -N ::1 " .. server:port())
    assert.equal("> six\n", (peer:output()))
  end)
end)

describe("nc as a server", function()
  it("gets what was sent before the close, and its answer comes back", function()
    local peer, conn = dial [[printf 'welcome\n' | nc -l -N 127.0.0.1 %d]]
    assert.equal("welcome", conn:recv_line(5))
    assert(conn:send(("z"):rep(100000), "\n"))
    conn:close()
    assert.equal(("z"):rep(100000) .. "\n", (peer:output()))
  end)
end)

describe("socat", function()
  it("sending a byte at a time gets every line back", function()
    local text = "hello\nworld\r\n\nlast\n"
    assert.equal("> hello\n> world\n> \n> last\n", visit(echo,
      ("printf %q | socat -b1 -t5 - TCP:127.0.0.1:%%d,nodelay")
        :format((text:gsub("\n", "\\n"):gsub("\r", "\\r")))))
  end)

  it("sending a byte at a time gives whole packages", function()
    local got = {}
    visit(function(conn)
      for package in conn:pkgs() do got[#got + 1] = package end
    end, [[printf '\000\005hello\000\000\000\003a\nb' | socat -b1 -t5 - TCP:127.0.0.1:%d,nodelay]])
    assert.same({ "hello", "", "a\nb" }, got)
  end)

  it("that ends its side first still gets the answer to everything", function()
    local answer = visit(function(conn) conn:send(#assert(conn:read "a"), " bytes") end,
      [[head -c 300000 /dev/zero | socat -t5 - TCP:127.0.0.1:%d]])
    assert.equal("300000 bytes", answer)
  end)

  it("gives back all that we sent before our half-close, then its own end", function()
    local peer, conn = dial "socat -t5 TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr EXEC:cat"
    local text = ("0123456789"):rep(100000)
    local writer = wire.spawn(function()
      assert(conn:send(text))
      assert(conn:close_write())
    end)
    assert.is_true(conn:read "a" == text)
    assert(writer:join(5))
    assert.equal("EOF", select(3, conn:recv(1, 5)))
    conn:close()
    peer:output()
  end)

  it("that resets in the middle of a package gives ECONNRESET, and the server goes on", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local function receive(input, options)
      local peer = support.peer(("printf '%s' | socat -u - TCP:127.0.0.1:%d%s")
        :format(input, server:port(), options))
      local conn <close> = assert(server:accept(5))
      local package, _, code = conn:recv_pkg(5)
      peer:output()
      return package or code
    end
    assert.equal("ECONNRESET", receive([[\000\012part]], ",linger=0,end-close"))
    assert.equal("part", receive([[\000\004part]], ""))
  end)
end)

describe("curl", function()
  local opened = 0

  local function read_head(conn)
    local head = { length = 0 }
    for line in conn:lines() do
      if line == "" then return head end
      head.line = head.line or line
      head.length = tonumber(line:match "^[Cc]ontent%-[Ll]ength: (%d+)$") or head.length
    end
  end

  -- A responder: GET gives back the path, POST the body.
  local function respond(conn)
    opened = opened + 1
    for head in read_head, conn do
      local body = assert(conn:recv(head.length, 5))
      if body == "" then body = head.line:match "^GET (%S+) HTTP/1" end
      conn:send("HTTP/1.1 200 OK\r\nContent-Length: ", #body, "\r\n\r\n", body)
    end
  end

  local CURL = "curl -sS --noproxy '*' --max-time 10 "

  local function curl(arguments) return visit(respond, CURL .. arguments) end

  it("gets a page", function()
    assert.equal("/some/page", curl "http://127.0.0.1:%d/some/page")
  end)

  it("gets back what it posts", function()
    assert.equal("a=1&b=2", curl "-d 'a=1&b=2' http://127.0.0.1:%d/")
  end)

  it("posts and gets a megabyte", function()
    local output = visit(respond, "head -c 1000000 /dev/zero | " .. CURL ..
      "-H 'Expect:' --data-binary @- http://127.0.0.1:%d/ | wc -c")
    assert.equal(MILLION, tonumber(output))
  end)

  it("keeps one connection for many requests", function()
    opened = 0
    assert.equal("/1/2/3/4/5", curl "http://127.0.0.1:%d/[1-5]")
    assert.equal(1, opened)
  end)

  it("understands a body that ends with the connection", function()
    local function handler(conn)
      read_head(conn)
      conn:send("HTTP/1.0 200 OK\r\n\r\n", ("page\n"):rep(1000))
    end
    assert.equal(("page\n"):rep(1000), visit(handler, CURL .. "http://127.0.0.1:%d/"))
  end)
end)

describe("a peer that is silent for long and then speaks", function()
  it("trap: was active just now, though the loop slept until then", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local silent = "(sleep 1; printf x; sleep 20) | nc 127.0.0.1 %d"
    local nc = support.peer(silent:format(server:port()))
    local conn <close> = assert(server:accept())
    assert.equal("x", conn:recv(1))
    assert.is_true(conn:stats().idle < 0.5)
    nc:stop()
  end)
end)
