/* A link over a stream socket: a watch that reports, and plain system calls.
 *
 * What this is not: it uses nothing of libuv's streams, and makes no sockets. */
#include "link_uv.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "platform.h"

enum phase { CONNECTING, UP, FAILED };

struct link_uv {
  struct link link;
  struct watch watch;
  unsigned *census;
  int fd;
  int end;     /* of reading, sticky: ERR_EOF or a code; 0: not yet */
  int failure; /* the system gave the connection up; it says so only once, so it is kept */
  uint8_t phase;
  bool is_unix;
  bool shut;        /* our end was sent */
  bool lingers;     /* the owner set LINK_LINGER to some seconds */
  const char *path; /* this end's, of an accepted Unix socket, or NULL */
};

_Static_assert((int)LINK_IN == (int)WATCH_IN && (int)LINK_OUT == (int)WATCH_OUT,
               "the watch's events pass as the link's");

static struct link_uv *uv_of(struct link *l) { return (struct link_uv *)(void *)l; }
static struct link_uv *uv_of_watch(struct watch *w) {
  return (struct link_uv *)(void *)((char *)w - offsetof(struct link_uv, watch));
}

/* ---- readiness ------------------------------------------------------------------- */

/* EAGAIN is what connect() says without a free port; here it would mean "still connecting". */
static int connect_code(int error) { return error == EAGAIN ? UV_EADDRNOTAVAIL : -error; }

static void finish_connect(struct link_uv *u) {
  int error = 0;
  socklen_t len = sizeof error;
  if (getsockopt(u->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) error = errno;
  u->phase = error ? FAILED : UP;
  u->failure = connect_code(error);
}

static void on_watch(struct watch *w, unsigned events) {
  struct link_uv *u = uv_of_watch(w);
  if (u->phase == CONNECTING) finish_connect(u);
  u->link.ready(&u->link, events);
}

static void link_uv_want(struct link *l, unsigned events) { watch_want(&uv_of(l)->watch, events); }

/* ---- bytes ----------------------------------------------------------------------- */

static int link_uv_state(struct link *l) {
  struct link_uv *u = uv_of(l);
  if (u->phase == UP) return 0;
  return u->phase == FAILED ? u->failure : ERR_AGAIN;
}

/* The system's own "timed out" is not one of our deadlines. */
static int stream_code(int error) { return error == ETIMEDOUT ? ERR_ABORTED : -error; }

static ptrdiff_t read_end(struct link_uv *u) { return u->end == ERR_EOF ? 0 : u->end; }

/* A read from a Unix socket stops behind bytes with which descriptors were sent; we drop them. */
static ssize_t receive_beside(struct link_uv *u, void *to, size_t n) {
  struct iovec v = {.iov_base = to, .iov_len = n};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
  ssize_t r = recvmsg(u->fd, &m, 0);
  if (r >= 0 && (m.msg_flags & MSG_CTRUNC)) watch_distrust(&u->watch);
  return r;
}

static ptrdiff_t link_uv_read(struct link *l, void *to, size_t n) {
  struct link_uv *u = uv_of(l);
  ssize_t r;
  if (u->phase != UP) return link_uv_state(l);
  if (u->end) return read_end(u);
  do r = u->is_unix ? receive_beside(u, to, n) : recv(u->fd, to, n, 0);
  while (r < 0 && errno == EINTR);
  if (r > 0) {
    if ((size_t)r < n) watch_short(&u->watch);
    return r;
  }
  if (r < 0 && errno == EAGAIN) {
    watch_dry(&u->watch, WATCH_IN);
    return ERR_AGAIN;
  }
  /* An error that a write was told already looks like an orderly end from here. */
  if (r < 0 && !u->failure) u->failure = stream_code(errno);
  u->end = u->failure ? u->failure : ERR_EOF;
  return read_end(u);
}

static size_t total_of(const struct iovec *v, int count) {
  size_t total = 0;
  for (int i = 0; i < count; i++) total += v[i].iov_len;
  return total;
}

/* One piece is the usual case, and the system has less to do for it. */
static ssize_t send_pieces(int fd, const struct iovec *v, int count) {
  if (count == 1) return send(fd, v->iov_base, v->iov_len, PLATFORM_SEND_FLAGS);
  struct msghdr m = {.msg_iov = (struct iovec *)v};
  m.msg_iovlen = (size_t)count;
  return sendmsg(fd, &m, PLATFORM_SEND_FLAGS);
}

static ptrdiff_t link_uv_write(struct link *l, const struct iovec *v, int count) {
  struct link_uv *u = uv_of(l);
  ssize_t r;
  if (u->phase != UP) return link_uv_state(l);
  if (u->failure) return u->failure;
  if (count > IOV_MAX) count = IOV_MAX; /* what is behind does not make a write a short one */
  do r = send_pieces(u->fd, v, count);
  while (r < 0 && errno == EINTR);
  int error = r < 0 ? errno : 0;
  if (error == EPIPE) return ERR_PIPE; /* ready for ever: whoever asks is told at once */
  if (error && error != EAGAIN) return u->failure = stream_code(error);
  if (r < (ssize_t)total_of(v, count)) watch_dry(&u->watch, WATCH_OUT);
  return error ? ERR_AGAIN : r;
}

/* ---- ends ------------------------------------------------------------------------ */

/* ENOTCONN: the connection broke, unseen so far.  The end did not reach the peer. */
static int link_uv_shut(struct link *l) {
  struct link_uv *u = uv_of(l);
  if (shutdown(u->fd, SHUT_WR) == 0) {
    u->shut = true;
    return 0;
  }
  if (errno == ENOTCONN) return u->failure ? u->failure : ERR_PIPE;
  return -errno;
}

/* The FIN counts as one byte until it is acknowledged, and is none of ours. */
static size_t link_uv_in_flight(struct link *l) {
  const struct link_uv *u = uv_of(l);
  size_t n = platform_in_flight(u->fd);
  return n > 0 && u->shut ? n - 1 : n;
}

static int set_linger(int fd, bool on, int seconds) {
  struct linger how = {.l_onoff = on, .l_linger = seconds};
  return setsockopt(fd, SOL_SOCKET, SO_LINGER, &how, sizeof how) == 0 ? 0 : -errno;
}

static void on_closed(struct watch *w) {
  struct link_uv *u = uv_of_watch(w);
  if (u->link.closed) u->link.closed(&u->link);
  --*u->census;
  free(u);
}

/* With a linger time close() blocks, even on a socket that does not block; the owner of the
 * link has done its own waiting. */
static void link_uv_close(struct link *l, bool reset) {
  struct link_uv *u = uv_of(l);
  if (reset || u->lingers) set_linger(u->fd, reset, 0);
  watch_close(&u->watch);
  close(u->fd);
  u->fd = -1;
}

/* ---- facts ----------------------------------------------------------------------- */

static int link_uv_name(struct link *l, bool peer, struct addr *a) {
  struct sockaddr_storage sa;
  socklen_t len = sizeof sa;
  int fd = uv_of(l)->fd;
  int r = (peer ? getpeername : getsockname)(fd, (struct sockaddr *)&sa, &len);
  if (r != 0) return -errno;
  addr_from_sockaddr(a, (struct sockaddr *)&sa);
  if (a->kind == ADDR_UNIX && !peer) a->path = uv_of(l)->path;
  return 0;
}

void link_uv_set_name(struct link *l, const struct addr *a) { uv_of(l)->path = a->path; }

static int option_linger(struct link_uv *u, bool set, int *value) {
  struct linger how;
  socklen_t len = sizeof how;
  if (set) {
    u->lingers = *value > 0;
    return set_linger(u->fd, *value >= 0, *value < 0 ? 0 : *value);
  }
  if (getsockopt(u->fd, SOL_SOCKET, SO_LINGER, &how, &len) != 0) return -errno;
  *value = how.l_onoff ? how.l_linger : -1;
  return 0;
}

struct option_name {
  int level, name;
};

static const struct option_name names[] = {
    [LINK_NODELAY] = {IPPROTO_TCP, TCP_NODELAY},
    [LINK_KEEPALIVE] = {SOL_SOCKET, SO_KEEPALIVE},
    [LINK_KEEP_IDLE] = {IPPROTO_TCP, TCP_KEEPIDLE},
    [LINK_KEEP_INTERVAL] = {IPPROTO_TCP, TCP_KEEPINTVL},
    [LINK_KEEP_COUNT] = {IPPROTO_TCP, TCP_KEEPCNT},
    [LINK_RECV_BUFFER] = {SOL_SOCKET, SO_RCVBUF},
    [LINK_SEND_BUFFER] = {SOL_SOCKET, SO_SNDBUF},
    [LINK_TOS] = {IPPROTO_IP, IP_TOS},
};

void link_uv_set(int fd, const struct link_setting *list, int n) {
  for (int i = 0; i < n; i++) {
    struct option_name o = names[list[i].what];
    setsockopt(fd, o.level, o.name, &list[i].value, sizeof list[i].value);
  }
}

/* IPv6 has a name of its own for the type of service; other transports have none. */
static struct option_name option_name(struct link *l, enum link_option what) {
  struct addr local = {.kind = ADDR_NONE};
  if (what != LINK_TOS || link_uv_name(l, false, &local) != 0 || local.kind != ADDR_IP6)
    return names[what];
  return (struct option_name){IPPROTO_IPV6, IPV6_TCLASS};
}

static int option_plain(struct link *l, enum link_option what, bool set, int *value) {
  struct option_name o = option_name(l, what);
  socklen_t len = sizeof *value;
  int fd = uv_of(l)->fd;
  int r = set ? setsockopt(fd, o.level, o.name, value, len)
              : getsockopt(fd, o.level, o.name, value, &len);
  if (r == 0) return 0;
  return errno == EOPNOTSUPP || errno == ENOPROTOOPT ? ERR_NOTSUP : -errno;
}

static int link_uv_option(struct link *l, enum link_option what, bool set, int *value) {
  if (what == LINK_LINGER) return option_linger(uv_of(l), set, value);
  if (what != LINK_FD) return option_plain(l, what, set, value);
  if (set) return ERR_NOTSUP;
  *value = uv_of(l)->fd;
  return 0;
}

/* ---- beginning ------------------------------------------------------------------- */

static const struct link_ops link_uv_ops = {
    .state = link_uv_state,
    .read = link_uv_read,
    .write = link_uv_write,
    .want = link_uv_want,
    .shut = link_uv_shut,
    .in_flight = link_uv_in_flight,
    .close = link_uv_close,
    .name = link_uv_name,
    .option = link_uv_option,
};

int link_uv_open(struct poller *p, unsigned *census, int fd, int family, bool connecting,
                 struct link **out) {
  struct link_uv *u = calloc(1, sizeof *u);
  int r = u ? watch_open(p, &u->watch, fd, connecting ? WATCH_OUT : WATCH_IN) : ERR_NOMEM;
  if (r) {
    free(u);
    return r;
  }
  u->link.ops = &link_uv_ops;
  u->link.outside = true;
  u->watch.ready = on_watch;
  u->watch.closed = on_closed;
  u->census = census;
  u->fd = fd;
  u->is_unix = family == AF_UNIX;
  u->phase = connecting ? CONNECTING : UP;
  ++*census;
  *out = &u->link;
  return 0;
}
