-- Resets by a real peer at every point of a dialogue, over TCP, Unix sockets and TLS: what had come
-- is delivered, each call fails once and with its code, the server and its other connections live
-- on, and nothing is left.  SIGPIPE has its default action, which would end the server.
-- What this is not: a reset while ten megabytes are on their way (half_close_spec).
local support = require "spec.support"
local wire = require "lunewire"
local child = require "spec.scenarios.child"
local pki = require "spec.pki"

local it = support.it

-- `open PORT` says whether TLS; what comes of a connection is a line of its log.
local SERVER <const> = [[
local tls, slowness = { cert = arg[2], key = arg[3] }, tonumber(arg[4])
local census = require("lunewire.core").census
local mode, log, closed = nil, {}, 0
local REQUEST = "\0\5helloa line\r\n12345678until.rest"

local RECEIVE = {
  { up_to = 7, receive = function(conn) return conn:recv_pkg() end },
  { up_to = 15, receive = function(conn) return conn:recv_line() end },
  { up_to = 23, receive = function(conn) return conn:recv(8) end },
  { up_to = 29, receive = function(conn) return conn:recv_until "." end },
  { up_to = 33, receive = function(conn) return conn:recv(4) end },
}

-- The code of one call; one that did not fail has none.
local function code_of(_, _, code) return code or "none" end

-- How often each code came: a call that failed twice, or not at all, would show.
local function again(conn)
  local codes = {
    code_of(conn:recv(1)), code_of(conn:recv()), code_of(conn:recv_line()),
    code_of(conn:recv_pkg()), code_of(conn:peek(1)), code_of(conn:recv_now()),
  }
  conn:send "x" -- may be accepted: nobody has written yet
  codes[#codes + 1] = code_of(conn:flush())
  codes[#codes + 1] = code_of(conn:send "x")
  codes[#codes + 1] = code_of(conn:send_recv("x", 1))
  return table.concat(codes, " ")
end

-- Receives the request -> the code of the call that failed, if one did; how many bytes came, less
-- than none if they were others.
local function receive(conn)
  local came = 0
  for _, call in ipairs(RECEIVE) do
    local result, _, code, partial = call.receive(conn)
    if not result then
      local rest = (partial or "") .. conn:recv(conn:buffered())
      local right = rest == REQUEST:sub(came + 1, came + #rest)
      return code, right and came + #rest or -1
    end
    came = call.up_to
  end
  return nil, came
end

-- Each tells how many bytes of the request came, which call failed first, and how; then what all
-- others say.
local handlers = {}

-- The request was sent as a whole: then it is received so -> how many bytes of it came; the call
-- that failed and its code, if one did.
local function receive_all(conn)
  local code, came = receive(conn)
  return came, code and "recv", code
end

function handlers.send(conn)
  local code, came = receive(conn)
  if not code then code = code_of(conn:recv(1)) end
  return table.concat({ came, "recv", code, again(conn) }, " ")
end

-- An answer in pieces, then the peer's next request.
function handlers.read(conn)
  local came, call, code = receive_all(conn)
  for _ = 1, code and 0 or 10 do
    local sent, _, why = conn:send(("a"):rep(100))
    if not sent then
      call, code = "send", why
      break
    end
    wire.sleep(0)
  end
  if not code then call, code = "recv", code_of(conn:recv(1)) end
  return table.concat({ came, call, code, again(conn) }, " ")
end

-- The same in one piece.
function handlers.piece(conn)
  local came, call, code = receive_all(conn)
  if not code then
    conn:send(("a"):rep(1000))
    call, code = "recv", code_of(conn:recv(1))
  end
  return table.concat({ came, call, code, again(conn) }, " ")
end

-- The answer is more than the system takes.
function handlers.fill(conn)
  local came, call, code = receive_all(conn)
  local block = ("b"):rep(65536)
  while not code do
    call = "send"
    _, _, code = conn:send(block)
  end
  return table.concat({ came, call, code, again(conn) }, " ")
end

-- Its side is over already.
function handlers.half(conn)
  local came, call, code = receive_all(conn)
  if not code then
    conn:send(("a"):rep(1000))
    conn:close_write()
    call, code = "recv", code_of(conn:recv(1))
  end
  return table.concat({ came, call, code, code_of(conn:recv(1)), code_of(conn:recv()) }, " ")
end

-- It has closed, and the rest is on its way.
function handlers.close(conn)
  conn:send(("b"):rep(8 << 20))
  conn:close()
  return "0 recv " .. code_of(conn:recv(1)) .. " " .. code_of(conn:send "x")
end

local function handle(conn)
  if mode == "echo" then
    for line in conn:lines() do conn:send(line, "\n") end
    return
  end
  local line = handlers[mode](conn)
  log[#log + 1] = line
end

-- A connection that no handler had, and how each ended.
local function on_close(_, _, code)
  closed = closed + 1
  log[#log + 1] = "end " .. tostring(code)
end

local opts = { on_close = on_close, backlog = 511 }
local plain = assert(wire.serve("127.0.0.1:0", opts, handle))
local unix = assert(wire.serve(arg[5], opts, handle))
opts.tls = tls
local secure = assert(wire.serve("127.0.0.1:0", opts, handle))
local links -- before anybody came

function commands.mode(name)
  mode, log, closed = name, {}, 0
  return name
end

-- Waits until n connections have ended.
function commands.log(n)
  local start = wire.now()
  while closed < tonumber(n) and wire.now() - start < 15 * slowness do wire.sleep(0.005) end
  return table.concat(log, ";")
end

-- How many connections and links there are more than at the beginning, once there are none, or
-- after a while.
function commands.left()
  local start, conns, more = wire.now(), nil, nil
  repeat
    wire.sleep(0.01)
    conns = plain:conn_num() + unix:conn_num() + secure:conn_num()
    more = census().links - links
  until conns + more == 0 or wire.now() - start > 10 * slowness
  return conns .. " " .. more
end

-- Signals that are ignored: of SIGPIPE the bit is 1000 (hexadecimal).
local status <close> = io.open "/proc/self/status"
local ignored = tonumber(status:read("a"):match "SigIgn:%s*(%x+)", 16)
links = census().links
ready(plain:port(), secure:port(), ignored & 0x1000)
wire.run()
]]

local process, ports, bystanders

-- They were there before, and notice nothing.
local function check_bystanders()
  for name, conn in pairs(bystanders) do
    assert(conn:send(name, "\n"))
    assert.equal(name, conn:recv_line(10 * support.slowness))
  end
end

local function begin()
  local tls, unix = pki.server(), support.unix_name()
  local server, said = child.start(SERVER, tls.cert, tls.key, support.slowness, unix)
  process = server
  local plain, secure, sigpipe_ignored = said:match "^(%d+) (%d+) (%d+)$"
  assert.equal("0", sigpipe_ignored)
  ports = { tcp = plain, tls = secure, unix = unix:match "@.*" }
  process:ask "mode echo"
  bystanders = {}
  for name, port in pairs(ports) do
    local address = name == "unix" and unix or "127.0.0.1:" .. port
    bystanders[name] = assert(wire.connect(address,
      { timeout = 10 * support.slowness, tls = name == "tls" and pki.client() or nil }))
  end
  check_bystanders() -- their handlers run
end

local function split(text, pattern)
  local list = {}
  for word in text:gmatch(pattern) do list[#list + 1] = word end
  return list
end

-- Waits until so many connections have ended -> the handlers' words, the codes of the ends.
local function read_log(count)
  local words, ends = {}, {}
  for _, line in ipairs(split(process:ask("log", count), "[^;]+")) do
    local code = line:match "^end (.*)$"
    if code then ends[#ends + 1] = code else words[#words + 1] = split(line, "%S+") end
  end
  return words, ends
end

-- Runs the peer against the server in that mode -> the handlers' words, the codes of the ends, the
-- number that the peer printed.
local function attack(mode, transport, count, arguments)
  process:ask("mode", mode)
  local command = "python3 spec/scenarios/resets.py " .. arguments:gsub("PORT", ports[transport])
  local output, status = support.peer(command, 60):output()
  assert.equal(0, status, output)
  local words, ends = read_log(count)
  process:ask "mode echo"
  check_bystanders()
  return words, ends, tonumber(output)
end

local function finish()
  for _, conn in pairs(bystanders) do conn:close() end
  assert.equal("0 0", process:ask "left")
  assert.same({ "", 0 }, { process:stop() })
  process, bystanders = nil, nil
end

-- Every call behind the first failure says the same.
local function check_sticky(words, code)
  for i = 4, #words do assert.equal(code, words[i], table.concat(words, " ")) end
end

-- Each handler said this.
local function check_each(words, text)
  for _, one in ipairs(words) do assert.equal(text, table.concat(one, " ")) end
end

local function check_all(list, expected)
  for _, value in ipairs(list) do assert.equal(expected, value) end
end

-- Each handler's first failure and all that follow, and each end, are ECONNRESET.
local function check_resets(count, words, ends)
  assert.equal(count, #ends)
  check_all(ends, "ECONNRESET")
  for _, one in ipairs(words) do
    assert.equal("ECONNRESET", one[3])
    check_sticky(one, "ECONNRESET")
  end
end

-- The request came whole, and one of these calls failed first.
local function check_whole(words, ...)
  local calls = { ... }
  for _, one in ipairs(words) do
    assert.equal("33", one[1])
    local expected = calls[1]
    for _, call in ipairs(calls) do expected = one[2] == call and call or expected end
    assert.equal(expected, one[2])
  end
end

local function runs(title, body)
  it(title, function()
    begin()
    body()
    finish()
  end, 60)
end

describe("a reset over TCP", function()
  runs("after each byte of a request delivers the bytes before it, then fails each call", function()
    local words, ends, length = attack("send", "tcp", 34, "send PORT 0 33 1")
    assert.equal(33, length)
    assert.equal(34, #words)
    check_resets(34, words, ends)
    local came = {}
    for _, one in ipairs(words) do came[tonumber(one[1]) + 1] = true end
    for k = 0, 33 do assert.is_true(came[k + 1], k .. " bytes") end
  end)

  runs("after each byte of an answer fails whoever waits for more", function()
    local words, ends = attack("read", "tcp", 101, "read PORT 0 1000 10")
    assert.equal(101, #words)
    check_resets(101, words, ends)
    check_whole(words, "recv", "send")
  end)

  runs("of a peer that does not take all fails the send that waits", function()
    local words, ends = attack("fill", "tcp", 11, "read PORT 0 100000 10000")
    assert.equal(11, #words)
    check_resets(11, words, ends)
    check_whole(words, "send")
  end)

  runs("behind our own end fails the receive", function()
    local words, ends = attack("half", "tcp", 51, "read PORT 0 1000 20")
    assert.equal(51, #words)
    check_resets(51, words, ends)
    check_whole(words, "recv")
  end)

  -- The system has told the end already; it says EPIPE to who sends.
  runs("behind the peer's own end changes nothing for receives, and is EPIPE for sends", function()
    local words, ends = attack("half", "tcp", 51, "half PORT 0 1000 20")
    assert.same({ 51, 51 }, { #words, #ends })
    check_whole(words, "recv")
    check_each(words, "33 recv EOF EOF EOF")
    words, ends = attack("fill", "tcp", 11, "half PORT 0 100000 10000")
    assert.same({ 11, 11 }, { #words, #ends })
    check_each(words, "33 send EPIPE EOF EOF EOF EOF EOF EOF EPIPE EPIPE EPIPE")
  end)

  runs("of a connection that we have closed ends it, with all that was unsent", function()
    local words, ends = attack("close", "tcp", 20, "close PORT 1 20 1")
    assert.same({ 20, 20 }, { #words, #ends })
    check_all(ends, "nil")
    check_each(words, "0 recv ECLOSED ECLOSED")
  end)

  -- The server stands still while they come.
  runs("before the connection is accepted is the failure of its first call", function()
    process:ask "mode send"
    process.peer:signal "STOP"
    local command = "python3 spec/scenarios/resets.py backlog %s 1 100 1"
    local output, status = support.peer(command:format(ports.tcp)):output()
    process.peer:signal "CONT"
    assert.equal(0, status, output)
    local words, ends = read_log(100)
    assert.equal(100, #words)
    check_resets(100, words, ends)
    for _, one in ipairs(words) do assert.equal("0", one[1]) end
    process:ask "mode echo"
    check_bystanders()
  end)
end)

-- There it is an end with something that the peer has not read.
describe("over a Unix socket", function()
  local ECONNRESET6 = ("ECONNRESET "):rep(6)

  runs("an end after each byte of a request is EOF for receives, and EPIPE for sends", function()
    local words, ends, length = attack("send", "unix", 34, "send PORT 0 33 1")
    assert.same({ 33, 34, 34 }, { length, #words, #ends })
    check_all(ends, "EPIPE")
    local came = {}
    for _, one in ipairs(words) do came[tonumber(one[1]) + 1] = table.concat(one, " ", 2) end
    for k = 0, 33 do
      assert.equal("recv EOF EOF EOF EOF EOF EOF EOF EPIPE EPIPE EPIPE", came[k + 1])
    end
  end)

  runs("a reset after each byte of an answer fails whoever waits for more", function()
    local words, ends = attack("piece", "unix", 999, "read PORT 1 999 1")
    assert.equal(999, #words)
    check_resets(999, words, ends)
    check_whole(words, "recv")
  end)

  -- The system says EPIPE to who sends, as it does behind an end.
  runs("a reset of a peer that does not take all fails the send that waits", function()
    local words, ends = attack("fill", "unix", 10, "read PORT 10000 100000 10000")
    assert.same({ 10, 10 }, { #words, #ends })
    check_all(ends, "EPIPE")
    check_each(words, "33 send EPIPE " .. ECONNRESET6 .. "EPIPE EPIPE EPIPE")
  end)

  runs("an end of the peer of a connection that we have closed is none of ours", function()
    local words, ends = attack("close", "unix", 20, "close PORT 1 20 1")
    assert.same({ 20, 20 }, { #words, #ends })
    check_all(ends, "nil")
    check_each(words, "0 recv ECLOSED ECLOSED")
  end)
end)

-- Over TLS a count of bytes below stands for none, or all, of the request.
local SECURE <const> = { { "TLS 1.2", "tls12", 335 }, { "TLS 1.3", "tls13", 362 } }

for _, row in ipairs(SECURE) do
  local name, mode, least = table.unpack(row)
  describe("a reset over " .. name, function()
    runs("after each byte that the peer says fails the handshake, or each call", function()
      local count = least + 150
      local words, ends, length =
        attack("send", "tls", count, ("%s PORT 0 %d 1"):format(mode, count - 1))
      assert.is_true(length >= 200 and length < count - 1, length)
      assert.is_true(#words >= count - length, #words)
      assert.is_true(#words < count - 100, #words)
      check_resets(count, words, ends)
      local whole = 0
      for _, one in ipairs(words) do
        assert.is_true(one[1] == "0" or one[1] == "33", one[1])
        if one[1] == "33" then whole = whole + 1 end
      end
      assert.is_true(whole >= count - length, whole)
    end)

    runs("after any byte that the peer hears fails the handshake, or each call", function()
      local words, ends, length = attack("read", "tls", 100, mode .. "r PORT 0 2970 30")
      assert.is_true(length >= 1000, length) -- more as it comes in larger pieces
      assert.is_true(#words > 0 and #words < 100, #words)
      check_resets(100, words, ends)
      local whole = {}
      for _, one in ipairs(words) do
        if one[1] ~= "0" then whole[#whole + 1] = one end
      end
      check_whole(whole, "recv", "send")
      assert.is_true(#whole > 0)
    end)

    runs("of a peer that does not take all fails the send that waits", function()
      local words, ends = attack("fill", "tls", 10, mode .. "r PORT 5000 9500 500")
      assert.equal(10, #words)
      check_resets(10, words, ends)
      check_whole(words, "send")
    end)
  end)
end
