rockspec_format = "3.0"
package = "lunewire"
version = "dev-1"

source = {
  url = "git+file://.", -- for `luarocks make` in a checkout
}

description = {
  summary = "Networking for Lua 5.4: tasks that wait, a C core that does the work",
  detailed = [[
    Connections, servers, message framings, deadlines and timers for Lua 5.4.  Scripts are
    written as straight code in coroutines; a C11 core on libuv does the input, the output
    and the cutting of messages.]],
  license = "MIT",
  labels = { "networking", "async", "coroutines", "tcp" },
}

dependencies = {
  "lua >= 5.4, < 5.5",
}

external_dependencies = {
  UV = { header = "uv.h", library = "uv" },
  OPENSSL = { header = "openssl/ssl.h", library = "ssl" },
}

-- The Makefile's variables, with objects of its own: a developer's build stays as it is.
build = {
  type = "make",
  variables = {
    BUILD = "build/rock-objects",
    CC = "$(CC)",
    CFLAGS = "$(CFLAGS)",
    LUA_INCDIR = "$(LUA_INCDIR)",
    UV_INCDIR = "$(UV_INCDIR)",
    UV_LIBDIR = "$(UV_LIBDIR)",
    OPENSSL_INCDIR = "$(OPENSSL_INCDIR)",
    OPENSSL_LIBDIR = "$(OPENSSL_LIBDIR)",
  },
  install_variables = {
    INST_LIBDIR = "$(LIBDIR)",
    INST_LUADIR = "$(LUADIR)",
  },
}

test = {
  type = "command",
  command = "make test",
}
