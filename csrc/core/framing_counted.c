/* Messages whose header announces their length: see framing.h.
 *
 * On the wire: header, data, trailer.  One function for each kind reads its header, from the
 * left and no further than the first byte that decides, so that the answer does not depend on
 * how the bytes came; another writes it.
 * What this is not: the search for an end in the data (framing.c). */
#include "crc32.h"
#include "framing_internal.h"

enum { VARINT_LAST = 9, CRC_BYTES = 4 }; /* the tenth byte of a varint holds the 64th bit */

/* ---- the length field ------------------------------------------------------------ */

static inline size_t field_start(const struct framing *f) {
  return f->kind == FRAMING_HEADER ? f->prefix_len + 1 : f->offset;
}

static inline size_t header_len(const struct framing *f) { return field_start(f) + f->size; }

static inline uint64_t field_get(const struct framing *f, const char *p) {
  const unsigned char *at = (const unsigned char *)p + field_start(f);
  uint64_t v = 0;
  if (f->little)
    for (unsigned i = f->size; i-- > 0;) v = v << 8 | at[i];
  else
    for (unsigned i = 0; i < f->size; i++) v = v << 8 | at[i];
  return v;
}

static inline void field_put(const struct framing *f, char *p, uint64_t v) {
  char *at = p + field_start(f);
  if (f->little)
    for (unsigned i = 0; i < f->size; i++, v >>= 8) at[i] = (char)(v & 0xff);
  else
    for (unsigned i = f->size; i-- > 0; v >>= 8) at[i] = (char)(v & 0xff);
}

static inline bool field_holds(const struct framing *f, uint64_t v) {
  return f->size >= 8 || v >> (8 * f->size) == 0;
}

/* LENGTH alone: bytes on the wire = value + bias. false: more than any number of bytes in memory.
 */
static inline bool field_bias(const struct framing *f, int64_t *bias) {
  uint64_t uncounted = f->includes_header ? 0 : f->offset + (uint64_t)f->size;
  return !__builtin_add_overflow(uncounted, f->adjust, bias);
}

/* What the value v announces -> *total. */
static inline int wire_total(const struct framing *f, uint64_t v, size_t *total) {
  int64_t bias;
  if (!field_bias(f, &bias)) return ERR_MSGSIZE;
  if (__builtin_add_overflow(v, bias, total))
    return bias < 0 && v < 0 - (uint64_t)bias ? ERR_PROTO : ERR_MSGSIZE;
  if (*total < f->offset + (size_t)f->size || *total < f->strip) return ERR_PROTO;
  return *total - f->strip > f->max ? ERR_MSGSIZE : 0;
}

/* The value for a message of `total` bytes on the wire -> *v. */
static inline int wire_value(const struct framing *f, size_t total, uint64_t *v) {
  int64_t bias;
  if (!field_bias(f, &bias) || __builtin_sub_overflow(total, bias, v) || !field_holds(f, *v))
    return ERR_MSGSIZE;
  return 0;
}

/* ---- reading headers ------------------------------------------------------------- */

static inline size_t trailer_len(const struct framing *f) {
  if (f->kind == FRAMING_NETSTRING) return 1;
  return f->kind == FRAMING_HEADER && f->ends_in_checksum ? CRC_BYTES : 0;
}

/* A header of so many bytes and v bytes of data -> *total. */
static int data_total(const struct framing *f, size_t header, uint64_t v, size_t *total) {
  if (v > f->max || __builtin_add_overflow(v, header + trailer_len(f), total)) return ERR_MSGSIZE;
  return 0;
}

static int read_varint(const struct framing *f, const char *p, size_t n, size_t *header,
                       size_t *total) {
  uint64_t v = 0;
  *header = f->offset;
  for (unsigned i = 0;; i++) {
    if ((*header)++ >= n) return ERR_AGAIN;
    unsigned char b = (unsigned char)p[*header - 1];
    if (i == VARINT_LAST && b > 1) return ERR_PROTO;
    v |= (uint64_t)(b & 0x7f) << 7 * i;
    if (b < 0x80) return data_total(f, *header, v, total);
  }
}

/* The limit bounds the digits: none may be a needless zero. */
static int read_netstring(const struct framing *f, const char *p, size_t n, size_t *header,
                          size_t *total) {
  size_t v = 0;
  for (*header = 1; *header <= n; (*header)++) {
    char c = p[*header - 1];
    bool first = *header == 1;
    if (c == ':' && !first) return data_total(f, *header, v, total);
    if (c < '0' || c > '9' || (v == 0 && !first)) return ERR_PROTO;
    if (__builtin_mul_overflow(v, (size_t)10, &v) ||
        __builtin_add_overflow(v, (size_t)(c - '0'), &v) || v > f->max)
      return ERR_MSGSIZE;
  }
  return ERR_AGAIN;
}

static int read_field(const struct framing *f, const char *p, size_t n, size_t *header,
                      size_t *total) {
  *header = header_len(f);
  if (n && memcmp(p, f->prefix, smaller(n, f->prefix_len)) != 0) return ERR_PROTO;
  if (n < *header) return ERR_AGAIN;
  return data_total(f, *header, field_get(f, p), total);
}

/* 0: *header bytes announce a message that takes *total; ERR_AGAIN: *header bytes are needed to
 * know more. */
static int read_header(const struct framing *f, const char *p, size_t n, size_t *header,
                       size_t *total) {
  if (f->kind == FRAMING_VARINT) return read_varint(f, p, n, header, total);
  if (f->kind == FRAMING_NETSTRING) return read_netstring(f, p, n, header, total);
  return read_field(f, p, n, header, total);
}

/* ---- trailers -------------------------------------------------------------------- */

/* Ends the message of `total` bytes at p, whose other bytes are there. */
static void put_trailer(const struct framing *f, char *p, size_t total) {
  size_t k = trailer_len(f);
  char *at = p + (total - k);
  if (k == 1) *at = ',';
  if (k != CRC_BYTES) return;
  uint32_t crc = crc32_of(p, total - k);
  for (unsigned i = 0; i < CRC_BYTES; i++) at[i] = (char)(crc >> (24 - 8 * i) & 0xff);
}

static bool has_trailer(const struct framing *f, const char *p, size_t total) {
  size_t k = trailer_len(f);
  const char *at = p + (total - k);
  if (k == 1) return *at == ',';
  uint32_t crc = k ? crc32_of(p, total - k) : 0;
  for (unsigned i = 0; i < k; i++)
    if ((unsigned char)at[i] != (crc >> (24 - 8 * i) & 0xff)) return false;
  return true;
}

/* The commonest kind takes the shortest way. */
static int length_cut(const struct framing *f, struct scan *s, const char *p, size_t n, bool ended,
                      struct cut *cut) {
  size_t header = f->offset + (size_t)f->size, total;
  if (n < header) return not_yet(s, header, ended);
  int r = wire_total(f, field_get(f, p), &total);
  if (r) return r;
  return n < total ? not_yet(s, total, ended) : found(cut, f->strip, total - f->strip, total);
}

int counted_cut(const struct framing *f, struct scan *s, const char *p, size_t n, bool ended,
                struct cut *cut) {
  size_t header, total;
  if (f->kind == FRAMING_LENGTH) return length_cut(f, s, p, n, ended, cut);
  int r = read_header(f, p, n, &header, &total);
  if (r == ERR_AGAIN) return not_yet(s, header, ended);
  if (r) return r;
  if (n < total) return not_yet(s, total, ended);
  if (!has_trailer(f, p, total)) return ERR_PROTO;
  return found(cut, header, total - trailer_len(f) - header, total);
}

/* ---- writing --------------------------------------------------------------------- */

static size_t varint_len(uint64_t v) {
  size_t k = 1;
  while (v >>= 7) k++;
  return k;
}

static size_t decimal_len(size_t v) {
  size_t k = 1;
  while (v /= 10) k++;
  return k;
}

/* Bytes before the data. */
static size_t written_header(const struct framing *f, size_t n) {
  if (f->kind == FRAMING_VARINT) return f->offset + varint_len(n);
  return f->kind == FRAMING_NETSTRING ? decimal_len(n) + 1 : header_len(f);
}

static int length_size(const struct framing *f, size_t n, size_t *total) {
  uint64_t v;
  if (n > f->max || __builtin_add_overflow(n, f->strip, total)) return ERR_MSGSIZE;
  if (*total < f->offset + (size_t)f->size) return ERR_PROTO;
  return wire_value(f, *total, &v);
}

int counted_size(const struct framing *f, size_t n, size_t *total) {
  if (f->kind == FRAMING_LENGTH) return length_size(f, n, total);
  if (n > f->max || __builtin_add_overflow(n, written_header(f, n) + trailer_len(f), total))
    return ERR_MSGSIZE;
  return f->kind == FRAMING_HEADER && !field_holds(f, n) ? ERR_MSGSIZE : 0;
}

static void put_varint(char *out, uint64_t v) {
  for (; v >= 0x80; v >>= 7) *out++ = (char)((v & 0x7f) | 0x80);
  *out = (char)v;
}

static void put_decimal(char *end, size_t v) {
  do *--end = (char)('0' + v % 10);
  while (v /= 10);
}

/* VARINT: over bytes that are zero but for the head. */
static void put_header(const struct framing *f, char *out, size_t n) {
  if (f->kind == FRAMING_VARINT) {
    put_varint(out + f->offset, n);
  } else if (f->kind == FRAMING_NETSTRING) {
    out[decimal_len(n)] = ':';
    put_decimal(out + decimal_len(n), n);
  } else {
    *put(out, f->prefix, f->prefix_len) = (char)f->type;
    field_put(f, out, n);
  }
}

/* `strip` bytes, the head and zeros behind it, and over them the field where it belongs, which
 * may be over the data's. */
void length_header(const struct framing *f, size_t n, const char *head, char *out) {
  uint64_t v = 0;
  if (f->strip != f->size || f->offset) memset(out, 0, f->strip);
  if (head) put(out, head, framing_head_room(f));
  wire_value(f, f->strip + n, &v);
  field_put(f, out, v);
}

void counted_encode(const struct framing *f, const char *data, size_t n, const char *head,
                    char *out) {
  if (f->kind == FRAMING_LENGTH) {
    put(out + f->strip, data, n);
    length_header(f, n, head, out);
    return;
  }
  size_t header = written_header(f, n);
  memset(out, 0, header);
  if (head) put(out, head, framing_head_room(f));
  put(out + header, data, n);
  put_header(f, out, n);
  put_trailer(f, out, header + n + trailer_len(f));
}
