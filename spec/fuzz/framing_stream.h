/* What an input of the target "framing" stands for: a framing, and a stream of bytes.
 *
 * The first bytes are the framing's parameters, within what its constructors accept; the others are
 * a little script, because a stream of raw bytes would hardly ever hold a long message, or a whole
 * one.
 * What this is not: any check. */
#ifndef LUNEWIRE_FUZZ_FRAMING_STREAM_H
#define LUNEWIRE_FUZZ_FRAMING_STREAM_H

#include "framing.h"
#include "fuzz.h"

enum { STREAM_MOST = 400 * 1000, FIELD_BYTES = 9 };

/* How the stream is delivered through a connection, and used there. */
enum stream_end { END_SHUT, END_CLOSE, END_RESET };
struct plan {
  enum stream_end end;
  bool skips;   /* what is over the limit, and goes on */
  bool unreads; /* some messages, and takes them again */
  bool rests;   /* nobody waits now and then: what comes is read ahead */
  uint32_t seed;
};

struct stream_input {
  struct framing f;
  char bytes[FIELD_BYTES]; /* the delimiter or the prefix */
  struct plan plan;
  char *p;
  size_t n;
};

/* To be ended by stream_fini(). */
void stream_init(struct stream_input *s, const uint8_t *data, size_t size);
void stream_fini(struct stream_input *s);

/* How many bytes a message may take on the wire, by its limit; SIZE_MAX: any number. */
size_t stream_wire_limit(const struct framing *f);

#endif
