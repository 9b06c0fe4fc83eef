/* A UDP socket: a watch that reports, and plain system calls.
 *
 * What this is not: it uses nothing of libuv's own UDP, which pushes datagrams at its owner
 * instead of leaving them with the system until somebody wants one. */
#include "dgram_uv.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "platform.h"

struct dgram_uv {
  struct dgram dgram;
  struct watch watch;
  unsigned *census;
  int fd;
  bool ip6;  /* an IPv6 socket ... */
  bool dual; /* ... that takes IPv4 as well */
};

_Static_assert((int)DGRAM_IN == (int)WATCH_IN && (int)DGRAM_OUT == (int)WATCH_OUT,
               "the watch's events pass as the socket's");

static struct dgram_uv *uv_of(struct dgram *d) { return (struct dgram_uv *)(void *)d; }
static struct dgram_uv *uv_of_watch(struct watch *w) {
  return (struct dgram_uv *)(void *)((char *)w - offsetof(struct dgram_uv, watch));
}

/* ---- readiness ------------------------------------------------------------------- */

static void on_watch(struct watch *w, unsigned events) {
  struct dgram_uv *u = uv_of_watch(w);
  u->dgram.ready(&u->dgram, events);
}

static void dgram_uv_want(struct dgram *d, unsigned events) {
  watch_want(&uv_of(d)->watch, events);
}

/* ---- addresses ------------------------------------------------------------------- */

static bool dgram_uv_reaches(const struct dgram *d, const struct addr *a) {
  const struct dgram_uv *u = (const struct dgram_uv *)(const void *)d;
  return a->kind == (u->ip6 ? ADDR_IP6 : ADDR_IP4) || (a->kind == ADDR_IP4 && u->dual);
}

/* An IPv6 socket knows IPv4 addresses as ::ffff:1.2.3.4. */
static struct addr mapped(const struct addr *a) {
  struct addr m = {.kind = ADDR_IP6, .port = a->port, .ip = {[10] = 0xff, [11] = 0xff}};
  memcpy(m.ip + 12, a->ip, 4);
  return m;
}

/* -> length; 0: an address of a family that this socket does not speak. */
static socklen_t to_sockaddr(const struct dgram_uv *u, const struct addr *a,
                             struct sockaddr_storage *out) {
  if (!dgram_uv_reaches(&u->dgram, a)) return 0;
  struct addr m = *a;
  if (u->ip6 && a->kind == ADDR_IP4) m = mapped(a);
  return addr_to_sockaddr(&m, out);
}

static int dgram_uv_connect(struct dgram *d, const struct addr *peer) {
  struct dgram_uv *u = uv_of(d);
  struct sockaddr_storage sa;
  socklen_t len = to_sockaddr(u, peer, &sa);
  if (len == 0) return ERR_NOFAMILY;
  return connect(u->fd, (struct sockaddr *)&sa, len) == 0 ? 0 : -errno;
}

static int dgram_uv_name(struct dgram *d, bool peer, struct addr *a) {
  struct sockaddr_storage sa;
  socklen_t len = sizeof sa;
  int fd = uv_of(d)->fd;
  int r = (peer ? getpeername : getsockname)(fd, (struct sockaddr *)&sa, &len);
  if (r != 0) return -errno;
  addr_from_sockaddr(a, (struct sockaddr *)&sa);
  return 0;
}

/* ---- datagrams ------------------------------------------------------------------- */

static int failed_call(struct dgram_uv *u, unsigned event) {
  if (errno != EAGAIN) return -errno;
  watch_dry(&u->watch, event);
  return ERR_AGAIN;
}

static ptrdiff_t dgram_uv_recv(struct dgram *d, void *to, size_t room, struct dgram_from *from) {
  struct sockaddr_storage sa = {.ss_family = AF_UNSPEC};
  struct iovec v = {.iov_base = to, .iov_len = room};
  struct msghdr m = {.msg_name = &sa, .msg_namelen = sizeof sa, .msg_iov = &v, .msg_iovlen = 1};
  ssize_t r;
  do r = recvmsg(uv_of(d)->fd, &m, 0);
  while (r < 0 && errno == EINTR);
  if (r < 0) return failed_call(uv_of(d), WATCH_IN);
  addr_from_sockaddr(&from->from, (struct sockaddr *)&sa);
  from->truncated = (m.msg_flags & MSG_TRUNC) != 0;
  return r;
}

static int dgram_uv_send(struct dgram *d, const void *data, size_t n, const struct addr *to) {
  struct dgram_uv *u = uv_of(d);
  struct sockaddr_storage sa;
  socklen_t len = to ? to_sockaddr(u, to, &sa) : 0;
  ssize_t r;
  if (to && len == 0) return ERR_NOFAMILY;
  do r = sendto(u->fd, data, n, PLATFORM_SEND_FLAGS, len ? (struct sockaddr *)&sa : NULL, len);
  while (r < 0 && errno == EINTR);
  return r >= 0 ? 0 : failed_call(u, WATCH_OUT);
}

/* ---- multicast ------------------------------------------------------------------- */

static bool is_address_of(const struct ifaddrs *i, const struct addr *a) {
  struct addr own;
  if (!i->ifa_addr) return false;
  addr_from_sockaddr(&own, i->ifa_addr);
  return own.kind == a->kind && memcmp(own.ip, a->ip, sizeof a->ip) == 0;
}

static unsigned interface_with(const struct addr *a) {
  struct ifaddrs *list, *i;
  unsigned index = 0;
  if (getifaddrs(&list) != 0) return 0;
  for (i = list; i && !is_address_of(i, a); i = i->ifa_next) continue;
  if (i) index = if_nametoindex(i->ifa_name);
  freeifaddrs(list);
  return index;
}

/* Its name, its number, or an address of it -> its number; 0: there is none. */
static unsigned interface_index(const char *text) {
  char name[IF_NAMESIZE], *end;
  struct addr a;
  if (addr_from_ip(&a, text, 0) == 0) return interface_with(&a);
  unsigned long n = strtoul(text, &end, 10);
  if (*text >= '0' && *text <= '9' && !*end && n <= UINT32_MAX)
    return if_indextoname((unsigned)n, name) ? (unsigned)n : 0;
  return if_nametoindex(text);
}

static int dgram_uv_member(struct dgram *d, bool join, const struct addr *group,
                           const char *interface) {
  struct group_req req = {.gr_interface = group->scope};
  struct sockaddr_storage sa;
  socklen_t len = addr_to_sockaddr(group, &sa);
  if (!dgram_uv_reaches(d, group)) return ERR_NOFAMILY;
  memcpy(&req.gr_group, &sa, len);
  if (interface && (req.gr_interface = interface_index(interface)) == 0) return ERR_NODEV;
  int level = group->kind == ADDR_IP6 ? IPPROTO_IPV6 : IPPROTO_IP;
  int name = join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP;
  return setsockopt(uv_of(d)->fd, level, name, &req, sizeof req) == 0 ? 0 : -errno;
}

static int multicast4_by(int fd, unsigned index) {
  struct ip_mreqn req = {.imr_ifindex = (int)index};
  return setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &req, sizeof req) == 0 ? 0 : -errno;
}

static int multicast6_by(int fd, unsigned index) {
  return setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &index, sizeof index) == 0 ? 0 : -errno;
}

/* A loopback without an IPv6 address still sends IPv4, and the other way round. */
static int dgram_uv_multicast_by(struct dgram *d, const char *interface) {
  const struct dgram_uv *u = uv_of(d);
  unsigned index = interface_index(interface);
  if (index == 0) return ERR_NODEV;
  int r6 = u->ip6 ? multicast6_by(u->fd, index) : ERR_NOFAMILY;
  int r4 = u->dual || !u->ip6 ? multicast4_by(u->fd, index) : ERR_NOFAMILY;
  return r6 == 0 || r4 == 0 ? 0 : u->ip6 ? r6 : r4;
}

/* ---- options --------------------------------------------------------------------- */

struct option_name {
  int level, name;
};

/* One that belongs to the socket has the same name for both families. */
static const struct option_name names4[] = {
    [DGRAM_BROADCAST] = {SOL_SOCKET, SO_BROADCAST},
    [DGRAM_TTL] = {IPPROTO_IP, IP_TTL},
    [DGRAM_MULTICAST_TTL] = {IPPROTO_IP, IP_MULTICAST_TTL},
    [DGRAM_MULTICAST_LOOP] = {IPPROTO_IP, IP_MULTICAST_LOOP},
    [DGRAM_RECV_BUFFER] = {SOL_SOCKET, SO_RCVBUF},
    [DGRAM_SEND_BUFFER] = {SOL_SOCKET, SO_SNDBUF},
    [DGRAM_TOS] = {IPPROTO_IP, IP_TOS},
};

static const struct option_name names6[] = {
    [DGRAM_BROADCAST] = {SOL_SOCKET, SO_BROADCAST},
    [DGRAM_TTL] = {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    [DGRAM_MULTICAST_TTL] = {IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    [DGRAM_MULTICAST_LOOP] = {IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    [DGRAM_RECV_BUFFER] = {SOL_SOCKET, SO_RCVBUF},
    [DGRAM_SEND_BUFFER] = {SOL_SOCKET, SO_SNDBUF},
    [DGRAM_TOS] = {IPPROTO_IPV6, IPV6_TCLASS},
};

static int set_option(int fd, struct option_name o, int value) {
  return setsockopt(fd, o.level, o.name, &value, sizeof value) == 0 ? 0 : -errno;
}

static int get_option(int fd, struct option_name o, int *value) {
  socklen_t len = sizeof *value;
  *value = 0; /* some systems fill in one byte */
  return getsockopt(fd, o.level, o.name, value, &len) == 0 ? 0 : -errno;
}

/* A socket that speaks both has two of each; they are kept alike. */
static int dgram_uv_option(struct dgram *d, enum dgram_option what, bool set, int *value) {
  const struct dgram_uv *u = uv_of(d);
  if (what == DGRAM_FD) {
    *value = u->fd;
    return set ? ERR_INVAL : 0;
  }
  struct option_name own = u->ip6 ? names6[what] : names4[what];
  if (!set) return get_option(u->fd, own, value);
  int r = set_option(u->fd, own, *value);
  return r || !u->dual ? r : set_option(u->fd, names4[what], *value);
}

static uint32_t dgram_uv_drops(const struct dgram *d) {
  return platform_drops(((const struct dgram_uv *)(const void *)d)->fd);
}

/* ---- life ------------------------------------------------------------------------ */

static void on_closed(struct watch *w) {
  struct dgram_uv *u = uv_of_watch(w);
  --*u->census;
  free(u);
}

static void dgram_uv_close(struct dgram *d) {
  struct dgram_uv *u = uv_of(d);
  watch_close(&u->watch);
  close(u->fd);
}

static const struct dgram_ops dgram_uv_ops = {
    .recv = dgram_uv_recv,
    .send = dgram_uv_send,
    .connect = dgram_uv_connect,
    .want = dgram_uv_want,
    .member = dgram_uv_member,
    .multicast_by = dgram_uv_multicast_by,
    .option = dgram_uv_option,
    .name = dgram_uv_name,
    .reaches = dgram_uv_reaches,
    .drops = dgram_uv_drops,
    .close = dgram_uv_close,
};

static int set_socket_flag(int fd, int name) {
  return set_option(fd, (struct option_name){SOL_SOCKET, name}, 1);
}

static int share(int fd, const struct dgram_opts *o) {
  int r = o->reuse_addr ? set_socket_flag(fd, SO_REUSEADDR) : 0;
  if (r || !o->reuse_port) return r;
#ifdef SO_REUSEPORT
  return set_socket_flag(fd, SO_REUSEPORT);
#else
  return UV_ENOTSUP;
#endif
}

static int set_buffers(int fd, const struct dgram_opts *o) {
  int r = o->recv_buffer ? set_option(fd, names4[DGRAM_RECV_BUFFER], o->recv_buffer) : 0;
  if (r || !o->send_buffer) return r;
  return set_option(fd, names4[DGRAM_SEND_BUFFER], o->send_buffer);
}

/* Whether an IPv6 socket takes IPv4 too is said either way: the default is the system's. */
static int prepare_and_bind(int fd, const struct sockaddr *sa, socklen_t len,
                            const struct dgram_opts *o) {
  int r = share(fd, o);
  if (r == 0 && o->broadcast) r = set_socket_flag(fd, SO_BROADCAST);
  if (r == 0) r = set_buffers(fd, o);
  if (r == 0 && sa->sa_family == AF_INET6)
    r = set_option(fd, (struct option_name){IPPROTO_IPV6, IPV6_V6ONLY}, o->ipv6_only);
  if (r) return r;
  return bind(fd, sa, len) == 0 ? 0 : -errno;
}

/* fd becomes the socket's, and is closed when this fails. */
static int open_over(struct poller *p, int fd, struct dgram_uv **out) {
  struct dgram_uv *u = calloc(1, sizeof *u);
  int r = u ? watch_open(p, &u->watch, fd, WATCH_IN) : ERR_NOMEM;
  if (r) {
    free(u);
    close(fd);
    return r;
  }
  u->dgram.ops = &dgram_uv_ops;
  u->watch.ready = on_watch;
  u->watch.closed = on_closed;
  u->fd = fd;
  *out = u;
  return 0;
}

/* "::", or an IPv4 address in IPv6's clothes. */
static bool takes_ip4(const struct addr *a) {
  static const uint8_t none[12], ip4[12] = {[10] = 0xff, [11] = 0xff};
  bool wildcard = memcmp(a->ip, none, 12) == 0 && memcmp(a->ip + 12, none, 4) == 0;
  return wildcard || memcmp(a->ip, ip4, sizeof ip4) == 0;
}

int dgram_uv_open(struct poller *p, unsigned *census, const struct addr *at,
                  const struct dgram_opts *opts, struct dgram **out) {
  struct sockaddr_storage sa;
  struct dgram_uv *u;
  socklen_t len = addr_to_sockaddr(at, &sa);
  if (len == 0) return ERR_INVAL;
  int fd = platform_socket(sa.ss_family, SOCK_DGRAM);
  if (fd < 0) return -errno;
  int r = prepare_and_bind(fd, (struct sockaddr *)&sa, len, opts);
  if (r) {
    close(fd);
    return r;
  }
  r = open_over(p, fd, &u);
  if (r) return r;
  u->ip6 = at->kind == ADDR_IP6;
  u->dual = u->ip6 && takes_ip4(at) && !opts->ipv6_only;
  u->census = census;
  ++*census;
  *out = &u->dgram;
  return 0;
}
