/* What the parts of the load generator share: what was asked for, the loop, the clock, and how a
 * measurement goes.
 * What this is not: anything of a mode; stream.c, once.c, udp.c and idle.c are those. */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "histogram.h"
#include "pattern.h"

enum phase {
  OPENING,  /* each connection sends one message, which shows that it is served */
  RUNNING,  /* as many are in flight as were asked for */
  DRAINING, /* nothing more is sent */
};

struct load {
  /* What was asked for. */
  struct sockaddr_in server;
  int conns, depth;
  double seconds, patience; /* a reply that takes longer than that is missing */
  int pid, few, many;

  /* What each mode sets before its first turn of the loop. */
  void (*serve)(struct load *l, void *who, uint32_t events);
  void (*tick)(struct load *l); /* of a mode where messages may be lost: every TICK_MS at least */
  bool (*is_drained)(const struct load *l);
  void *state; /* the mode's own */

  enum phase phase;
  int epoll, source; /* source: which loopback address connections come from */
  uint64_t now, heard;
  uint64_t total, lost; /* messages answered, and not, since the beginning */
  struct histogram times;
  struct pattern pattern;
};

enum { TICK_MS = 20 };

/* ---- tools.c ---- */

/* Says what is wrong and ends the program with status 1. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Zeroed memory, or death. */
void *allocate(size_t count, size_t size);

uint64_t now_ns(void);
uint64_t to_ns(double seconds);

/* ---- cpu.c ---- */

/* Nanoseconds that a process has run, and that it was ready to run and had no core. */
struct cpu {
  int64_t ran, waited;
};

/* Of all threads that it has now, so that it is less once one has ended; zeroes if the kernel does
 * not count them. */
struct cpu read_cpu(int pid);

/* ---- net.c ---- */

/* As many descriptors as the system permits. */
void raise_descriptors(void);

/* l->server, of an IPv4 address and a port. */
void set_server(struct load *l, const char *host, int port);

/* A socket that does not block, of type SOCK_STREAM or SOCK_DGRAM, connected to the server or on
 * its way.  Where the system has no port left, it comes from another loopback address. */
int dial(struct load *l, int type);

/* Ends a stream in an orderly way on this side too, but keeps its socket for redial. */
void hang_up(int fd);

/* Connects such a socket anew -> false if the system has no port left for it. */
bool redial(struct load *l, int fd);

/* ---- loop.c ---- */

void loop_open(struct load *l);

/* how: EPOLL_CTL_ADD or EPOLL_CTL_MOD; l->serve gets `who` and the events. */
void loop_watch(struct load *l, int how, int fd, uint32_t events, void *who);

/* Waits for events and serves them; dies if none comes for as long as l->patience. */
void loop_turn(struct load *l);

/* Warms up, counts for l->seconds, waits for what is in flight, prints the line.  Connections
 * are open and busy.  With l->pid the CPU of that process is counted as long.  The line comes last:
 * it says that all of it was right. */
void measure(struct load *l);

/* ---- the modes ---- */

void run_length(struct load *l); /* line and bulk too; only the pattern differs */
void run_tls(struct load *l);
void run_once(struct load *l);
void run_udp(struct load *l);
void run_idle(struct load *l);
void run_idle_tls(struct load *l);

/* Makes room for connections, with or without TLS; idle: hardly anything will come over them. */
void stream_prepare(struct load *l, int most, bool tls, bool idle);

/* Opens connections until there are so many; returns when each has had one message answered. */
void stream_open(struct load *l, int to);

#endif
