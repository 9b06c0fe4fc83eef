/* Fuzz target: options and other arguments of the public functions.
 *
 * spec/fuzz/options.lua makes values of the bytes, calls with them, and says what must hold.  The
 * system is the real one, but for the calls below, by which nothing leaves this host or leaves
 * anything on it.
 * What this is not: the meaning of any option. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "fuzz.h"
#include "lib_lua.h"
#include "lib_openssl.h"

/* The linker puts these in the place of the system's (--wrap).
 * NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): its names. */
int __wrap_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int __wrap_connect(int, const struct sockaddr *, socklen_t);
int __wrap_bind(int, const struct sockaddr *, socklen_t);
ssize_t __wrap_sendto(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
int __real_bind(int, const struct sockaddr *, socklen_t);
int __real_connect(int, const struct sockaddr *, socklen_t);
/* NOLINTEND */

/* No name is known. */
int __wrap_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out) {
  (void)node, (void)service, (void)hints, (void)out;
  return EAI_NONAME;
}

static bool is_loopback(const struct sockaddr *sa) {
  const struct sockaddr_in *in = (const void *)sa;
  const struct sockaddr_in6 *in6 = (const void *)sa;
  if (sa->sa_family == AF_INET) return ntohl(in->sin_addr.s_addr) >> 24 == 127;
  return sa->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static uint16_t port_of(const struct sockaddr *sa) {
  const struct sockaddr_in *in = (const void *)sa; /* it stands at the same place for both */
  return ntohs(in->sin_port);
}

static bool is_file(const struct sockaddr *sa) {
  const struct sockaddr_un *un = (const void *)sa;
  return sa->sa_family == AF_UNIX && un->sun_path[0];
}

/* There is nobody at a low port of this host. */
int __wrap_connect(int fd, const struct sockaddr *sa, socklen_t len) {
  if (is_loopback(sa) && port_of(sa) < 1024) return __real_connect(fd, sa, len);
  errno = is_loopback(sa) || sa->sa_family == AF_UNIX ? ECONNREFUSED : ENETUNREACH;
  return -1;
}

/* Free ports only, and no files. */
int __wrap_bind(int fd, const struct sockaddr *sa, socklen_t len) {
  if (!is_file(sa) && (sa->sa_family == AF_UNIX || port_of(sa) == 0))
    return __real_bind(fd, sa, len);
  errno = EACCES;
  return -1;
}

/* What is sent is lost, as datagrams may be. */
ssize_t __wrap_sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *sa,
                      socklen_t len) {
  (void)fd, (void)data, (void)flags, (void)sa, (void)len;
  return (ssize_t)n;
}

/* To read the system's certificates takes longer than all else. */
static void have_no_authorities(void) {
  setenv("SSL_CERT_FILE", "/dev/null", 1);
  setenv("SSL_CERT_DIR", "/dev/null", 1);
}

static void set_host(lua_State *L) {
  have_no_authorities();
  lua_newtable(L);
  lua_pushstring(L, tls_cert);
  lua_setfield(L, -2, "cert");
  lua_pushstring(L, tls_key);
  lua_setfield(L, -2, "key");
  lua_setglobal(L, "host");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_lua_run("options", set_host, data, size);
  return 0;
}
