-- Feeding a framing with bytes that are cut in every way, and reading back what it sent: what the
-- framing specs share.
-- What this is not: it knows no framing.
local assert = require "luassert"
local wire = require "lunewire"

local frames = {}

function frames.collect(conn)
  local list = {}
  for message in conn:frames() do list[#list + 1] = message end
  return list, select(2, conn:last_error())
end

function frames.send_pieces(conn, pieces)
  for _, piece in ipairs(pieces) do
    assert(conn:send(piece))
    assert(conn:flush())
  end
end

-- What a receiver finds that comes when all pieces are there -> messages, code.
function frames.received(f, pieces)
  local a, b = wire.pipe { framing = f }
  frames.send_pieces(a, pieces)
  a:close()
  local list, code = frames.collect(b)
  b:close()
  return list, code
end

-- What a receiver finds that waits for each piece.
function frames.received_waiting(f, pieces)
  local a, b = wire.pipe { framing = f }
  local reader = wire.spawn(frames.collect, b)
  for _, piece in ipairs(pieces) do
    wire.sleep(0)
    frames.send_pieces(a, { piece })
  end
  a:close()
  local _, list, code = assert(reader:join())
  b:close()
  return list, code
end

-- The bytes that a sender makes of messages.
function frames.sent(f, messages)
  local a, b = wire.pipe { framing = f }
  for _, message in ipairs(messages) do assert(a:send_frame(message)) end
  a:close()
  local bytes = assert(b:read "a")
  b:close()
  return bytes
end

local function single_bytes(bytes)
  local pieces = {}
  for i = 1, #bytes do pieces[i] = bytes:sub(i, i) end
  return pieces
end

local function in_two(bytes, i) return { bytes:sub(1, i), bytes:sub(i + 1) } end

-- Every way to cut the bytes in two, and each byte on its own, gives the messages.
function frames.check_every_split(f, bytes, messages)
  for i = 1, #bytes - 1 do
    assert.same({ i, messages }, { i, (frames.received(f, in_two(bytes, i))) })
    assert.same({ i, messages }, { i, (frames.received_waiting(f, in_two(bytes, i))) })
  end
  for _, receive in ipairs { frames.received, frames.received_waiting } do
    local list, code = receive(f, single_bytes(bytes))
    assert.same(messages, list)
    assert.is_nil(code)
  end
end

-- A connection that has the bytes before it, and no more to come.
function frames.given(f, bytes, opts)
  opts = opts or {}
  opts.framing = f
  local a, b = wire.pipe(opts)
  assert(a:send(bytes))
  a:close()
  return b
end

return frames
