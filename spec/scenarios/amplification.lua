-- What a byte from the network costs at most: instructions per byte for each kind of input that a
-- peer may choose to be expensive, and how that grows with the amount.  Prints lines of
-- "name value unit", and of each promise that does not hold:
--
--   lua5.4 spec/scenarios/amplification.lua [--short | NAME]
--
-- Each kind is run under callgrind with none, some and twice as many bytes.  Growth is what the
-- second half cost beside the first: about 1 where each byte costs the same, 3 where each costs
-- what those before it did.  What the sender costs is in it.  A byte is to cost less than a hundred
-- times what it does to answer short lines, and no more however many came before it; exits with 1
-- if one does.  The short form takes a few kinds, and seconds.
-- What this is not: time: the system's part of the work is not counted.
local wire = require "lunewire"

local IS_SHORT <const> = arg[1] == "--short"
local SOME <const> = (IS_SHORT and 16 or 32) * 1024 -- bytes
local MOST <const> = { times = 100, growth = 2 }
local COMMON <const> = "echoed" -- what others are compared with
local SHORT <const> = { "length", "in_lua", "trickled_lines_8" }

-- ---- one run ---------------------------------------------------------------------------

local F <const> = wire.framing

local function tcp(opts)
  local server <close> = assert(wire.listen("127.0.0.1:0", opts))
  local client = assert(wire.connect(server:addr(), opts))
  return client, (assert(server:accept(60)))
end

local function secure(opts)
  local pki = require "spec.pki"
  local server <close> = assert(wire.listen("127.0.0.1:0", { tls = pki.server() }))
  local accepting = wire.spawn(server.accept, server, 60)
  local client = assert(wire.connect(server:addr(), { tls = pki.client(opts) }))
  return client, (assert(select(2, accepting:join())))
end

-- All at once, then the end.
local function flood(conn, unit, n)
  return wire.spawn(function()
    local piece = unit:rep(math.max(1, 16384 // #unit))
    assert(n == 0 or n >= #piece, "nothing to measure")
    for _ = 1, n // #piece do assert(conn:send(piece)) end
    conn:close()
  end)
end

local function all(...) for _ in ... do end end -- luacheck: ignore

-- Messages that are as short as can be, framed so.
local function framed(framing, unit)
  return function(n)
    local a, b = tcp { framing = framing }
    local task = flood(a, unit, n)
    for _ in b:frames() do end -- luacheck: ignore
    assert(not b:last_error())
    assert(task:join())
  end
end

-- A byte at a time on so many connections in turn, and what the other sides await.
local function trickled(count, await, opts)
  return function(n)
    local ends, tasks = {}, {}
    for i = 1, count do
      local a, b = tcp(opts)
      ends[i], tasks[i] = a, wire.spawn(await, b)
    end
    for _ = 1, n // count do
      for i = 1, count do
        ends[i]:send "x"
        ends[i]:flush()
      end
      wire.sleep(0)
    end
    for i = 1, count do
      ends[i]:close()
      assert(tasks[i]:join())
    end
  end
end

local in_lua <const> = {
  decode = function(bytes)
    if #bytes < 2 then return nil, 2 end
    local total = 2 + string.unpack(">I2", bytes)
    if #bytes < total then return nil, total end
    return total, total
  end,
  encode = function(message) return message end,
}

local KINDS <const> = {
  lines = function(n)
    local a, b = tcp()
    local task = flood(a, "\n", n)
    all(b:lines())
    assert(task:join())
  end,
  echoed = function(n)
    local a, b = tcp()
    local sender = wire.spawn(function()
      for _ = 1, n // 4096 do assert(a:send(("x\n"):rep(2048))) end
      a:close_write()
    end)
    local reader = wire.spawn(function() all(a:chunks()) end)
    for line in b:lines() do assert(b:send(line, "\n")) end
    b:close()
    assert(sender:join() and reader:join())
  end,
  unread = function(n)
    local a, b = tcp()
    local task = flood(a, "xxx\n", n)
    for line in b:lines { keep = true } do
      b:unread(line)
      assert(b:recv_line())
    end
    assert(task:join())
  end,
  skipped = function(n)
    local a, b = tcp()
    local task = flood(a, "x", n)
    b:recv_line { skip = true, max = 100 }
    assert(task:join())
  end,
  delimiter = framed(F.delimiter(("a"):rep(31) .. "b"), ("a"):rep(512) .. "b"),
  length = framed(F.length { size = 1 }, "\0"),
  varint = framed(F.varint(), "\0"),
  padded_varint = framed(F.varint(), ("\128"):rep(9) .. "\0"),
  netstring = framed(F.netstring(), "0:,"),
  header = framed(F.header { magic = 0xCAFE, checksum = false }, "\xCA\xFE\0\0\0\0\0\0"),
  in_lua = framed(in_lua, "\0\0"),
  trickled_line = trickled(1, function(conn) conn:recv_line() end),
  trickled_lines_8 = trickled(8, function(conn) conn:recv_line() end),
  trickled_count_8 = trickled(8, function(conn) conn:recv(1 << 20) end),
  trickled_for_nobody = trickled(1, function(conn)
    wire.sleep(0.1)
    conn:read "a"
  end),
  tls_records = function(n)
    local a, b = secure()
    local task = wire.spawn(function()
      for _ = 1, n // 22 do -- what a record of TLS 1.3 adds to a byte
        a:send "x"
        a:flush()
      end
      a:close()
    end)
    all(b:chunks())
    assert(task:join())
  end,
  datagrams = function(n)
    local got, a = 0, assert(wire.udp())
    local udp = assert(wire.serve_udp("127.0.0.1:0", function() got = got + 1 end))
    local to = udp:local_addr()
    for _ = 1, n // 64 do
      for _ = 1, 64 do a:send_to("x", to) end
      wire.sleep(0.001)
    end
    udp:close()
    a:close()
  end,
}

local function run(name, n) wire.run(KINDS[name], n) end

-- ---- all of them -----------------------------------------------------------------------

-- -> instructions for each of these amounts; all at once
local function costs(name, ...)
  local programs, found = {}, {}
  for i, n in ipairs { ... } do
    programs[i] = assert(io.popen(("valgrind --tool=callgrind --callgrind-out-file=/dev/null "
      .. "lua5.4 spec/scenarios/amplification.lua --run %s %d 2>&1"):format(name, n)))
  end
  for i, program in ipairs(programs) do
    local text = program:read "a"
    local ended = program:close()
    found[i] = ended and tonumber(text:match "Collected : (%d+)") or error(text)
  end
  return table.unpack(found)
end

-- -> what a byte costs, how that grows
local function measure(name)
  local none, some, twice = costs(name, 0, SOME, 2 * SOME)
  return (twice - none) / (2 * SOME), (twice - some) / (some - none)
end

local function tell(title, each, growth)
  print(("%s " .. (each < 1000 and "%.4g" or "%.0f") .. " instructions/byte"):format(title, each))
  print(("%s-growth %.2f x"):format(title, growth))
end

-- Do the promises hold?
local function judge(title, each, growth, common)
  local times = each / common
  local is_cheap, is_even = times < MOST.times, growth < MOST.growth
  if not is_cheap then
    print(("FAILED: %s: a byte costs %.0f times what it does to answer lines"):format(title, times))
  end
  if not is_even then
    print(("FAILED: %s: the second half costs %.2f times the first"):format(title, growth))
  end
  return is_cheap and is_even
end

io.stdout:setvbuf "line"
if arg[1] == "--run" then
  run(arg[2], tonumber(arg[3]))
  os.exit(0, true)
end
local function chosen()
  if IS_SHORT then return SHORT end
  if arg[1] then return { (assert(KINDS[arg[1]] and arg[1], "no such kind")) } end
  local names = {}
  for name in pairs(KINDS) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local common, all_good = measure(COMMON), true
for _, name in ipairs(chosen()) do
  local title = "amplification-" .. name:gsub("_", "-")
  local each, growth = measure(name)
  tell(title, each, growth)
  all_good = judge(title, each, growth, common) and all_good
end
os.exit(all_good)
