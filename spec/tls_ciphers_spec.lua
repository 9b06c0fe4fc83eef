-- TLS: which cipher a session has: of the options, else the system's configuration, else AES-128.
-- What this is not: options that cannot be used (tls_spec).
local support = require "spec.support"
local wire = require "lunewire"
local pki = require "spec.pki"
local sessions = require "spec.sessions"

local it = support.it

local FAST <const> = "TLS_AES_128_GCM_SHA256"
local STRONG <const> = "TLS_AES_256_GCM_SHA384"
local OTHER <const> = "TLS_CHACHA20_POLY1305_SHA256"

local function cipher(server_options, client_options)
  local client, server = wire.pipe()
  local names, serving = pki.client(client_options), pki.server("good", server_options)
  names.servername = "localhost"
  sessions.handshake(client, names, server, serving)
  local at_client, at_server = client:tls_info().cipher, server:tls_info().cipher
  assert.equal(at_client, at_server)
  client:close()
  server:close()
  return at_client
end

describe("the cipher of TLS 1.3", function()
  it("is AES-128 if nobody says anything", function()
    assert.equal(FAST, cipher())
  end)

  it("is the server's first choice among what the client has", function()
    assert.equal(FAST, cipher(nil, { ciphersuites = STRONG .. ":" .. FAST }))
    assert.equal(STRONG, cipher({ ciphersuites = STRONG .. ":" .. FAST }))
    assert.equal(OTHER, cipher({ ciphersuites = OTHER .. ":" .. FAST }))
    assert.equal(STRONG, cipher({ ciphersuites = OTHER .. ":" .. STRONG },
      { ciphersuites = FAST .. ":" .. STRONG }))
  end)

  it("may still be any that the library has", function()
    for _, suite in ipairs { FAST, STRONG, OTHER } do
      assert.equal(suite, cipher({ ciphersuites = suite }))
      assert.equal(suite, cipher(nil, { ciphersuites = suite }))
    end
  end)

  it("is not touched by the ciphers of TLS 1.2", function()
    assert.equal(FAST, cipher({ ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384" }))
  end)
end)

describe("the system's configuration", function()
  local SCRIPT = [[
    local wire, cert, key, ca = require "lunewire", ...
    wire.run(function()
      local client, server = wire.pipe()
      local task = wire.spawn(function() return server:start_tls { cert = cert, key = key } end)
      assert(client:start_tls { ca = ca, servername = "localhost" })
      assert(task:join())
      print(client:tls_info().cipher)
      client:close()
      server:close()
    end)
  ]]

  local function write(name, text)
    local path = pki.scratch(name)
    local file <close> = assert(io.open(path, "w"))
    assert(file:write(text))
    return path
  end

  -- What a process with this configuration of OpenSSL uses.
  local function configured(suites)
    local config = write("openssl.cnf", ([[
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = rule
[rule]
MinProtocol = TLSv1.2
%s
]]):format(suites and "Ciphersuites = " .. suites or ""))
    local words = { "OPENSSL_CONF=" .. config, ("LUA_PATH='%s'"):format(package.path),
      ("LUA_CPATH='%s'"):format(package.cpath), "exec lua5.4", write("cipher.lua", SCRIPT),
      pki.cert.good, pki.key.leaf, pki.ca.ca }
    return (support.peer(table.concat(words, " ")):output())
  end

  it("that names suites has the last word on their order", function()
    assert.equal(STRONG .. "\n", configured(STRONG .. ":" .. FAST))
    assert.equal(OTHER .. "\n", configured(OTHER))
  end, 30)

  it("that names none leaves it to us", function()
    assert.equal(FAST .. "\n", configured(nil))
  end, 30)
end)
