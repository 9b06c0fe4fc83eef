# Builds, tests, checks and installs lunewire.
#
#   make            the C module, build/lunewire/core.so
#   make run        installs what is missing, builds, runs the echo server on port 8999
#   make test       installs what is missing, builds, runs the unit tests and the specs
#   make check      warnings, formatting, analysis, layout, packaging
#   make sanitize   the tests again under AddressSanitizer and UndefinedBehaviorSanitizer
#   make valgrind   the tests again under valgrind (slow)
#   make bench      the benchmarks, if there are any
#   make docs       docs/reference.md, by ldoc, of the comments beside the code
#   make install    into $(DESTDIR)$(PREFIX)
#   make clean      removes build/
#
# test, sanitize and valgrind take SPEC=... to run only the files named; V=1 shows the commands.
# This is the only list of sources: the rockspec builds and installs through it.

CLANG ?= clang
CFLAGS ?= -O2 -g
LUA ?= lua5.4
LUA_VERSION ?= 5.4
BUILD ?= build
PREFIX ?= /usr/local
INST_LIBDIR ?= $(PREFIX)/lib/lua/$(LUA_VERSION)
INST_LUADIR ?= $(PREFIX)/share/lua/$(LUA_VERSION)
LUA_INCDIR ?= $(firstword $(wildcard $(addsuffix /lua$(LUA_VERSION),/usr/include \
  /usr/local/include /opt/homebrew/include)) /usr/include/lua$(LUA_VERSION))
UV_INCDIR ?=
UV_LIBDIR ?=
OPENSSL_INCDIR ?=
OPENSSL_LIBDIR ?=
SYSTEM := $(shell uname -s)
Q := $(if $(V),,@)

CORE_SRC := $(sort $(wildcard csrc/core/*.c))
BINDING_SRC := $(sort $(wildcard csrc/lua/*.c))
TEST_SRC := $(sort $(wildcard spec/core/*.c))
LUA_SRC := $(sort $(wildcard lua/lunewire/*.lua))
HEADERS := $(sort $(wildcard csrc/*/*.h spec/core/*.h))

CORE_OBJ := $(CORE_SRC:%.c=$(BUILD)/obj/%.o)
BINDING_OBJ := $(BINDING_SRC:%.c=$(BUILD)/obj/%.o)
TEST_OBJ := $(TEST_SRC:%.c=$(BUILD)/obj/%.o)
MODULE := $(BUILD)/lunewire/core.so
TESTS := $(BUILD)/core_tests

STRICT := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wshadow -Wconversion
INCLUDES := $(patsubst %,-I%,$(sort $(LUA_INCDIR) $(UV_INCDIR) $(OPENSSL_INCDIR)))
LIBS := $(patsubst %,-L%,$(sort $(UV_LIBDIR) $(OPENSSL_LIBDIR))) \
  -luv -lssl -lcrypto -lpthread -lm

ifdef SANITIZE
  HARDEN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  HARDEN_LINK := -fsanitize=address,undefined
else
  HARDEN := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong
endif

# The interpreter brings Lua's symbols; the module is never unloaded, because a thread that
# looks up names may outlive the Lua state that started it.
ifeq ($(SYSTEM),Darwin)
  SHARED := -bundle -undefined dynamic_lookup
else
  SHARED := -shared -Wl,-z,nodelete
  HARDEN_LINK += -Wl,-z,relro,-z,now
endif

COMPILE = $(CC) $(STRICT) $(if $(WERROR),-Werror) -fPIC $(INCLUDES) $(CFLAGS) \
  $(HARDEN) $(CPPFLAGS)
LINK = $(CC) $(CFLAGS) $(HARDEN_LINK) $(LDFLAGS)

all: $(MODULE)
	@:
tests: $(TESTS)
	@:

$(MODULE): $(CORE_OBJ) $(BINDING_OBJ)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $(SHARED) -o $@ $^ $(LIBS)

$(TESTS): $(CORE_OBJ) $(TEST_OBJ)
	@echo "  LINK  $@"
	$(Q)$(LINK) -o $@ $^ $(LIBS)

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(COMPILE) $(EXTRA) -MMD -MP -c -o $@ $<

# Changes when the way of compiling does, so that no object is left from another.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(COMPILE) $(LINK)' | cmp -s - $@ || echo '$(COMPILE) $(LINK)' > $@

# The unit tests are a program, which shows its defaults to the sanitizers' library.
$(CORE_OBJ) $(BINDING_OBJ): EXTRA := -fvisibility=hidden
$(TEST_OBJ): EXTRA := -Icsrc/core

-include $(CORE_OBJ:.o=.d) $(BINDING_OBJ:.o=.d) $(TEST_OBJ:.o=.d)

# ---- running and testing ------------------------------------------------------------

AGAIN := $(MAKE) --no-print-directory

run:
	@.ci/need run
	@$(AGAIN) all
	@LUA_PATH="lua/?.lua;lua/?/init.lua;;" LUA_CPATH="$(BUILD)/?.so;;" \
	  $(LUA) examples/echo.lua 127.0.0.1:8999

test:
	@.ci/need run test
	@$(AGAIN) all tests
	@.ci/suite plain $(BUILD) $(SPEC)

sanitize:
	@.ci/need run test
	@$(AGAIN) all tests BUILD=$(BUILD)/sanitize SANITIZE=1 CC=gcc CFLAGS="-O1 -g"
	@.ci/suite sanitize $(BUILD)/sanitize $(SPEC)

valgrind:
	@.ci/need run test valgrind
	@$(AGAIN) all tests BUILD=$(BUILD)/valgrind CFLAGS="-O1 -g"
	@.ci/suite valgrind $(BUILD)/valgrind $(SPEC)

bench: all
	@if [ -x bench/run ]; then bench/run; else echo "there are no benchmarks yet"; fi

# What lunewire is measured against, as far as it is compiled; Go only where it is installed.
BENCH := $(BUILD)/bench
BENCH_FLAGS ?= -O2

bench-servers: $(addprefix $(BENCH)/,epoll epoll_tls uv $(if $(shell command -v go),go))

$(BENCH)/uv: NEEDS := -luv
$(BENCH)/epoll_tls: NEEDS := -lssl -lcrypto

$(BENCH)/%: bench/servers/%.c $(wildcard bench/servers/*.h)
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(STRICT) $(if $(WERROR),-Werror) $(INCLUDES) $(BENCH_FLAGS) -o $@ $< \
	  $(filter -L%,$(LIBS)) $(NEEDS)

$(BENCH)/go: bench/servers/go/main.go
	@mkdir -p $(@D)
	@echo "  GO    $<"
	$(Q)CGO_ENABLED=0 go build -o $@ $<

docs:
	@.ci/need docs
	.ci/reference docs/reference.md

# ---- checks -------------------------------------------------------------------------

check:
	@.ci/need run check
	@$(AGAIN) -k check-gcc check-clang check-format check-tidy check-lua check-layout check-rock

check-gcc:
	@$(AGAIN) all tests BUILD=$(BUILD)/check/gcc CC=gcc WERROR=1

check-clang:
	@$(AGAIN) all tests BUILD=$(BUILD)/check/clang CC=$(CLANG) WERROR=1

check-format:
	@echo "  FORMAT"
	$(Q)clang-format --dry-run -Werror $(CORE_SRC) $(BINDING_SRC) $(TEST_SRC) $(HEADERS) bench/*.c

check-tidy:
	@echo "  TIDY  csrc"
	$(Q)printf '%s\n' $(CORE_SRC) $(BINDING_SRC) | \
	  xargs -P 2 -I FILE clang-tidy --quiet FILE -- $(STRICT) $(INCLUDES) 2>/dev/null

check-lua:
	@echo "  LUACHECK"
	$(Q)luacheck --quiet --no-color lua spec examples docs $(wildcard bench) rockspec/*.rockspec

check-layout: all
	.ci/layout $(MODULE)

check-rock:
	.ci/rock $(BUILD)/rock

# ---- installing ---------------------------------------------------------------------

install: all
	install -d "$(DESTDIR)$(INST_LIBDIR)/lunewire" "$(DESTDIR)$(INST_LUADIR)/lunewire"
	install -m 755 $(MODULE) "$(DESTDIR)$(INST_LIBDIR)/lunewire"
	install -m 644 $(LUA_SRC) "$(DESTDIR)$(INST_LUADIR)/lunewire"

clean:
	rm -rf $(BUILD)

.PHONY: all tests run test sanitize valgrind bench bench-servers docs check check-gcc check-clang \
  check-format check-tidy check-lua check-layout check-rock install clean FORCE
