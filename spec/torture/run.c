/* One run: see run.h. */
#include "run.h"

#include <dirent.h>
#include <lauxlib.h>
#include <lualib.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int luaopen_lunewire_core(lua_State *L);
void *__real_realloc(void *p, size_t size);

enum { FILES_MAX = 64, THREADS_PATIENCE = 2000 /* milliseconds */ };

/* A Lua file, compiled once: in every state it is loaded from here. */
struct chunk {
  char name[80];
  char *code;
  size_t len;
};

static struct chunk chunks[FILES_MAX];
static int chunks_n;
static lua_State *keeper; /* its end removes the certificates and sockets */

static struct {
  struct balance balance;
  int descriptors;
} settled;

static jmp_buf exit_point;
static long exit_count;      /* allocations of a body that ended there */
static bool lost;            /* a finalizer could not be called */
static int finalizing;       /* finalizers of the library that are running */
static char wrong[TEXT_MAX]; /* what must not be, memory or no memory */

/* ---- Lua files ------------------------------------------------------------------------ */

static int write_chunk(lua_State *L, const void *p, size_t n, void *ud) {
  struct chunk *c = ud;
  char *code = __real_realloc(c->code, c->len + n); /* not in the books */
  (void)L;
  if (!code) abort();
  memcpy(code + c->len, p, n);
  c->code = code;
  c->len += n;
  return 0;
}

/* [name] of a module -> its chunk, if there is such a file. */
static const struct chunk *chunk_compile(const char *name) {
  if (chunks_n == FILES_MAX) abort();
  struct chunk *c = &chunks[chunks_n];
  snprintf(c->name, sizeof c->name, "%s", name);
  lua_getglobal(keeper, "package");
  lua_getfield(keeper, -1, "searchpath");
  lua_pushstring(keeper, name);
  lua_getfield(keeper, -3, "path");
  lua_call(keeper, 2, 1);
  if (lua_isnil(keeper, -1)) return NULL;
  if (luaL_loadfile(keeper, lua_tostring(keeper, -1)) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(keeper, -1));
    exit(1);
  }
  lua_dump(keeper, write_chunk, c, 0);
  lua_settop(keeper, 0);
  chunks_n++;
  return c;
}

static const struct chunk *chunk_find(const char *name) {
  for (int i = 0; i < chunks_n; i++)
    if (strcmp(chunks[i].name, name) == 0) return &chunks[i];
  return chunk_compile(name);
}

static int search_chunk(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const struct chunk *c = chunk_find(name);
  if (!c) return 0;
  if (luaL_loadbufferx(L, c->code, c->len, c->name, "b") != LUA_OK) lua_error(L);
  return 1;
}

/* [-0, +1] require(name) */
static void push_module(lua_State *L, const char *name) {
  lua_getglobal(L, "require");
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
}

/* ---- a state -------------------------------------------------------------------------- */

/* Lua tells by the same words that a finalizer could not be called and that it raised. */
static void on_warning(void *ud, const char *text, int more) {
  (void)ud;
  (void)more;
  if (!strstr(text, "__gc")) return;
  if (finalizing) snprintf(wrong, sizeof wrong, "an error got out of a finalizer");
  if (!finalizing) lost = true;
  finalizing = 0;
}

/* In the place of a finalizer in C, with its upvalue and itself: takes no memory more than it. */
static int run_finalizer(lua_State *L) {
  lua_CFunction finalizer;
  void *p = lua_touserdata(L, lua_upvalueindex(2));
  memcpy(&finalizer, &p, sizeof finalizer);
  finalizing++;
  int n = finalizer(L);
  finalizing--;
  return n;
}

/* [metatable] -> [metatable] */
static void watch_finalizer(lua_State *L) {
  void *p;
  lua_getfield(L, -1, "__gc");
  lua_CFunction finalizer = lua_tocfunction(L, -1);
  memcpy(&p, &finalizer, sizeof p);
  if (finalizer) {
    if (!lua_getupvalue(L, -1, 1)) lua_pushnil(L);
    lua_pushlightuserdata(L, p);
    lua_pushcclosure(L, run_finalizer, 2);
    lua_setfield(L, -3, "__gc");
  }
  lua_pop(L, 1);
}

static void watch_finalizers(lua_State *L) {
  for (lua_pushnil(L); lua_next(L, LUA_REGISTRYINDEX); lua_pop(L, 1))
    if (lua_type(L, -2) == LUA_TSTRING && lua_istable(L, -1) &&
        strncmp(lua_tostring(L, -2), "lunewire.", strlen("lunewire.")) == 0)
      watch_finalizer(L);
}

static int raise_error(lua_State *L) { return luaL_error(L, "on purpose"); }

/* An object whose finalizer raises. */
static int raise_in_finalizer(lua_State *L) {
  lua_newuserdatauv(L, 1, 0);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, raise_error);
  lua_setfield(L, -2, "__gc");
  watch_finalizer(L);
  lua_setmetatable(L, -2);
  return 0;
}

/* same(got, expected) -> is it?  Nothing may have come for want of memory, but not something else:
 * that is noted even where the error would be caught. */
static int is_same(lua_State *L) {
  bool same = lua_rawequal(L, 1, 2);
  lua_pushboolean(L, same);
  if (same || lua_isnil(L, 1)) return 1;
  size_t n;
  const char *text = lua_tolstring(L, 1, &n);
  snprintf(wrong, sizeof wrong, "received something else: %s, %zu bytes: %.40s",
           luaL_typename(L, 1), text ? n : 0, text ? text : "");
  return 1;
}

/* os.exit(..., true): the state is closed from inside, and the program does not go on there. */
static int exit_closing(lua_State *L) {
  exit_count = alloc_disarm();
  lua_close(L);
  longjmp(exit_point, 1);
}

static int leak_on_purpose(lua_State *L) {
  void *volatile p = alloc_lua(NULL, NULL, 0, 77);
  (void)L;
  (void)p;
  return 0;
}

static int raise_signal(lua_State *L) {
  raise(strcmp(luaL_checkstring(L, 1), "USR1") == 0 ? SIGUSR1 : SIGTERM);
  return 0;
}

static int abort_on_purpose(lua_State *L) {
  (void)L;
  abort();
}

/* Protected. */
static int open_all(lua_State *L) {
  luaL_openlibs(L);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_lunewire_core);
  lua_setfield(L, -2, "lunewire.core");
  lua_getfield(L, -2, "searchers");
  lua_pushcfunction(L, search_chunk);
  lua_rawseti(L, -2, 2);
  lua_getglobal(L, "os");
  lua_pushcfunction(L, exit_closing);
  lua_setfield(L, -2, "exit");
  lua_register(L, "same", is_same);
  lua_register(L, "leak", leak_on_purpose);
  lua_register(L, "raise_in_finalizer", raise_in_finalizer);
  lua_register(L, "abort", abort_on_purpose);
  lua_register(L, "raise", raise_signal);
  lua_getglobal(L, "require");
  lua_pushstring(L, "lunewire");
  lua_call(L, 1, 0);
  return 0;
}

static lua_State *new_state(void) {
  lua_State *L = lua_newstate(alloc_lua, NULL);
  if (L) lua_setwarnf(L, on_warning, NULL);
  return L;
}

static int open_state(lua_State *L) {
  lua_pushcfunction(L, open_all);
  return lua_pcall(L, 0, 0, 0);
}

/* [-0, +1] a field of the i-th scenario */
static int push_scenario(lua_State *L, int i, const char *field) {
  push_module(L, "spec.torture.all");
  if (lua_rawgeti(L, -1, i + 1) == LUA_TNIL) return LUA_TNIL;
  return lua_getfield(L, -1, field);
}

static bool has_flag(lua_State *L, int i, const char *field) {
  bool has = push_scenario(L, i, field) != LUA_TNIL;
  lua_settop(L, 0);
  return has;
}

/* ---- which scenarios there are ---------------------------------------------------------- */

void run_prepare(void) {
  keeper = luaL_newstate();
  luaL_openlibs(keeper);
  luaL_requiref(keeper, "lunewire.core", luaopen_lunewire_core, 0);
  lua_settop(keeper, 0);
  push_module(keeper, "spec.torture.files");
  for (lua_pushnil(keeper); lua_next(keeper, 1); lua_pop(keeper, 1))
    setenv(lua_tostring(keeper, -2), lua_tostring(keeper, -1), 1);
  lua_settop(keeper, 0);
  static const char *const all[] = {"lunewire",        "spec.torture.all", "spec.torture.recovery",
                                    "lunewire.client", "lunewire.pool",    "lunewire.netlog"};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) chunk_find(all[i]);
}

const char *run_name(int i) {
  static char name[40];
  if (push_scenario(keeper, i, "name") == LUA_TNIL) {
    lua_settop(keeper, 0);
    return NULL;
  }
  snprintf(name, sizeof name, "%s", lua_tostring(keeper, -1));
  lua_settop(keeper, 0);
  return name;
}

bool run_is_planted(int i) { return has_flag(keeper, i, "planted"); }

/* ---- the body --------------------------------------------------------------------------- */

static void note_text(lua_State *L, struct outcome *o) {
  snprintf(o->text, sizeof o->text, "%s", luaL_tolstring(L, -1, NULL));
  lua_pop(L, 1);
}

/* With failing allocations from here until the body has ended. */
static void run_body(lua_State *L, int i, unsigned families, enum mode mode, long k,
                     struct outcome *o) {
  int args = 0;
  if (push_scenario(L, i, "prepare") != LUA_TNIL) {
    lua_call(L, 0, 1);
    args = 1;
  }
  push_scenario(L, i, "body");
  if (args) lua_pushvalue(L, -4);
  lua_gc(L, LUA_GCCOLLECT);
  alloc_arm(families, mode, k);
  o->body_ok = lua_pcall(L, args, 0, 0) == LUA_OK;
  o->count = alloc_disarm();
  if (!o->body_ok) note_text(L, o);
  if (strstr(o->text, "attempt to ")) snprintf(wrong, sizeof wrong, "%.300s", o->text);
  lua_settop(L, 0);
}

/* Protected: [light userdata outcome]  With memory again: back to zero, and it still works. */
static int check_inside(lua_State *L) {
  struct outcome *o = lua_touserdata(L, 1);
  push_module(L, "spec.torture.recovery");
  lua_getfield(L, -1, "recover");
  lua_call(L, 0, 1);
  if ((o->left = !lua_isnil(L, -1))) note_text(L, o);
  lua_pop(L, 1);
  lua_getfield(L, -1, "again");
  lua_call(L, 0, 0);
  return 0;
}

static void check_state(lua_State *L, struct outcome *o) {
  lua_pushcfunction(L, check_inside);
  lua_pushlightuserdata(L, o);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return;
  o->broken = true;
  note_text(L, o);
}

/* The state itself is what is opened. */
static void run_open(unsigned families, enum mode mode, long k, struct outcome *o) {
  alloc_arm(families, mode, k);
  lua_State *L = new_state();
  o->body_ok = L && open_state(L) == LUA_OK;
  if (L && !o->body_ok) note_text(L, o);
  o->count = alloc_disarm();
  if (!L) return;
  lua_settop(L, 0);
  if (o->body_ok || open_state(L) == LUA_OK) check_state(L, o);
  lua_close(L);
}

static void run_other(int i, unsigned families, enum mode mode, long k, struct outcome *o) {
  lua_State *L = new_state();
  if (!L || open_state(L) != LUA_OK) abort();
  watch_finalizers(L);
  bool abrupt = has_flag(L, i, "abrupt");
  if (setjmp(exit_point) != 0) {
    o->body_ok = true;
    o->count = exit_count;
    return;
  }
  run_body(L, i, families, mode, k, o);
  if (!abrupt) check_state(L, o);
  lua_close(L);
}

/* ---- what is left of it ------------------------------------------------------------------ */

static int count_descriptors(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  if (!d) abort();
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

static bool is_even(const struct balance *b) { return memcmp(b, &settled.balance, sizeof *b) == 0; }

/* Threads that look up names may outlive the state for a while. */
static struct balance final_balance(void) {
  const struct timespec ms = {.tv_nsec = 1000000};
  struct balance b = alloc_balance();
  for (int i = 0;
       i < THREADS_PATIENCE && b.blocks[FAMILY_CORE] != settled.balance.blocks[FAMILY_CORE]; i++) {
    nanosleep(&ms, NULL);
    b = alloc_balance();
  }
  return b;
}

/* OpenSSL's queue of errors keeps texts of those that were, and places of their sizes: each gets
 * the same ones. */
static void forget_errors(void) {
  static char none[] = "";
  for (int i = 0; i < ERR_NUM_ERRORS; i++) {
    ERR_raise(ERR_LIB_USER, 1);
    ERR_set_error_data(none, ERR_TXT_STRING);
  }
  ERR_clear_error();
}

void run_settle(void) {
  forget_errors();
  settled.balance = alloc_balance();
  settled.descriptors = count_descriptors();
}

static void note_held(unsigned long mark, struct outcome *o) {
  for (o->held_n = 0; o->held_n < HELD_MAX; o->held_n++) {
    struct held *h = &o->held[o->held_n];
    if ((h->family = alloc_held(mark, o->held_n, &h->size, h->frames)) < 0) break;
  }
}

static const char *const family_names[] = {"lua", "uv", "openssl", "core"};

static void describe_leak(const struct balance *now, int descriptors, struct outcome *o) {
  int n = snprintf(o->text, sizeof o->text, "not given back:");
  for (int f = 0; f < FAMILIES; f++)
    if (now->bytes[f] != settled.balance.bytes[f] || now->blocks[f] != settled.balance.blocks[f])
      n += snprintf(o->text + n, sizeof o->text - (size_t)n, " %s %ld blocks, %ld bytes;",
                    family_names[f], now->blocks[f] - settled.balance.blocks[f],
                    now->bytes[f] - settled.balance.bytes[f]);
  if (descriptors != settled.descriptors)
    snprintf(o->text + n, sizeof o->text - (size_t)n, " %d descriptors",
             descriptors - settled.descriptors);
}

static void run_once(int i, unsigned families, enum mode mode, long k, struct outcome *o) {
  *o = (struct outcome){.count = 0};
  lost = false;
  finalizing = 0;
  wrong[0] = 0;
  unsigned long mark = alloc_mark();
  if (i == 0)
    run_open(families, mode, k, o);
  else
    run_other(i, families, mode, k, o);
  o->lost = lost;
  if (wrong[0]) {
    o->broken = true;
    memcpy(o->text, wrong, sizeof o->text);
  }
  forget_errors();
  struct balance now = final_balance();
  int descriptors = count_descriptors();
  if (is_even(&now) && descriptors == settled.descriptors) return;
  o->leaked = true;
  describe_leak(&now, descriptors, o);
  note_held(mark, o);
}

/* What a library keeps for itself (caches, a thread's queue of errors) is kept once; a leak comes
 * again each time. */
void run_scenario(int i, unsigned families, enum mode mode, long k, struct outcome *o) {
  struct outcome again;
  run_once(i, families, mode, k, o);
  for (int tries = 0; o->leaked && tries < 2; tries++) {
    run_settle();
    alloc_note_places(tries == 1);
    run_once(i, families, mode, k, &again);
    o->leaked = again.leaked;
    o->held_n = again.held_n;
    memcpy(o->held, again.held, sizeof o->held);
    alloc_note_places(false);
  }
  run_settle();
}
