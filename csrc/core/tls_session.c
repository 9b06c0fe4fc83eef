/* A TLS session: see tls_session.h. */
#include "tls_session.h"

#include <openssl/err.h>
#include <string.h>

#include "err.h"
#include "turn.h"

enum { KEY_UPDATES = 32 }; /* without data in between: each costs us much more than the peer */

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ---- the session's bytes ------------------------------------------------------------- */

/* How much of what was fed the library may have: the rest of the record that it is reading.  It
 * reads ahead, which saves a call for the head of each record, but it is to open no record unasked:
 * there may be many that are no data. */
static size_t rest_of_record(struct link_tls *t, size_t room) {
  size_t n = 0, body;
  if (t->body == 0) {
    while (t->head_len < sizeof t->head && n < t->fed_len)
      t->head[t->head_len++] = (unsigned char)t->fed[n++];
    if (t->head_len < sizeof t->head) return n;
    t->body = (size_t)t->head[3] << 8 | t->head[4];
    t->head_len = 0;
  }
  body = least(t->body, least(t->fed_len, room) - n);
  t->body -= body;
  return n + body;
}

static int bio_read(BIO *b, char *to, int room) {
  struct link_tls *t = BIO_get_data(b);
  BIO_clear_retry_flags(b);
  t->starved = t->fed_len == 0 || t->updates > KEY_UPDATES;
  if (t->starved) {
    BIO_set_retry_read(b);
    return -1;
  }
  size_t n = rest_of_record(t, (size_t)room);
  memcpy(to, t->fed, n);
  t->fed += n;
  t->fed_len -= n;
  return (int)n;
}

/* What is in the page goes behind what is kept. */
int tls_keep_page(struct link_tls *t) {
  struct tls_root *root = t->root;
  int r = root->out_len ? buf_append(&t->sealed, root->out, root->out_len) : 0;
  root->out_len = 0;
  return r;
}

static int bio_write(BIO *b, const char *data, int len) {
  struct link_tls *t = BIO_get_data(b);
  struct tls_root *root = t->root;
  size_t n = (size_t)len;
  BIO_clear_retry_flags(b);
  if (buf_len(&t->sealed) == 0 && n <= TLS_PAGE - root->out_len) {
    memcpy(root->out + root->out_len, data, n);
    root->out_len += n;
    return len;
  }
  return tls_keep_page(t) == 0 && buf_append(&t->sealed, data, n) == 0 ? len : -1;
}

static long bio_ctrl(BIO *b, int what, long number, void *p) {
  (void)b, (void)number, (void)p;
  return what == BIO_CTRL_FLUSH;
}

static int bio_create(BIO *b) {
  BIO_set_init(b, 1);
  return 1;
}

/* Without an index of its own, which nobody would look for: OpenSSL 3.2 has only 127 of them for a
 * process, and each loop has a method. */
BIO_METHOD *tls_bio_method(void) {
  BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "lunewire");
  if (!m) return NULL;
  BIO_meth_set_create(m, bio_create);
  BIO_meth_set_read(m, bio_read);
  BIO_meth_set_write(m, bio_write);
  BIO_meth_set_ctrl(m, bio_ctrl);
  return m;
}

static void on_message(int writing, int version, int type, const void *data, size_t len, SSL *ssl,
                       void *arg) {
  struct link_tls *t = arg;
  (void)version, (void)ssl;
  if (!writing && type == SSL3_RT_HANDSHAKE && len > 0 &&
      *(const unsigned char *)data == SSL3_MT_KEY_UPDATE)
    t->updates++;
}

/* ---- what the session says ------------------------------------------------------------ */

int tls_fail(struct link_tls *t, int code, const char *detail) {
  t->detail = detail;
  t->phase = FAILED;
  return t->end = t->out_end = code;
}

/* Ours to reject is the peer's certificate; everything else is the protocol. */
static int fail_by_library(struct link_tls *t) {
  unsigned long e = ERR_peek_last_error();
  long verified = SSL_get_verify_result(t->ssl);
  if (verified != X509_V_OK && ERR_GET_REASON(e) == SSL_R_CERTIFICATE_VERIFY_FAILED)
    return tls_fail(t, ERR_CERT, X509_verify_cert_error_string(verified));
  if (ERR_GET_REASON(e) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
    return tls_fail(t, ERR_CERT, "the peer sent no certificate");
  if (ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE) return tls_fail(t, ERR_NOMEM, NULL);
  return tls_fail(t, ERR_TLS, ERR_reason_error_string(e));
}

/* What others left behind would be taken for ours.  To look is cheap, to clear is not. */
static void forget_errors(void) {
  if (ERR_peek_error()) ERR_clear_error();
}

/* What a call of the library that returned r <= 0 means: ERR_AGAIN: it wants more input. */
static int outcome(struct link_tls *t, int r) {
  switch (SSL_get_error(t->ssl, r)) {
  case SSL_ERROR_WANT_READ:
    return ERR_AGAIN;
  case SSL_ERROR_ZERO_RETURN:
    return t->end = ERR_EOF;
  default:
    return fail_by_library(t);
  }
}

/* OpenSSL takes a name with a dot in front for all names below it. */
static bool is_host(const char *host) { return *host && *host != '.' && strlen(host) <= 255; }

int tls_begin(struct link_tls *t) {
  if (t->ssl) return 0;
  if (t->host && !is_host(t->host)) return tls_fail(t, ERR_CERT, "not a name to verify");
  BIO *b = BIO_new(t->root->bio);
  t->ssl = b ? tls_session_new(t->context, t->server, t->host) : NULL;
  if (!t->ssl) {
    BIO_free(b);
    return tls_fail(t, ERR_NOMEM, NULL);
  }
  BIO_set_data(b, t);
  SSL_set_bio(t->ssl, b, b);
  SSL_set_msg_callback(t->ssl, on_message);
  SSL_set_msg_callback_arg(t->ssl, t);
  return 0;
}

/* With an anonymous cipher OpenSSL asks for no certificate, whatever it was told. */
static bool must_verify(const struct link_tls *t) {
  return !t->server && !tls_context_opts(t->context)->insecure;
}

int tls_advance(struct link_tls *t) {
  forget_errors();
  int r = SSL_do_handshake(t->ssl);
  if (r != 1) return outcome(t, r);
  if (must_verify(t) && !SSL_get0_peer_certificate(t->ssl))
    return tls_fail(t, ERR_CERT, "the peer sent no certificate");
  t->phase = UP;
  return 0;
}

/* One record, or what is left of it. 0, ERR_AGAIN, or the end. */
static int open_record(struct link_tls *t, char *to, size_t room, size_t *got) {
  int r = SSL_read_ex(t->ssl, to, room, got);
  if (r == 1) {
    t->updates = 0;
    return 0;
  }
  r = outcome(t, r);
  return t->updates > KEY_UPDATES ? tls_fail(t, ERR_TLS, "too many key updates") : r;
}

/* The library is asked only where it can find something: to be told that there is nothing costs as
 * much as to open a record. */
ptrdiff_t tls_open(struct link_tls *t, char *to, size_t room) {
  size_t total = 0, got = 0;
  int r = ERR_AGAIN;
  if (t->fed_len == 0 && !t->partly) return r;
  forget_errors();
  do {
    r = open_record(t, to + total, room - total, &got);
    if (r == 0) total += got;
  } while (r == 0 && total < room && t->fed_len > 0);
  t->partly = total == room && SSL_pending(t->ssl) > 0;
  if (total) tls_buffers_used(t);
  return total ? (ptrdiff_t)total : r; /* an end is sticky, and comes next time */
}

/* ---- sealing --------------------------------------------------------------------------- */

static inline size_t piece_left(const struct pieces *p) { return p->v->iov_len - p->at; }

static void pieces_take(struct pieces *p, size_t n) {
  for (; p->count && n >= piece_left(p); p->count--, p->v++, p->at = 0) n -= piece_left(p);
  p->at += n;
}

/* The next *n <= most bytes in one place: where they stand, or short pieces joined in `page`. */
static const char *pieces_next(struct pieces p, char *page, size_t most, size_t *n) {
  const char *first = (const char *)p.v->iov_base + p.at;
  *n = least(piece_left(&p), most);
  if (p.count == 1 || *n == most) return first;
  memcpy(page, first, *n);
  for (size_t len; *n < most && --p.count; *n += len) {
    p.v++;
    len = least(p.v->iov_len, most - *n);
    memcpy(page + *n, p.v->iov_base, len);
  }
  return page;
}

/* Errors that others left behind cannot mislead here: what keeps it from sealing is want of input,
 * or an error of its own, the last one. */
size_t tls_seal(struct link_tls *t, struct pieces *p, size_t room) {
  size_t total = 0, n, done;
  t->stuck = false;
  while (p->count && total < room && !t->out_end) {
    const char *data = pieces_next(*p, t->root->record, least(room - total, TLS_RECORD), &n);
    if (n == 0) break;
    t->starved = false;
    if (SSL_write_ex(t->ssl, data, n, &done) != 1) {
      t->stuck = t->starved;
      if (!t->stuck) fail_by_library(t);
      break;
    }
    pieces_take(p, done);
    total += done;
  }
  if (total) tls_buffers_used(t);
  return total;
}
