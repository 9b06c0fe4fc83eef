-- Ten megabytes each way at once, each side ending its own when all is sent: everything arrives,
-- between two ends of ours and with other programs, slow readers and late ones; and what becomes
-- of it when one side closes or resets in the middle.
-- What this is not: the codes of a reset at each point of a dialogue (resets_spec).
local support = require "spec.support"
local wire = require "lunewire"
local bytes = require "spec.bytes"
local pki = require "spec.pki"

local it, fails = support.it, support.fails

local PATIENCE <const> = 20 * support.slowness
local SIZE <const> = support.slowness == 1 and 10 * 1000 * 1000 or 1000 * 1000
local ONE <const>, OTHER <const> = bytes.pattern(SIZE, 1), bytes.pattern(SIZE - 77, 2)

local function over_each(title, body, limit)
  for _, transport in ipairs(support.transports) do
    it(title .. " (" .. transport.name .. ")", function()
      local a, b = transport.pair { limits = { all = 2 * SIZE } }
      a:set_timeout(PATIENCE)
      b:set_timeout(PATIENCE)
      body(a, b, transport)
      a:close()
      b:close()
    end, limit or 60)
  end
end

-- Waits for both directions -> what b got, what a got, whether sending failed.
local function exchange(a, b, read_at_a, read_at_b)
  local tasks = { bytes.sender(a, ONE), bytes.sender(b, OTHER) }
  local at_a, at_b = read_at_a(a), read_at_b(b)
  for _, task in ipairs(tasks) do assert(task:join(PATIENCE)) end
  local _, got_b, failed_b = assert(at_b:join(PATIENCE))
  local _, got_a, failed_a = assert(at_a:join(PATIENCE))
  assert.same({}, { failed_a, failed_b })
  return got_b, got_a
end

local function check(a, b, read_at_a, read_at_b)
  local got_b, got_a = exchange(a, b, read_at_a, read_at_b)
  assert.is_true(got_b == ONE, #got_b)
  assert.is_true(got_a == OTHER, #got_a)
  for _, conn in ipairs { a, b } do
    fails("EOF", conn:recv(1))
    fails("EPIPE", conn:send "x")
  end
end

-- Rests after each piece.
local function slowly(conn)
  return wire.spawn(function()
    local parts = {}
    for chunk in conn:chunks { max = 200000 } do
      parts[#parts + 1] = chunk
      wire.sleep(0.001)
    end
    return table.concat(parts), select(2, conn:last_error())
  end)
end

-- Begins when the other side has sent all that it can.
local function late(conn)
  return wire.spawn(function()
    wire.sleep(0.1)
    return assert(conn:read "a")
  end)
end

describe("ten megabytes each way at once, with both ends of the stream behind them,", function()
  over_each("arrive whole", function(a, b) check(a, b, bytes.reader, bytes.reader) end)
  over_each("arrive whole at slow readers", function(a, b) check(a, b, slowly, slowly) end)
  over_each("arrive whole at late readers", function(a, b) check(a, b, late, late) end)

  over_each("arrive whole when one end is there long before the other begins", function(a, b)
    local sender = bytes.sender(a, ONE)
    assert.is_true(assert(b:read "a") == ONE)
    assert(sender:join(PATIENCE))
    sender = bytes.sender(b, OTHER)
    assert.is_true(assert(a:read "a") == OTHER)
    assert(sender:join(PATIENCE))
  end)

  -- Closing is the same for who has nothing to read any more.
  over_each("arrive whole although the sender closes at once, with all unsent", function(a, b)
    local reader = slowly(a)
    for at = 1, #OTHER, 100000 do assert(b:send(OTHER:sub(at, at + 99999))) end
    b:close()
    fails("ECLOSED", b:send "x")
    local _, got, failed = assert(reader:join(PATIENCE))
    assert.is_nil(failed)
    assert.is_true(got == OTHER, #got)
  end)

  over_each("are cut where one side resets, and every waiting call is told", function(a, b, t)
    for _, conn in ipairs { a, b } do -- the system is not to take everything
      conn:option("send_buffer", 64 * 1024)
      conn:option("recv_buffer", 64 * 1024)
    end
    local senders = { bytes.sender(a, ONE), bytes.sender(b, OTHER) }
    assert.equal(SIZE // 10, #assert(b:recv(SIZE // 10)))
    for _, sender in ipairs(senders) do
      support.eventually(function() return sender:status() == "waiting" end)
    end
    b:reset()
    local _, got, failed = assert(bytes.reader(a):join(PATIENCE))
    assert.is_true(failed == "ECONNRESET" or (t.no_reset and failed == nil), failed)
    assert.is_true(#got < #OTHER and OTHER:sub(1, #got) == got, #got)
    for _, sender in ipairs(senders) do
      local _, _, code = sender:join(PATIENCE)
      assert.equal("EERROR", code)
    end
    support.take_errors() -- they ended before somebody joined them
    assert.is_nil((a:send "x"))
    fails("ECLOSED", b:recv(1))
  end)
end)

-- ---- other programs ----------------------------------------------------------------------

local function write_file(name, data)
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(data))
  return name
end

local PROGRAMS <const> = {
  { "nc over TCP", "127.0.0.1:0", "nc -N 127.0.0.1 {port} <{file}" },
  { "nc over a Unix socket", "unix:{path}", "nc -N -U {path} <{file}" },
  { "socat over TCP", "127.0.0.1:0", "socat -t 20 STDIO TCP:127.0.0.1:{port} <{file}" },
  { "nc that reads slowly", "127.0.0.1:0",
    "nc -N 127.0.0.1 {port} <{file} | { sleep 0.3; head -c 1000000; sleep 0.2; cat; }" },
}

describe("ten megabytes each way at once with", function()
  for _, row in ipairs(PROGRAMS) do
    local name, address, command = table.unpack(row)
    it(name .. " arrive whole", function()
      local words = { path = pki.scratch "half", file = write_file(pki.scratch "one", ONE) }
      local other = write_file(pki.scratch "other", OTHER)
      local got
      local server <close> = assert(wire.serve((address:gsub("{path}", words.path)),
        { limits = { all = 2 * SIZE }, timeout = PATIENCE }, function(conn)
          local sender = bytes.sender(conn, OTHER)
          got = assert(conn:read "a")
          assert(sender:join(PATIENCE))
        end))
      words.port = server:port()
      local text = ("( %s ) | cmp - %s && echo same"):format(command, other)
      local output, status = support.peer((text:gsub("{(%w+)}", words)), 60):output()
      assert.same({ "same\n", 0 }, { output, status })
      support.eventually(function() return got end) -- it may have been the first to end
      assert.is_true(got == ONE)
      os.remove(words.file)
      os.remove(other)
    end, 60)
  end
end)
