/* See histogram.h. */
#include "histogram.h"

#include <stddef.h>

static size_t bucket_of(uint64_t ns) {
  if (ns < 64) return (size_t)ns;
  unsigned shift = 58u - (unsigned)__builtin_clzll(ns); /* leaves a number from 32 to 63 */
  return 32 * shift + (size_t)(ns >> shift);
}

/* The least number that belongs to the next bucket. */
static uint64_t bucket_end(size_t i) {
  if (i < 64) return i + 1;
  size_t shift = i / 32 - 1;
  return (uint64_t)(i - 32 * shift + 1) << shift;
}

void histogram_add(struct histogram *h, uint64_t ns, uint32_t times) {
  h->count[bucket_of(ns)] += times;
  h->total += times;
  if (ns > h->max) h->max = ns;
}

double histogram_us(const struct histogram *h, double share) {
  uint64_t below = 0, wanted = (uint64_t)(share * (double)h->total);
  for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
    below += h->count[i];
    if (below <= wanted) continue;
    uint64_t ns = bucket_end(i);
    return (double)(ns < h->max ? ns : h->max) / 1e3;
  }
  return (double)h->max / 1e3;
}
