/* Links in memory: pieces, room, and the facts of something that is no socket. */
#include <math.h>

#include "probe.h"

enum { BIG = 256 * 1024, PIPE_ROOM = 64 * 1024 };

static void pieces(struct world *w, struct probe *a, struct probe *b) {
  char c[2];
  CHECK_EQ(probe_send(a, "one"), 3);
  CHECK_EQ(probe_send(a, "two"), 3);
  CHECK_EQ(probe_send(a, "three"), 5);
  CHECK_READ(b, "one");
  CHECK_READ(b, "two");
  CHECK_EQ(probe_read(b, c, 2), 2);
  CHECK_READ(b, "ree");
  CHECK_EQ(probe_read(b, c, 2), ERR_AGAIN);
  (void)w;
  probe_close_both(a, b);
}

TEST(a_pipe_never_joins_two_writes) { probe_run(probe_pipe, pieces); }

static void capacity(struct world *w, struct probe *a, struct probe *b) {
  char *data = calloc(1, BIG);
  (void)w;
  CHECK_EQ(probe_write(a, data, PIPE_ROOM - 1), PIPE_ROOM - 1);
  CHECK_EQ(probe_write(a, data, 2), 1);
  CHECK_EQ(probe_write(a, data, 1), ERR_AGAIN);
  CHECK_EQ(probe_write(b, data, BIG), PIPE_ROOM);
  CHECK_EQ(probe_read(b, data, 10), 10);
  CHECK_EQ(probe_write(a, data, BIG), 10);
  free(data);
  probe_close_both(a, b);
}

TEST(a_pipe_holds_64_kib_each_way) { probe_run(probe_pipe, capacity); }

static void pipe_facts(struct world *w, struct probe *a, struct probe *b) {
  struct addr name;
  int value = 1;
  (void)w;
  CHECK(!a->link->outside);
  CHECK_EQ(a->link->ops->name(a->link, true, &name), 0);
  CHECK_EQ(name.kind, ADDR_PIPE);
  CHECK_EQ(a->link->ops->option(a->link, LINK_NODELAY, true, &value), ERR_NOTSUP);
  CHECK_EQ(a->link->ops->option(a->link, LINK_FD, true, &value), ERR_NOTSUP);
  CHECK_EQ(a->link->ops->option(a->link, LINK_FD, false, &value), 0);
  CHECK_EQ(value, -1);
  CHECK(a->link->ops->in_flight(a->link) == 0);
  probe_close_both(a, b);
}

TEST(a_pipe_has_no_descriptor_and_no_options) { probe_run(probe_pipe, pipe_facts); }

static void shut_after_peer(struct world *w, struct probe *a, struct probe *b) {
  (void)w;
  probe_close(a, false);
  CHECK_EQ(probe_send(b, "x"), ERR_PIPE);
  CHECK_EQ(b->link->ops->shut(b->link), 0);
  probe_close(b, false);
}

TEST(shutting_a_pipe_whose_peer_closed_is_no_failure) { probe_run(probe_pipe, shut_after_peer); }

static void silent_when_dry(struct world *w, struct probe *a, struct probe *b) {
  probe_want(b, LINK_IN);
  for (int i = 0; i < 3; i++) w->ops->poll(w, w->ops->now(w));
  CHECK_EQ(b->reports, 0);
  CHECK(!w->ops->poll(w, INFINITY));
  probe_close_both(a, b);
}

TEST(a_dry_pipe_reports_nothing_and_awaits_nothing) { probe_run(probe_pipe, silent_when_dry); }

static void unread_is_freed(struct world *w, struct probe *a, struct probe *b) {
  (void)w;
  CHECK_EQ(probe_send(a, "never read"), 10);
  CHECK_EQ(probe_send(b, "nor this"), 8);
  probe_close_both(a, b);
}

TEST(a_pipe_frees_what_nobody_read) { probe_run(probe_pipe, unread_is_freed); }
