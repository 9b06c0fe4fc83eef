-- Calls that wait, each with all that can end its wait: the material of specs that ask whether a
-- waiter resumes exactly once, and with what.
-- What this is not: a test; what is right is asked in once_spec and its neighbours.
--
-- waits.list: a list of { name=, open=, several=, transport= }; several: more than one call may
-- wait there, and each is served in its turn; transport: the name of the one that the call is made
-- over, where the same call is listed for several.  open() -> a place to wait at:
--   call(timeout)   the call that waits; without a timeout only what is below ends it
--   timed           false: it takes no timeout
--   ends            what ends it: cause -> { act, codes... }, one of which the call says then
--   disturbs        what does not end it: name -> act
--   serve()         lets one call succeed (nil: it cannot)
--   floods          one serve() serves all who wait
--   hands_over      what the first who waits is served with is its own, whatever becomes of it
--   close()         ends all that open() made, at once
-- Calls whose failure has no code of its own tell it as their caller would find out.
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local waits = { list = {} }

local transports = {} -- those that occur

-- call: its name; transport: nil, or what the list's names go on with
local function add(call, open, several, transport)
  local name = transport and call .. " over " .. transport or call
  local wait = { name = name, open = open, several = several, call = call, transport = transport }
  waits.list[#waits.list + 1] = wait
  if transport then transports[transport] = true end
end

-- A list of those over no transport or one that is chosen; chosen: name -> true, or the calls that
-- are enough there, as a set.
function waits.over(chosen)
  for name in pairs(chosen) do
    if not transports[name] then error("there is no wait over " .. name, 2) end
  end
  local list = {}
  for _, wait in ipairs(waits.list) do
    local calls = not wait.transport or chosen[wait.transport]
    if calls == true or calls and calls[wait.call] then list[#list + 1] = wait end
  end
  return list
end

-- ---- what a call said ----------------------------------------------------------------

-- results: of pcall(call) -> "CANCELED", "raised: ...", a code, or "served".
function waits.outcome(results)
  if not results[1] then
    return results[2] == wire.CANCELED and "CANCELED" or "raised: " .. tostring(results[2])
  end
  if results[2] == nil or results[2] == false then return results[4] or "end" end
  return "served"
end

-- What nobody refers to is gone afterwards.
function waits.collect()
  collectgarbage()
  collectgarbage()
end

-- ---- receiving -----------------------------------------------------------------------

-- The first step of an iterator; at its end what last_error() says.
local function step(method)
  return function(conn, timeout)
    local next_value, state = conn[method](conn, timeout)
    local value = next_value(state)
    if value ~= nil then return value end
    local message, code = conn:last_error()
    return nil, message, code
  end
end

local function reading(format)
  return function(conn, timeout)
    conn:set_timeout(timeout or math.huge)
    return conn:read(format)
  end
end

local function copying(conn, timeout)
  conn:set_timeout(timeout or math.huge)
  local sink = { write = function(self) return self end }
  return wire.copy(sink, conn, 3)
end

-- Each waits for these bytes, one where any are enough; fin: what it says of the peer's end,
-- where that is not EOF.
local RECEIVES = {
  { "recv(n)", function(conn, timeout) return conn:recv(3, timeout) end, "abc" },
  { "recv()", function(conn, timeout) return conn:recv { timeout = timeout } end, "a" },
  { "recv_some", function(conn, timeout) return conn:recv_some(3, timeout) end, "a" },
  { "recv_line", function(conn, timeout) return conn:recv_line(timeout) end, "abc\n" },
  { "recv_until", function(conn, timeout) return conn:recv_until("--", timeout) end, "abc--" },
  { "recv_pkg", function(conn, timeout) return conn:recv_pkg(timeout) end, "\0\3abc" },
  { "recv_frame", function(conn, timeout) return conn:recv_frame(timeout) end, "3:abc," },
  { "peek", function(conn, timeout) return conn:peek(3, timeout) end, "abc", alone = true },
  { "read(n)", reading(3), "abc", fin = "end" },
  { 'read "l"', reading "l", "abc\n", fin = "end" },
  { 'read "L"', reading "L", "abc\n", fin = "end" },
  { 'read "a"', reading "a", "abc", fin = "served", all = true, alone = true },
  { "lines", step "lines", "abc\n", fin = "end" },
  { "pkgs", step "pkgs", "\0\3abc", fin = "end" },
  { "frames", step "frames", "3:abc,", fin = "end" },
  { "chunks", step "chunks", "a", fin = "end" },
  { "send_recv", function(conn, timeout) return conn:send_recv("?", 3, timeout) end, "abc",
    alone = true },
  { "send_recv_pkg", function(conn, timeout) return conn:send_recv_pkg("?", timeout) end,
    "\0\3abc", alone = true },
  { "copy from a connection", copying, "abc", alone = true },
}

local function past() return wire.now() - 1 end

-- What ends any call on a connection, whatever it does there.
local function ends_of(conn, ends)
  ends["close"] = { function() conn:close() end, "ECLOSED" }
  ends["a close with a delay"] = { function() conn:close(0.001) end, "ECLOSED" }
  ends["reset"] = { function() conn:reset() end, "ECLOSED" }
  ends["a deadline in the past"] = { function() conn:set_deadline(past()) end, "ETIMEDOUT" }
  return ends
end

local function receiving(form, transport)
  return function()
    local conn, peer = transport.pair { framing = wire.framing.netstring() }
    local ends = ends_of(conn, {
      ["a receive deadline in the past"] =
        { function() conn:set_recv_deadline(past()) end, "ETIMEDOUT" },
      ["an idle timeout"] = { function() conn:set_idle_timeout(0.001) end, "ETIMEDOUT" },
      ["the peer's end"] = { function() peer:close_write() end, form.fin or "EOF" },
      ["the peer's close"] = { function() peer:close() end, form.fin or "EOF" },
      ["the peer's reset"] = { function() peer:reset() end, "ECONNRESET",
        transport.no_reset and (form.fin or "EOF") or nil },
      ["that its peer is forgotten"] = { function()
        peer = nil
        waits.collect()
      end, form.fin or "EOF" },
    })
    return {
      call = function(timeout) return form[2](conn, timeout) end,
      ends = ends,
      serve = function()
        peer:send(form[3])
        if form.all then peer:close_write() end
      end,
      close = function()
        conn:reset()
        if peer then peer:reset() end
      end,
    }
  end
end

for _, transport in ipairs(support.transports) do
  for _, form in ipairs(RECEIVES) do
    add(form[1], receiving(form, transport), not form.alone, transport.name)
  end
end

-- ---- sending -------------------------------------------------------------------------

local SMALL <const> = { high_water = 4096 }
local PIECE <const> = ("x"):rep(1 << 20)

local function big_file()
  local file = assert(io.tmpfile())
  file:write(("y"):rep(100000))
  file:seek "set"
  return file
end

local function timed(conn, timeout, method, ...)
  conn:set_timeout(timeout or math.huge)
  return conn[method](conn, ...)
end

local SENDS = {
  { "send", function(conn, timeout) return conn:send("x", { timeout = timeout or math.huge }) end },
  { "write", function(conn, timeout) return timed(conn, timeout, "write", "x") end },
  { "send_pkg", function(conn, timeout) return conn:send_pkg("x", timeout) end },
  { "send_frame", function(conn, timeout) return conn:send_frame("x", timeout) end },
  { "send_recv, for room,", function(conn, timeout) return conn:send_recv("x", 1, timeout) end,
    answer = "r", alone = true },
  { "flush", function(conn, timeout) return conn:flush(timeout) end, alone = true },
  { "send_file", function(conn, timeout)
    local file <close> = big_file()
    return timed(conn, timeout, "send_file", file)
  end, alone = true },
  { "copy to a connection", function(conn, timeout)
    local file <close> = big_file()
    conn:set_timeout(timeout or math.huge)
    return wire.copy(conn, file)
  end, alone = true },
}

local function sending(form, transport)
  return function()
    local conn, peer = transport.pair { framing = wire.framing.netstring(), limits = SMALL }
    conn:option("send_buffer", 4096)
    tools.fill(conn, PIECE, 0.002)
    -- What closes takes in what comes for a while, and forgets it; a pipe's end does not.
    local gone = transport.name ~= "pipe" and (form.answer and "EOF" or "served") or nil
    local drain
    return {
      call = function(timeout) return form[2](conn, timeout) end,
      ends = ends_of(conn, {
        ["a send deadline in the past"] =
          { function() conn:set_send_deadline(past()) end, "ETIMEDOUT" },
        ["the peer's reset"] = { function() peer:reset() end, "ECONNRESET", "EPIPE" },
        ["that its peer is forgotten"] = { function()
          peer = nil
          waits.collect()
        end, "ECONNRESET", "EPIPE", gone },
      }),
      serve = function()
        local here = peer
        if not here then return end
        if form.answer then here:send(form.answer) end
        drain = drain or wire.spawn(function() for _ in here:chunks() do end end)
      end,
      floods = true,
      close = function()
        conn:reset()
        if peer then peer:reset() end
        if drain then drain:join() end
      end,
    }
  end
end

for _, transport in ipairs(support.transports) do
  for _, form in ipairs(SENDS) do
    add(form[1], sending(form, transport), not form.alone, transport.name)
  end
end

require "spec.waits_elsewhere"(add)

return waits
