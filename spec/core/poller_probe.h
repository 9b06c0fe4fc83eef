/* What the tests of readiness share: a link of ours whose peer is a bare descriptor, and reading
 * as a connection does: once for each report, so that a report that is missing shows as bytes that
 * do not come.
 *
 * What this is not: a test. */
#ifndef LUNEWIRE_POLLER_PROBE_H
#define LUNEWIRE_POLLER_PROBE_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "probe.h"

/* A link of ours, and its peer. */
struct side {
  struct world *w;
  struct probe p;
  int fd; /* -1: closed */
};

typedef void scenario(struct side *);

/* ---- ends ------------------------------------------------------------------------ */

static inline void unix_ends(int fd[2]) { CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0); }

static inline int bare_listener(struct sockaddr_in *at) {
  socklen_t len = sizeof *at;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  CHECK_EQ(bind(fd, (struct sockaddr *)at, sizeof *at), 0);
  CHECK_EQ(listen(fd, 64), 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)at, &len), 0);
  return fd;
}

static inline int bare_dial(const struct sockaddr_in *at) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK_EQ(connect(fd, (const struct sockaddr *)at, sizeof *at), 0);
  return fd;
}

static inline void tcp_ends(int fd[2]) {
  struct sockaddr_in at;
  int listener = bare_listener(&at);
  fd[0] = bare_dial(&at);
  fd[1] = accept(listener, NULL, NULL);
  CHECK(fd[1] >= 0);
  close(listener);
}

static inline void side_open(struct side *s, struct world *w, int fd[2]) {
  struct link *l = NULL;
  s->w = w;
  s->fd = fd[1];
  CHECK_EQ(w->ops->adopt(w, fd[0], &l), 0);
  probe_watch(&s->p, l);
}

static inline void peer_gone(struct side *s) {
  if (s->fd >= 0) close(s->fd);
  s->fd = -1;
}

static inline void peer_reset(struct side *s) {
  const struct linger now = {.l_onoff = 1};
  CHECK_EQ(setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
  peer_gone(s);
}

static inline void side_close(struct side *s) {
  if (s->p.link) probe_close(&s->p, true);
  peer_gone(s);
}

static inline void run_over(void (*ends)(int[2]), scenario *run) {
  struct side s;
  int fd[2];
  ends(fd);
  side_open(&s, probe_world(), fd);
  run(&s);
  side_close(&s);
  probe_world_end(s.w);
}

static inline void run_over_both(scenario *run) {
  run_over(tcp_ends, run);
  run_over(unix_ends, run);
}

static inline void peer_says(struct side *s, const char *text, int flags) {
  CHECK_EQ(send(s->fd, text, strlen(text), flags | MSG_NOSIGNAL), strlen(text));
}

/* ---- what is reported ------------------------------------------------------------ */

/* A poll sleeps for as long as it may.  What is under way may still be reported. */
static inline bool is_calm(struct world *w) {
  for (int i = 0; i < 3; i++) w->ops->poll(w, 0);
  double end = w->ops->now(w) + 0.03;
  w->ops->poll(w, end);
  return w->ops->now(w) >= end;
}

/* One read after the next report; ERR_AGAIN: it said so. */
static inline ptrdiff_t reported_read(struct side *s, char *to, size_t n) {
  s->p.seen = 0;
  AWAIT(s->w, s->p.seen & LINK_IN);
  return s->p.seen ? probe_read(&s->p, to, n) : 0;
}

static inline void check_comes(struct side *s, const char *text, int line) {
  char got[64];
  size_t n = 0;
  for (ptrdiff_t r = 1; n < strlen(text) && (r > 0 || r == ERR_AGAIN);) {
    r = reported_read(s, got + n, sizeof got - n);
    n += r > 0 ? (size_t)r : 0;
  }
  test_mem(got, n, text, strlen(text), __FILE__, line, text);
}
#define CHECK_COMES(s, text) check_comes((s), (text), __LINE__)

/* The end, after false reports at most. */
static inline ptrdiff_t reported_end(struct side *s) {
  char c;
  ptrdiff_t r = ERR_AGAIN;
  for (int i = 0; i < 5 && r == ERR_AGAIN; i++) r = reported_read(s, &c, 1);
  return r;
}

#endif
