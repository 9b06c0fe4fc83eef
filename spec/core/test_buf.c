/* The queue of bytes against a plain array, and its promises about memory.
 *
 * What this is not: a test of limits; the queue knows none. */
#include "../../csrc/core/buf.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/core/err.h"
#include "test.h"

static bool holds_nothing(const struct buf *b) {
  return !b->mem && !b->cap && !b->head && !b->tail;
}

static void check_holds(const struct buf *b, const char *text) {
  CHECK_MEM(buf_data(b), buf_len(b), text, strlen(text));
}

TEST(keeps_bytes_in_order) {
  struct buf b = {0};
  CHECK_EQ(buf_append(&b, "abc", 3), 0);
  CHECK_EQ(buf_append(&b, "def", 3), 0);
  buf_consume(&b, 2);
  check_holds(&b, "cdef");
  buf_fini(&b);
  CHECK(holds_nothing(&b));
}

TEST(holds_no_memory_when_empty) {
  struct buf b = {0};
  CHECK_EQ(buf_append(&b, "abc", 3), 0);
  buf_consume(&b, 3);
  CHECK(holds_nothing(&b));
  CHECK_EQ(buf_append(&b, "abc", 3), 0);
  buf_consume(&b, SIZE_MAX);
  CHECK(holds_nothing(&b));
  buf_consume(&b, 1);
  CHECK(holds_nothing(&b));
  CHECK_EQ(buf_append(&b, "", 0), 0);
  CHECK_EQ(buf_prepend(&b, "", 0), 0);
  CHECK(holds_nothing(&b));
}

TEST(frees_a_reservation_that_came_to_nothing) {
  struct buf b = {0};
  REQUIRE(buf_reserve(&b, 100, SIZE_MAX) != NULL);
  buf_commit(&b, 0);
  CHECK(holds_nothing(&b));
  buf_append(&b, "x", 1);
  REQUIRE(buf_reserve(&b, 1000, SIZE_MAX) != NULL);
  buf_commit(&b, 0);
  check_holds(&b, "x");
  buf_fini(&b);
}

TEST(grows_by_doubling_and_never_past_the_bound) {
  struct buf b = {0};
  size_t moves = 0, most = 100000, before = 0;
  while (buf_len(&b) < most) {
    char *to = buf_reserve(&b, 1, most);
    REQUIRE(to != NULL);
    CHECK(b.cap <= most);
    moves += b.cap != before;
    before = b.cap;
    *to = 'x';
    buf_commit(&b, 1);
  }
  CHECK_EQ(b.cap, most);
  CHECK(moves < 20);
  buf_fini(&b);
}

TEST(grows_exactly_to_a_bound_that_is_needed) {
  struct buf b = {0};
  REQUIRE(buf_reserve(&b, 10, 10) != NULL);
  CHECK_EQ(b.cap, 10);
  memset(b.mem, 'x', 10);
  buf_commit(&b, 10);
  buf_consume(&b, 1);
  REQUIRE(buf_reserve(&b, 1, 10) != NULL);
  CHECK_EQ(b.cap, 10);
  CHECK_EQ(buf_room(&b), 1);
  CHECK_EQ(buf_len(&b), 9);
  buf_fini(&b);
}

TEST(uses_consumed_space_again) {
  struct buf b = {0};
  char block[1000];
  memset(block, 'b', sizeof block);
  CHECK_EQ(buf_append(&b, "s", 1), 0);
  for (int i = 0; i < 5000; i++) {
    CHECK_EQ(buf_append(&b, block, sizeof block), 0);
    buf_consume(&b, sizeof block);
    REQUIRE(b.cap <= 4096);
  }
  check_holds(&b, "b");
  buf_fini(&b);
}

TEST(prepends_into_head_room) {
  struct buf b = {0};
  CHECK_EQ(buf_append(&b, "headtail", 8), 0);
  buf_consume(&b, 4);
  const char *mem = b.mem;
  CHECK_EQ(buf_prepend(&b, "HEAD", 4), 0);
  CHECK(b.mem == mem && b.head == 0);
  check_holds(&b, "HEADtail");
  CHECK_EQ(buf_prepend(&b, "more ", 5), 0);
  check_holds(&b, "more HEADtail");
  buf_fini(&b);
  CHECK_EQ(buf_prepend(&b, "first", 5), 0);
  check_holds(&b, "first");
  buf_fini(&b);
}

TEST(moves_seldom_for_a_row_of_prepends) {
  struct buf b = {0};
  size_t moves = 0;
  for (int i = 0; i < 100000; i++) {
    moves += b.head == 0;
    CHECK_EQ(buf_prepend(&b, "x", 1), 0);
  }
  CHECK_EQ(buf_len(&b), 100000);
  CHECK(moves < 400);
  buf_fini(&b);
}

/* More than any address space has, but not more than malloc may be asked for. */
#define HUGE_SIZE (PTRDIFF_MAX / 2)

TEST(stays_as_it_was_without_memory) {
  struct buf b = {0};
  CHECK(buf_reserve(&b, SIZE_MAX, SIZE_MAX) == NULL);
  CHECK(buf_reserve(&b, HUGE_SIZE, SIZE_MAX) == NULL);
  CHECK(holds_nothing(&b));
  buf_append(&b, "-abc", 4);
  buf_consume(&b, 1);
  CHECK(buf_reserve(&b, SIZE_MAX, SIZE_MAX) == NULL);
  CHECK(buf_reserve(&b, HUGE_SIZE, SIZE_MAX) == NULL);
  CHECK_EQ(buf_append(&b, "x", HUGE_SIZE), ERR_NOMEM);
  CHECK_EQ(buf_prepend(&b, "x", HUGE_SIZE), ERR_NOMEM);
  check_holds(&b, "abc");
  buf_fini(&b);
}

/* ---- against a model ------------------------------------------------------------- */

struct model {
  char bytes[4096];
  size_t len;
};

static void model_insert(struct model *m, size_t at, const char *data, size_t n) {
  memmove(m->bytes + at + n, m->bytes + at, m->len - at);
  memcpy(m->bytes + at, data, n);
  m->len += n;
}

static void model_consume(struct model *m, size_t n) {
  n = n < m->len ? n : m->len;
  m->len -= n;
  memmove(m->bytes, m->bytes + n, m->len);
}

static void reserve_and_fill(struct buf *b, const char *data, size_t n, size_t most) {
  char *to = buf_reserve(b, n, most);
  REQUIRE(to != NULL && buf_room(b) >= n);
  memset(to, '?', buf_room(b));
  memcpy(to, data, n);
  buf_commit(b, n);
}

static void random_step(struct buf *b, struct model *m, uint32_t *rnd) {
  char data[300];
  size_t n = test_random(rnd) % sizeof data, what = test_random(rnd) % 5;
  for (size_t i = 0; i < n; i++) data[i] = (char)test_random(rnd);
  if (what >= 3 || m->len + n > sizeof m->bytes) {
    buf_consume(b, n * 2);
    model_consume(m, n * 2);
    return;
  }
  if (what == 0)
    CHECK_EQ(buf_append(b, data, n), 0);
  else if (what == 1 && n)
    reserve_and_fill(b, data, n, m->len + n + 10);
  else if (what == 2)
    CHECK_EQ(buf_prepend(b, data, n), 0);
  if (what != 1 || n) model_insert(m, what == 2 ? 0 : m->len, data, n);
}

TEST(agrees_with_a_plain_array) {
  struct buf b = {0};
  struct model m = {.len = 0};
  uint32_t rnd = 7;
  for (int step = 0; step < 30000; step++) {
    random_step(&b, &m, &rnd);
    REQUIRE(buf_len(&b) == m.len);
    REQUIRE(m.len == 0 || memcmp(buf_data(&b), m.bytes, m.len) == 0);
    REQUIRE(m.len != 0 || holds_nothing(&b));
    REQUIRE(b.head <= b.tail && b.tail <= b.cap);
  }
  buf_fini(&b);
}

TEST(what_stays_gives_back_memory_that_it_does_not_need) {
  struct buf b = {0};
  char *room = buf_reserve(&b, 1000000, SIZE_MAX);
  REQUIRE(room != NULL);
  memcpy(room + 500, "kept", 4);
  buf_commit(&b, 504);
  buf_consume(&b, 500);
  buf_settle(&b, 1000000);
  CHECK(b.cap >= 1000000); /* as much may stay */
  buf_settle(&b, 1000);
  CHECK(b.cap <= 1008);
  CHECK_EQ(buf_len(&b), 4);
  CHECK(memcmp(buf_data(&b), "kept", 4) == 0);
  buf_fini(&b);
  buf_settle(&b, 0);
  CHECK(holds_nothing(&b));
}

/* ---- spares ---------------------------------------------------------------------- */

TEST(memory_is_used_again_in_the_size_it_has) {
  struct spares s = {0};
  struct buf a = {0}, b = {0};
  char big[3000] = {0};
  CHECK_EQ(buf_append(&a, big, sizeof big), 0);
  const char *mem = a.mem;
  size_t cap = a.cap;
  buf_recycle(&a, &s);
  CHECK(holds_nothing(&a));
  CHECK_EQ(s.bytes, cap);
  CHECK(buf_reserve_with(&b, 1, SIZE_MAX, &s) == mem);
  CHECK(b.mem == mem && b.cap == cap && buf_len(&b) == 0);
  CHECK_EQ(s.bytes, 0);
  struct buf c = {0};
  REQUIRE(buf_reserve_with(&c, 1, SIZE_MAX, &s) != NULL); /* there is none: its own */
  CHECK(c.mem != mem);
  buf_fini(&c);
  buf_fini(&b);
  spares_fini(&s);
}

TEST(memory_of_more_than_twice_the_most_is_not_taken) {
  struct spares s = {0};
  struct buf a = {0}, b = {0};
  REQUIRE(buf_reserve(&a, 10000, SIZE_MAX) != NULL);
  size_t cap = a.cap;
  buf_recycle(&a, &s);
  REQUIRE(buf_reserve_with(&b, 10, cap / 2 - 1, &s) != NULL);
  CHECK(b.cap < cap);
  CHECK_EQ(s.bytes, cap);
  buf_fini(&b);
  REQUIRE(buf_reserve_with(&b, 10, cap / 2, &s) != NULL);
  CHECK_EQ(b.cap, cap);
  buf_fini(&b);
  spares_fini(&s);
}

TEST(no_more_than_so_much_is_kept_for_others) {
  struct spares s = {0};
  for (int i = 0; i < 300; i++) {
    struct buf b = {0};
    REQUIRE(buf_reserve(&b, 10000, SIZE_MAX) != NULL);
    buf_recycle(&b, &s);
    CHECK(holds_nothing(&b));
  }
  CHECK(s.bytes <= SPARES_MOST && s.bytes > SPARES_MOST - 10000);
  struct buf huge = {0}, none = {0};
  REQUIRE(buf_reserve(&huge, SPARES_MOST + 1, SIZE_MAX) != NULL);
  buf_recycle(&huge, &s);
  CHECK(holds_nothing(&huge));
  buf_recycle(&none, &s);
  CHECK(holds_nothing(&none));
  spares_fini(&s);
  CHECK_EQ(s.bytes, 0);
}

TEST(what_was_taken_in_vain_is_given_back) {
  struct spares s = {0};
  struct buf a = {0}, b = {0};
  REQUIRE(buf_reserve(&a, 1000, SIZE_MAX) != NULL);
  buf_recycle(&a, &s);
  size_t bytes = s.bytes;
  CHECK(buf_reserve_with(&b, SIZE_MAX - 1, SIZE_MAX, &s) == NULL);
  CHECK(holds_nothing(&b));
  CHECK_EQ(s.bytes, bytes);
  spares_fini(&s);
}
