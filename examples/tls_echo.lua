#!/usr/bin/env lua5.4
-- An echo service over TLS, and the client that asks it.
--
--   tls_echo.lua CERT KEY [address]       serves until SIGTERM or SIGINT
--   tls_echo.lua client CA [address]      asks once, prints the answer
--
-- All three are PEM files; CA holds the certificate that the server's must come from.  The address
-- is 127.0.0.1:8943 unless said otherwise; with port 0 the system chooses one.
--
-- This makes a certificate for tests, in cert.pem, which is its own CA, and its key, in key.pem:
--
--   openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 \
--     -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1
local wire = require "lunewire"

local ADDRESS <const> = "127.0.0.1:8943"
local PATIENCE <const> = 5 -- seconds to connect, and for an answer
local IDLE <const> = 60    -- seconds that a silent client may stay

-- A pipe or a log file shall see each line when it is written, as a terminal does.
io.stdout:setvbuf("line")

local function session(conn)
  local info = conn:tls_info()
  return info.version .. " " .. info.cipher
end

local function echo(conn)
  print(conn:remote_addr() .. ": " .. session(conn))
  for line in conn:lines() do
    conn:send("> ", line, "\n")
  end
end

-- Also of those who never came as far as the handler: their handshake failed.  Messages say who.
local function tell_end(conn, message) print(message or conn:remote_addr() .. ": closed") end

local function serve(cert, key, address)
  local server = assert(wire.serve(address, {
    tls = { cert = cert, key = key },
    idle_timeout = IDLE,
    on_close = tell_end,
  }, echo))
  print("TLS echo server on " .. server:addr())
  wire.run() -- a signal ends it, once what had come is answered
end

-- One question -> the answer, the session | nil, message
local function ask(ca, address)
  local conn <close>, no_conn = wire.connect(address, { tls = { ca = ca }, timeout = PATIENCE })
  if not conn then return nil, no_conn end
  conn:send(os.date("%Y-%m-%d %H:%M:%S"), "\n")
  local reply, no_reply = conn:recv_line(PATIENCE)
  if not reply then return nil, no_reply end
  return reply, session(conn)
end

local function client(ca, address)
  local answer, detail = ask(ca, address)
  if not answer then
    io.stderr:write("tls_echo: ", detail, "\n")
    os.exit(1, true)
  end
  print(detail)
  print(answer)
end

if not arg[2] then
  io.stderr:write("usage: tls_echo.lua CERT KEY [address]\n",
    "       tls_echo.lua client CA [address]\n")
  os.exit(2, true)
elseif arg[1] == "client" then
  client(arg[2], arg[3] or ADDRESS)
else
  serve(arg[1], arg[2], arg[3] or ADDRESS)
end
