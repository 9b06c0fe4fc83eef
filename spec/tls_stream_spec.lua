-- What becomes of a TLS stream that is cut, ended, damaged or repeated on its way, with the test
-- in the middle of the wire.
-- What this is not: what happens before the stream is up (tls_matrix_spec).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"
local tools = require "spec.conformance.tools"

local it, fails = support.it, support.fails

local PATIENCE <const> = 20

-- ---- ends ------------------------------------------------------------------------------

-- Each way of receiving up to the end -> the code.
local READS = {
  recv = function(conn) return conn:recv(100) end,
  recv_line = function(conn) return conn:recv_line() end,
  read_all = function(conn) return conn:read "a" end,
  lines = function(conn)
    for _ in conn:lines() do end -- luacheck: ignore
    return nil, conn:last_error()
  end,
  chunks = function(conn)
    for _ in conn:chunks() do end -- luacheck: ignore
    return nil, conn:last_error()
  end,
}

describe("a stream that is cut off without close_notify", function()
  for _, version in ipairs(sessions.VERSIONS) do
    for name, read in pairs(READS) do
      it(("ends %s with ETLS, at either end, over %s"):format(name, version), function()
        local client, near, far, server =
          sessions.tapped(pki.client { servername = "localhost", max_version = version })
        client:send "last words"
        server:send "last words"
        far:send(near:recv_frame(PATIENCE))
        near:send(far:recv_frame(PATIENCE))
        near:close()
        far:close()
        for _, conn in ipairs { client, server } do
          local message = fails("ETLS", read(conn))
          assert.matches("cut off", message)
          conn:close()
        end
      end)
    end
  end

  it("delivers what came before the cut, and says ETLS again and again", function()
    local client, near, far, server = sessions.tapped()
    server:send "last words"
    near:send(far:recv_frame(PATIENCE))
    near:close()
    assert.equal("last words", client:recv(10))
    for _ = 1, 3 do fails("ETLS", client:recv(1)) end
    fails("ETLS", client:recv_now())
    far:close()
    server:close()
    client:close()
  end)

  it("in the middle of a record is ETLS, and nothing of that record is delivered", function()
    local client, near, far, server = sessions.tapped()
    server:send(("x"):rep(1000))
    local record = far:recv_frame(PATIENCE)
    near:send(record:sub(1, -2))
    near:close()
    fails("ETLS", client:recv(1, PATIENCE))
    assert.equal(0, client:buffered())
    far:close()
    server:close()
  end)

  it("by a reset is ECONNRESET", function()
    local client, near, far, server = sessions.tapped()
    near:reset()
    fails("ECONNRESET", client:recv(1, PATIENCE))
    far:close()
    server:close()
  end)
end)

describe("close_notify", function()
  it("is EOF although the stream below goes on", function()
    local client, near, far, server = sessions.tapped()
    server:close_write()
    near:send(far:recv_frame(PATIENCE))
    fails("EOF", client:recv(1, PATIENCE))
    assert.equal(5, client:send "still")
    far:send(near:recv_frame(PATIENCE))
    assert.equal("still", server:recv(5, PATIENCE))
    far:close()
    near:close()
  end)

  for _, version in ipairs(sessions.VERSIONS) do
    it("ends one direction behind 1 MB, both ways, over " .. version, function()
      local megabyte = ("0123456789abcdef"):rep(65536)
      local function talk(conn)
        local reader = wire.spawn(function() return assert(conn:read "a") end)
        assert(conn:send(megabyte))
        assert(conn:close_write())
        local got = tools.result(reader)
        fails("EOF", conn:recv(1))
        return got == megabyte
      end
      local at_server
      local server <close>, await_end = sessions.serve(pki.server(),
        function(conn) at_server = talk(conn) end)
      local conn <close> = assert(wire.connect(server:addr(),
        { tls = pki.client { max_version = version } }))
      assert.is_true(talk(conn))
      await_end()
      assert.is_true(at_server)
    end, 30)

    it("ends one direction while 1 MB still flows the other way, over " .. version, function()
      local server <close>, await_end = sessions.serve(pki.server(), function(conn)
        fails("EOF", conn:recv(1))
        for _ = 1, 16 do
          assert(conn:send(("y"):rep(65536)))
          wire.sleep(0)
        end
      end)
      local conn <close> = assert(wire.connect(server:addr(),
        { tls = pki.client { max_version = version } }))
      assert(conn:close_write())
      assert.equal(1024 * 1024, #assert(conn:read "a"))
      assert.equal("EOF", select(2, await_end()))
    end, 30)
  end
end)

-- ---- records ---------------------------------------------------------------------------

describe("a record", function()
  local function flipped(record, at)
    local byte = string.char(record:byte(at) ~ 1)
    return record:sub(1, at - 1) .. byte .. record:sub(at + 1)
  end

  -- What a record adds to its data: its head, what the cipher needs, and the type in TLS 1.3.
  local ADDED <const> = { ["TLSv1.2"] = 5 + 8 + 16, ["TLSv1.3"] = 5 + 16 + 1 }
  local FULL <const> = 16384

  for _, version in ipairs(sessions.VERSIONS) do
    local function tapped()
      return sessions.tapped(pki.client { servername = "localhost", max_version = version })
    end

    it("holds all that was sent in one turn, over " .. version, function()
      local client, near, far, server = tapped()
      for _ = 1, 16 do client:send_pkg(("x"):rep(64)) end
      assert.equal(16 * 66 + ADDED[version], #near:recv_frame(PATIENCE))
      client:send "y"
      assert.equal(1 + ADDED[version], #near:recv_frame(PATIENCE))
      assert.equal("", near:recv_now())
      for _, conn in ipairs { client, near, far, server } do conn:close() end
    end)

    it("is full when more than that is waiting, over " .. version, function()
      local client, near, far, server = tapped()
      wire.spawn(client.send_pkg, client, ("x"):rep(10 * FULL), { header = 4 })
      for _ = 1, 10 do assert.equal(FULL + ADDED[version], #near:recv_frame(PATIENCE)) end
      assert.equal(4 + ADDED[version], #near:recv_frame(PATIENCE))
      assert.equal("", near:recv_now())
      for _, conn in ipairs { client, near, far, server } do conn:close() end
    end)
  end

  for _, version in ipairs(sessions.VERSIONS) do
    it("with one bit flipped is ETLS and delivers nothing, over " .. version, function()
      for _, at in ipairs { 6, 14, -1 } do
        local client, near, far, server =
          sessions.tapped(pki.client { servername = "localhost", max_version = version })
        client:send "secret"
        local record = near:recv_frame(PATIENCE)
        far:send(flipped(record, at > 0 and at or #record + 1 + at))
        local message = fails("ETLS", server:recv(1, PATIENCE))
        assert.matches("bad record mac", message)
        assert.equal(0, server:buffered())
        near:close()
        far:close()
        client:close()
        server:close()
      end
    end)

    it("that comes twice is ETLS, over " .. version, function()
      local client, near, far, server =
        sessions.tapped(pki.client { servername = "localhost", max_version = version })
      client:send "once"
      local record = near:recv_frame(PATIENCE)
      far:send(record, record)
      assert.equal("once", server:recv(4, PATIENCE))
      fails("ETLS", server:recv(1, PATIENCE))
      near:close()
      far:close()
      client:close()
    end)
  end

  it("in plain on a connection that has TLS is ETLS and never data", function()
    local client, near, far, server = sessions.tapped()
    far:send "\23\3\3\0\5hello"
    fails("ETLS", server:recv(1, PATIENCE))
    assert.equal(0, server:buffered())
    near:close()
    far:close()
    client:close()
  end)

  it("of which the rest never comes delays only its reader", function()
    local client, near, far, server = sessions.tapped()
    client:send "hello"
    local record = near:recv_frame(PATIENCE)
    far:send(record:sub(1, -2))
    fails("ETIMEDOUT", server:recv(1, 0.02))
    far:send(record:sub(-1))
    assert.equal("hello", server:recv(5, PATIENCE))
    client:close()
    near:close()
    far:close()
  end)
end)

-- ---- what the system did not take ---------------------------------------------------------

describe("a peer that resets while records wait for the system to take them", function()
  for _, version in ipairs(sessions.VERSIONS) do
    -- All that was sent is sealed, and none of it is data of the connection any more.
    local function with_records_held()
      for _, transport in ipairs(support.transports) do
        if "TLSv" .. (transport.tls or "") == version then
          local client, server = transport.pair { limits = { high_water = 1 } }
          client:option("send_buffer", 4096)
          tools.fill(client)
          return client, server
        end
      end
    end

    local function check_broken(result, _, code)
      assert.is_nil(result)
      assert.is_true(code == "EPIPE" or code == "ECONNRESET", code)
    end

    it("is told by flush, send and close over " .. version, function()
      local client, server = with_records_held()
      server:reset()
      check_broken(client:flush(PATIENCE))
      check_broken(client:send "x")
      check_broken(client:close())
    end)

    support.it_outside("is told by close outside a task over " .. version, function()
      local client, server
      wire.run(function() client, server = with_records_held() end)
      server:reset()
      check_broken(client:close())
    end)
  end
end)
