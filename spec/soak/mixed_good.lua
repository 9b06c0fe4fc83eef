-- Clients of the mixed soak that behave, in every way that there is: each compares all bytes that
-- come back.
--
-- A session raises {ended = code} where the server has gone; that is a failure unless it was to go
-- meanwhile.  Bytes that are not those expected are always one.
-- What this is not: the clients that do not behave (mixed_bad.lua).
local ways = require "spec.soak.mixed_ways"
local traffic = require "spec.soak.traffic"
local wire = require "lunewire"

local mixed_good = {}

local AT_ONCE <const> = 24
local PATIENCE <const> = ways.PATIENCE
local must, same, dial, finish = ways.must, ways.same, ways.dial, ways.finish

local sessions = {}

-- Many messages at once, received by another task.
local function frames(world, name)
  local framing = traffic.framings[name]
  local conn <close> = dial(world, name, { framing = framing.make() })
  local messages, kind = {}, name == "header" and math.random(0, 255) or nil
  for i = 1, math.random(1, 12) do messages[i] = framing.message() end
  local sender = ways.start(function()
    for _, message in ipairs(messages) do
      must(conn:send_frame(message, { type = kind, timeout = PATIENCE }))
    end
  end)
  for _, message in ipairs(messages) do
    local got, more = must(conn:recv_frame(PATIENCE))
    same(got, message)
    if kind then same(more, kind) end
  end
  ways.join(sender)
  finish(conn)
end

for _, name in ipairs(traffic.names) do
  sessions[#sessions + 1] = function(world) frames(world, name) end
  sessions[#sessions + 1] = function(world) frames(world, name) end
end

-- A stream in pieces, received as it comes.
local function stream(conn)
  local data = traffic.bytes(math.random(1, 200000))
  local sender = ways.start(function()
    local at = 1
    while at <= #data do
      local n = math.random(1, 20000)
      must(conn:send(data:sub(at, at + n - 1), { timeout = PATIENCE }))
      at = at + n
      if math.random(4) == 1 then wire.sleep(0.001) end
    end
    must(conn:close_write())
  end)
  local at = 1
  for chunk in conn:chunks { timeout = PATIENCE } do
    same(chunk, data:sub(at, at + #chunk - 1))
    at = at + #chunk
  end
  local message, code = conn:last_error()
  must(not code, message, code)
  if at ~= #data + 1 then must(nil, "a stream is cut off", "EOF") end
  ways.join(sender)
end

sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, "raw")
  stream(conn)
end

sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, "forward")
  stream(conn)
end

sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, "upgrade")
  must(conn:send "STARTTLS\n")
  same(must(conn:recv_line(PATIENCE)), "go")
  must(conn:start_tls(world.tls))
  ways.talk(conn)
  finish(conn)
end

sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, "file")
  for _ = 1, 3 do
    local offset, count = math.random(0, 100000), math.random(1, 100000)
    must(conn:send(("%d %d\n"):format(offset, count)))
    same(must(conn:recv(count, PATIENCE)), world.file:sub(offset + 1, offset + count))
  end
end

-- Those that do not behave flood the queue of the server, which loses some: they are sent again,
-- and what was answered late comes twice.
local function ask_datagram(udp, text, asked)
  asked[text] = true
  for _ = 1, 200 do
    must(udp:send(text))
    local got, message, code
    repeat got, message, code = udp:recv(0.2) until not got or got == text or not asked[got]
    if got then return same(got, text) end
    must(code == "ETIMEDOUT" or code == "ECONNREFUSED", message, code)
  end
  must(nil, "no datagram came back", "ETIMEDOUT")
end

sessions[#sessions + 1] = function(world)
  local asked = {}
  local udp <close> = assert(wire.udp "127.0.0.1:0")
  udp:connect(world.addresses.udp)
  for i = 1, 5 do ask_datagram(udp, i .. traffic.bytes(math.random(1, 1400)), asked) end
end

-- Dials again behind each "bye"; what it sends then goes to the new connection.
sessions[#sessions + 1] = function(world)
  local client = wire.client(world.addresses.lines, { timeout = PATIENCE,
    reconnect = { min = 0.001, max = 0.05 } })
  for _ = 1, 3 do
    must(client:connect(PATIENCE))
    ways.talk(client)
    must(client:send(math.random(2) == 1 and "bye\n" or "reset\n"))
    local line, message, code = client:recv_line(PATIENCE)
    must(not line, message, code)
  end
  client:disconnect()
end

sessions[#sessions + 1] = function(world)
  local pool <close> = setmetatable({ wire.pool(world.addresses.lines, { max = 3 }) },
    { __close = function(p) p[1]:close() end })
  local tasks = {}
  for i = 1, 6 do
    tasks[i] = ways.start(function()
      local conn <close> = must(pool[1]:get(PATIENCE))
      ways.talk(conn)
    end)
  end
  for _, task in ipairs(tasks) do ways.join(task) end
end

sessions[#sessions + 1] = function(world)
  local text = traffic.letters(math.random(1, 2000))
  same(must(wire.request(world.addresses.lines, text .. "\n", { recv = "line",
    timeout = PATIENCE })), text)
end

-- In memory, with TLS or without.
sessions[#sessions + 1] = function(world)
  local a <close>, b = wire.pipe(math.random(2) == 1 and { tls = world.pipe_tls } or {})
  local echoing = ways.start(function()
    for chunk in b:chunks() do must(b:send(chunk)) end
    b:close()
  end)
  stream(a)
  ways.join(echoing)
end

-- Calls that are cancelled or time out lose nothing.
sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, "lines")
  local first = traffic.letters(math.random(1, 300))
  local task = wire.spawn(function() return conn:recv_line() end)
  wire.sleep(0)
  task:cancel()
  local line, message, code = conn:recv_line(0.001)
  must(not line and code == "ETIMEDOUT", message, code)
  must(conn:send(first, "\n"))
  line, message, code = conn:recv_line(0)
  must(line or code == "ETIMEDOUT", message, code)
  same(line or must(conn:recv_line(PATIENCE)), first)
  task:join()
  finish(conn)
end

-- An iterator of the user's that waits, and is left early.
sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, "lines")
  local next_word = wire.co.wrap(function()
    while true do coroutine.yield(must(conn:recv_line(PATIENCE))) end
  end)
  for i = 1, 5 do
    must(conn:send("word", i, "\n"))
    same(next_word(), "word" .. i)
  end
end

sessions[#sessions + 1] = function(world)
  local log = must(wire.netlog(world.addresses.log, { timeout = PATIENCE }))
  for i = 1, math.random(1, 50) do log:print("log " .. i) end
  log:close()
end

-- An error in the handler ends this connection alone.
sessions[#sessions + 1] = function(world)
  local conn <close> = dial(world, "lines")
  must(conn:send "raise\n")
  local line, message, code = conn:recv_line(PATIENCE)
  must(not line and (code == "EOF" or code == "ECONNRESET"), message, code)
end

-- n sessions of each kind in an order that the seed says -> {sessions=, cut=} (cut: that ended with
-- the server)
function mixed_good.play(seed, n, world)
  return ways.play(sessions, seed, n, world, AT_ONCE)
end

return mixed_good
