/* Where messages end: what the floors in C agree on.
 *
 * What this is not: a library's framing.  It knows the modes of these servers only, and looks at
 * every message one after the other, as a server that serves them must. */
#ifndef BENCH_FRAMING_H
#define BENCH_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct framing {
  const char *mode;
  size_t header; /* bytes of the big-endian length before a message; 0: lines that end in LF */
  size_t most;   /* bytes of a message, its header or LF included */
  bool once;     /* a connection has one message */
};

/* What a row of bytes begins with. */
struct cut {
  bool sound;   /* false: a message longer than it may be */
  size_t whole; /* so many bytes are complete messages */
  size_t need;  /* the message behind them has at most so many, exactly once its header is there */
};

/* -> the framing of that mode; NULL: there is none. */
static inline const struct framing *framing_of(const char *mode) {
  static const struct framing framings[] = {
      {"length", 2, 2 + 65535, false},
      {"line", 0, 65535 + 1, false},
      {"bulk", 4, 4 + 16 * 1024 * 1024, false},
      {"once", 2, 2 + 65535, true},
      {"tls", 2, 2 + 65535, false},
  };
  for (size_t i = 0; i < sizeof framings / sizeof *framings; i++)
    if (strcmp(framings[i].mode, mode) == 0) return &framings[i];
  return NULL;
}

/* Of the message that begins there, all of it. */
static inline size_t framing_length(const struct framing *f, const char *p) {
  size_t length = 0;
  for (size_t i = 0; i < f->header; i++) length = length << 8 | (unsigned char)p[i];
  return f->header + length;
}

static inline struct cut framing_cut_packages(const struct framing *f, const char *p, size_t n) {
  size_t at = 0;
  while (n - at >= f->header && !(f->once && at)) {
    size_t length = framing_length(f, p + at);
    if (length > f->most) return (struct cut){.sound = false};
    if (length > n - at) return (struct cut){true, at, length};
    at += length;
  }
  return (struct cut){true, at, f->header};
}

static inline struct cut framing_cut_lines(const struct framing *f, const char *p, size_t n,
                                           size_t seen) {
  size_t at = 0, from = seen;
  for (const char *end; (end = memchr(p + from, '\n', n - from)); from = at)
    at = (size_t)(end - p) + 1;
  return (struct cut){n - at < f->most, at, f->most};
}

/* Looks at n bytes at p, of which the first `seen` are known to hold no complete message. */
static inline struct cut framing_cut(const struct framing *f, const char *p, size_t n,
                                     size_t seen) {
  return f->header ? framing_cut_packages(f, p, n) : framing_cut_lines(f, p, n, seen);
}

#endif
