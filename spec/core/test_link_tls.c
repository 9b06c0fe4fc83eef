/* A TLS session as a link: how what is written to it becomes records, with the wire in the test's
 * hands.
 * What this is not: whether TLS is kept to (the specs of TLS, against other programs). */
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "link_tls.h"
#include "turn_probe.h"

enum {
  RECORD = 16 * 1024,
  HEAD = 5,           /* of a record */
  ADDED = HEAD + 17,  /* what TLS 1.3 adds to the data of one, with AES-GCM */
  WIRE = 1024 * 1024, /* more than any test sends */
  SECONDS = 3600      /* for which the certificate holds */
};

/* A client whose bytes reach the server only through pump(). */
struct wire {
  struct turn turn;
  struct tls_context *context;
  struct probe client, near, far, server;
  char *taken, *got; /* off the wire; by the server */
  size_t taken_len, got_len;
};

/* ---- a certificate ---------------------------------------------------------------- */

static void pem_of(BIO *b, char *out, size_t room) {
  int n = BIO_read(b, out, (int)room - 1);
  out[n > 0 ? n : 0] = 0;
  BIO_free(b);
}

static void make_identity(char *cert, char *key, size_t room) {
  EVP_PKEY *k = EVP_EC_gen("P-256");
  X509 *x = X509_new();
  BIO *b = BIO_new(BIO_s_mem()), *c = BIO_new(BIO_s_mem());
  X509_gmtime_adj(X509_getm_notBefore(x), 0);
  X509_gmtime_adj(X509_getm_notAfter(x), SECONDS);
  CHECK(X509_set_pubkey(x, k) && X509_sign(x, k, EVP_sha256()) > 0);
  CHECK(PEM_write_bio_X509(b, x) && PEM_write_bio_PrivateKey(c, k, NULL, NULL, 0, NULL, NULL));
  pem_of(b, cert, room);
  pem_of(c, key, room);
  X509_free(x);
  EVP_PKEY_free(k);
}

static struct tls_context *make_context(struct turn *t) {
  char cert[4096], key[4096], why[TLS_WHY];
  struct tls_context *c = NULL;
  make_identity(cert, key, sizeof cert);
  const struct tls_opts opts = {
      .cert = cert, .key = key, .min_version = TLS_1_3, .max_version = TLS_1_3, .insecure = true};
  CHECK_EQ(tls_context_new(t, &opts, &c, why), 0);
  return c;
}

/* ---- the wire --------------------------------------------------------------------- */

static void pass(struct probe *from, struct probe *to, struct wire *w) {
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

static void pump(struct wire *w) {
  pass(&w->near, &w->far, w);
  pass(&w->far, &w->near, NULL);
  turn_once(&w->turn);
  ptrdiff_t n;
  while ((n = probe_read(&w->server, w->got + w->got_len, WIRE - w->got_len)) > 0)
    w->got_len += (size_t)n;
}

static void secure(struct wire *w, struct probe *p, bool server) {
  struct link *l = NULL;
  CHECK_EQ(link_tls_open(&w->turn, p->link,
                         &(struct link_tls_opts){.context = w->context, .server = server}, &l),
           0);
  probe_watch(p, l);
  probe_want(p, LINK_IN);
}

static bool is_up(struct probe *p) { return p->link->ops->state(p->link) == 0; }

static void wire_open(struct wire *w) {
  *w = (struct wire){.taken = calloc(1, WIRE), .got = calloc(1, WIRE)};
  turn_open(&w->turn);
  w->context = make_context(&w->turn);
  probe_pipe(w->turn.world, &w->client, &w->near);
  probe_pipe(w->turn.world, &w->far, &w->server);
  secure(w, &w->client, false);
  secure(w, &w->server, true);
  TURN_UNTIL(&w->turn, (pump(w), is_up(&w->client) && is_up(&w->server)));
  pump(w);
  w->taken_len = 0;
}

static void wire_close(struct wire *w) {
  probe_close_both(&w->client, &w->near);
  probe_close_both(&w->far, &w->server);
  tls_context_drop(w->context);
  turn_end(&w->turn);
  free(w->taken);
  free(w->got);
}

/* The lengths of the records that were on the wire -> how many. */
static size_t records(const struct wire *w, size_t *lens, size_t most) {
  size_t n = 0;
  for (size_t at = 0; at + HEAD <= w->taken_len && n < most; n++) {
    const unsigned char *p = (const unsigned char *)w->taken + at;
    lens[n] = HEAD + ((size_t)p[3] << 8 | p[4]);
    at += lens[n];
  }
  return n;
}

/* All of it goes through, in records that are full but for the last. */
static void check_vector(struct wire *w, const struct iovec *v, int count, const char *data,
                         size_t len) {
  size_t lens[64], full = len / RECORD, rest = len % RECORD;
  CHECK_EQ(w->client.link->ops->write(w->client.link, v, count), len);
  TURN_UNTIL(&w->turn, (pump(w), w->got_len >= len));
  CHECK_MEM(w->got, w->got_len, data, len);
  CHECK_EQ(records(w, lens, 64), full + (rest > 0));
  for (size_t i = 0; i < full; i++) CHECK_EQ(lens[i], RECORD + ADDED);
  if (rest) CHECK_EQ(lens[full], rest + ADDED);
  w->got_len = w->taken_len = 0;
}

static void check_pieces(const size_t *lens, int count) {
  static char data[3 * RECORD];
  struct iovec v[16];
  struct wire w;
  size_t len = 0;
  for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(i * 7 + i / 251);
  for (int i = 0; i < count; len += lens[i++])
    v[i] = (struct iovec){.iov_base = data + len, .iov_len = lens[i]};
  wire_open(&w);
  check_vector(&w, v, count, data, len);
  wire_close(&w);
}

#define CHECK_PIECES(...)                                                                          \
  do {                                                                                             \
    const size_t lens_[] = {__VA_ARGS__};                                                          \
    check_pieces(lens_, (int)(sizeof lens_ / sizeof *lens_));                                      \
  } while (0)

TEST(short_pieces_leave_in_one_record) { CHECK_PIECES(2, 64, 2, 64, 2, 0, 64, 1); }

TEST(a_header_fills_the_record_of_its_message) { CHECK_PIECES(4, 2 * RECORD + 100); }

TEST(pieces_that_end_within_a_record_share_it) {
  CHECK_PIECES(RECORD - 1, 2, RECORD, 0, RECORD - 5);
  CHECK_PIECES(0, RECORD, 1, 0);
}
