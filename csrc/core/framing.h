/* Where does one message end?  Pure functions over a slice of bytes, resumable: what has
 * been looked at once is not looked at again.
 *
 * Every way of receiving is a framing: n bytes, a line, up to a delimiter, a length prefix,
 * what is there, everything until the end.  One struct holds its parameters, one function
 * cuts, one encodes.
 * What this is not: it reads and stores no bytes, and allocates nothing. */
#ifndef LUNEWIRE_FRAMING_H
#define LUNEWIRE_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum framing_kind {
  FRAMING_RAW,       /* what is there, at least one byte, at most max */
  FRAMING_ALL,       /* everything until the end of the stream, at most max */
  FRAMING_FIXED,     /* count bytes (0 is a message too: the empty one) */
  FRAMING_LINE,      /* up to \n or \r\n */
  FRAMING_DELIMITER, /* up to exact bytes */
  FRAMING_LENGTH     /* a header that holds a length */
};

struct framing {
  uint8_t kind;
  bool keep;             /* LINE, DELIMITER: the terminator is part of the message */
  bool last;             /* LINE, DELIMITER: at the end of the stream what is left (>= 1
                            byte) is a message too */
  bool little;           /* LENGTH: byte order of the field */
  bool includes_header;  /* LENGTH: the value counts the header too */
  bool by_byte;          /* FIXED, ALL, RAW: each byte is a sign of life, not only the whole:
                            for who counts idleness; a cut is none the different */
  uint8_t size;          /* LENGTH: bytes of the field: 1, 2, 3, 4, 8 */
  uint32_t offset;       /* LENGTH: bytes before the field */
  uint32_t strip;        /* LENGTH: leading bytes that are not part of the message */
  int64_t adjust;        /* LENGTH: added to the value */
  size_t count;          /* FIXED */
  size_t max;            /* limit of a message, terminator and stripped bytes not counted */
  const char *delimiter; /* DELIMITER: borrowed, outlives the framing; length >= 1 */
  size_t delimiter_len;
};

/* The memory of a scan that found nothing yet.  All zero to begin; the caller keeps it as
 * long as bytes are only added at the tail, and zeroes it when bytes leave the head or
 * another framing is applied. */
struct scan {
  size_t seen; /* no terminator begins before this position */
  size_t need; /* after ERR_AGAIN: a message cannot be complete with fewer bytes than these in
                  all; always > n of that call */
};

/* A message found: p[at, at + len) is it, and take bytes leave the stream with it. */
struct cut {
  size_t at, len, take;
};

/* Looks for the first message in p[0, n); `ended`: no byte will follow.
 *   0             found, *cut filled (FIXED: all sums checked against overflow)
 *   ERR_AGAIN     not yet; s->need set.  Never when ended.
 *   ERR_EOF       ended, and what is there is no message (n may be 0)
 *   ERR_MSGSIZE   the message is, or will be, longer than max.  LENGTH: known from the header
 *                 alone; LINE, DELIMITER: as soon as max + terminator bytes hold no end (a \r
 *                 at position max may still belong to a terminator); ALL: n > max; FIXED:
 *                 count > max
 *   ERR_PROTO     LENGTH: a value that makes the message shorter than its header or strip
 * RAW never fails but by ERR_EOF, and cuts min(n, max); ALL answers only when ended. */
int framing_cut(const struct framing *f, struct scan *s, const char *p, size_t n, bool ended,
                struct cut *cut);

/* How many bytes a message of n bytes takes on the wire -> *total.
 *   0; ERR_MSGSIZE: over max, or its length does not fit the field, or (FIXED) n != count;
 *   ERR_PROTO: LINE and DELIMITER data that contains the terminator; LENGTH data (strip 0)
 *   too short to hold its header; a head of the wrong length.
 * head (head_len bytes): LENGTH with an offset and strip > 0: the min(offset, strip) bytes
 * before the field; head_len 0 means zeros.  Otherwise head_len must be 0. */
int framing_size(const struct framing *f, const char *data, size_t n, size_t head_len,
                 size_t *total);

/* Writes the message that framing_size() accepted: exactly *total bytes at out, which must
 * not overlap data.  head NULL: zeros (head_len was 0).
 * LINE appends \n unless the data ends in it and keep is set; DELIMITER likewise. */
void framing_encode(const struct framing *f, const char *data, size_t n, const char *head,
                    char *out);

#endif
