/* The floor over TLS 1.3: OpenSSL on the sockets of epoll.
 *
 *   epoll_tls tls          prints its port, serves until it is killed
 *   epoll_tls --version    prints the OpenSSL that it runs with
 *
 * BENCH_CERT and BENCH_KEY name the files of the certificate and its key.  OpenSSL reads ahead, so
 * that one call of the system takes what is there, and not two each record; what a wake-up brought
 * is answered in one SSL_write, which seals records of 16 KiB.
 * What this is not: a server to learn from; see epoll_echo.h. */
#include "epoll_echo.h"
#include <openssl/err.h>
#include <openssl/ssl.h>

static SSL_CTX *context;

/* What a failed call means; nothing is left for the next connection's to find. */
static ptrdiff_t transport_failure(const struct conn *c) {
  int error = SSL_get_error(c->session, 0);
  ERR_clear_error();
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return AGAIN;
  return error == SSL_ERROR_ZERO_RETURN ? 0 : CLOSED;
}

static void transport_open(struct conn *c) {
  SSL *ssl = SSL_new(context);
  if (!ssl || !SSL_set_fd(ssl, c->fd)) die("SSL_new failed");
  SSL_set_accept_state(ssl);
  c->session = ssl;
}

static bool transport_pending(const struct conn *c) { return SSL_has_pending(c->session); }

static bool transport_wants_write(const struct conn *c) { return SSL_want_write(c->session); }

/* Record after record, as long as OpenSSL has what it read ahead. */
static ptrdiff_t transport_read(struct conn *c, char *at, size_t n) {
  size_t done = 0, got = 0;
  while (done < n && SSL_read_ex(c->session, at + done, n - done, &got)) {
    done += got;
    if (!SSL_has_pending(c->session)) return (ptrdiff_t)done;
  }
  if (done == n) return (ptrdiff_t)done;
  ptrdiff_t failure = transport_failure(c);
  return done ? (ptrdiff_t)done : failure;
}

static ptrdiff_t transport_write(struct conn *c, const char *at, size_t n) {
  size_t done = 0;
  if (SSL_write_ex(c->session, at, n, &done)) return (ptrdiff_t)done;
  return transport_failure(c) == AGAIN ? AGAIN : CLOSED;
}

static void transport_close(struct conn *c) {
  SSL_shutdown(c->session);
  SSL_free(c->session);
  ERR_clear_error();
}

static const char *file_of(const char *name) {
  const char *file = getenv(name);
  if (!file) die("%s must name a file", name);
  return file;
}

static void make_context(void) {
  context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, READ_ROOM);
  SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (SSL_CTX_use_certificate_chain_file(context, file_of("BENCH_CERT")) != 1 ||
      SSL_CTX_use_PrivateKey_file(context, file_of("BENCH_KEY"), SSL_FILETYPE_PEM) != 1)
    die("%s", ERR_reason_error_string(ERR_get_error()));
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  if (strcmp(mode, "--version") == 0) return puts(OpenSSL_version(OPENSSL_VERSION)) < 0;
  if (strcmp(mode, "tls") != 0) return unsupported();
  make_context();
  serve(framing_of(mode));
}
