-- examples/duplex_server.lua and duplex_client.lua, with each other and with peers that say
-- something else.  The times are a tenth of those that they have by themselves.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local TIME <const> = "%d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d%.%d%d%d "
local PEER <const> = "%[127%.0%.0%.1:%d+%]"
local PATIENCE <const> = 10 * support.slowness

local BEAT <const> = 0.1 * support.slowness
local HELLO <const> = 3.5 * BEAT
local LEAVE <const> = 10 * BEAT

-- -> the process, its address
local function start_server(leave)
  local peer = support.lua("examples/duplex_server.lua", "127.0.0.1:0", leave)
  return peer, (peer:line():match "^duplex server on (127%.0%.0%.1:%d+)$")
end

local function assert_ends(peer)
  peer:signal "TERM"
  assert.are.same({ "", 0 }, { peer:output() })
end

local function assert_line(pattern, line)
  assert.truthy(line and line:find("^" .. TIME .. pattern .. "$"), line)
end

-- The server's lines until a client has gone.
local function lines_until_closed(peer)
  local lines = {}
  repeat
    lines[#lines + 1] = assert(peer:line())
  until not lines[#lines]:find("heartbeat", 1, true) and not lines[#lines]:find("hello", 1, true)
  return lines
end

describe("the duplex examples", function()
  it("exchange heartbeats, a hello and the command to leave, as the log shows", function()
    local peer, address = start_server(LEAVE)
    local client = support.lua("examples/duplex_client.lua", address, BEAT, HELLO)
    local lines = lines_until_closed(peer)
    local before, hellos = 0, 0
    for i = 1, #lines - 1 do
      if lines[i]:find("hello", 1, true) then
        assert_line("hello message from " .. PEER .. ": My name's John!", lines[i])
        before, hellos = i - 1, hellos + 1
      else
        assert_line("heartbeat from " .. PEER, lines[i])
      end
    end
    assert_line("client closed", lines[#lines])
    assert.are.equal(1, hellos)
    assert.truthy(before >= 1 and before <= 3, "heartbeats before the hello: " .. before)
    assert.truthy(#lines >= 4 and #lines <= 12, "lines: " .. #lines)

    assert_line("hello response message from " .. PEER .. ": Nice to meet you!", client:line())
    assert_line("exit command from " .. PEER, client:line())
    assert.are.same({ "", 0 }, { client:output() })
    assert_ends(peer)
  end)

  it("serve two clients at once, each with a hello and a farewell of its own", function()
    local peer, address = start_server(LEAVE)
    local clients = {}
    for i = 1, 2 do
      clients[i] = support.lua("examples/duplex_client.lua", address, BEAT, HELLO)
    end
    for _, client in ipairs(clients) do
      assert_line("hello response message from " .. PEER .. ": Nice to meet you!", client:line())
      assert_line("exit command from " .. PEER, client:line())
      assert.are.same({ "", 0 }, { client:output() })
    end
    lines_until_closed(peer)
    lines_until_closed(peer)
    assert_ends(peer)
  end)
end)

describe("examples/duplex_server.lua", function()
  local function say(conn, package) assert(conn:send_pkg(package)) end

  local function connect(address)
    local conn = assert(wire.connect(address, PATIENCE))
    conn:set_timeout(PATIENCE)
    return conn
  end

  it("logs an act that it does not know, and goes on", function()
    local peer, address = start_server(PATIENCE)
    local conn <close> = connect(address)
    for _, package in ipairs { '{"Act":"fly","Data":"\\u001b[2J"}', "{}", '{"Act":null}', "[1]" } do
      say(conn, package)
      assert_line("invalid message: .*", peer:line())
    end
    say(conn, '{"Act":"hello","Data":"x"}')
    assert_line("hello message from " .. PEER .. ": x", peer:line())
    local answer = conn:recv_pkg()
    assert.truthy(answer == '{"Act":"hello","Data":"Nice to meet you!"}'
      or answer == '{"Data":"Nice to meet you!","Act":"hello"}', answer)
    conn:close()
    assert_line("client closed", peer:line())
    assert_ends(peer)
  end)

  it("takes any JSON for the data", function()
    local peer, address = start_server(PATIENCE)
    local conn <close> = connect(address)
    for _, data in ipairs { "12", "null", "true", '"a\\nb"' } do
      say(conn, '{"Act":"hello","Data":' .. data .. "}")
      assert_line("hello message from " .. PEER .. ": .*", peer:line())
    end
    say(conn, '{"Act":"hello"}')
    assert_line("hello message from " .. PEER .. ": nil", peer:line())
    conn:close()
    assert_line("client closed", peer:line())
    assert_ends(peer)
  end)

  it("hangs up on what is no JSON", function()
    local peer, address = start_server(PATIENCE)
    for _, package in ipairs { "", "{", "7", '"text"', "GET / HTTP/1.0\r\n\r\n" } do
      local conn <close> = connect(address)
      say(conn, package)
      support.fails("EOF", conn:recv_pkg())
      assert_line("invalid package structure: .*", peer:line())
    end
    assert_ends(peer)
  end)

  it("tells nobody to leave who has left", function()
    local peer, address = start_server(BEAT)
    connect(address):close()
    assert_line("client closed", peer:line())
    local conn <close> = connect(address)
    assert.truthy(conn:recv_pkg():find('"Act":"doexit"', 1, true)) -- the first was due before
    conn:close()
    assert_line("client closed", peer:line())
    assert_ends(peer)
  end)
end)

describe("examples/duplex_client.lua", function()
  -- A client of ours that serves a connection like this -> what it prints, its exit status.
  local function served_by(handler)
    local server <close> = assert(wire.serve("127.0.0.1:0", handler))
    return support.lua("examples/duplex_client.lua", server:addr(), BEAT, HELLO):output()
  end

  it("beats until the server closes the connection, and says so", function()
    local output, status = served_by(function(conn)
      for _ = 1, 3 do assert.truthy(conn:recv_pkg():find('"Act":"heartbeat"', 1, true)) end
    end)
    assert.are.equal(0, status)
    assert_line("server closed\n", output)
  end)

  it("logs an act that it does not know, a heartbeat, and what is no JSON", function()
    local output = served_by(function(conn)
      conn:send_pkg '{"Act":"dance"}'
      conn:send_pkg '{"Act":"heartbeat"}'
      conn:send_pkg "no"
      conn:read "a"
    end)
    assert_line("invalid message: {.*}\n" .. TIME .. "heartbeat from " .. PEER .. "\n" .. TIME
      .. "invalid package structure: no\n", output)
  end)

  it("leaves at SIGTERM", function()
    local server <close> = assert(wire.listen "127.0.0.1:0")
    local peer = support.lua("examples/duplex_client.lua", server:addr(), BEAT, HELLO)
    local conn <close> = assert(server:accept(PATIENCE))
    assert.truthy(conn:recv_pkg(PATIENCE):find('"Act":"heartbeat"', 1, true))
    peer:signal "TERM"
    assert.are.same({ "", 0 }, { peer:output() })
    assert.truthy(conn:read "a")
  end)

  it("says whom it could not reach", function()
    local output, status = support.lua("examples/duplex_client.lua", "127.0.0.1:1"):output()
    assert.are.equal(1, status)
    assert.truthy(output:find("connect 127.0.0.1:1: connection refused", 1, true), output)
  end)
end)
