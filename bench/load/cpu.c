/* What the kernel counted for the threads of the server's process; see load.h.
 * What this is not: the part of a connection that the kernel does in interrupts. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

static void add_thread(int pid, const char *thread, struct cpu *sum) {
  char name[sizeof "/proc/2147483647/task//schedstat" + 256];
  int64_t ran, waited;
  snprintf(name, sizeof name, "/proc/%d/task/%.255s/schedstat", pid, thread);
  FILE *file = fopen(name, "r");
  if (!file) return; /* the thread has ended, or the kernel does not count */
  if (fscanf(file, "%" SCNd64 " %" SCNd64, &ran, &waited) == 2) {
    sum->ran += ran;
    sum->waited += waited;
  }
  fclose(file);
}

struct cpu read_cpu(int pid) {
  struct cpu sum = {0, 0};
  char name[64];
  snprintf(name, sizeof name, "/proc/%d/task", pid);
  DIR *tasks = opendir(name);
  if (!tasks) die("%s: %s", name, strerror(errno));
  for (struct dirent *e; (e = readdir(tasks));)
    if (e->d_name[0] != '.') add_thread(pid, e->d_name, &sum);
  closedir(tasks);
  return sum;
}
