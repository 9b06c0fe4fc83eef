/* What systems do differently: see platform.h. */
#include "platform.h"

#ifdef __linux__

#include <fcntl.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

int platform_socket(int family, int type) {
  return socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

int platform_accept(int fd, struct sockaddr *peer, socklen_t *len) {
  return accept4(fd, peer, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

void platform_own(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
}

size_t platform_in_flight(int fd) {
  int n = 0;
  return ioctl(fd, SIOCOUTQ, &n) == 0 && n > 0 ? (size_t)n : 0;
}

/* SO_RXQ_OVFL would tell the same, but only with the next datagram that comes. */
uint32_t platform_drops(int fd) {
  uint32_t info[SK_MEMINFO_VARS] = {0};
  socklen_t len = sizeof info;
  return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &len) == 0 ? info[SK_MEMINFO_DROPS] : 0;
}

#else

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Not atomic: a fork between the two calls hands the descriptor to the child. */
static int prepare(int fd) {
  if (fd < 0) return fd;
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  int flags = fcntl(fd, F_GETFL);
  if (flags != -1 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 &&
      fcntl(fd, F_SETFD, FD_CLOEXEC) == 0)
    return fd;
  int why = errno;
  close(fd);
  errno = why;
  return -1;
}

int platform_socket(int family, int type) { return prepare(socket(family, type, 0)); }

int platform_accept(int fd, struct sockaddr *peer, socklen_t *len) {
  return prepare(accept(fd, peer, len));
}

void platform_own(int fd) {
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
}

size_t platform_in_flight(int fd) {
  (void)fd;
  return 0;
}

uint32_t platform_drops(int fd) {
  (void)fd;
  return 0;
}

#endif
