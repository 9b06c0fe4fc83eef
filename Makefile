# Builds, tests, checks and installs lunewire.
#
#   make            the C module, build/lunewire/core.so
#   make run        installs what is missing, builds, runs the echo server on port 8999
#   make test       installs what is missing, builds, runs the unit tests and the specs
#   make check      warnings, formatting, analysis, layout, packaging
#   make sanitize   the tests again under AddressSanitizer and UndefinedBehaviorSanitizer
#   make valgrind   the tests again under valgrind (slow)
#   make fuzz       fuzzes every target of spec/fuzz, FUZZ_SECONDS=60 each; FUZZ=name: only that one
#   make fuzz-merge keeps of what it found the inputs that matter
#   make test-gc    the specs again with Lua's collector at its most aggressive, in three ways
#   make test-apicheck   the specs again in a Lua that asserts what it expects of its callers
#   make test-gc-short, test-apicheck-short   the hardest of these over the main specs, in a minute
#   make soak       scale and soak, an hour: SOAK_SECONDS=600 is the mixed part alone
#   make soak-short  a little of it, in a minute
#   make bench      installs peers and measures lunewire beside them, for 12 minutes
#   make bench-quick   one short round of it: are all replies right?
#   make bench-build   what it runs, build/bench/*, which specs run too
#   make docs       docs/reference.md, by ldoc, of the comments beside the code
#   make install    into $(DESTDIR)$(PREFIX)
#   make clean      removes build/
#
# All these take SPEC=... to run only the files named; V=1 shows the commands.
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
LOAD_SRC := $(sort $(wildcard bench/load/*.c))
FLOOR_SRC := $(sort $(wildcard bench/servers/*.c))
FUZZ_SRC := $(sort $(wildcard spec/fuzz/*.c))
HEADERS := $(sort $(wildcard csrc/*/*.h spec/core/*.h spec/fuzz/*.h bench/*/*.h))

CORE_OBJ := $(CORE_SRC:%.c=$(BUILD)/obj/%.o)
BINDING_OBJ := $(BINDING_SRC:%.c=$(BUILD)/obj/%.o)
TEST_OBJ := $(TEST_SRC:%.c=$(BUILD)/obj/%.o)
LOAD_OBJ := $(LOAD_SRC:%.c=$(BUILD)/obj/%.o)
FLOOR_OBJ := $(FLOOR_SRC:%.c=$(BUILD)/obj/%.o)
FUZZ_OBJ := $(FUZZ_SRC:%.c=$(BUILD)/obj/%.o)
MODULE := $(BUILD)/lunewire/core.so
TESTS := $(BUILD)/core_tests
GC_HOOKS := $(BUILD)/gc_hooks.so
HEAP := $(BUILD)/soak/heap.so
LOAD := $(BUILD)/bench/load
FLOORS := $(FLOOR_SRC:bench/servers/%.c=$(BUILD)/bench/%)
GO := $(if $(shell command -v go 2>/dev/null),$(BUILD)/bench/go)

STRICT := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wshadow -Wconversion
INCLUDES := $(patsubst %,-I%,$(sort $(LUA_INCDIR) $(UV_INCDIR) $(OPENSSL_INCDIR)))
LIBS := $(patsubst %,-L%,$(sort $(UV_LIBDIR) $(OPENSSL_LIBDIR))) \
  -luv -lssl -lcrypto -lpthread -lm

ifdef SANITIZE
  HARDEN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  HARDEN_LINK := -fsanitize=address,undefined
else
  HARDEN := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong
# A message crosses files: compiled as one program it takes a tenth less.  Calls into Lua go
# straight.  Without a compiler that can, it works as well.  LTO= turns it off.
  LTO := $(shell echo 'int x;' | $(CC) -flto=auto -fno-plt -shared -fPIC -x c - -o /dev/null \
    2>/dev/null && echo -flto=auto -fno-plt)
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
  $(HARDEN) $(LTO) $(CPPFLAGS)
LINK = $(CC) $(CFLAGS) $(HARDEN_LINK) $(LTO) $(LDFLAGS)

all: $(MODULE)
	@:
tests: $(TESTS) $(GC_HOOKS) $(HEAP)
	@:
bench-build: $(LOAD) $(FLOORS) $(GO)
	@:

$(MODULE): $(CORE_OBJ) $(BINDING_OBJ)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $(SHARED) -o $@ $^ $(LIBS)

$(TESTS): $(CORE_OBJ) $(TEST_OBJ)
	@echo "  LINK  $@"
	$(Q)$(LINK) -o $@ $^ $(LIBS)

$(GC_HOOKS): $(BUILD)/obj/spec/gc_hooks.o
$(HEAP): $(BUILD)/obj/spec/soak/heap.o
$(GC_HOOKS) $(HEAP):
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $(SHARED) -o $@ $^

$(LOAD): $(LOAD_OBJ)
$(FLOORS): $(BUILD)/bench/%: $(BUILD)/obj/bench/servers/%.o
$(LOAD) $(FLOORS):
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) -o $@ $^ $(LIBS)

$(GO): $(wildcard bench/servers/go/*.go)
	@mkdir -p $(@D)
	@echo "  GO    $@"
	$(Q)CGO_ENABLED=0 GOCACHE=$(abspath $(@D)/gocache) go build -o $@ $^

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(COMPILE) $(EXTRA) -MMD -MP -c -o $@ $<

# Changes when the way of compiling does, so that no object is left from another.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(COMPILE) $(LINK)' | cmp -s - $@ || echo '$(COMPILE) $(LINK)' > $@

# The unit tests are a program, which shows its defaults to the sanitizers' library.
$(CORE_OBJ) $(BINDING_OBJ) $(FLOOR_OBJ): EXTRA := -fvisibility=hidden
$(TEST_OBJ): EXTRA := -Icsrc/core
$(FUZZ_OBJ): EXTRA := -Icsrc/core -Ispec/core

-include $(BUILD)/obj/spec/soak/heap.d $(CORE_OBJ:.o=.d) $(BINDING_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(LOAD_OBJ:.o=.d) \
  $(FLOOR_OBJ:.o=.d) $(FUZZ_OBJ:.o=.d)

# ---- running and testing ------------------------------------------------------------

AGAIN := $(MAKE) --no-print-directory

run:
	@.ci/need run
	@$(AGAIN) all
	@LUA_PATH="lua/?.lua;lua/?/init.lua;;" LUA_CPATH="$(BUILD)/?.so;;" \
	  $(LUA) examples/echo.lua 127.0.0.1:8999

test:
	@.ci/need run test
	@$(AGAIN) all tests fuzz-replay bench-build
	@.ci/suite plain $(BUILD) $(SPEC)

sanitize:
	@.ci/need run test
	@$(AGAIN) all tests fuzz-replay bench-build BUILD=$(BUILD)/sanitize SANITIZE=1 CC=gcc CFLAGS="-O1 -g"
	@.ci/suite sanitize $(BUILD)/sanitize $(SPEC)

# Without _FORTIFY_SOURCE, whose memmove has the address of its memcpy: valgrind takes one for the
# other.
valgrind:
	@.ci/need run test valgrind
	@$(AGAIN) all tests fuzz-replay bench-build BUILD=$(BUILD)/valgrind CFLAGS="-O1 -g" LTO= HARDEN=
	@.ci/suite valgrind $(BUILD)/valgrind $(SPEC)

# Every target is a program of fuzz_NAME.c, its own NAME_*.c, what all share (lib_*.c), the library
# and Lua; beside libFuzzer, or beside replay.c, which runs the corpus as a test.
FUZZ_NAMES := $(patsubst spec/fuzz/fuzz_%.c,%,$(filter spec/fuzz/fuzz_%,$(FUZZ_SRC)))
FUZZ_PROGRAMS := $(FUZZ_NAMES:%=$(BUILD)/fuzz/%)
LUA_LIB ?= $(or $(shell pkg-config --libs-only-L --libs-only-l lua$(LUA_VERSION) 2>/dev/null),\
  -llua$(LUA_VERSION))
fuzz_obj = $(filter $(foreach n,fuzz_$(1) $(1)_% lib_% $(if $(FUZZER),,replay),\
  $(BUILD)/obj/spec/fuzz/$(n).o),$(FUZZ_OBJ))

.SECONDEXPANSION:
$(FUZZ_PROGRAMS): $(BUILD)/fuzz/%: $$(call fuzz_obj,$$*) $(CORE_OBJ) $(BINDING_OBJ)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $(if $(FUZZER),-fsanitize=fuzzer) -o $@ $(filter-out $(WITHOUT),$^) \
	  $(LIBS) $(LUA_LIB)

# Its world is its own: time jumps, and sockets are pipes.
$(BUILD)/fuzz/api: WITHOUT := $(BUILD)/obj/csrc/core/world_uv.o

fuzz-replay: $(FUZZ_PROGRAMS)
	@:
fuzz-build:
	@.ci/need run fuzz
	@$(AGAIN) fuzz-replay BUILD=$(BUILD)/fuzzer FUZZER=1 SANITIZE=1 CC=$(CLANG) \
	  CFLAGS="-O1 -g -fsanitize=fuzzer-no-link"
fuzz: fuzz-build
	@spec/fuzz/run $(BUILD)/fuzzer $(or $(FUZZ),$(FUZZ_NAMES))
fuzz-merge: fuzz-build
	@spec/fuzz/run --merge $(BUILD)/fuzzer $(or $(FUZZ),$(FUZZ_NAMES))

# Lua in other modes of its own; in short over the specs that go through all of the binding.
SHORT := cancel channel client co finalizer framing_lua lifetime options pool request run \
  semaphore serve_udp server server_hooks start_tls stream task timer udp wait
GC_MODES := gc-hooks gc-incremental gc-generational
test-gc:
	@.ci/need run test
	@$(AGAIN) all tests bench-build
	@failed=; for mode in $(GC_MODES); do \
	  echo "== $$mode"; .ci/suite $$mode $(BUILD) $(SPEC) || failed=1; \
	done; [ -z "$$failed" ]

test-gc-short:
	@$(AGAIN) test-gc GC_MODES=gc-hooks SPEC="$(SHORT:%=spec/%_spec.lua)"

test-apicheck-short:
	@$(AGAIN) test-apicheck SPEC="$(SHORT:%=spec/%_spec.lua)"

test-apicheck:
	@.ci/need run test apicheck
	@$(AGAIN) all tests bench-build
	@.ci/suite apicheck $(BUILD) $(SPEC)

SOAK_SECONDS ?= 600
SOAK = LUA_PATH="./lua/?.lua;./lua/?/init.lua;./?.lua;;" LUA_CPATH="./$(BUILD)/?.so;;" \
  $(LUA) spec/soak/main.lua

soak:
	@.ci/need run test
	@$(AGAIN) all $(HEAP)
	@$(SOAK) $(SOAK_SECONDS) $(ROWS)

soak-short:
	@.ci/need run test
	@$(AGAIN) all $(HEAP)
	@$(SOAK) short $(ROWS)

bench:
	@.ci/need run
	@.ci/need --try bench
	@BUILD=$(BUILD) bench/run

bench-quick:
	@.ci/need run
	@.ci/need --try bench
	@BUILD=$(BUILD) bench/run --quick

docs:
	@.ci/need docs
	.ci/reference docs/reference.md

# ---- checks -------------------------------------------------------------------------

check:
	@.ci/need run check
	@$(AGAIN) -k check-gcc check-clang check-poller check-format check-tidy check-lua check-layout check-rock

check-gcc:
	@$(AGAIN) all tests fuzz-replay bench-build BUILD=$(BUILD)/check/gcc CC=gcc WERROR=1

check-clang:
	@$(AGAIN) all tests fuzz-replay bench-build BUILD=$(BUILD)/check/clang CC=$(CLANG) WERROR=1

# The form that systems without epoll get.
check-poller:
	@$(AGAIN) all tests BUILD=$(BUILD)/check/poller CPPFLAGS=-DPOLLER_UV LTO= WERROR=1
	@$(BUILD)/check/poller/core_tests
	@$(LUA) "$$(command -v busted)" --cpath "$(BUILD)/check/poller/?.so" spec/poller_spec.lua

check-format:
	@echo "  FORMAT"
	$(Q)clang-format --dry-run -Werror $(CORE_SRC) $(BINDING_SRC) $(TEST_SRC) $(LOAD_SRC) \
	  $(FLOOR_SRC) $(FUZZ_SRC) $(HEADERS)
	  $(FLOOR_SRC) $(HEADERS) $(wildcard spec/*.c)

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

.PHONY: all tests run test sanitize valgrind fuzz fuzz-build fuzz-replay fuzz-merge bench \
  bench-quick bench-build docs check check-gcc check-clang check-poller check-format check-tidy \
  check-lua check-layout check-rock install clean FORCE
.PHONY: all tests run test test-gc test-gc-short test-apicheck test-apicheck-short sanitize \
  valgrind bench bench-quick bench-build docs check check-gcc check-clang check-poller \
  check-format check-tidy check-lua check-layout check-rock install clean FORCE
