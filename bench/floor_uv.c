/* What lunewire is measured against: the plainest fast echo server of packages (a 2-byte
 * big-endian length, then so many bytes) that libuv allows in C.
 *
 *   floor_uv              prints its port, serves until it is killed
 *   floor_uv --version    prints which libuv it runs with
 *
 * All connections read into one buffer; the packages that a read completed go back from there
 * in one write, without a copy.  A package that is not complete yet is kept aside until the next
 * read puts it in front.
 * What this is not: a server to learn from.  It has no limits, no timeouts and no close. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum {
  HEADER = 2,
  PACKAGE_MOST = HEADER + 65535,
  READ_ROOM = 64 * 1024, /* for what comes in, behind what was kept */
};

struct server {
  uv_tcp_t listener;
  char page[PACKAGE_MOST + READ_ROOM];
};

struct conn {
  uv_tcp_t tcp; /* first */
  struct server *server;
  char *kept; /* the beginning of a package */
  size_t kept_len;
};

/* What the system did not take at once. */
struct rest {
  uv_write_t request; /* first */
  struct conn *conn;
  char bytes[];
};

static void must(int status, const char *what) {
  if (status >= 0) return;
  fprintf(stderr, "floor_uv: %s: %s\n", what, uv_strerror(status));
  exit(EXIT_FAILURE);
}

static void *allocate(size_t size) {
  void *p = malloc(size);
  must(p ? 0 : UV_ENOMEM, "malloc");
  return p;
}

/* ---- one connection -------------------------------------------------------------- */

static void on_close(uv_handle_t *handle) {
  struct conn *c = (struct conn *)(void *)handle;
  free(c->kept);
  free(c);
}

static void conn_close(struct conn *c) {
  uv_handle_t *handle = (uv_handle_t *)&c->tcp;
  if (!uv_is_closing(handle)) uv_close(handle, on_close);
}

static void conn_read(struct conn *c);

static void on_written(uv_write_t *request, int status) {
  struct rest *rest = (struct rest *)(void *)request;
  struct conn *c = rest->conn;
  free(rest);
  if (status == 0)
    conn_read(c);
  else
    conn_close(c);
}

/* Reading stops meanwhile, so that a peer that does not read cannot fill memory. */
static void write_later(struct conn *c, const char *data, size_t n) {
  struct rest *rest = allocate(sizeof *rest + n);
  rest->conn = c;
  memcpy(rest->bytes, data, n);
  uv_buf_t buf = uv_buf_init(rest->bytes, (unsigned)n);
  uv_read_stop((uv_stream_t *)&c->tcp);
  must(uv_write(&rest->request, (uv_stream_t *)&c->tcp, &buf, 1, on_written), "write");
}

/* false: the connection broke. */
static bool conn_write(struct conn *c, char *data, size_t n) {
  uv_buf_t buf = uv_buf_init(data, (unsigned)n);
  int written = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
  if (written < 0 && written != UV_EAGAIN) return false;
  size_t done = written < 0 ? 0 : (size_t)written;
  if (done < n) write_later(c, data + done, n - done);
  return true;
}

static void conn_keep(struct conn *c, const char *data, size_t n) {
  free(c->kept);
  c->kept = n ? allocate(n) : NULL;
  c->kept_len = n;
  if (n) memcpy(c->kept, data, n);
}

/* How many of n bytes are complete packages. */
static size_t complete(const char *p, size_t n) {
  size_t at = 0;
  while (n - at >= HEADER) {
    size_t len = HEADER + ((size_t)(unsigned char)p[at] << 8 | (unsigned char)p[at + 1]);
    if (n - at < len) break;
    at += len;
  }
  return at;
}

/* ---- events ---------------------------------------------------------------------- */

/* libuv reads right after this, so the page is this connection's until on_read returns. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
  struct conn *c = (struct conn *)(void *)handle;
  (void)suggested;
  if (c->kept_len) memcpy(c->server->page, c->kept, c->kept_len);
  *buf = uv_buf_init(c->server->page + c->kept_len, READ_ROOM);
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf) {
  struct conn *c = (struct conn *)(void *)stream;
  char *page = c->server->page;
  (void)buf;
  if (got == 0) return;
  if (got < 0) {
    conn_close(c);
    return;
  }
  size_t n = c->kept_len + (size_t)got, whole = complete(page, n);
  if (n > whole || c->kept) conn_keep(c, page + whole, n - whole);
  if (whole && !conn_write(c, page, whole)) conn_close(c);
}

static void conn_read(struct conn *c) {
  must(uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read), "read");
}

static void on_connection(uv_stream_t *listener, int status) {
  must(status, "listen");
  struct conn *c = allocate(sizeof *c);
  *c = (struct conn){.server = (struct server *)(void *)listener};
  must(uv_tcp_init(listener->loop, &c->tcp), "tcp");
  must(uv_accept(listener, (uv_stream_t *)&c->tcp), "accept");
  uv_tcp_nodelay(&c->tcp, 1);
  conn_read(c);
}

/* ---- the server ------------------------------------------------------------------ */

static void print_port(const struct server *s) {
  struct sockaddr_in at;
  int len = sizeof at;
  must(uv_tcp_getsockname(&s->listener, (struct sockaddr *)&at, &len), "name");
  printf("%d\n", ntohs(at.sin_port));
  fflush(stdout);
}

static int serve(void) {
  uv_loop_t *loop = uv_default_loop();
  struct server *s = allocate(sizeof *s);
  struct sockaddr_in at;
  uv_ip4_addr("127.0.0.1", 0, &at);
  must(uv_tcp_init(loop, &s->listener), "tcp");
  must(uv_tcp_bind(&s->listener, (struct sockaddr *)&at, 0), "bind");
  must(uv_listen((uv_stream_t *)&s->listener, 511, on_connection), "listen");
  print_port(s);
  return uv_run(loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv) {
  if (argc == 1) return serve();
  if (strcmp(argv[1], "--version") != 0) return EXIT_FAILURE;
  puts(uv_version_string());
  return EXIT_SUCCESS;
}
