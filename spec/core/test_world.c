/* The world on libuv: posts, clock, poll, dialling. */
#include <math.h>
#include <uv/errno.h>

#include "probe.h"

/* ---- posts ----------------------------------------------------------------------- */

struct note {
  struct post post;
  struct world *world;
  struct note *other;
  int runs;
};

static void count_run(struct post *p) { ((struct note *)(void *)p)->runs++; }

static void post_again(struct post *p) {
  struct note *n = (struct note *)(void *)p;
  n->runs++;
  world_post(n->world, p);
}

static void unpost_other(struct post *p) {
  struct note *n = (struct note *)(void *)p;
  n->runs++;
  world_unpost(n->world, &n->other->post);
}

TEST(a_post_runs_once_however_often_asked) {
  struct world *w = probe_world();
  struct note n = {.post.run = count_run};
  world_post(w, &n.post);
  world_post(w, &n.post);
  CHECK_EQ(n.runs, 0);
  CHECK(w->ops->poll(w, INFINITY));
  CHECK(!w->ops->poll(w, INFINITY));
  CHECK_EQ(n.runs, 1);
  probe_world_end(w);
}

TEST(what_is_posted_meanwhile_waits_for_the_next_poll) {
  struct world *w = probe_world();
  struct note n = {.post.run = post_again, .world = w};
  world_post(w, &n.post);
  CHECK(w->ops->poll(w, INFINITY));
  CHECK_EQ(n.runs, 1);
  CHECK(w->ops->poll(w, INFINITY));
  CHECK_EQ(n.runs, 2);
  world_unpost(w, &n.post);
  world_unpost(w, &n.post);
  CHECK(!w->ops->poll(w, INFINITY));
  probe_world_end(w);
}

TEST(a_post_may_take_back_the_next_and_the_last) {
  struct world *w = probe_world();
  struct note first = {.post.run = unpost_other, .world = w};
  struct note second = {.post.run = count_run}, third = {.post.run = count_run};
  first.other = &second;
  world_post(w, &first.post);
  world_post(w, &second.post);
  world_post(w, &third.post);
  w->ops->poll(w, -INFINITY);
  CHECK_EQ(first.runs, 1);
  CHECK_EQ(second.runs, 0);
  CHECK_EQ(third.runs, 1);
  first.other = &third;
  world_post(w, &first.post);
  world_post(w, &third.post);
  w->ops->poll(w, -INFINITY);
  CHECK_EQ(third.runs, 1);
  probe_world_end(w);
}

/* ---- clock and poll -------------------------------------------------------------- */

TEST(poll_waits_until_the_time_and_not_less) {
  struct world *w = probe_world();
  for (int i = 0; i < 10; i++) {
    double until = w->ops->now(w) + 0.0103;
    CHECK(w->ops->poll(w, until));
    CHECK(w->ops->now(w) >= until);
    CHECK(w->ops->now(w) < until + 0.5);
  }
  probe_world_end(w);
}

TEST(poll_only_looks_when_the_time_is_past) {
  struct world *w = probe_world();
  double before = w->ops->now(w);
  for (int i = 0; i < 100; i++) CHECK(w->ops->poll(w, i % 2 ? -INFINITY : before - 1));
  CHECK(w->ops->now(w) - before < 1);
  probe_world_end(w);
}

TEST(poll_refuses_to_wait_for_ever_for_nothing) {
  struct world *w = probe_world();
  CHECK_EQ(w->ops->open(w), 0);
  CHECK(!w->ops->poll(w, INFINITY));
  probe_world_end(w);
}

static void stop_wanting(struct probe *p) { p->link->ops->want(p->link, 0); }

TEST(a_far_future_does_not_overflow) {
  const double far[] = {1e9, 1e17, 1e300, INFINITY};
  struct world *w = probe_world();
  struct probe a, b;
  probe_pair(w, &a, &b);
  AWAIT(w, w->ops->open(w) == 2);
  for (size_t i = 0; i < sizeof far / sizeof *far; i++) {
    a.hook = stop_wanting;
    probe_want(&a, LINK_OUT);
    CHECK(w->ops->poll(w, far[i]));
    CHECK_EQ(a.reports, 1);
  }
  probe_close(&a, false);
  probe_close(&b, false);
  probe_world_end(w);
}

TEST(numbers_differ) {
  struct world *w = probe_world(), *other = probe_world();
  int same = 0;
  uint32_t last = w->ops->random(w);
  for (int i = 0; i < 100; i++) {
    uint32_t x = w->ops->random(w);
    same += (x == last) + (x == other->ops->random(other));
    last = x;
  }
  CHECK(same <= 1);
  probe_world_end(w);
  probe_world_end(other);
}

TEST(worlds_are_apart) {
  struct world *w = probe_world(), *other = probe_world();
  struct probe a, b;
  probe_pair(w, &a, &b);
  CHECK_EQ(other->ops->open(other), 0);
  probe_world_end(other);
  probe_close(&a, false);
  probe_close(&b, false);
  w->ops->close(w);
  CHECK_EQ(a.ended, 1);
  CHECK_EQ(b.ended, 1);
}

/* ---- dialling -------------------------------------------------------------------- */

/* A port of this host that nobody listens on. */
static struct addr dead_port(struct world *w) {
  struct addr at;
  w->ops->accept_close(probe_listen(w, "127.0.0.1", &at));
  AWAIT(w, w->ops->open(w) == 0);
  return at;
}

TEST(a_refused_connect_says_so) {
  struct world *w = probe_world();
  struct addr at = dead_port(w);
  struct probe p;
  char c;
  CHECK_EQ(probe_dial(w, &p, &at), UV__ECONNREFUSED);
  if (p.link) {
    CHECK_EQ(probe_read(&p, &c, 1), UV__ECONNREFUSED);
    CHECK_EQ(probe_send(&p, "x"), UV__ECONNREFUSED);
    probe_close(&p, false);
  }
  probe_world_end(w);
}

/* A listener with a full backlog answers nobody: the connect stays under way. */
static int fill_backlog(struct world *w, const struct addr *at, struct probe *ps, int n) {
  for (int i = 0; i < n; i++) {
    struct link *l;
    if (w->ops->dial(w, at, NULL, &l) != 0) return i;
    probe_watch(&ps[i], l);
    probe_want(&ps[i], LINK_OUT);
  }
  for (int i = 0; i < 10; i++) w->ops->poll(w, w->ops->now(w) + 0.01);
  return n;
}

TEST(a_connect_under_way_can_be_closed) {
  enum { N = 8 };
  const struct listen_opts opts = {.backlog = 1};
  struct world *w = probe_world();
  struct addr at = probe_ip("127.0.0.1", 0);
  struct acceptor *a;
  struct probe ps[N];
  char c;
  int waiting = 0;
  CHECK_EQ(w->ops->listen(w, &at, &opts, &a), 0);
  CHECK_EQ(w->ops->accept_name(a, &at), 0);
  CHECK_EQ(fill_backlog(w, &at, ps, N), N);
  for (int i = 0; i < N; i++) {
    if (ps[i].link->ops->state(ps[i].link) == ERR_AGAIN) {
      waiting++;
      CHECK_EQ(ps[i].reports, 0);
      CHECK_EQ(probe_read(&ps[i], &c, 1), ERR_AGAIN);
      CHECK_EQ(probe_send(&ps[i], "x"), ERR_AGAIN);
    }
    probe_close(&ps[i], i % 2);
  }
  CHECK(waiting > 0);
  w->ops->accept_close(a);
  probe_world_end(w);
  CHECK_EQ(ps[0].ended, 1);
  CHECK_EQ(ps[N - 1].ended, 1);
}

TEST(the_local_address_can_be_chosen) {
  struct world *w = probe_world();
  struct addr at, from, free_port = dead_port(w), peer;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at);
  struct probe p, q;
  struct link *l;
  from = probe_ip("127.0.0.1", free_port.port);
  CHECK_EQ(w->ops->dial(w, &at, &from, &l), 0);
  probe_watch(&p, l);
  CHECK_EQ(probe_accept(w, a, &q, &peer), 0);
  CHECK_EQ(peer.kind, ADDR_IP4);
  CHECK_EQ(peer.port, from.port);
  probe_close(&p, true);
  probe_close(&q, true);
  from = probe_ip("192.0.2.1", 0);
  CHECK_EQ(w->ops->dial(w, &at, &from, &l), UV__EADDRNOTAVAIL);
  w->ops->accept_close(a);
  probe_world_end(w);
}

TEST(what_is_no_ip_address_cannot_be_dialled) {
  const struct addr none = {.kind = ADDR_PIPE};
  const struct listen_opts opts = {.backlog = 1};
  struct world *w = probe_world();
  struct acceptor *a;
  struct link *l;
  CHECK_EQ(w->ops->dial(w, &none, NULL, &l), ERR_INVAL);
  CHECK_EQ(w->ops->listen(w, &none, &opts, &a), ERR_INVAL);
  probe_world_end(w);
}
