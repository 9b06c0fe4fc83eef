/* An independent load generator for echo servers.
 *
 *   load MODE HOST PORT [--conns C] [--depth D] [--size S] [--seconds T] [--patience P]
 *                       [--pid PID]
 *   load idle|idle-tls HOST PORT --pid PID [--few N] [--many N] [--size S] [--patience P]
 *
 *   length    packages: a 2-byte big-endian length, then so many bytes
 *   line      lines, ended by LF
 *   bulk      as length, with a 4-byte length, up to 16 MiB
 *   tls       as length, over TLS 1.3; BENCH_CERT in the environment names a file of certificates
 *             one of which must be the server's or its authority's, otherwise none is verified
 *   once      as length, one package to a connection, which the server then ends
 *   udp       datagrams
 *   idle, idle-tls   opens few connections, then many, each echoes one package and stays silent;
 *             what is compared is the memory of the process PID
 *
 * With --pid the CPU that PID used meanwhile is told too.
 * Keeps D messages of S bytes in flight on each of C connections, checks every byte that comes
 * back, and prints one line of key=value.  Exits with 1 at the first wrong byte, at a connection
 * that ends early or, in once, does not end, and when a reply is missing for P seconds.
 * What this is not: it shares no code with lunewire or libuv, so that it can judge both; it has
 * one thread, and with few bytes a message it costs about what a server in C does. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

struct mode {
  const char *name;
  void (*run)(struct load *l);
  size_t header_len, size_least, size_most;
};

enum { MEBIBYTE = 1024 * 1024 };

static const struct mode modes[] = {
    {"length", run_length, 2, 0, 65535},       {"line", run_length, 0, 0, 65534},
    {"bulk", run_length, 4, 0, 16 * MEBIBYTE}, {"tls", run_tls, 2, 0, 65535},
    {"once", run_once, 2, 0, 65535},           {"udp", run_udp, 0, PATTERN_STAMP, 65507},
    {"idle", run_idle, 2, 0, 65535},           {"idle-tls", run_idle_tls, 2, 0, 65535},
};

static const char usage[] = "MODE HOST PORT [--conns C] [--depth D] [--size S] [--seconds T] "
                            "[--patience P] [--pid PID] [--few N] [--many N]";

static const struct mode *mode_named(const char *name) {
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
    if (strcmp(modes[i].name, name) == 0) return &modes[i];
  die("there is no mode %s", name);
}

static double number(const char *name, const char *text, double least, double most) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end || !(value >= least && value <= most))
    die("%s must be a number from %g to %.9g, not %s", name, least, most, text);
  return value;
}

/* -> the mode; *size stays if none is given, because its limits depend on the mode. */
static const struct mode *read_arguments(struct load *l, int argc, char **argv, const char **size) {
  static const struct option options[] = {{"conns", required_argument, NULL, 'c'},
                                          {"depth", required_argument, NULL, 'd'},
                                          {"size", required_argument, NULL, 's'},
                                          {"seconds", required_argument, NULL, 't'},
                                          {"few", required_argument, NULL, 'f'},
                                          {"many", required_argument, NULL, 'm'},
                                          {"pid", required_argument, NULL, 'p'},
                                          {"patience", required_argument, NULL, 'w'},
                                          {NULL, 0, NULL, 0}};
  opterr = 0;
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (option == 'c') l->conns = (int)number("--conns", optarg, 1, 60000);
    if (option == 'd') l->depth = (int)number("--depth", optarg, 1, 65536);
    if (option == 's') *size = optarg;
    if (option == 't') l->seconds = number("--seconds", optarg, 0.001, 86400);
    if (option == 'f') l->few = (int)number("--few", optarg, 1, 60000);
    if (option == 'm') l->many = (int)number("--many", optarg, 1, 60000);
    if (option == 'p') l->pid = (int)number("--pid", optarg, 1, 1 << 30);
    if (option == 'w') l->patience = number("--patience", optarg, 0.001, 86400);
    if (option == '?') die("%s", usage);
  }
  if (argc - optind != 3) die("%s", usage);
  set_server(l, argv[optind + 1], (int)number("PORT", argv[optind + 2], 1, 65535));
  return mode_named(argv[optind]);
}

int main(int argc, char **argv) {
  static struct load load; /* from which everything can be reached until the program ends */
  struct load *l = &load;
  const char *size = "64";
  l->conns = 64;
  l->depth = 1;
  l->seconds = 2;
  l->patience = 5;
  l->few = 1000;
  l->many = 8000;
  const struct mode *mode = read_arguments(l, argc, argv, &size);
  double bytes = number("--size", size, (double)mode->size_least, (double)mode->size_most);
  pattern_init(&l->pattern, mode->header_len, strcmp(mode->name, "line") == 0, (size_t)bytes);
  raise_descriptors();
  mode->run(l);
  return EXIT_SUCCESS;
}
