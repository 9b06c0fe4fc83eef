/* Torture by allocation: every scenario runs once for each allocation k of its body, for each
 * family of allocators and all together, with allocation k and the next one failing, k alone, and
 * all from k on.
 *
 *   torture [-s] [-n NAME] [-f FAMILY] [-m MODE] [-k K] [-c]
 *
 * -s: a part of the k's, evenly spread, of every test.  -n, -f, -m, -k: only those (a name's
 * beginning will do; -k runs in this process, for a debugger).  -c: no faults, only how many
 * allocations there are.  First come faults of our own, planted to see that they are found.
 * A test is one scenario, family and mode; each runs in a process of its own, and when that dies or
 * hangs, k is known, and another one goes on.
 * What this is not: what a run is (run.c), what fails (alloc.c). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "report.h"
#include "run.h"

enum {
  SHORT_RUNS = 5,
  HANG_SECONDS = 30,
  PLANTED_SECONDS = 5,
  REACH = 2,
  SHOWN = 1,
  HUNG = 77 /* exit status */
};

enum fault { CRASH, HANG, LEAK, LEFT, BROKEN, FAULTS };
static const char *const fault_names[] = {"crash", "hang", "leak", "left over", "broken"};

static const struct {
  const char *name;
  unsigned families;
} families[] = {{"lua", 1u << FAMILY_LUA},
                {"uv", 1u << FAMILY_UV},
                {"openssl", 1u << FAMILY_OPENSSL},
                {"core", 1u << FAMILY_CORE},
                {"all", (1u << FAMILIES) - 1}};
enum { FAMILY_CHOICES = sizeof families / sizeof *families };
static const char *const mode_names[] = {"pair", "single", "from"};

/* What a child and its parent share. */
struct board {
  volatile bool over; /* all runs of the test are done */
  volatile long k;    /* under way */
  long runs, faults[FAULTS], lost, excluded;
  volatile int frames_n;
  void *frames[REPORT_FRAMES]; /* where it crashed or hung */
};

struct test {
  int scenario, family;
  enum mode mode;
  const char *name;
};

static struct board *board;
static bool is_short, clean_only, has_tty;
static const char *only_name, *only_family, *only_mode;
static long only_k;
static long totals[FAMILY_CHOICES]; /* allocations of the scenario's body when none fails */
static bool is_planted;             /* the fault is expected: one run, and nothing is said of it */
static long sums[FAULTS], runs, exclusions, losses;

/* ---- in the child --------------------------------------------------------------------- */

static void on_fault(int signum) {
  board->frames_n = report_frames(board->frames);
  signal(signum, SIG_DFL);
  if (signum == SIGALRM) _exit(HUNG);
  raise(signum);
}

static void catch_faults(void) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
  struct sigaction a = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
#ifdef __SANITIZE_ADDRESS__
    if (signals[i] != SIGALRM) continue;
#endif
    sigaction(signals[i], &a, NULL);
  }
}

static void say(const struct test *t, long k, enum fault f, const char *text) {
  if (board->faults[f]++ >= SHOWN || is_planted) return;
  if (has_tty) fputs("\r\033[K", stdout);
  printf("  %s: %s %s, k = %ld: %s\n", fault_names[f], families[t->family].name,
         mode_names[t->mode], k, text);
}

static void say_held(const struct test *t, long k, const struct outcome *o) {
  bool shown = board->faults[LEAK] < SHOWN && !is_planted;
  say(t, k, LEAK, o->text);
  for (int i = 0; shown && i < o->held_n; i++) {
    printf("    %zu bytes from\n", o->held[i].size);
    report_place(o->held[i].frames, ALLOC_FRAMES);
  }
}

/* A finalizer that Lua could not call for want of memory is lost for good, and what it would have
 * freed is freed with the state. */
static void judge(const struct test *t, long k, const struct outcome *o) {
  board->runs++;
  board->lost += o->lost;
  if (o->leaked) say_held(t, k, o);
  if (o->broken) say(t, k, BROKEN, o->text);
  if (o->left && !o->lost) say(t, k, LEFT, o->text);
  fflush(stdout);
}

static bool run_k(const struct test *t, long k) {
  struct outcome o;
  board->k = k;
  alarm(is_planted ? PLANTED_SECONDS : HANG_SECONDS);
  run_scenario(t->scenario, families[t->family].families, t->mode, k, &o);
  alarm(0);
  judge(t, k, &o);
  return o.count >= k;
}

static long stride(const struct test *t) {
  long most = totals[t->family] / SHORT_RUNS;
  return is_short && most > 0 ? most : 1;
}

static long last_k(const struct test *t) {
  return is_planted ? 1 : is_short ? totals[t->family] : LONG_MAX;
}

/* Beyond the end of an ordinary run: one that fails may take longer. */
static void run_from(const struct test *t, long first) {
  for (long k = first, beyond = 0; beyond < REACH && k <= last_k(t); k += stride(t))
    beyond = run_k(t, k) ? 0 : beyond + 1;
  board->over = true;
}

static void be_quiet(void) {
  int null = open("/dev/null", O_WRONLY);
  if (null < 0 || dup2(null, STDERR_FILENO) < 0) abort();
  close(null);
}

/* ---- in the parent ---------------------------------------------------------------------- */

static void show_progress(const struct test *t) {
  if (!has_tty) return;
  printf("\r\033[K%s: %s %s %ld/%ld", t->name, families[t->family].name, mode_names[t->mode],
         board->k, totals[t->family]);
  fflush(stdout);
}

static int wait_for(const struct test *t, pid_t child) {
  const struct timespec pause = {.tv_nsec = 2000000};
  double waited = 0, most = HANG_SECONDS + 10;
  int status;
  for (long k = -1; waitpid(child, &status, WNOHANG) == 0; waited += 0.002) {
    if (board->k != k) waited = 0;
    k = board->k;
    if (waited > most) kill(child, SIGKILL);
    nanosleep(&pause, NULL);
    show_progress(t);
  }
  return status;
}

/* The child died in the middle of a run. */
static void judge_death(const struct test *t, int status) {
  bool hung = (WIFEXITED(status) && WEXITSTATUS(status) == HUNG) ||
              (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  board->runs++;
  if (!hung && report_is_excluded(board->frames, board->frames_n)) {
    board->excluded++;
    return;
  }
  enum fault f = hung ? HANG : CRASH;
  bool shown = board->faults[f] < SHOWN && !is_planted;
  char text[40];
  snprintf(text, sizeof text, WIFSIGNALED(status) ? "signal %d" : "exit status %d",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  say(t, board->k, f, text);
  if (shown) report_place(board->frames, board->frames_n);
}

static pid_t start_child(const struct test *t, long first) {
  fflush(stdout);
  pid_t child = fork();
  if (child < 0) abort();
  if (child > 0) return child;
  catch_faults();
  run_from(t, first);
  fflush(stdout);
  _exit(0);
}

/* -> does it pass? */
static bool run_test(const struct test *t) {
  memset(board, 0, sizeof *board);
  for (long first = 1; !board->over; first = board->k + stride(t)) {
    board->frames_n = 0;
    int status = wait_for(t, start_child(t, first));
    if (!board->over) judge_death(t, status);
  }
  bool good = true;
  for (int f = 0; f < FAULTS; f++) good = good && board->faults[f] == 0;
  return good;
}

/* ---- all tests ---------------------------------------------------------------------------- */

static int passed, failed;

static void run_alone(const struct test *t) {
  struct outcome o;
  run_scenario(t->scenario, families[t->family].families, t->mode, only_k, &o);
  printf("%ld allocations; %s; body %s; left %d broken %d leaked %d lost %d; %s\n", o.count,
         t->name, o.body_ok ? "well" : "failed", o.left, o.broken, o.leaked, o.lost, o.text);
  for (int i = 0; i < o.held_n; i++) report_place(o.held[i].frames, ALLOC_FRAMES);
}

static bool is_chosen(const char *name, const char *only) {
  return !only || strncmp(name, only, strlen(only)) == 0;
}

static void add_up(long sum[FAULTS]) {
  for (int f = 0; f < FAULTS; f++) sum[f] += board->faults[f];
  for (int f = 0; f < FAULTS; f++) sums[f] += board->faults[f];
  runs += board->runs;
  losses += board->lost;
  exclusions += board->excluded;
}

/* Without faults all must go well; then what libraries keep for themselves is there. */
static bool warm_up(const struct test *t) {
  struct outcome o;
  for (int i = -1; i < FAMILY_CHOICES; i++) {
    run_settle();
    alarm(HANG_SECONDS);
    run_scenario(t->scenario, families[i < 0 ? 0 : i].families, MODE_SINGLE, 0, &o);
    alarm(0);
    if (i >= 0) totals[i] = o.count;
    if (o.body_ok && !o.broken && !o.left && !(i >= 0 && o.leaked)) continue;
    printf("  %s fails without any fault: %s\n", t->name, o.text);
    failed++;
    return false;
  }
  return true;
}

/* Is the planted fault found? */
static void run_planted(const struct test *t) {
  is_planted = true;
  run_test(t);
  is_planted = false;
  int expected = 0;
  while (!strstr(t->name, fault_names[expected])) expected++;
  bool found = board->faults[expected] > 0;
  *(found ? &passed : &failed) += 1;
  printf("%-24s is %sfound\n", t->name, found ? "" : "NOT ");
}

static void run_tests_of(int scenario) {
  struct test t = {.scenario = scenario};
  char name[40];
  long sum[FAULTS] = {0}, most = 0, runs_before = runs, good = 0, bad = 0;
  snprintf(name, sizeof name, "%s", run_name(scenario));
  t.name = name;
  if (!warm_up(&t)) return;
  if (run_is_planted(scenario)) {
    run_planted(&t);
    return;
  }
  for (t.family = 0; t.family < FAMILY_CHOICES; t.family++) {
    if (!is_chosen(families[t.family].name, only_family)) continue;
    for (t.mode = 0; t.mode < MODES; t.mode++) {
      if (!is_chosen(mode_names[t.mode], only_mode)) continue;
      if (clean_only) continue;
      if (only_k) {
        run_alone(&t);
        continue;
      }
      *(run_test(&t) ? &good : &bad) += 1;
      add_up(sum);
    }
    if (totals[t.family] > most) most = totals[t.family];
  }
  passed += (int)good;
  failed += (int)bad;
  if (has_tty) printf("\r\033[K");
  printf("%-24s %6ld k's %7ld runs", name, most, runs - runs_before);
  for (int f = 0; f < FAULTS; f++) printf(", %ld %s", sum[f], fault_names[f]);
  printf("; %ld passed, %ld failed\n", good, bad);
}

static void read_arguments(int argc, char **argv) {
  for (int c; (c = getopt(argc, argv, "scn:f:m:k:")) != -1;) switch (c) {
    case 'c':
      clean_only = true;
      break;
    case 's':
      is_short = true;
      break;
    case 'n':
      only_name = optarg;
      break;
    case 'f':
      only_family = optarg;
      break;
    case 'm':
      only_mode = optarg;
      break;
    case 'k':
      only_k = atol(optarg);
      break;
    default:
      exit(2);
    }
}

int main(int argc, char **argv) {
  read_arguments(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  has_tty = isatty(STDOUT_FILENO);
  if (!only_k) be_quiet();
  alloc_install();
  run_prepare();
  board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (board == MAP_FAILED) return 1;
  for (int i = 0; run_name(i); i++)
    if (is_chosen(run_name(i), only_name)) run_tests_of(i);
  bool all = !is_short && !clean_only && !only_name && !only_family && !only_mode;
  bool needed = report_exclusions(all);
  printf("%ld runs, %ld finalizers lost by Lua\n", runs, losses);
  printf("%d passed, %d failed\n", passed, failed + !needed);
  return failed || !needed;
}
