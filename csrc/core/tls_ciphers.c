/* Which ciphers are used: those of the options, else of the system's configuration, else ours.
 *
 * What this is not: a judgement; whatever the library has by default stays possible. */
#include <stdio.h>
#include <string.h>

#include "err.h"
#include "tls_internal.h"

/* What the library has, with its last suite first: each record costs it a quarter less than the
 * library's own first choice, and it is as good as any (RFC 8446, 9.1). */
static const char OURS[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                           "TLS_CHACHA20_POLY1305_SHA256";

/* The suites of TLS 1.3, by preference. -> their length, at least `room` if they did not fit. */
static size_t suites_of(const SSL_CTX *ssl, char *out, size_t room) {
  const STACK_OF(SSL_CIPHER) *all = SSL_CTX_get_ciphers(ssl);
  size_t len = 0;
  out[0] = 0;
  for (int i = 0; i < sk_SSL_CIPHER_num(all) && len < room; i++) {
    const SSL_CIPHER *c = sk_SSL_CIPHER_value(all, i);
    if (strcmp(SSL_CIPHER_get_version(c), "TLSv1.3") != 0) continue;
    len += (size_t)snprintf(out + len, room - len, "%s%s", len ? ":" : "", SSL_CIPHER_get_name(c));
  }
  return len;
}

/* A configuration that says nothing leaves the library's own list. */
static bool is_configured(const SSL_CTX *ssl) {
  char suites[512];
  return suites_of(ssl, suites, sizeof suites) >= sizeof suites ||
         strcmp(suites, OSSL_default_ciphersuites()) != 0;
}

int tls_set_ciphers(SSL_CTX *ssl, const struct tls_opts *o, char why[TLS_WHY]) {
  const char *suites = o->ciphersuites;
  if (!suites && !is_configured(ssl)) suites = OURS;
  bool ok = (!o->ciphers || SSL_CTX_set_cipher_list(ssl, o->ciphers)) &&
            (!suites || SSL_CTX_set_ciphersuites(ssl, suites));
  if (ok) return 0;
  snprintf(why, TLS_WHY, "no such cipher");
  return ERR_TLS;
}
