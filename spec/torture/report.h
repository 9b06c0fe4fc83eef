/* Where it happened: stacks as names and lines, and whose fault it is.
 * What this is not: what counts as a fault. */
#ifndef LUNEWIRE_TORTURE_REPORT_H
#define LUNEWIRE_TORTURE_REPORT_H

#include <stdbool.h>

enum { REPORT_FRAMES = 48 };

/* The stack of the caller; safe in a signal handler. -> how many frames */
int report_frames(void *frames[REPORT_FRAMES]);
/* Prints them, one a line. */
void report_place(void *const *frames, int n);
/* Is it a crash of a library that we cannot avoid?  Counts it as such. */
bool report_is_excluded(void *const *frames, int n);
/* Prints the exclusions that were met; false: one of them no longer is (if all ran). */
bool report_exclusions(bool all_ran);

#endif
