#!/usr/bin/env lua5.4
-- Fetches a page over HTTP and prints its header and its content.
--
--   http_get.lua http://host[:port][/path]
--   http_get.lua host[:port] [/path]
--
-- An answer of 400 or above is printed as well, and ends the script with exit code 1.
local wire = require "lunewire"

local PATIENCE <const> = 30               -- seconds for everything together
local MOST_LINES <const> = 200            -- of a header
local MOST_CONTENT <const> = 16 * 1024 ^ 2 -- bytes: the other side does not choose our memory

-- The URL's parts: what goes into the Host line, and the path.
local function parse(url, path)
  local scheme = url:match("^(%a+)://")
  if scheme and scheme:lower() ~= "http" then return nil, scheme .. ": only http is spoken here" end
  local host, rest = url:gsub("^%a+://", ""):match("^([^/?#]+)([^#]*)")
  if not host then return nil, url .. ": no host in this URL" end
  rest = path or rest
  return host, rest:find("^/") and rest or "/" .. rest
end

-- The lines up to the empty one, and the length of what follows if they tell it.
local function read_header(conn)
  local lines, length = {}, nil
  for line in conn:lines() do
    if line == "" then return lines, length end
    if #lines == MOST_LINES then return nil, "the header has no end" end
    lines[#lines + 1] = line
    length = length or math.tointeger(line:lower():match("^content%-length:%s*(%d+)%s*$"))
  end
  return nil, conn:last_error() or "the connection ended inside the header"
end

local function read_content(conn, length)
  if length then return conn:recv(length, { max = MOST_CONTENT }) end
  return conn:read("a") -- what ends with the connection has no length of its own
end

-- HTTP/1.0: nobody answers that in chunks, and the connection ends behind the content.
local function get(url, path)
  local host, target = parse(url, path)
  if not host then return nil, target end
  local conn <close>, message = wire.connect(host:find(":%d+$") and host or host .. ":80", PATIENCE)
  if not conn then return nil, message end
  conn:set_deadline(wire.now() + PATIENCE)
  conn:send("GET ", target, " HTTP/1.0\r\nHost: ", host, "\r\nConnection: close\r\n\r\n")
  local header, length = read_header(conn)
  if not header then return nil, length end
  print(table.concat(header, "\n") .. "\n")
  local content, why = read_content(conn, length)
  if not content then return nil, why end
  io.write(content)
  local status = header[1] and header[1]:match("^HTTP/%S+ (%d+.*)$")
  if not status then return nil, "this is no HTTP answer" end
  return status < "400", status
end

if not arg[1] then
  io.stderr:write("usage: http_get.lua http://host[:port][/path]\n")
  os.exit(2, true)
end
local ok, message = get(arg[1], arg[2])
if not ok then
  io.stdout:flush() -- what came before the failure is printed before it
  io.stderr:write("http_get: ", message, "\n")
  os.exit(1, true)
end
