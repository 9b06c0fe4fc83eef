/* Fuzz target: the API as a state machine.  The bytes are a program of calls, which
 * spec/fuzz/api.lua reads and makes in a Lua state of its own for each input, with a model of what
 * must come of them beside it; the world is api_world.c, where time is virtual. What this is not:
 * the operations and the model (api.lua, api_*.lua). */
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "api_world.h"
#include "fuzz.h"
#include "lib_lua.h"

/* What the model calls by a number: libFuzzer takes it as an edge. */
enum { MARKS = 8192 };
__attribute__((section("__libfuzzer_extra_counters"), used)) static uint8_t marks[MARKS];

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_lua_run("api", set_host, data, size);
  FUZZ_CHECK(api_world_polls() == 0); /* the world was closed */
  return 0;
}
