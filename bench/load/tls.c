/* See tls.h. */
#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "load.h"

struct bytes {
  char *data;
  size_t len, room;
};

struct tls {
  SSL_CTX *context;
  BIO_METHOD *method;
  const char *in; /* what OpenSSL has not yet taken of the session being fed */
  size_t in_len;
  struct bytes out;
};

struct session {
  struct tls *tls;
  SSL *ssl;
  unsigned id;
  size_t left_at;
  struct bytes left; /* sealed, refused by the system */
};

static void bytes_add(struct bytes *b, const char *data, size_t n) {
  if (b->room - b->len < n) {
    b->room = 2 * b->room + n;
    b->data = realloc(b->data, b->room);
    if (!b->data) die("out of memory");
  }
  memcpy(b->data + b->len, data, n);
  b->len += n;
}

static const char *reason(void) {
  unsigned long code = ERR_peek_last_error();
  const char *text = code ? ERR_reason_error_string(code) : NULL;
  return text ? text : "an error without a reason";
}

/* ---- OpenSSL's way to the bytes -------------------------------------------------- */

static int bio_read(BIO *bio, char *data, int room) {
  struct tls *t = BIO_get_data(bio);
  size_t n = t->in_len < (size_t)room ? t->in_len : (size_t)room;
  BIO_clear_retry_flags(bio);
  if (n == 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  memcpy(data, t->in, n);
  t->in += n;
  t->in_len -= n;
  return (int)n;
}

static int bio_write(BIO *bio, const char *data, int n) {
  struct tls *t = BIO_get_data(bio);
  bytes_add(&t->out, data, (size_t)n);
  return n;
}

static long bio_control(BIO *bio, int command, long number, void *pointer) {
  (void)bio, (void)number, (void)pointer;
  return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *make_method(void) {
  BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "bytes");
  if (!m) die("TLS: %s", reason());
  BIO_meth_set_read(m, bio_read);
  BIO_meth_set_write(m, bio_write);
  BIO_meth_set_ctrl(m, bio_control);
  return m;
}

static BIO *make_bio(struct tls *t) {
  BIO *bio = BIO_new(t->method);
  if (!bio) die("TLS: %s", reason());
  BIO_set_data(bio, t);
  BIO_set_init(bio, 1);
  return bio;
}

/* ---- what is shared -------------------------------------------------------------- */

/* A certificate that a file names is trusted although it is no authority. */
static void trust(SSL_CTX *context, const char *file) {
  X509_STORE *store = SSL_CTX_get_cert_store(context);
  if (SSL_CTX_load_verify_locations(context, file, NULL) != 1) die("%s: %s", file, reason());
  X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
}

/* The one suite that every server has, so that all do the same work. */
static const char suite[] = "TLS_AES_128_GCM_SHA256";

struct tls *tls_new(const char *trusted, bool lean) {
  struct tls *t = allocate(1, sizeof *t);
  t->method = make_method();
  t->context = SSL_CTX_new(TLS_client_method());
  if (!t->context) die("TLS: %s", reason());
  SSL_CTX_set_min_proto_version(t->context, TLS1_3_VERSION);
  SSL_CTX_set_session_cache_mode(t->context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_ciphersuites(t->context, suite);
  if (lean)
    SSL_CTX_set_mode(t->context, SSL_MODE_RELEASE_BUFFERS);
  else
    SSL_CTX_set_read_ahead(t->context, 1);
  if (trusted) trust(t->context, trusted);
  return t;
}

/* ---- one session ----------------------------------------------------------------- */

struct session *session_new(struct tls *t, unsigned id) {
  struct session *s = allocate(1, sizeof *s);
  s->tls = t;
  s->id = id;
  s->ssl = SSL_new(t->context);
  if (!s->ssl) die("TLS: %s", reason());
  BIO *bio = make_bio(t);
  SSL_set_bio(s->ssl, bio, bio);
  SSL_set_connect_state(s->ssl);
  session_shake(s);
  return s;
}

void session_feed(struct session *s, const char *bytes, size_t n) {
  s->tls->in = bytes;
  s->tls->in_len = n;
}

/* Of a call that failed: 0 if it only needs more bytes, -1 at the end. */
static int why(struct session *s, int result) {
  int error = SSL_get_error(s->ssl, result);
  if (error == SSL_ERROR_WANT_READ) return 0;
  if (error == SSL_ERROR_ZERO_RETURN) return -1;
  die("connection %u: TLS: %s", s->id, reason());
}

bool session_shake(struct session *s) {
  int result = SSL_do_handshake(s->ssl);
  if (result == 1) return true;
  if (why(s, result) < 0) die("connection %u: TLS: ended in its handshake", s->id);
  return false;
}

int session_read(struct session *s, char *bytes, size_t room) {
  int n = SSL_read(s->ssl, bytes, (int)room);
  return n > 0 ? n : why(s, n);
}

void session_write(struct session *s, const char *bytes, size_t n) {
  if (SSL_write(s->ssl, bytes, (int)n) != (int)n) die("connection %u: TLS: %s", s->id, reason());
}

/* ---- what was sealed ------------------------------------------------------------- */

/* How many bytes the system took. */
static size_t send_some(struct session *s, int fd, const char *bytes, size_t n) {
  ssize_t sent = n ? send(fd, bytes, n, MSG_NOSIGNAL) : 0;
  if (sent < 0 && errno != EAGAIN) die("connection %u: send: %s", s->id, strerror(errno));
  return sent > 0 ? (size_t)sent : 0;
}

static bool flush_left(struct session *s, int fd) {
  s->left_at += send_some(s, fd, s->left.data + s->left_at, s->left.len - s->left_at);
  if (s->left_at < s->left.len) return false;
  free(s->left.data);
  s->left = (struct bytes){0};
  s->left_at = 0;
  return true;
}

bool session_flush(struct session *s, int fd) {
  struct bytes *out = &s->tls->out;
  size_t n = out->len;
  bool was_left = s->left.len > 0;
  size_t sent = was_left ? 0 : send_some(s, fd, out->data, n);
  if (sent < n) bytes_add(&s->left, out->data + sent, n - sent);
  out->len = 0;
  return was_left ? flush_left(s, fd) : sent == n;
}
