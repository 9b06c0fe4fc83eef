/* Links over sockets: what they have and pipes have not. */
#include <fcntl.h>
#include <sys/socket.h>

#include "probe.h"

enum { BIG = 256 * 1024 };

static void socket_facts(struct world *w, struct probe *a, struct probe *b) {
  struct addr mine, theirs;
  (void)w;
  CHECK(a->link->outside);
  CHECK_EQ(a->link->ops->name(a->link, false, &mine), 0);
  CHECK_EQ(b->link->ops->name(b->link, true, &theirs), 0);
  CHECK_EQ(mine.kind, ADDR_IP4);
  CHECK(mine.port != 0);
  CHECK_EQ(mine.port, theirs.port);
  probe_close_both(a, b);
}

TEST(a_socket_knows_its_two_names) { probe_run(probe_pair, socket_facts); }

static void set_and_get(struct probe *p, enum link_option what, int value, int expected) {
  int got = -2;
  CHECK_EQ(p->link->ops->option(p->link, what, true, &value), 0);
  CHECK_EQ(p->link->ops->option(p->link, what, false, &got), 0);
  CHECK_EQ(got, expected);
}

static void socket_options(struct world *w, struct probe *a, struct probe *b) {
  int value = -2;
  (void)w;
  set_and_get(a, LINK_NODELAY, 1, 1);
  set_and_get(a, LINK_NODELAY, 0, 0);
  set_and_get(a, LINK_KEEPALIVE, 1, 1);
  set_and_get(a, LINK_KEEP_IDLE, 30, 30);
  set_and_get(a, LINK_KEEP_INTERVAL, 5, 5);
  set_and_get(a, LINK_KEEP_COUNT, 3, 3);
  set_and_get(a, LINK_TOS, 0x10, 0x10);
  set_and_get(a, LINK_LINGER, 0, 0);
  set_and_get(a, LINK_LINGER, -1, -1);
  set_and_get(a, LINK_LINGER, 5, 5);
  CHECK_EQ(a->link->ops->option(a->link, LINK_RECV_BUFFER, false, &value), 0);
  CHECK(value > 0);
  CHECK_EQ(a->link->ops->option(a->link, LINK_FD, false, &value), 0);
  CHECK(value > 2);
  CHECK_EQ(a->link->ops->option(a->link, LINK_FD, true, &value), ERR_NOTSUP);
  value = -7;
  CHECK_EQ(a->link->ops->option(a->link, LINK_KEEP_IDLE, true, &value), ERR_INVAL);
  probe_close_both(a, b);
}

TEST(a_socket_takes_its_options) { probe_run(probe_pair, socket_options); }

/* Nothing acknowledges: the peer's window is full of what it does not read. */
static void linger_unblocked(struct world *w, struct probe *a, struct probe *b) {
  int seconds = 5;
  probe_fill(a, BIG);
  CHECK(a->link->ops->in_flight(a->link) > 0);
  CHECK_EQ(a->link->ops->option(a->link, LINK_LINGER, true, &seconds), 0);
  double before = w->ops->now(w);
  probe_close(a, false);
  CHECK(w->ops->now(w) - before < 1);
  probe_close(b, true);
}

TEST(closing_does_not_block_even_with_a_linger_time) { probe_run(probe_pair, linger_unblocked); }

static void changing(struct world *w, struct probe *a, struct probe *b) {
  for (int i = 0; i < 50; i++) {
    probe_want(a, LINK_OUT);
    probe_want(a, 0);
    probe_want(a, LINK_IN);
    probe_want(a, LINK_IN | LINK_OUT);
    AWAIT(w, a->seen == LINK_OUT);
  }
  probe_want(a, 0);
  probe_close_both(a, b);
}

TEST(interest_may_change_at_any_time) { probe_run(probe_pair, changing); }

/* ---- descriptors that come again ------------------------------------------------- */

static int fd_of(const struct probe *p) {
  int fd = -1;
  CHECK_EQ(p->link->ops->option(p->link, LINK_FD, false, &fd), 0);
  return fd;
}

static void close_and_await(struct world *w, struct probe *a, struct probe *b) {
  probe_close_both(a, b);
  AWAIT(w, a->ended && b->ended);
  CHECK_EQ(a->ended + b->ended, 2);
}

static void check_exchange(struct world *w, struct probe *from, struct probe *to) {
  CHECK_EQ(probe_send(from, "hello"), 5);
  probe_want(to, LINK_IN);
  AWAIT(w, to->seen & LINK_IN);
  CHECK_READ(to, "hello");
  probe_want(to, 0);
}

/* Whatever was set and seen on the descriptor before is forgotten. */
static void check_fresh(struct world *w, struct probe *p) {
  char c;
  CHECK_EQ(p->link->ops->state(p->link), 0);
  CHECK_EQ(probe_read(p, &c, 1), ERR_AGAIN);
  probe_want(p, LINK_OUT);
  AWAIT(w, p->seen == LINK_OUT);
  probe_want(p, 0);
}

static void leave_behind(struct world *w, struct probe *a, struct probe *b) {
  char c;
  int seconds = 5;
  CHECK_EQ(a->link->ops->option(a->link, LINK_LINGER, true, &seconds), 0);
  CHECK_EQ(a->link->ops->shut(a->link), 0);
  probe_want(b, LINK_IN);
  AWAIT(w, b->seen & LINK_IN);
  CHECK_EQ(probe_read(b, &c, 1), 0);
}

TEST(a_descriptor_that_comes_again_is_a_link_like_the_first) {
  struct world *w = probe_world();
  int first = -1;
  for (int i = 0; i < 20; i++) {
    struct probe a, b;
    probe_pair(w, &a, &b);
    if (i == 0) first = fd_of(&b);
    CHECK_EQ(fd_of(&b), first);
    check_fresh(w, &a);
    check_fresh(w, &b);
    check_exchange(w, &a, &b);
    check_exchange(w, &b, &a);
    leave_behind(w, &a, &b);
    close_and_await(w, &a, &b);
    CHECK_EQ(w->ops->open(w), 0);
  }
  probe_world_end(w);
}

static void close_both_at_once(struct probe *p) {
  struct probe *other = (struct probe *)p->link->owner == p ? p + 1 : p;
  probe_close_both(p, other);
}

/* A close inside a report: the other end's event may be in the same bundle. */
TEST(a_descriptor_may_come_again_in_the_poll_that_closed_it) {
  struct world *w = probe_world();
  for (int i = 0; i < 20; i++) {
    struct probe pair[2];
    probe_pair(w, &pair[0], &pair[1]);
    CHECK_EQ(probe_send(&pair[0], "x") + probe_send(&pair[1], "y"), 2);
    pair[0].hook = close_both_at_once;
    probe_want(&pair[1], 0);
    probe_want(&pair[0], LINK_IN);
    AWAIT(w, pair[0].ended && pair[1].ended);
    CHECK_EQ(pair[0].reports, 1);
  }
  probe_world_end(w);
}

static void count_datagram(struct dgram *d, unsigned events) { *(unsigned *)d->owner |= events; }

/* The number of a closed link's descriptor may become anybody's. */
TEST(a_descriptor_that_was_a_links_serves_datagrams) {
  struct world *w = probe_world();
  struct probe a, b;
  struct addr at = probe_ip("127.0.0.1", 0);
  const struct dgram_opts opts = {.recv_buffer = 0};
  unsigned seen = 0;
  probe_pair(w, &a, &b);
  close_and_await(w, &a, &b);
  struct dgram *d = NULL;
  CHECK_EQ(w->ops->datagrams(w, &at, &opts, &d), 0);
  CHECK_EQ(d->ops->name(d, false, &at), 0);
  d->owner = &seen;
  d->ready = count_datagram;
  for (int i = 0; i < 3; i++) {
    probe_pair(w, &a, &b);
    check_exchange(w, &a, &b);
    close_and_await(w, &a, &b);
  }
  d->ops->want(d, DGRAM_OUT);
  AWAIT(w, seen & DGRAM_OUT);
  d->ops->close(d);
  probe_world_end(w);
}

/* Where no handle is kept. */
TEST(a_high_descriptor_is_a_link_as_well) {
  struct world *w = probe_world();
  struct rlimit before, more;
  struct link *l = NULL;
  struct probe a, b;
  int ends[2];
  getrlimit(RLIMIT_NOFILE, &before);
  more = before;
  more.rlim_cur = before.rlim_max;
  setrlimit(RLIMIT_NOFILE, &more);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    int high = fcntl(ends[0], F_DUPFD, 2000);
    if (high >= 0) {
      close(ends[0]);
      ends[0] = high;
    }
    CHECK_EQ(w->ops->adopt(w, ends[0], &l), 0);
    probe_watch(&a, l);
    CHECK_EQ(w->ops->adopt(w, ends[1], &l), 0);
    probe_watch(&b, l);
    check_exchange(w, &a, &b);
    check_exchange(w, &b, &a);
    close_and_await(w, &a, &b);
  }
  setrlimit(RLIMIT_NOFILE, &before);
  probe_world_end(w);
}

/* It blocks, unlike what the world makes, and its number has a handle that is kept. */
TEST(an_adopted_socket_may_have_a_descriptor_that_was_a_links) {
  struct world *w = probe_world();
  struct link *l = NULL;
  struct probe a, b;
  int ends[2];
  for (int i = 0; i < 3; i++) {
    probe_pair(w, &a, &b);
    close_and_await(w, &a, &b);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    CHECK_EQ(w->ops->adopt(w, ends[0], &l), 0);
    probe_watch(&a, l);
    CHECK_EQ(w->ops->adopt(w, ends[1], &l), 0);
    probe_watch(&b, l);
    CHECK(fcntl(ends[0], F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(ends[1], F_GETFL) & O_NONBLOCK);
    check_exchange(w, &a, &b);
    check_exchange(w, &b, &a);
    close_and_await(w, &a, &b);
  }
  probe_world_end(w);
}
