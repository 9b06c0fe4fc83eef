-- Many callers on one connection: each in its turn, each message whole, each woken once.
-- What this is not: what chance makes of it (chaos.lua).
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"
local tools = require "spec.conformance.tools"

local it, fails = support.it, support.fails

-- What a failed call returned, of a task.
local function code_of(task)
  local _, _, code = tools.result(task)
  return code
end

local function readers(pair)
  describe("several readers", function()
    it("trap: get whole messages in the order in which they came", function()
      local a, b = pair()
      local tasks = tools.spawn_all(5, function()
        return b:recv_line()
      end)
      wire.sleep(0)
      for byte in ("one\ntwo\nthree\nfour\nfive\n"):gmatch(".") do
        tools.put(a, byte)
      end
      assert.same({ "one", "two", "three", "four", "five" }, tools.results(tasks))
    end)

    it("may each receive in another way", function()
      local a, b = pair()
      local ways = {
        function() return b:recv(4) end,
        function() return b:recv_line() end,
        function() return b:recv_pkg() end,
        function() return b:recv_until(";") end,
      }
      local tasks = tools.spawn_all(#ways, function(i)
        return ways[i]()
      end)
      wire.sleep(0)
      tools.put(a, "four", "line\n", "\0\3pkg", "until;")
      assert.same({ "four", "line", "pkg", "until" }, tools.results(tasks))
    end)

    it("trap: loop side by side over many messages and lose or tear none", function()
      local a, b = pair()
      local seen = {}
      local tasks = tools.spawn_all(4, function()
        for data in b:pkgs() do
          assert(not seen[data], "twice")
          seen[data] = true
          seen.count = (seen.count or 0) + 1
        end
      end)
      for i = 1, 1000 do
        a:send_pkg(i .. ":" .. ("x"):rep(i))
      end
      a:close()
      tools.results(tasks)
      assert.equal(1000, seen.count)
      for i = 1, 1000 do
        assert.is_true(seen[i .. ":" .. ("x"):rep(i)])
      end
    end)

    it("take turns: who comes again stands at the end of the line", function()
      local a, b = pair()
      local order = {}
      local tasks = tools.spawn_all(3, function(i)
        for line in b:lines() do
          order[#order + 1] = i .. line
        end
      end)
      wire.sleep(0)
      for i = 1, 6 do
        tools.put(a, i, "\n")
        tools.await(function()
          return #order == i
        end)
      end
      a:close()
      tools.results(tasks)
      assert.same({ "11", "22", "33", "14", "25", "36" }, order)
    end)

    it("do not pass each other: a shorter need waits behind a longer one", function()
      local a, b = pair()
      local long = tools.start(b.recv, b, 10)
      local short = tools.start(b.recv, b, 3)
      tools.put(a, "12345")
      fails("ETIMEDOUT", b:recv(1, 0))
      assert.equal("waiting", short:status())
      tools.put(a, "67890abc")
      assert.equal("1234567890", tools.result(long))
      assert.equal("abc", tools.result(short))
    end)

    it("move up when the first one times out, and get what it had waited for", function()
      local a, b = pair()
      local long = tools.start(b.recv, b, 10, 0.1)
      local short = tools.start(b.recv, b, 3)
      tools.put(a, "12345")
      assert.equal("ETIMEDOUT", code_of(long))
      assert.equal("123", tools.result(short))
      assert.equal("45", b:recv(2))
    end)

    it("move up when the first one is cancelled, and get what it had waited for", function()
      local a, b = pair()
      local long = tools.start(b.recv, b, 10)
      local short = tools.start(b.recv, b, 3)
      tools.put(a, "12345")
      tools.await(function()
        return b:stats().bytes_in == 5
      end)
      long:cancel()
      fails("ECANCELED", long:join())
      assert.equal("123", tools.result(short))
    end)

    it("keep their order when one in the middle gives up", function()
      local a, b = pair()
      local first = tools.start(b.recv_line, b)
      local middle = tools.start(b.recv_line, b)
      local last = tools.start(b.recv_line, b)
      middle:cancel()
      tools.put(a, "one\ntwo\n")
      assert.equal("one", tools.result(first))
      assert.equal("two", tools.result(last))
      assert.equal("canceled", middle:status())
    end)
  end)

  describe("a cancelled reader", function()
    it("trap: loses no byte", function()
      local a, b = pair()
      local reader = tools.start(b.recv, b, 10)
      tools.put(a, "12345")
      tools.await(function()
        return b:stats().bytes_in == 5
      end)
      reader:cancel()
      fails("ECANCELED", reader:join())
      assert.equal("12345", b:recv(5))
    end)

    it("loses no message that came in the same turn", function()
      local a, b = pair()
      local reader = tools.start(b.recv_line, b)
      tools.put(a, "line\n")
      reader:cancel()
      local ok, line = reader:join()
      assert.equal("line", ok and line or b:recv_line())
    end)
  end)
end

local function writers(pair)
  describe("several writers", function()
    it("trap: each put their message on the stream whole, in order", function()
      local a, b = pair()
      local body = ("x"):rep(100000)
      local tasks = tools.spawn_all(20, function(i)
        return a:send("<", i, ":", { body, { ">" } })
      end)
      for i = 1, 20 do
        assert.is_true("<" .. i .. ":" .. body == b:recv_until(">", { max = 200000 }))
      end
      tools.results(tasks)
    end)

    it("move up when the first one times out", function()
      local a, b = pair { limits = { all = math.huge } }
      local accepted = tools.fill(a)
      local first = tools.start(a.send, a, "first", { timeout = 0.1 })
      local second = tools.start(a.send, a, "second")
      assert.equal("ETIMEDOUT", code_of(first))
      local counter = tools.start(b.recv, b, accepted + 6)
      assert.equal(6, tools.result(second))
      assert.equal("second", tools.result(counter):sub(-6))
    end)

    it("move up when the first one is cancelled, which has sent nothing", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      local first = tools.start(a.send, a, "first")
      local second = tools.start(a.send, a, "second")
      first:cancel()
      fails("ECANCELED", first:join())
      assert.equal("second", b:recv(accepted + 6):sub(-6))
      assert.equal(6, tools.result(second))
    end)

    it("send while another task receives", function()
      local a, b = pair()
      local reader = tools.start(a.recv_line, a)
      tools.put(a, "request\n")
      assert.equal("request", b:recv_line())
      tools.put(b, "answer\n")
      assert.equal("answer", tools.result(reader))
    end)
  end)

  describe("send_recv", function()
    local function echo(conn)
      for line in conn:lines { keep = true } do
        conn:send(line)
      end
    end

    it("gives each of many callers the answer to its own request", function()
      local a, b = pair()
      local server = wire.spawn(echo, b)
      local tasks = tools.spawn_all(50, function(i)
        return a:send_recv(("%07d\n"):format(i), 8)
      end)
      for i, answer in ipairs(tools.results(tasks)) do
        assert.equal(("%07d\n"):format(i), answer)
      end
      a:close()
      tools.result(server)
    end)

    it("trap: is EPROTO after one that failed after sending, not another's answer", function()
      local a, b = pair()
      fails("ETIMEDOUT", a:send_recv("one", 3, 0.05))
      assert.equal("one", b:recv(3))
      tools.put(b, "ONE")
      fails("EPROTO", a:send_recv("two", 3))
      fails("EPROTO", a:send_recv("two", 3))
      assert.equal("ONE", a:recv(3))
      a:close()
      fails("EOF", b:recv(1))
    end)

    it("is EPROTO after one that was cancelled after sending", function()
      local a, b = pair()
      local task = tools.start(a.send_recv, a, "one", 3)
      assert.equal("one", b:recv(3))
      task:cancel()
      fails("ECANCELED", task:join())
      fails("EPROTO", a:send_recv("two", 3))
    end)

    it("owes nothing after one that failed before sending", function()
      local a, b = pair()
      local accepted = tools.fill(a)
      fails("ETIMEDOUT", a:send_recv("never", 3, 0.05))
      local server = wire.spawn(function()
        b:recv(accepted)
        return b:recv(4), b:send("back")
      end)
      assert.equal("back", a:send_recv("sent", 4))
      assert.equal("sent", tools.result(server))
    end)

    it("of no bytes returns at once", function()
      local a, b = pair()
      assert.equal("", a:send_recv("x", 0))
      assert.equal("x", b:recv(1))
    end)
  end)
end

local function ends(pair)
  describe("close wakes", function()
    -- Starts n tasks that wait in fn; each counts its own returns.
    local function waiting(n, fn)
      local returns = {}
      local tasks = tools.spawn_all(n, function(i)
        returns[i] = 0
        local code = select(3, fn())
        returns[i] = returns[i] + 1
        return code
      end)
      wire.sleep(0)
      return tasks, returns
    end

    local function all_closed(tasks, returns)
      for i, code in ipairs(tools.results(tasks)) do
        assert.equal("ECLOSED", code)
        assert.equal(1, returns[i])
      end
    end

    it("every waiting reader exactly once with ECLOSED", function()
      local a, b = pair()
      local tasks, returns = waiting(5, function()
        return b:recv(1)
      end)
      tools.put(a, "x")
      b:close()
      local closed = 0
      local codes = tools.results(tasks)
      for i = 1, 5 do
        closed = closed + (codes[i] == "ECLOSED" and 1 or 0)
        assert.equal(1, returns[i])
      end
      assert.is_true(closed >= 4) -- the byte may have come first, for one of them
    end)

    it("every waiting reader with ECLOSED though data came in the same turn", function()
      local a, b = pair()
      local tasks, returns = waiting(3, function()
        return b:recv(10)
      end)
      tools.put(a, "12345")
      b:close()
      all_closed(tasks, returns)
    end)

    it("every waiting writer exactly once with ECLOSED", function()
      local a, b = pair()
      tools.fill(a)
      local tasks, returns = waiting(5, function()
        return a:send("x")
      end)
      a:close()
      all_closed(tasks, returns)
      b:reset()
    end)

    it("every send_recv in flight with ECLOSED, not only the first", function()
      local a, b = pair()
      local tasks, returns = waiting(3, function()
        return a:send_recv("x", 1)
      end)
      a:close()
      all_closed(tasks, returns)
      b:reset() -- not collected before, which would be its close
    end)

    it("a task that waits in flush with ECLOSED", function()
      local a, b = pair()
      tools.fill(a)
      local tasks, returns = waiting(1, function()
        return a:flush()
      end)
      a:close()
      all_closed(tasks, returns)
      b:reset()
    end)

    it("once, also a reader whose timeout is due and that is cancelled besides", function()
      local _, b = pair()
      local returned = 0
      local task = tools.start(function()
        pcall(b.recv, b, 1, 0.02)
        returned = returned + 1
      end)
      local due = wire.now() + 0.03
      while wire.now() < due do end
      b:close()
      task:cancel()
      task:join()
      wire.sleep(0.02)
      assert.equal(1, returned)
    end)

    it("of a reset wakes them all too", function()
      local _, b = pair()
      local tasks, returns = waiting(3, function()
        return b:recv(1)
      end)
      b:reset()
      all_closed(tasks, returns)
    end)
  end)

  describe("the peer's end", function()
    it("wakes every waiting reader with EOF, once", function()
      local a, b = pair()
      local count = 0
      local tasks = tools.spawn_all(5, function()
        local code = select(3, b:recv(1))
        count = count + 1
        return code
      end)
      wire.sleep(0)
      a:close()
      assert.same({ "EOF", "EOF", "EOF", "EOF", "EOF" }, tools.results(tasks))
      assert.equal(5, count)
    end)

    it("a reset wakes every waiting reader with what the transport makes of it", function()
      local a, b = pair()
      local code = support.reset_code(pair)
      local tasks = tools.spawn_all(3, function()
        return select(3, b:recv(1))
      end)
      wire.sleep(0)
      a:reset()
      assert.same({ code, code, code }, tools.results(tasks))
    end)
  end)
end

return function(transport)
  readers(transport.pair)
  writers(transport.pair)
  ends(transport.pair)
end
