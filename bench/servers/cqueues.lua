-- The echo server on cqueues, coroutines over its buffered sockets: a connection reads message
-- after message, and what was answered leaves when it would have to wait for the next.
--
--   cqueues.lua MODE         length, line, bulk, once, tls; prints its port, serves until it is
--                            killed; tls takes luaossl, and the files BENCH_CERT and BENCH_KEY
--   cqueues.lua --version    prints what it is and runs with
local cqueues = require "cqueues"
local errno = require "cqueues.errno"
local socket = require "cqueues.socket"

local LF <const> = 10
local LINE_MOST <const> = 65536
local SHORT <const> = 4096       -- a connection's buffers have so many bytes at first
local BUFFER <const> = 64 * 1024 -- and so many once a package was longer
local MEGABYTE <const> = 1024 * 1024

-- Like conn:read(what), but flushes before it waits -> nil at the end, whatever ended it.  What is
-- read at the end may be shorter.
local function receive(conn, what)
  local data, why = conn:recv(what)
  while not data do
    if not conn:flush() or why ~= errno.EAGAIN then return nil end
    cqueues.poll(conn)
    data, why = conn:recv(what)
  end
  return data
end

local function receive_package(conn, header, most)
  local length = receive(conn, header)
  if not length or #length < header then return nil end
  length = (">I" .. header):unpack(length)
  local package = length <= most and receive(conn, length)
  return package and #package == length and package
end

local function packages(header, most)
  local format = ">s" .. header
  return function(conn)
    local package = receive_package(conn, header, most)
    while package and conn:write(format:pack(package)) do
      if #package > SHORT then conn:setbufsiz(BUFFER, BUFFER) end
      package = receive_package(conn, header, most)
    end
  end
end

local function lines(conn)
  conn:setmaxline(LINE_MOST)
  local line = receive(conn, "*L")
  while line and line:byte(-1) == LF and conn:write(line) do line = receive(conn, "*L") end
end

local function once(conn)
  local package = receive_package(conn, 2, 65535)
  if package then conn:write((">s2"):pack(package)) end
end

-- ---- the server ----------------------------------------------------------------------

local handlers = {
  length = packages(2, 65535),
  line = lines,
  bulk = packages(4, 16 * MEGABYTE),
  once = once,
  tls = package.searchpath("_openssl", package.cpath) and packages(2, 65535), -- luaossl's
}

local function tls_context()
  local ssl_context = require "openssl.ssl.context"
  local pkey, x509 = require "openssl.pkey", require "openssl.x509"
  local function text(variable)
    local name = assert(os.getenv(variable), variable .. " is not set")
    local file <close> = assert(io.open(name))
    return file:read "a"
  end
  local context = ssl_context.new("TLSv1_3", true)
  context:setCertificate(x509.new(text "BENCH_CERT"))
  context:setPrivateKey(pkey.new(text "BENCH_KEY"))
  return context
end

-- A failure is a result, and not an error that would end the loop.
local function on_error(_, _, why) return why end

local function session(conn, handle, context)
  conn:onerror(on_error)
  conn:setmode("b", "bfA") -- binary, fully buffered, no flush by a read
  if not context or conn:starttls(context) then
    handle(conn)
    conn:flush()
  end
  conn:close()
end

local function serve(mode)
  local loop, server = cqueues.new(), assert(socket.listen { host = "127.0.0.1", port = 0 })
  local context = mode == "tls" and tls_context()
  assert(server:listen())
  loop:wrap(function()
    for conn in server:clients { nodelay = true } do
      loop:wrap(session, conn, handlers[mode], context)
    end
  end)
  local _, _, port = server:localname()
  print(port)
  io.stdout:flush()
  assert(loop:loop())
end

-- ---- the program ---------------------------------------------------------------------

local mode = arg[1]
if mode == "--version" then
  print(("cqueues %s, %s"):format(cqueues.VERSION, _VERSION))
elseif handlers[mode] then
  serve(mode)
else
  io.stderr:write "unsupported\n"
  os.exit(2)
end
