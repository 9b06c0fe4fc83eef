/* What the tests of TLS share: two sessions over links in memory, with the wire between them in
 * the test's hands.
 *
 * What this is not: a peer of another make (the specs of TLS have those). */
#ifndef LUNEWIRE_TLS_WIRE_H
#define LUNEWIRE_TLS_WIRE_H

#include <openssl/pem.h>
#include <openssl/x509.h>

#include "link_tls.h"
#include "turn_probe.h"

enum {
  WIRE = 1024 * 1024, /* more than any test sends */
  SECONDS = 3600      /* for which the certificate holds */
};

/* A client whose bytes reach the server only through wire_pump(). */
struct wire {
  struct turn turn;
  struct tls_context *context;
  struct probe client, near, far, server;
  char *taken, *got; /* off the wire; by the server */
  size_t taken_len, got_len;
};

/* ---- a certificate ---------------------------------------------------------------- */

static inline void wire_pem_of(BIO *b, char *out, size_t room) {
  int n = BIO_read(b, out, (int)room - 1);
  out[n > 0 ? n : 0] = 0;
  BIO_free(b);
}

static inline void wire_make_identity(char *cert, char *key, size_t room) {
  EVP_PKEY *k = EVP_EC_gen("P-256");
  X509 *x = X509_new();
  BIO *b = BIO_new(BIO_s_mem()), *c = BIO_new(BIO_s_mem());
  X509_gmtime_adj(X509_getm_notBefore(x), 0);
  X509_gmtime_adj(X509_getm_notAfter(x), SECONDS);
  CHECK(X509_set_pubkey(x, k) && X509_sign(x, k, EVP_sha256()) > 0);
  CHECK(PEM_write_bio_X509(b, x) && PEM_write_bio_PrivateKey(c, k, NULL, NULL, 0, NULL, NULL));
  wire_pem_of(b, cert, room);
  wire_pem_of(c, key, room);
  X509_free(x);
  EVP_PKEY_free(k);
}

static inline struct tls_context *wire_make_context(struct turn *t) {
  char cert[4096], key[4096], why[TLS_WHY];
  struct tls_context *c = NULL;
  wire_make_identity(cert, key, sizeof cert);
  const struct tls_opts opts = {
      .cert = cert, .key = key, .min_version = TLS_1_3, .max_version = TLS_1_3, .insecure = true};
  CHECK_EQ(tls_context_new(t, &opts, &c, why), 0);
  return c;
}

/* ---- the wire --------------------------------------------------------------------- */

static inline void wire_pass(struct probe *from, struct probe *to, struct wire *w) {
  static char page[PAGE_SIZE_BYTES];
  ptrdiff_t n;
  while ((n = probe_read(from, page, sizeof page)) > 0) {
    if (w) {
      memcpy(w->taken + w->taken_len, page, (size_t)n);
      w->taken_len += (size_t)n;
    }
    CHECK_EQ(probe_write(to, page, (size_t)n), n);
  }
}

static inline void wire_receive(struct wire *w) {
  ptrdiff_t n;
  while ((n = probe_read(&w->server, w->got + w->got_len, WIRE - w->got_len)) > 0)
    w->got_len += (size_t)n;
}

static inline void wire_pump(struct wire *w) {
  wire_pass(&w->near, &w->far, w);
  wire_pass(&w->far, &w->near, NULL);
  turn_once(&w->turn);
  wire_receive(w);
}

static inline void wire_secure(struct wire *w, struct probe *p, bool server) {
  struct link *l = NULL;
  CHECK_EQ(link_tls_open(&w->turn, p->link,
                         &(struct link_tls_opts){.context = w->context, .server = server}, &l),
           0);
  probe_watch(p, l);
  probe_want(p, LINK_IN);
}

static inline bool wire_is_up(struct probe *p) { return p->link->ops->state(p->link) == 0; }

static inline void wire_open(struct wire *w) {
  *w = (struct wire){.taken = calloc(1, WIRE), .got = calloc(1, WIRE)};
  turn_open(&w->turn);
  w->context = wire_make_context(&w->turn);
  probe_pipe(w->turn.world, &w->client, &w->near);
  probe_pipe(w->turn.world, &w->far, &w->server);
  wire_secure(w, &w->client, false);
  wire_secure(w, &w->server, true);
  TURN_UNTIL(&w->turn, (wire_pump(w), wire_is_up(&w->client) && wire_is_up(&w->server)));
  wire_pump(w);
  CHECK_EQ(probe_read(&w->client, w->got, WIRE), ERR_AGAIN); /* the server's tickets */
  w->taken_len = 0;
}

static inline void wire_close(struct wire *w) {
  probe_close_both(&w->client, &w->near);
  probe_close_both(&w->far, &w->server);
  tls_context_drop(w->context);
  turn_end(&w->turn);
  free(w->taken);
  free(w->got);
}

#endif
