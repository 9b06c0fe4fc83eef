/* Stacks and exclusions: see report.h. */
#include "report.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Crashes that are another library's own, where it aborts by design or does not look: the innermost
 * frame that belongs to no C library lies there. */
static struct {
  const char *object, *reason;
  long met;
} exclusions[] = {
    {"libuv.so", "aborts where its table of watchers cannot grow", 0},
};
enum { EXCLUSIONS = sizeof exclusions / sizeof *exclusions };

int report_frames(void *frames[REPORT_FRAMES]) { return backtrace(frames, REPORT_FRAMES); }

static const char *object_of(void *frame) {
  Dl_info info;
  if (!dladdr(frame, &info) || !info.dli_fname) return "?";
  const char *slash = strrchr(info.dli_fname, '/');
  return slash ? slash + 1 : info.dli_fname;
}

static bool is_ours(void *frame) { return strncmp(object_of(frame), "torture", 7) == 0; }

/* -> false: what is outside is the harness itself. */
static bool print_line(void *frame) {
  Dl_info info;
  char command[200];
  if (is_ours(frame)) {
    snprintf(command, sizeof command, "addr2line -fpse /proc/%d/exe %#lx | sed 's/^/      /'",
             (int)getpid(), (unsigned long)frame - 1);
    fflush(stdout);
    FILE *p = popen(command, "r");
    char line[300] = "";
    if (p && fgets(line, sizeof line, p)) fputs(line, stdout);
    if (p) pclose(p);
    return !strstr(line, " at run.c");
  } else if (dladdr(frame, &info)) {
    printf("      %s %s+%#lx\n", object_of(frame), info.dli_sname ? info.dli_sname : "",
           (unsigned long)((char *)frame -
                           (char *)(info.dli_sname ? info.dli_saddr : info.dli_fbase)));
  }
  return true;
}

void report_place(void *const *frames, int n) {
  for (int i = 0; i < n && frames[i] && print_line(frames[i]); i++) continue;
}

/* The handler, the signal's trampoline, raise and abort come first. */
bool report_is_excluded(void *const *frames, int n) {
  int i = 0;
  while (i < n && (is_ours(frames[i]) || strncmp(object_of(frames[i]), "libc.so", 7) == 0)) {
    if (i > 1 && is_ours(frames[i])) return false;
    i++;
  }
  for (int e = 0; i < n && e < EXCLUSIONS; e++) {
    if (strncmp(object_of(frames[i]), exclusions[e].object, strlen(exclusions[e].object)) != 0)
      continue;
    exclusions[e].met++;
    return true;
  }
  return false;
}

bool report_exclusions(bool all_ran) {
  bool good = true;
  for (int e = 0; e < EXCLUSIONS; e++) {
    if (exclusions[e].met == 0 && !all_ran) continue;
    printf("excluded: %ld crashes in %s, which %s\n", exclusions[e].met, exclusions[e].object,
           exclusions[e].reason);
    if (exclusions[e].met == 0) {
      printf("  this exclusion is not needed any more: remove it\n");
      good = false;
    }
  }
  return good;
}
