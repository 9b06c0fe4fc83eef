-- Scenarios of framings: messages both ways over a pipe.
-- What this is not: what a framing is (the specs), what must hold afterwards (recovery.lua).
local wire = require "lunewire"

-- Both ends are here: one would wait in vain for the other if its task never begins.
local WAIT <const> = 0.3

-- Runs a task with each end of a pipe.
local function between(opts, first, second)
  wire.run(function()
    local a, b = assert(wire.pipe(opts))
    local task = wire.spawn(function()
      local conn <close> = b
      conn:set_timeout(WAIT)
      second(conn)
    end)
    local conn <close> = a
    conn:set_timeout(WAIT)
    first(conn)
    conn:close_write()
    assert(task:join())
  end)
end

local MESSAGES <const> = { "", "one", ("long"):rep(20000) }

local function exchange(make, opts)
  return function()
    between({ framing = make() }, function(conn)
      for _, message in ipairs(MESSAGES) do
        assert(conn:send_frame(message, opts))
        assert(same(conn:recv_frame(), message))
      end
    end, function(conn)
      for message in conn:frames() do assert(conn:send_frame(message, opts)) end
    end)
  end
end

-- Messages that end in a bar.
local function in_lua()
  return {
    decode = function(bytes)
      local at = bytes:find("|", 1, true)
      if not at then return nil, #bytes + 1 end
      return bytes:sub(1, at - 1), at
    end,
    encode = function(message) return { message, "|" } end,
  }
end

local function receive_in_all_ways()
  between(nil, function(conn)
    assert(conn:send("a line\n", "8 bytes.", { "nested", 1, { 2 } }))
    assert(conn:send_pkg("package"))
    assert(same(conn:recv_until "--", "answer"))
    assert(same(conn:read(4), "tail"))
    assert(conn:close_write())
    assert(same(conn:read "a", "rest"))
  end, function(conn)
    assert(same(conn:recv_line(), "a line"))
    assert(same(conn:peek(3), "8 b") and same(conn:recv(8), "8 bytes."))
    assert(same(conn:recv_some(8), "nested12"))
    assert(conn:unread "un" and same(conn:recv(2), "un"))
    assert(same(conn:recv_pkg(), "package"))
    assert(conn:write("answer", "--", "tail", "rest") == conn)
    assert(conn:recv() == nil and conn:strerror())
  end)
end

local function send_and_receive()
  between(nil, function(conn)
    assert(same(conn:send_recv("ping", 4), "pong"))
    assert(same(conn:send_recv_pkg "ping", "pong"))
    assert(conn:stats().messages_in == 2 and tostring(conn))
  end, function(conn)
    assert(same(conn:recv(4), "ping") and conn:send "pong")
    assert(same(conn:recv_pkg(), "ping") and conn:send_pkg "pong")
    assert(conn:flush())
  end)
end

local framing = wire.framing

return {
  { name = "receive", body = receive_in_all_ways },
  { name = "send and receive", body = send_and_receive },
  { name = "framing line", body = exchange(function() return framing.line { max = 100000 } end) },
  { name = "framing length", body = exchange(function()
    return framing.length { size = 4, offset = 2 }
  end, { head = "ab" }) },
  { name = "framing header", body = exchange(function()
    return framing.header { magic = "LW", version = 1, checksum = "crc32" }
  end, { type = 7 }) },
  { name = "framing varint", body = exchange(function() return framing.varint() end) },
  { name = "framing netstring", body = exchange(function() return framing.netstring() end) },
  { name = "framing in lua", body = exchange(in_lua) },
}
