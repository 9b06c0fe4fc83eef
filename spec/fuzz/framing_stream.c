/* The inputs of the target "framing": see framing_stream.h. */
#include "framing_stream.h"

enum { OFFSET_MOST = 65536, LITERAL_MOST = 32, LONG_MOST = 100 * 1000, COPY_MOST = 4096 };

/* ---- the framing --------------------------------------------------------------------- */

/* Mostly small, so that limits matter; now and then at an end of the range. */
static size_t read_limit(struct input *in) {
  static const size_t ends[] = {1, SIZE_MAX, SIZE_MAX - 1, PTRDIFF_MAX, UINT32_MAX};
  uint32_t way = input_below(in, 8);
  if (way == 7) return ends[input_below(in, 5)];
  if (way == 6) return (size_t)input_bytes(in, 8) | 1;
  return 1 + input_below(in, way < 4 ? 256 : 200 * 1000);
}

static int64_t read_adjust(struct input *in) {
  uint32_t way = input_below(in, 4);
  if (way == 0) return (int8_t)input_byte(in);
  return way == 1 ? (int64_t)input_bytes(in, 8) : 0;
}

static uint32_t read_small(struct input *in, uint32_t most) {
  uint32_t way = input_below(in, 8);
  if (way < 4) return 0;
  return way < 7 ? input_below(in, 12) : input_below(in, most + 1);
}

static void read_bytes(struct stream_input *s, struct input *in, size_t most) {
  size_t n = 1 + input_below(in, (uint32_t)most);
  for (size_t i = 0; i < n; i++) s->bytes[i] = (char)input_byte(in);
  s->f.prefix = s->bytes;
  s->f.prefix_len = n;
}

static void read_length(struct framing *f, struct input *in) {
  f->offset = read_small(in, OFFSET_MOST);
  f->strip = input_bool(in) ? f->offset + f->size : read_small(in, INT32_MAX);
  f->adjust = read_adjust(in);
}

static void read_framing(struct stream_input *s, struct input *in) {
  static const uint8_t sizes[] = {1, 2, 3, 4, 8};
  struct framing *f = &s->f;
  uint8_t flags = input_byte(in);
  f->kind = input_byte(in) % (FRAMING_HEADER + 1);
  f->keep = flags & 1;
  f->last = flags & 2;
  f->little = flags & 4;
  f->includes_header = flags & 8;
  f->ends_in_checksum = flags & 16;
  f->at_least = flags & 32;
  f->size = sizes[input_below(in, 5)];
  f->max = read_limit(in);
  f->type = input_byte(in);
  if (f->kind == FRAMING_FIXED) f->count = input_bool(in) ? input_below(in, 64) : read_limit(in);
  if (f->kind == FRAMING_LENGTH) read_length(f, in);
  if (f->kind == FRAMING_VARINT) f->offset = read_small(in, OFFSET_MOST);
  if (f->kind == FRAMING_DELIMITER) read_bytes(s, in, FIELD_BYTES);
  if (f->kind == FRAMING_HEADER) read_bytes(s, in, FIELD_BYTES);
  s->plan.end = (enum stream_end)input_below(in, 3);
  s->plan.skips = flags & 64;
  s->plan.unreads = flags & 128;
  s->plan.rests = input_bool(in);
}

static size_t plus(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }

size_t stream_wire_limit(const struct framing *f) {
  const size_t most_digits = 21, crc = 4;
  size_t head = f->offset + (size_t)f->size, longer = head > f->strip ? head : f->strip;
  switch ((enum framing_kind)f->kind) {
  case FRAMING_LENGTH:
    return plus(longer, f->max);
  case FRAMING_VARINT:
    return plus(f->offset + most_digits, f->max);
  case FRAMING_NETSTRING:
    return plus(most_digits, f->max);
  case FRAMING_HEADER:
    return plus(f->prefix_len + 1 + f->size + crc, f->max);
  case FRAMING_DELIMITER:
    return plus(f->delimiter_len, f->max);
  default:
    return plus(2, f->max);
  }
}

/* ---- the stream ---------------------------------------------------------------------- */

static char *grow(struct stream_input *s, size_t n) {
  s->p = realloc(s->p, s->n + n + 1);
  FUZZ_CHECK(s->p);
  s->n += n;
  return s->p + s->n - n;
}

static void add(struct stream_input *s, const char *p, size_t n) {
  if (s->n + n <= STREAM_MOST && n) memcpy(grow(s, n), p, n);
}

static void add_run(struct stream_input *s, uint8_t byte, size_t n) {
  if (s->n + n <= STREAM_MOST) memset(grow(s, n), byte, n);
}

static void add_message(struct stream_input *s, const char *p, size_t n) {
  size_t total;
  if (framing_size(&s->f, p, n, 0, &total) != 0 || total > STREAM_MOST - s->n) return;
  framing_encode(&s->f, p, n, NULL, grow(s, total));
}

static void add_long_message(struct stream_input *s, struct input *in) {
  size_t n = input_below(in, LONG_MOST);
  char *p = malloc(n ? n : 1);
  FUZZ_CHECK(p);
  for (size_t i = 0; i < n; i++) p[i] = (char)('a' + i % 23);
  add_message(s, p, n);
  free(p);
}

static void add_end(struct stream_input *s, struct input *in) {
  uint32_t way = input_below(in, 4);
  if (way < 2)
    add(s, "\r\n", 2);
  else if (way == 2 || !s->f.prefix_len)
    add(s, "\n", 1);
  else
    add(s, s->bytes, s->f.prefix_len);
}

static void add_again(struct stream_input *s, struct input *in) {
  size_t n = input_below(in, COPY_MOST);
  if (n > s->n) n = s->n;
  char *copy = fuzz_copy(s->p + s->n - n, n, 0);
  add(s, copy, n);
  free(copy);
}

static void read_piece(struct stream_input *s, struct input *in) {
  uint8_t what = input_byte(in) % 8, byte;
  size_t n;
  const char *p;
  if (what == 2) {
    byte = input_byte(in);
    add_run(s, byte, input_below(in, LONG_MOST));
  } else if (what == 4) {
    add_long_message(s, in);
  } else if (what == 5) {
    add_end(s, in);
  } else if (what == 6) {
    add_again(s, in);
  } else {
    p = input_take(in, what == 7 ? in->left : 1 + input_below(in, LITERAL_MOST), &n);
    (what == 3 ? add_message : add)(s, p, n);
  }
}

void stream_init(struct stream_input *s, const uint8_t *data, size_t size) {
  struct input in = {data, size};
  *s = (struct stream_input){.n = 0};
  for (size_t i = 0; i < size; i++) s->plan.seed = s->plan.seed * 31 + data[i];
  read_framing(s, &in);
  grow(s, 0);
  while (in.left) read_piece(s, &in);
}

void stream_fini(struct stream_input *s) { free(s->p); }
