/* Readiness of many in one poll, of clients and datagrams, and how long a poll sleeps.
 *
 * What this is not: one stream (test_poller.c). */
#include <math.h>
#include <signal.h>
#include <sys/time.h>

#include "dgram.h"
#include "poller_probe.h"

enum { CROWD = 20 };

/* ---- many in one poll ------------------------------------------------------------ */

static struct side crowd[CROWD];

static unsigned closed_by_now(void) {
  unsigned n = 0;
  for (int i = 0; i < CROWD; i++) n += crowd[i].p.ended;
  return n;
}

static unsigned reports_by_now(void) {
  unsigned n = 0;
  for (int i = 0; i < CROWD; i++) n += crowd[i].p.reports;
  return n;
}

static void close_crowd(struct probe *p) {
  (void)p;
  for (int i = 0; i < CROWD; i++)
    if (crowd[i].p.link && !crowd[i].p.ended) probe_close(&crowd[i].p, i % 2);
}

static void silence_crowd(struct probe *p) {
  (void)p;
  for (int i = 0; i < CROWD; i++) crowd[i].p.link->ops->want(crowd[i].p.link, 0);
}

static void crowd_open(struct world *w, void (*hook)(struct probe *)) {
  for (int i = 0; i < CROWD; i++) {
    int fd[2];
    (i % 2 ? tcp_ends : unix_ends)(fd);
    side_open(&crowd[i], w, fd);
    crowd[i].p.hook = hook;
    probe_want(&crowd[i].p, LINK_IN);
    peer_says(&crowd[i], "all at once", 0);
  }
}

TEST(who_is_closed_by_another_in_the_same_poll_hears_nothing) {
  struct world *w = probe_world();
  crowd_open(w, close_crowd);
  AWAIT(w, closed_by_now() == CROWD);
  CHECK_EQ(reports_by_now(), 1);
  for (int i = 0; i < CROWD; i++) peer_gone(&crowd[i]);
  probe_world_end(w);
}

TEST(who_wants_nothing_any_more_in_the_same_poll_hears_nothing) {
  struct world *w = probe_world();
  crowd_open(w, silence_crowd);
  AWAIT(w, reports_by_now() > 0);
  CHECK(is_calm(w));
  CHECK_EQ(reports_by_now(), 1);
  for (int i = 0; i < CROWD; i++) {
    crowd[i].p.hook = NULL;
    probe_want(&crowd[i].p, LINK_IN);
    CHECK_COMES(&crowd[i], "all at once");
    side_close(&crowd[i]);
  }
  probe_world_end(w);
}

/* ---- clients and datagrams ------------------------------------------------------- */

static unsigned acceptable;
static void on_acceptable(struct acceptor *a) {
  (void)a;
  acceptable++;
}

/* One for each report. */
TEST(clients_that_were_not_accepted_are_reported_again) {
  struct world *w = probe_world();
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct addr at, peer;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at);
  struct link *l;
  int fd[CROWD];
  a->ready = on_acceptable;
  to.sin_port = htons(at.port);
  for (int i = 0; i < CROWD; i++) fd[i] = bare_dial(&to);
  CHECK(is_calm(w));
  for (int i = 0; i < CROWD; i++) {
    w->ops->accept_want(a, true);
    acceptable = 0;
    AWAIT(w, acceptable);
    w->ops->accept_want(a, i % 3);
    REQUIRE(w->ops->accept(a, &l, &peer) == 0);
    l->closed = NULL;
    l->ops->close(l, true);
    close(fd[i]);
  }
  w->ops->accept_want(a, true);
  CHECK_EQ(w->ops->accept(a, &l, &peer), ERR_AGAIN);
  CHECK(is_calm(w));
  w->ops->accept_close(a);
  probe_world_end(w);
}

static unsigned told;
static void on_dgram(struct dgram *d, unsigned events) {
  (void)d;
  told |= events;
}

static struct dgram *open_dgram(struct world *w, struct addr *at) {
  const struct dgram_opts none = {.ipv6_only = false};
  struct dgram *d = NULL;
  *at = probe_ip("127.0.0.1", 0);
  CHECK_EQ(w->ops->datagrams(w, at, &none, &d), 0);
  d->ready = on_dgram;
  CHECK_EQ(d->ops->name(d, false, at), 0);
  return d;
}

static ptrdiff_t recv_now(struct dgram *d) {
  struct dgram_from from;
  char sink[8];
  return d->ops->recv(d, sink, sizeof sink, &from);
}

static ptrdiff_t told_recv(struct world *w, struct dgram *d) {
  told = 0;
  AWAIT(w, told & DGRAM_IN);
  return recv_now(d);
}

TEST(datagrams_and_what_became_of_earlier_ones_are_reported) {
  struct world *w = probe_world();
  struct addr at, gone;
  struct dgram *d = open_dgram(w, &at), *other = open_dgram(w, &gone);
  other->ops->close(other);
  CHECK_EQ(d->ops->connect(d, &gone), 0);
  d->ops->want(d, DGRAM_IN);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(d->ops->send(d, "lost", 4, NULL), 0);
    CHECK_EQ(told_recv(w, d), UV__ECONNREFUSED);
  }
  CHECK_EQ(d->ops->connect(d, &at), 0);
  for (size_t n = 1; n < 4; n++) CHECK_EQ(d->ops->send(d, "abc", n, NULL), 0);
  for (int n = 1; n < 4; n++) CHECK_EQ(told_recv(w, d), n);
  CHECK_EQ(recv_now(d), ERR_AGAIN);
  CHECK(is_calm(w));
  d->ops->close(d);
  probe_world_end(w);
}

/* ---- sleeping -------------------------------------------------------------------- */

TEST(a_poll_for_ever_without_anything_to_come_returns_at_once) {
  struct world *w = probe_world();
  struct side s;
  int fd[2];
  CHECK(!w->ops->poll(w, INFINITY));
  unix_ends(fd);
  side_open(&s, w, fd);
  CHECK(!w->ops->poll(w, INFINITY));
  peer_says(&s, "unwanted", 0);
  CHECK(!w->ops->poll(w, INFINITY));
  probe_want(&s.p, LINK_IN);
  CHECK(w->ops->poll(w, INFINITY));
  probe_want(&s.p, 0);
  CHECK(!w->ops->poll(w, INFINITY));
  side_close(&s);
  AWAIT(w, w->ops->open(w) == 0);
  CHECK(!w->ops->poll(w, INFINITY));
  probe_world_end(w);
}

static unsigned fired;
static void on_fired(struct signal_watch *s) {
  (void)s;
  fired++;
}

/* A time past any life is still a time: the poll neither returns nor spins. */
TEST(a_sleep_of_centuries_is_one_and_a_signal_ends_it) {
  struct world *w = probe_world();
  struct signal_watch s = {.fired = on_fired};
  const struct itimerval soon = {.it_value = {.tv_usec = 50000}};
  unsigned polls = 0;
  fired = 0;
  CHECK_EQ(w->ops->signal_start(w, &s, SIGALRM, false), 0);
  for (int i = 0; i < 3; i++) w->ops->poll(w, 0);
  CHECK_EQ(setitimer(ITIMER_REAL, &soon, NULL), 0);
  while (!fired && ++polls < 1000) CHECK(w->ops->poll(w, w->ops->now(w) + 1e11));
  CHECK_EQ(fired, 1);
  CHECK(polls <= 3);
  w->ops->signal_stop(w, &s);
  probe_world_end(w);
}
