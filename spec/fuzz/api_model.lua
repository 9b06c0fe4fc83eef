-- The model of the fuzz target `api`: what each call may return, and when; what must arrive.
--
-- A stream is one direction of a connection: what was sent and not yet received. An end is one side
-- of a connection. A record is one call under way; `call` makes it, and every way in which a call
-- can end is judged there.
-- What this is not: which calls are made (api_ops_*.lua) and by whom (api.lua).
local host = host -- luacheck: ignore
local wire = require "lunewire"

local M = {}

local HUGE <const> = math.huge
local SLACK <const> = 1e-9

-- Of this input.  in_call: the library is at work, so a finalizer may meddle.
M.ends, M.tasks, M.pending = {}, {}, {}
M.in_call, M.closing, M.busy, M.bytes, M.stops = false, false, 0, 0, 0

local fail = host.fail
M.fail = fail

-- ---- for people: API_TRACE=1 in the environment shows each call ----------------------------

local tracing = os.getenv "API_TRACE"

local function excerpt(v)
  local s = type(v) == "string" and ("%q"):format(v) or tostring(v)
  return #s > 60 and s:sub(1, 60) .. "..." or s
end

local function say(A, ...)
  local words = { ("%9.3f %s%s"):format(wire.now(), A.ctx, A.T and " " .. A.T.id or ""), ... }
  io.stderr:write(table.concat(words, " "), "\n")
end

function M.trace(A, name, e)
  if tracing then say(A, name, e and "of stream " .. e.out.tag or "") end
end

local function trace_end(r, ...)
  if not tracing then return end
  local values = { ... }
  for i = 1, select("#", ...) do values[i] = excerpt(values[i]) end
  say(r.A, "   " .. r.what, "->", table.concat(values, ", "))
end

-- ---- marks: what libFuzzer sees of the model ----------------------------------------------

local numbers, numbered = {}, 0

-- Texts become small numbers, in the order in which they come.
local function number_of(text)
  local n = numbers[text]
  if not n then
    n = numbered
    numbers[text], numbered = n, n + 1
  end
  return n
end

local CODES <const> = "EOF ETIMEDOUT ECLOSED EMSGSIZE EPROTO EAGAIN ECONNRESET EPIPE ETLS ECERT "
  .. "ECANCELED EERROR ECONNREFUSED EHOSTUNREACH ENOTFOUND EINVAL ENOTSUP EMFILE ENOTCONN "
  .. "ECONNABORTED EADDRINUSE EBUSY ENOBUFS EIO"
local known = {}
for code in CODES:gmatch "%S+" do known[code] = true end

local WHATS <const> = 64
local what_numbers, whats = {}, 0
local code_numbers = { ok = 0, raised = 1, canceled = 2 }
do
  local n = 3
  for code in CODES:gmatch "%S+" do code_numbers[code], n = n, n + 1 end
end

-- Ops register in a fixed order, so that a mark means the same in each input.
function M.name_op(what)
  if not what_numbers[what] then
    what_numbers[what], whats = whats, whats + 1
    assert(whats <= WHATS * 2)
  end
end

local CONTEXTS <const> = { main = 0, task = 1, co = 2, hook = 3, gc = 4, plain = 5, sort = 6 }

local function mark(r, how)
  local what = what_numbers[r.what] or 0
  local ctx = CONTEXTS[r.A.ctx] or 0
  host.mark((what * 28 + (code_numbers[how] or 27)) * 2 + (ctx > 1 and 1 or 0))
end
M.number_of = number_of

-- ---- streams ------------------------------------------------------------------------------

local Stream = {}
Stream.__index = Stream

local streams_made = 0

function M.stream()
  streams_made = streams_made + 1
  return setmetatable({ tag = streams_made, rest = "", maybe = {}, messages = 0, counter = 0 },
    Stream)
end

-- Bytes of its own: whoever finds them elsewhere sees whose they are.
function Stream:payload(n)
  self.counter = self.counter + 1
  local unit = ("<%d.%d>"):format(self.tag, self.counter)
  return unit:rep(n // #unit + 1):sub(1, n)
end

function Stream:commit(bytes)
  if #bytes == 0 then return end
  self.messages = self.messages + 1
  self.rest = self.rest .. bytes
end

-- What a call may have sent that has not returned: the connection has counted it if so.
function Stream:settle(conn, more)
  if not self.maybe[1] or not conn then return end
  local sent = conn:stats().messages_out - (more or 0)
  while self.maybe[1] and sent > self.messages do
    local first = table.remove(self.maybe, 1)
    first.sent = true
    self:commit(first.bytes)
  end
end

function Stream:forget(maybe)
  for i, m in ipairs(self.maybe) do
    if m == maybe then return table.remove(self.maybe, i) end
  end
end

-- The next bytes are these.
function Stream:expect(bytes, what)
  if self.loose or self.rest:sub(1, #bytes) == bytes then return end
  fail(("%s: stream %d: received %s (%d bytes), but next is %s (%d bytes)"):format(what, self.tag,
    excerpt(bytes), #bytes, excerpt(self.rest), #self.rest))
end

function Stream:take(bytes, what)
  self:expect(bytes, what)
  if not self.loose then self.rest = self.rest:sub(#bytes + 1) end
end

-- ---- ends ---------------------------------------------------------------------------------

-- out, inp: its streams.
function M.add_end(conn, out, inp, more)
  local e = { conn = conn, out = out, inp = inp, timeout = HUGE, recv_dl = HUGE, send_dl = HUGE,
    idle_due = HUGE }
  for k, v in pairs(more or {}) do e[k] = v end
  out.from, inp.to = e, e
  M.ends[#M.ends + 1] = e
  return e
end

-- A deadline moved: who waits may end earlier than it thought.
function M.deadline_moved(e, dir, at)
  for r in pairs(M.pending) do
    if r.e == e and (r.dir == dir or r.dir == "both") then
      r.earliest = math.min(r.earliest, at)
      r.moved = true
    end
  end
end

-- This side closed it: nobody waits there any more once the loop has turned.  Who is given a
-- message while a finalizer closes has it already.
function M.closed(e)
  e.closed = true
  e.out.ended = true
  if M.in_finalizer then return end
  for r in pairs(M.pending) do
    if r.e == e and r.dir then r.closed_meanwhile = true end
  end
end

-- What the other side may have sent in a call that has not returned is known to it.
function M.settle(e)
  local from = e.inp.from
  if from and from.conn then e.inp:settle(from.conn) end
end

-- needs: so many bytes; whole(rest): is there a message?
local function is_there(r, rest)
  if r.needs then return #rest >= r.needs end
  return r.whole and r.whole(rest)
end

-- By whoever resumed or closed its coroutine, or one around it.
function M.was_meddled(A)
  while A do
    if A.meddled then return true end
    A = A.outer
  end
  return false
end

-- Nothing can happen any more: does r, the first in its line, wait for what is there?
local function check_forgotten(r)
  local e, s = r.e, r.e.inp
  if s.loose or M.was_meddled(r.A) or e.closed then return end
  M.settle(e)
  if is_there(r, s.rest) then
    fail(("%s waits, and what it waits for is there: %d bytes"):format(r.what, #s.rest))
  end
  if s.from and s.from.closed then fail(r.what .. " waits for a peer that has closed") end
end

local ROOM <const> = 1000 -- bytes that any connection takes on which nothing is under way

-- The same of one who sends: has all gone that went before?
local function check_blocked(r)
  local e, s = r.e, r.e.out
  if s.loose or M.was_meddled(r.A) or e.closed or not r.size or r.size > ROOM then return end
  s:settle(e.conn)
  if s.rest == "" and #s.maybe == 0 then
    fail(("%s waits with %d bytes, and nothing is before it"):format(r.what, r.size))
  end
end

-- [end] = the first of those who wait there: it stands before the others
local function first_of(dir)
  local first = {}
  for r in pairs(M.pending) do
    local e, in_line = r.e, r.dir == dir or r.dir == "both"
    if e and in_line and (not first[e] or first[e].seq > r.seq) then first[e] = r end
  end
  return first
end

function M.check_stuck()
  for _, r in pairs(first_of "recv") do
    if r.dir == "recv" then check_forgotten(r) end
  end
  for _, r in pairs(first_of "send") do
    if r.dir == "send" then check_blocked(r) end
  end
end

local function check_deadlock(r)
  if r.dir ~= "recv" and r.dir ~= "send" then return end
  for other in pairs(M.pending) do
    if other.e == r.e then return end -- it stands before, perhaps
  end
  if r.dir == "recv" then check_forgotten(r) else check_blocked(r) end
end

-- ---- calls --------------------------------------------------------------------------------

local CANNOT_WAIT <const> = { hook = true, gc = true, plain = true, sort = true }

-- Is it, or what it runs in, where Lua cannot yield?
local function is_confined(A)
  while A do
    if CANNOT_WAIT[A.ctx] then return true end
    A = A.outer
  end
  return false
end

local function check_raised(r, err)
  local A = r.A
  if err == wire.CANCELED then
    local resumed = M.was_meddled(A) -- maybe by one that was cancelled
    if not (A.T and A.T.canceled or A.canceled or resumed or M.signaled or is_confined(A)
      or r.any_error) then
      fail(r.what .. " raised CANCELED, but nobody cancelled")
    end
    A.saw_cancel = true
    mark(r, "canceled")
    return
  end
  if r.any_error then return mark(r, "raised") end
  if type(err) ~= "string" or #err < 5 then fail(r.what .. " raised " .. tostring(err)) end
  if err:find "attempt to" or err:find "internal" then
    fail(r.what .. " raised from within: " .. err)
  end
  mark(r, "raised")
  if err:find "deadlock: " then check_deadlock(r) end
  local expected = r.misuse and not err:find "^lua/lunewire/"
    or err:find "deadlock: " and (not A.T or M.was_meddled(A))
    or err:find "cannot wait" and (M.was_meddled(A) or is_confined(A))
    or err:find "in a finalizer" and is_confined(A)
    or err:find "Lua state is closing" and M.closing
    or err:find "was waiting in" and M.was_meddled(A)
    or r.raises and err:find(r.raises)
  if not expected then fail(r.what .. " raised: " .. err) end
end

-- A request that did not go heeds no deadline of receiving.
local function latest_of(r)
  if not r.request then return r.earliest end
  r.e.out:settle(r.conn)
  return r.request.sent and r.earliest or r.send_due
end

local function check_timeout(r)
  if r.untimed then return end
  local now, busy = wire.now(), M.busy - r.busy
  if now < r.earliest - SLACK then
    fail(("%s: ETIMEDOUT at %g, begun at %g, not due before %g"):format(r.what, now, r.start,
      r.earliest))
  end
  local late = now - math.max(latest_of(r), r.start) - busy
  if late > SLACK and not r.moved and not r.retry then
    fail(("%s: ETIMEDOUT at %g, %g s late"):format(r.what, now, late))
  end
end

local function check_code(r, code)
  local e = not M.signaled and r.e -- a signal shuts everything down
  if not known[code] then fail(r.what .. ": unknown code " .. tostring(code)) end
  if r.codes and not r.codes[code] then fail(r.what .. ": code " .. code) end
  if code == "ETIMEDOUT" then
    check_timeout(r)
  elseif e and code == "ECLOSED" then
    if not (e.closed or e.may_close or e.server and e.server.shut) then
      fail(r.what .. ": ECLOSED, but nobody closed it")
    end
  elseif e and code == "EOF" and r.dir then
    if not (e.inp.ended or e.inp.loose) then fail(r.what .. ": EOF, but the peer did not end") end
  elseif e and code == "ECONNRESET" then
    if not (e.inp.ended or e.inp.cut or e.out.cut) then
      fail(r.what .. ": ECONNRESET, but nobody reset it")
    end
  elseif e and code == "EPIPE" then
    if not (e.out.ended or e.inp.ended or e.inp.cut) then
      fail(r.what .. ": EPIPE without cause")
    end
  end
end

local function check_failure(r, message, code)
  if type(message) ~= "string" or #message < 3 then
    fail(r.what .. ": no message: " .. tostring(message))
  end
  check_code(r, code)
  mark(r, code)
end

local function check_budget(r)
  local now = wire.now()
  if r.limit and now > r.limit + (M.busy - r.busy) + SLACK and not r.moved then
    fail(("%s: returned at %g, due at %g"):format(r.what, now, r.limit))
  end
end

-- Everything that a call can return comes through here, and first of all.
local function finish(r, ok, a, b, c, d, e)
  M.in_call = false
  trace_end(r, ok, a, b, c, d)
  if r.over then fail(r.what .. " returned twice") end
  r.over = true
  M.pending[r] = nil
  if not ok then
    check_raised(r, a)
    r.raised = a
    return false, nil, nil, nil, a
  end
  check_budget(r)
  if r.was_closed and not (a == nil and c == "ECLOSED") and not r.after_close then
    fail(("%s after the close gave %s, %s, %s"):format(r.what, a, b, c))
  end
  if r.closed_meanwhile and not (a == nil and (c == "ECLOSED" or c == "ETIMEDOUT" or c == nil)) then
    fail(("%s was closed meanwhile, and gave %s, %s, %s"):format(r.what, a, b, c))
  end
  if a == nil and not r.no_result and c ~= nil then
    check_failure(r, b, c)
    return false, c, b, d, e
  end
  mark(r, "ok")
  return true, a, b, c, d, e
end

local function due_of(r, e, timeout)
  local due = timeout == HUGE and HUGE or r.start + math.max(timeout, 0)
  r.limit = due < HUGE and due or nil
  r.send_due = e and math.min(due, e.send_dl)
  if e and r.dir and r.dir ~= "send" then
    due = math.min(due, e.recv_dl, e.idle_due)
    if e.idle_due < HUGE then r.moved = true end
  end
  if e and r.dir and r.dir ~= "recv" then due = math.min(due, e.send_dl) end
  return due
end

local calls = 0

-- Calls f(...) as the actor A.  r: {what=, e= its end, dir= "recv" or "send", timeout= (the end's),
-- needs=, whole= or size= what it waits for, request= what it sends first, codes= those that may
-- come, misuse= it may raise, after_close= it works on a closed end}.
-- -> true, results...; false, code, message, fourth result; false, nil, nil, nil, error
function M.call(A, r, f, ...)
  local e = r.e
  calls = calls + 1
  r.A, r.busy, r.start, r.seq = A, M.busy, wire.now(), calls
  local timeout = r.timeout or (e and r.dir and e.timeout) or HUGE
  r.earliest = due_of(r, e, timeout)
  if r.retry then r.limit = nil end
  if r.dir == "both" and e.send_dl < HUGE then r.moved = true end
  if e then r.was_closed = e.closed end
  M.pending[r] = true
  M.in_call = true
  return finish(r, pcall(f, ...))
end

-- ---- what the operations on connections share ---------------------------------------------

M.SIZES = { 0, 1, 2, 3, 5, 8, 16, 31, 64, 100, 255, 256, 1000, 4096, 4097, 9000, 20000, 32768,
  40000, 65535, 65536, 70000, 140000, 270000 }

local function set(text)
  local codes = {}
  for code in text:gmatch "%S+" do codes[code] = true end
  return codes
end

local RECV <const> = set "EOF ETIMEDOUT ECLOSED EMSGSIZE EPROTO ECONNRESET ECONNABORTED ETLS EPIPE"
local SEND <const> =
  set "ETIMEDOUT ECLOSED EPIPE ECONNRESET ECONNABORTED ETLS EMSGSIZE EPROTO EINVAL EAGAIN"

-- Of a call on e, dir: "recv" or "send".
function M.record(_, what, e, dir, timeout)
  return { what = what, e = e, dir = dir, timeout = timeout,
    codes = dir == "recv" and RECV or SEND }
end

-- It was accepted: n bytes, these.
function M.sent(e, bytes, n, what)
  if n ~= #bytes then fail(("%s: %s bytes accepted of %d"):format(what, n, #bytes)) end
  e.out:settle(e.conn, #bytes > 0 and 1 or 0)
  e.out:commit(bytes)
end

return M
