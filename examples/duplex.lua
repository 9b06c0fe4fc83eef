-- What duplex_server.lua and duplex_client.lua have in common: messages, and a log.
-- A message is a package that holds {"Act": what to do, "Data": with what} as JSON.
local cjson = require "cjson.safe"
local wire = require "lunewire"

local duplex = {}

-- ---- the log -------------------------------------------------------------------------

-- os.time knows whole seconds, wire.now fractions of them, but not since when.  Their difference
-- is right when a second has just begun and less otherwise: the largest that was seen is best.
local offset = -math.huge

local function date_and_time()
  offset = math.max(offset, os.time() - wire.now())
  local seconds = wire.now() + offset
  local milliseconds = math.floor(seconds % 1 * 1000)
  return os.date("%Y-%m-%d %H:%M:%S", math.floor(seconds)) .. (".%03d"):format(milliseconds)
end

-- What the other side said is printed as well, but has no control over anybody's terminal.
function duplex.log(format, ...)
  local text = format:format(...):gsub("%c", "?")
  print(date_and_time() .. " " .. text)
end

-- ---- messages ------------------------------------------------------------------------

function duplex.send(conn, act, data)
  return conn:send_pkg(cjson.encode { Act = act, Data = data or "" })
end

local function recv(conn)
  local package, message, code = conn:recv_pkg()
  if not package then return nil, message, code end
  local msg = cjson.decode(package)
  if type(msg) ~= "table" then return nil, "invalid package structure: " .. package, "EPROTO" end
  return msg
end

-- Gives each message to the function of `acts` that its Act names; all receiving is done here,
-- while anybody may send at any time.  -> message, code: why there are no more.
function duplex.dispatch(conn, acts)
  while true do
    local msg, message, code = recv(conn)
    if not msg then return message, code end
    local act = acts[msg.Act]
    if act then
      act(conn, msg)
    else
      duplex.log("invalid message: %s", cjson.encode(msg))
    end
  end
end

return duplex
