/* Fuzz target: the API as a state machine.  The bytes are a program of calls, which
 * spec/fuzz/api.lua reads and makes in a Lua state of its own for each input, with a model of what
 * must come of them beside it; the world is api_world.c, where time is virtual. What this is not:
 * the operations and the model (api.lua, api_*.lua). */
#include <lauxlib.h>
#include <lualib.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "api_world.h"
#include "fuzz.h"

int luaopen_lunewire_core(lua_State *L);

/* What the model calls by a number: libFuzzer takes it as an edge. */
enum { MARKS = 8192 };
__attribute__((section("__libfuzzer_extra_counters"), used)) static uint8_t marks[MARKS];

/* ---- memory ------------------------------------------------------------------------ */

/* What a Lua state holds before the first input: the libraries and the compiled files.  It is made
 * once, in the arena, and put back for each input, so that no input sees another.  All that comes
 * later is malloc's, which the sanitizer watches. */
enum { ARENA = 4 << 20 };
static _Alignas(16) char arena[ARENA];
static size_t arena_used, allocated;
static char *first_state; /* of the arena; NULL: it is being made */

static bool in_arena(const void *p) {
  return (const char *)p >= arena && (const char *)p < arena + ARENA;
}

static void *take_from_arena(size_t n) {
  char *p = arena + arena_used;
  arena_used += (n + 15) & ~(size_t)15;
  FUZZ_CHECK(arena_used <= ARENA);
  return p;
}

static void give_back(void *p, size_t n) {
  if (!p || in_arena(p)) return;
  free(p);
  allocated -= n;
}

/* lua_Alloc */
static void *allocate(void *ud, void *p, size_t old, size_t new) {
  (void)ud;
  if (!p) old = 0;
  if (new == 0) {
    give_back(p, old);
    return NULL;
  }
  void *q = first_state ? malloc(new) : take_from_arena(new);
  if (!q) return NULL;
  if (first_state) allocated += new;
  if (p) memcpy(q, p, old < new ? old : new);
  give_back(p, old);
  return q;
}

/* ---- modules --------------------------------------------------------------------------- */

static const char *const files[] = {
    "lunewire/client",  "lunewire/dial", "lunewire/handler", "lunewire/names", "lunewire/netlog",
    "lunewire/options", "lunewire/pool", "lunewire/ports",   "lunewire/quit",  "lunewire/semaphore",
    "lunewire/stream",  "lunewire/udp",  "lunewire/init"};
static const char *const ours[] = {"api",          "api_model",    "api_framings", "api_ops_conn",
                                   "api_ops_recv", "api_ops_task", "api_ops_serve"};

/* [preload] -> [preload]  The file becomes the module's loader. */
static void preload(lua_State *L, const char *file, const char *module) {
  if (luaL_loadfile(L, file) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
  lua_setfield(L, -2, module);
}

static void preload_all(lua_State *L) {
  char file[64], module[64];
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_lunewire_core);
  lua_setfield(L, -2, "lunewire.core");
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(file, sizeof file, "lua/%s.lua", files[i]);
    snprintf(module, sizeof module, "lunewire.%s", files[i] + strlen("lunewire/"));
    preload(L, file, strcmp(module, "lunewire.init") == 0 ? "lunewire" : module);
  }
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
    snprintf(file, sizeof file, "spec/fuzz/%s.lua", ours[i]);
    snprintf(module, sizeof module, "spec.fuzz.%s", ours[i]);
    preload(L, file, module);
  }
  lua_pop(L, 1);
}

/* ---- a certificate ---------------------------------------------------------------- */

static char *cert_text, *key_text;

static char *text_of(BIO *b) {
  char *p;
  long n = BIO_get_mem_data(b, &p);
  char *copy = fuzz_copy(p, (size_t)n, 1);
  copy[n] = 0;
  BIO_free(b);
  return copy;
}

static void make_certificate(void) {
  const long day = 24L * 60 * 60;
  EVP_PKEY *key = EVP_EC_gen("P-256");
  X509 *x = X509_new();
  BIO *cert = BIO_new(BIO_s_mem()), *k = BIO_new(BIO_s_mem());
  FUZZ_CHECK(key && x && cert && k);
  X509_set_version(x, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
  X509_gmtime_adj(X509_getm_notBefore(x), -day);
  X509_gmtime_adj(X509_getm_notAfter(x), 30 * day);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                             (const unsigned char *)"localhost", -1, -1, 0);
  X509_set_issuer_name(x, X509_get_subject_name(x));
  X509_set_pubkey(x, key);
  FUZZ_CHECK(X509_sign(x, key, EVP_sha256()) > 0);
  PEM_write_bio_X509(cert, x);
  PEM_write_bio_PrivateKey(k, key, NULL, NULL, 0, NULL, NULL);
  cert_text = text_of(cert);
  key_text = text_of(k);
  X509_free(x);
  EVP_PKEY_free(key);
}

/* ---- what the model may ask of its host ------------------------------------------- */

/* fail(text): a finding. */
static int l_fail(lua_State *L) {
  luaL_traceback(L, L, luaL_checkstring(L, 1), 1);
  fprintf(stderr, "%s\n", lua_tostring(L, -1));
  abort();
}

static int l_mark(lua_State *L) {
  uint8_t *m = &marks[(size_t)luaL_checkinteger(L, 1) % MARKS];
  if (*m < UINT8_MAX) ++*m;
  return 0;
}

static int l_advance(lua_State *L) {
  api_world_advance(luaL_checknumber(L, 1));
  return 0;
}

static int l_refuse(lua_State *L) {
  api_world_refuse_accepts((unsigned)luaL_checkinteger(L, 1));
  return 0;
}

static int l_signal(lua_State *L) {
  api_world_signal((int)luaL_checkinteger(L, 1));
  return 0;
}

/* certificate() -> the certificate, its key */
static int l_certificate(lua_State *L) {
  if (!cert_text) make_certificate();
  lua_pushstring(L, cert_text);
  lua_pushstring(L, key_text);
  return 2;
}

static void set_host(lua_State *L) {
  static const luaL_Reg functions[] = {{"fail", l_fail},
                                       {"mark", l_mark},
                                       {"advance", l_advance},
                                       {"refuse_accepts", l_refuse},
                                       {"signal", l_signal},
                                       {"certificate", l_certificate},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  lua_setglobal(L, "host");
}

/* ---- one input ---------------------------------------------------------------------- */

/* An error in a finalizer: ours do not let one out. */
static void on_warning(void *ud, const char *text, int more) {
  (void)ud;
  fprintf(stderr, "%s%s", text, more ? "" : "\n");
  if (!more) abort();
}

static int on_error(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

/* The state as it was before the first input. */
static lua_State *open_state(void) {
  static lua_State *L;
  if (first_state) {
    memcpy(arena, first_state, arena_used);
    return L;
  }
  L = lua_newstate(allocate, NULL);
  FUZZ_CHECK(L);
  lua_setwarnf(L, on_warning, NULL);
  luaL_openlibs(L);
  preload_all(L);
  set_host(L);
  lua_gc(L, LUA_GCCOLLECT);
  first_state = fuzz_copy(arena, arena_used, 0);
  return L;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lua_State *L = open_state();
  lua_pushcfunction(L, on_error);
  lua_getglobal(L, "require");
  lua_pushstring(L, "spec.fuzz.api");
  lua_call(L, 1, 1);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 0, 1) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
  lua_close(L);
  FUZZ_CHECK(allocated == 0);
  FUZZ_CHECK(api_world_polls() == 0); /* the world was closed */
  return 0;
}
