/* A peer that floods a TLS 1.3 server with changes of its keys, and reads nothing meanwhile:
 *
 *   key_updates PORT COUNT
 *
 * sends COUNT of them, each asking for one in return, then a line, and prints the answer to it.
 * What this is not: part of the library; tls_flood_spec.lua compiles and runs it. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void fail(const char *what) {
  printf("failed: %s\n", what);
  exit(1);
}

static int dial(int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0) fail("connect");
  return fd;
}

static SSL *handshake(int fd) {
  SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
  SSL *ssl = ctx ? SSL_new(ctx) : NULL;
  if (!ssl || !SSL_set_min_proto_version(ssl, TLS1_3_VERSION)) fail("context");
  SSL_CTX_free(ctx);
  if (SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1) fail("handshake");
  return ssl;
}

static void flood(SSL *ssl, int count) {
  for (int i = 0; i < count; i++) {
    if (SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) != 1) fail("key update");
    if (SSL_do_handshake(ssl) != 1) fail("key update");
  }
}

static void talk(SSL *ssl) {
  static const char line[] = "still here\n";
  char answer[100];
  if (SSL_write(ssl, line, sizeof line - 1) <= 0) fail("write");
  int n = SSL_read(ssl, answer, sizeof answer);
  if (n <= 0) fail("read");
  fwrite(answer, 1, (size_t)n, stdout);
}

int main(int argc, char **argv) {
  if (argc != 3) fail("usage: key_updates PORT COUNT");
  SSL *ssl = handshake(dial(atoi(argv[1])));
  flood(ssl, atoi(argv[2]));
  talk(ssl);
  SSL_shutdown(ssl);
  SSL_free(ssl);
  return 0;
}
