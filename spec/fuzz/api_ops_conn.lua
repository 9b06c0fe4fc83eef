-- Operations of the fuzz target `api` on connections: making, sending, ending, setting them.
-- What this is not: receiving (api_ops_recv.lua), what results may be in general (api_model.lua).
local host = host -- luacheck: ignore
local wire = require "lunewire"
local model = require "spec.fuzz.api_model"
local framings = require "spec.fuzz.api_framings"

local call, fail, record, sent = model.call, model.fail, model.record, model.sent
local SIZES <const> = model.SIZES
local ops = {}

local function op(name, fn)
  model.name_op(name)
  ops[#ops + 1] = { name = name, run = fn }
end

-- ---- making -------------------------------------------------------------------------------

local BYTES_MOST <const> = 2000000

-- How much is sent at once; little once much was sent.
local function size(A)
  local n = SIZES[A:below(#SIZES) + 1]
  if model.bytes + n > BYTES_MOST then n = n % 7 end
  model.bytes = model.bytes + n
  return n
end

local ENDS_MOST <const> = 24

op("pipe", function(A)
  if #model.ends >= ENDS_MOST then return end
  local opts, f = framings.options(A)
  local ok, a, b = call(A, { what = "pipe", codes = {} }, wire.pipe, opts)
  if not ok then return end
  local x, y = model.stream(), model.stream()
  local first = model.add_end(a, x, y, { framing = f, tls = opts.tls })
  first.peer = model.add_end(b, y, x, { framing = f, tls = opts.tls, peer = first })
end)

-- ---- sending ------------------------------------------------------------------------------

local function data_for(A, e)
  local how = A:byte()
  if how % 8 == 7 then return A:sub(32) end
  local data = e.out:payload(size(A))
  if how % 8 == 6 then data = data:gsub("(<%d+)%.", "%1\n") end
  if how % 8 == 5 then data = string.pack(">s2", data:sub(1, 300)) end
  return data
end

op("send", function(A, e)
  local data, t = data_for(A, e), A:time()
  local r = record(A, "send", e, "send", t)
  r.size = #data
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
  r.size = #data + header
  local ok, n = call(A, r, e.conn.send_pkg, e.conn, data, { timeout = t, header = header })
  if ok then sent(e, string.pack(">s" .. header, data), n, "send_pkg") end
end)

op("send_frame", function(A, e)
  local data, t, f = data_for(A, e), A:time(), e.framing
  local r = record(A, "send_frame", e, "send", t)
  r.misuse, r.size = not f, #data + 20
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
  r.size = #data + 1
  local ok, returned = call(A, r, e.conn.write, e.conn, data, 1)
  if not ok then return end
  if returned ~= e.conn then fail "write does not return its connection" end
  sent(e, data .. "1", #data + 1, "write")
end)

op("flush", function(A, e)
  local t = A:time()
  local r = record(A, "flush", e, "send", t)
  r.size = 0
  if call(A, r, e.conn.flush, e.conn, t) and e.conn and not A.T and e.conn:stats().unsent ~= 0 then
    fail "flush left something unsent"
  end
end)

-- ---- ends ---------------------------------------------------------------------------------

op("close", function(A, e)
  local delay = A:byte() & 3 == 0 and (A:time() or 0.5) or nil
  if delay == math.huge then delay = 1 end
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
  local f = framings.pick(A)
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
  if e.handed then return end -- a handler will ask whose it is
  e.out.ended, e.out.loose = true, e.out.loose or #e.out.maybe > 0
  e.conn = nil
  for i, other in ipairs(model.ends) do
    if other == e then return table.remove(model.ends, i) end
  end
end)

return ops
