-- examples/chat.lua, with members of ours, a real nc, and one that does not read.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local PATIENCE <const> = 15 * support.slowness

-- -> the process, its address
local function start_chat()
  local peer = support.lua("examples/chat.lua", "127.0.0.1:0")
  local address = peer:line():match "^chat server on (127%.0%.0%.1:%d+), try it:$"
  assert.are.equal("  nc 127.0.0.1 " .. address:match "%d+$", peer:line())
  return peer, address
end

-- A member that stays would keep the server for the seconds that it gives for a farewell.
local function assert_ends(peer, ...)
  for _, member in ipairs { ... } do member:close() end
  peer:signal "TERM"
  assert.are.same({ "", 0 }, { peer:output() })
end

-- A member, who has been greeted and given a name.
local function join(address, name)
  local conn = assert(wire.connect(address, PATIENCE))
  conn:set_timeout(PATIENCE)
  assert.truthy(conn:recv_line():find "^%* welcome, you are guest%d+ in lobby; /help helps$")
  conn:send("/name ", name, "\n")
  assert.are.equal("* you are " .. name, conn:recv_line())
  return conn
end

-- Each of the lines in its turn.
local function assert_hears(conn, ...)
  for _, line in ipairs { ... } do assert.are.equal(line, (conn:recv_line())) end
end

-- Everything up to a line that the member asked for, which has no news in it.
local function assert_silence(conn)
  conn:send "/nothing\n"
  assert_hears(conn, "* no such command; /help lists them")
end

describe("examples/chat.lua", function()
  it("gives what a member types to everybody else in the room", function()
    local peer, address = start_chat()
    local ann <close> = join(address, "ann")
    local bob <close> = join(address, "bob")
    assert_hears(ann, "* guest2 has joined lobby", "* guest2 is now bob")
    local nc = support.peer("printf 'hello\\nlast' | nc -N " .. address:gsub(":", " "))
    assert.are.equal("* welcome, you are guest3 in lobby; /help helps\n", (nc:output()))
    for _, member in ipairs { ann, bob } do
      assert_hears(member, "* guest3 has joined lobby", "guest3: hello", "guest3: last",
        "* guest3 has left")
    end
    bob:send "/me waves\r\n"
    assert_hears(ann, "* bob waves")
    assert_silence(bob)
    assert_ends(peer, ann, bob)
  end)

  it("keeps rooms apart", function()
    local peer, address = start_chat()
    local ann <close> = join(address, "ann")
    local bob <close> = join(address, "bob")
    assert_hears(ann, "* guest2 has joined lobby", "* guest2 is now bob")
    bob:send "/join den\nis anybody here?\n/rooms\n/who\n"
    assert_hears(bob, "* you are in den", "* rooms: den, lobby", "* here: bob")
    assert_hears(ann, "* bob has gone to den")
    ann:send "/join den\n/who\n"
    assert_hears(ann, "* you are in den", "* here: ann, bob")
    assert_hears(bob, "* ann has joined den")
    ann:send "/rooms\n"
    assert_hears(ann, "* rooms: den")
    assert_ends(peer, ann, bob)
  end)

  it("gives a name to one member only, until that member has gone", function()
    local peer, address = start_chat()
    local ann <close> = join(address, "ann")
    local bob <close> = join(address, "bob")
    assert_hears(ann, "* guest2 has joined lobby", "* guest2 is now bob")
    bob:send "/name ann\n/name\n/name a b\n/name 12345678901234567\n"
    assert_hears(bob, "* ann is taken", "* a name has 1 to 16 letters, digits, _ and -",
      "* a name has 1 to 16 letters, digits, _ and -",
      "* a name has 1 to 16 letters, digits, _ and -")
    ann:send "/quit\n"
    assert_hears(ann, "* bye")
    assert_hears(bob, "* ann has left")
    support.fails("EOF", ann:recv_line())
    bob:send "/name ann\n"
    assert_hears(bob, "* you are ann")
    assert_ends(peer, ann, bob)
  end)

  it("lists its commands, and lets no control characters through", function()
    local peer, address = start_chat()
    local ann <close> = join(address, "ann")
    local bob <close> = join(address, "bob")
    assert_hears(ann, "* guest2 has joined lobby", "* guest2 is now bob")
    bob:send "/help\n\27[2Jboo\7\n"
    assert_hears(bob, "* /help /join /me /name /quit /rooms /who")
    assert_hears(ann, "bob: [2Jboo")
    assert_ends(peer, ann, bob)
  end)

  it("tells who types too long a line, and lets the room know", function()
    local peer, address = start_chat()
    local ann <close> = join(address, "ann")
    local bob <close> = join(address, "bob")
    bob:send(("x"):rep(2000))
    assert_hears(bob, "* nobody reads such long lines")
    support.fails("EOF", bob:recv_line())
    assert_hears(ann, "* guest2 has joined lobby", "* guest2 is now bob", "* bob has left")
    assert_ends(peer, ann, bob)
  end)

  -- Types as fast as the server takes it, until over() -> a task that returns the count of lines.
  local function start_typing(conn, over)
    return wire.spawn(function()
      local n = 0
      while not over() do
        n = n + 1
        assert(conn:send(n, " ", ("x"):rep(1000), "\n"))
        conn:flush()
      end
      return n
    end)
  end

  it("throws out those who do not read, while the others miss nothing", function()
    local peer, address = start_chat()
    local ann <close> = join(address, "ann")
    local slow <close> = join(address, "slow")
    local lazy <close> = join(address, "lazy")
    local bob <close> = join(address, "bob")
    local heard, gone = 0, {}
    local typing = start_typing(ann, function() return #gone == 2 end)
    local function hear()
      local line = assert(bob:recv_line())
      if line:find "^%*" then
        gone[#gone + 1] = line
      else
        heard = heard + 1
        assert.are.equal("ann: " .. heard, line:match "^ann: %d+")
      end
    end
    repeat hear() until #gone == 2
    local _, sent = typing:join()
    while heard < sent do hear() end
    table.sort(gone)
    assert.are.same({ "* lazy was too slow", "* slow was too slow" }, gone)
    for _, member in ipairs { slow, lazy } do
      local data, _, code
      repeat
        data, _, code = member:recv()
      until not data
      assert.are.equal("ECONNRESET", code)
    end
    assert_silence(bob)
    assert_ends(peer, ann, bob)
  end, 60)

  it("tells everybody at SIGTERM, and nobody that the others leave", function()
    local peer, address = start_chat()
    local ann <close> = join(address, "ann")
    local bob <close> = join(address, "bob")
    assert_hears(ann, "* guest2 has joined lobby", "* guest2 is now bob")
    bob:send "/join den\n"
    assert_hears(bob, "* you are in den")
    assert_hears(ann, "* bob has gone to den")
    local cyd <close> = join(address, "cyd")
    peer:signal "TERM"
    assert_hears(cyd, "* the server is going down, goodbye")
    assert_hears(bob, "* the server is going down, goodbye")
    assert_hears(ann, "* guest3 has joined lobby", "* guest3 is now cyd",
      "* the server is going down, goodbye")
    for _, member in ipairs { ann, bob, cyd } do
      support.fails("EOF", member:recv_line())
      member:close()
    end
    assert.are.same({ "", 0 }, { peer:output() })
  end)
end)
