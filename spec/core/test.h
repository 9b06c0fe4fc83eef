/* A tiny unit-test harness: tests register themselves, all files link into one program.
 *
 *   TEST(splits_host_and_port) {
 *     CHECK(ready);
 *     CHECK_EQ(r, 0);
 *   }
 *
 * A failed check prints one line with its place and the test goes on (REQUIRE: returns from
 * it).  The last line of the program is "N passed, N failed", counted in tests; the exit
 * status is 0 only without a failure.  Arguments select the tests whose "file:name" contains
 * one of them, -x FILE:NAME all but that one; -l lists instead of running.
 * What this is not: it isolates nothing; a crash is a crash, for sanitizers to explain. */
#ifndef LUNEWIRE_TEST_H
#define LUNEWIRE_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct test {
  const char *file, *name;
  void (*run)(void);
  struct test *next;
};

void test_register(struct test *t);

/* Each counts a failure of the running test unless the check holds, and tells whether it
 * did.  a and b are the source text of what was compared. */
bool test_true(bool ok, const char *file, int line, const char *text);
bool test_int(long long x, long long y, const char *file, int line, const char *a, const char *b);
bool test_str(const char *x, const char *y, const char *file, int line, const char *a);
bool test_mem(const void *x, size_t nx, const void *y, size_t ny, const char *file, int line,
              const char *a);

/* Numbers that are the same in every run and on every machine. */
uint32_t test_random(uint32_t *state);

#define TEST(id)                                                                                   \
  static void test_##id(void);                                                                     \
  static struct test reg_##id = {__FILE__, #id, test_##id, NULL};                                  \
  __attribute__((constructor)) static void enlist_##id(void) { test_register(&reg_##id); }         \
  static void test_##id(void)

#define CHECK(e)                ((void)test_true((e), __FILE__, __LINE__, #e))
#define CHECK_EQ(a, b)          ((void)test_int((long long)(a), (long long)(b), __FILE__, __LINE__, #a, #b))
#define CHECK_STR(a, b)         ((void)test_str((a), (b), __FILE__, __LINE__, #a))
#define CHECK_MEM(a, na, b, nb) ((void)test_mem((a), (na), (b), (nb), __FILE__, __LINE__, #a))
#define REQUIRE(e)                                                                                 \
  do {                                                                                             \
    if (!test_true((e), __FILE__, __LINE__, #e)) return;                                           \
  } while (0)

#endif
