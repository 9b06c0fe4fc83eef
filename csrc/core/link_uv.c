/* A link over a stream socket: a uv_poll_t that reports, and plain system calls.
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

enum phase { CONNECTING, UP, FAILED, CLOSED, KEPT };

struct link_uv {
  struct link link;
  uv_poll_t poll;
  struct links_uv *all;
  int fd;
  int end;     /* of reading, sticky: ERR_EOF or a code; 0: not yet */
  int failure; /* the system gave the connection up; it says so only once, so it is kept */
  uint8_t phase;
  uint8_t wanted;
  bool shut;        /* our end was sent */
  bool lingers;     /* the owner set LINK_LINGER to some seconds */
  union {
    const char *path;            /* this end's, of an accepted Unix socket, or NULL */
    struct link_uv *next_closed; /* closed: the next one whose owner is still to be told */
  };
};

_Static_assert((int)LINK_IN == (int)UV_READABLE && (int)LINK_OUT == (int)UV_WRITABLE,
               "libuv's events pass as the link's");

static struct link_uv *uv_of(struct link *l) { return (struct link_uv *)(void *)l; }

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

static void on_poll(uv_poll_t *handle, int status, int events);

/* Costs two system calls, one now and one in the next poll. */
static void arm(struct link_uv *u) {
  if (u->wanted)
    uv_poll_start(&u->poll, u->wanted, on_poll);
  else
    uv_poll_stop(&u->poll);
}

/* status < 0 is libuv's word for an error on the socket: it has stopped the handle, though
 * there may be bytes before the error.  It is armed again, so that reports go on until the
 * owner has read that far and wants no more. */
static void on_poll(uv_poll_t *handle, int status, int events) {
  struct link_uv *u = handle->data;
  unsigned seen = status < 0 ? u->wanted : (unsigned)events & u->wanted;
  if (status < 0) arm(u);
  if (u->phase == CONNECTING) finish_connect(u);
  if (seen) u->link.ready(&u->link, seen);
}

static void link_uv_want(struct link *l, unsigned events) {
  struct link_uv *u = uv_of(l);
  if (u->wanted == events) return;
  u->wanted = (uint8_t)events;
  arm(u);
}

/* ---- bytes ----------------------------------------------------------------------- */

static int link_uv_state(struct link *l) {
  struct link_uv *u = uv_of(l);
  if (u->phase == UP) return 0;
  return u->phase == FAILED ? u->failure : ERR_AGAIN;
}

/* The system's own "timed out" is not one of our deadlines. */
static int stream_code(int error) { return error == ETIMEDOUT ? ERR_ABORTED : -error; }

static ptrdiff_t read_end(struct link_uv *u) { return u->end == ERR_EOF ? 0 : u->end; }

static ptrdiff_t link_uv_read(struct link *l, void *to, size_t n) {
  struct link_uv *u = uv_of(l);
  ssize_t r;
  if (u->phase != UP) return link_uv_state(l);
  if (u->end) return read_end(u);
  do r = recv(u->fd, to, n, 0);
  while (r < 0 && errno == EINTR);
  if (r > 0) return r;
  if (r < 0 && errno == EAGAIN) return ERR_AGAIN;
  /* An error that a write was told already looks like an orderly end from here. */
  if (r < 0 && !u->failure) u->failure = stream_code(errno);
  u->end = u->failure ? u->failure : ERR_EOF;
  return read_end(u);
}

static ptrdiff_t link_uv_write(struct link *l, const struct iovec *v, int count) {
  struct link_uv *u = uv_of(l);
  struct msghdr m = {.msg_iov = (struct iovec *)v};
  ssize_t r;
  if (u->phase != UP) return link_uv_state(l);
  if (u->failure) return u->failure;
  m.msg_iovlen = (size_t)(count < IOV_MAX ? count : IOV_MAX);
  do r = sendmsg(u->fd, &m, PLATFORM_SEND_FLAGS);
  while (r < 0 && errno == EINTR);
  if (r >= 0) return r;
  if (errno == EAGAIN) return ERR_AGAIN;
  if (errno == EPIPE) return ERR_PIPE;
  return u->failure = stream_code(errno);
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

static void tell_closed(struct link_uv *u) {
  u->all->open--;
  if (u->link.closed) u->link.closed(&u->link);
}

static void on_close(uv_handle_t *handle) {
  tell_closed(handle->data);
  free(handle->data);
}

/* false: there is one for this descriptor already, or it is too high. */
static bool keep(struct link_uv *u) {
  struct links_uv *s = u->all;
  if (u->fd >= LINKS_KEPT || s->kept[u->fd]) return false;
  uv_poll_stop(&u->poll);
  s->kept[u->fd] = u;
  u->next_closed = NULL;
  *(s->last_closed ? &s->last_closed->next_closed : &s->first_closed) = u;
  s->last_closed = u;
  u->phase = CLOSED;
  return true;
}

void links_uv_report(struct links_uv *s) {
  for (struct link_uv *u; (u = s->first_closed);) {
    s->first_closed = u->next_closed;
    if (!s->first_closed) s->last_closed = NULL;
    tell_closed(u);
    u->phase = KEPT;
  }
}

/* libuv lets go of a handle by the number of its descriptor, so that is done before the close, or
 * when no other handle of the loop can have it any more.
 * With a linger time close() blocks, even on a socket that does not block; the owner of the
 * link has done its own waiting. */
static void link_uv_close(struct link *l, bool reset) {
  struct link_uv *u = uv_of(l);
  if (reset || u->lingers) set_linger(u->fd, reset, 0);
  u->wanted = 0;
  if (!keep(u)) uv_close((uv_handle_t *)&u->poll, on_close);
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

/* The one that was kept for this descriptor, or NULL. */
static struct link_uv *take_kept(struct links_uv *s, int fd) {
  struct link_uv *u = fd < LINKS_KEPT ? s->kept[fd] : NULL;
  if (!u || u->phase != KEPT) return NULL;
  s->kept[fd] = NULL;
  return u;
}

static int new_link(struct links_uv *s, int fd, struct link_uv **out) {
  struct link_uv *u = malloc(sizeof *u);
  int r = u ? uv_poll_init(s->loop, &u->poll, fd) : ERR_NOMEM;
  if (r) {
    free(u);
    return r;
  }
  u->poll.data = u;
  *out = u;
  return 0;
}

static void begin(struct links_uv *s, struct link_uv *u, int fd, enum phase phase) {
  u->link = (struct link){.ops = &link_uv_ops, .outside = true};
  u->all = s;
  u->fd = fd;
  u->end = u->failure = 0;
  u->phase = (uint8_t)phase;
  u->wanted = 0;
  u->shut = u->lingers = false;
  u->path = NULL;
  s->open++;
}

int link_uv_open(struct links_uv *s, int fd, bool connecting, struct link **out) {
  struct link_uv *u = take_kept(s, fd);
  int r = u ? 0 : new_link(s, fd, &u);
  if (r) return r;
  begin(s, u, fd, connecting ? CONNECTING : UP);
  *out = &u->link;
  return 0;
}

/* Not over a kept handle: libuv makes sure that the socket does not block. */
int link_uv_adopt(struct links_uv *s, int fd, struct link **out) {
  struct link_uv *u;
  int r = new_link(s, fd, &u);
  if (r) return r;
  begin(s, u, fd, UP);
  *out = &u->link;
  return 0;
}

static void on_kept_closed(uv_handle_t *handle) { free(handle->data); }

void links_uv_fini(struct links_uv *s) {
  links_uv_report(s);
  for (int fd = 0; fd < LINKS_KEPT; fd++)
    if (s->kept[fd]) uv_close((uv_handle_t *)&s->kept[fd]->poll, on_kept_closed);
}
