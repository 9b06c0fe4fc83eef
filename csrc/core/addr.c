/* Addresses as text and as the system's structures: see addr.h.
 *
 * What this is not: it resolves no names; the name of an interface in a scope is the only thing
 * that it asks the system. */
#include "addr.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "err.h"

/* ---- splitting ------------------------------------------------------------------- */

struct slice {
  const char *at;
  size_t len;
};

static const char *after(struct slice s) { return s.at + s.len; }

/* Is it an IPv6 address, perhaps with %scope?  Whether there is such an interface is not
 * asked: the text is right even where the interface is missing. */
static bool looks_like_ip6(struct slice s) {
  char text[INET6_ADDRSTRLEN];
  struct in6_addr ip;
  const char *percent = memchr(s.at, '%', s.len);
  size_t len = percent ? (size_t)(percent - s.at) : s.len;
  if (len >= sizeof text || (percent && percent + 1 == after(s))) return false;
  memcpy(text, s.at, len);
  text[len] = 0;
  return inet_pton(AF_INET6, text, &ip) == 1;
}

/* "[host]rest". NULL, or what is wrong. */
static const char *split_bracketed(struct slice text, struct slice *host, struct slice *rest) {
  const char *end = memchr(text.at, ']', text.len);
  if (!end) return "no ] behind the [";
  *host = (struct slice){text.at + 1, (size_t)(end - text.at - 1)};
  *rest = (struct slice){end + 1, (size_t)(after(text) - end - 1)};
  if (!looks_like_ip6(*host)) return "what is in brackets is not an IPv6 address";
  return NULL;
}

static const char *split_plain(struct slice text, struct slice *host, struct slice *rest) {
  const char *colon = memchr(text.at, ':', text.len);
  if (!colon) colon = after(text);
  *host = (struct slice){text.at, (size_t)(colon - text.at)};
  *rest = (struct slice){colon, (size_t)(after(text) - colon)};
  if (rest->len && memchr(colon + 1, ':', rest->len - 1))
    return "more than one colon (an IPv6 address goes in brackets)";
  if (memchr(host->at, '[', host->len) || memchr(host->at, ']', host->len))
    return "a bracket in the host";
  return NULL;
}

static const char *read_port(struct slice s, uint16_t *port) {
  uint32_t value = 0;
  if (s.len < 2) return "no port";
  if (s.at[0] != ':') return "no colon behind the ]";
  for (size_t i = 1; i < s.len; i++)
    if (s.at[i] < '0' || s.at[i] > '9') return "the port is not a number";
  for (size_t i = 1; i < s.len; i++) {
    value = value * 10 + (uint32_t)(s.at[i] - '0');
    if (value > UINT16_MAX) return "port out of range";
  }
  *port = (uint16_t)value;
  return NULL;
}

static const char *split(struct slice text, struct slice *host, uint16_t *port) {
  struct slice rest;
  if (text.len == 0) return "no address";
  if (memchr(text.at, 0, text.len)) return "a NUL in it";
  const char *wrong =
      text.at[0] == '[' ? split_bracketed(text, host, &rest) : split_plain(text, host, &rest);
  if (!wrong) wrong = read_port(rest, port);
  if (!wrong && host->len >= ADDR_HOST_MAX) wrong = "the host is too long";
  return wrong;
}

int addr_split(const char *text, size_t len, char host[ADDR_HOST_MAX], uint16_t *port,
               const char **why) {
  struct slice found;
  *why = split((struct slice){text, len}, &found, port);
  if (*why) return ERR_INVAL;
  memcpy(host, found.at, found.len);
  host[found.len] = 0;
  return 0;
}

/* ---- unix sockets ---------------------------------------------------------------- */

static const char UNIX_PREFIX[] = "unix:";
enum { UNIX_PREFIX_LEN = sizeof UNIX_PREFIX - 1 };

bool addr_is_unix(const char *text) { return strncmp(text, UNIX_PREFIX, UNIX_PREFIX_LEN) == 0; }

/* An abstract name has no NUL of its own at the end, but one in front. */
int addr_check_unix(const char *text, size_t len, const char **why) {
  size_t n = len - UNIX_PREFIX_LEN;
  const char *path = text + UNIX_PREFIX_LEN;
  *why = memchr(path, 0, n)                                           ? "a NUL in it"
         : n == 0 || (n == 1 && *path == '@')                         ? "no path"
         : n >= sizeof((struct sockaddr_un){.sun_path = ""}).sun_path ? "the path is too long"
                                                                      : NULL;
  return *why ? ERR_INVAL : 0;
}

struct addr addr_from_unix(const char *path) {
  return (struct addr){.kind = ADDR_UNIX, .path = path};
}

/* ---- numeric text ---------------------------------------------------------------- */

/* "2" or "eth0" -> an interface's number; false: there is none. */
static bool read_scope(const char *text, uint32_t *scope) {
  uint64_t value = 0;
  size_t digits = strspn(text, "0123456789");
  if (digits == 0 || text[digits]) return (*scope = if_nametoindex(text)) != 0;
  for (size_t i = 0; i < digits; i++) {
    value = value * 10 + (uint64_t)(text[i] - '0');
    if (value > UINT32_MAX) return false;
  }
  *scope = (uint32_t)value;
  return true;
}

/* Only here does an address mean one thing on each interface; elsewhere the system ignores a
 * scope, and so do we: equal addresses print alike. */
static bool is_link_local(const struct in6_addr *ip) {
  return IN6_IS_ADDR_LINKLOCAL(ip) || IN6_IS_ADDR_MC_LINKLOCAL(ip) || IN6_IS_ADDR_MC_NODELOCAL(ip);
}

static bool read_ip6(struct addr *a, const char *host) {
  char text[INET6_ADDRSTRLEN];
  struct in6_addr ip;
  uint32_t scope = 0;
  size_t len = strcspn(host, "%");
  if (len >= sizeof text) return false;
  memcpy(text, host, len);
  text[len] = 0;
  if (inet_pton(AF_INET6, text, &ip) != 1) return false;
  if (host[len] && !read_scope(host + len + 1, &scope)) return false;
  *a = (struct addr){.kind = ADDR_IP6, .scope = is_link_local(&ip) ? scope : 0};
  memcpy(a->ip, &ip, sizeof ip);
  return true;
}

static bool read_ip4(struct addr *a, const char *host) {
  struct in_addr ip;
  if (inet_pton(AF_INET, host, &ip) != 1) return false;
  *a = (struct addr){.kind = ADDR_IP4};
  memcpy(a->ip, &ip, sizeof ip);
  return true;
}

int addr_from_ip(struct addr *a, const char *host, uint16_t port) {
  if (!read_ip4(a, host) && !read_ip6(a, host)) return ERR_INVAL;
  a->port = port;
  return 0;
}

/* ---- printing -------------------------------------------------------------------- */

static size_t print_ip6(const struct addr *a, char *out) {
  inet_ntop(AF_INET6, a->ip, out, INET6_ADDRSTRLEN);
  size_t len = strlen(out);
  if (a->scope) len += (size_t)snprintf(out + len, ADDR_TEXT_MAX - len, "%%%u", a->scope);
  return len;
}

static size_t print_unix(const struct addr *a, char out[ADDR_TEXT_MAX]) {
  if (!a->path) return (size_t)snprintf(out, ADDR_TEXT_MAX, "unix");
  return (size_t)snprintf(out, ADDR_TEXT_MAX, "unix:%s", a->path);
}

size_t addr_print_host(const struct addr *a, char out[ADDR_TEXT_MAX]) {
  if (a->kind == ADDR_IP6) return print_ip6(a, out);
  if (a->kind == ADDR_UNIX) return print_unix(a, out);
  if (a->kind == ADDR_IP4)
    inet_ntop(AF_INET, a->ip, out, INET_ADDRSTRLEN);
  else
    strcpy(out, a->kind == ADDR_PIPE ? "pipe" : "?");
  return strlen(out);
}

size_t addr_print(const struct addr *a, char out[ADDR_TEXT_MAX]) {
  size_t len = addr_print_host(a, out);
  if (a->kind != ADDR_IP4 && a->kind != ADDR_IP6) return len;
  if (a->kind == ADDR_IP6) {
    memmove(out + 1, out, len);
    out[0] = '[';
    out[len + 1] = ']';
    len += 2;
  }
  return len + (size_t)snprintf(out + len, ADDR_TEXT_MAX - len, ":%u", a->port);
}

/* ---- the system's form ----------------------------------------------------------- */

static socklen_t to_sockaddr4(const struct addr *a, struct sockaddr_storage *out) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(a->port)};
  memcpy(&in.sin_addr, a->ip, sizeof in.sin_addr);
  memcpy(out, &in, sizeof in);
  return sizeof in;
}

static socklen_t to_sockaddr6(const struct addr *a, struct sockaddr_storage *out) {
  struct sockaddr_in6 in = {
      .sin6_family = AF_INET6, .sin6_port = htons(a->port), .sin6_scope_id = a->scope};
  memcpy(&in.sin6_addr, a->ip, sizeof in.sin6_addr);
  memcpy(out, &in, sizeof in);
  return sizeof in;
}

/* "@name" is abstract: a NUL in front, and as long as it is. */
static socklen_t to_sockaddr_un(const struct addr *a, struct sockaddr_storage *out) {
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  size_t n = strlen(a->path);
  bool abstract = *a->path == '@';
  memcpy(un.sun_path, a->path, n);
  if (abstract) un.sun_path[0] = 0;
  memcpy(out, &un, sizeof un);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + !abstract);
}

socklen_t addr_to_sockaddr(const struct addr *a, struct sockaddr_storage *out) {
  if (a->kind == ADDR_UNIX && a->path) return to_sockaddr_un(a, out);
  if (a->kind == ADDR_IP4) return to_sockaddr4(a, out);
  if (a->kind == ADDR_IP6) return to_sockaddr6(a, out);
  return 0;
}

static void from_sockaddr4(struct addr *a, const struct sockaddr *sa) {
  struct sockaddr_in in;
  memcpy(&in, sa, sizeof in);
  a->kind = ADDR_IP4;
  a->port = ntohs(in.sin_port);
  memcpy(a->ip, &in.sin_addr, sizeof in.sin_addr);
}

static void from_sockaddr6(struct addr *a, const struct sockaddr *sa) {
  struct sockaddr_in6 in;
  memcpy(&in, sa, sizeof in);
  a->port = ntohs(in.sin6_port);
  if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
    a->kind = ADDR_IP4;
    memcpy(a->ip, in.sin6_addr.s6_addr + 12, 4);
    return;
  }
  a->kind = ADDR_IP6;
  a->scope = in.sin6_scope_id;
  memcpy(a->ip, &in.sin6_addr, sizeof in.sin6_addr);
}

void addr_from_sockaddr(struct addr *a, const struct sockaddr *sa) {
  *a = (struct addr){.kind = ADDR_NONE};
  if (sa->sa_family == AF_INET)
    from_sockaddr4(a, sa);
  else if (sa->sa_family == AF_INET6)
    from_sockaddr6(a, sa);
  else if (sa->sa_family == AF_UNIX)
    a->kind = ADDR_UNIX;
}
