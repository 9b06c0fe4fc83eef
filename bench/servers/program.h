/* How a floor in C begins: its arguments, its port, its end when something is wrong.
 *
 * What this is not: it serves nothing. */
#ifndef BENCH_PROGRAM_H
#define BENCH_PROGRAM_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_UNSUPPORTED = 2, BACKLOG = 4096 };

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(EXIT_FAILURE);
}

static inline void *allocate(size_t size) {
  void *p = malloc(size);
  if (!p) die("out of memory");
  return p;
}

/* Port 0 of this host: the system chooses. */
static inline struct sockaddr_in any_port(void) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Who starts the server waits for this line. */
static inline void print_port(const struct sockaddr_in *at) {
  printf("%d\n", ntohs(at->sin_port));
  fflush(stdout);
}

static inline int unsupported(void) {
  fputs("unsupported\n", stderr);
  return EXIT_UNSUPPORTED;
}

#endif
