-- examples/udp_echo.lua runs in processes of its own, with nc as another client.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local function start_server(datagrams)
  local server = support.lua("examples/udp_echo.lua", "127.0.0.1:0", datagrams)
  local address = server:line():match "^udp echo server on (127%.0%.0%.1:%d+), try it:$"
  return server, address, server:line()
end

describe("examples/udp_echo.lua", function()
  it("prints a command that prints the echo of hello", function()
    local server, address, command = start_server(1)
    assert.are.equal("  printf 'hello\\n' | nc -u -W 1 " .. address:gsub(":", " "), command)
    assert.are.same({ "hello\n", 0 }, { support.peer(command):output() })
    local output, status = server:output()
    assert.truthy(output:find "^6 bytes from 127%.0%.0%.1:%d+\n$", output)
    assert.are.equal(0, status)
  end)

  it("echoes to its client, and says what was cut off", function()
    local server, address = start_server(2)
    local client = support.lua("examples/udp_echo.lua", "client", address, "hello")
    assert.are.same({ "hello\n", 0 }, { client:output() })
    client = support.lua("examples/udp_echo.lua", "client", address, ("x"):rep(2000))
    assert.are.same({ ("x"):rep(1024) .. "\n", 0 }, { client:output() })
    local output, status = server:output()
    assert.truthy(output:find("\n1024 bytes from [^\n]*, cut off there\n$"), output)
    assert.are.equal(0, status)
  end)

  it("its client says that nobody is there, with exit code 1", function()
    local gone = assert(wire.udp "127.0.0.1:0")
    local address = gone:local_addr()
    gone:close()
    local output, status = support.lua("examples/udp_echo.lua", "client", address):output()
    assert.truthy(output:find("recv " .. address .. ": connection refused", 1, true), output)
    assert.are.equal(1, status)
  end)

  it("its client asks again when the first answer does not come", function()
    local udp <close> = assert(wire.udp "127.0.0.1:0")
    local client = support.lua("examples/udp_echo.lua", "client", (udp:local_addr()), "hello")
    local first = assert(udp:recv_from(10))
    local second, from = udp:recv_from(10)
    assert.are.same({ "hello", "hello" }, { first, second })
    udp:send_to("at last", from)
    assert.are.same({ "at last\n", 0 }, { client:output() })
  end)
end)
