/* The checks of spec/core/test.h for fuzz targets, which use the probes of the unit tests: what
 * does not hold ends the program. What this is not: a harness; nothing is counted. */
#include "../core/test.h"
#include "fuzz.h"

static bool verdict(bool ok, const char *file, int line, const char *text) {
  if (ok) return true;
  fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, text);
  abort();
}

bool test_true(bool ok, const char *file, int line, const char *text) {
  return verdict(ok, file, line, text);
}

bool test_int(long long x, long long y, const char *file, int line, const char *a, const char *b) {
  if (x != y) fprintf(stderr, "%s is %lld, not %lld\n", a, x, y);
  return verdict(x == y, file, line, b);
}

bool test_str(const char *x, const char *y, const char *file, int line, const char *a) {
  return verdict(x && y ? strcmp(x, y) == 0 : x == y, file, line, a);
}

bool test_mem(const void *x, size_t nx, const void *y, size_t ny, const char *file, int line,
              const char *a) {
  return verdict(nx == ny && (nx == 0 || memcmp(x, y, nx) == 0), file, line, a);
}

uint32_t test_random(uint32_t *state) { return fuzz_random(state); }
