/* The clock, memory, and the end of the program; see load.h.
 * What this is not: anything of networks. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("load: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(EXIT_FAILURE); /* nothing is left in order */
}

void *allocate(size_t count, size_t size) {
  void *p = calloc(count, size);
  if (!p) die("out of memory");
  return p;
}

uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t to_ns(double seconds) { return (uint64_t)(seconds * 1e9); }
