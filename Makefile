# Builds, tests, checks and installs lunewire.
#
#   make            the C module, build/lunewire/core.so
#   make run        installs what is missing, builds, runs the echo server on port 8999
#   make test       installs what is missing, builds, runs the unit tests and the specs
#   make check      warnings, formatting, analysis, layout, packaging
#   make sanitize   the tests again under AddressSanitizer and UndefinedBehaviorSanitizer
#   make valgrind   the tests again under valgrind (slow)
#   make torture    scenarios with every allocation failing once, and all from there on (long)
#   make torture-short   the same with a few of the allocations of each
#   make fuzz       fuzzes every target of spec/fuzz, FUZZ_SECONDS=60 each; FUZZ=name: only that one
#   make fuzz-merge keeps of what it found the inputs that matter
#   make test-faults   the tests again over links that misbehave; MODE=...: only in these modes;
#                   SEED=n: other faults
#   make test-faults-short   the conformance of connections, with all faults at once
#   make test-gc    the specs again with Lua's collector at its most aggressive, in three ways
#   make test-apicheck   the specs again in a Lua that asserts what it expects of its callers
#   make test-gc-short, test-apicheck-short   the hardest of these over the main specs, in a minute
#   make drain      SIGTERM under load, at DRAIN_ROUNDS=1000 random moments, in 8 minutes
#   make slow-peers what 1,000 slow peers cost the others: p99 with and without them, < 2 times
#   make amplification   what a byte from the network costs at most, in instructions (valgrind)
#   make slow-peers-short, amplification-short   a little of them, in seconds and without times
#   make soak       scale and soak, half an hour; SOAK_SECONDS=600 is its mixed part, ROWS=... some
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
HEADERS := $(sort $(wildcard csrc/*/*.h spec/*/*.h bench/*/*.h))

CORE_OBJ := $(CORE_SRC:%.c=$(BUILD)/obj/%.o)
BINDING_OBJ := $(BINDING_SRC:%.c=$(BUILD)/obj/%.o)
TEST_OBJ := $(TEST_SRC:%.c=$(BUILD)/obj/%.o)
LOAD_OBJ := $(LOAD_SRC:%.c=$(BUILD)/obj/%.o)
FLOOR_OBJ := $(FLOOR_SRC:%.c=$(BUILD)/obj/%.o)
FUZZ_OBJ := $(FUZZ_SRC:%.c=$(BUILD)/obj/%.o)
MODULE := $(BUILD)/lunewire/core.so
TESTS := $(BUILD)/core_tests
GC_HOOKS := $(BUILD)/gc_hooks.so
SOAK_SRC := spec/soak/heap.c
SCENARIO_SRC := spec/scenarios/heap.c
HEAP := $(BUILD)/soak/heap.so
PEAK := $(BUILD)/scenarios/heap.so
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
tests: $(TESTS) $(GC_HOOKS) $(HEAP) $(PEAK)
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
$(HEAP): $(SOAK_SRC:%.c=$(BUILD)/obj/%.o)
$(PEAK): $(SCENARIO_SRC:%.c=$(BUILD)/obj/%.o)
$(GC_HOOKS) $(HEAP) $(PEAK):
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

-include $(patsubst %.c,$(BUILD)/obj/%.d,$(SOAK_SRC) $(SCENARIO_SRC)) $(CORE_OBJ:.o=.d) \
  $(BINDING_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(LOAD_OBJ:.o=.d) $(FLOOR_OBJ:.o=.d) $(FUZZ_OBJ:.o=.d)

# ---- running and testing ------------------------------------------------------------

AGAIN := $(MAKE) --no-print-directory

run:
	@.ci/need run
	@$(AGAIN) all
	@LUA_PATH="lua/?.lua;lua/?/init.lua;;" LUA_CPATH="$(BUILD)/?.so;;" \
	  $(LUA) examples/echo.lua 127.0.0.1:8999

test:
	@.ci/need run test
	@$(AGAIN) all tests bench-build
	@$(AGAIN) fuzz-replay BUILD=$(BUILD)/replay LTO=
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
# and Lua; beside libFuzzer, or beside replay.c, which runs the corpus as a test.  Each linked as one
# program would take longer than all of its inputs: those of `make test` are built apart, without LTO.
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

# Nothing leaves the host, and nothing is left on it: see fuzz_options.c.
$(BUILD)/fuzz/options: private LDFLAGS += -Wl,--wrap=getaddrinfo,--wrap=connect,--wrap=bind,--wrap=sendto
# Its world is its own: time jumps, and sockets are pipes.
$(BUILD)/fuzz/api: WITHOUT := $(BUILD)/obj/csrc/core/world_uv.o

fuzz-replay: $(FUZZ_PROGRAMS)
	@:
fuzz-objects: $(FUZZ_OBJ)
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
SHORT := cancel channel channel_end client co finalizer framing_lua options pool request semaphore \
  serve_udp server_exit server_hooks server_options shutdown start_tls stream task timer udp wait
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

DRAIN_ROUNDS ?= 1000
drain:
	@.ci/need run test
	@$(AGAIN) all
	@LUNEWIRE_DRAIN_ROUNDS=$(DRAIN_ROUNDS) LUA_PATH="./lua/?.lua;./lua/?/init.lua;./?.lua;;" \
	  $(LUA) "$$(command -v busted)" --cpath "./$(BUILD)/?.so" spec/drain_spec.lua

SCENARIO = LUA_PATH="./lua/?.lua;./lua/?/init.lua;./?.lua;;" LUA_CPATH="./$(BUILD)/?.so;;" \
  $(LUA) spec/scenarios
slow-peers:
	@.ci/need run test
	@$(AGAIN) all bench-build
	@$(SCENARIO)/slow_peers.lua $(PEERS)
slow-peers-short:
	@$(AGAIN) slow-peers PEERS=--short
amplification:
	@.ci/need run test valgrind
	@$(AGAIN) all
	@$(SCENARIO)/amplification.lua $(KIND)
amplification-short:
	@$(AGAIN) amplification KIND=--short

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

# The module's objects with allocators that fail on command; only this host links Lua.
TORTURE_SRC := $(sort $(wildcard spec/torture/*.c))
TORTURE_OBJ := $(TORTURE_SRC:%.c=$(BUILD)/obj/%.o)
TORTURE := $(BUILD)/torture_host
COMMA := ,
TORTURE_WRAP := $(foreach f,malloc calloc realloc strdup free,-Wl$(COMMA)--wrap=$f)

$(TORTURE): $(CORE_OBJ) $(BINDING_OBJ) $(TORTURE_OBJ)
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) -no-pie -o $@ $^ $(TORTURE_WRAP) -llua$(LUA_VERSION) $(LIBS) -ldl

torture-host: $(TORTURE)
	@:

# Linking as one program would lose the seam between the module and its allocator.
torture:
	@.ci/need run test
	@$(AGAIN) torture-host BUILD=$(BUILD)/torture LTO= CC=gcc
	@LUA_PATH="lua/?.lua;lua/?/init.lua;./?.lua;;" $(BUILD)/torture/torture_host $(ARGS)
torture-short:
	@$(AGAIN) torture ARGS=-s

docs:
	@.ci/need docs
	.ci/reference docs/reference.md

# ---- faults -------------------------------------------------------------------------

# The library as it is, but what opens links gives faulty ones, put there by the linker.
FAULT_SRC := $(sort $(wildcard spec/faults/*.c))
FAULT_OBJ := $(FAULT_SRC:%.c=$(BUILD)/obj/%.o)
FAULT_WRAPS := world_uv_open link_pipe_open link_tls_open link_is_tls link_tls_is_silent \
  link_tls_advance link_tls_fact link_tls_resumed link_tls_cert link_tls_cert_names
FAULT_MODES := reads1 reads writes1 writes again delay all all+tls resets
FAULT_SHORT := spec/conn_spec.lua spec/conn_tls13_spec.lua spec/conn_tls_pipe_spec.lua
FAULT_SHORT_TLS := spec/start_tls_spec.lua spec/client_tls_spec.lua

ifdef FAULTS
$(MODULE): $(FAULT_OBJ)
$(TESTS): $(filter-out %/lfaults.o,$(FAULT_OBJ))
$(MODULE) $(TESTS): private LDFLAGS += $(FAULT_WRAPS:%=-Wl,--wrap=%)
else
$(TESTS): $(filter %/link_fault.o,$(FAULT_OBJ))
endif
$(FAULT_OBJ): EXTRA := -fvisibility=hidden -Icsrc/core
$(TEST_OBJ): EXTRA += -Ispec/faults
HEADERS += $(sort $(wildcard spec/faults/*.h))
-include $(FAULT_OBJ:.o=.d)

fault-build:
	@.ci/need run test
	@$(AGAIN) all tests BUILD=$(BUILD)/faults LTO= FAULTS=1
test-faults: fault-build
	@SEED=$(SEED) .ci/faults $(BUILD)/faults "$(or $(MODE),$(FAULT_MODES))" $(SPEC)
test-faults-short: fault-build
	@failed=; export SEED=$(SEED); \
	  .ci/faults $(BUILD)/faults "all resets" $(FAULT_SHORT) || failed=1; \
	  .ci/faults $(BUILD)/faults all+tls $(FAULT_SHORT_TLS) || failed=1; [ -z "$$failed" ]

# ---- checks -------------------------------------------------------------------------

check:
	@.ci/need run check
	@$(AGAIN) -k check-gcc check-clang check-poller check-format check-tidy check-lua check-layout check-rock

check-gcc:
	@$(AGAIN) all tests fuzz-objects bench-build BUILD=$(BUILD)/check/gcc CC=gcc WERROR=1

check-clang:
	@$(AGAIN) all tests fuzz-objects bench-build BUILD=$(BUILD)/check/clang CC=$(CLANG) WERROR=1

# The form that systems without epoll get.
check-poller:
	@$(AGAIN) all tests BUILD=$(BUILD)/check/poller CPPFLAGS=-DPOLLER_UV LTO= WERROR=1
	@$(BUILD)/check/poller/core_tests
	@$(LUA) "$$(command -v busted)" --cpath "$(BUILD)/check/poller/?.so" spec/poller_spec.lua

check-format:
	@echo "  FORMAT"
	$(Q)clang-format --dry-run -Werror $(CORE_SRC) $(BINDING_SRC) $(TEST_SRC) $(LOAD_SRC) \
	  $(FLOOR_SRC) $(FUZZ_SRC) $(TORTURE_SRC) $(FAULT_SRC) $(SOAK_SRC) $(SCENARIO_SRC) $(HEADERS) $(wildcard spec/*.c)

check-tidy:
	@echo "  TIDY  csrc"
	$(Q)printf '%s\n' $(CORE_SRC) $(BINDING_SRC) | \
	  xargs -P 2 -I FILE clang-tidy --quiet FILE -- $(STRICT) $(INCLUDES) 2>/dev/null

check-lua:
	@echo "  LUACHECK"
	$(Q)luacheck --quiet --no-color lua spec examples docs $(wildcard bench) rockspec/*.rockspec \
	  .ci/reliability .ci/reliability-rows.lua

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

.PHONY: all tests bench-build run test sanitize valgrind fuzz-replay fuzz-objects fuzz-build fuzz \
  fuzz-merge test-gc test-gc-short test-apicheck test-apicheck-short drain slow-peers \
  slow-peers-short amplification amplification-short soak soak-short bench bench-quick \
  torture-host torture torture-short docs fault-build test-faults test-faults-short check \
  check-gcc check-clang check-poller check-format check-tidy check-lua check-layout check-rock \
  install clean FORCE
