/* See pattern.h. */
#include "pattern.h"

#include <string.h>

enum { SHIFTS = 256 }; /* neighbours in connection and in number differ in every byte */

/* ---- stamps ---------------------------------------------------------------------- */

/* Sixteen bits of connection, thirty-two of number.  The sum lets even the first byte tell
 * connections apart. */
static uint64_t stamp_of(uint32_t id, uint32_t seq) {
  return (uint64_t)id << 32 | (uint32_t)(seq + id);
}

void pattern_read_stamp(const char *in, uint32_t *id, uint32_t *seq) {
  uint64_t stamp;
  memcpy(&stamp, in, sizeof stamp);
  *id = (uint32_t)(stamp >> 32);
  *seq = (uint32_t)stamp - *id;
}

/* The same as text, which a line is: eight letters of six bits each. */
static uint64_t letters(uint64_t x) {
  x = (x & 0x0000000000FFFFFF) | (x & 0x0000FFFFFF000000) << 8;
  x = (x & 0x00000FFF00000FFF) | (x & 0x00FFF00000FFF000) << 4;
  x = (x & 0x003F003F003F003F) | (x & 0x0FC00FC00FC00FC0) << 2;
  return x | 0x4040404040404040;
}

static uint64_t stamp_in(const struct pattern *p, uint32_t id, uint32_t seq) {
  uint64_t stamp = stamp_of(id, seq);
  return p->trailer_len ? letters(stamp) : stamp;
}

/* ---- any message, slice by slice ------------------------------------------------- */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static size_t head_len(const struct pattern *p) {
  return p->header_len + least(p->size, PATTERN_STAMP);
}

static size_t shift_of(uint32_t id, uint32_t seq) { return (id + seq) % SHIFTS; }

static size_t head_slice(const struct pattern *p, uint32_t id, uint32_t seq, size_t at,
                         char scratch[PATTERN_HEAD_MOST], const char **bytes) {
  uint64_t stamp = stamp_in(p, id, seq);
  memcpy(scratch, &p->header, sizeof p->header);
  memcpy(scratch + p->header_len, &stamp, sizeof stamp);
  *bytes = scratch + at;
  return head_len(p) - at;
}

size_t pattern_slice(const struct pattern *p, uint32_t id, uint32_t seq, size_t at,
                     char scratch[PATTERN_HEAD_MOST], const char **bytes) {
  size_t filler = head_len(p), end = p->len - p->trailer_len;
  if (at < filler) return head_slice(p, id, seq, at, scratch, bytes);
  *bytes = "\n";
  if (at >= end) return p->len - at;
  size_t i = (shift_of(id, seq) + at - filler) % PATTERN_PERIOD;
  *bytes = p->filler + i;
  return least(end - at, sizeof p->filler - i);
}

bool pattern_is(const struct pattern *p, uint32_t id, uint32_t seq, size_t at, const char *in,
                size_t n) {
  char scratch[PATTERN_HEAD_MOST];
  for (const char *bytes; n;) {
    size_t some = least(n, pattern_slice(p, id, seq, at, scratch, &bytes));
    if (memcmp(in, bytes, some) != 0) return false;
    in += some, at += some, n -= some;
  }
  return true;
}

static void put_slices(const struct pattern *p, uint32_t id, uint32_t seq, char *out) {
  char scratch[PATTERN_HEAD_MOST];
  const char *bytes;
  for (size_t at = 0, n; at < p->len; at += n) {
    n = pattern_slice(p, id, seq, at, scratch, &bytes);
    memcpy(out + at, bytes, n);
  }
}

/* ---- whole messages, fast -------------------------------------------------------- */

/* The stamp is whole and the filler lies together. */
static bool is_simple(const struct pattern *p) {
  return p->size >= PATTERN_STAMP && p->size <= PATTERN_RUN;
}

/* A header that is shorter than four bytes is overwritten in part by the stamp. */
static void put_simple(const struct pattern *p, uint32_t id, uint32_t seq, char *out) {
  uint64_t stamp = stamp_in(p, id, seq);
  char *payload = out + p->header_len;
  memcpy(out, &p->header, sizeof p->header);
  memcpy(payload, &stamp, sizeof stamp);
  memcpy(payload + sizeof stamp, p->filler + shift_of(id, seq), p->size - sizeof stamp);
  if (p->trailer_len) payload[p->size] = '\n';
}

static bool is_simple_right(const struct pattern *p, uint32_t id, uint32_t seq, const char *in) {
  const char *payload = in + p->header_len;
  uint64_t stamp;
  uint32_t header;
  memcpy(&header, in, sizeof header);
  memcpy(&stamp, payload, sizeof stamp);
  return (header & p->header_mask) == p->header && stamp == stamp_in(p, id, seq) &&
         memcmp(payload + sizeof stamp, p->filler + shift_of(id, seq), p->size - sizeof stamp) ==
             0 &&
         (!p->trailer_len || payload[p->size] == '\n');
}

void pattern_put(const struct pattern *p, uint32_t id, uint32_t seq, uint32_t count, char *out) {
  bool simple = is_simple(p);
  for (; count--; seq++, out += p->len) {
    if (simple)
      put_simple(p, id, seq, out);
    else
      put_slices(p, id, seq, out);
  }
}

uint32_t pattern_right(const struct pattern *p, uint32_t id, uint32_t seq, uint32_t count,
                       const char *in) {
  bool simple = is_simple(p);
  for (uint32_t i = 0; i < count; i++, seq++, in += p->len)
    if (simple ? !is_simple_right(p, id, seq, in) : !pattern_is(p, id, seq, 0, in, p->len))
      return i;
  return count;
}

/* ---- the pattern itself ---------------------------------------------------------- */

/* Of all bytes, or for a line of those that every server takes for text within a line. */
static void make_filler(struct pattern *p, bool is_line) {
  uint32_t state = 1;
  for (size_t i = 0; i < sizeof p->filler; i++) {
    if (i >= PATTERN_PERIOD) {
      p->filler[i] = p->filler[i - PATTERN_PERIOD];
      continue;
    }
    state = state * 1664525u + 1013904223u;
    p->filler[i] = (char)(is_line ? ' ' + (state >> 24) % 95 : state >> 24);
  }
}

void pattern_init(struct pattern *p, size_t header_len, bool is_line, size_t size) {
  unsigned char header[PATTERN_HEADER_MOST] = {0}, mask[PATTERN_HEADER_MOST] = {0};
  for (size_t i = 0; i < header_len; i++) {
    header[i] = (unsigned char)(size >> 8 * (header_len - 1 - i));
    mask[i] = 0xFF;
  }
  memcpy(&p->header, header, sizeof header);
  memcpy(&p->header_mask, mask, sizeof mask);
  p->size = size;
  p->header_len = header_len;
  p->trailer_len = is_line ? 1 : 0;
  p->len = header_len + size + p->trailer_len;
  make_filler(p, is_line);
}
