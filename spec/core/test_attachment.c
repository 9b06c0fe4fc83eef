/* What ends with a connection. */
#include "turn_probe.h"

struct tail {
  struct attachment a; /* first */
  struct conn *c;
  int ends;
  bool was_open;
  struct attachment *drops; /* detached when this one ends */
};

static void on_end(struct attachment *a) {
  struct tail *t = (struct tail *)(void *)a;
  t->ends++;
  t->was_open = conn_is_open(t->c);
  CHECK(!a->at);
  if (t->drops) conn_detach(t->drops);
}

static void tie(struct tail *t, struct conn *c) {
  *t = (struct tail){.a.ended = on_end, .c = c};
  conn_attach(c, &t->a);
}

static void check_ended_once(void (*end)(struct conn *), struct rig *r) {
  struct tail t;
  tie(&t, r->conn);
  end(r->conn);
  CHECK_EQ(t.ends, 1);
  CHECK(!t.was_open);
  CHECK(!r->conn->ending);
  conn_reset(r->conn);
  conn_detach(&t.a);
  CHECK_EQ(t.ends, 1);
}

static void by_close(struct rig *r) { check_ended_once(conn_close, r); }
static void by_reset(struct rig *r) { check_ended_once(conn_reset, r); }

TEST(closing_ends_what_is_attached) { rig_over_both(by_close); }
TEST(resetting_ends_what_is_attached) { rig_over_both(by_reset); }

static void by_delay(struct rig *r) {
  struct tail t;
  tie(&t, r->conn);
  CHECK_EQ(conn_close_in(r->conn, 0.01, false), 0);
  CHECK_EQ(t.ends, 0);
  TURN_UNTIL(&r->turn, t.ends);
  CHECK_EQ(t.ends, 1);
}

TEST(a_delayed_close_ends_what_is_attached) { rig_over_both(by_delay); }

static void by_owner(struct rig *r) {
  struct tail t;
  tie(&t, r->conn);
  rig_let_go(r);
  CHECK_EQ(t.ends, 1);
}

TEST(an_owner_that_lets_go_ends_what_is_attached) { rig_over_both(by_owner); }

/* Whichever leaves, the others are ended; one that was detached is not. */
static void detached(struct rig *r) {
  struct tail t[3];
  for (int gone = 0; gone < 3; gone++) {
    struct probe peer;
    struct conn *c = rig_connect(&r->turn, probe_pipe, &peer);
    for (int i = 0; i < 3; i++) tie(&t[i], c);
    conn_detach(&t[gone].a);
    conn_detach(&t[gone].a);
    conn_drop(c, CONN_OF_OWNER);
    for (int i = 0; i < 3; i++) CHECK_EQ(t[i].ends, i != gone);
    probe_close(&peer, false);
  }
}

TEST(what_was_detached_is_not_ended) { rig_run(probe_pipe, detached); }

static void dropping(struct rig *r) {
  struct tail t[3];
  for (int i = 0; i < 3; i++) tie(&t[i], r->conn);
  t[2].drops = &t[0].a; /* the one attached last ends first */
  conn_close(r->conn);
  CHECK_EQ(t[2].ends, 1);
  CHECK_EQ(t[1].ends, 1);
  CHECK_EQ(t[0].ends, 0);
}

TEST(one_that_ends_may_detach_another) { rig_over_both(dropping); }
