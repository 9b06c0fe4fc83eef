/* An echo server on epoll, the loop of the floors: as few system calls and copies as there can
 * be.  A connection that is readable is read once into the page, and the messages that this
 * completed go back in one write from there.  While the peer does not take them, nothing is read
 * from it.
 *
 * The file that includes this says how bytes come and go, in the functions declared first.
 * What this is not: a server to learn from.  It has no timeouts, and ends when descriptors do. */
#ifndef BENCH_EPOLL_ECHO_H
#define BENCH_EPOLL_ECHO_H

#include "queue.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, CLOSED = -1, AGAIN = -2 };

struct conn {
  int fd;
  bool blocked; /* waits until the system takes more */
  bool ending;  /* it has had all its messages */
  void *session;
  struct input in;
  struct output out;
};

static void transport_open(struct conn *c);
/* Reads up to n bytes -> their number; 0: the peer's end; AGAIN; CLOSED: it broke. */
static ptrdiff_t transport_read(struct conn *c, char *at, size_t n);
/* -> how many of n bytes are gone; AGAIN: none, call again with all of them; CLOSED: it broke. */
static ptrdiff_t transport_write(struct conn *c, const char *at, size_t n);
/* There may be more to read although the socket is not readable. */
static bool transport_pending(const struct conn *c);
/* Reading goes on once the socket is writable. */
static bool transport_wants_write(const struct conn *c);
static void transport_close(struct conn *c);

struct server {
  int epoll, listener;
  const struct framing *framing;
  char page[PAGE];
};

static void watch(const struct server *s, int how, int fd, uint32_t events, void *data) {
  struct epoll_event e = {.events = events, .data.ptr = data};
  if (epoll_ctl(s->epoll, how, fd, &e) != 0) die("epoll_ctl: %s", strerror(errno));
}

/* ---- one connection -------------------------------------------------------------- */

/* Closing the descriptor takes it from epoll, too. */
static void conn_close(struct conn *c) {
  transport_close(c);
  close(c->fd);
  free(c->in.kept);
  free(c->out.memory);
  free(c);
}

static void conn_watch(const struct server *s, struct conn *c, bool blocked) {
  if (blocked == c->blocked) return;
  watch(s, EPOLL_CTL_MOD, c->fd, blocked ? EPOLLOUT : EPOLLIN, c);
  c->blocked = blocked;
}

/* Writes what is kept -> false: the connection broke. */
static bool conn_flush(struct conn *c) {
  ptrdiff_t n = transport_write(c, c->out.memory + c->out.at, c->out.len - c->out.at);
  if (n == CLOSED) return false;
  if (n > 0) c->out.at += (size_t)n;
  if (c->out.at == c->out.len) output_clear(&c->out);
  return true;
}

/* The memory is that of the n bytes at base, or NULL -> false: the connection broke. */
static bool conn_write(struct conn *c, char *memory, const char *base, size_t n) {
  ptrdiff_t sent = transport_write(c, base, n);
  size_t done = sent > 0 ? (size_t)sent : 0;
  if (sent != CLOSED && done < n)
    output_keep(&c->out, memory, base, done, n);
  else
    free(memory);
  return sent != CLOSED;
}

/* -> false: the connection is over. */
static bool conn_echo(const struct server *s, struct conn *c, char *base, size_t n) {
  struct cut cut = framing_cut(s->framing, base, n, c->in.len);
  if (!cut.sound) return false;
  c->ending = s->framing->once && cut.whole;
  char *memory = input_keep(&c->in, base, n, cut);
  return !cut.whole || conn_write(c, memory, base, cut.whole);
}

/* -> 1: read and answered; 0: there was nothing; CLOSED: it is over. */
static int conn_read(struct server *s, struct conn *c) {
  char *base = input_base(&c->in, s->page);
  ptrdiff_t got = transport_read(c, base + c->in.len, input_room(&c->in));
  if (got == AGAIN) return 0;
  if (got <= 0 || !conn_echo(s, c, base, c->in.len + (size_t)got)) return CLOSED;
  return 1;
}

/* -> false: it is over. */
static bool conn_serve(struct server *s, struct conn *c) {
  if (c->out.memory && !conn_flush(c)) return false;
  while (!c->out.memory) {
    if (c->ending) return false;
    int more = conn_read(s, c);
    if (more == CLOSED) return false;
    if (more == 0 || (!transport_pending(c) && !c->ending)) break;
  }
  conn_watch(s, c, c->out.memory != NULL || transport_wants_write(c));
  return true;
}

/* ---- all of them ----------------------------------------------------------------- */

static void server_accept(const struct server *s) {
  int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED)) return;
  if (fd < 0) die("accept: %s", strerror(errno));
  struct conn *c = allocate(sizeof *c);
  *c = (struct conn){.fd = fd};
  transport_open(c);
  watch(s, EPOLL_CTL_ADD, fd, EPOLLIN, c);
}

static void server_turn(struct server *s) {
  struct epoll_event events[EVENTS];
  int n = epoll_wait(s->epoll, events, EVENTS, -1);
  if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
  for (int i = 0; i < n; i++) {
    struct conn *c = events[i].data.ptr;
    if (!c)
      server_accept(s);
    else if (!conn_serve(s, c))
      conn_close(c);
  }
}

/* -> a listening socket on the port that it has printed. */
static int listener_open(void) {
  struct sockaddr_in at = any_port();
  socklen_t len = sizeof at;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit it */
  if (bind(fd, (struct sockaddr *)&at, len) != 0 || listen(fd, BACKLOG) != 0)
    die("listen: %s", strerror(errno));
  getsockname(fd, (struct sockaddr *)&at, &len);
  print_port(&at);
  return fd;
}

__attribute__((noreturn)) static void serve(const struct framing *framing) {
  struct server *s = allocate(sizeof *s);
  signal(SIGPIPE, SIG_IGN);
  s->framing = framing;
  s->epoll = epoll_create1(EPOLL_CLOEXEC);
  s->listener = listener_open();
  watch(s, EPOLL_CTL_ADD, s->listener, EPOLLIN, NULL);
  for (;;) server_turn(s);
}

#endif
