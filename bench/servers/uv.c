/* What lunewire is measured against: the plainest fast echo server that libuv allows in C.
 *
 *   uv MODE         length, line, bulk, once, udp; prints its port, serves until it is killed
 *   uv --version    prints which libuv it runs with
 *
 * All connections read into one page; the messages that a read completed go back from there
 * in one write, without a copy.
 * What this is not: a server to learn from.  It has no timeouts, and ends when descriptors do. */
#include "queue.h"
#include <uv.h>

struct server {
  uv_tcp_t listener; /* first */
  const struct framing *framing;
  char page[PAGE];
};

struct conn {
  uv_tcp_t tcp; /* first */
  struct server *server;
  struct input in;
};

/* What the system did not take at once. */
struct rest {
  uv_write_t request; /* first */
  struct conn *conn;
  struct output out;
};

static void must(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

/* ---- one connection -------------------------------------------------------------- */

static void on_close(uv_handle_t *handle) {
  struct conn *c = (struct conn *)(void *)handle;
  free(c->in.kept);
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
  output_clear(&rest->out);
  free(rest);
  if (status < 0 || c->server->framing->once)
    conn_close(c);
  else
    conn_read(c);
}

/* Reading stops meanwhile, so that a peer that does not read cannot fill memory. */
static void write_later(struct conn *c, struct output out) {
  struct rest *rest = allocate(sizeof *rest);
  *rest = (struct rest){.conn = c, .out = out};
  uv_buf_t buf = uv_buf_init(out.memory + out.at, (unsigned)(out.len - out.at));
  uv_read_stop((uv_stream_t *)&c->tcp);
  must(uv_write(&rest->request, (uv_stream_t *)&c->tcp, &buf, 1, on_written), "write");
}

/* The memory is that of the n bytes at base, or NULL. */
static void conn_write(struct conn *c, char *memory, char *base, size_t n) {
  uv_buf_t buf = uv_buf_init(base, (unsigned)n);
  int written = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
  size_t done = written > 0 ? (size_t)written : 0;
  bool broken = written < 0 && written != UV_EAGAIN;
  if (!broken && done < n) {
    struct output out;
    output_keep(&out, memory, base, done, n);
    write_later(c, out);
    return;
  }
  free(memory);
  if (broken || c->server->framing->once) conn_close(c);
}

/* ---- events ---------------------------------------------------------------------- */

/* libuv reads right after this, so the page is this connection's until on_read returns. */
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
  struct conn *c = (struct conn *)(void *)handle;
  (void)suggested;
  char *base = input_base(&c->in, c->server->page);
  *buf = uv_buf_init(base + c->in.len, (unsigned)input_room(&c->in));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf) {
  struct conn *c = (struct conn *)(void *)stream;
  if (got == 0) return;
  if (got < 0) {
    conn_close(c);
    return;
  }
  char *base = buf->base - c->in.len;
  size_t n = c->in.len + (size_t)got;
  struct cut cut = framing_cut(c->server->framing, base, n, c->in.len);
  if (!cut.sound) {
    conn_close(c);
    return;
  }
  char *memory = input_keep(&c->in, base, n, cut);
  if (cut.whole) conn_write(c, memory, base, cut.whole);
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

static int serve(const struct framing *framing) {
  uv_loop_t *loop = uv_default_loop();
  struct server *s = allocate(sizeof *s);
  struct sockaddr_in at = any_port();
  int len = sizeof at;
  s->framing = framing;
  must(uv_tcp_init(loop, &s->listener), "tcp");
  must(uv_tcp_bind(&s->listener, (struct sockaddr *)&at, 0), "bind");
  must(uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection), "listen");
  must(uv_tcp_getsockname(&s->listener, (struct sockaddr *)&at, &len), "name");
  print_port(&at);
  return uv_run(loop, UV_RUN_DEFAULT);
}

/* ---- datagrams ------------------------------------------------------------------- */

enum { DATAGRAMS = 20, DATAGRAM_MOST = 64 * 1024 }; /* libuv takes at most 20 in one call */

/* An echo that the system did not take at once. */
struct echo {
  uv_udp_send_t request; /* first */
  char bytes[];
};

static void on_datagram_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
  static char page[DATAGRAMS * DATAGRAM_MOST];
  (void)handle, (void)suggested;
  *buf = uv_buf_init(page, sizeof page);
}

static void datagrams_read(uv_udp_t *udp);

static void on_sent(uv_udp_send_t *request, int status) {
  uv_udp_t *udp = request->handle;
  (void)status; /* a datagram may be lost */
  free(request);
  if (uv_udp_get_send_queue_count(udp) == 0) datagrams_read(udp);
}

static void send_later(uv_udp_t *udp, const char *data, size_t n, const struct sockaddr *to) {
  struct echo *echo = allocate(sizeof *echo + n);
  memcpy(echo->bytes, data, n);
  uv_buf_t buf = uv_buf_init(echo->bytes, (unsigned)n);
  must(uv_udp_send(&echo->request, udp, &buf, 1, to, on_sent), "send");
}

/* Without a sender it is the end of a batch: only there can receiving stop without loss. */
static void on_datagram(uv_udp_t *udp, ssize_t got, const uv_buf_t *buf,
                        const struct sockaddr *from, unsigned flags) {
  (void)flags;
  if (!from && uv_udp_get_send_queue_count(udp) > 0) uv_udp_recv_stop(udp);
  if (got < 0 || !from) return;
  uv_buf_t echo = uv_buf_init(buf->base, (unsigned)got);
  if (uv_udp_try_send(udp, &echo, 1, from) == UV_EAGAIN)
    send_later(udp, buf->base, (size_t)got, from);
}

static void datagrams_read(uv_udp_t *udp) {
  int status = uv_udp_recv_start(udp, on_datagram_room, on_datagram);
  if (status != UV_EALREADY) must(status, "receive");
}

static int serve_datagrams(void) {
  uv_loop_t *loop = uv_default_loop();
  uv_udp_t udp;
  struct sockaddr_in at = any_port();
  int len = sizeof at;
  must(uv_udp_init_ex(loop, &udp, AF_INET | UV_UDP_RECVMMSG), "udp");
  must(uv_udp_bind(&udp, (struct sockaddr *)&at, 0), "bind");
  must(uv_udp_getsockname(&udp, (struct sockaddr *)&at, &len), "name");
  datagrams_read(&udp);
  print_port(&at);
  return uv_run(loop, UV_RUN_DEFAULT);
}

/* ---- the program ----------------------------------------------------------------- */

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  const struct framing *framing = framing_of(mode);
  if (strcmp(mode, "--version") == 0) return printf("libuv %s\n", uv_version_string()) < 0;
  if (strcmp(mode, "udp") == 0) return serve_datagrams();
  if (!framing || strcmp(mode, "tls") == 0) return unsupported();
  return serve(framing);
}
