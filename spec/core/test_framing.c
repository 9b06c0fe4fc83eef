/* Finding messages: every split of the bytes gives what the whole input gives, and that is
 * what a plain search of ours says.  Writing them is in test_framing_write.c.
 *
 * What this is not: a test of connections; the bytes come from arrays. */
#include <string.h>

#include "framing_probe.h"

/* ---- a plain search -------------------------------------------------------------- */

/* The terminator that begins at i, or 0. */
static size_t terminator_at(const struct framing *f, const char *p, size_t n, size_t i) {
  if (f->kind == FRAMING_DELIMITER)
    return n - i >= f->delimiter_len && memcmp(p + i, f->delimiter, f->delimiter_len) == 0
               ? f->delimiter_len
               : 0;
  if (p[i] == '\n') return 1;
  return p[i] == '\r' && i + 1 < n && p[i + 1] == '\n' ? 2 : 0;
}

/* May the bytes from i on be the beginning of a terminator? */
static bool terminator_begins(const struct framing *f, const char *p, size_t n, size_t i) {
  if (f->kind == FRAMING_DELIMITER)
    return n - i < f->delimiter_len && memcmp(p + i, f->delimiter, n - i) == 0;
  return n - i == 1 && p[i] == '\r';
}

/* What must come of ended input; `loose`: ERR_MSGSIZE and ERR_EOF may stand for each other,
 * because how early a limit is noticed is not a plain search's to say. */
static struct answer plain_search(const struct framing *f, const char *p, size_t n, bool *loose) {
  *loose = false;
  for (size_t i = 0; i < n; i++) {
    size_t k = terminator_at(f, p, n, i);
    if (k && i > f->max) return (struct answer){.code = ERR_MSGSIZE};
    if (k) return (struct answer){0, {0, f->keep ? i + k : i, i + k}};
  }
  if (f->last && n)
    return n > f->max ? (struct answer){.code = ERR_MSGSIZE} : (struct answer){0, {0, n, n}};
  if (n > f->max) {
    *loose = true;
    return (struct answer){.code = terminator_begins(f, p, n, f->max) ? ERR_EOF : ERR_MSGSIZE};
  }
  return (struct answer){.code = ERR_EOF};
}

static void check_against_plain(const struct framing *f, const char *p, size_t n) {
  bool loose;
  struct answer want = plain_search(f, p, n, &loose);
  struct answer got = ask(f, &(struct scan){0}, p, n, true);
  bool either = got.code == ERR_EOF || got.code == ERR_MSGSIZE;
  if (loose && f->kind == FRAMING_DELIMITER)
    CHECK(either);
  else
    CHECK_EQ(got.code, want.code);
  if (got.code == 0)
    CHECK(got.cut.len == want.cut.len && got.cut.take == want.cut.take && got.cut.at == 0);
}

/* All strings of `letters` up to `longest` bytes. */
static void check_all_strings(const struct framing *f, const char *letters, size_t longest) {
  char text[16];
  size_t base = strlen(letters);
  for (size_t n = 0, count = 1; n <= longest; n++, count *= base)
    for (size_t code = 0; code < count; code++) {
      size_t rest = code;
      for (size_t i = 0; i < n; i++, rest /= base) text[i] = letters[rest % base];
      check_against_plain(f, text, n);
      check_every_split(f, text, n);
    }
}

static void check_limits_and_flags(struct framing f, const char *letters, size_t longest) {
  static const size_t limits[] = {0, 1, 2, SIZE_MAX};
  for (unsigned flags = 0; flags < 4; flags++)
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
      f.keep = flags & 1;
      f.last = flags & 2;
      f.max = limits[i];
      check_all_strings(&f, letters, longest);
    }
}

TEST(finds_lines_however_they_are_split) {
  check_limits_and_flags((struct framing){.kind = FRAMING_LINE}, "x\r\n", 5);
}

TEST(finds_delimiters_however_they_are_split) {
  static const char *const delimiters[] = {"a", "ab", "aa", "aba", "aab", "abab"};
  for (size_t i = 0; i < sizeof delimiters / sizeof *delimiters; i++) {
    struct framing f = {.kind = FRAMING_DELIMITER,
                        .delimiter = delimiters[i],
                        .delimiter_len = strlen(delimiters[i])};
    check_limits_and_flags(f, "ab", 6);
  }
}

TEST(finds_lengths_however_they_are_split) {
  for (unsigned shape = 0; shape < 3 * 3 * 4 * 3 * 2; shape++) {
    struct framing f = {.kind = FRAMING_LENGTH, .size = 1, .max = 4};
    f.offset = shape % 3;
    f.size = (uint8_t)(1 + shape / 3 % 3);
    f.strip = shape / 9 % 4;
    f.adjust = (int64_t)(shape / 36 % 3) - 1;
    f.includes_header = shape / 108 % 2;
    for (unsigned code = 0; code < 5 * 5 * 5; code++) {
      char text[7] = {0};
      text[f.offset + f.size - 1] = (char)(code % 5);
      text[5] = (char)(code / 5 % 5);
      text[6] = (char)(code / 25 % 5);
      check_every_split(&f, text, sizeof text - code % 3);
    }
  }
}

TEST(finds_counts_and_ends_however_they_are_split) {
  for (size_t count = 0; count < 5; count++)
    for (size_t n = 0; n < 9; n++) {
      struct framing f = {.kind = FRAMING_FIXED, .count = count, .max = 3};
      check_every_split(&f, "abcdefghi", n);
      f = (struct framing){.kind = FRAMING_ALL, .max = count};
      check_every_split(&f, "abcdefghi", n);
    }
}

/* ---- limits, one by one ---------------------------------------------------------- */

static void check_cut(const struct framing *f, const char *p, size_t n, int code, size_t len,
                      size_t take) {
  struct answer a = ask(f, &(struct scan){0}, p, n, false);
  CHECK_EQ(a.code, code);
  CHECK_EQ(a.cut.len, len);
  CHECK_EQ(a.cut.take, take);
}

TEST(limits_a_line_without_its_terminator) {
  struct framing f = {.kind = FRAMING_LINE, .max = 3};
  check_cut(&f, "ab\n", 3, 0, 2, 3);
  check_cut(&f, "abc\n", 4, 0, 3, 4);
  check_cut(&f, "abc\r\n", 5, 0, 3, 5);
  check_cut(&f, "abcd\n", 5, ERR_MSGSIZE, 0, 0);
  check_cut(&f, "abcd\r\n", 6, ERR_MSGSIZE, 0, 0);
  check_cut(&f, "abc", 3, ERR_AGAIN, 0, 0);
  check_cut(&f, "abcd", 4, ERR_MSGSIZE, 0, 0);
  check_cut(&f, "abc\r", 4, ERR_AGAIN, 0, 0);
  check_cut(&f, "abc\rx", 5, ERR_MSGSIZE, 0, 0);
  check_cut(&f, "abc\r\r\n", 6, ERR_MSGSIZE, 0, 0);
  f.keep = true;
  check_cut(&f, "abc\r\n", 5, 0, 5, 5);
  check_cut(&f, "\n", 1, 0, 1, 1);
}

TEST(limits_a_delimited_message_without_its_delimiter) {
  struct framing f = {.kind = FRAMING_DELIMITER, .max = 3, .delimiter = "--", .delimiter_len = 2};
  check_cut(&f, "abc--", 5, 0, 3, 5);
  check_cut(&f, "abcd--", 6, ERR_MSGSIZE, 0, 0);
  check_cut(&f, "abc-", 4, ERR_AGAIN, 0, 0);
  check_cut(&f, "abcde", 5, ERR_MSGSIZE, 0, 0);
  check_cut(&f, "---", 3, 0, 0, 2);
}

/* A larger limit goes on where the smaller one gave up. */
TEST(goes_on_after_a_limit_was_raised) {
  struct framing line = {.kind = FRAMING_LINE, .max = 2};
  struct framing del = {
      .kind = FRAMING_DELIMITER, .max = 2, .delimiter = "\r\n", .delimiter_len = 2};
  struct framing *both[] = {&line, &del};
  for (size_t i = 0; i < 2; i++) {
    struct scan s = {0};
    CHECK_EQ(ask(both[i], &s, "abcdef\r\n", 8, false).code, ERR_MSGSIZE);
    both[i]->max = 6;
    CHECK_EQ(ask(both[i], &s, "abcdef\r\n", 8, false).cut.len, 6);
    s = (struct scan){.seen = 5};
    both[i]->max = 1;
    CHECK_EQ(ask(both[i], &s, "abcdef", 6, false).code, ERR_MSGSIZE);
  }
}

/* What was looked at is overwritten with terminators: they must not be found. */
TEST(looks_at_no_byte_twice) {
  struct framing line = {.kind = FRAMING_LINE, .max = 100};
  struct framing del = {
      .kind = FRAMING_DELIMITER, .max = 100, .delimiter = "\n\n\n", .delimiter_len = 3};
  struct scan s = {0};
  struct cut cut;
  CHECK_EQ(framing_cut(&line, &s, "aaaaaaaa", 8, false, &cut), ERR_AGAIN);
  CHECK_EQ(s.seen, 8);
  CHECK_EQ(framing_cut(&line, &s, "\n\n\n\n\n\n\n\na", 9, false, &cut), ERR_AGAIN);
  s = (struct scan){0};
  CHECK_EQ(framing_cut(&del, &s, "aaaaaaaa", 8, false, &cut), ERR_AGAIN);
  CHECK_EQ(s.seen, 6);
  CHECK_EQ(framing_cut(&del, &s, "\n\n\n\n\n\n\n\na", 9, false, &cut), ERR_AGAIN);
  CHECK_EQ(framing_cut(&del, &s, "aaaaaaa\n\n\n", 10, false, &cut), 0);
  CHECK_EQ(cut.len, 7);
}

TEST(takes_what_is_there_in_pieces_of_max) {
  struct framing f = {.kind = FRAMING_RAW, .max = 3};
  struct scan s = {0};
  struct cut cut;
  check_cut(&f, "ab", 2, 0, 2, 2);
  check_cut(&f, "abcd", 4, 0, 3, 3);
  CHECK_EQ(framing_cut(&f, &s, NULL, 0, false, &cut), ERR_AGAIN);
  CHECK_EQ(s.need, 1);
  CHECK_EQ(framing_cut(&f, &s, NULL, 0, true, &cut), ERR_EOF);
}

TEST(ends_with_an_empty_message_of_all) {
  struct framing f = {.kind = FRAMING_ALL, .max = 3};
  struct cut cut = {9, 9, 9};
  CHECK_EQ(framing_cut(&f, &(struct scan){0}, NULL, 0, true, &cut), 0);
  CHECK(cut.at == 0 && cut.len == 0 && cut.take == 0);
}

/* ---- lengths --------------------------------------------------------------------- */

TEST(reads_the_header_wherever_it_is) {
  struct framing f = {.kind = FRAMING_LENGTH, .size = 2, .strip = 2, .max = 100};
  check_cut(&f, "\0\3abc..", 7, 0, 3, 5);
  check_cut(&f, "\0\0", 2, 0, 0, 2);
  f.little = true;
  check_cut(&f, "\3\0abc..", 7, 0, 3, 5);
  f = (struct framing){.kind = FRAMING_LENGTH, .size = 3, .offset = 2, .strip = 0, .max = 100};
  check_cut(&f, "HH\0\0\1x", 6, 0, 6, 6);
  f.includes_header = true;
  check_cut(&f, "HH\0\0\6x", 6, 0, 6, 6);
  check_cut(&f, "HH\0\0\4x", 6, ERR_PROTO, 0, 0);
  f.adjust = 2;
  check_cut(&f, "HH\0\0\4x", 6, 0, 6, 6);
  f.strip = 7;
  check_cut(&f, "HH\0\0\4x", 6, ERR_PROTO, 0, 0);
  check_cut(&f, "HH\0\0\5x.", 7, 0, 0, 7);
}

TEST(knows_a_length_over_the_limit_from_the_header) {
  struct framing f = {.kind = FRAMING_LENGTH, .size = 4, .strip = 4, .max = 3};
  check_cut(&f, "\0\0\0\3", 4, ERR_AGAIN, 0, 0);
  check_cut(&f, "\0\0\0\4", 4, ERR_MSGSIZE, 0, 0);
  check_cut(&f, "\xff\xff\xff\xff", 4, ERR_MSGSIZE, 0, 0);
  f.strip = 0;
  check_cut(&f, "\0\0\0\0", 4, ERR_MSGSIZE, 0, 0);
}

/* No sum may wrap into something that looks possible. */
TEST(survives_lengths_beyond_all_memory) {
  static const int64_t adjusts[] = {0, 1, -1, INT64_MAX, INT64_MIN, INT64_MIN + 1};
  static const char *const values[] = {"\xff\xff\xff\xff\xff\xff\xff\xff", "\0\0\0\0\0\0\0\0",
                                       "\x80\0\0\0\0\0\0\0", "\x7f\xff\xff\xff\xff\xff\xff\xff"};
  for (size_t i = 0; i < sizeof adjusts / sizeof *adjusts; i++)
    for (size_t j = 0; j < sizeof values / sizeof *values * 2; j++) {
      struct framing f = {.kind = FRAMING_LENGTH, .size = 8, .strip = 8, .max = SIZE_MAX};
      f.adjust = adjusts[i];
      f.includes_header = j & 1;
      uint64_t v = 0;
      for (int b = 0; b < 8; b++) v = v << 8 | (unsigned char)values[j / 2][b];
      __int128 total = (__int128)v + f.adjust + (f.includes_header ? 0 : 8);
      int want = total < 8                    ? ERR_PROTO
                 : total > (__int128)SIZE_MAX ? ERR_MSGSIZE
                 : total == 8                 ? 0
                                              : ERR_AGAIN;
      struct answer a = ask(&f, &(struct scan){0}, values[j / 2], 8, false);
      CHECK(a.code == want || (a.code == ERR_MSGSIZE && total > INT64_MAX));
    }
}
