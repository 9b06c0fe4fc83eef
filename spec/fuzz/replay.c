/* Runs inputs through a fuzz target, once each, without libFuzzer:
 *
 *   NAME FILE|DIRECTORY...
 *
 * Its last line is "1 passed, 0 failed": a target with all of its inputs is one test.  An input
 * that crashes is named; whether one leaks is for the leak checker to say, at the end.
 * What this is not: it makes no inputs. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

static char running[4096];
static unsigned inputs;

/* Every fault becomes a signal, which tells the input.
 * NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the sanitizers' names. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1:abort_on_error=1"; }
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void) { return "print_stacktrace=1:abort_on_error=1"; }
/* NOLINTEND */

static void say(const char *text) {
  if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(3);
}

static void on_fault(int signum) {
  say("the input was ");
  say(running);
  say("\n");
  signal(signum, SIG_DFL);
  raise(signum);
}

static uint8_t *read_file(const char *path, size_t size) {
  uint8_t *data = malloc(size ? size : 1);
  int fd = open(path, O_RDONLY);
  if (!data || fd < 0 || read(fd, data, size) != (ssize_t)size) {
    perror(path);
    exit(2);
  }
  close(fd);
  return data;
}

static void run_file(const char *path, size_t size) {
  snprintf(running, sizeof running, "%s", path);
  uint8_t *data = read_file(path, size);
  LLVMFuzzerTestOneInput(data, size);
  free(data);
  inputs++;
}

static void run_path(const char *path, bool within) {
  struct stat st;
  struct dirent **names;
  if (stat(path, &st) != 0) {
    perror(path);
    exit(2);
  }
  if (!S_ISDIR(st.st_mode)) {
    run_file(path, (size_t)st.st_size);
    return;
  }
  int n = within ? 0 : scandir(path, &names, NULL, alphasort);
  for (int i = 0; i < n; i++) {
    char inner[4096];
    snprintf(inner, sizeof inner, "%s/%s", path, names[i]->d_name);
    if (names[i]->d_name[0] != '.') run_path(inner, true);
    free(names[i]);
  }
  if (n > 0) free(names);
}

int main(int argc, char **argv) {
  const int faults[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTERM};
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) signal(faults[i], on_fault);
  for (int i = 1; i < argc; i++) run_path(argv[i], false);
  printf("%u inputs\n", inputs);
  printf("%d passed, %d failed\n", inputs > 0, inputs == 0);
  return inputs == 0;
}
