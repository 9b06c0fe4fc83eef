/* The real world: a libuv loop of its own, sockets made by hand.
 *
 * What this is not: it never uses uv_listen.  Out of descriptors, libuv accepts and closes
 * clients without a word; here the owner of the acceptor learns it and decides. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dgram_uv.h"
#include "link_uv.h"
#include "platform.h"
#include "resolve.h"
#include "unix_socket.h"
#include "world.h"
#include "world_uv_signal.h"

enum {
  ACCEPT_TRIES = 16, /* clients that were gone before they were accepted, in a row */
  RANDOM_POOL = 16   /* numbers fetched from the system at once */
};

struct world_uv {
  struct world world;
  uv_loop_t loop;
  struct poller *poller;
  struct resolver *resolver;
  struct signals signals;
  unsigned open; /* links, acceptors and datagram sockets not yet freed */
  unsigned fresh;
  uint32_t pool[RANDOM_POOL]; /* the first `fresh` are unused */
};

struct acceptor_uv {
  struct acceptor acceptor;
  struct watch watch;
  struct world_uv *world;
  int fd;
  struct listen_opts opts;
  struct addr at;        /* of a Unix socket, as it was given */
  struct unix_file file; /* of a Unix socket */
};

static struct world_uv *world_of(struct world *w) { return (struct world_uv *)(void *)w; }
static struct acceptor_uv *acceptor_of(struct acceptor *a) {
  return (struct acceptor_uv *)(void *)a;
}

/* ---- clock and poll -------------------------------------------------------------- */

static double world_uv_now(struct world *w) {
  (void)w;
  return (double)uv_hrtime() / 1e9;
}

/* Whole milliseconds, not fewer; a time past any life, INFINITY too, is none. */
static int64_t patience(double until, double now) {
  const double never = 9e12;
  double ms = ceil((until - now) * 1000);
  return ms < never ? (int64_t)ms : -1;
}

/* The clock is not looked at where nobody asks for a time. */
static bool world_uv_poll(struct world *base, double until) {
  struct world_uv *w = world_of(base);
  double now = isinf(until) ? 0 : world_uv_now(base);
  bool busy = world_run_posts(base) || until <= now;
  if (!busy && isinf(until) && !poller_alive(w->poller)) return false;
  poller_poll(w->poller, busy ? 0 : patience(until, now));
  return true;
}

/* ---- sockets --------------------------------------------------------------------- */

static int set_flag(int fd, int level, int name, bool on) {
  int value = on;
  return setsockopt(fd, level, name, &value, sizeof value);
}

/* EINTR does not stop a connect. */
static int start_connect(int fd, const struct sockaddr *to, socklen_t len, bool *connecting) {
  *connecting = connect(fd, to, len) != 0;
  if (!*connecting || errno == EINPROGRESS || errno == EINTR) return 0;
  if (errno != EAGAIN) return -errno;
  return to->sa_family == AF_UNIX ? UV_EBUSY : UV_EADDRNOTAVAIL; /* its backlog; our ports */
}

/* A local port that somebody chose may still be in TIME_WAIT. */
static int bind_from(int fd, const struct addr *from) {
  struct sockaddr_storage sa;
  socklen_t len = addr_to_sockaddr(from, &sa);
  if (len == 0) return ERR_INVAL;
  if (from->port != 0) set_flag(fd, SOL_SOCKET, SO_REUSEADDR, true);
  return bind(fd, (struct sockaddr *)&sa, len) == 0 ? 0 : -errno;
}

/* A link over a socket of our own making, which is closed if there is no memory for it. */
static int link_over(struct world_uv *w, int fd, int family, bool connecting, struct link **out) {
  int r = link_uv_open(w->poller, &w->open, fd, family, connecting, out);
  if (r) close(fd);
  return r;
}

static int world_uv_dial(struct world *base, const struct addr *to, const struct addr *from,
                         struct link **out) {
  struct world_uv *w = world_of(base);
  struct sockaddr_storage sa;
  socklen_t len = addr_to_sockaddr(to, &sa);
  bool connecting;
  if (len == 0) return ERR_INVAL;
  int fd = platform_socket(sa.ss_family, SOCK_STREAM);
  if (fd < 0) return -errno;
  int r = from ? bind_from(fd, from) : 0;
  if (r == 0) r = start_connect(fd, (struct sockaddr *)&sa, len, &connecting);
  if (r) {
    close(fd);
    return r;
  }
  return link_over(w, fd, sa.ss_family, connecting, out);
}

/* ---- adopting -------------------------------------------------------------------- */

/* Neither a file nor a datagram socket, and it has a peer, which one that listens has not. */
static int check_connected(int fd, int *family) {
  struct sockaddr_storage sa = {.ss_family = AF_UNSPEC};
  socklen_t len = sizeof sa;
  int type;
  socklen_t type_len = sizeof type;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0) return -errno;
  if (type != SOCK_STREAM) return ERR_PROTOTYPE;
  if (getpeername(fd, (struct sockaddr *)&sa, &len) != 0) return -errno;
  *family = sa.ss_family;
  return 0;
}

static int world_uv_adopt(struct world *base, int fd, struct link **out) {
  struct world_uv *w = world_of(base);
  int family = AF_UNSPEC, r = check_connected(fd, &family);
  if (r == 0) r = link_uv_open(w->poller, &w->open, fd, family, false, out);
  if (r == 0) platform_own(fd);
  return r;
}

/* ---- accepting ------------------------------------------------------------------- */

static int share_port(int fd) {
#ifdef SO_REUSEPORT
  return set_flag(fd, SOL_SOCKET, SO_REUSEPORT, true);
#else
  (void)fd;
  errno = ENOTSUP;
  return -1;
#endif
}

/* Whether an IPv6 socket takes IPv4 too is said either way: the default is the system's. */
static int bind_and_listen(int fd, const struct sockaddr *sa, socklen_t len,
                           const struct listen_opts *opts, struct unix_file *file) {
  if (set_flag(fd, SOL_SOCKET, SO_REUSEADDR, true) != 0 ||
      (opts->reuse_port && share_port(fd) != 0) ||
      (sa->sa_family == AF_INET6 && set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, opts->ipv6_only) != 0))
    return -errno;
  if (PLATFORM_OPTIONS_INHERITED) link_uv_set(fd, opts->settings, opts->settings_n);
  if (sa->sa_family == AF_UNIX) return unix_listen(fd, sa, len, opts->mode, opts->backlog, file);
  return bind(fd, sa, len) == 0 && listen(fd, opts->backlog) == 0 ? 0 : -errno;
}

static struct acceptor_uv *acceptor_of_watch(struct watch *w) {
  return (struct acceptor_uv *)(void *)((char *)w - offsetof(struct acceptor_uv, watch));
}

static void on_acceptable(struct watch *w, unsigned events) {
  struct acceptor_uv *a = acceptor_of_watch(w);
  (void)events;
  a->acceptor.ready(&a->acceptor);
}

static void on_acceptor_closed(struct watch *w) {
  struct acceptor_uv *a = acceptor_of_watch(w);
  a->world->open--;
  free(a);
}

/* fd and its file become the acceptor's, and are gone when this fails. */
static int acceptor_open(struct world_uv *w, int fd, struct unix_file *file,
                         struct acceptor_uv **out) {
  struct acceptor_uv *a = calloc(1, sizeof *a);
  int r = a ? watch_open(w->poller, &a->watch, fd, WATCH_IN) : ERR_NOMEM;
  if (r) {
    free(a);
    close(fd);
    unix_remove(file);
    return r;
  }
  a->watch.ready = on_acceptable;
  a->watch.closed = on_acceptor_closed;
  a->world = w;
  a->fd = fd;
  a->file = *file;
  w->open++;
  *out = a;
  return 0;
}

static int world_uv_listen(struct world *base, const struct addr *at,
                           const struct listen_opts *opts, struct acceptor **out) {
  struct unix_file file = {NULL, 0, 0};
  struct sockaddr_storage sa;
  struct acceptor_uv *a;
  socklen_t len = addr_to_sockaddr(at, &sa);
  if (len == 0) return ERR_INVAL;
  int fd = platform_socket(sa.ss_family, SOCK_STREAM);
  if (fd < 0) return -errno;
  int r = bind_and_listen(fd, (struct sockaddr *)&sa, len, opts, &file);
  if (r) {
    close(fd);
    return r;
  }
  if (file.path) file.path = at->path;
  r = acceptor_open(world_of(base), fd, &file, &a);
  if (r) return r;
  a->at = *at;
  a->opts = *opts;
  *out = &a->acceptor;
  return 0;
}

/* The failures that are a client's, not ours. */
static bool is_client_gone(int error) {
  return error == ECONNABORTED || error == EPROTO || error == EINTR;
}

/* After so many tries there may be more: the listener is dry only when the system says so. */
static int next_client(struct acceptor_uv *a, struct sockaddr *sa, socklen_t room) {
  for (int i = 0; i < ACCEPT_TRIES; i++) {
    socklen_t len = room;
    int fd = platform_accept(a->fd, sa, &len);
    if (fd >= 0) return fd;
    if (errno == EAGAIN) watch_dry(&a->watch, WATCH_IN);
    if (!is_client_gone(errno)) return -errno;
  }
  return ERR_AGAIN;
}

static int world_uv_accept(struct acceptor *base, struct link **out, struct addr *peer) {
  struct acceptor_uv *a = acceptor_of(base);
  struct sockaddr_storage sa;
  int fd = next_client(a, (struct sockaddr *)&sa, sizeof sa);
  if (fd < 0) return fd;
  addr_from_sockaddr(peer, (struct sockaddr *)&sa);
  if (!PLATFORM_OPTIONS_INHERITED) link_uv_set(fd, a->opts.settings, a->opts.settings_n);
  int r = link_over(a->world, fd, sa.ss_family, false, out);
  if (r == 0 && a->at.kind == ADDR_UNIX) link_uv_set_name(*out, &a->at);
  return r;
}

static void world_uv_accept_want(struct acceptor *base, bool wanted) {
  watch_want(&acceptor_of(base)->watch, wanted ? WATCH_IN : 0u);
}

static int world_uv_accept_name(struct acceptor *base, struct addr *at) {
  struct sockaddr_storage sa;
  if (acceptor_of(base)->at.kind == ADDR_UNIX) return 0; /* as it was given */
  socklen_t len = sizeof sa;
  if (getsockname(acceptor_of(base)->fd, (struct sockaddr *)&sa, &len) != 0) return -errno;
  addr_from_sockaddr(at, (struct sockaddr *)&sa);
  return 0;
}

static void world_uv_accept_close(struct acceptor *base) {
  struct acceptor_uv *a = acceptor_of(base);
  unix_remove(&a->file);
  watch_close(&a->watch);
  close(a->fd);
}

static int world_uv_datagrams(struct world *base, const struct addr *at,
                              const struct dgram_opts *opts, struct dgram **out) {
  struct world_uv *w = world_of(base);
  return dgram_uv_open(w->poller, &w->open, at, opts, out);
}

/* ---- names and numbers ----------------------------------------------------------- */

static int world_uv_resolve(struct world *w, const char *host, struct lookup *l) {
  return resolver_ask(world_of(w)->resolver, host, l);
}

static void world_uv_resolve_drop(struct world *w, struct lookup *l) {
  resolver_drop(world_of(w)->resolver, l);
}

static int fetch_random(struct world_uv *w) {
  int r = uv_random(NULL, NULL, w->pool, sizeof w->pool, 0, NULL);
  w->fresh = RANDOM_POOL;
  return r;
}

/* The system's source answered when the world was opened; from then on it does not fail. */
static uint32_t world_uv_random(struct world *base) {
  struct world_uv *w = world_of(base);
  if (w->fresh == 0) fetch_random(w);
  return w->pool[--w->fresh];
}

/* ---- signals --------------------------------------------------------------------- */

static int world_uv_signal_start(struct world *base, struct signal_watch *s, int signum,
                                 bool once) {
  struct world_uv *w = world_of(base);
  poller_touch(w->poller);
  return signals_start(&w->signals, &w->loop, s, signum, once);
}

static void world_uv_signal_stop(struct world *base, struct signal_watch *s) {
  struct world_uv *w = world_of(base);
  poller_touch(w->poller);
  signals_stop(&w->signals, s);
}

/* ---- life ------------------------------------------------------------------------ */

static unsigned world_uv_open_count(struct world *base) {
  struct world_uv *w = world_of(base);
  return w->open + base->pipes + resolver_pending(w->resolver);
}

/* The poller's watches are told that they are closed, then the loop's own handles. */
static void loop_close(struct world_uv *w) {
  while (poller_closes(w->poller) || w->world.first_post) {
    world_run_posts(&w->world);
    poller_poll(w->poller, 0);
  }
  poller_close(w->poller);
  uv_run(&w->loop, UV_RUN_DEFAULT);
  int r = uv_loop_close(&w->loop);
  assert(r == 0 && "something of this world was not closed");
  (void)r;
}

static void world_uv_close(struct world *base) {
  struct world_uv *w = world_of(base);
  resolver_close(w->resolver);
  signals_close(&w->signals);
  loop_close(w);
  free(w);
}

static const struct world_ops world_uv_ops = {
    .now = world_uv_now,
    .poll = world_uv_poll,
    .dial = world_uv_dial,
    .adopt = world_uv_adopt,
    .listen = world_uv_listen,
    .accept = world_uv_accept,
    .accept_want = world_uv_accept_want,
    .accept_name = world_uv_accept_name,
    .accept_close = world_uv_accept_close,
    .datagrams = world_uv_datagrams,
    .resolve = world_uv_resolve,
    .resolve_drop = world_uv_resolve_drop,
    .random = world_uv_random,
    .signal_start = world_uv_signal_start,
    .signal_stop = world_uv_signal_stop,
    .open = world_uv_open_count,
    .close = world_uv_close,
};

static int loop_open(struct world_uv *w) {
  int r = uv_loop_init(&w->loop);
  if (r) return r;
  r = resolver_open(&w->loop, &w->resolver);
  if (r == 0 && (r = poller_open(&w->loop, &w->poller)) != 0) resolver_close(w->resolver);
  if (r) {
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_loop_close(&w->loop);
  }
  return r;
}

int world_uv_open(struct world **out) {
  struct world_uv *w = calloc(1, sizeof *w);
  if (!w) return ERR_NOMEM;
  w->world.ops = &world_uv_ops;
  int r = fetch_random(w);
  if (r == 0) r = loop_open(w);
  if (r) {
    free(w);
    return r;
  }
  *out = &w->world;
  return 0;
}
