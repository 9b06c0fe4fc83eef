-- What all specs share: tests that may wait, with a time limit and a check that nothing is
-- left over; pairs of connections; real programs as peers.
-- What this is not: it asserts nothing about the library's behaviour.
--
--   support.it(title, body[, limit])          body runs in a task
--   support.it_outside(title, body[, limit])  body runs outside any task, as a main chunk does
--
-- A body that lets a task die of an uncaught error must take_errors().  At the end of a test
-- the core's census must be all zero: what is still open or referred to by a global fails it.
local it, pending = require("busted").it, require("busted").pending
local wire = require "lunewire"
local census = require("lunewire.core").census

local support = {}

-- A machine that checks every access, or collects at every turn, is slower; limits grow with it.
local slowness = ({ sanitize = 4, apicheck = 4, valgrind = 20, faults = 4, ["gc-hooks"] = 10,
  ["gc-incremental"] = 10, ["gc-generational"] = 2 })[os.getenv "LUNEWIRE_SUITE"] or 1
support.slowness = slowness

-- How many, or how much: of these three as the machine is fast, slow, or very slow.
function support.sized(fast, slow, very_slow)
  return slowness == 1 and fast or slowness <= 4 and slow or very_slow
end

local DEFAULT_LIMIT = 10
local SETTLE_SECONDS = 6 -- closing connections linger for 2 s

-- ---- the guard -----------------------------------------------------------------------
-- A process that ends this one if a test overruns although the loop itself may be stuck, and
-- says which test it was.

local GUARD = [[exec bash -c 'while read -r limit title; do
  read -r -t "$limit" over && continue
  [ $? -gt 128 ] || exit 0
  echo "HUNG for $limit s: $title" >&2
  kill -ABRT %d; sleep 2; kill -KILL %d 2>/dev/null; exit
done']]

local function start_guard()
  local stat <close> = assert(io.open "/proc/self/stat")
  local pid = stat:read "n"
  local guard = assert(io.popen(GUARD:format(pid, pid), "w"))
  guard:setvbuf "no"
  return guard
end

local guard

local function guard_begin(title, seconds)
  guard = guard or start_guard()
  guard:write(math.ceil(seconds), " ", (title:gsub("%c", " ")), "\n")
end

local function guard_end() guard:write "over\n" end

-- ---- uncaught errors -----------------------------------------------------------------

local errors = {}

local function note_error(err, traceback, task)
  errors[#errors + 1] = { err = err, traceback = traceback, task = task }
end

-- The uncaught errors since the test began or since the last call: a list of
-- {err=, traceback=, task=}.
function support.take_errors()
  local taken = errors
  errors = {}
  return taken
end

local function unreported()
  local texts = {}
  for i, e in ipairs(support.take_errors()) do
    texts[i] = "uncaught error in a task: " .. tostring(e.traceback or e.err)
  end
  return texts[1] and table.concat(texts, "\n")
end

-- ---- the end check -------------------------------------------------------------------

-- What a failed test left behind must not fail those after it.
local left_before = {}

local function leftovers()
  local list = {}
  for name, count in pairs(census()) do
    local more = count - (left_before[name] or 0)
    if more > 0 then list[#list + 1] = ("%d %s"):format(more, name) end
  end
  table.sort(list)
  return list[1] and table.concat(list, ", ")
end

local function collect()
  collectgarbage()
  collectgarbage()
end

-- Turns the loop until nothing is left -> nil, or what is left all the same.
local function settle()
  local start = wire.now()
  collect()
  while leftovers() and wire.now() - start < SETTLE_SECONDS * slowness do
    wire.run(wire.sleep, 0.005)
    collect()
  end
  return leftovers()
end

-- Raises if anything is open in the core or an error went unreported.
function support.check_end()
  local text = unreported()
  local left = settle()
  if left then
    left_before = census()
    text = (text and text .. "\n" or "") .. "left over at the end: " .. left
  elseif not next(left_before) then
    wire.run() -- nothing can happen: must return
  end
  if text then error(text, 0) end
end

-- ---- tests ---------------------------------------------------------------------------

-- A failed assertion carries its position already.
local function on_error(err)
  if type(err) == "string" then return debug.traceback(err, 2) end
  return err == nil and debug.traceback("error(nil)", 2) or err
end

-- What an earlier test left open could keep its loop going for ever.
local function run_outside(body)
  if next(left_before) then return false, "not run: an earlier test left something open" end
  return xpcall(body, on_error)
end

local function run_in_task(body, limit)
  local thread, ok, err
  local function main()
    thread = coroutine.running()
    ok, err = xpcall(body, on_error)
  end
  wire.run(function()
    local task = wire.spawn(main)
    local _, _, code = task:join(limit)
    if code ~= "ETIMEDOUT" then return end
    local why = "not over after " .. limit .. " s"
    if thread then why = debug.traceback(thread, why .. "; it stands here:") end
    task:cancel()
    task:join(1)
    ok, err = false, why -- whatever the cancel made of it
  end)
  return ok, err
end

local function finish(ok, err)
  support.stop_peers()
  local settled, left = pcall(support.check_end)
  guard_end()
  if not ok then error(err, 0) end
  if not settled then error(left, 0) end
end

local left_out = os.getenv "LUNEWIRE_FAULTS" and require "spec.faults.left_out" or function() end

local function define(title, run, body, limit)
  if left_out(body, title) then return pending(title, body) end
  limit = (limit or DEFAULT_LIMIT) * slowness
  it(title, function()
    guard_begin(title, limit + SETTLE_SECONDS * slowness + 5)
    wire.on_error(note_error)
    support.take_errors()
    finish(run(body, limit))
  end)
end

function support.it(title, body, limit) define(title, run_in_task, body, limit) end

function support.it_outside(title, body, limit) define(title, run_outside, body, limit) end

-- ---- what tests often say ------------------------------------------------------------

-- Calls fn, which must raise; its error, as text, must match -> the error itself.
function support.raises(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then error("no error was raised; expected one like: " .. pattern, 2) end
  if not tostring(err):find(pattern) then
    error(("the error %q does not match %q"):format(tostring(err), pattern), 2)
  end
  return err
end

-- support.fails("ETIMEDOUT", conn:recv(1)): the results are nil, a message and that code
-- -> the message and what follows the code.
function support.fails(code, result, message, actual, ...)
  local text = ("nil, message, %q"):format(code)
  if result ~= nil or type(message) ~= "string" or actual ~= code then
    error(("expected %s, got %s, %s, %s"):format(text, result, message, actual), 2)
  end
  return message, ...
end

-- Lets the other tasks run until condition() is true -> what it returned; raises after a while.
-- For what happens without any event that a test could await.
function support.eventually(condition)
  local patience = wire.now() + 5 * slowness
  repeat
    local result = condition()
    if result then return result end
    wire.sleep(0.001)
  until wire.now() > patience
  error("this did not become true in time", 2)
end

-- Calls fn with the collector at rest.  For stack overflows: Lua loses the finalizers that
-- happen to run in one ("error in __gc" as a warning), and what they would have freed.
function support.without_collection(fn)
  collect()
  collectgarbage "stop"
  local ok, err = pcall(fn)
  collectgarbage "restart"
  if not ok then error(err, 0) end
end

-- ---- pairs of connections ------------------------------------------------------------

-- -> client, server: two ends of one TCP connection; opts are those of connect and listen.
-- Refer to both, `local a, _ = pair()`: an end that is collected meanwhile closes.
function support.pair(opts)
  local server <close> = assert(wire.listen("127.0.0.1:0", opts))
  local client = assert(wire.connect(server:addr(), opts))
  return client, (assert(server:accept(5 * slowness)))
end

local contexts = {}

-- One context has both roles; each is made at its first use.
local function context(version)
  local pki = require "spec.pki"
  contexts[version] = contexts[version] or assert(wire.tls_context(pki.server("good",
    { ca = pki.ca.ca, min_version = version, max_version = version, servername = "localhost" })))
  return contexts[version]
end

local function with_tls(opts, version)
  local copy = { tls = context(version) }
  for name, value in pairs(opts or {}) do copy[name] = value end
  return copy
end

-- The same over TLS, whose handshake takes both sides at once.
local function tls_pair(version)
  return function(opts)
    opts = with_tls(opts, version)
    local server <close> = assert(wire.listen("127.0.0.1:0", opts))
    local accepting = wire.spawn(server.accept, server, 5 * slowness)
    local client = assert(wire.connect(server:addr(), opts))
    return client, (assert(select(2, accepting:join())))
  end
end

-- An address of a Unix socket that no other test has: an abstract name, which leaves no file.
local names_made = 0

function support.unix_name()
  local stat <close> = assert(io.open "/proc/self/stat")
  names_made = names_made + 1
  return ("unix:@lunewire-%d-%d"):format(stat:read "n", names_made)
end

-- The same over a Unix socket.
local function unix_pair(opts)
  local name = support.unix_name()
  local server <close> = assert(wire.listen(name, opts))
  local client = assert(wire.connect(name, opts))
  return client, (assert(server:accept(5 * slowness)))
end

-- The conformance suite runs once for each: conn_spec, and for those with TLS the specs beside it.
support.transports = {
  { name = "tcp", pair = support.pair },
  { name = "unix", pair = unix_pair, no_reset = true },
  { name = "pipe", pair = function(opts) return wire.pipe(opts) end },
  { name = "tls 1.2", tls = "1.2", pair = tls_pair "TLSv1.2" },
  { name = "tls 1.3", tls = "1.3", pair = tls_pair "TLSv1.3" },
  { name = "tls in a pipe", tls = "pipe",
    pair = function(opts) return wire.pipe(with_tls(opts, "TLSv1.3")) end },
}

-- What a peer sees of a reset over connections of this kind: a Unix socket has none, only an end.
function support.reset_code(pair) return pair == unix_pair and "EOF" or "ECONNRESET" end

-- ---- peers ---------------------------------------------------------------------------
-- A real program, started by the shell in a process group of its own.  Its output comes back
-- through a connection, so that a test awaits it as it awaits anything else.

local Peer = {}
Peer.__index = Peer

local running = {} -- all that output() or stop() did not end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- The exit status travels behind the output.
local PEER = [[{ (
%s
) </dev/null 2>&1; printf '\n%%d' $?; } | nc -N 127.0.0.1 %d >/dev/null 2>&1]]
-- The shell has a background command ignore SIGINT, which is not to reach the program; nor is it to
-- be spared SIGPIPE because somebody above is.
local START = "setsid env --default-signal=INT,QUIT,PIPE timeout -k 1 %d sh -c %s "
  .. ">/dev/null 2>&1 </dev/null & echo $!"

-- Starts a shell command; its standard input is empty unless it pipes something in.  Awaiting
-- it fails after `patience` seconds (15) without output.
function support.peer(command, patience)
  local control <close> = assert(wire.listen "127.0.0.1:0")
  local script = PEER:format(command, control:port())
  local shell = assert(io.popen(START:format(60 * slowness, quote(script))))
  local peer = setmetatable({ pid = shell:read "n" }, Peer)
  shell:close()
  running[peer] = true
  peer.conn = assert(control:accept(5 * slowness))
  peer.conn:set_timeout((patience or 15) * slowness)
  return peer
end

-- A port where nobody listens, for a program that cannot have one chosen, or for who is away for a
-- while. It is below those that the system chooses: no other test's socket takes it meanwhile, and
-- each process begins elsewhere.
local last_port
function support.port()
  if not last_port then
    local stat <close> = assert(io.open "/proc/self/stat")
    last_port = 10000 + stat:read "n" * 97 % 20000
  end
  repeat
    last_port = 10000 + (last_port - 9999) % 20000
    local server = wire.listen(":" .. last_port)
    if server then server:close() end
  until server
  return last_port
end

-- Waits for the next line that the program prints -> the line, without its newline.
function Peer:line() return self.conn:recv_line() end

-- Waits for the program's end -> everything it printed (and line() has not taken), its exit
-- status.
function Peer:output()
  local text = assert(self.conn:read "a")
  self.conn:close()
  running[self] = nil
  if self.file then os.remove(self.file) end
  local output, status = text:match "^(.*)\n(%d+)$"
  return output or text, tonumber(status)
end

-- Sends a signal, "TERM" say, to a program that support.lua started.
function Peer:signal(name)
  assert(os.execute(("kill -s %s %d"):format(name, self.process)))
end

-- Ends the program and all that it started.
function Peer:stop()
  if not running[self] then return end
  running[self] = nil
  os.execute(("kill -s TERM -- -%d 2>/dev/null"):format(self.pid))
  if self.file then os.remove(self.file) end
  if self.conn then self.conn:reset() end
end

function support.stop_peers()
  for peer in pairs(running) do peer:stop() end
end

local function write_script(text)
  local name = os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(text))
  return name
end

-- What .ci/suite put first on PATH is the interpreter under valgrind.
local function behind_valgrind()
  if os.getenv "LUNEWIRE_SUITE" ~= "valgrind" then return "" end
  return "PATH=" .. quote((os.getenv "PATH":gsub("^[^:]*:", "")))
end

local function start_lua(environment, script, ...)
  local temporary = not script:match "^[^\n]+%.lua$" and write_script(script)
  local words = { [[exec sh -c 'echo $$; exec "$@"' sh env]], environment,
    "LUA_PATH=" .. quote(package.path), "LUA_CPATH=" .. quote(package.cpath),
    "lua5.4", quote(temporary or script) }
  for _, argument in ipairs { ... } do words[#words + 1] = quote(tostring(argument)) end
  local peer = support.peer(table.concat(words, " "))
  peer.file = temporary
  peer.process = tonumber(peer:line())
  return peer
end

-- Runs a Lua script, a file's name or the text itself, in a process of its own.
function support.lua(script, ...) return start_lua("", script, ...) end

-- The same for one that is to die of a signal: what it held then is no leak.
function support.doomed_lua(script, ...) return start_lua(behind_valgrind(), script, ...) end

return support
