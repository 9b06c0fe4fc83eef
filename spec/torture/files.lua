-- Files that scenarios need, made once by the state that outlives them all; their names go to the
-- others by the environment.
-- What this is not: a scenario.
local pki = require "spec.pki"

local function write(name, text)
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(text))
  return name
end

return {
  TORTURE_CERT = pki.cert.good,
  TORTURE_KEY = pki.key.leaf,
  TORTURE_CA = pki.ca.ca,
  SSL_CERT_FILE = pki.ca.other, -- the system's authorities: one, not 140
  SSL_CERT_DIR = pki.scratch "none",
  TORTURE_SOCKET = pki.scratch "socket",
  TORTURE_FILE = write(pki.scratch "file", ("0123456789abcdef"):rep(8192)),
}
