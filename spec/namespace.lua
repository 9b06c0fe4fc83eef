-- Scripts in a network of their own: only loopback, names of the test's choosing, and nobody
-- outside can be asked.
-- What this is not: a test.
local assert = require "luassert"
local support = require "spec.support"

local namespace = {}

-- Shell words before which a command runs in namespaces of its own: of networks, and with "m" of
-- mounts.  Where no user namespace can be made (in a chroot, say) root needs none.
function namespace.unshare(kinds)
  local own = ("unshare -rn%s"):format(kinds)
  if os.execute(own .. " true 2>/dev/null") then return own end
  return ("unshare -n%s"):format(kinds)
end

-- The server of DNS is a socket that takes questions and never answers.
local SETUP = [[
set -e
ip link set lo up
printf '%%s' '%s' >"$1/hosts"
printf 'nameserver 127.0.0.1\noptions timeout:20 attempts:2\n' >"$1/resolv.conf"
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/resolv.conf" /etc/resolv.conf
%s
status=0
lua5.4 "$1/script.lua" || status=$?
[ -z "$silence" ] || kill "$silence"
exit $status
]]
-- Port 53 is 0035; it is there before the script asks.
local SILENCE = [[
socat -u UDP4-RECV:53,bind=127.0.0.1 OPEN:/dev/null >/dev/null 2>&1 &
silence=$!
until grep -q ':0035 ' /proc/net/udp; do sleep 0.01; done
]]

-- A thread that waits for that server when the script ends has a socket and memory of the system's
-- own, of which valgrind would report.  Its lua5.4 stands first on PATH.
local UNOBSERVED = os.getenv "LUNEWIRE_SUITE" == "valgrind" and "PATH=${PATH#*:}\n" or ""

local PRELUDE = [[
local wire = require "lunewire"
local census = require("lunewire.core").census
]]

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function write(name, text)
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(text))
end

-- Runs a script (with wire and census) where these are the names -> what it printed, without the
-- last newline.  It must end well.  dead_dns: other names have a server that never answers;
-- otherwise there is none.
function namespace.run(hosts, script, opts)
  local dead_dns = opts and opts.dead_dns
  local mktemp = assert(io.popen "mktemp -d")
  local dir = mktemp:read "l"
  mktemp:close()
  write(dir .. "/script.lua", PRELUDE .. script)
  write(dir .. "/setup", SETUP:format(hosts, dead_dns and SILENCE .. UNOBSERVED or ""))
  local command = ("LUA_PATH=%s LUA_CPATH=%s %s sh %s/setup %s")
    :format(quote(package.path), quote(package.cpath), namespace.unshare "m", dir, dir)
  local output, status = support.peer(command):output()
  os.execute("rm -r " .. dir)
  assert.equal(0, status, output)
  return (output:gsub("\n$", ""))
end

return namespace
