-- Chance: many callers and connections at once, with cuts, timeouts and cancels as they fall.
-- Whatever happens, the stream that goes in is the stream that comes out.
-- What this is not: a measure of speed; each test is small and has its seed in its title.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it = support.it
local random = math.random

-- n bytes that are at no other place of the stream.
local function numbered(n)
  local words = {}
  for i = 1, n // 8 do
    words[i] = ("%07d\n"):format(i)
  end
  return table.concat(words)
end

-- The same chances in each run: seed is part of the test.
local function seeded(seed)
  math.randomseed(seed)
  return seed
end

-- Sends data in pieces of any size, then closes.
local function send_in_pieces(conn, data, largest)
  local at = 1
  while at <= #data do
    local n = random(largest)
    assert(conn:send(data:sub(at, at + n - 1)))
    at = at + n
    if random(3) == 1 then wire.sleep(random(3) == 1 and 0.001 or 0) end
  end
  conn:close()
end

-- Each of these returns bytes of the stream exactly as they stand in it, or nil.
local WAYS = {
  function(conn, opts) return conn:recv(random(0, 50), opts) end,
  function(conn, opts) return conn:recv_some(random(50), opts) end,
  function(conn, opts)
    opts.keep = true
    return conn:recv_line(opts)
  end,
  function(conn, opts)
    opts.keep = true
    return conn:recv_until("99", opts)
  end,
  function(conn) return conn:recv_now() end,
  function(conn, opts)
    local data = conn:peek(random(20), opts)
    return data and conn:recv(#data, 0)
  end,
}

local function reading(pair)
  describe("readers that time out and are cancelled at any moment", function()
    for seed = 1, 5 do
      it("trap: lose, repeat and reorder no byte, with seed " .. seed, function()
        seeded(seed)
        local a, b = pair()
        local data, got, over = numbered(40000), {}, false
        local writer = wire.spawn(send_in_pieces, a, data, 200)
        local function reader()
          while not over do
            local way = WAYS[random(#WAYS)]
            local bytes, _, code, partial = way(b, { timeout = random(0, 2) / 1000 })
            got[#got + 1] = bytes or partial
            over = over or code == "EOF"
            if random(20) == 1 then wire.sleep(0) end
          end
        end
        local tasks = tools.spawn_all(4, reader)
        while not over do
          local i = random(#tasks)
          tasks[i]:cancel()
          tasks[i]:join()
          tasks[i] = wire.spawn(reader)
          wire.sleep(0.001)
        end
        for _, task in ipairs(tasks) do
          task:join()
        end
        tools.result(writer)
        assert.is_true(data == table.concat(got))
      end, 30)
    end
  end)
end

local function writing(pair)
  describe("writers that time out and are cancelled at any moment", function()
    for seed = 1, 3 do
      it("trap: send each message whole or not at all, with seed " .. seed, function()
        seeded(seed)
        local a, b = pair { limits = { high_water = 2000 } }
        local accepted, over = {}, false
        local function writer()
          for i = 1, math.huge do
            if over then return end
            local message = ("<%d:%s>"):format(i, ("x"):rep(random(0, 3000)))
            if a:send(message, { timeout = random(0, 2) / 1000 }) then
              accepted[#accepted + 1] = message
            end
          end
        end
        local tasks = tools.spawn_all(4, writer)
        local reader = wire.spawn(function()
          local parts = {}
          for chunk in b:chunks { max = 5000 } do
            parts[#parts + 1] = chunk
            if random(4) == 1 then wire.sleep(0.001) end
          end
          return table.concat(parts)
        end)
        local cancels = 0
        while cancels < 100 or #accepted <= 50 do -- the test's limit bounds it
          local i = random(#tasks)
          tasks[i]:cancel()
          tasks[i]:join()
          tasks[i] = wire.spawn(writer)
          cancels = cancels + 1
          wire.sleep(0.001)
        end
        over = true
        for _, task in ipairs(tasks) do
          task:join()
        end
        a:close()
        assert.is_true(table.concat(accepted) == tools.result(reader))
      end, 30)
    end
  end)
end

local function neighbours(pair)
  describe("many connections at once", function()
    it("trap: never see each other's bytes", function()
      seeded(1)
      local COUNT = 30
      local tasks = tools.spawn_all(COUNT, function(id)
        local a, b = pair()
        local data = ("%02d,"):format(id):rep(5000)
        local writer = wire.spawn(send_in_pieces, a, data, 3000)
        local parts, last = {}
        repeat
          last = table.pack(b:recv(random(400)))
          parts[#parts + 1] = last[1] or last[4]
        until not last[1]
        assert.equal("EOF", last[3])
        assert.is_true(data == table.concat(parts))
        tools.result(writer)
        return true
      end)
      assert.equal(COUNT, #tools.results(tasks))
    end, 30)

    it("trap: keep what was left unread while others received", function()
      local conns = {}
      for i = 1, 10 do
        local a, b = pair()
        conns[i] = b
        tools.deliver(a, b, i, ":one\n", i, ":two\n", i, ":three")
        a:close()
      end
      for _, word in ipairs { "one", "two" } do
        for i, conn in ipairs(conns) do
          assert.equal(i .. ":" .. word, conn:recv_line())
        end
      end
      for i, conn in ipairs(conns) do
        assert.equal(i .. ":three", conn:read "a")
      end
    end)
  end)
end

return function(transport)
  reading(transport.pair)
  writing(transport.pair)
  neighbours(transport.pair)
end
