-- A connection that breaks at byte n, for every n of a dialogue, at either end and in either
-- direction: one failure for each call, with the right code; nothing hangs, nothing is left, what
-- came before is delivered, and a neighbour of the same server notices nothing.
-- What this is not: resets by a peer that is another program (tcp_spec).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local faults = require "spec.faults.control"
local pki = require "spec.pki"

local PATIENCE <const> = 5 * support.slowness
local MOST <const> = 100000 -- bytes of a dialogue, by far

-- ---- what is said ----------------------------------------------------------------------

-- Each: how it is sent, how it is received, the data, its bytes on the wire.
local MESSAGES <const> = {
  { "send", "recv_line", "a line", "a line\n" },
  { "send_pkg", "recv_pkg", "package", "\0\7package" },
  { "send_frame", "recv_frame", "netstring", "9:netstring," },
  { "send", "recv", "bytes", "bytes", 5 },
  { "send_pkg", "recv_pkg", "", "\0\0" },
}

local function send(conn, m)
  return conn[m[1]](conn, m[1] == "send" and m[4] or m[3])
end

-- How many messages are whole in n bytes.
local function whole(n)
  local count = 0
  for _, m in ipairs(MESSAGES) do
    n = n - #m[4]
    if n < 0 then break end
    count = count + 1
  end
  return count
end

-- ---- what may come of it ---------------------------------------------------------------

local CODES <const> = { ECONNRESET = true, EPIPE = true, EOF = true, ETLS = true }

-- What the calls of one side returned: the messages that it got, and its failures.
local function new_side() return { got = 0, failures = {} } end

-- A result, or one failure of a permitted code, which stays the same if the call is made again.
local function check(side, call, again, result, message, code)
  if result ~= nil then return result end
  assert.is_string(message, call)
  assert.is_true(CODES[code], ("%s: %s, %s"):format(call, message, code))
  side.failures[#side.failures + 1] = ("%s: %s"):format(call, code)
  local twice, _, code2 = again()
  assert.is_nil(twice, call .. " succeeds after it failed")
  assert.equal(code, code2, call)
end

local function receive(side, conn, m)
  local function call() return conn[m[2]](conn, m[5]) end
  local data = check(side, m[2], call, call())
  if not data then return false end
  assert.equal(m[3], data)
  side.got = side.got + 1
  return true
end

-- Nothing is received behind an end; a send that fails leaves what has come.
local function finish(side, conn)
  local rest, _, code = conn:read "a"
  if rest == nil then assert.is_true(CODES[code], code) else assert.equal("", rest) end
  side.ended = rest and "end" or code
  local closed, _, why = conn:close()
  if closed == nil then assert.is_true(CODES[why], why) end
  support.fails("ECLOSED", conn:recv(1))
end

local function answer(side, conn)
  for _, m in ipairs(MESSAGES) do
    if not receive(side, conn, m) then break end
    send(conn, m)
  end
  finish(side, conn)
end

local function ask(side, conn)
  for _, m in ipairs(MESSAGES) do
    send(conn, m)
    conn:flush()
    if not receive(side, conn, m) then break end
  end
  conn:close_write()
  finish(side, conn)
end

-- ---- where it is said ------------------------------------------------------------------

local OPTS <const> = { framing = wire.framing.netstring() }

local function options(transport)
  return { framing = OPTS.framing, tls = transport.context, timeout = PATIENCE }
end

-- A server that answers, and to each of its connections what came of it; in memory, no server.
local function serve(transport)
  local world = { transport = transport, server_sides = {} }
  local function handler(conn)
    local side = new_side()
    world.server_sides[#world.server_sides + 1] = side
    conn:set_timeout(PATIENCE)
    answer(side, conn)
  end
  if not transport.pipe then
    world.server = assert(wire.serve(transport.addr(), options(transport), handler))
  end
  world.handler = handler
  return world
end

-- -> the client's end, or nil, message, code; in memory the other end gets its handler too.
local function open(world)
  local opts = options(world.transport)
  if world.server then return wire.connect(world.server:addr(), opts) end
  opts.timeout = nil
  local a, b, code = wire.pipe(opts)
  if not a then return nil, b, code end
  a:set_timeout(PATIENCE)
  world.task = wire.spawn(world.handler, b)
  return a
end

local function await_server(world)
  if world.task then assert(world.task:join(PATIENCE)) end
  world.task = nil
  if not world.server then return end
  support.eventually(function() return world.server:conn_num() == (world.neighbour and 1 or 0) end)
end

local function close(world)
  if world.neighbour then
    local side = new_side()
    ask(side, world.neighbour)
    assert.equal(#MESSAGES, side.got)
  end
  world.neighbour = nil
  await_server(world)
  if world.server then assert(world.server:shutdown()) end
end

-- One dialogue, in which the armed end breaks -> did it, the client's side, the server's or nil.
local function run(world, plan)
  local broken = faults.tally().resets
  local known = #world.server_sides
  faults.arm(plan.ending, { reset_in = plan.reset_in, reset_out = plan.reset_out })
  local conn, message, code = open(world)
  local client = new_side()
  if conn then
    ask(client, conn)
  else
    assert.is_true(CODES[code], ("connect: %s, %s"):format(message, code))
    client.refused = code
  end
  await_server(world)
  assert.is_true(#world.server_sides <= known + 1)
  return faults.tally().resets > broken, client, world.server_sides[known + 1]
end

-- ---- what must be so -------------------------------------------------------------------

-- What arrived before byte n was delivered; nothing was answered that was not asked.
local function check_delivered(plan, n, client, server)
  local receiver = (plan.ending == "first") == (plan.reset_in ~= nil) and client or server
  if not receiver then return assert.equal(0, n) end
  assert.is_true(receiver.got >= math.min(whole(n), #MESSAGES),
    ("%d messages got, of %d in %d bytes"):format(receiver.got, whole(n), n))
end

-- Over TLS a stream that was cut off is never taken for one that ended: who has not got all has no
-- end, neither in a call nor in a read of the rest.
local function check_cut(side)
  if side.got == #MESSAGES then return end
  assert.is_false(side.ended == "end" or side.ended == "EOF", side.ended)
  for _, failure in ipairs(side.failures) do
    assert.is_nil(failure:find ": EOF$", failure)
  end
end

-- Both ends complete, or one of them failed.
local function check_sides(did, client, server)
  if not did then
    assert.same({}, client.failures)
    assert.equal(#MESSAGES, client.got)
    assert.equal(#MESSAGES, server and server.got)
    return
  end
  assert.is_true(#client.failures <= 1)
  assert.is_true(not server or #server.failures <= 1)
end

local function plan_of(ending, direction, n)
  return { ending = ending, ["reset_" .. direction] = n }
end

-- n from 0 on, until the dialogue is over before it breaks -> how often it broke.
local function every(transport, ending, direction)
  local world = serve(transport)
  if world.server then
    world.neighbour = assert(wire.connect(world.server:addr(), options(transport)))
    support.eventually(function() return world.server_sides[1] end)
  end
  local count = 0
  for n = 0, MOST do
    local plan = plan_of(ending, direction, n)
    local did, client, server = run(world, plan)
    check_sides(did, client, server)
    if did and not transport.context then check_delivered(plan, n, client, server) end
    if did and transport.context then
      if not client.refused then check_cut(client) end
      if server then check_cut(server) end
    end
    if not did then break end
    count = count + 1
  end
  close(world)
  return count
end

local context = assert(wire.tls_context(pki.server("good", { ca = pki.ca.ca,
  servername = "localhost" })))

local function any_port() return "127.0.0.1:0" end

local TRANSPORTS <const> = {
  { name = "tcp", addr = any_port },
  { name = "unix", addr = support.unix_name },
  { name = "pipe", pipe = true },
  { name = "tls", addr = any_port, context = context },
  { name = "tls over a Unix socket", addr = support.unix_name, context = context },
  { name = "tls in a pipe", pipe = true, context = context },
}

for _, transport in ipairs(TRANSPORTS) do
  describe("a connection over " .. transport.name, function()
    for _, ending in ipairs { "first", "second" } do
      for _, direction in ipairs { "in", "out" } do
        support.it(("whose %s end breaks at any byte %s"):format(ending, direction), function()
          local bytes = 0
          for _, m in ipairs(MESSAGES) do bytes = bytes + #m[4] end
          local least = transport.context and 500 or bytes
          assert.is_true(every(transport, ending, direction) >= least)
        end, 60)
      end
    end
  end)
end
