-- What the fuzz target "options" does with an input: makes values of its bytes, calls a public
-- function with them, and looks at how that ended.
--
-- A call returns something, or nil, a text and a code, or raises. What it raises is a text that
-- says what is wrong, or what a metamethod of the input raised; and nothing is left open behind it.
-- What this is not: it waits for nothing; a wait would be a finding, as an input that takes long.
local wire = require "lunewire"
local core = require "lunewire.core"

local host <const> = _G.host -- what fuzz_options.c gives: texts in PEM

local MARK <const> = setmetatable({}, { __name = "raised by the input" })

-- ---- bytes -----------------------------------------------------------------------------

local Input = {}
Input.__index = Input

local function input_of(bytes) return setmetatable({ bytes = bytes, at = 1 }, Input) end

function Input:left() return #self.bytes - self.at + 1 end

function Input:byte()
  local b = self.bytes:byte(self.at)
  self.at = self.at + 1
  return b or 0
end

function Input:below(n) return self:byte() % n end

function Input:pick(list) return list[1 + self:below(#list)] end

function Input:text(n)
  local text = self.bytes:sub(self.at, self.at + n - 1)
  self.at = self.at + n
  return text
end

-- ---- values ----------------------------------------------------------------------------

local NUMBERS <const> = {
  0, 1, 2, 3, 4, 8, 255, 256, 65535, 65536, -1, -2, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 53,
  math.maxinteger, math.mininteger, math.maxinteger - 1, 0.5, 1.0, -0.0, 1e-300, 1e300, 2.0 ^ 63,
  -2.0 ^ 63, 0 / 0, math.huge, -math.huge, 3e9, 1e15,
}

local WORDS <const> = {
  "timeout", "max", "keep", "skip", "header", "retry", "count", "interval", "framing", "limits",
  "tls", "nodelay", "keepalive", "idle", "local_addr", "line", "frame", "all", "high_water", "size",
  "endian", "offset", "adjust", "includes_header", "strip", "magic", "version", "checksum", "type",
  "head", "cert", "key", "password", "ca", "servername", "alpn", "verify", "insecure",
  "min_version", "max_version", "ciphers", "ciphersuites", "sni", "session", "keylog",
  "handshake_timeout", "role",
  "backlog", "reuse_port", "ipv6_only", "mode", "max_conns", "idle_timeout", "drain_timeout",
  "on_accept", "on_close", "on_shutdown", "queue", "reuse_addr", "broadcast", "recv_buffer",
  "send_buffer", "workers", "recv", "reconnect", "on_connect", "on_disconnect", "min", "jitter",
  "max_idle", "lifetime", "prefix", "date", "time", "microseconds", "utc", "file", "long_file",
  "buffer", "host", "port", "decode", "encode",
}

local TEXTS <const> = {
  "", "big", "little", "crc32", "TLSv1.2", "TLSv1.3", "TLSv1.1", "optional", "server", "client",
  "h2", "localhost", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:9", "[::1]:0", ":0", "unix:", "unix:@x",
  "localhost:9", "host:99999", "::1", "239.1.2.3", "lo", "all", "line", "pkg", "frame", "*a", "n",
  "\0", "a\0b", "\r\n", "--", "DEFAULT", "ALL", "TLS_AES_128_GCM_SHA256", "/nonexistent",
  "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "+5", "0x10", "1e3", " 7 ",
  ("x"):rep(300), ("y"):rep(700):rep(100), "nodelya", "timeuot",
}

local function raises() error(MARK, 0) end

local METHODS <const> = {
  "__index", "__newindex", "__len", "__call", "__pairs", "__tostring", "__eq", "__name", "__concat",
  "__close", "__lt",
}

local value

local function list_of(input, depth)
  local list = {}
  for i = 1, input:below(6) do list[i] = value(input, depth + 1) end
  return list
end

local function table_of(input, depth)
  local t = {}
  for _ = 1, input:below(6) do
    local key
    if input:below(4) > 0 then key = input:pick(WORDS) else key = value(input, depth + 1) end
    if key ~= nil and key == key then t[key] = value(input, depth + 1) end
  end
  return t
end

local function answering(answer) return function() return answer end end

-- With a metatable of what raises, what answers with anything, and tables in place of functions.
local function strange(input, depth)
  local meta = {}
  for _ = 1, 1 + input:below(3) do
    local name, way = input:pick(METHODS), input:below(3)
    local answer = value(input, depth + 1)
    if way == 0 then
      meta[name] = raises
    else
      meta[name] = way == 2 and type(answer) == "table" and answer or answering(answer)
    end
  end
  return setmetatable(table_of(input, depth), meta)
end

local function object(input)
  return input:pick {
    wire.framing.raw, wire.framing.line, function() return (wire.pipe()) end,
    function() return wire.tls_context() end, function() return wire.channel() end,
    function() return coroutine.create(raises) end, function() return io.stdout end,
    function() return { decode = raises, encode = raises } end,
  }()
end

local makers <const> = {
  function() return nil end,
  function() return true end,
  function() return false end,
  function(input) return input:pick(NUMBERS) end,
  function(input) return input:pick(NUMBERS) end,
  function(input) return input:byte() - 128 end,
  function(input) return string.unpack(input:below(2) == 0 and "<i8" or "<d", input:text(8)
    .. ("\0"):rep(8)) end,
  function(input) return input:pick(TEXTS) end,
  function(input) return input:pick(WORDS) end,
  function(input) return input:text(input:below(24)) end,
  function(input) return input:pick { raises, wire.now, function() end, string.rep } end,
  function(input) return object(input) end,
  list_of, table_of, table_of, strange,
}

function value(input, depth)
  if depth > 4 or input:left() <= 0 then return nil end
  return input:pick(makers)(input, depth)
end

-- ---- options ---------------------------------------------------------------------------

local TLS <const> = {
  "role", "cert", "key", "password", "ca", "servername", "alpn", "verify", "insecure",
  "min_version", "max_version", "ciphers", "ciphersuites", "sni", "session",
  "handshake_timeout", "timeout",
}
local CONNECT <const> = {
  "timeout", "nodelay", "keepalive", "local_addr", "framing", "limits", "tls",
}
local LISTEN <const> = {
  "backlog", "reuse_port", "ipv6_only", "mode", "max_conns", "nodelay", "keepalive", "timeout",
  "idle_timeout", "drain_timeout", "framing", "limits", "tls", "on_accept", "on_close",
  "on_shutdown",
}
local UDP <const> = {
  "timeout", "max", "queue", "reuse_port", "reuse_addr", "broadcast", "ipv6_only", "recv_buffer",
  "send_buffer", "workers", "drain_timeout",
}

local identity <const> = { cert = host.cert, key = host.key, servername = "localhost" }

-- What is right for a key: the other options are looked at only when the first ones pass.
local RIGHT <const> = {
  timeout = { 1, 0.5, math.huge }, idle_timeout = { 5 }, drain_timeout = { 1 },
  max = { 1, 100, 5000 }, keep = { true }, header = { 1, 2, 4 }, size = { 1, 2, 3, 4, 8 },
  endian = { "big", "little" },
  offset = { 0, 1, 7 }, adjust = { 0, -2, 5 }, strip = { 0, 2 }, includes_header = { true },
  magic = { "LW", 0xCAFE }, version = { 1 }, checksum = { "crc32", false },
  limits = { { line = 9 } }, nodelay = { true, false },
  keepalive = { true, { idle = 5, interval = 1, count = 3 } },
  backlog = { 1, 511 }, max_conns = { 1, 1000 }, queue = { 0, 10 }, alpn = { "h2", { "a", "b" } },
  verify = { true, "optional" }, min_version = { "TLSv1.2" }, insecure = { true },
  role = { "client" }, ciphers = { "DEFAULT" }, retry = { { count = 0 } },
  recv = { "all", "line", 5, "pkg" },
  local_addr = { "127.0.0.1:0" }, reconnect = { true, { min = 1, max = 2, jitter = 0 } },
  cert = { host.cert }, key = { host.key }, ca = { host.cert },
  sni = { { a = identity } },
  max_idle = { 1 }, workers = { 2 }, recv_buffer = { 4096 }, buffer = { 100 },
  tls = { true, {}, identity },
}

local function options_of(input, keys)
  if input:below(8) == 0 then return value(input, 0) end
  local opts = {}
  for _ = 1, input:below(5) do
    local key = input:pick(keys)
    local right = RIGHT[key]
    if right and input:below(2) == 0 then
      opts[key] = input:pick(right)
    else
      opts[key] = value(input, 1)
    end
  end
  if input:below(8) == 0 then return setmetatable(opts, { __index = strange(input, 1) }) end
  return opts
end

-- Most contexts need a certificate to be looked at any further.
local function tls_options_of(input)
  local opts = options_of(input, TLS)
  if type(opts) == "table" and input:below(2) == 0 then
    for key, text in pairs(identity) do rawset(opts, key, text) end
  end
  return opts
end

local function any(input, list)
  if input:below(3) == 0 then return value(input, 0) end
  return input:pick(list)
end

-- ---- calls -----------------------------------------------------------------------------

local function address(input)
  return any(input, { "127.0.0.1:0", "127.0.0.1:9", "[::1]:0", "unix:@lunewire-fuzz", ":0",
    { host = "127.0.0.1", port = 0 }, { { host = "::1", port = 0 }, "127.0.0.1:0" } })
end

-- A connection with something to read, and its end behind it: nothing that is received must be
-- waited for.
local function filled(opts)
  local a, b = wire.pipe(opts)
  if not a then return nil end
  b:send("one\r\ntwo--three\0\5hello\0\0\5:hello,")
  b:close()
  return a
end

local ENDS <const> = {
  ["lunewire.Conn"] = "close", ["lunewire.Server"] = "close", ["lunewire.Udp"] = "close",
  ["lunewire.Timer"] = "cancel",
}

-- Ends whatever there is to end among the results of a call.
local function close(...)
  for i = 1, select("#", ...) do
    local x = select(i, ...)
    local name = type(x) == "userdata" and ENDS[getmetatable(x)]
      or type(x) == "table" and type(x.close) == "function" and "close"
    if name then x[name](x) end
  end
  return ...
end

local RECEIVE <const> = { "timeout", "max", "keep", "skip", "header", "retry" }

local function receive(name, first)
  return function(input)
    local conn = filled { framing = wire.framing.line() }
    local opts = options_of(input, RECEIVE)
    if first then return conn[name](conn, first(input), opts) end
    return conn[name](conn, opts)
  end
end

local function use(framing, input)
  local conn = filled { framing = framing }
  if input:below(2) == 0 then
    conn:send_frame(input:text(input:below(30)), options_of(input, { "head", "type" }))
  end
  conn:recv_frame()
  return framing
end

local function framing_by(name, keys)
  return function(input) return use(wire.framing[name](options_of(input, keys)), input) end
end

local calls <const> = {
  framing_by("line", { "max", "keep" }),
  framing_by("length", { "size", "endian", "offset", "adjust", "includes_header", "strip", "max" }),
  framing_by("varint", { "max", "offset" }),
  framing_by("netstring", { "max" }),
  framing_by("header", { "magic", "version", "checksum", "size", "max" }),
  function(input)
    local bytes = any(input, { "--", "\0" })
    return use(wire.framing.delimiter(bytes, options_of(input, { "max" })), input)
  end,
  function(input) return use(wire.framing.fixed(any(input, { 1, 5 })), input) end,
  function(input) return close(wire.pipe(options_of(input, { "framing", "limits", "tls" }))) end,
  function(input) return close(wire.listen(address(input), options_of(input, LISTEN))) end,
  function(input)
    return close(wire.serve(address(input), options_of(input, LISTEN), any(input, { print })))
  end,
  function(input) return close(wire.connect(address(input), options_of(input, CONNECT))) end,
  function(input) return wire.tls_context(tls_options_of(input)) end,
  function(input) return close(wire.pipe { tls = tls_options_of(input) }) end,
  function(input) return close(wire.udp(address(input), options_of(input, UDP))) end,
  function(input)
    return close(wire.serve_udp(address(input), options_of(input, UDP), any(input, { print })))
  end,
  function(input)
    return wire.request(address(input), any(input, { "data", { "a", 1 } }),
      options_of(input, { "recv", "max", "header", table.unpack(CONNECT) }))
  end,
  function(input)
    return close(wire.client(address(input),
      options_of(input, { "reconnect", "on_connect", "on_disconnect", table.unpack(CONNECT) })))
  end,
  function(input)
    return close(wire.pool(address(input),
      options_of(input, { "max", "max_idle", "idle_timeout", "lifetime", table.unpack(CONNECT) })))
  end,
  receive("recv", function(input) return any(input, { 3, 0 }) end),
  receive "recv_line", receive "recv_pkg", receive "recv_frame",
  receive("recv_until", function(input) return any(input, { "--" }) end),
  receive("recv_some", function(input) return any(input, { 9 }) end),
  receive("peek", function(input) return any(input, { 2 }) end),
  receive("read", function(input) return any(input, { "l", "L", "a", 4 }) end),
  function(input)
    local a <close> = wire.pipe()
    return a:send(value(input, 0), value(input, 0), options_of(input, { "timeout", "retry" }))
  end,
  function(input)
    local a <close> = wire.pipe()
    return a:send_pkg(any(input, { "data" }), options_of(input, RECEIVE))
  end,
  function(input)
    local a <close> = wire.pipe()
    local name = input:pick { "set_framing", "set_timeout", "set_deadline", "set_recv_deadline",
      "set_send_deadline", "set_idle_timeout", "set_recv_buffer_wait", "unread", "option", "close",
      "start_tls", "try_send" }
    return a[name](a, value(input, 0), value(input, 1))
  end,
  function(input)
    local u <close> = wire.udp "127.0.0.1:0"
    local name = input:pick { "option", "send_to", "join", "leave", "set_timeout", "set_deadline" }
    local group = name == "join" or name == "leave"
    local first = group and any(input, { "127.0.0.1", "::1" }) or value(input, 0)
    local second = name == "send_to" and address(input) or value(input, 1)
    return u[name](u, first, second, options_of(input, { "timeout", "retry" }))
  end,
  function(input) return wire.resolve(value(input, 0), options_of(input, { "timeout" })) end,
  function(input) return wire.channel(value(input, 0)) end,
  function(input) return wire.semaphore(value(input, 0)) end,
  function(input) return close(wire.after(value(input, 0), value(input, 0))) end,
  function(input)
    return wire.adopt(input:pick { -1, 1 << 40, 0.5, false, "x" }, options_of(input, CONNECT))
  end,
}

-- ---- what must hold ---------------------------------------------------------------------

-- Errors that tell the user nothing of what to do, but of how we are made.
local INTERNAL <const> = {
  "^attempt to ", ": attempt to ", "stack overflow", "C stack", "assertion failed",
  "invalid value", "table index is",
}

-- What names the argument that is wrong.
local HELPFUL <const> = {
  "option", "bad argument", "not a framing: expected", "cannot send a ", "an address is a ",
  "must be", "the framing", "expected",
}

local function is_one_of(err, patterns)
  for _, pattern in ipairs(patterns) do
    if err:find(pattern) then return true end
  end
end

local function check_raised(err)
  if err == MARK then return end
  if type(err) ~= "string" then error("raised something that is no text: " .. type(err)) end
  if is_one_of(err, INTERNAL) or not is_one_of(err, HELPFUL) then
    error("raised an error that does not help: " .. err)
  end
end

local function check_returned(first, message, code)
  if first ~= nil or message == nil then return end
  if type(message) ~= "string" or #message == 0 then error "a failure without a text" end
  if type(code) ~= "string" or not code:find "^E%w+$" then
    error("a failure without a code: " .. message)
  end
end

local function what_is_left()
  for name, n in pairs(core.census()) do
    if n ~= 0 then return ("%d %s"):format(n, name) end
  end
end

-- What is closed goes in a later turn.
local function check_nothing_left()
  local left
  for _ = 1, 20 do
    left = what_is_left()
    if not left then return end
    collectgarbage()
    wire.sleep(0)
  end
  error("left behind: " .. left)
end

local function finish(ok, ...)
  if ok then check_returned(...) else check_raised((...)) end
end

return function(bytes)
  local input = input_of(bytes)
  wire.on_error(function() end)
  for _ = 1, 16 do
    if input:left() <= 0 then break end
    finish(pcall(calls[1 + input:below(#calls)], input))
  end
  check_nothing_left()
end
