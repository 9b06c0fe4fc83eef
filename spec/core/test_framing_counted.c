/* Messages whose header announces their length (varint, netstring, header): what is written is
 * found again however it is split, and bytes that can be no message never become one.
 *
 * What this is not: the plain length field, which is in test_framing.c and test_framing_write.c. */
#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/core/crc32.h"
#include "framing_probe.h"

static const struct framing varint = {.kind = FRAMING_VARINT, .max = SIZE_MAX};
static const struct framing netstring = {.kind = FRAMING_NETSTRING, .max = SIZE_MAX};
static const struct framing header = {.kind = FRAMING_HEADER,
                                      .size = 2,
                                      .type = 7,
                                      .ends_in_checksum = true,
                                      .prefix = "LW\1",
                                      .prefix_len = 3,
                                      .max = SIZE_MAX};

static struct framing limited(struct framing f, size_t max) {
  f.max = max;
  return f;
}

static struct framing at_offset(uint32_t offset) {
  struct framing f = varint;
  f.offset = offset;
  return f;
}

static void check_cut(struct framing f, const char *p, size_t n, int code, size_t at, size_t len) {
  struct answer a = ask(&f, &(struct scan){0}, p, n, false);
  CHECK_EQ(a.code, code);
  CHECK_EQ(a.cut.at, at);
  CHECK_EQ(a.cut.len, len);
}

/* ---- every split ------------------------------------------------------------------- */

/* All strings of the n letters of up to `longest` bytes, in every split. */
static void check_all_strings(struct framing f, const char *letters, size_t n, size_t longest) {
  char text[8];
  for (size_t len = 0, count = 1; len <= longest; len++, count *= n)
    for (size_t code = 0; code < count; code++) {
      size_t rest = code;
      for (size_t i = 0; i < len; i++, rest /= n) text[i] = letters[rest % n];
      check_every_split(&f, text, len);
    }
}

TEST(finds_varints_however_they_are_split) {
  for (uint32_t offset = 0; offset < 3; offset++) {
    struct framing f = at_offset(offset);
    check_all_strings(f, "\0\1\3\x80\x81", 5, 5);
    check_all_strings(limited(f, 1), "\0\1\3\x80\x81", 5, 5);
  }
}

TEST(finds_netstrings_however_they_are_split) {
  check_all_strings(netstring, "01:,x", 5, 5);
  check_all_strings(limited(netstring, 0), "01:,x", 5, 5);
  check_all_strings(limited(netstring, 10), "012:,", 5, 5);
}

TEST(finds_headers_however_they_are_split) {
  struct framing f = {.kind = FRAMING_HEADER, .prefix = "M\1", .prefix_len = 2, .size = 1};
  check_all_strings(limited(f, 1), "M\1\0x", 4, 6);
}

/* ---- what is written is found ------------------------------------------------------ */

static char *write_message(const struct framing *f, const char *data, size_t n, const char *head,
                           size_t *total) {
  size_t head_len = head ? framing_head_room(f) : 0;
  if (framing_size(f, data, n, head_len, total) != 0) return NULL;
  char *wire = malloc(*total);
  memset(wire, '?', *total);
  framing_encode(f, data, n, head, wire);
  return wire;
}

static void check_wire(struct framing f, const char *data, size_t n, const char *wire,
                       size_t want) {
  size_t total = 0;
  char *got = write_message(&f, data, n, NULL, &total);
  REQUIRE(got != NULL);
  CHECK_MEM(got, total, wire, want);
  free(got);
}

static void check_round_trip(struct framing f, const char *data, size_t n) {
  size_t total = 0;
  char *wire = write_message(&f, data, n, "head", &total);
  REQUIRE(wire != NULL);
  struct answer a = ask(&f, &(struct scan){0}, wire, total, false);
  CHECK_EQ(a.code, 0);
  CHECK_EQ(a.cut.take, total);
  CHECK_MEM(wire + a.cut.at, a.cut.len, data, n);
  CHECK_MEM(wire, framing_head_room(&f), "head", framing_head_room(&f));
  if (f.kind == FRAMING_HEADER) CHECK_EQ(framing_type(&f, wire), 7);
  for (size_t cut = 0; cut < total; cut += 1 + total / 500) {
    CHECK_EQ(ask(&f, &(struct scan){0}, wire, cut, false).code, ERR_AGAIN);
    CHECK_EQ(ask(&f, &(struct scan){0}, wire, cut, true).code, ERR_EOF);
  }
  free(wire);
}

TEST(finds_every_counted_message_that_it_wrote) {
  static const size_t lengths[] = {0,   1,   9,   10,  11,   99,    100,   127,  128,
                                   129, 255, 256, 999, 1000, 16383, 16384, 65535};
  static char data[65536];
  uint32_t state = 5;
  for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(test_random(&state) & 0xff);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    check_round_trip(varint, data, lengths[i]);
    check_round_trip(at_offset(4), data, lengths[i]);
    check_round_trip(netstring, data, lengths[i]);
    check_round_trip(header, data, lengths[i]);
  }
}

static size_t append(struct framing f, char *stream, size_t at, const char *data) {
  size_t total = 0;
  char *wire = write_message(&f, data, strlen(data), NULL, &total);
  memcpy(stream + at, wire, total);
  free(wire);
  return at + total;
}

TEST(finds_one_message_after_another_however_they_are_split) {
  const struct framing kinds[] = {varint, at_offset(3), netstring, header};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    char stream[64];
    size_t n = append(kinds[i], stream, 0, "ab");
    n = append(kinds[i], stream, n, "");
    n = append(kinds[i], stream, n, "c");
    struct answers whole = deliver(&kinds[i], stream, n, 0);
    CHECK_EQ(whole.n, 4);
    CHECK_EQ(whole.list[2].cut.len, 1);
    CHECK_EQ(whole.list[3].code, ERR_EOF);
    check_many_splits(&kinds[i], stream, n);
  }
}

/* The memory behind the header cannot be read: what has come of the data is not looked at, so
 * that bytes which come one by one cost no more for it. */
TEST(looks_at_headers_alone_until_the_message_is_there) {
  static const struct {
    const struct framing *f;
    const char *bytes;
    size_t n;
  } cases[] = {{&varint, "\xac\2", 2}, {&netstring, "300:", 4}, {&header, "LW\1\7\1\x2c", 6}};
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  char *p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(p != MAP_FAILED);
  mprotect(p + page, page, PROT_NONE);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *at = p + page - cases[i].n;
    struct scan s = {0};
    struct cut cut;
    memcpy(at, cases[i].bytes, cases[i].n);
    for (size_t n = 0; n < 300; n++) {
      CHECK_EQ(framing_cut(cases[i].f, &s, at, cases[i].n + n, false, &cut), ERR_AGAIN);
      CHECK(s.need >= cases[i].n + 300);
    }
  }
  munmap(p, 2 * page);
}

/* ---- varint ------------------------------------------------------------------------ */

TEST(reads_varints_as_protobuf_writes_them) {
  static char wire[2 + 300] = {(char)0xac, 2};
  check_cut(varint, wire, sizeof wire, 0, 2, 300);
  check_cut(varint, "\0", 1, 0, 1, 0);
  check_cut(varint, "\1x", 2, 0, 1, 1);
  check_cut(varint, "\x81\x80\0x", 4, 0, 3, 1); /* needless zeros are the writer's matter */
  check_cut(varint, "\x81\x80\x80\x80\x80\x80\x80\x80\x80\0x", 11, 0, 10, 1);
  check_cut(at_offset(2), "hh\1x", 4, 0, 3, 1);
}

TEST(refuses_varints_of_more_than_64_bits) {
  static const char ones[] = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
  static const char most[] = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\1";
  static const char over[] = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\2";
  static const char zeros[] = "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80";
  check_cut(varint, ones, 9, ERR_AGAIN, 0, 0);
  check_cut(varint, ones, 10, ERR_PROTO, 0, 0);
  check_cut(varint, over, 10, ERR_PROTO, 0, 0);
  check_cut(varint, zeros, 10, ERR_PROTO, 0, 0);
  check_cut(varint, most, 10, ERR_MSGSIZE, 0, 0); /* more than there is memory */
  check_cut(at_offset(1), ones, 10, ERR_AGAIN, 0, 0);
  check_every_split(&varint, ones, 10);
  check_every_split(&varint, over, 10);
}

TEST(limits_a_varint_message_by_its_header) {
  struct framing f = limited(varint, 300);
  check_cut(f, "\xac\2", 2, ERR_AGAIN, 0, 0);
  check_cut(f, "\xad\2", 2, ERR_MSGSIZE, 0, 0);
  check_cut(limited(varint, 0), "\1", 1, ERR_MSGSIZE, 0, 0);
  size_t total;
  CHECK_EQ(framing_size(&f, NULL, 300, 0, &total), 0);
  CHECK_EQ(total, 302);
  CHECK_EQ(framing_size(&f, NULL, 301, 0, &total), ERR_MSGSIZE);
}

TEST(writes_varints_as_short_as_can_be) {
  static const struct {
    size_t n, bytes;
  } lengths[] = {{0, 1},     {127, 1},     {128, 2},           {16383, 2},
                 {16384, 3}, {1 << 21, 4}, {(1 << 28) - 1, 4}, {1 << 28, 5}};
  check_wire(varint, "abc", 3, "\3abc", 4);
  check_wire(varint, NULL, 0, "\0", 1);
  check_wire(at_offset(2), "abc", 3, "\0\0\3abc", 6);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    size_t total = 0;
    CHECK_EQ(framing_size(&varint, NULL, lengths[i].n, 0, &total), 0);
    CHECK_EQ(total - lengths[i].n, lengths[i].bytes);
  }
}

TEST(takes_a_head_of_exactly_the_offset) {
  struct framing f = at_offset(2);
  size_t total;
  CHECK_EQ(framing_size(&f, "abc", 3, 2, &total), 0);
  CHECK_EQ(framing_size(&f, "abc", 3, 1, &total), ERR_PROTO);
  CHECK_EQ(framing_size(&f, "abc", 3, 3, &total), ERR_PROTO);
  CHECK_EQ(framing_size(&netstring, "abc", 3, 1, &total), ERR_PROTO);
  CHECK_EQ(framing_size(&header, "abc", 3, 1, &total), ERR_PROTO);
}

/* ---- netstring --------------------------------------------------------------------- */

TEST(reads_netstrings_strictly) {
  check_cut(netstring, "5:hello,", 8, 0, 2, 5);
  check_cut(netstring, "12:hello world!,", 16, 0, 3, 12);
  check_cut(netstring, "0:,", 3, 0, 2, 0);
  check_cut(netstring, "0:", 2, ERR_AGAIN, 0, 0);
  check_cut(netstring, "2:a,,;", 6, 0, 2, 2);
  static const char *const wrong[] = {":,",     "00:,", "01:x,", " 1:x,", "+1:x,",  "-1:x,",
                                      "0x1:x,", "1x",   "1 :x,", "1::;",  "1:xx",   "a",
                                      "\n",     "1,x",  "0:x",   "2:a,;", "3:abc\n"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    check_cut(netstring, wrong[i], strlen(wrong[i]), ERR_PROTO, 0, 0);
    check_every_split(&netstring, wrong[i], strlen(wrong[i]));
  }
}

/* The digit that makes it too much decides, whatever follows. */
TEST(limits_a_netstring_by_its_digits) {
  struct framing f = limited(netstring, 12);
  check_cut(f, "12", 2, ERR_AGAIN, 0, 0);
  check_cut(f, "13", 2, ERR_MSGSIZE, 0, 0);
  check_cut(f, "2", 1, ERR_AGAIN, 0, 0);
  check_cut(f, "20x", 3, ERR_MSGSIZE, 0, 0);
  check_cut(limited(netstring, 0), "0:,", 3, 0, 2, 0);
  check_cut(limited(netstring, 0), "1", 1, ERR_MSGSIZE, 0, 0);
  size_t total;
  CHECK_EQ(framing_size(&f, NULL, 12, 0, &total), 0);
  CHECK_EQ(framing_size(&f, NULL, 13, 0, &total), ERR_MSGSIZE);
}

TEST(survives_netstrings_beyond_all_memory) {
  static const char *const lengths[] = {"18446744073709551615:", "18446744073709551616:",
                                        "99999999999999999999:", "100000000000000000000:"};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
    check_cut(netstring, lengths[i], strlen(lengths[i]), ERR_MSGSIZE, 0, 0);
}

TEST(writes_netstrings) {
  check_wire(netstring, "hello", 5, "5:hello,", 8);
  check_wire(netstring, NULL, 0, "0:,", 3);
  check_wire(netstring, "hello world!", 12, "12:hello world!,", 16);
}

/* ---- header ------------------------------------------------------------------------ */

TEST(computes_the_crc_that_everybody_does) {
  CHECK_EQ(crc32_of("123456789", 9), 0xcbf43926);
  CHECK_EQ(crc32_of("", 0), 0);
  CHECK_EQ(crc32_of("a", 1), 0xe8b7be43);
  CHECK_EQ(crc32_of("The quick brown fox jumps over the lazy dog", 43), 0x414fa339);
  CHECK_EQ(crc32_of("\0\0\0\0", 4), 0x2144df1c);
  CHECK_EQ(crc32_of("\xff\xff\xff\xff", 4), 0xffffffff);
}

TEST(writes_headers_with_their_checksum) {
  struct framing f = header;
  check_wire(header, "hello", 5, "LW\1\7\0\5hello\x51\x5c\x7a\x87", 15);
  f.ends_in_checksum = false;
  f.size = 4;
  check_wire(f, "hello", 5, "LW\1\7\0\0\0\5hello", 13);
}

TEST(refuses_another_prefix_at_its_first_byte) {
  check_cut(header, "L", 1, ERR_AGAIN, 0, 0);
  check_cut(header, "G", 1, ERR_PROTO, 0, 0);
  check_cut(header, "LX", 2, ERR_PROTO, 0, 0);
  check_cut(header, "LW\1", 3, ERR_AGAIN, 0, 0);
  check_cut(header, "LW\2", 3, ERR_PROTO, 0, 0);
}

TEST(limits_a_header_message_by_its_length) {
  struct framing f = limited(header, 5);
  check_cut(f, "LW\1\7\0\5", 6, ERR_AGAIN, 0, 0);
  check_cut(f, "LW\1\7\0\6", 6, ERR_MSGSIZE, 0, 0);
  size_t total;
  CHECK_EQ(framing_size(&f, NULL, 5, 0, &total), 0);
  CHECK_EQ(total, 15);
  CHECK_EQ(framing_size(&f, NULL, 6, 0, &total), ERR_MSGSIZE);
  CHECK_EQ(framing_size(&header, NULL, 65535, 0, &total), 0);
  CHECK_EQ(framing_size(&header, NULL, 65536, 0, &total), ERR_MSGSIZE);
  f = header;
  f.size = 8;
  check_cut(f, "LW\1\7\xff\xff\xff\xff\xff\xff\xff\xff", 12, ERR_MSGSIZE, 0, 0);
  CHECK_EQ(framing_size(&f, NULL, SIZE_MAX - 5, 0, &total), ERR_MSGSIZE);
}

/* ---- corruption -------------------------------------------------------------------- */

/* Every byte at [from, to) takes every other value: no message may come of it. */
static void check_corruption(const struct framing *f, char *wire, size_t n, size_t from,
                             size_t to) {
  for (size_t at = from; at < to; at++) {
    char right = wire[at];
    for (int v = 0; v < 256; v++) {
      if ((char)v == right) continue;
      wire[at] = (char)v;
      int code = ask(f, &(struct scan){0}, wire, n, true).code;
      CHECK(code == ERR_PROTO || code == ERR_MSGSIZE);
      struct answers bytewise = deliver(f, wire, n, UINT32_MAX);
      CHECK(bytewise.n == 1 && bytewise.list[0].code == code);
    }
    wire[at] = right;
  }
}

TEST(no_corrupt_byte_makes_a_header_message) {
  char wire[32];
  struct framing f = limited(header, 11);
  size_t n = append(f, wire, 0, "hello world");
  CHECK_EQ(ask(&f, &(struct scan){0}, wire, n, true).code, 0);
  check_corruption(&f, wire, n, 0, n);
}

TEST(no_corrupt_byte_around_its_data_makes_a_netstring) {
  char wire[32];
  struct framing f = limited(netstring, 11);
  size_t n = append(f, wire, 0, "hello world");
  CHECK_EQ(ask(&f, &(struct scan){0}, wire, n, true).code, 0);
  check_corruption(&f, wire, n, 0, 3);
  check_corruption(&f, wire, n, n - 1, n);
}
