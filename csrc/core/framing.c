/* Where a message ends, and how one is written: see framing.h.
 *
 * The part that finds and the part that writes share what they must agree on: where a line's
 * text ends.
 * What this is not: the framings whose header announces a length (framing_counted.c). */
#include "framing.h"

#include <string.h>

#include "err.h"
#include "framing_internal.h"

/* ---- finding --------------------------------------------------------------------- */

static int cut_raw(const struct framing *f, struct scan *s, size_t n, bool ended, struct cut *cut) {
  size_t len = smaller(n, f->max);
  return n ? found(cut, 0, len, len) : not_yet(s, 1, ended);
}

/* The end of the stream ends this message, even an empty one: like a file's "a", it never
 * fails for want of bytes. */
static int cut_all(const struct framing *f, struct scan *s, size_t n, bool ended, struct cut *cut) {
  if (n > f->max) return ERR_MSGSIZE;
  return ended ? found(cut, 0, n, n) : not_yet(s, n + 1, false);
}

static int cut_fixed(const struct framing *f, struct scan *s, size_t n, bool ended,
                     struct cut *cut) {
  if (f->count > f->max) return ERR_MSGSIZE;
  return n >= f->count ? found(cut, 0, f->count, f->count) : not_yet(s, f->count, ended);
}

/* No terminator in n bytes: is what the end of the stream left a message? */
static int cut_rest(const struct framing *f, struct scan *s, size_t n, bool ended,
                    struct cut *cut) {
  if (!ended || !f->last || n == 0) return not_yet(s, n + 1, ended);
  return n > f->max ? ERR_MSGSIZE : found(cut, 0, n, n);
}

/* How many of n bytes can matter for a terminator of k bytes: a limit bounds the work too. */
static inline size_t window(const struct framing *f, size_t n, size_t k) {
  return n > f->max && n - f->max > k ? f->max + k : n;
}

/* Length of the text of a line whose \n is, or will be, at `end`. */
static inline size_t line_text(const char *p, size_t end) {
  return end && p[end - 1] == '\r' ? end - 1 : end;
}

/* The terminator is two bytes at most; a last byte of \r may be the first of them. */
static int cut_line(const struct framing *f, struct scan *s, const char *p, size_t n, bool ended,
                    struct cut *cut) {
  size_t in = window(f, n, 2);
  const char *hit = in > s->seen ? memchr(p + s->seen, '\n', in - s->seen) : NULL;
  if (hit) {
    size_t end = (size_t)(hit - p), len = line_text(p, end);
    return len > f->max ? ERR_MSGSIZE : found(cut, 0, f->keep ? end + 1 : len, end + 1);
  }
  if (in > s->seen) s->seen = line_text(p, in);
  return line_text(p, in) > f->max ? ERR_MSGSIZE : cut_rest(f, s, n, ended, cut);
}

/* The last k - 1 bytes are looked at again with the next ones: an end may begin in them. */
static int cut_delimiter(const struct framing *f, struct scan *s, const char *p, size_t n,
                         bool ended, struct cut *cut) {
  size_t k = f->delimiter_len, in = window(f, n, k);
  if (in >= k && in - k >= s->seen) {
    const char *hit = memmem(p + s->seen, in - s->seen, f->delimiter, k);
    if (hit) {
      size_t len = (size_t)(hit - p);
      return found(cut, 0, f->keep ? len + k : len, len + k);
    }
    s->seen = in - k + 1;
  }
  return s->seen > f->max ? ERR_MSGSIZE : cut_rest(f, s, n, ended, cut);
}

int framing_cut(const struct framing *f, struct scan *s, const char *p, size_t n, bool ended,
                struct cut *cut) {
  switch ((enum framing_kind)f->kind) {
  case FRAMING_RAW:
    return cut_raw(f, s, n, ended, cut);
  case FRAMING_ALL:
    return cut_all(f, s, n, ended, cut);
  case FRAMING_FIXED:
    return cut_fixed(f, s, n, ended, cut);
  case FRAMING_LINE:
    return cut_line(f, s, p, n, ended, cut);
  case FRAMING_DELIMITER:
    return cut_delimiter(f, s, p, n, ended, cut);
  case FRAMING_LENGTH:
  case FRAMING_VARINT:
  case FRAMING_NETSTRING:
  case FRAMING_HEADER:
    return counted_cut(f, s, p, n, ended, cut);
  }
  return ERR_INVAL;
}

/* ---- writing --------------------------------------------------------------------- */

/* The terminator that is appended; *len 0: the data brings its own, or there is none. */
static const char *appended(const struct framing *f, const char *data, size_t n, size_t *len) {
  bool line = f->kind == FRAMING_LINE;
  const char *end = line ? "\n" : f->delimiter;
  *len = line ? 1 : f->kind == FRAMING_DELIMITER ? f->delimiter_len : 0;
  if (f->keep && *len && n >= *len && memcmp(data + n - *len, end, *len) == 0) *len = 0;
  return end;
}

static int size_line(const struct framing *f, const char *data, size_t n, size_t *total) {
  size_t added;
  appended(f, data, n, &added);
  size_t end = added ? n : n - 1; /* where the \n is or will be */
  if (end && memchr(data, '\n', end)) return ERR_PROTO;
  *total = n + added;
  return line_text(data, end) > f->max ? ERR_MSGSIZE : 0;
}

/* Would the delimiter, written behind the data, be found earlier: begun by the data's last
 * bytes ("a-" and "--")?  At most k compares that fail at once unless the delimiter repeats
 * itself. */
static bool joins_early(const struct framing *f, const char *data, size_t n) {
  const char *d = f->delimiter;
  size_t k = f->delimiter_len;
  for (size_t j = smaller(n, k - 1); j > 0; j--)
    if (memcmp(d, d + j, k - j) == 0 && memcmp(data + n - j, d, j) == 0) return true;
  return false;
}

static int size_delimiter(const struct framing *f, const char *data, size_t n, size_t *total) {
  size_t added, k = f->delimiter_len;
  appended(f, data, n, &added);
  const char *hit = n >= k ? memmem(data, n, f->delimiter, k) : NULL;
  size_t end = added ? n : n - k; /* where the delimiter is or will be */
  if (hit ? added || (size_t)(hit - data) != end : joins_early(f, data, n)) return ERR_PROTO;
  *total = n + added;
  return end > f->max ? ERR_MSGSIZE : 0;
}

int framing_size(const struct framing *f, const char *data, size_t n, size_t head_len,
                 size_t *total) {
  if (head_len && head_len != framing_head_room(f)) return ERR_PROTO;
  if (framing_is_counted(f)) return counted_size(f, n, total);
  if (f->kind == FRAMING_LINE) return size_line(f, data, n, total);
  if (f->kind == FRAMING_DELIMITER) return size_delimiter(f, data, n, total);
  *total = n;
  return n > f->max || (f->kind == FRAMING_FIXED && n != f->count) ? ERR_MSGSIZE : 0;
}

void framing_encode(const struct framing *f, const char *data, size_t n, const char *head,
                    char *out) {
  size_t added;
  if (framing_is_counted(f)) {
    counted_encode(f, data, n, head, out);
    return;
  }
  const char *end = appended(f, data, n, &added);
  put(put(out, data, n), end, added);
}

int framing_lead(const struct framing *f, size_t n, const char *head, char out[FRAMING_LEAD_MOST]) {
  if (f->kind == FRAMING_RAW || f->kind == FRAMING_ALL || f->kind == FRAMING_FIXED) return 0;
  if (f->kind != FRAMING_LENGTH || f->strip > FRAMING_LEAD_MOST || f->strip < f->offset + f->size)
    return -1;
  length_header(f, n, head, out);
  return (int)f->strip;
}
