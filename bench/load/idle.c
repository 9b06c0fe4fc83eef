/* The modes idle and idle-tls: what a connection that is open and silent costs the server's
 * process, as the difference between few of them and many.
 * What this is not: the kernel's part of a connection, which is the same for every server. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

/* Resident bytes of the server, and the same with shared pages counted in part. */
struct memory {
  int64_t rss, pss;
};

static struct memory read_memory(int pid) {
  char name[64], line[256];
  int64_t rss = -1, pss = -1;
  snprintf(name, sizeof name, "/proc/%d/smaps_rollup", pid);
  FILE *file = fopen(name, "r");
  if (!file) die("%s: %s", name, strerror(errno));
  while (fgets(line, sizeof line, file)) {
    sscanf(line, "Rss: %" SCNd64, &rss);
    sscanf(line, "Pss: %" SCNd64, &pss);
  }
  fclose(file);
  if (rss < 0 || pss < 0) die("%s tells no Rss and Pss", name);
  return (struct memory){.rss = rss * 1024, .pss = pss * 1024};
}

/* A turn in which nothing comes shows that the server did not end any of them. */
static struct memory memory_with(struct load *l, int conns) {
  stream_open(l, conns);
  loop_turn(l);
  return read_memory(l->pid);
}

static void run(struct load *l, bool tls) {
  if (!l->pid) die("whose memory? --pid says it");
  if (l->few >= l->many) die("--few must be less than --many");
  l->depth = 1;
  stream_prepare(l, l->many, tls, true);
  struct memory few = memory_with(l, l->few);
  struct memory many = memory_with(l, l->many);
  int conns = l->many - l->few;
  printf("few=%d many=%d rss_per_conn=%" PRId64 " pss_per_conn=%" PRId64 "\n", l->few, l->many,
         (many.rss - few.rss) / conns, (many.pss - few.pss) / conns);
}

void run_idle(struct load *l) { run(l, false); }

void run_idle_tls(struct load *l) { run(l, true); }
