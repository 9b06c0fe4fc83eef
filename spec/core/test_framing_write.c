/* Writing messages: what is written is found again, byte for byte, and what could not be is
 * refused.  Finding them is in test_framing.c.
 *
 * What this is not: a test of sending; the bytes go to arrays. */
#include "../../csrc/core/framing.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/core/err.h"
#include "test.h"

/* Whoever writes the header alone, and the data behind it, writes the same. */
static void check_lead(const struct framing *f, const char *data, size_t n, const char *head,
                       const char *wire, size_t total) {
  char lead[FRAMING_LEAD_MOST];
  int k = framing_lead(f, n, head, lead);
  if (k < 0) return;
  CHECK_MEM(lead, (size_t)k, wire, (size_t)k < total ? (size_t)k : total);
  CHECK_MEM(data, n, wire + k, total - (size_t)k);
}

TEST(writes_the_header_alone_of_packages_and_no_header_of_what_has_none) {
  char lead[FRAMING_LEAD_MOST];
  const struct framing pkg = {.kind = FRAMING_LENGTH, .size = 4, .strip = 4, .max = SIZE_MAX};
  const struct framing whole = {.kind = FRAMING_LENGTH, .size = 4, .max = SIZE_MAX};
  CHECK_EQ(framing_lead(&pkg, 0x01020304, NULL, lead), 4);
  CHECK_MEM(lead, 4, "\1\2\3\4", 4);
  CHECK_EQ(framing_lead(&(struct framing){.kind = FRAMING_RAW, .max = 9}, 9, NULL, lead), 0);
  CHECK_EQ(framing_lead(&(struct framing){.kind = FRAMING_LINE, .max = 9}, 9, NULL, lead), -1);
  CHECK_EQ(framing_lead(&whole, 100, NULL, lead), -1); /* its field is among the data */
}

/* The message on the wire, in memory of exactly its size, for the caller to free; NULL: it
 * was refused. */
static char *write_message(const struct framing *f, const char *data, size_t n, const char *head,
                           size_t head_len, size_t *total) {
  if (framing_size(f, data, n, head_len, total) != 0) return NULL;
  char *wire = malloc(*total ? *total : 1);
  memset(wire, '?', *total);
  framing_encode(f, data, n, head, wire);
  check_lead(f, data, n, head, wire, *total);
  return wire;
}

static void check_wire(const struct framing *f, const char *data, size_t n, const char *wire,
                       size_t want) {
  size_t total = 0;
  char *got = write_message(f, data, n, NULL, 0, &total);
  REQUIRE(got != NULL);
  CHECK_MEM(got, total, wire, want);
  free(got);
}

static void check_refused(const struct framing *f, const char *data, size_t n, int code) {
  size_t total;
  CHECK_EQ(framing_size(f, data, n, 0, &total), code);
}

/* ---- terminators ----------------------------------------------------------------- */

TEST(ends_a_line_once) {
  struct framing f = {.kind = FRAMING_LINE, .max = 3};
  check_wire(&f, "abc", 3, "abc\n", 4);
  check_wire(&f, NULL, 0, "\n", 1);
  check_wire(&f, "ab\r", 3, "ab\r\n", 4);
  check_wire(&f, "abc\r", 4, "abc\r\n", 5);
  check_refused(&f, "abcd", 4, ERR_MSGSIZE);
  check_refused(&f, "a\n", 2, ERR_PROTO);
  check_refused(&f, "a\nb", 3, ERR_PROTO);
  f.keep = true;
  check_wire(&f, "abc\n", 4, "abc\n", 4);
  check_wire(&f, "abc\r\n", 5, "abc\r\n", 5);
  check_wire(&f, "\n", 1, "\n", 1);
  check_wire(&f, "abc", 3, "abc\n", 4);
  check_refused(&f, "a\n\n", 3, ERR_PROTO);
  check_refused(&f, "abcd\n", 5, ERR_MSGSIZE);
}

TEST(ends_a_delimited_message_once) {
  struct framing f = {.kind = FRAMING_DELIMITER, .max = 3, .delimiter = "--", .delimiter_len = 2};
  check_wire(&f, "abc", 3, "abc--", 5);
  check_wire(&f, NULL, 0, "--", 2);
  check_wire(&f, "-a", 2, "-a--", 4);
  check_refused(&f, "a--", 3, ERR_PROTO);
  check_refused(&f, "abcd", 4, ERR_MSGSIZE);
  f.keep = true;
  check_wire(&f, "abc--", 5, "abc--", 5);
  check_wire(&f, "--", 2, "--", 2);
  check_refused(&f, "----", 4, ERR_PROTO);
  check_refused(&f, "abcd--", 6, ERR_MSGSIZE);
}

/* The delimiter would be found before its place: the next message would begin with its
 * rest. */
TEST(refuses_data_that_runs_into_the_delimiter) {
  struct framing f = {.kind = FRAMING_DELIMITER, .max = 9, .delimiter = "--", .delimiter_len = 2};
  check_refused(&f, "a-", 2, ERR_PROTO);
  check_refused(&f, "-", 1, ERR_PROTO);
  f.delimiter = "aba";
  f.delimiter_len = 3;
  check_refused(&f, "xab", 3, ERR_PROTO);
  check_wire(&f, "xa", 2, "xaaba", 5);
  f.keep = true;
  check_refused(&f, "ababa", 5, ERR_PROTO);
  check_wire(&f, "xaba", 4, "xaba", 4);
}

/* Whatever is accepted comes out as one message, whatever would not is refused. */
static void check_accepted_iff_found(const struct framing *f, const char *data, size_t n) {
  struct cut cut = {0};
  size_t total = 0, k = f->delimiter_len;
  char *wire = write_message(f, data, n, NULL, 0, &total);
  if (wire) {
    CHECK_EQ(framing_cut(f, &(struct scan){0}, wire, total, false, &cut), 0);
    CHECK_EQ(cut.take, total);
    CHECK_EQ(cut.len, f->keep ? total : n);
    CHECK_MEM(wire, n, data, n);
    free(wire);
    return;
  }
  char plain[32];
  bool brought = f->keep && n >= k && memcmp(data + n - k, f->delimiter, k) == 0;
  memcpy(plain, data, n);
  memcpy(plain + n, f->delimiter, brought ? 0 : k);
  total = brought ? n : n + k;
  CHECK_EQ(framing_cut(f, &(struct scan){0}, plain, total, false, &cut), 0);
  CHECK(cut.take < total);
}

TEST(accepts_exactly_what_will_be_found) {
  static const char *const delimiters[] = {"a", "ab", "aa", "aba", "aab", "abab", "aaaa"};
  for (size_t i = 0; i < 2 * sizeof delimiters / sizeof *delimiters; i++) {
    struct framing f = {.kind = FRAMING_DELIMITER, .keep = i & 1, .max = SIZE_MAX};
    f.delimiter = delimiters[i / 2];
    f.delimiter_len = strlen(f.delimiter);
    for (size_t n = 0; n <= 8; n++)
      for (unsigned code = 0; code < 1u << n; code++) {
        char data[8];
        for (size_t b = 0; b < n; b++) data[b] = code >> b & 1 ? 'b' : 'a';
        check_accepted_iff_found(&f, data, n);
      }
  }
}

/* ---- counts ---------------------------------------------------------------------- */

TEST(writes_plain_kinds_as_they_are) {
  struct framing f = {.kind = FRAMING_FIXED, .count = 3, .max = 3};
  check_wire(&f, "abc", 3, "abc", 3);
  check_refused(&f, "ab", 2, ERR_MSGSIZE);
  check_refused(&f, "abcd", 4, ERR_MSGSIZE);
  f = (struct framing){.kind = FRAMING_RAW, .max = 3};
  check_wire(&f, "abc", 3, "abc", 3);
  check_wire(&f, NULL, 0, "", 0);
  check_refused(&f, "abcd", 4, ERR_MSGSIZE);
  f.kind = FRAMING_ALL;
  check_wire(&f, "ab", 2, "ab", 2);
}

/* ---- lengths --------------------------------------------------------------------- */

TEST(writes_the_header_wherever_it_is) {
  struct framing f = {.kind = FRAMING_LENGTH, .size = 2, .strip = 2, .max = 100};
  check_wire(&f, "abc", 3, "\0\3abc", 5);
  check_wire(&f, NULL, 0, "\0\0", 2);
  f.little = true;
  check_wire(&f, "abc", 3, "\3\0abc", 5);
  f = (struct framing){.kind = FRAMING_LENGTH, .size = 4, .strip = 4, .max = 100};
  f.includes_header = true;
  check_wire(&f, "abc", 3, "\0\0\0\7abc", 7);
  f.adjust = 2;
  check_wire(&f, "abc", 3, "\0\0\0\5abc", 7);
  f = (struct framing){.kind = FRAMING_LENGTH, .size = 1, .offset = 2, .strip = 3, .max = 100};
  check_wire(&f, "abc", 3, "\0\0\3abc", 6);
  f.strip = 0;
  check_wire(&f, "HH?abc", 6, "HH\3abc", 6);
  f.strip = 5;
  check_wire(&f, "c", 1, "\0\0\3\0\0c", 6);
}

TEST(puts_the_head_before_the_field) {
  struct framing f = {.kind = FRAMING_LENGTH, .size = 1, .offset = 2, .strip = 3, .max = 100};
  size_t total = 0;
  char *wire = write_message(&f, "abc", 3, "HH", 2, &total);
  REQUIRE(wire != NULL);
  CHECK_MEM(wire, total, "HH\3abc", 6);
  free(wire);
  f.strip = 1;
  wire = write_message(&f, "H?abc", 5, "h", 1, &total);
  REQUIRE(wire != NULL);
  CHECK_MEM(wire, total, "hH\3abc", 6);
  free(wire);
}

TEST(refuses_a_head_of_the_wrong_length) {
  struct framing f = {.kind = FRAMING_LENGTH, .size = 1, .offset = 2, .strip = 3, .max = 100};
  struct framing line = {.kind = FRAMING_LINE, .max = 100};
  size_t total;
  CHECK_EQ(framing_size(&f, "abc", 3, 1, &total), ERR_PROTO);
  CHECK_EQ(framing_size(&f, "abc", 3, 3, &total), ERR_PROTO);
  f.strip = 0;
  CHECK_EQ(framing_size(&f, "abc", 3, 2, &total), ERR_PROTO);
  CHECK_EQ(framing_size(&line, "abc", 3, 1, &total), ERR_PROTO);
}

TEST(refuses_data_too_short_to_hold_its_header) {
  struct framing f = {.kind = FRAMING_LENGTH, .size = 2, .offset = 2, .max = 100};
  check_refused(&f, "abc", 3, ERR_PROTO);
  check_wire(&f, "ab??", 4, "ab\0\0", 4);
  f.strip = 1;
  check_refused(&f, "ab", 2, ERR_PROTO);
}

TEST(refuses_a_value_that_does_not_fit_the_field) {
  static const struct {
    uint8_t size;
    size_t most;
  } fields[] = {{1, 0xff}, {2, 0xffff}, {3, 0xffffff}, {4, 0xffffffff}};
  size_t total;
  for (size_t i = 0; i < 4; i++) {
    struct framing f = {.kind = FRAMING_LENGTH, .max = SIZE_MAX};
    f.size = fields[i].size;
    f.strip = f.size;
    CHECK_EQ(framing_size(&f, NULL, fields[i].most, 0, &total), 0);
    CHECK_EQ(framing_size(&f, NULL, fields[i].most + 1, 0, &total), ERR_MSGSIZE);
    f.adjust = 1;
    CHECK_EQ(framing_size(&f, NULL, fields[i].most + 1, 0, &total), 0);
    CHECK_EQ(framing_size(&f, NULL, 0, 0, &total), ERR_MSGSIZE);
    f.adjust = INT64_MAX;
    CHECK_EQ(framing_size(&f, NULL, 5, 0, &total), ERR_MSGSIZE);
    f.adjust = INT64_MIN;
    CHECK_EQ(framing_size(&f, NULL, 5, 0, &total), ERR_MSGSIZE);
    f.adjust = 0;
    f.max = 5;
    CHECK_EQ(framing_size(&f, NULL, 5, 0, &total), 0);
    CHECK_EQ(framing_size(&f, NULL, 6, 0, &total), ERR_MSGSIZE);
  }
}

TEST(guards_the_sum_of_strip_and_data) {
  struct framing f = {.kind = FRAMING_LENGTH, .size = 8, .strip = UINT32_MAX, .max = SIZE_MAX};
  size_t total;
  CHECK_EQ(framing_size(&f, NULL, SIZE_MAX - 5, 0, &total), ERR_MSGSIZE);
}

/* Data and message are the same but for the field, which lies in the data when strip is
 * small. */
static void check_same_but_field(const struct framing *f, const char *wire, const char *data,
                                 size_t n) {
  for (size_t i = 0; i < n; i++) {
    size_t at = f->strip + i;
    bool in_field = at >= f->offset && at < f->offset + f->size;
    CHECK(in_field || wire[at] == data[i]);
  }
}

static void check_length_round_trip(const struct framing *f, const char *data, size_t n) {
  struct cut cut = {0};
  size_t total = 0, again = 0;
  size_t head = f->offset < f->strip ? f->offset : f->strip;
  int64_t counted =
      (int64_t)(f->strip + n) - f->adjust - (f->includes_header ? 0 : (int64_t)f->offset + f->size);
  char *wire = write_message(f, data, n, "12345678", head, &total);
  CHECK((wire != NULL) == (f->strip + n >= f->offset + f->size && counted >= 0));
  if (!wire) return;
  CHECK_EQ(framing_cut(f, &(struct scan){0}, wire, total, false, &cut), 0);
  CHECK(cut.at == f->strip && cut.len == n && cut.take == total);
  CHECK_MEM(wire, head, "12345678", head);
  check_same_but_field(f, wire, data, n);
  char *copy = write_message(f, wire + cut.at, cut.len, wire, head, &again);
  REQUIRE(copy != NULL);
  CHECK_MEM(copy, again, wire, total);
  free(copy);
  free(wire);
}

TEST(finds_every_length_message_that_it_wrote) {
  static const uint8_t sizes[] = {1, 2, 3, 4, 8};
  for (unsigned shape = 0; shape < 5 * 2 * 2 * 3 * 4 * 14; shape++) {
    struct framing f = {.kind = FRAMING_LENGTH, .max = 64};
    f.size = sizes[shape % 5];
    f.little = shape / 5 % 2;
    f.includes_header = shape / 10 % 2;
    f.adjust = (int64_t)(shape / 20 % 3) * 4 - 4;
    f.offset = shape / 60 % 4;
    f.strip = shape / 240;
    for (size_t n = 0; n <= 24; n++) check_length_round_trip(&f, "the quick brown fox jumps", n);
  }
}
