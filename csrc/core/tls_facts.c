/* What is known of a session and of the peer's certificate, as text: see link_tls.h.
 * What this is not: any verification. */
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "err.h"
#include "link_tls.h"
#include "tls_session.h"

static const SSL *session_of(const struct link *l) {
  const struct link_tls *t = (const struct link_tls *)(const void *)l;
  return link_is_tls(l) && t->phase == UP ? t->ssl : NULL;
}

const char *link_tls_fact(const struct link *l, enum tls_fact f, size_t *len) {
  const SSL *ssl = session_of(l);
  const unsigned char *alpn = NULL;
  unsigned alpn_len = 0;
  const char *text = NULL;
  if (!ssl) return NULL;
  if (f == TLS_VERSION) text = SSL_get_version(ssl);
  if (f == TLS_CIPHER) text = SSL_get_cipher_name(ssl);
  if (f == TLS_SERVERNAME) text = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
  if (f == TLS_ALPN) SSL_get0_alpn_selected(ssl, &alpn, &alpn_len);
  *len = text ? strlen(text) : alpn_len;
  return text ? text : (const char *)alpn;
}

bool link_tls_resumed(const struct link *l) {
  const SSL *ssl = session_of(l);
  return ssl && SSL_session_reused(ssl);
}

static const X509 *peer_of(const struct link *l) {
  const SSL *ssl = session_of(l);
  return ssl ? SSL_get0_peer_certificate(ssl) : NULL;
}

/* What was printed to b (may be NULL: no memory) -> out, cut to what fits; b is freed. */
static ptrdiff_t take(BIO *b, bool printed, char *out, size_t room) {
  char *p = NULL;
  long n = printed ? BIO_get_mem_data(b, &p) : 0;
  size_t len = n > 0 ? (size_t)n : 0;
  if (len > room) len = room;
  if (len) memcpy(out, p, len);
  BIO_free(b);
  return printed ? (ptrdiff_t)len : ERR_NOMEM;
}

static ptrdiff_t put_name(const X509_NAME *name, char *out, size_t room) {
  const unsigned long how = XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB;
  BIO *b = BIO_new(BIO_s_mem());
  return take(b, b && X509_NAME_print_ex(b, name, 0, how) >= 0, out, room);
}

static ptrdiff_t put_time(const ASN1_TIME *at, char *out, size_t room) {
  struct tm tm;
  if (!ASN1_TIME_to_tm(at, &tm)) return 0;
  int n = snprintf(out, room, "%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year + 1900, tm.tm_mon + 1,
                   tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
  return n > 0 && (size_t)n < room ? n : 0;
}

static ptrdiff_t put_fingerprint(const X509 *x, char *out, size_t room) {
  static const char hex[] = "0123456789abcdef";
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned n = 0;
  if (!X509_digest(x, EVP_sha256(), digest, &n)) return ERR_NOMEM;
  if (2 * (size_t)n > room) return 0;
  for (unsigned i = 0; i < n; i++) {
    out[2 * i] = hex[digest[i] >> 4];
    out[2 * i + 1] = hex[digest[i] & 15];
  }
  return 2 * (ptrdiff_t)n;
}

ptrdiff_t link_tls_cert(const struct link *l, enum tls_cert_field f, char *out, size_t room) {
  const X509 *x = peer_of(l);
  if (!x) return 0;
  switch (f) {
  case CERT_SUBJECT:
    return put_name(X509_get_subject_name(x), out, room);
  case CERT_ISSUER:
    return put_name(X509_get_issuer_name(x), out, room);
  case CERT_NOT_BEFORE:
    return put_time(X509_get0_notBefore(x), out, room);
  case CERT_NOT_AFTER:
    return put_time(X509_get0_notAfter(x), out, room);
  default:
    return put_fingerprint(x, out, room);
  }
}

/* One name and its NUL -> bytes; 0: it does not fit. */
static ptrdiff_t put_general_name(GENERAL_NAME *name, char *out, size_t room) {
  BIO *b = BIO_new(BIO_s_mem());
  ptrdiff_t n = take(b, b && GENERAL_NAME_print(b, name) >= 0, out, room);
  if (n < 0 || (size_t)n == room) return n < 0 ? n : 0;
  out[n] = 0;
  return n + 1;
}

/* NULL: there are none, or no memory for them, or they are none that OpenSSL can read. */
static GENERAL_NAMES *names_of(const X509 *x, bool *no_memory) {
  ERR_clear_error();
  GENERAL_NAMES *names = x ? X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL) : NULL;
  *no_memory = !names && ERR_GET_REASON(ERR_peek_error()) == ERR_R_MALLOC_FAILURE;
  ERR_clear_error();
  return names;
}

ptrdiff_t link_tls_cert_names(const struct link *l, char *out, size_t room) {
  bool no_memory;
  GENERAL_NAMES *names = names_of(peer_of(l), &no_memory);
  ptrdiff_t total = 0, n = 1;
  for (int i = 0; names && n > 0 && i < sk_GENERAL_NAME_num(names); i++) {
    n = put_general_name(sk_GENERAL_NAME_value(names, i), out + total, room - (size_t)total);
    if (n > 0) total += n;
  }
  GENERAL_NAMES_free(names);
  return no_memory || n < 0 ? ERR_NOMEM : total;
}
