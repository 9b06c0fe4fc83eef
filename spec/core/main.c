/* The program of the unit tests: runs what registered itself.  See test.h.
 *
 * What this is not: it contains no test. */
#include "test.h"

#include <stdio.h>
#include <string.h>

static struct test *first_test, **last_test = &first_test;
static unsigned failed_checks; /* of the running test */

/* Tests of running out of memory ask for more than there can be: NULL, not an abort.
 * NOLINTNEXTLINE(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): ASan's name. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

void test_register(struct test *t) {
  *last_test = t;
  last_test = &t->next;
}

static bool verdict(bool ok, const char *file, int line) {
  if (ok) return true;
  failed_checks++;
  printf("%s:%d: ", file, line);
  return false;
}

bool test_true(bool ok, const char *file, int line, const char *text) {
  if (!verdict(ok, file, line)) printf("not true: %s\n", text);
  return ok;
}

bool test_int(long long x, long long y, const char *file, int line, const char *a, const char *b) {
  if (!verdict(x == y, file, line)) printf("%s is %lld, not %lld (%s)\n", a, x, y, b);
  return x == y;
}

bool test_str(const char *x, const char *y, const char *file, int line, const char *a) {
  bool same = x && y ? strcmp(x, y) == 0 : x == y;
  if (!verdict(same, file, line))
    printf("%s is \"%s\", not \"%s\"\n", a, x ? x : "(NULL)", y ? y : "(NULL)");
  return same;
}

bool test_mem(const void *x, size_t nx, const void *y, size_t ny, const char *file, int line,
              const char *a) {
  bool same = nx == ny && (nx == 0 || memcmp(x, y, nx) == 0);
  if (!verdict(same, file, line)) printf("%s: %zu bytes differ from the expected %zu\n", a, nx, ny);
  return same;
}

uint32_t test_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* Arguments choose; -x stands before the full name of one that is not to run. */
static bool is_selected(const struct test *t, int argc, char **argv) {
  char full[256];
  bool all = true, chosen = false;
  snprintf(full, sizeof full, "%s:%s", t->file, t->name);
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "-x") == 0) {
      if (argv[++i] && strcmp(full, argv[i]) == 0) return false;
      continue;
    }
    all = false;
    chosen = chosen || strstr(full, argv[i]);
  }
  return all || chosen;
}

static bool run_passes(const struct test *t) {
  failed_checks = 0;
  t->run();
  if (failed_checks) printf("FAILED %s:%s\n", t->file, t->name);
  return failed_checks == 0;
}

static int list_all(void) {
  for (const struct test *t = first_test; t; t = t->next) printf("%s:%s\n", t->file, t->name);
  return 0;
}

int main(int argc, char **argv) {
  unsigned passed = 0, failed = 0;
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc == 2 && strcmp(argv[1], "-l") == 0) return list_all();
  for (const struct test *t = first_test; t; t = t->next) {
    if (!is_selected(t, argc, argv)) continue;
    if (run_passes(t))
      passed++;
    else
      failed++;
  }
  printf("%u passed, %u failed\n", passed, failed);
  return failed != 0;
}
