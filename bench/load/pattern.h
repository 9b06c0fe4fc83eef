/* Which bytes each message has, so that every byte that comes back can be checked without keeping
 * what was sent: a function of the connection, the message's number and the place in it.
 *
 *   header (length, big-endian)   stamp (connection and number)   filler   trailer (LF)
 *
 * The size is that of stamp and filler; a size under eight leaves out the end of the stamp.
 * What this is not: it sends and receives nothing. */
#ifndef PATTERN_H
#define PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  PATTERN_STAMP = 8,
  PATTERN_HEADER_MOST = 4,
  PATTERN_HEAD_MOST = PATTERN_HEADER_MOST + PATTERN_STAMP,
  PATTERN_PERIOD = 65521, /* prime, so no block of a power of two can stand in another's place */
  PATTERN_RUN = 64 * 1024 /* so much filler lies together wherever it begins */
};

struct pattern {
  size_t len, size; /* of a whole message, of what it carries */
  size_t header_len, trailer_len;
  uint32_t header, header_mask; /* as they lie in memory */
  char filler[PATTERN_PERIOD + PATTERN_RUN];
};

/* header_len: 0, 2 or 4.  A line is text, ended by LF. */
void pattern_init(struct pattern *p, size_t header_len, bool is_line, size_t size);

/* Writes `count` whole messages, from number seq on. */
void pattern_put(const struct pattern *p, uint32_t id, uint32_t seq, uint32_t count, char *out);

/* How many of `count` whole messages are right before the first that is not. */
uint32_t pattern_right(const struct pattern *p, uint32_t id, uint32_t seq, uint32_t count,
                       const char *in);

/* Bytes of one message from `at` on, as many as lie together; *bytes is where: in the pattern or
 * in scratch. */
size_t pattern_slice(const struct pattern *p, uint32_t id, uint32_t seq, size_t at,
                     char scratch[PATTERN_HEAD_MOST], const char **bytes);

/* Whether these are the n bytes of one message from `at` on. */
bool pattern_is(const struct pattern *p, uint32_t id, uint32_t seq, size_t at, const char *in,
                size_t n);

/* The connection and number in a message without a header, of at least eight bytes. */
void pattern_read_stamp(const char *in, uint32_t *id, uint32_t *seq);

#endif
