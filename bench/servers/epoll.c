/* The floor: what the system allows a server in C with one thread.
 *
 *   epoll MODE         length, line, bulk, once, udp; prints its port, serves until it is killed
 *   epoll --version    prints the system that it runs on
 *
 * What this is not: a server to learn from; see epoll_echo.h. */
#include "epoll_echo.h"
#include <sys/utsname.h>

static void transport_open(struct conn *c) { c->session = NULL; }

static void transport_close(struct conn *c) { (void)c; }

static bool transport_pending(const struct conn *c) { return (void)c, false; }

static bool transport_wants_write(const struct conn *c) { return (void)c, false; }

static ptrdiff_t transport_result(ssize_t n) {
  if (n >= 0) return n;
  return errno == EAGAIN || errno == EINTR ? AGAIN : CLOSED;
}

static ptrdiff_t transport_read(struct conn *c, char *at, size_t n) {
  return transport_result(recv(c->fd, at, n, 0));
}

static ptrdiff_t transport_write(struct conn *c, const char *at, size_t n) {
  return transport_result(send(c->fd, at, n, MSG_NOSIGNAL));
}

/* ---- datagrams ------------------------------------------------------------------- */

enum { DATAGRAMS = 64, DATAGRAM_MOST = 64 * 1024 };

/* As many datagrams as are there in one call, and their echoes in another. */
struct batch {
  struct mmsghdr message[DATAGRAMS];
  struct iovec piece[DATAGRAMS];
  struct sockaddr_in peer[DATAGRAMS];
  char bytes[DATAGRAMS][DATAGRAM_MOST];
};

static void batch_reset(struct batch *b) {
  for (size_t i = 0; i < DATAGRAMS; i++) {
    b->piece[i] = (struct iovec){b->bytes[i], DATAGRAM_MOST};
    b->message[i].msg_hdr = (struct msghdr){.msg_name = &b->peer[i],
                                            .msg_namelen = sizeof b->peer[i],
                                            .msg_iov = &b->piece[i],
                                            .msg_iovlen = 1};
  }
}

/* The echo of a datagram that the system refuses is lost, as datagrams may be. */
static void batch_send(int fd, struct batch *b, int count) {
  for (int i = 0; i < count; i++) b->piece[i].iov_len = b->message[i].msg_len;
  for (int at = 0; at < count;) {
    int sent = sendmmsg(fd, b->message + at, (unsigned)(count - at), 0);
    at += sent > 0 ? sent : 1;
  }
}

static int datagram_socket(void) {
  struct sockaddr_in at = any_port();
  socklen_t len = sizeof at;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (bind(fd, (struct sockaddr *)&at, len) != 0) die("bind: %s", strerror(errno));
  getsockname(fd, (struct sockaddr *)&at, &len);
  print_port(&at);
  return fd;
}

/* One socket needs no epoll: the call waits for the first datagram only. */
__attribute__((noreturn)) static void serve_datagrams(void) {
  struct batch *b = allocate(sizeof *b);
  int fd = datagram_socket();
  for (;;) {
    batch_reset(b);
    int count = recvmmsg(fd, b->message, DATAGRAMS, MSG_WAITFORONE, NULL);
    if (count < 0 && errno != EINTR) die("recvmmsg: %s", strerror(errno));
    batch_send(fd, b, count);
  }
}

/* ---- the program ----------------------------------------------------------------- */

static int print_version(void) {
  struct utsname name;
  uname(&name);
  printf("epoll of %s %s\n", name.sysname, name.release);
  return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  const struct framing *framing = framing_of(mode);
  if (strcmp(mode, "--version") == 0) return print_version();
  if (strcmp(mode, "udp") == 0) serve_datagrams();
  if (!framing || strcmp(mode, "tls") == 0) return unsupported();
  serve(framing);
}
