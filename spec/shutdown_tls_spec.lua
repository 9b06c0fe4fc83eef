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

-- Calls fn(cut) for all places in a record like that; on a slow machine for some.
local function at_each_cut(record, fn)
  for cut = 1, #record - 1, support.sized(1, 7, 13) do fn(cut) end
end

local function record_of(near) return (assert(near:recv_frame(PATIENCE))) end

-- What the client says in one record, for its length.
local function sample(version, say)
  local server, client, near, far = connected(version)
  say(client)
  local record = record_of(near)
  for _, conn in ipairs { client, near, far } do conn:reset() end
  server:close()
  return record
end

local function send_request(client) assert(client:send "hello\n") end
local function close_write(client) assert(client:close_write()) end

for _, version in ipairs(sessions.VERSIONS) do
  describe("shutdown over " .. version, function()
    support.it("lets finish a message of whose record only a part has come", function()
      at_each_cut(sample(version, send_request), function(cut)
        local server, client, near, far = connected(version)
        send_request(client)
        local record = record_of(near)
        tools.put(far, record:sub(1, cut))
        local task = begin_shutdown(server)
        tools.put(far, record:sub(cut + 1))
        near:send(record_of(far))
        assert.equal("hello", client:recv_line(PATIENCE))
        for _, conn in ipairs { client, near, far } do conn:close() end
        assert.same({ true, true }, { task:join(PATIENCE) })
      end)
    end, 60)

    support.it("awaits no message behind a record that was none", function()
      at_each_cut(sample(version, close_write), function(cut)
        local server, client, near, far = connected(version)
        close_write(client)
        local record = record_of(near)
        tools.put(far, record:sub(1, cut))
        local task = begin_shutdown(server)
        tools.put(far, record:sub(cut + 1))
        record_of(far) -- its own close_notify
        for _, conn in ipairs { client, near, far } do conn:close() end
        assert.same({ true, true }, { task:join(PATIENCE) })
      end)
    end, 60)

    support.it("awaits nothing where nothing of a record has come", function()
      local server, client, near, far = connected(version)
      local task = begin_shutdown(server)
      record_of(far)
      for _, conn in ipairs { client, near, far } do conn:close() end
      assert.same({ true, true }, { task:join(PATIENCE) })
    end)
  end)
end
