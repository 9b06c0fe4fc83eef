/* Fuzz target: addresses as text and as the system's structures.
 *
 * The input is a text.  What it splits into must print to a text that means the same, for numeric
 * hosts and Unix sockets; and the first bytes, taken as a system's address, must survive both ways.
 * What this is not: it resolves no name. */
#include <arpa/inet.h>
#include <netinet/in.h>

#include "addr.h"
#include "err.h"
#include "fuzz.h"

static bool same(const struct addr *a, const struct addr *b) {
  size_t n = a->kind == ADDR_IP4 ? 4 : 16;
  return a->kind == b->kind && a->port == b->port && a->scope == b->scope &&
         memcmp(a->ip, b->ip, n) == 0;
}

/* text -> address -> text -> address: the two addresses are one. */
static void check_ip_text(const struct addr *a) {
  char text[ADDR_TEXT_MAX], only[ADDR_TEXT_MAX], host[ADDR_HOST_MAX];
  const char *why = NULL;
  struct addr again;
  uint16_t port;
  size_t n = addr_print(a, text), m = addr_print_host(a, only);
  FUZZ_CHECK(n == strlen(text) && n < ADDR_TEXT_MAX && m == strlen(only));
  FUZZ_CHECK(addr_split(text, n, host, &port, &why) == 0 && !why);
  FUZZ_CHECK(strcmp(host, only) == 0 && port == a->port);
  FUZZ_CHECK(addr_from_ip(&again, host, port) == 0 && same(a, &again));
}

/* Dual-stack: a mapped address comes back as the IPv4 one that it is. */
static void check_ip_system(const struct addr *a) {
  struct sockaddr_storage ss;
  struct addr again;
  socklen_t len = addr_to_sockaddr(a, &ss);
  FUZZ_CHECK(len ==
             (a->kind == ADDR_IP4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
  addr_from_sockaddr(&again, (struct sockaddr *)&ss);
  if (a->kind == ADDR_IP6 && again.kind == ADDR_IP4)
    FUZZ_CHECK(memcmp(a->ip + 12, again.ip, 4) == 0 && again.port == a->port);
  else
    FUZZ_CHECK(same(a, &again));
  check_ip_text(&again);
}

static void fuzz_host(const char *text, size_t n) {
  char host[ADDR_HOST_MAX];
  const char *why = NULL;
  uint16_t port;
  struct addr a;
  int r = addr_split(text, n, host, &port, &why);
  FUZZ_CHECK(r == 0 ? !why : r == ERR_INVAL && why && *why);
  if (r) return;
  FUZZ_CHECK(strlen(host) < ADDR_HOST_MAX && strlen(host) < n);
  if (addr_from_ip(&a, host, port) != 0) return;
  check_ip_text(&a);
  check_ip_system(&a);
}

/* A group, the address of an interface: a host alone. */
static void fuzz_bare_host(const char *text, uint16_t port) {
  struct addr a;
  int r = addr_from_ip(&a, text, port);
  FUZZ_CHECK(r == 0 || r == ERR_INVAL);
  if (r == 0) check_ip_system(&a);
}

static void fuzz_unix(const char *text, size_t n) {
  const char *why = NULL;
  char out[ADDR_TEXT_MAX];
  struct sockaddr_storage ss;
  if (!addr_is_unix(text)) return;
  int r = addr_check_unix(text, n, &why);
  FUZZ_CHECK(r == 0 ? !why : r == ERR_INVAL && why && *why);
  if (r) return;
  struct addr a = addr_from_unix(text + strlen("unix:"));
  FUZZ_CHECK(addr_print(&a, out) == n && strcmp(out, text) == 0);
  FUZZ_CHECK(addr_print_host(&a, out) == n && strcmp(out, text) == 0);
  FUZZ_CHECK(addr_to_sockaddr(&a, &ss) <= sizeof ss);
}

static void fuzz_system(const uint8_t *data, size_t size) {
  struct sockaddr_storage ss = {.ss_family = AF_UNSPEC};
  struct addr a;
  const sa_family_t families[] = {AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC};
  memcpy(&ss, data, size < sizeof ss ? size : sizeof ss);
  ss.ss_family = families[size ? data[0] & 3 : 3];
  addr_from_sockaddr(&a, (struct sockaddr *)&ss);
  if (a.kind == ADDR_IP6) { /* a text without meaning there: the scope of what is not link-local */
    char text[ADDR_TEXT_MAX];
    FUZZ_CHECK(addr_print(&a, text) < ADDR_TEXT_MAX);
  } else if (a.kind == ADDR_IP4) {
    check_ip_system(&a);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *exact = fuzz_copy((const char *)data, size, 0), *text;
  fuzz_host(exact, size);
  free(exact);
  text = fuzz_copy((const char *)data, size, 1);
  text[size] = 0;
  fuzz_bare_host(text, (uint16_t)size);
  fuzz_unix(text, size);
  free(text);
  fuzz_system(data, size);
  return 0;
}
