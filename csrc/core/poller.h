/* Who waits for descriptors to become ready: the one place where the process sleeps.
 *
 * Two of them serve: epoll where there is one (poller_epoll.c), libuv elsewhere (poller_uv.c, and
 * with -DPOLLER_UV anywhere).  What is ready and wanted is reported in every poll until a call on
 * the descriptor has found that there is no more, and said so by watch_dry() or watch_short():
 * that way the system tells of a change once, and is not asked again.
 * What this is not: it reads and writes nothing, and closes no descriptors. */
#ifndef LUNEWIRE_POLLER_H
#define LUNEWIRE_POLLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

/* uv.h comes last: it takes back what err.h needs of <uv/errno.h>. */
#include <uv.h>

#if defined __linux__ && !defined POLLER_UV
#define POLLER_EPOLL
#endif

enum { WATCH_IN = 1, WATCH_OUT = 2 };

struct poller;

struct watch_place {
  struct watch_place *prev, *next;
};

/* Embedded in whoever owns the descriptor; its fields are the poller's but for both functions. */
struct watch {
  /* Inside a poll; wanted events; false reports are allowed.  May call anything. */
  void (*ready)(struct watch *, unsigned events);
  /* After watch_close(), once, in a later poll: the last that is heard of it. */
  void (*closed)(struct watch *);
  struct poller *poller;
#ifdef POLLER_EPOLL
  struct watch_place place; /* among those that are to be reported, or closed; or in no list */
  int fd;
  uint8_t wanted, known; /* known: the system tells of these */
  uint8_t due;           /* the system has told, and no call has found the end of it */
  bool wary;             /* less than was asked for does not mean that there is no more */
#else
  uv_poll_t poll;
  uint8_t wanted;
#endif
};

/* Polls for the loop's own handles too, of which there are some already.  0 or a code. */
int poller_open(uv_loop_t *loop, struct poller **out);
/* Every watch was closed and has been told so. */
void poller_close(struct poller *p);
/* Reports what is ready.  ms: how long to wait for that at most (0: not; -1: without end). */
void poller_poll(struct poller *p, int64_t ms);
/* Can a poll that waits bring anything? */
bool poller_alive(const struct poller *p);
/* Are there watches still to be told that they are closed? */
bool poller_closes(const struct poller *p);
/* Handles of the loop were started, stopped or closed outside a poll. */
void poller_touch(struct poller *p);

/* Watches a descriptor that does not block; both functions are set.  now: the events that are
 * wanted soon.  0 or a code, UV_EEXIST among them if it is watched already. */
int watch_open(struct poller *p, struct watch *w, int fd, unsigned now);
/* Replaces what is wanted.  Cheap when nothing changes. */
void watch_want(struct watch *w, unsigned events);
/* A call said EAGAIN, or wrote less than it was given: nothing more until the system tells. */
void watch_dry(struct watch *w, unsigned events);
/* A call read less than it asked for, from a stream: there is no more, but maybe its end. */
void watch_short(struct watch *w);
/* From now on less than was asked for does not mean that there is no more. */
void watch_distrust(struct watch *w);
/* Silences ready() at once.  Before the descriptor is closed. */
void watch_close(struct watch *w);

#endif
