/* OpenSSL under a fuzz target: see lib_openssl.h. */
#include "lib_openssl.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "fuzz.h"

const char tls_key[] = "-----BEGIN PRIVATE KEY-----\n"
                       "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgSYMFUyoczzSwai21\n"
                       "NKO265708+VWOk3gaHLELFvmu4OhRANCAASCN2M2IhzL3M91EeARFKCANYz6AWd0\n"
                       "JPvCgOlmBD+kGG7j1m2rFYlKwwWG9M9qEPhzQEO+m/Em2HPmI5SG26Xo\n"
                       "-----END PRIVATE KEY-----\n";

const char tls_cert[] = "-----BEGIN CERTIFICATE-----\n"
                        "MIIBYDCCAQWgAwIBAgIBATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARmdXp6MCIY\n"
                        "DzIwMDAwMTAxMDAwMDAwWhgPMjIwMDAxMDEwMDAwMDBaMA8xDTALBgNVBAMMBGZ1\n"
                        "enowWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASCN2M2IhzL3M91EeARFKCANYz6\n"
                        "AWd0JPvCgOlmBD+kGG7j1m2rFYlKwwWG9M9qEPhzQEO+m/Em2HPmI5SG26Xoo04w\n"
                        "TDAPBgNVHRMBAf8EBTADAQH/MBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAd\n"
                        "BgNVHQ4EFgQUybhBLoMumxeKbzwynei6s2EwyRowCgYIKoZIzj0EAwIDSQAwRgIh\n"
                        "AK/cO/6Jp/CK99grQ6WkfH3ueusUD2M/B1CLPylXySaiAiEA3t5iipm7zSwyb8VI\n"
                        "7FRm3lTleFqkHm/bwooyzqMza00=\n"
                        "-----END CERTIFICATE-----\n";

/* ---- memory --------------------------------------------------------------------------- */

/* OpenSSL is not instrumented: its memory is worth watching in the replay alone, which has no
 * hurry.  While fuzzing what it holds is counted.
 * NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): glibc's own names. */
void *__libc_malloc(size_t n);
void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);
int LLVMFuzzerRunDriver(int *argc, char ***argv, void *callback) __attribute__((weak));
/* NOLINTEND */

static long pieces;

static void *count_new(size_t n, const char *file, int line) {
  (void)file, (void)line;
  pieces++;
  return __libc_malloc(n);
}

static void *count_again(void *p, size_t n, const char *file, int line) {
  (void)file, (void)line;
  pieces += !p;
  return __libc_realloc(p, n);
}

static void count_free(void *p, const char *file, int line) {
  (void)file, (void)line;
  pieces -= p != NULL;
  __libc_free(p);
}

__attribute__((constructor)) static void begin_counting(void) {
  if (LLVMFuzzerRunDriver) CRYPTO_set_mem_functions(count_new, count_again, count_free);
}

long tls_memory(void) { return pieces; }

/* ---- chance --------------------------------------------------------------------------- */

static uint32_t chance;

static int chance_bytes(unsigned char *out, int n) {
  for (int i = 0; i < n; i++) out[i] = (unsigned char)fuzz_random(&chance);
  return 1;
}

static int chance_is_there(void) { return 1; }

/* The deprecated way is the only one by which a program brings its own. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
void tls_reset_chance(void) {
  static const RAND_METHOD method = {
      .bytes = chance_bytes, .pseudorand = chance_bytes, .status = chance_is_there};
  chance = 1;
  if (RAND_get_rand_method() != &method) RAND_set_rand_method(&method);
}
#pragma GCC diagnostic pop
