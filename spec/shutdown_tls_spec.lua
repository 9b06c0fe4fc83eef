-- Ending a server over TLS: what part of a record means at that moment.
-- What this is not: everything else of a shutdown (shutdown_spec.lua).
local assert = require "luassert"
local describe = require("busted").describe
local pki = require "spec.pki"
local sessions = require "spec.sessions"
local support = require "spec.support"
local tools = require "spec.conformance.tools"
local wire = require "lunewire"

local PATIENCE <const> = 10 * support.slowness
local LONG <const> = 60 -- a drain time that no test waits for

-- -> an echo server; its client, with the wire in the test's hands (sessions.tapped_to)
local function connected(version)
  local server = assert(wire.serve("127.0.0.1:0", { tls = pki.server() }, function(conn)
    conn:send "ready\n"
    for line in conn:lines() do conn:send(line, "\n") end
  end))
  local tls = pki.client { servername = "localhost", max_version = version }
  return server, sessions.tapped_to(server, tls)
end

local function begin_shutdown(server)
  local task = wire.spawn(server.shutdown, server, LONG)
  support.eventually(function() return server:closing() end)
  return task
end

local function record_of(near) return (assert(near:recv_frame(PATIENCE))) end

local function close_all(...)
  for _, conn in ipairs { ... } do conn:close() end
end

-- What the client says in one record is cut by a shutdown, at each place; then the rest comes.
-- answered(client, near, far): awaits what becomes of it.
local function cut_by_shutdown(version, say, answered)
  local length
  local function cut_at(cut)
    local server, client, near, far = connected(version)
    say(client)
    local record = record_of(near)
    length = #record
    tools.put(far, record:sub(1, cut))
    local task = begin_shutdown(server)
    tools.put(far, record:sub(cut + 1))
    answered(client, near, far)
    close_all(client, near, far)
    assert.same({ true, true }, { task:join(PATIENCE) })
  end
  local cut, step = 1, support.sized(1, 7, 13) -- on a slow machine some
  repeat
    cut_at(cut)
    cut = cut + step
  until cut >= length
end

for _, version in ipairs(sessions.VERSIONS) do
  describe("shutdown over " .. version, function()
    support.it("lets finish a message of whose record only a part has come", function()
      local function say(client) assert(client:send "hello\n") end
      cut_by_shutdown(version, say, function(client, near, far)
        near:send(record_of(far))
        assert.equal("hello", client:recv_line(PATIENCE))
      end)
    end, 60)

    support.it("awaits no message behind a record that was none", function()
      local function say(client) assert(client:close_write()) end
      cut_by_shutdown(version, say, function(_, _, far)
        record_of(far) -- its own close_notify
      end)
    end, 60)

    support.it("awaits nothing where nothing of a record has come", function()
      local server, client, near, far = connected(version)
      local task = begin_shutdown(server)
      record_of(far)
      close_all(client, near, far)
      assert.same({ true, true }, { task:join(PATIENCE) })
    end)
  end)
end
