-- Operations of the fuzz target `api` that receive, each in its form, or send and receive.
-- What this is not: making, sending, ending (api_ops_conn.lua).
local model = require "spec.fuzz.api_model"

local call, fail, settle, record = model.call, model.fail, model.settle, model.record
local SIZES <const> = model.SIZES
local ops = {}

local function op(name, fn)
  model.name_op(name)
  ops[#ops + 1] = { name = name, run = fn }
end

-- ---- receiving ----------------------------------------------------------------------------

-- The stream has ended, in order: all that was sent has come.
local function check_end(e, what)
  settle(e)
  if e.inp.rest ~= "" and not e.inp.loose then
    fail(("%s: EOF, but %d bytes have not come"):format(what, #e.inp.rest))
  end
end

-- A call has failed: on EOF it hands over what there was of a message.
local function failed(e, what, code, partial, keeps)
  if code ~= "EOF" then return end
  settle(e)
  if type(partial) == "string" then e.inp:take(partial, what) end
  if not keeps then check_end(e, what) end
end

local function received(e, what, bytes)
  if type(bytes) ~= "string" then fail(what .. " returned a " .. type(bytes)) end
  settle(e)
  e.inp:take(bytes, what)
end

local function has(text)
  return function(rest) return rest:find(text, 1, true) end
end

local has_line <const> = has "\n"

local function has_pkg(header)
  return function(rest)
    return #rest >= header and #rest - header >= string.unpack(">I" .. header, rest)
  end
end

local function recv(A, e, what, t, check, f, ...)
  local r = record(A, what, e, "recv", t)
  r.needs = 1
  local ok, data, _, partial = call(A, r, f, e.conn, ...)
  if ok then
    check(data)
    received(e, what, data)
  else
    failed(e, what, data, partial)
  end
  return ok
end

local function options_of(A, t, more)
  local how = A:byte()
  local opts = more or {}
  opts.timeout = t
  if how & 7 == 1 then opts.max = 1 + A:below(100) end
  if how & 7 == 2 then opts.retry = { count = 1 + how // 128, interval = 0.5 } end
  return opts
end

local function count(A)
  local n = SIZES[A:below(#SIZES) + 1]
  return n
end

op("recv n", function(A, e)
  local n, t = count(A), A:time()
  local opts = options_of(A, t)
  local r = record(A, "recv n", e, "recv", t)
  r.retry, r.needs = opts.retry, n
  local ok, data, _, partial = call(A, r, e.conn.recv, e.conn, n, opts)
  if not ok then return failed(e, "recv n", data, partial) end
  if #data ~= n then fail(("recv(%d) gave %d bytes"):format(n, #data)) end
  received(e, "recv n", data)
end)

local function check_some(data)
  if #data == 0 then fail "recv gave no byte" end
end

op("recv", function(A, e)
  local t = A:time()
  recv(A, e, "recv", t, check_some, e.conn.recv, { timeout = t })
end)

op("recv_some", function(A, e)
  local t, n = A:time(), count(A) + 1
  recv(A, e, "recv_some", t, function(data)
    check_some(data)
    if #data > n then fail "recv_some gave more than asked for" end
  end, e.conn.recv_some, n, t)
end)

op("recv_now", function(A, e)
  recv(A, e, "recv_now", 0, function() end, e.conn.recv_now)
end)

-- The line's end was either of two.
local function took_line(e, what, data, keep, eof)
  local s = e.inp
  settle(e)
  if type(data) ~= "string" then fail(what .. " returned a " .. type(data)) end
  if s.loose then return end
  if keep then
    if data:sub(-1) ~= "\n" and not eof then fail(what .. ": no newline") end
    return s:take(data, what)
  end
  if data:find("\n", 1, true) then fail(what .. ": a newline within a line") end
  local after = s.rest:sub(#data + 1, #data + 2)
  local ends = after:sub(1, 1) == "\n" and "\n" or after == "\r\n" and after
  if not ends and eof and #s.rest == #data then ends = "" end
  if not ends then s:expect(data .. "\n", what) end
  s:take(data .. ends, what)
end

op("recv_line", function(A, e)
  local t, keep, skip = A:time(), A:byte() & 1 > 0, A:byte() & 7 == 0
  local opts = options_of(A, t, { keep = keep, skip = skip })
  local r = record(A, "recv_line", e, "recv", t)
  r.retry, r.whole = opts.retry, has_line
  if skip then e.inp.loose = true end -- how much was thrown away is not told
  local ok, data, _, partial = call(A, r, e.conn.recv_line, e.conn, opts)
  if ok then took_line(e, "recv_line", data, keep) else failed(e, "recv_line", data, partial) end
end)

local DELIMITERS <const> = { "\n", ">", "<1.", ".2>", "ab", "\0" }

op("recv_until", function(A, e)
  local t, d, keep = A:time(), DELIMITERS[A:below(#DELIMITERS) + 1], A:byte() & 1 > 0
  local opts = options_of(A, t, { keep = keep })
  local r = record(A, "recv_until", e, "recv", t)
  r.retry, r.whole = opts.retry, has(d)
  local ok, data, _, partial = call(A, r, e.conn.recv_until, e.conn, d, opts)
  if not ok then return failed(e, "recv_until", data, partial) end
  if (data:find(d, 1, true) or #data + 1) + (keep and #d or 0) - 1 ~= #data then
    fail "recv_until: not at the first delimiter"
  end
  received(e, "recv_until", keep and data or data .. d)
end)

op("recv_pkg", function(A, e)
  local t, header = A:time(), A:below(4) + 1
  local opts = options_of(A, t, { header = header })
  local r = record(A, "recv_pkg", e, "recv", t)
  r.retry, r.whole = opts.retry, has_pkg(header)
  local ok, data, _, partial = call(A, r, e.conn.recv_pkg, e.conn, opts)
  if not ok then return failed(e, "recv_pkg", data, partial) end
  received(e, "recv_pkg", string.pack(">s" .. header, data))
end)

-- The framing may be another one since.
local function has_frame(e)
  local f = e.framing
  local whole = f and f.whole
  return whole and function(rest) return e.framing == f and whole(rest) end
end

local function took_frame(e, what, data, f)
  if not (f and f[3]) then
    e.inp.loose = true
  elseif f[1] == "line" then
    took_line(e, what, data, false)
  else
    received(e, what, f[3](data))
  end
end

op("recv_frame", function(A, e)
  local t, f = A:time(), e.framing
  local r = record(A, "recv_frame", e, "recv", t)
  r.misuse, r.whole = not f, has_frame(e)
  local ok, data, _, partial = call(A, r, e.conn.recv_frame, e.conn, t)
  if ok then took_frame(e, "recv_frame", data, f) else failed(e, "recv_frame", data, partial) end
end)

-- As a file, a clean end is nil alone.
op("read", function(A, e)
  local formats = { "l", "L", "a", "*l", count(A) }
  local f = formats[A:below(#formats) + 1]
  local r = record(A, "read", e, "recv")
  if math.type(f) then r.needs = math.max(f, 1) elseif f ~= "a" then r.whole = has_line end
  local ok, data, _, partial = call(A, r, e.conn.read, e.conn, f)
  if not ok then return failed(e, "read", data, partial) end
  if data == nil then return check_end(e, "read") end
  if f == "l" or f == "*l" then return took_line(e, "read", data, false, true) end
  received(e, "read", data)
end)

local ITERATORS <const> = {
  { "lines", function(e, d) took_line(e, "lines", d, false, true) end,
    function() return has_line end },
  { "pkgs", function(e, d) received(e, "pkgs", string.pack(">s2", d)) end,
    function() return has_pkg(2) end },
  { "frames", function(e, d) took_frame(e, "frames", d, e.framing) end, has_frame },
  { "chunks", function(e, d) received(e, "chunks", d) end,
    function() return function(rest) return #rest > 0 end end },
}
for _, i in ipairs(ITERATORS) do model.name_op(i[1]) end

op("iterate", function(A, e)
  local i, t = ITERATORS[A:below(4) + 1], A:time()
  local r = record(A, i[1], e, "recv", t)
  r.misuse, r.after_close = i[1] == "frames" and not e.framing, true
  local ok, step, state = call(A, r, e.conn[i[1]], e.conn, { timeout = t })
  if not ok then return end
  for _ = 1, 1 + A:below(6) do
    r = record(A, i[1], e, "recv", t)
    r.misuse, r.after_close = i[1] == "frames" and not e.framing, true
    r.whole = i[3](e)
    local good, data = call(A, r, step, state)
    if not good then return end
    if data == nil and not e.conn then return end
    if data == nil then
      local message, code = e.conn:last_error()
      if code == nil and message ~= nil then fail "last_error without a code" end
      if code == nil and not e.closed then check_end(e, i[1]) end
      return
    end
    i[2](e, data)
  end
end)

op("peek", function(A, e)
  local n, t = count(A), A:time()
  local r = record(A, "peek", e, "recv", t)
  r.needs = n
  local ok, data = call(A, r, e.conn.peek, e.conn, n, t)
  if not ok then return end
  if #data ~= n then fail "peek gave another number of bytes" end
  settle(e)
  e.inp:expect(data, "peek")
end)

op("unread", function(A, e)
  local data = e.out:payload(A:below(40))
  local r = record(A, "unread", e)
  if call(A, r, e.conn.unread, e.conn, data) and not e.inp.loose then
    e.inp.rest = data .. e.inp.rest
  end
end)

-- ---- both ---------------------------------------------------------------------------------

op("send_recv", function(A, e)
  local pkg, n, t = A:byte() & 1 > 0, A:below(12), A:time()
  local data = e.out:payload(A:below(50))
  local maybe = { bytes = pkg and string.pack(">s2", data) or data }
  local r = { what = "send_recv", e = e, dir = "both", timeout = t, request = maybe, conn = e.conn }
  if #maybe.bytes > 0 then table.insert(e.out.maybe, maybe) end
  local ok, reply
  local conn = e.conn -- others may drop theirs meanwhile
  if pkg then
    ok, reply = call(A, r, conn.send_recv_pkg, conn, data, t)
  else
    ok, reply = call(A, r, conn.send_recv, conn, data, n, t)
  end
  e.out:settle(conn)
  e.out:forget(maybe)
  if ok and not maybe.sent and #maybe.bytes > 0 then fail "send_recv got a reply unasked" end
  if ok then received(e, "send_recv", pkg and string.pack(">s2", reply) or reply) end
  if not ok and reply == "EOF" then e.inp.loose = true end
end)

return ops
