-- The other half of spec/waits.lua: calls that wait for something else than one connection's bytes.
-- What this is not: to be required by anybody but that.  It returns a function that adds them.
local assert = require "luassert"
local pki = require "spec.pki"
local support = require "spec.support"
local wire = require "lunewire"

local function past() return wire.now() - 1 end

local function collect()
  collectgarbage()
  collectgarbage()
end

-- ---- servers -------------------------------------------------------------------------

local function accepting(tls)
  return function()
    local server = assert(wire.listen("127.0.0.1:0", tls and { tls = pki.server() }))
    local clients = {}
    return {
      call = function(timeout) return server:accept(timeout) end,
      ends = {
        ["close"] = { function() server:close() end, "ECLOSED" },
        ["a shutdown"] = { function() wire.spawn(server.shutdown, server, 5) end, "ECLOSED" },
      },
      disturbs = tls and {
        ["junk"] = function() assert(wire.connect(server:addr(), 5)):send "junk\n" end,
        ["a client that resets"] = function() assert(wire.connect(server:addr(), 5)):reset() end,
      },
      serve = function()
        local opts = tls and { tls = pki.client() }
        clients[#clients + 1] = wire.spawn(wire.connect, server:addr(), opts)
      end,
      close = function()
        server:close()
        for _, task in ipairs(clients) do
          local _, conn = task:join()
          if conn then conn:reset() end
        end
      end,
    }
  end
end

-- A server whose only connection is in the middle of a message.
local function busy_server()
  local begun = false
  local server = assert(wire.serve("127.0.0.1:0", function(conn)
    begun = conn:recv(1) and conn:peek(1)
    conn:peek(9)
  end))
  local client = assert(wire.connect(server:addr()))
  client:send "in the"
  support.eventually(function() return begun end)
  return server, client
end

local function server_run()
  local server, client = busy_server()
  return {
    call = function() return server:run() end,
    timed = false,
    ends = {
      ["a shutdown"] = { function() wire.spawn(server.shutdown, server, 0) end, "served" },
    },
    disturbs = { ["a close, while there is a connection"] = function() server:close() end },
    serve = function()
      server:close()
      client:reset()
    end,
    close = function()
      server:close()
      client:reset()
    end,
  }
end

local function server_shutdown()
  local server, client = busy_server()
  return {
    call = function(timeout) return server:shutdown(timeout or 1000) end,
    late = "end",
    ends = {
      ["another shutdown"] = { function() wire.spawn(server.shutdown, server, 0) end,
        "served", "end" },
      ["that its client is forgotten"] = { function()
        client = nil
        collect()
      end, "served" },
    },
    disturbs = { ["a close"] = function() server:close() end },
    serve = function() client:reset() end,
    close = function()
      server:close()
      if client then client:reset() end
    end,
  }
end

-- ---- connections that come up --------------------------------------------------------

-- A server whose backlog is full does not answer.
local function connecting()
  local server = assert(wire.listen("127.0.0.1:0", { backlog = 1 }))
  local held, unanswered = {}, 0
  repeat
    local conn = wire.connect(server:addr(), 0.02)
    held[#held + 1] = conn
    unanswered = conn and 0 or unanswered + 1
  until unanswered == 2
  return {
    call = function(timeout) return wire.connect(server:addr(), timeout or 1000) end,
    close = function()
      for _, conn in ipairs(held) do conn:reset() end
      server:close()
    end,
  }
end

-- A server that accepts but says nothing -> it, a function for its one connection, its end.
local function silent_server()
  local server, peer = assert(wire.listen "127.0.0.1:0"), nil
  return server, function()
    peer = peer or assert(server:accept(5 * support.slowness))
    return peer
  end, function()
    server:close()
    if peer then peer:reset() end
  end
end

-- fn, which then does nothing any more.
local function at_most_once(fn)
  local done
  return function()
    if done then return end
    done = true
    fn()
  end
end

local function peer_ends(peer, ended)
  return {
    ["the peer's close"] = { function() peer():close() end, table.unpack(ended) },
    ["the peer's reset"] = { function() peer():reset() end, "ECONNRESET", "EPIPE" },
  }
end

local function connecting_tls()
  local server, accept, close = silent_server()
  local ends = peer_ends(accept, { "ETLS", "EOF" })
  ends["junk"] = { function() accept():send(("junk\n"):rep(100)) end, "ETLS" }
  return {
    call = function(timeout)
      return wire.connect(server:addr(), { tls = pki.client(), timeout = timeout or 1000 })
    end,
    ends = ends,
    serve = at_most_once(function()
      local peer = accept()
      wire.spawn(peer.start_tls, peer, pki.server("good", { role = "server" }))
    end),
    close = close,
  }
end

local function requesting()
  local server, accept, close = silent_server()
  return {
    call = function(timeout)
      return wire.request(server:addr(), "?", { recv = 3, timeout = timeout or 1000 })
    end,
    ends = peer_ends(accept, { "EOF" }),
    serve = function() accept():send "abc" end,
    close = close,
  }
end

-- Calls that dial by themselves, by TLS.  make(address, options) -> { call=, close= }, and
-- disconnect=: what ends all its dials; retries: a peer cannot end it; fails=: what it says if one
-- does; late=: as a place's.
local function dialing(make)
  return function()
    local server, accept, close = silent_server()
    local opts = { tls = pki.client { servername = "localhost" } }
    local dialer = make(server:addr(), opts)
    local ends = dialer.retries and {} or peer_ends(accept, { "ETLS", "EOF" })
    if dialer.fails then
      for _, cause in pairs(ends) do cause[2], cause[3] = dialer.fails, nil end
    end
    ends["disconnect"] = dialer.disconnect and { dialer.disconnect, "ECLOSED" }
    return {
      call = dialer.call,
      late = dialer.late,
      ends = ends,
      -- A dial whose time was over may have been followed by another.
      serve = at_most_once(function()
        local peer = accept()
        wire.spawn(function()
          while peer do
            wire.spawn(peer.start_tls, peer, pki.server("good", { role = "server" }))
            peer = server:accept()
          end
        end)
      end),
      floods = true,
      close = function()
        dialer.close()
        close()
      end,
    }
  end
end

local function client_connect(addr, opts)
  local client = wire.client(addr, opts)
  local function disconnect() client:disconnect() end
  return {
    call = function(timeout) return client:connect(timeout or 1000) end,
    disconnect = disconnect,
    close = disconnect,
  }
end

local function client_send(addr, opts)
  opts.reconnect = { min = 0.001, max = 0.002 }
  local client = wire.client(addr, opts)
  local function disconnect() client:disconnect() end
  return {
    call = function(timeout) return client:send("x", { timeout = timeout or 1000 }) end,
    retries = true,
    disconnect = disconnect,
    close = disconnect,
  }
end

-- Its maker waits for the first connection; whatever becomes of that, there is a logger.
local function netlog_made(addr, opts)
  return {
    call = function(timeout)
      opts.timeout = timeout or 1000
      local log <close> = wire.netlog(addr, opts)
      return log
    end,
    fails = "served",
    late = "served",
    close = function() end,
  }
end

-- Who starts first waits for the other.
local function starting_tls(role, pair)
  local function options(of, timeout)
    local opts = of == "server" and pki.server() or pki.client { servername = "localhost" }
    opts.role, opts.handshake_timeout = of, timeout
    return opts
  end
  return function()
    local conn, peer = pair()
    local ends = peer_ends(function() return peer end, { "ETLS", "EOF" })
    ends["close"] = { function() conn:close() end, "ECLOSED" }
    ends["reset"] = { function() conn:reset() end, "ECLOSED" }
    ends["a deadline in the past"] = { function() conn:set_deadline(past()) end, "ETIMEDOUT" }
    ends["junk"] = { function() peer:send(("junk\n"):rep(100)) end, "ETLS" }
    ends["that its peer is forgotten"] = { function()
      peer = nil
      collect()
    end, "ETLS", "EOF", "ECONNRESET" }
    return {
      call = function(timeout) return conn:start_tls(options(role, timeout or 1000)) end,
      ends = ends,
      serve = at_most_once(function()
        wire.spawn(peer.start_tls, peer, options(role == "client" and "server" or "client"))
      end),
      close = function()
        conn:reset()
        if peer then peer:reset() end
      end,
    }
  end
end

-- ---- two connections -----------------------------------------------------------------

local function relaying()
  local left, a = support.pair()
  local b, right = support.pair()
  return {
    call = function(timeout) return wire.relay(a, b, timeout) end,
    ends = {
      ["the close of the first"] = { function() a:close() end, "ECLOSED" },
      ["the close of the second"] = { function() b:close() end, "ECLOSED" },
      ["a peer's reset"] = { function() right:reset() end, "ECONNRESET", "EPIPE" },
    },
    serve = function()
      left:close()
      right:close()
    end,
    close = function()
      for _, conn in ipairs { left, a, b, right } do conn:reset() end
    end,
  }
end

-- ---- datagrams -----------------------------------------------------------------------

local function datagram(method)
  return function()
    local udp, peer = assert(wire.udp "127.0.0.1:0"), assert(wire.udp "127.0.0.1:0")
    local ends = {
      ["close"] = { function() udp:close() end, "ECLOSED" },
      ["a deadline in the past"] = { function() udp:set_deadline(past()) end, "ETIMEDOUT" },
      ["a receive deadline in the past"] =
        { function() udp:set_recv_deadline(past()) end, "ETIMEDOUT" },
    }
    if method == "recv" then
      assert(udp:connect((peer:local_addr())))
      ends["a peer that is not there"] = { at_most_once(function() -- a second send is told, not we
        peer:close()
        udp:send "x"
      end), "ECONNREFUSED" }
    end
    return {
      call = function(timeout) return udp[method](udp, timeout) end,
      ends = ends,
      serve = function() peer:send_to("abc", (udp:local_addr())) end,
      close = function()
        udp:close()
        peer:close()
      end,
    }
  end
end

-- ---- tasks ---------------------------------------------------------------------------

local function sleeping()
  return {
    call = function(timeout) return wire.sleep(timeout or 1e6) end,
    late = "end",
    close = function() end,
  }
end

local function joining()
  local gate = wire.channel()
  local task = wire.spawn(function()
    local value, message, code = gate:recv()
    if code then error(message) end
    return value
  end)
  return {
    call = function(timeout)
      local results = table.pack(task:join(timeout))
      return table.unpack(results, 1, 3)
    end,
    ends = {
      ["its error"] = { function() gate:close() end, "EERROR" },
      ["its cancellation"] = { function() task:cancel() end, "ECANCELED" },
    },
    serve = function() gate:send("over", 0) end,
    close = function()
      task:cancel()
      task:join()
      support.take_errors() -- of a task whose error came when nobody joined any more
    end,
  }
end

local function next_value(channel)
  local step, state = channel:values()
  return step(state)
end

-- timed: false if it takes no timeout
local function on_channel(call, serve, timed)
  return function()
    local channel = wire.channel()
    return {
      call = function(timeout) return call(channel, timeout) end,
      timed = timed,
      ends = {
        ["close"] = { function() channel:close() end, timed == false and "end" or "ECLOSED" },
      },
      serve = function() serve(channel) end,
      hands_over = true,
      close = function() channel:close() end,
    }
  end
end

local function acquiring(method)
  return function()
    local semaphore = wire.mutex()
    semaphore:acquire()
    return {
      call = function(timeout)
        if method == "acquire" then return semaphore:acquire(timeout) end
        return semaphore:with(function()
          semaphore:acquire(0) -- it stays taken until the next release
          return true
        end)
      end,
      timed = method == "acquire",
      serve = function() semaphore:release() end,
      close = function() end,
    }
  end
end

local function borrowing()
  local server = assert(wire.serve("127.0.0.1:0", function(conn) conn:recv(1) end))
  local pool = wire.pool(server:addr(), { max = 1 })
  local lease = assert(pool:get(5))
  return {
    call = function(timeout)
      local conn, message, code = pool:get(timeout)
      lease = conn or lease
      return conn, message, code
    end,
    ends = {
      ["close"] = { function() pool:close() end, "ECLOSED" },
      ["a dial that fails"] = { function()
        server:close()
        lease:reset()
        pool:put(lease)
      end, "ECONNREFUSED" },
      ["that its holder is forgotten"] = { function()
        lease = nil
        collect()
      end, "served" },
    },
    serve = function() pool:put(lease) end,
    hands_over = true,
    close = function()
      if lease then pool:put(lease) end
      pool:close()
      server:close()
    end,
  }
end

-- ---- all of them ---------------------------------------------------------------------

return function(add)
  add("accept", accepting(nil), true)
  add("accept of TLS", accepting "tls", true)
  add("server:run", server_run)
  add("server:shutdown", server_shutdown)
  add("connect", connecting)
  add("connect by TLS", connecting_tls)
  add("request", requesting)
  add("client connect", dialing(client_connect), true)
  add("client send, which dials,", dialing(client_send), true)
  add("netlog", dialing(netlog_made))
  for _, role in ipairs { "client", "server" } do
    add("start_tls as the " .. role, starting_tls(role, support.pair), false, "tcp")
    add("start_tls as the " .. role, starting_tls(role, wire.pipe), false, "pipe")
  end
  add("relay", relaying)
  add("udp recv_from", datagram "recv_from", true)
  add("udp recv", datagram "recv", true)
  add("sleep", sleeping)
  add("join", joining)
  add("channel send", on_channel(function(channel, timeout) return channel:send("v", timeout) end,
    function(channel) channel:recv(0) end), true)
  add("channel recv", on_channel(function(channel, timeout) return channel:recv(timeout) end,
    function(channel) channel:send("v", 0) end), true)
  add("channel values", on_channel(next_value, function(channel) channel:send("v", 0) end, false),
    true)
  add("semaphore acquire", acquiring "acquire", true)
  add("semaphore with", acquiring "with")
  add("pool get", borrowing, true)
end
