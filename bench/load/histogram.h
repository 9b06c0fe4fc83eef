/* Times, counted in 32 buckets to each factor of two: what is read is at most 3 % too high.
 * What this is not: a clock. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 32 * 61 }; /* for any 64-bit number of nanoseconds */

struct histogram {
  uint64_t count[HISTOGRAM_BUCKETS];
  uint64_t total, max;
};

void histogram_add(struct histogram *h, uint64_t ns, uint32_t times);

/* Microseconds within which this share of all lie, 0 <= share < 1. */
double histogram_us(const struct histogram *h, double share);

#endif
