/* See faults.h. */
#include "faults.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "err.h"

enum { RANDOM_MOST = 4096, STORM = 4, LATE_POLLS = 6 };
static const double LATE = 0.004;

struct mode {
  const char *name;
  struct fault_plan plan;
};

#define NO_RESET .reset_in = FAULT_NEVER, .reset_out = FAULT_NEVER

static const struct mode modes[] = {
    {"none", {NO_RESET}},
    {"reads1", {.read_most = 1, NO_RESET}},
    {"reads", {.read_most = RANDOM_MOST, NO_RESET}},
    {"writes1", {.write_most = 1, NO_RESET}},
    {"writes", {.write_most = RANDOM_MOST, NO_RESET}},
    {"again", {.again = STORM, NO_RESET}},
    {"delay", {.late_polls = LATE_POLLS, .late = LATE, NO_RESET}},
    {"all",
     {.read_most = RANDOM_MOST,
      .write_most = RANDOM_MOST,
      .again = STORM,
      .late_polls = LATE_POLLS,
      .late = LATE,
      NO_RESET}},
};

struct fault_tally faults_tally, faults_tally_above_tls;

static const struct mode *mode; /* NULL: not looked yet */
static uint32_t seed;
static bool first_only, above_tls;
static struct fault_plan armed[2];
static bool is_armed[2];

/* ---- the environment ------------------------------------------------------------- */

static const struct mode *find_mode(const char *name, size_t len) {
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
    if (strlen(modes[i].name) == len && memcmp(modes[i].name, name, len) == 0) return &modes[i];
  fprintf(stderr, "LUNEWIRE_FAULTS: no such mode: %.*s\n", (int)len, name);
  abort();
}

static void look_up(void) {
  if (mode) return;
  const char *text = getenv("LUNEWIRE_FAULTS"), *end = getenv("LUNEWIRE_FAULTS_END");
  if (!text) text = "none";
  size_t len = strcspn(text, "+:");
  mode = find_mode(text, len);
  above_tls = strncmp(text + len, "+tls", 4) == 0;
  text += len + (above_tls ? 4 : 0);
  seed = *text ? (uint32_t)strtoul(text + 1, NULL, 10) : 1;
  first_only = end && strcmp(end, "first") == 0;
}

static int print_tally(char *to, size_t room, const char *p, const struct fault_tally *t) {
  return snprintf(to, room,
                  "%lu %slinks %lu %sreads %lu %swrites %lu %sagains %lu %slates %lu "
                  "%sresets",
                  t->links, p, t->reads, p, t->writes, p, t->agains, p, t->lates, p, t->resets, p);
}

/* One write, so that the lines of processes that end together do not mix. */
__attribute__((destructor)) static void log_tally(void) {
  const char *name = getenv("LUNEWIRE_FAULTS_LOG");
  char line[512];
  int fd =
      name && faults_tally.links ? open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
  if (fd < 0) return;
  int n = print_tally(line, sizeof line, "", &faults_tally);
  if (above_tls) {
    line[n++] = ' ';
    n += print_tally(line + n, sizeof line - (size_t)n, "tls_", &faults_tally_above_tls);
  }
  line[n++] = '\n';
  if (write(fd, line, (size_t)n) != n) perror(name);
  close(fd);
}

/* ---- links ----------------------------------------------------------------------- */

/* Neighbours in a row of numbers are to have nothing in common. */
static uint32_t next_seed(void) {
  uint32_t x = seed += 0x9e3779b9u;
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

void faults_arm(enum fault_end end, const struct fault_plan *plan) {
  armed[end] = *plan;
  is_armed[end] = true;
}

int faults_put(struct world *w, struct fault_sleepers *s, enum fault_end end, struct fault_tally *t,
               struct link **l) {
  look_up();
  const struct fault_plan *plan = is_armed[end] ? &armed[end] : &mode->plan;
  if (first_only && end != FAULT_FIRST && !is_armed[end]) return 0;
  is_armed[end] = false;
  return link_fault_open(w, *l, plan, next_seed(), t, s, l);
}

bool faults_above_tls(void) {
  look_up();
  return above_tls;
}
