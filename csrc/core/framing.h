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
  /* from here on a header announces how long the message is */
  FRAMING_LENGTH,    /* a field of fixed size and place */
  FRAMING_VARINT,    /* a LEB128 number */
  FRAMING_NETSTRING, /* decimal digits and a colon; a comma ends the message */
  FRAMING_HEADER     /* magic and version, a type, a length; a checksum ends the message */
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
  bool at_least;         /* FIXED: more is welcome, up to max, to be read in one go */
  uint8_t size;          /* LENGTH, HEADER: bytes of the field: 1, 2, 3, 4, 8 */
  bool ends_in_checksum; /* HEADER: a CRC-32 of all before it follows the data */
  uint8_t type;          /* HEADER: of the message that is written */
  uint32_t offset;       /* LENGTH, VARINT: bytes before the field */
  uint32_t strip;        /* LENGTH: leading bytes that are not part of the message */
  int64_t adjust;        /* LENGTH: added to the value */
  size_t count;          /* FIXED */
  size_t max;            /* limit of a message, terminator and stripped bytes not counted */
  /* Borrowed, outlives the framing; length >= 1.  What a message of DELIMITER ends with; what
   * one of HEADER begins with: magic, version. */
  union {
    const char *delimiter;
    const char *prefix;
  };
  union {
    size_t delimiter_len;
    size_t prefix_len;
  };
};

/* Does a header announce where the message ends?  If it cannot be, no next one is known. */
static inline bool framing_is_counted(const struct framing *f) { return f->kind >= FRAMING_LENGTH; }

/* How many bytes before the field of a message are neither data nor the field: LENGTH and
 * VARINT with an offset. */
static inline size_t framing_head_room(const struct framing *f) {
  if (f->kind == FRAMING_VARINT || (f->kind == FRAMING_LENGTH && f->offset < f->strip))
    return f->offset;
  return f->kind == FRAMING_LENGTH ? f->strip : 0;
}

/* The type of a message of HEADER that was found to begin at p. */
static inline uint8_t framing_type(const struct framing *f, const char *p) {
  return (uint8_t)p[f->prefix_len];
}

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
 *   ERR_MSGSIZE   the message is, or will be, longer than max.  Counted: known from the header
 *                 alone; LINE, DELIMITER: as soon as max + terminator bytes hold no end (a \r
 *                 at position max may still belong to a terminator); ALL: n > max; FIXED:
 *                 count > max
 *   ERR_PROTO     LENGTH: a value that makes the message shorter than its header or strip;
 *                 VARINT: more than 64 bits; NETSTRING: not one; HEADER: another prefix (said at
 *                 its first byte) or checksum (said when all of the message is there)
 * RAW never fails but by ERR_EOF, and cuts min(n, max); ALL answers only when ended. */
int framing_cut(const struct framing *f, struct scan *s, const char *p, size_t n, bool ended,
                struct cut *cut);

/* How many bytes a message of n bytes takes on the wire -> *total.
 *   0; ERR_MSGSIZE: over max, or its length does not fit the field, or (FIXED) n != count;
 *   ERR_PROTO: LINE and DELIMITER data that contains the terminator; LENGTH data (strip 0)
 *   too short to hold its header; a head of the wrong length.
 * head (head_len bytes): the framing_head_room() bytes before the field; head_len 0 means
 * zeros. */
int framing_size(const struct framing *f, const char *data, size_t n, size_t head_len,
                 size_t *total);

/* Writes the message that framing_size() accepted: exactly *total bytes at out, which must
 * not overlap data.  head NULL: zeros (head_len was 0).
 * LINE appends \n unless the data ends in it and keep is set; DELIMITER likewise. */
void framing_encode(const struct framing *f, const char *data, size_t n, const char *head,
                    char *out);

/* Is the message that framing_size() accepted its header and then its data as it is?  Then the
 * header alone is written to `out` -> its length; -1: it has to be encoded. */
enum { FRAMING_LEAD_MOST = 32 };
int framing_lead(const struct framing *f, size_t n, const char *head, char out[FRAMING_LEAD_MOST]);

#endif
