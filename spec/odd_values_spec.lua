-- Odd values: numbers that are none, or beyond everything, as counts, times, limits and data; lists
-- that are odd or change while they are to be sent; zeros in bytes.
-- What this is not: options and their types in general (options_spec), limits (limits_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it, raises, fails = support.it, support.raises, support.fails

local NAN <const>, HUGE <const> = 0 / 0, math.huge

-- Calls fn with a fresh pipe's two ends.
local function with_pipe(fn, opts)
  local a, b = wire.pipe(opts)
  fn(a, b)
  a:reset()
  b:reset()
end

describe("a count", function()
  -- What takes a count of bytes, with no time to wait for them.
  local COUNTS = {
    recv = function(conn, n) return conn:recv(n, 0) end,
    recv_some = function(conn, n) return conn:recv_some(n, 0) end,
    peek = function(conn, n) return conn:peek(n, 0) end,
    send_recv = function(conn, n) return conn:send_recv("", n, 0) end,
  }

  -- The most bytes that this process ever had mapped, whether it touched them or not.
  local function most_mapped()
    local file <close> = assert(io.open "/proc/self/status")
    return tonumber(file:read("a"):match "VmPeak:%s*(%d+) kB") * 1024
  end

  for name, call in pairs(COUNTS) do
    it("of " .. name .. " may be any whole number, also beyond all memory", function()
      for _, n in ipairs { 2.5, -1, NAN, HUGE, -HUGE, 2 ^ 63, math.mininteger, "2", "x", true } do
        with_pipe(function(a)
          local err = raises("bad argument #%d to '" .. name, call, a, n)
          assert.matches("odd_values_spec.lua:%d+: ", err)
        end)
      end
      local before, mapped = collectgarbage "count", most_mapped()
      for _, n in ipairs { 2.0, 2 ^ 31, 2 ^ 32, 2 ^ 53, math.maxinteger } do
        with_pipe(function(a) fails("ETIMEDOUT", call(a, n)) end)
      end
      assert.is_true(collectgarbage "count" - before < 1024)
      assert.is_true(most_mapped() - mapped < 1 << 30)
      with_pipe(function(a, b)
        b:send "ab"
        assert(a:peek(2, 5)) -- it has come
        assert.equal("ab", call(a, 2.0))
      end)
    end)
  end

  it("of permits, values, bytes of a frame is whole and says so", function()
    for _, n in ipairs { 2.5, -5, NAN, -HUGE, 2 ^ 63, math.mininteger, "1" } do
      for _, make in ipairs { wire.semaphore, wire.channel, wire.framing.fixed } do
        assert.is_false((pcall(make, n)))
      end
    end
    for _, n in ipairs { 2.5, NAN, -HUGE, math.mininteger, 0, "80" } do
      assert.is_false((pcall(wire.pipe, { limits = { line = n } })))
      with_pipe(function(a) assert.is_false((pcall(a.recv_line, a, { max = n, timeout = 0 }))) end)
    end
  end)

  it("that is a number of the wrong kind is shown", function()
    raises("'line' must be a whole number, not 2%.5", wire.pipe, { limits = { line = 2.5 } })
    raises("'timeout' must be a number of seconds, not %-?nan", wire.connect, "127.0.0.1:1", NAN)
    raises("'port' must be a whole number, not 2%.5", wire.connect, { host = "::1", port = 2.5 })
    raises("'line' must be a whole number, not string", wire.pipe, { limits = { line = "2" } })
  end)
end)

describe("a time", function()
  -- Each waits for at most that long, if there is something to wait for.
  local WAITS <const> = { recv = true, sleep = true, channel = true }
  local TIMES <const> = {
    recv = function(n, a) return a:recv(1, n) end,
    flush = function(n, a) return a:flush(n) end,
    sleep = function(n) return wire.sleep(n) end,
    join = function(n) return wire.spawn(function() end):join(n) end,
    channel = function(n) return wire.channel():recv(n) end,
    semaphore = function(n) return wire.semaphore(1):acquire(n) end,
    deadline = function(n, a) return a:set_deadline(n) end,
    idle = function(n, a) return a:set_idle_timeout(n) end,
    after = function(n) return wire.after(n, print):cancel() end,
  }

  -- -> "waits", "returns" or the error
  local function outcome(call, n)
    local a, b = wire.pipe()
    local task = wire.spawn(pcall, call, n, a)
    wire.sleep(0.005)
    for _ = 1, 6 do wire.sleep(0) end
    local waits = task:status() == "waiting"
    task:cancel()
    local _, ok, message = task:join()
    a:reset()
    b:reset()
    return waits and "waits" or ok and "returns" or message
  end

  for name, call in pairs(TIMES) do
    it("of " .. name .. " may be any number but NaN, and nothing else", function()
      for _, n in ipairs { NAN, "1", true, print, {} } do
        if name ~= "recv" or type(n) == "string" then -- that has options
          local text = outcome(call, n)
          assert.matches("odd_values_spec.lua:%d+: bad argument #%d to '[%w_]+' %(", text)
          assert.is_truthy(text:find "number" or text:find "options", text)
        end
      end
      for _, n in ipairs { -1, -0.0, 0, -HUGE, math.mininteger, -2 ^ 1000 } do
        if name ~= "idle" then assert.equal("returns", outcome(call, n), tostring(n)) end
      end
      for _, n in ipairs { 1e9, 2 ^ 31, 2 ^ 53, 2 ^ 63, 2 ^ 1000, HUGE, math.maxinteger } do
        assert.equal(WAITS[name] and "waits" or "returns", outcome(call, n), tostring(n))
      end
    end)
  end
end)

describe("what is sent", function()
  it("may be any number, as tostring has it, and any byte", function()
    with_pipe(function(a, b)
      local values = { 1, 1.5, -0.0, 2 ^ 53, NAN, HUGE, math.mininteger, 2.0, "a\0b", "\255\0", "" }
      local text = {}
      for i, value in ipairs(values) do text[i] = tostring(value) end
      local expected = table.concat(text)
      for _, value in ipairs(values) do assert.equal(#tostring(value), a:send(value)) end
      assert.equal(#expected, a:send(values))
      assert.equal(#expected, a:send(table.unpack(values)))
      assert.equal(expected:rep(3), b:recv(3 * #expected, 5))
      a:send "x\0--\0y"
      assert.equal("x\0--", b:recv_until("\0y", 5))
    end)
  end)

  it("may be nothing else: it raises, and nothing was sent", function()
    local cyclic = {}
    cyclic[1] = { "x", cyclic }
    for _, value in ipairs { true, print, { "x", true }, { { {} }, print }, cyclic,
      { "x", nil, "y" }, io.stdout, coroutine.create(print) } do
      with_pipe(function(a, b)
        for _, method in ipairs { "send", "try_send", "write" } do
          local pattern = value == cyclic and "nested too deep" or "cannot send"
          local err = raises(pattern, function() a[method](a, "before", value) end)
          assert.matches("odd_values_spec.lua:%d+: ", err)
        end
        fails("ETIMEDOUT", b:recv(1, 0))
      end)
    end
  end)

  -- The list is looked at again when there is room.
  local CHANGES = {
    ["grows"] = { function(list) list[#list + 1] = "more" end, sent = "onemore" },
    ["shrinks"] = { function(list) list[1] = nil end, sent = "" },
    ["becomes long"] = { function(list) list[1] = ("x"):rep(100000) end, sent = ("x"):rep(100000) },
    ["becomes odd"] = { function(list) list[1] = true end, raises = "cannot send a boolean" },
    ["contains itself"] = { function(list) list[1] = list end, raises = "nested too deep" },
  }
  for name, change in pairs(CHANGES) do
    it("may be a list that " .. name .. " while the send waits: it is what it is then", function()
      with_pipe(function(a, b)
        assert(a:send(("y"):rep(100000)))
        local list = { "one" }
        local task, later = wire.spawn(pcall, a.send, a, list), wire.spawn(a.send, a, "!")
        wire.sleep(0)
        change[1](list)
        assert(b:recv(100000, 5))
        local _, ok, result = task:join(5)
        assert.equal(change.sent ~= nil, ok)
        if not ok then assert.matches(change.raises, result) end
        local expected = (change.sent or "") .. "!"
        assert.equal(expected, b:recv(#expected, 5))
        assert.same({ true, 1 }, { later:join(5) })
      end, { limits = { high_water = 10 } })
    end)
  end
end)
