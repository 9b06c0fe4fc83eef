/* Links over sockets: what they have and pipes have not. */
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
