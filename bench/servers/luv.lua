-- The echo server on luv, the bindings of libuv for Lua, as one who cares for speed writes it:
-- callbacks, strings cut with string.unpack, and one write for all that a read brought.
--
--   luv.lua MODE         length, line, bulk, once, udp; prints its port, serves until it is killed
--   luv.lua --version    prints what it is and runs with
local uv = require "luv"

local BACKLOG <const> = 4096
local LINE_MOST <const> = 65536
local MEGABYTE <const> = 1024 * 1024

-- ---- messages ------------------------------------------------------------------------
-- A cutter looks at data -> the echoes of the messages in it, where what follows them begins,
-- how many bytes that needs at least to be worth another look; nil if a message is too long.

local function packages(header, most)
  local length_format = ">I" .. header
  return function(data)
    local echoes, at, count = {}, 1, 0
    while #data - at + 1 >= header do
      local length = length_format:unpack(data, at)
      if length > most then return nil end
      local past = at + header + length
      if past - 1 > #data then return echoes, at, past - at end
      count = count + 1
      echoes[count] = data:sub(at, past - 1)
      at = past
    end
    return echoes, at, header
  end
end

local function lines(data)
  local echoes, at = {}, 1
  local last = data:find("\n", 1, true)
  while last do
    echoes[#echoes + 1] = data:sub(at, last)
    at = last + 1
    last = data:find("\n", at, true)
  end
  local rest = #data - at + 1
  if rest >= LINE_MOST then return nil end
  return echoes, at, rest + 1
end

local cutters = {
  length = packages(2, 65535),
  line = lines,
  bulk = packages(4, 16 * MEGABYTE),
  once = packages(2, 65535),
}

-- ---- connections ---------------------------------------------------------------------

local function close(client)
  if not client:is_closing() then client:close() end
end

-- What of a message came before, in parts, so that a long one is put together once.
local function collector(cut)
  local parts, size, need = {}, 0, 0
  return function(chunk)
    size = size + #chunk
    if parts[1] then
      parts[#parts + 1] = chunk
      if size < need then return {} end
      chunk = table.concat(parts)
    end
    local echoes, at
    echoes, at, need = cut(chunk)
    if not echoes then return nil end
    size = #chunk - at + 1
    parts = size > 0 and { chunk:sub(at) } or {}
    return echoes
  end
end

-- A peer that does not read is not read from.
local function echo(client, cut)
  local collect = collector(cut)
  local paused = false
  local on_chunk

  local function on_written(failure)
    if failure then return close(client) end
    if paused and not client:is_closing() then
      paused = false
      client:read_start(on_chunk)
    end
  end

  function on_chunk(_, chunk)
    local echoes = chunk and collect(chunk)
    if not echoes then return close(client) end
    if not echoes[1] then return end
    client:write(echoes, on_written)
    if client:get_write_queue_size() > 0 then
      paused = true
      client:read_stop()
    end
  end

  client:read_start(on_chunk)
end

local function echo_once(client, cut)
  local collect = collector(cut)
  client:read_start(function(_, chunk)
    local echoes = chunk and collect(chunk)
    if not echoes then return close(client) end
    if not echoes[1] then return end
    client:read_stop()
    client:write(echoes[1], function() close(client) end)
  end)
end

local function serve(mode)
  local server = uv.new_tcp()
  local cut, handle = cutters[mode], mode == "once" and echo_once or echo
  assert(server:bind("127.0.0.1", 0))
  assert(server:listen(BACKLOG, function(failure)
    assert(not failure, failure)
    local client = uv.new_tcp()
    assert(server:accept(client))
    client:nodelay(true)
    handle(client, cut)
  end))
  return server
end

local function serve_udp()
  local socket = uv.new_udp()
  assert(socket:bind("127.0.0.1", 0))
  socket:recv_start(function(_, data, from)
    if not (data and from) then return end
    if not socket:try_send(data, from.ip, from.port) then
      socket:send(data, from.ip, from.port, function() end)
    end
  end)
  return socket
end

-- ---- the program ---------------------------------------------------------------------

local mode = arg[1]
if mode == "--version" then
  print(("luv on libuv %s, %s"):format(uv.version_string(), _VERSION))
  os.exit(0)
elseif mode ~= "udp" and not cutters[mode] then
  io.stderr:write "unsupported\n"
  os.exit(2)
end

local server = mode == "udp" and serve_udp() or serve(mode)
print(server:getsockname().port)
io.stdout:flush()
uv.run()
