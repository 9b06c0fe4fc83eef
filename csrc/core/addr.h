/* Addresses: text in, text out, and their form for the system.
 *
 * What this is not: it resolves no names. */
#ifndef LUNEWIRE_ADDR_H
#define LUNEWIRE_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum addr_kind { ADDR_NONE, ADDR_IP4, ADDR_IP6, ADDR_PIPE, ADDR_UNIX };

struct addr {
  union {
    uint8_t ip[16];   /* network order; the first 4 of an ADDR_IP4 */
    const char *path; /* of an ADDR_UNIX, "@name" an abstract one; NULL: it has none; borrowed */
  };
  uint32_t scope; /* of a link-local IPv6 address */
  uint16_t port;  /* host order */
  uint8_t kind;
};

enum {
  ADDR_HOST_MAX = 256, /* longest host text, with its NUL: RFC 1035's 253 and a margin */
  ADDR_TEXT_MAX = 128  /* longest printed address, with its NUL */
};

/* Splits "host:port", "1.2.3.4:80", "[::1]:80", "[fe80::1%eth0]:80", ":80" -> host (NUL
 * terminated, "" for none) and port.  The port is decimal, 0-65535, no sign, no space.
 * 0, or ERR_INVAL for anything else: no colon, more than one outside brackets, an empty
 * port, brackets around what is not an IPv6 address, a NUL, a host too long.  *why then
 * points to a short static text for people ("no port", "port out of range"). */
int addr_split(const char *text, size_t len, char host[ADDR_HOST_MAX], uint16_t *port,
               const char **why);

/* "unix:/path" or "unix:@name"? */
bool addr_is_unix(const char *text);
/* Is that one that the system can take?  0, or ERR_INVAL and *why. */
int addr_check_unix(const char *text, size_t len, const char **why);
/* The path is what follows "unix:", and must live as long as the address. */
struct addr addr_from_unix(const char *path);

/* A numeric host (IPv4, IPv6, with %scope) -> 0 and *a; ERR_INVAL: not numeric (a name). */
int addr_from_ip(struct addr *a, const char *host, uint16_t port);

/* "127.0.0.1:80", "[::1]:80", "unix:/path", "unix", "pipe", "?" -> length without the NUL. */
size_t addr_print(const struct addr *a, char out[ADDR_TEXT_MAX]);
/* "127.0.0.1", "::1", "fe80::1%2", "unix:/path", "unix", "pipe" -> length without the NUL. */
size_t addr_print_host(const struct addr *a, char out[ADDR_TEXT_MAX]);

/* For the system's calls.  addr_to_sockaddr: 0 for a kind that has no name there.
 * addr_from_sockaddr: other families give ADDR_NONE; an IPv4-mapped IPv6 address gives
 * ADDR_IP4, so that a dual-stack server shows its IPv4 clients as such. */
socklen_t addr_to_sockaddr(const struct addr *a, struct sockaddr_storage *out);
void addr_from_sockaddr(struct addr *a, const struct sockaddr *sa);

#endif
