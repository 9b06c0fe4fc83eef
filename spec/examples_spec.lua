-- Each script of examples/ runs in a process of its own and prints what it promises; nc and
-- nginx are the other side where there is one.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local it = support.it

local DATE <const> = "%d%d%d%d%-%d%d%-%d%d %d%d:%d%d:%d%d"
local NOBODY <const> = "127.0.0.1:1" -- no system listens there

-- Seconds between two messages that must not arrive together, however slow the machine.
local PAUSE <const> = os.getenv "LUNEWIRE_SUITE" == "valgrind" and 1 or 0.1

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  return lines
end

local function run_example(name, ...)
  return support.lua("examples/" .. name .. ".lua", ...):output()
end

local function assert_ended_well(peer)
  local output, status = peer:output()
  assert.are.same({ "", 0 }, { output, status })
end

describe("examples/echo.lua", function()
  -- -> the process, its address, the command that it suggests
  local function start_server(connections)
    local server = support.lua("examples/echo.lua", "127.0.0.1:0", connections)
    local address = server:line():match "^echo server on (127%.0%.0%.1:%d+), try it:$"
    return server, address, server:line()
  end

  it("prints a command that prints the echo of hello", function()
    local server, address, command = start_server(1)
    assert.are.equal("  printf 'hello\\n' | nc -q1 " .. address:gsub(":", " "), command)
    local output, status = support.peer(command):output()
    assert.are.same({ "> hello\n", 0 }, { output, status })
    assert_ended_well(server)
  end)

  it("answers each line of real nc, and a last one without its newline", function()
    local server, address = start_server(1)
    local nc = support.peer("printf 'one\\r\\n\\nthree' | nc -N " .. address:gsub(":", " "))
    assert.are.equal("> one\n> \n> three\n", (nc:output()))
    assert_ended_well(server)
  end)

  it("its client prints each answer with the local and the remote address", function()
    local server, address = start_server(3)
    local output, status = run_example("echo", "client", address, 3, 0.05)
    local lines = lines_of(output)
    assert.are.same({ 3, 0 }, { #lines, status })
    for _, line in ipairs(lines) do
      local there = line:match("^> " .. DATE .. " 127%.0%.0%.1:%d+ (%S+)$")
      assert.are.equal(address, there, line)
    end
    assert_ended_well(server)
  end)

  it("its client goes on when nobody answers, and says why", function()
    local output, status = run_example("echo", "client", NOBODY, 2, 0)
    local failure = "connect " .. NOBODY .. ": connection refused\n"
    assert.are.same({ failure:rep(2), 0 }, { output, status })
  end)

  it("names the address that is in use already", function()
    local holder <close> = assert(wire.listen "127.0.0.1:0")
    local output, status = run_example("echo", holder:addr())
    assert.are.equal(1, status)
    assert.truthy(output:find("listen " .. holder:addr() .. ": address already in use", 1, true),
      output)
  end)
end)

describe("examples/print_server.lua", function()
  it("prints each number with the time when it came", function()
    local output, status = run_example("print_server", "127.0.0.1:0", 4, PAUSE)
    local lines = lines_of(output)
    assert.are.same({ 5, 0 }, { #lines, status })
    assert.truthy(lines[1]:find "^printing what comes to 127%.0%.0%.1:%d+$", output)
    for i = 0, 3 do
      assert.truthy(lines[i + 2]:find("^" .. DATE .. " " .. i .. "$"), lines[i + 2])
    end
  end)

  it("prints what real nc sends it meanwhile", function()
    local server = support.lua("examples/print_server.lua", "127.0.0.1:0", 2, 10 * PAUSE)
    local port = server:line():match ":(%d+)$"
    local nc = support.peer("printf 'from outside' | nc -N 127.0.0.1 " .. port)
    assert.are.same({ "", 0 }, { nc:output() })
    local output, status = server:output()
    assert.are.equal(0, status)
    assert.truthy(output:find(DATE .. " from outside\n"), output)
  end)
end)

describe("examples/pipe.lua", function()
  it("prints the echo, the three messages and the timeout", function()
    local output, status = run_example "pipe"
    assert.are.equal([[
echo: hello
message: "alpha"
message: "bravo"
message: "charlie"
read timed out — peer is idle, connection still usable
]], output)
    assert.are.equal(0, status)
  end)
end)

-- ---- a real HTTP server --------------------------------------------------------------

-- One process in the foreground, which logs to its standard error when it is ready.  Under
-- /ssi the length of an answer is not known when its header is sent.
local NGINX <const> = [[
daemon off; master_process off; pid DIR/pid; error_log stderr notice;
events { }
http {
  access_log off; default_type text/plain; root DIR/www;
  client_body_temp_path DIR/a; proxy_temp_path DIR/b; fastcgi_temp_path DIR/c;
  uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;
  server {
    listen 127.0.0.1:PORT;
    location /ssi { alias DIR/www; ssi on; ssi_types *; }
    location = /where { return 200 "$request_uri for $http_host"; }
  }
}
]]

local COMMAND <const> = "exec sh -c 'echo $$; exec nginx -e stderr -p %s -c %s/conf'"

local PAGE <const> = "line one\r\nline two\n\n\0binary\255"

local function write_file(name, text)
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(text))
end

local function await_ready(nginx)
  local log = {}
  repeat
    log[#log + 1] = assert(nginx:line(), "nginx did not start: " .. table.concat(log, "\n"))
  until log[#log]:find("event method", 1, true)
end

local Nginx = {}

-- It ends in good order, and the test waits for that: no process is left behind.
function Nginx:__close()
  os.execute("kill -s QUIT " .. self.pid)
  self.peer:output()
  os.execute("rm -r " .. self.dir)
end

-- nginx, serving the files given by name, until its variable goes out of scope.
local function start_nginx(files)
  local dir, port = os.tmpname(), support.port() -- nginx cannot tell which it was given
  os.remove(dir)
  assert(os.execute(("mkdir -p %s/www"):format(dir)))
  for name, text in pairs(files) do write_file(dir .. "/www/" .. name, text) end
  write_file(dir .. "/conf", (NGINX:gsub("DIR", dir):gsub("PORT", port)))
  local peer = support.peer(COMMAND:format(dir, dir))
  local nginx = { peer = peer, pid = peer:line(), dir = dir, address = "127.0.0.1:" .. port }
  await_ready(peer)
  return setmetatable(nginx, Nginx)
end

-- -> the header, the content, the exit status
local function get(...)
  local output, status = run_example("http_get", ...)
  local header, content = output:match "^(.-)\n\n(.*)$"
  return header or output, content, status
end

describe("examples/http_get.lua with nginx", function()
  it("prints the header lines and as much content as Content-Length says", function()
    local nginx <close> = start_nginx { ["page.txt"] = PAGE }
    local header, content, status = get("http://" .. nginx.address .. "/page.txt")
    assert.truthy(header:find "^HTTP/1%.[01] 200 OK\n", header)
    assert.truthy(header:find("\nContent-Length: " .. #PAGE, 1, true), header)
    assert.are.same({ PAGE, 0 }, { content, status })
  end)

  it("prints content without a length up to the end of the connection", function()
    local nginx <close> = start_nginx { ["page.txt"] = PAGE }
    local header, content, status = get(nginx.address, "/ssi/page.txt")
    assert.falsy(header:lower():find("content-length", 1, true), header)
    assert.are.same({ PAGE, 0 }, { content, status })
  end)

  it("fetches a megabyte whole, and an empty page", function()
    local large = ("0123456789abcdef"):rep(65536)
    local nginx <close> = start_nginx { large = large, empty = "" }
    local _, content, status = get(nginx.address .. "/large")
    assert.is_true(content == large)
    assert.are.equal(0, status)
    _, content, status = get(nginx.address .. "/empty")
    assert.are.same({ "", 0 }, { content, status })
  end)

  it("asks for the path with its query, of the host that was named", function()
    local nginx <close> = start_nginx {}
    local _, content = get("http://" .. nginx.address .. "/where?a=b&c#part")
    assert.are.equal("/where?a=b&c for " .. nginx.address, content)
  end)

  it("prints a missing page's answer and ends with exit code 1", function()
    local nginx <close> = start_nginx {}
    local header, content, status = get(nginx.address, "/nothing")
    assert.truthy(header:find "^HTTP/1%.[01] 404 Not Found\n", header)
    assert.truthy(content:find("http_get: 404 Not Found\n", 1, true), content)
    assert.are.equal(1, status)
  end)
end)

-- ---- servers that misbehave ----------------------------------------------------------

-- What http_get says and its exit status, of a server that answers every request like this.
local function answered_by(answer)
  local server <close> = assert(wire.serve("127.0.0.1:0", function(conn)
    conn:recv_until "\r\n\r\n"
    conn:send(answer)
  end))
  local output, status = run_example("http_get", server:addr())
  return { output:match "http_get: ([^\n]*)\n", status }
end

describe("examples/http_get.lua", function()
  it("says that the connection was refused, with exit code 1", function()
    local output, status = run_example("http_get", "http://" .. NOBODY .. "/")
    assert.are.equal("http_get: connect " .. NOBODY .. ": connection refused\n", output)
    assert.are.equal(1, status)
  end)

  it("says that the connection ended inside the header", function()
    assert.are.same({ "the connection ended inside the header", 1 },
      answered_by "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n")
  end)

  it("says that the content is cut short", function()
    local said = answered_by "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfour"
    assert.truthy(said[1]:find("end of stream", 1, true), said[1])
    assert.are.equal(1, said[2])
  end)

  it("takes no more content than it set out to take", function()
    local said = answered_by "HTTP/1.0 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
    assert.truthy(said[1]:find("too", 1, true), said[1])
    assert.are.equal(1, said[2])
  end)

  it("stops at a header that does not end", function()
    assert.are.same({ "the header has no end", 1 },
      answered_by("HTTP/1.0 200 OK\r\n" .. ("X: y\r\n"):rep(1000)))
  end)

  it("recognises what is no HTTP", function()
    assert.are.same({ "this is no HTTP answer", 1 }, answered_by "\r\n")
  end)

  it("refuses other schemes, and explains itself without an argument", function()
    local output, status = run_example("http_get", "https://localhost/")
    assert.are.same({ "http_get: https: only http is spoken here\n", 1 }, { output, status })
    output, status = run_example "http_get"
    assert.are.same({ "usage: http_get.lua http://host[:port][/path]\n", 2 }, { output, status })
  end)
end)
