-- Certificates and keys for the specs of TLS, made once in each process that asks for them, in a
-- temporary directory that goes when the process ends, however it ends.
--
--   pki.cert.NAME, pki.ca.NAME, pki.key.NAME   names of files in PEM, made at the first use
--   pki.text(file)                             what is in one of them
--   pki.server(NAME, options)                  options of `tls` for a server with that certificate
--   pki.client(options)                        ... for a client that trusts our authority
--
-- What this is not: an example of how to run an authority; they share two keys, to be made fast.
local pki = {}

-- Leaf certificates; all are for pki.key.leaf.  by: whose they are (ca); chain: those of these
-- authorities stand behind it in the file; names: of whom; from, till: validity.
local LOCAL = "DNS:localhost,IP:127.0.0.1"
local LEAVES = {
  good = { names = LOCAL .. ",DNS:*.example.org" },
  renewed = { names = LOCAL }, -- takes good's place after a reload
  other_host = { names = "DNS:elsewhere.example.com,IP:192.0.2.1" },
  nameless = {}, -- its subject says localhost, but nothing else does
  expired = { names = LOCAL, from = "20000101000000Z", till = "20010101000000Z" },
  not_yet_valid = { names = LOCAL, from = "22000101000000Z", till = "22010101000000Z" },
  other_ca = { names = LOCAL, by = "other" },
  impostor = { names = LOCAL, by = "impostor" },
  bare = { names = LOCAL, by = "intermediate" },
  chain = { names = LOCAL, by = "intermediate", chain = "intermediate" },
  no_authority = { subject = "below", names = LOCAL, by = "leaf", chain = "leaf" },
  client = { subject = "a client", names = LOCAL, usage = "clientAuth" },
  client_other_ca = { subject = "a client", usage = "clientAuth", by = "other" },
  client_expired = { subject = "a client", usage = "clientAuth", from = "20000101000000Z",
    till = "20010101000000Z" },
  client_chain = { subject = "a client", usage = "clientAuth", by = "intermediate",
    chain = "intermediate" },
  client_bare = { subject = "a client", usage = "clientAuth", by = "intermediate" },
  server_only = { names = LOCAL, usage = "serverAuth" },
}

pki.password = "open sesame"

-- "leaf" is no authority, but one certificate pretends that it is.
local AUTHORITIES = [[
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl ecparam -name prime256v1 -genkey -noout -out leaf.key
openssl ec -in leaf.key -aes128 -passout 'pass:]] .. pki.password .. [[' -out encrypted.key
ln -s ca.key other.key; ln -s ca.key intermediate.key; ln -s leaf.key impostor.key
root() { openssl req -x509 -new -config ca.cnf -extensions ca -key $1.key -subj "$2" \
  -set_serial 1 -days 3650 -out $1.pem; }
root ca '/CN=Test CA' & root other '/CN=Other CA' & root impostor '/CN=Test CA' &
openssl req -x509 -new -config ca.cnf -extensions self -key leaf.key -subj /CN=localhost \
  -set_serial 1 -days 3650 -out self_signed.crt &
openssl req -new -config ca.cnf -key leaf.key -subj /CN=localhost -out leaf.csr &
openssl req -new -config ca.cnf -key ca.key -subj '/CN=Intermediate CA' -out ca.csr & wait
openssl x509 -req -in ca.csr -CA ca.pem -CAkey ca.key -set_serial 2 -extfile ca.cnf -extensions ca \
  -days 3650 -out intermediate.pem &
openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial 3 -extfile ca.cnf \
  -extensions leaf -days 3650 -out leaf.pem & wait
]]

-- Only `openssl ca` takes dates that are not now.
local LEAF = [[
issue %s -subj '/CN=%s' -cert %s.pem -keyfile %s.key -extensions %s -startdate %s -enddate %s]]

local CONFIG = [[
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[self]
basicConstraints = critical, CA:FALSE
subjectAltName = ]] .. LOCAL .. [[

[leaf]
basicConstraints = critical, CA:FALSE
]]

-- `openssl ca` keeps a database; each has one of its own, so that they can run at once.
local ISSUE = [[
issue() {
  name=$1; shift
  mkdir $name.d; : >$name.d/index
  printf '%s\n' '[d]' database=$name.d/index rand_serial=yes unique_subject=no default_md=sha256 \
    policy=p '[p]' commonName=supplied >$name.d/cnf
  openssl ca -batch -notext -config $name.d/cnf -name d -in leaf.csr -outdir $name.d \
    -extfile ca.cnf -out $name.crt "$@"
}
]]

local function sections()
  local list = { CONFIG }
  for name, leaf in pairs(LEAVES) do
    list[#list + 1] = ("[%s]\nbasicConstraints = critical, CA:FALSE\n"):format(name)
    if leaf.names then list[#list + 1] = "subjectAltName = " .. leaf.names .. "\n" end
    if leaf.usage then list[#list + 1] = "extendedKeyUsage = " .. leaf.usage .. "\n" end
  end
  return table.concat(list)
end

local function issues()
  local list, chains = { ISSUE }, {}
  for name, leaf in pairs(LEAVES) do
    local by = leaf.by or "ca"
    list[#list + 1] = LEAF:format(name, leaf.subject or "localhost", by, by, name,
      leaf.from or "20200101000000Z", leaf.till or "21200101000000Z") .. " &"
    if leaf.chain then
      chains[#chains + 1] = ("cat %s.pem >>%s.crt"):format(leaf.chain, name)
    end
  end
  return table.concat(list, "\n") .. "\nwait\n" .. table.concat(chains, "\n") .. "\n"
end

-- ---- the directory -------------------------------------------------------------------

local function write(name, text)
  local file <close> = assert(io.open(name, "w"))
  assert(file:write(text))
end

-- The shell that removes it waits for the end of its input, which comes with that of the process.
local function make_directory()
  local mktemp <close> = assert(io.popen "mktemp -d -t lunewire.XXXXXXXX")
  local directory = assert(mktemp:read "l")
  pki.remover = assert(io.popen("trap '' INT TERM HUP; cat >/dev/null; rm -rf " .. directory, "w"))
  return directory
end

local function run(directory, script)
  write(directory .. "/ca.cnf", sections())
  write(directory .. "/make.sh", script)
  local shell = assert(io.popen(("cd %s && sh -ex make.sh 2>&1"):format(directory)))
  local output = shell:read "a"
  assert(shell:close(), output)
  return output
end

local directory

-- Names the directory, once everything is in it.
local function made()
  if directory then return directory end
  local place = make_directory()
  local output = run(place, AUTHORITIES .. issues())
  for name in pairs(LEAVES) do
    assert(io.open(place .. "/" .. name .. ".crt"), output):close()
  end
  directory = place
  return place
end

local function files(extension)
  return setmetatable({}, {
    __index = function(_, name)
      local path = ("%s/%s.%s"):format(made(), name, extension)
      assert(io.open(path), "no such file in the pki: " .. path):close()
      return path
    end,
  })
end

-- ---- what there is -------------------------------------------------------------------

pki.cert = files "crt" -- the names of LEAVES, and self_signed
pki.key = files "key"  -- leaf, encrypted, and one of nobody's here: ca
pki.ca = files "pem"   -- ca, other, impostor (of ca's name), intermediate

function pki.text(name)
  local file <close> = assert(io.open(name))
  return assert(file:read "a")
end

-- A name for one more file there, which goes with the others.
function pki.scratch(name) return made() .. "/" .. name end

local function with(options, more)
  for key, value in pairs(more or {}) do options[key] = value end
  return options
end

function pki.server(name, options)
  return with({ cert = pki.cert[name or "good"], key = pki.key.leaf }, options)
end

function pki.client(options) return with({ ca = pki.ca.ca }, options) end

-- A client that has a certificate, too.
function pki.client_with(name, options)
  return pki.client(with({ cert = pki.cert[name], key = pki.key.leaf }, options))
end

return pki
