/* A TLS session as a link: how what is written to it becomes records, with the wire in the test's
 * hands.
 * What this is not: whether TLS is kept to (the specs of TLS, against other programs). */
#include "tls_wire.h"

enum {
  RECORD = 16 * 1024,
  HEAD = 5,         /* of a record */
  ADDED = HEAD + 17 /* what TLS 1.3 adds to the data of one, with AES-GCM */
};

/* The lengths of the records that were on the wire -> how many. */
static size_t records(const struct wire *w, size_t *lens, size_t most) {
  size_t n = 0;
  for (size_t at = 0; at + HEAD <= w->taken_len && n < most; n++) {
    const unsigned char *p = (const unsigned char *)w->taken + at;
    lens[n] = HEAD + ((size_t)p[3] << 8 | p[4]);
    at += lens[n];
  }
  return n;
}

/* All of it goes through, in records that are full but for the last. */
static void check_vector(struct wire *w, const struct iovec *v, int count, const char *data,
                         size_t len) {
  size_t lens[64], full = len / RECORD, rest = len % RECORD;
  CHECK_EQ(w->client.link->ops->write(w->client.link, v, count), len);
  TURN_UNTIL(&w->turn, (wire_pump(w), w->got_len >= len));
  CHECK_MEM(w->got, w->got_len, data, len);
  CHECK_EQ(records(w, lens, 64), full + (rest > 0));
  for (size_t i = 0; i < full; i++) CHECK_EQ(lens[i], RECORD + ADDED);
  if (rest) CHECK_EQ(lens[full], rest + ADDED);
  w->got_len = w->taken_len = 0;
}

static void check_pieces(const size_t *lens, int count) {
  static char data[3 * RECORD];
  struct iovec v[16];
  struct wire w;
  size_t len = 0;
  for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(i * 7 + i / 251);
  for (int i = 0; i < count; len += lens[i++])
    v[i] = (struct iovec){.iov_base = data + len, .iov_len = lens[i]};
  wire_open(&w);
  check_vector(&w, v, count, data, len);
  wire_close(&w);
}

#define CHECK_PIECES(...)                                                                          \
  do {                                                                                             \
    const size_t lens_[] = {__VA_ARGS__};                                                          \
    check_pieces(lens_, (int)(sizeof lens_ / sizeof *lens_));                                      \
  } while (0)

TEST(short_pieces_leave_in_one_record) { CHECK_PIECES(2, 64, 2, 64, 2, 0, 64, 1); }

TEST(a_header_fills_the_record_of_its_message) { CHECK_PIECES(4, 2 * RECORD + 100); }

TEST(pieces_that_end_within_a_record_share_it) {
  CHECK_PIECES(RECORD - 1, 2, RECORD, 0, RECORD - 5);
  CHECK_PIECES(0, RECORD, 1, 0);
}
