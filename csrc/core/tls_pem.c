/* PEM: see tls_pem.h. */
#include "tls_pem.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "err.h"

static bool is_text(const char *source) { return strstr(source, "-----BEGIN ") != NULL; }

static const char *shown(const char *source) { return is_text(source) ? "PEM text" : source; }

static int wrong(const char *source, const char *text, char why[TLS_WHY]) {
  snprintf(why, TLS_WHY, "%s: %s", shown(source), text);
  return ERR_TLS;
}

static int unreadable(const char *source, char why[TLS_WHY]) {
  int code = errno ? -errno : ERR_INVAL;
  wrong(source, err_text(code), why);
  return code;
}

/* Something to read from, or NULL and *code. */
static BIO *open_source(const char *source, int *code, char why[TLS_WHY]) {
  BIO *b;
  errno = 0;
  if (is_text(source))
    b = BIO_new_mem_buf(source, -1);
  else
    b = BIO_new_file(source, "r");
  if (!b) *code = unreadable(source, why);
  return b;
}

/* ---- certificates --------------------------------------------------------------------- */

/* Nothing more is the end; anything else is damage. */
static int pem_end(void) {
  return ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE ? 0 : ERR_TLS;
}

static int use_chain(SSL_CTX *ssl, BIO *b) {
  for (X509 *x; (x = PEM_read_bio_X509(b, NULL, NULL, NULL));) {
    if (SSL_CTX_add0_chain_cert(ssl, x)) continue;
    X509_free(x);
    return ERR_TLS;
  }
  return pem_end();
}

static int use_cert(SSL_CTX *ssl, BIO *b) {
  X509 *x = PEM_read_bio_X509_AUX(b, NULL, NULL, NULL);
  int ok = x && SSL_CTX_use_certificate(ssl, x);
  X509_free(x);
  return ok ? use_chain(ssl, b) : ERR_TLS;
}

int pem_use_cert(SSL_CTX *ssl, const char *source, char why[TLS_WHY]) {
  int code = 0;
  BIO *b = open_source(source, &code, why);
  if (!b) return code;
  code = use_cert(ssl, b);
  BIO_free(b);
  return code ? wrong(source, "no certificate in PEM, or a damaged one", why) : 0;
}

/* ---- keys ----------------------------------------------------------------------------- */

/* Without a password OpenSSL would ask on the terminal. */
static int on_password(char *to, int room, int writing, void *password) {
  size_t n = password ? strlen(password) : 0;
  (void)writing;
  if (n == 0 || n > (size_t)room) return -1;
  memcpy(to, password, n); /* NOLINT(bugprone-not-null-terminated-result): its length is told */
  return (int)n;
}

static const char *key_problem(const char *password) {
  int reason = ERR_GET_REASON(ERR_peek_last_error());
  if (reason == PEM_R_BAD_PASSWORD_READ || (!password && reason == PEM_R_BAD_DECRYPT))
    return "the key is encrypted; give its password";
  if (password && reason != PEM_R_NO_START_LINE) return "the key cannot be read with this password";
  return "no private key in PEM";
}

int pem_use_key(SSL_CTX *ssl, const char *source, const char *password, char why[TLS_WHY]) {
  int code = 0;
  BIO *b = open_source(source, &code, why);
  if (!b) return code;
  EVP_PKEY *key = PEM_read_bio_PrivateKey(b, NULL, on_password, (char *)(uintptr_t)password);
  if (!key)
    code = wrong(source, key_problem(password), why);
  else if (!SSL_CTX_use_PrivateKey(ssl, key))
    code = wrong(source, "the key does not belong to the certificate", why);
  EVP_PKEY_free(key);
  BIO_free(b);
  return code;
}

/* ---- authorities ---------------------------------------------------------------------- */

static int add_authorities(X509_STORE *store, BIO *b) {
  int n = 0;
  for (X509 *x; (x = PEM_read_bio_X509_AUX(b, NULL, NULL, NULL)); n++) {
    int ok = X509_STORE_add_cert(store, x);
    X509_free(x);
    if (!ok) return ERR_TLS;
  }
  return n ? pem_end() : ERR_TLS;
}

static int trust_pem(X509_STORE *store, const char *source, char why[TLS_WHY]) {
  int code = 0;
  BIO *b = open_source(source, &code, why);
  if (!b) return code;
  code = add_authorities(store, b);
  BIO_free(b);
  return code ? wrong(source, "no certificate in PEM, or a damaged one", why) : 0;
}

static bool is_directory(const char *source) {
  struct stat st;
  return !is_text(source) && stat(source, &st) == 0 && S_ISDIR(st.st_mode);
}

int pem_trust(SSL_CTX *ssl, const char *source, char why[TLS_WHY]) {
  X509_STORE *store = SSL_CTX_get_cert_store(ssl); /* a new context's own, and empty */
  if (!is_directory(source)) return trust_pem(store, source, why);
  return X509_STORE_load_path(store, source) ? 0 : wrong(source, "cannot be used", why);
}
