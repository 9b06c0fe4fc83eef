/* Sockets to the server; see load.h.
 * What this is not: it sends and receives nothing, and looks up no names. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { SOURCES = 250 }; /* 127.0.0.1, which the system chooses by itself, and so many behind it */

void raise_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) die("getrlimit: %s", strerror(errno));
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) die("setrlimit: %s", strerror(errno));
}

void set_server(struct load *l, const char *host, int port) {
  l->server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, host, &l->server.sin_addr) != 1) die("%s: not an IPv4 address", host);
}

/* The port is chosen by connect, so that only the pair of both ends has to be unused. */
static void bind_source(int fd, int source) {
  struct sockaddr_in from = {.sin_family = AF_INET};
  int on = 1;
  from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)source);
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&from, sizeof from) != 0) die("bind: %s", strerror(errno));
}

/* For want of a port TCP says the one, UDP the other. */
static bool is_without_port(int error) { return error == EADDRNOTAVAIL || error == EAGAIN; }

bool redial(struct load *l, int fd) {
  if (connect(fd, (struct sockaddr *)&l->server, sizeof l->server) == 0) return true;
  if (errno == EINPROGRESS) return true;
  if (!is_without_port(errno)) die("connect: %s", strerror(errno));
  return false;
}

/* -1: there is no port left. */
static int dial_from(struct load *l, int type, int source) {
  int on = 1, fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
  if (fd < 0) die("socket: %s", strerror(errno));
  if (source) bind_source(fd, source);
  if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (redial(l, fd)) return fd;
  close(fd);
  return -1;
}

int dial(struct load *l, int type) {
  for (int tries = 0; tries <= SOURCES; tries++) {
    int fd = dial_from(l, type, l->source);
    if (fd >= 0) return fd;
    l->source = (l->source + 1) % (SOURCES + 1);
  }
  die("connect: no port is left");
}

void hang_up(int fd) {
  struct sockaddr nobody = {.sa_family = AF_UNSPEC};
  if (shutdown(fd, SHUT_WR) != 0 || connect(fd, &nobody, sizeof nobody) != 0)
    die("disconnect: %s", strerror(errno));
}
