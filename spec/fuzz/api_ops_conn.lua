-- Operations of the fuzz target `api` on connections: making, sending, receiving, ending them.
-- What this is not: what their results may be in general (api_model.lua).
local host = host -- luacheck: ignore
local wire = require "lunewire"
local model = require "spec.fuzz.api_model"

local call, fail = model.call, model.fail
local ops = {}

local function op(name, fn)
  model.name_op(name)
  ops[#ops + 1] = { name = name, run = fn }
end

local function set(text)
  local codes = {}
  for code in text:gmatch "%S+" do codes[code] = true end
  return codes
end

local RECV <const> = set "EOF ETIMEDOUT ECLOSED EMSGSIZE EPROTO ECONNRESET ECONNABORTED ETLS EPIPE"
local SEND <const> = set "ETIMEDOUT ECLOSED EPIPE ECONNRESET ECONNABORTED ETLS EMSGSIZE EPROTO EINVAL EAGAIN"

-- ---- making -------------------------------------------------------------------------------

local SIZES <const> = { 0, 1, 2, 3, 5, 8, 16, 31, 64, 100, 255, 256, 1000, 4096, 4097, 9000, 20000,
  32768, 40000, 65535, 65536, 70000, 140000, 270000 }
local BYTES_MOST <const> = 2000000

-- How much is sent at once; little once much was sent.
local function size(A)
  local n = SIZES[A:below(#SIZES) + 1]
  if model.bytes + n > BYTES_MOST then n = n % 7 end
  model.bytes = model.bytes + n
  return n
end

local function leb(n)
  local out = ""
  while n > 127 do out, n = out .. string.char(n & 127 | 128), n >> 7 end
  return out .. string.char(n)
end

local lua_framing = {
  decode = function(bytes, eof)
    model.in_call = false
    local at = bytes:find(";", 1, true)
    model.in_call = true
    if at then return bytes:sub(1, at - 1), at end
    if eof and #bytes > 4 then return false, "cut off", "EPROTO" end
  end,
  encode = function(message) return { message, ";" } end,
}

-- The framings: how each is made, and what send_frame makes of a message (nil: not known here).
local FRAMINGS <const> = {
  { "line", function() return wire.framing.line {} end, function(d) return d .. "\n" end },
  { "line", function() return wire.framing.line { max = 8, keep = true } end },
  { "delimiter", function() return wire.framing.delimiter "ab" end, function(d) return d .. "ab" end,
    delimiter = "ab" },
  { "delimiter", function() return wire.framing.delimiter("<1", { max = 40 }) end,
    function(d) return d .. "<1" end, delimiter = "<1" },
  { "fixed", function() return wire.framing.fixed(3) end, function(d) return d end },
  { "raw", function() return wire.framing.raw() end, function(d) return d end },
  { "length", function() return wire.framing.length { size = 2 } end,
    function(d) return string.pack(">s2", d) end },
  { "length", function() return wire.framing.length { size = 4, endian = "little", max = 500 } end,
    function(d) return string.pack("<s4", d) end, little = 4 },
  { "length1", function() return wire.framing.length { size = 1, includes_header = true } end,
    function(d) return string.char(#d + 1) .. d end },
  { "varint", function() return wire.framing.varint { max = 70000 } end,
    function(d) return leb(#d) .. d end },
  { "netstring", function() return wire.framing.netstring {} end,
    function(d) return #d .. ":" .. d .. "," end },
  { "header", function()
    return wire.framing.header { magic = 0x4C57, version = 1, size = 4, checksum = "crc32" }
  end },
  { "lua", function() return lua_framing end, function(d) return d .. ";" end },
}

local function framing(A)
  local n = A:below(#FRAMINGS * 2)
  return FRAMINGS[n + 1]
end

local LIMITS <const> = { { high_water = 100 }, { line = 20, frame = 30, all = 50 },
  { high_water = 5000, line = 1000 }, { frame = 1 << 20 } }

local tls

local function tls_options()
  if not tls then
    local cert, key = host.certificate()
    tls = assert(wire.tls_context { cert = cert, key = key, insecure = true,
      servername = "localhost" })
  end
  return tls
end

local function conn_options(A)
  local how = A:byte()
  if how & 15 == 0 then return {} end
  local f = how & 1 > 0 and framing(A) or nil
  return { framing = f and f[2](), limits = how & 2 > 0 and LIMITS[A:below(#LIMITS) + 1] or nil,
    tls = how & 28 == 28 and model.with_tls and tls_options() or nil }, f
end
ops.conn_options = conn_options

local ENDS_MOST <const> = 24

op("pipe", function(A)
  if #model.ends >= ENDS_MOST then return end
  local opts, f = conn_options(A)
  local ok, a, b = call(A, { what = "pipe", codes = {} }, wire.pipe, opts)
  if not ok then return end
  local x, y = model.stream(), model.stream()
  local first = model.add_end(a, x, y, { framing = f, tls = opts.tls })
  first.peer = model.add_end(b, y, x, { framing = f, tls = opts.tls, peer = first })
end)

-- ---- sending ------------------------------------------------------------------------------

local function pass(e, dir, A)
  return { what = "?", e = e, dir = dir, codes = dir == "recv" and RECV or SEND,
    timeout = A.timeout }
end

local function record(A, what, e, dir, timeout)
  local r = pass(e, dir, A)
  r.what, r.timeout = what, timeout
  return r
end

-- It was accepted: n bytes, these.
local function sent(e, bytes, n, what)
  if n ~= #bytes then fail(("%s: %s bytes accepted of %d"):format(what, n, #bytes)) end
  e.out:settle(e.conn, #bytes > 0 and 1 or 0)
  e.out:commit(bytes)
end

local function data_for(A, e)
  local how = A:byte()
  if how % 8 == 7 then return A:sub(32) end
  local data = e.out:payload(size(A))
  if how % 8 == 6 then data = data:gsub("(<%d+)%.", "%1\n") end
  if how % 8 == 5 then data = string.pack(">s2", data:sub(1, 300)) end
  return data
end

local function timeout_of(A, e)
  local t = A:time()
  return t, t or e.timeout
end

op("send", function(A, e)
  local data, t = data_for(A, e), A:time()
  local r = record(A, "send", e, "send", t)
  local ok, n
  if #data > 2 and A:byte() & 1 > 0 then
    ok, n = call(A, r, e.conn.send, e.conn, data:sub(1, 1), { data:sub(2, 2), { data:sub(3) } },
      { timeout = t })
  elseif t then
    ok, n = call(A, r, e.conn.send, e.conn, data, { timeout = t })
  else
    ok, n = call(A, r, e.conn.send, e.conn, data)
  end
  if ok then sent(e, data, n, "send") end
end)

op("try_send", function(A, e)
  local data = data_for(A, e)
  local ok, n = call(A, record(A, "try_send", e, "send", 0), e.conn.try_send, e.conn, data)
  if ok then sent(e, data, n, "try_send") end
end)

op("send_pkg", function(A, e)
  local data, t, header = data_for(A, e), A:time(), A:below(4) + 1
  if #data > 60000 then header = 4 end
  local r = record(A, "send_pkg", e, "send", t)
  local ok, n = call(A, r, e.conn.send_pkg, e.conn, data, { timeout = t, header = header })
  if ok then sent(e, string.pack(">s" .. header, data), n, "send_pkg") end
end)

op("send_frame", function(A, e)
  local data, t, f = data_for(A, e), A:time(), e.framing
  local r = record(A, "send_frame", e, "send", t)
  r.misuse = not f
  local ok, n = call(A, r, e.conn.send_frame, e.conn, data, t)
  if not ok then return end
  if f and f[3] then
    sent(e, f[3](data), n, "send_frame")
  else
    e.out.loose = true
  end
end)

op("write", function(A, e)
  local data = data_for(A, e)
  local r = record(A, "write", e, "send")
  local ok, returned = call(A, r, e.conn.write, e.conn, data, 1)
  if not ok then return end
  if returned ~= e.conn then fail "write does not return its connection" end
  sent(e, data .. "1", #data + 1, "write")
end)

op("flush", function(A, e)
  local t = A:time()
  local r = record(A, "flush", e, "send", t)
  if call(A, r, e.conn.flush, e.conn, t) and e.conn and not A.T and e.conn:stats().unsent ~= 0 then
    fail "flush left something unsent"
  end
end)

-- ---- receiving ----------------------------------------------------------------------------

-- What the other side may have sent meanwhile is known to it.
local function settle(e)
  local from = e.inp.from
  if from and from.conn then e.inp:settle(from.conn) end
end

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

local function recv(A, e, what, t, check, f, ...)
  local ok, data, _, partial = call(A, record(A, what, e, "recv", t), f, e.conn, ...)
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
  r.retry = opts.retry
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
  r.retry = opts.retry
  if skip then e.inp.loose = true end -- how much was thrown away is not told
  local ok, data, _, partial = call(A, r, e.conn.recv_line, e.conn, opts)
  if ok then took_line(e, "recv_line", data, keep) else failed(e, "recv_line", data, partial) end
end)

local DELIMITERS <const> = { "\n", ">", "<1.", ".2>", "ab", "\0" }

op("recv_until", function(A, e)
  local t, d, keep = A:time(), DELIMITERS[A:below(#DELIMITERS) + 1], A:byte() & 1 > 0
  local opts = options_of(A, t, { keep = keep })
  local r = record(A, "recv_until", e, "recv", t)
  r.retry = opts.retry
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
  r.retry = opts.retry
  local ok, data, _, partial = call(A, r, e.conn.recv_pkg, e.conn, opts)
  if not ok then return failed(e, "recv_pkg", data, partial) end
  received(e, "recv_pkg", string.pack(">s" .. header, data))
end)

local function took_frame(e, what, data, f, eof)
  if not (f and f[3]) then
    e.inp.loose = true
  elseif f[1] == "line" then
    took_line(e, what, data, false, eof)
  else
    received(e, what, f[3](data))
  end
end

op("recv_frame", function(A, e)
  local t, f = A:time(), e.framing
  local r = record(A, "recv_frame", e, "recv", t)
  r.misuse = not f
  local ok, data, _, partial = call(A, r, e.conn.recv_frame, e.conn, t)
  if ok then took_frame(e, "recv_frame", data, f) else failed(e, "recv_frame", data, partial) end
end)

-- As a file, a clean end is nil alone.
op("read", function(A, e)
  local formats = { "l", "L", "a", "*l", count(A) }
  local f = formats[A:below(#formats) + 1]
  local r = record(A, "read", e, "recv")
  local ok, data, _, partial = call(A, r, e.conn.read, e.conn, f)
  if not ok then return failed(e, "read", data, partial) end
  if data == nil then return check_end(e, "read") end
  if f == "l" or f == "*l" then return took_line(e, "read", data, false, true) end
  received(e, "read", data)
end)

local ITERATORS <const> = {
  { "lines", function(e, d) took_line(e, "lines", d, false, true) end },
  { "pkgs", function(e, d) received(e, "pkgs", string.pack(">s2", d)) end },
  { "frames", function(e, d) took_frame(e, "frames", d, e.framing, true) end },
  { "chunks", function(e, d) received(e, "chunks", d) end },
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
  local ok, data = call(A, record(A, "peek", e, "recv", t), e.conn.peek, e.conn, n, t)
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
  local r = { what = "send_recv", e = e, dir = "both", timeout = t }
  if #maybe.bytes > 0 then table.insert(e.out.maybe, maybe) end
  local ok, reply
  if pkg then
    ok, reply = call(A, r, e.conn.send_recv_pkg, e.conn, data, t)
  else
    ok, reply = call(A, r, e.conn.send_recv, e.conn, data, n, t)
  end
  e.out:settle(e.conn)
  e.out:forget(maybe)
  if ok and not maybe.sent and #maybe.bytes > 0 then fail "send_recv got a reply, and sent nothing" end
  if ok then received(e, "send_recv", pkg and string.pack(">s2", reply) or reply) end
  if not ok and reply == "EOF" then e.inp.loose = true end
end)

-- ---- ends ---------------------------------------------------------------------------------

op("close", function(A, e)
  local delay = A:byte() & 3 == 0 and (A:time() or 0.5) or nil
  if delay == HUGE then delay = 1 end
  if delay then
    e.may_close, e.out.ended = true, true
  else
    model.closed(e)
  end
  local r = { what = "close", e = e, after_close = true, raises = "deadlock" }
  call(A, r, e.conn.close, e.conn, delay)
end)

op("reset", function(A, e)
  local delay = A:byte() & 3 == 0 and 0.5 or nil
  e.out.cut = true
  if delay then
    e.may_close = true
  else
    model.closed(e)
  end
  e.out.ended, e.inp.cut = true, true
  call(A, { what = "reset", e = e, after_close = true }, e.conn.reset, e.conn, delay)
end)

op("close_write", function(A, e)
  e.out.ended = true
  local r = { what = "close_write", e = e, after_close = true }
  call(A, r, e.conn.close_write, e.conn)
end)

-- ---- times and settings -------------------------------------------------------------------

op("deadline", function(A, e)
  local which, t = A:below(3), A:time()
  local at = t and wire.now() + t or nil
  local now = wire.now()
  if which ~= 1 then e.recv_dl = at or math.huge end
  if which ~= 2 then e.send_dl = at or math.huge end
  if which ~= 1 then model.deadline_moved(e, "recv", math.max(e.recv_dl, now)) end
  if which ~= 2 then model.deadline_moved(e, "send", math.max(e.send_dl, now)) end
  local f = e.conn[({ [0] = "set_deadline", "set_send_deadline", "set_recv_deadline" })[which]]
  call(A, { what = "deadline", e = e, after_close = true }, f, e.conn, at)
end)

op("times", function(A, e)
  local which, t = A:below(4), A:time()
  if t and t < 0 then t = 0 end
  local r = { what = "times", e = e, after_close = true }
  if which == 0 then
    e.timeout = t or math.huge
    call(A, r, e.conn.set_timeout, e.conn, t or math.huge)
  elseif which < 3 then
    e.idle_due = t and wire.now() or math.huge -- it may have been idle for long
    model.deadline_moved(e, "recv", e.idle_due)
    call(A, r, e.conn.set_idle_timeout, e.conn, t or math.huge)
  else
    call(A, r, e.conn.set_recv_buffer_wait, e.conn, t and math.min(t, 2) or 0)
  end
end)

op("set_framing", function(A, e)
  local f = framing(A)
  e.framing = f
  call(A, { what = "set_framing", e = e, after_close = true }, e.conn.set_framing, e.conn,
    f and f[2]() or nil)
end)

op("facts", function(A, e)
  local c = e.conn
  local n = c:buffered()
  if math.type(n) ~= "integer" or n < 0 then fail("buffered() is " .. tostring(n)) end
  if e.closed and not c:closed() then fail "closed() is false after the close" end
  local s = c:stats()
  for _, key in ipairs { "bytes_in", "bytes_out", "messages_in", "messages_out", "unsent" } do
    if math.type(s[key]) ~= "integer" then fail("stats has no " .. key) end
  end
  if type(c:remote_addr()) ~= "string" or type(tostring(c)) ~= "string" then fail "no name" end
  c:local_addr()
  c:strerror()
  c:last_error()
  c:tls_info()
  call(A, { what = "facts", e = e }, c.option, c, "nodelay")
end)

op("start_tls", function(A, e)
  if not (e.peer and model.with_tls) or e.tls then return end
  e.inp.loose, e.out.loose, e.tls = true, true, true
  e.inp.ended, e.out.ended, e.may_close = true, true, true
  local t = A:time()
  local r = { what = "start_tls", e = e, untimed = true, misuse = true }
  local cert, key = host.certificate()
  call(A, r, e.conn.start_tls, e.conn, { cert = cert, key = key, insecure = true,
    timeout = t or 1 })
end)

-- Nobody of ours refers to it any more: it may be collected, which closes it.
op("drop", function(_, e)
  e.out.ended, e.out.loose = true, e.out.loose or #e.out.maybe > 0
  e.conn = nil
  for i, other in ipairs(model.ends) do
    if other == e then return table.remove(model.ends, i) end
  end
end)

ops.timeout_of = timeout_of
return ops
