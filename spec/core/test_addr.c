/* Addresses: text in, text out, the system's form.
 *
 * What this is not: a test of names; nothing is resolved. */
#include "../../csrc/core/addr.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "../../csrc/core/err.h"
#include "test.h"

/* ---- splitting ------------------------------------------------------------------- */

TEST(splits_host_and_port) {
  static const struct {
    const char *text, *host;
    uint16_t port;
  } good[] = {
      {"localhost:80", "localhost", 80},
      {"1.2.3.4:8999", "1.2.3.4", 8999},
      {"[::1]:80", "::1", 80},
      {"[::ffff:1.2.3.4]:1", "::ffff:1.2.3.4", 1},
      {"[fe80::1%nosuchif]:80", "fe80::1%nosuchif", 80},
      {":80", "", 80},
      {":0", "", 0},
      {"a:65535", "a", 65535},
      {"a:000000000000000000000080", "a", 80},
      {"host name:1", "host name", 1},
  };
  char host[ADDR_HOST_MAX];
  const char *why;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    uint16_t port = 1;
    CHECK_EQ(addr_split(good[i].text, strlen(good[i].text), host, &port, &why), 0);
    CHECK_STR(host, good[i].host);
    CHECK_EQ(port, good[i].port);
  }
}

TEST(says_why_a_text_is_no_address) {
  static const struct {
    const char *text, *why;
  } bad[] = {
      {"", "no address"},
      {"localhost", "no port"},
      {"localhost:", "no port"},
      {":", "no port"},
      {"[::1]", "no port"},
      {"[::1]:", "no port"},
      {"a:http", "the port is not a number"},
      {"a:+80", "the port is not a number"},
      {"a:-1", "the port is not a number"},
      {"a: 80", "the port is not a number"},
      {"a:80 ", "the port is not a number"},
      {"a:0x50", "the port is not a number"},
      {"a:65536", "port out of range"},
      {"a:99999999999999999999", "port out of range"},
      {"::1", "more than one colon (an IPv6 address goes in brackets)"},
      {"::1:80", "more than one colon (an IPv6 address goes in brackets)"},
      {"a:80:", "more than one colon (an IPv6 address goes in brackets)"},
      {"[::1", "no ] behind the ["},
      {"[::1]80", "no colon behind the ]"},
      {"[::1]x:80", "no colon behind the ]"},
      {"[]:80", "what is in brackets is not an IPv6 address"},
      {"[1.2.3.4]:80", "what is in brackets is not an IPv6 address"},
      {"[localhost]:80", "what is in brackets is not an IPv6 address"},
      {"[fe80::1%]:80", "what is in brackets is not an IPv6 address"},
      {"[1:2:3:4:5:6:7:8:9:a:b:c:d:e:f:0:1:2:3:4:5:6:7:8]:80",
       "what is in brackets is not an IPv6 address"},
      {"a[b:80", "a bracket in the host"},
      {"a]:80", "a bracket in the host"},
  };
  char host[ADDR_HOST_MAX];
  uint16_t port;
  const char *why;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    CHECK_EQ(addr_split(bad[i].text, strlen(bad[i].text), host, &port, &why), ERR_INVAL);
    CHECK_STR(why, bad[i].why);
  }
}

TEST(refuses_a_nul_and_a_host_too_long) {
  char host[ADDR_HOST_MAX], text[ADDR_HOST_MAX + 4];
  uint16_t port;
  const char *why;
  CHECK_EQ(addr_split("a\0b:80", 6, host, &port, &why), ERR_INVAL);
  CHECK_STR(why, "a NUL in it");
  int len = snprintf(text, sizeof text, "%0*d:80", ADDR_HOST_MAX - 1, 0);
  CHECK_EQ(addr_split(text, (size_t)len, host, &port, &why), 0);
  CHECK_EQ(strlen(host), ADDR_HOST_MAX - 1);
  len = snprintf(text, sizeof text, "%0*d:80", ADDR_HOST_MAX, 0);
  CHECK_EQ(addr_split(text, (size_t)len, host, &port, &why), ERR_INVAL);
  CHECK_STR(why, "the host is too long");
}

/* The text need not end in a NUL; nothing behind it is read. */
TEST(reads_only_the_length_given) {
  char host[ADDR_HOST_MAX];
  uint16_t port = 0;
  const char *why;
  CHECK_EQ(addr_split("a:8080", 4, host, &port, &why), 0);
  CHECK_EQ(port, 80);
}

/* ---- numeric text and printing --------------------------------------------------- */

static void check_prints(const struct addr *a, const char *whole, const char *host) {
  char out[ADDR_TEXT_MAX];
  CHECK_EQ(addr_print(a, out), strlen(whole));
  CHECK_STR(out, whole);
  CHECK_EQ(addr_print_host(a, out), strlen(host));
  CHECK_STR(out, host);
}

TEST(reads_and_prints_numeric_hosts) {
  static const struct {
    const char *text;
    int kind;
    const char *host, *whole;
  } good[] = {
      {"127.0.0.1", ADDR_IP4, "127.0.0.1", "127.0.0.1:80"},
      {"255.255.255.255", ADDR_IP4, "255.255.255.255", "255.255.255.255:80"},
      {"::1", ADDR_IP6, "::1", "[::1]:80"},
      {"::", ADDR_IP6, "::", "[::]:80"},
      {"2001:DB8:0:0:0:0:0:1", ADDR_IP6, "2001:db8::1", "[2001:db8::1]:80"},
      {"::ffff:1.2.3.4", ADDR_IP6, "::ffff:1.2.3.4", "[::ffff:1.2.3.4]:80"},
      {"fe80::1%2", ADDR_IP6, "fe80::1%2", "[fe80::1%2]:80"},
      {"fe80::1%0", ADDR_IP6, "fe80::1", "[fe80::1]:80"},
      {"ff02::1%4294967295", ADDR_IP6, "ff02::1%4294967295", "[ff02::1%4294967295]:80"},
      {"::1%1", ADDR_IP6, "::1", "[::1]:80"},
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    struct addr a = {0};
    CHECK_EQ(addr_from_ip(&a, good[i].text, 80), 0);
    CHECK_EQ(a.kind, good[i].kind);
    check_prints(&a, good[i].whole, good[i].host);
  }
}

TEST(knows_a_name_from_an_address) {
  static const char *const names[] = {
      "",
      "localhost",
      "1.2.3",
      "1.2.3.4.5",
      "1.2.3.256",
      "1.2.3.4%1",
      "fe80::1%",
      "fe80::1%nosuchif",
      "fe80::1%4294967296",
      "fe80::1%1x",
      "[::1]",
      ":::1",
      "1:2:3:4:5:6:7:8:9",
      "::1 ",
      " ::1",
      "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct addr a = {.kind = ADDR_PIPE};
    CHECK_EQ(addr_from_ip(&a, names[i], 80), ERR_INVAL);
    CHECK_EQ(a.kind, ADDR_PIPE);
  }
}

TEST(reads_the_name_of_an_interface) {
  struct addr a;
  if (if_nametoindex("lo") == 0) return;
  CHECK_EQ(addr_from_ip(&a, "fe80::1%lo", 80), 0);
  CHECK_EQ(a.scope, if_nametoindex("lo"));
}

TEST(prints_what_is_no_ip_address) {
  check_prints(&(struct addr){.kind = ADDR_PIPE}, "pipe", "pipe");
  check_prints(&(struct addr){.kind = ADDR_NONE}, "?", "?");
}

TEST(prints_the_longest_address) {
  struct addr a = {.kind = ADDR_IP6, .port = 65535, .scope = UINT32_MAX};
  memset(a.ip, 0xff, sizeof a.ip);
  a.ip[0] = 0xfe;
  check_prints(&a, "[feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535",
               "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295");
}

/* ---- the system's form ----------------------------------------------------------- */

static void check_round_trip(const char *host, uint16_t port, socklen_t size) {
  struct addr a, b;
  struct sockaddr_storage ss;
  REQUIRE(addr_from_ip(&a, host, port) == 0);
  CHECK_EQ(addr_to_sockaddr(&a, &ss), size);
  addr_from_sockaddr(&b, (struct sockaddr *)&ss);
  CHECK_EQ(b.kind, a.kind);
  CHECK_EQ(b.port, a.port);
  CHECK_EQ(b.scope, a.scope);
  CHECK_MEM(b.ip, 16, a.ip, 16);
}

TEST(goes_to_the_system_and_back) {
  check_round_trip("1.2.3.4", 80, sizeof(struct sockaddr_in));
  check_round_trip("2001:db8::7", 65535, sizeof(struct sockaddr_in6));
  check_round_trip("fe80::7%3", 0, sizeof(struct sockaddr_in6));
}

TEST(fills_what_the_system_expects) {
  struct addr a;
  struct sockaddr_storage ss;
  struct sockaddr_in in;
  addr_from_ip(&a, "1.2.3.4", 258);
  REQUIRE(addr_to_sockaddr(&a, &ss) == sizeof in);
  memcpy(&in, &ss, sizeof in);
  CHECK_EQ(in.sin_family, AF_INET);
  CHECK_EQ(ntohs(in.sin_port), 258);
  CHECK_EQ(ntohl(in.sin_addr.s_addr), 0x01020304);
}

TEST(shows_a_mapped_address_as_ip4) {
  struct addr a;
  struct sockaddr_storage ss;
  addr_from_ip(&a, "::ffff:9.8.7.6", 80);
  addr_to_sockaddr(&a, &ss);
  addr_from_sockaddr(&a, (struct sockaddr *)&ss);
  CHECK_EQ(a.kind, ADDR_IP4);
  check_prints(&a, "9.8.7.6:80", "9.8.7.6");
}

TEST(has_no_form_for_other_kinds) {
  struct sockaddr_storage ss;
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  struct addr a = {.kind = ADDR_PIPE};
  CHECK_EQ(addr_to_sockaddr(&a, &ss), 0);
  addr_from_sockaddr(&a, (struct sockaddr *)&un);
  CHECK_EQ(a.kind, ADDR_UNIX);
  check_prints(&a, "unix", "unix");
  CHECK_EQ(addr_to_sockaddr(&a, &ss), 0);
  un.sun_family = AF_UNSPEC;
  addr_from_sockaddr(&a, (struct sockaddr *)&un);
  CHECK_EQ(a.kind, ADDR_NONE);
  CHECK_EQ(addr_to_sockaddr(&a, &ss), 0);
}
