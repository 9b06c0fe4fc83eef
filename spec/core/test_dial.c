/* Dialling: addresses, names, failures, and giving up at every stage.
 *
 * Names are answered by the stand-in of test_resolve.c: "127.0.0.1,::1" is a name that has both. */
#include <stdio.h>
#include <uv/errno.h>

#include "dial.h"
#include "turn_probe.h"

struct call {
  struct turn turn;
  struct dial *dial;
  struct waiter caller;
};

static void call_open(struct call *c) {
  turn_open(&c->turn);
  waiter_init(&c->caller, &c->turn);
  c->dial = NULL;
}

static void call_begin(struct call *c, const char *host, uint16_t port, const struct addr *from) {
  c->dial = dial_new(&c->turn, host, port, from);
  CHECK(c->dial != NULL);
  CHECK_EQ(c->turn.dials, 1);
}

static void call_release(struct call *c) {
  dial_release(c->dial);
  c->dial = NULL;
  CHECK_EQ(c->turn.dials, 0);
}

/* Waits for the outcome as a caller does. */
static int call_await(struct call *c) {
  int runs = c->caller.runs;
  if (c->dial->code != ERR_AGAIN) return c->dial->code;
  waiter_park(&c->caller, &c->dial->waiters, INFINITY, true);
  TURN_UNTIL(&c->turn, c->caller.runs > runs);
  CHECK_EQ(c->caller.why, 0);
  wait_leave(&c->caller.wait);
  return c->dial->code;
}

static void call_end(struct call *c) {
  wait_fini(&c->caller.wait);
  turn_end(&c->turn);
}

static int dial_outcome(struct call *c, const char *host, uint16_t port, const struct addr *from) {
  call_begin(c, host, port, from);
  return call_await(c);
}

static struct acceptor *listen_here(struct call *c, const char *host, uint16_t *port) {
  struct addr at;
  struct acceptor *a = probe_listen(c->turn.world, host, &at);
  *port = at.port;
  return a;
}

/* A port that nobody listens on. */
static uint16_t dead_port(struct call *c) {
  unsigned things = turn_things(&c->turn);
  uint16_t port;
  c->turn.world->ops->accept_close(listen_here(c, "127.0.0.1", &port));
  TURN_UNTIL(&c->turn, turn_things(&c->turn) == things);
  return port;
}

/* No thread of this one is left when the tests end: the others come behind it. */
TEST(a_dial_can_be_given_up_while_a_name_is_looked_up) {
  struct call c;
  call_open(&c);
  call_begin(&c, "localhost", 1, NULL);
  CHECK(c.dial->looking);
  CHECK_EQ(c.dial->code, ERR_AGAIN);
  CHECK_EQ(dial_address(c.dial).kind, ADDR_NONE);
  CHECK_EQ(turn_things(&c.turn), 1);
  call_release(&c);
  CHECK_EQ(turn_things(&c.turn), 0);
  call_end(&c);
}

/* ---- outcomes -------------------------------------------------------------------- */

TEST(an_address_is_dialled_without_a_lookup) {
  struct call c;
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  call_begin(&c, "127.0.0.1", port, NULL);
  CHECK(!c.dial->looking);
  CHECK_EQ(call_await(&c), 0);
  struct addr to = dial_address(c.dial);
  CHECK_EQ(to.kind, ADDR_IP4);
  CHECK_EQ(to.port, port);
  struct link *l = dial_take(c.dial);
  CHECK_EQ(l->ops->state(l), 0);
  CHECK(dial_take(c.dial) == NULL);
  call_release(&c); /* the link is the caller's */
  struct conn *conn = conn_open(&c.turn, l, NULL);
  CHECK_EQ(conn->peer.port, port);
  conn_reset(conn);
  conn_drop(conn, CONN_OF_OWNER);
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}

TEST(a_dial_that_is_refused_says_so) {
  struct call c;
  call_open(&c);
  uint16_t port = dead_port(&c);
  CHECK_EQ(dial_outcome(&c, "127.0.0.1", port, NULL), UV__ECONNREFUSED);
  CHECK(dial_take(c.dial) == NULL);
  CHECK_EQ(c.dial->under_way, 0);
  CHECK_EQ(dial_address(c.dial).kind, ADDR_IP4);
  CHECK_EQ(dial_address(c.dial).port, port);
  call_release(&c);
  call_end(&c);
}

/* Dials `host`, which only somebody at `at` answers. */
static void dial_only(const char *host, const char *at, int kind) {
  struct call c;
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, at, &port);
  CHECK_EQ(dial_outcome(&c, host, port, NULL), 0);
  CHECK_EQ(dial_address(c.dial).kind, kind);
  call_release(&c);
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}

static bool has_ipv6(void) {
  const struct listen_opts opts = {.backlog = 1};
  struct world *w = probe_world();
  struct addr at = probe_ip("::1", 0);
  struct acceptor *a;
  bool has = w->ops->listen(w, &at, &opts, &a) == 0;
  if (has) w->ops->accept_close(a);
  probe_world_end(w);
  return has;
}

TEST(no_host_is_this_one) { dial_only("", "127.0.0.1", ADDR_IP4); }

TEST(the_next_address_is_tried_when_one_refuses) {
  if (has_ipv6()) dial_only("", "::1", ADDR_IP6);
}

TEST(when_all_addresses_refuse_the_last_failure_stands) {
  struct call c;
  call_open(&c);
  uint16_t port = dead_port(&c);
  int expected = has_ipv6() ? UV__ECONNREFUSED : UV__EADDRNOTAVAIL;
  CHECK_EQ(dial_outcome(&c, "", port, NULL), expected);
  CHECK_EQ(dial_address(c.dial).kind, ADDR_IP6);
  call_release(&c);
  call_end(&c);
}

TEST(a_name_is_looked_up_and_its_addresses_tried) { dial_only("localhost", "127.0.0.1", ADDR_IP4); }

TEST(a_name_that_nobody_has_is_not_found) {
  struct call c;
  call_open(&c);
  CHECK_EQ(dial_outcome(&c, "none.invalid", 1, NULL), ERR_NOTFOUND);
  CHECK_EQ(dial_address(c.dial).kind, ADDR_NONE);
  CHECK(!c.dial->looking);
  call_release(&c);
  call_end(&c);
}

/* ---- the local address ----------------------------------------------------------- */

TEST(a_dial_can_come_from_a_chosen_address) {
  struct call c;
  struct addr name = {.kind = ADDR_NONE}, from;
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  from = probe_ip("127.0.0.2", 0);
  CHECK_EQ(dial_outcome(&c, "127.0.0.1", port, &from), 0);
  CHECK_EQ(c.dial->winner->link->ops->name(c.dial->winner->link, false, &name), 0);
  CHECK_MEM(name.ip, 4, from.ip, 4);
  call_release(&c);
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}

TEST(what_fails_at_once_is_known_at_once) {
  struct call c;
  call_open(&c);
  struct addr from = probe_ip("192.0.2.1", 0);
  call_begin(&c, "127.0.0.1", 1, &from);
  CHECK_EQ(c.dial->code, UV__EADDRNOTAVAIL);
  CHECK_EQ(dial_address(c.dial).kind, ADDR_IP4);
  CHECK_EQ(turn_things(&c.turn), 0);
  call_release(&c);
  call_end(&c);
}

TEST(a_dial_can_come_from_a_chosen_port_of_any_address) {
  struct call c;
  struct addr name, from = {.kind = ADDR_NONE};
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  int r = UV__EADDRINUSE; /* what a connection of yesterday has is not free for any address */
  for (int i = 0; i < 100 && r == UV__EADDRINUSE; i++, r ? call_release(&c) : (void)0) {
    from.port = dead_port(&c);
    r = dial_outcome(&c, "127.0.0.1", port, &from);
  }
  REQUIRE(r == 0);
  CHECK_EQ(c.dial->winner->link->ops->name(c.dial->winner->link, false, &name), 0);
  CHECK_EQ(name.port, from.port);
  call_release(&c);
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}

TEST(addresses_of_another_family_than_the_local_one_are_not_tried) {
  struct call c;
  struct addr from = probe_ip("127.0.0.1", 0);
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  CHECK_EQ(dial_outcome(&c, "::1,127.0.0.1,::2", port, &from), 0);
  CHECK_EQ(c.dial->n, 1);
  CHECK_EQ(dial_address(c.dial).kind, ADDR_IP4);
  call_release(&c);
  call_begin(&c, "::1", port, &from);
  CHECK_EQ(c.dial->code, ERR_NOFAMILY);
  CHECK_EQ(dial_address(c.dial).kind, ADDR_NONE);
  call_release(&c);
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}

TEST(a_local_address_that_is_taken_is_known_for_the_reason) {
  struct call c;
  struct addr from = probe_ip("127.0.0.1", 0);
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &from.port);
  struct acceptor *b = listen_here(&c, "127.0.0.2", &port);
  CHECK_EQ(dial_outcome(&c, "127.0.0.2", port, &from), UV__EADDRINUSE);
  CHECK(attempt_failed_here(&c.dial->attempts[0]));
  call_release(&c);
  from = probe_ip("127.0.0.1", 0);
  CHECK_EQ(dial_outcome(&c, "127.0.0.1", dead_port(&c), &from), UV__ECONNREFUSED);
  CHECK(!attempt_failed_here(&c.dial->attempts[0]));
  call_release(&c);
  c.turn.world->ops->accept_close(a);
  c.turn.world->ops->accept_close(b);
  call_end(&c);
}

/* ---- several addresses ------------------------------------------------------------- */

/* Listens without accepting, until no connection more is answered. */
struct deaf {
  struct acceptor *acceptor;
  struct link *held[4];
  uint16_t port;
};

static void deaf_open(struct call *c, struct deaf *f, const char *host) {
  const struct listen_opts opts = {.backlog = 1};
  struct world *w = c->turn.world;
  struct addr at = probe_ip(host, 0), to = probe_ip("127.0.0.1", 0);
  CHECK_EQ(w->ops->listen(w, &at, &opts, &f->acceptor), 0);
  CHECK_EQ(w->ops->accept_name(f->acceptor, &at), 0);
  f->port = to.port = at.port;
  for (int i = 0; i < 4; i++) CHECK_EQ(w->ops->dial(w, &to, NULL, &f->held[i]), 0);
  turn_for(&c->turn, 0.02);
}

static void deaf_close(struct call *c, struct deaf *f) {
  c->turn.world->ops->accept_close(f->acceptor);
  for (int i = 0; i < 4; i++) f->held[i]->ops->close(f->held[i], true);
}

static struct acceptor *listen_there(struct call *c, const char *host, uint16_t port) {
  const struct listen_opts opts = {.backlog = 64};
  struct addr at = probe_ip(host, port);
  struct acceptor *a = NULL;
  CHECK_EQ(c->turn.world->ops->listen(c->turn.world, &at, &opts, &a), 0);
  return a;
}

/* The order in which the addresses of a name are tried; nobody listens at any of them. */
static void check_order(const char *host, const char *expected) {
  struct call c;
  char text[256] = "";
  call_open(&c);
  CHECK(dial_outcome(&c, host, dead_port(&c), NULL) < 0);
  CHECK_EQ(c.dial->begun, c.dial->n);
  for (int i = 0; i < c.dial->n; i++) {
    char one[ADDR_TEXT_MAX];
    addr_print_host(&c.dial->attempts[i].to, one);
    if (i) strcat(text, ",");
    strcat(text, one);
  }
  CHECK_STR(text, expected);
  CHECK_EQ(c.dial->code, c.dial->attempts[c.dial->n - 1].code);
  call_release(&c);
  call_end(&c);
}

TEST(families_take_turns_and_the_first_of_the_resolver_stays_first) {
  check_order("127.0.0.1,127.0.0.2,127.0.0.3,::1,::2", "127.0.0.1,::1,127.0.0.2,::2,127.0.0.3");
  check_order("::1,::2,::3,127.0.0.1", "::1,127.0.0.1,::2,::3");
  check_order("127.0.0.2,127.0.0.1", "127.0.0.2,127.0.0.1");
}

TEST(an_address_that_does_not_answer_is_overtaken_after_250_ms) {
  struct call c;
  struct deaf f;
  call_open(&c);
  deaf_open(&c, &f, "127.0.0.1");
  struct acceptor *good = listen_there(&c, "127.0.0.2", f.port);
  unsigned things = turn_things(&c.turn);
  double began = turn_now(&c.turn);
  CHECK_EQ(dial_outcome(&c, "127.0.0.1,127.0.0.2,127.0.0.3", f.port, NULL), 0);
  double took = turn_now(&c.turn) - began;
  CHECK(took >= 0.25);
  CHECK(took < 5);
  CHECK_EQ(dial_address(c.dial).ip[3], 2);
  CHECK_EQ(c.dial->begun, 2);
  CHECK_EQ(c.dial->under_way, 1); /* the winner */
  CHECK(!timer_armed(&c.dial->timer));
  TURN_UNTIL(&c.turn, turn_things(&c.turn) == things + 1);
  call_release(&c);
  c.turn.world->ops->accept_close(good);
  deaf_close(&c, &f);
  call_end(&c);
}

/* With a stagger for each this would take 5 s. */
TEST(the_next_attempt_begins_at_once_when_one_fails) {
  struct call c;
  char host[512] = "";
  call_open(&c);
  for (int i = 1; i <= 20; i++) snprintf(host + strlen(host), 24, "127.0.1.%d,", i);
  double began = turn_now(&c.turn);
  CHECK_EQ(dial_outcome(&c, host, dead_port(&c), NULL), UV__ECONNREFUSED);
  CHECK(turn_now(&c.turn) - began < 2.5);
  CHECK_EQ(c.dial->begun, 20);
  call_release(&c);
  call_end(&c);
}

TEST(attempts_are_under_way_side_by_side_but_not_more_than_eight) {
  struct call c;
  struct deaf f;
  int most = 0;
  call_open(&c);
  deaf_open(&c, &f, "0.0.0.0");
  unsigned things = turn_things(&c.turn);
  call_begin(&c,
             "127.0.1.1,127.0.1.2,127.0.1.3,127.0.1.4,127.0.1.5,127.0.1.6,127.0.1.7,127.0.1.8,"
             "127.0.1.9,127.0.1.10",
             f.port, NULL);
  TURN_UNTIL(&c.turn, (most = c.dial->under_way > most ? c.dial->under_way : most) > 8 ||
                          c.dial->begun == 10);
  CHECK_EQ(most, 8);
  CHECK_EQ(c.dial->under_way, 8);
  CHECK_EQ(c.dial->attempts[1].code, ERR_TIMEDOUT); /* the oldest made room */
  CHECK_EQ(c.dial->attempts[2].code, ERR_AGAIN);
  CHECK_EQ(c.dial->code, ERR_AGAIN);
  size_t timers = c.turn.timers.n;
  CHECK(!timer_armed(&c.dial->timer));
  call_release(&c);
  CHECK_EQ(c.turn.timers.n, timers);
  TURN_UNTIL(&c.turn, turn_things(&c.turn) == things);
  deaf_close(&c, &f);
  call_end(&c);
}

/* The second begins before the loop has looked at the first: both are up in the same poll. */
TEST(the_losers_of_the_race_are_reset) {
  struct call c;
  struct addr peer;
  struct probe p[2];
  uint16_t port;
  char byte;
  call_open(&c);
  struct acceptor *a[2] = {listen_here(&c, "127.0.0.1", &port)};
  a[1] = listen_there(&c, "127.0.0.2", port);
  call_begin(&c, "127.0.0.1,127.0.0.2", port, NULL);
  while (c.dial->looking) c.turn.world->ops->poll(c.turn.world, turn_now(&c.turn) + 0.01);
  CHECK(timer_armed(&c.dial->timer));
  c.dial->timer.fire(&c.dial->timer);
  CHECK_EQ(c.dial->under_way, 2);
  CHECK_EQ(call_await(&c), 0);
  int winner = dial_address(c.dial).ip[3] - 1;
  for (int i = 0; i < 2; i++) CHECK_EQ(probe_accept(c.turn.world, a[i], &p[i], &peer), 0);
  CHECK_EQ(probe_read(&p[1 - winner], &byte, 1), ERR_RESET);
  CHECK_EQ(probe_read(&p[winner], &byte, 1), ERR_AGAIN);
  call_release(&c);
  for (int i = 0; i < 2; i++) {
    probe_close(&p[i], false);
    c.turn.world->ops->accept_close(a[i]);
  }
  TURN_UNTIL(&c.turn, !p[0].link && !p[1].link);
  call_end(&c);
}

/* ---- a socket that meets itself ---------------------------------------------------- */

static int dial_itself(const char *host) {
  struct call c;
  struct addr from = probe_ip(host, 0);
  call_open(&c);
  from.port = dead_port(&c);
  int code = dial_outcome(&c, host, from.port, &from);
  call_release(&c);
  call_end(&c);
  return code;
}

/* The system may choose as the local port the very port that nobody listens on. */
TEST(a_connection_to_itself_is_refused) {
  CHECK_EQ(dial_itself("127.0.0.1"), UV__ECONNREFUSED);
  if (!has_ipv6()) return;
  CHECK_EQ(dial_itself("::1"), UV__ECONNREFUSED);
  CHECK_EQ(dial_itself("::ffff:127.0.0.1"), UV__ECONNREFUSED);
}

TEST(the_same_port_of_another_address_is_somebody_else) {
  struct call c;
  struct addr from = probe_ip("127.0.0.2", 0);
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &from.port);
  CHECK_EQ(dial_outcome(&c, "127.0.0.1", from.port, &from), 0);
  call_release(&c);
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}

/* ---- giving up ------------------------------------------------------------------- */

TEST(giving_up_what_never_was_is_harmless) { dial_release(NULL); }

TEST(a_dial_can_be_given_up_while_it_connects) {
  struct call c;
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  call_begin(&c, "127.0.0.1", port, NULL);
  CHECK_EQ(c.dial->code, ERR_AGAIN);
  CHECK_EQ(c.dial->under_way, 1);
  waiter_park(&c.caller, &c.dial->waiters, INFINITY, true);
  call_release(&c);
  turn_for(&c.turn, 0.02);
  CHECK_EQ(c.caller.runs, 1);
  CHECK_EQ(c.caller.why, ERR_CLOSED);
  CHECK_EQ(turn_things(&c.turn), 1); /* who listens */
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}

/* Who asked was told, but did not come for the link. */
TEST(a_link_that_nobody_takes_is_reset) {
  struct call c;
  struct addr peer;
  struct probe p;
  uint16_t port;
  char byte;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  CHECK_EQ(dial_outcome(&c, "127.0.0.1", port, NULL), 0);
  REQUIRE(probe_accept(c.turn.world, a, &p, &peer) == 0);
  CHECK(turn_is_calm(&c.turn));
  call_release(&c);
  CHECK_EQ(probe_read(&p, &byte, 1), ERR_RESET);
  probe_close(&p, false);
  c.turn.world->ops->accept_close(a);
  TURN_UNTIL(&c.turn, !p.link);
  call_end(&c);
}

TEST(who_times_out_may_leave_the_dial_behind) {
  struct call c;
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  call_begin(&c, "127.0.0.1", port, NULL);
  waiter_park(&c.caller, &c.dial->waiters, -INFINITY, true);
  TURN_UNTIL(&c.turn, c.caller.runs);
  CHECK(c.caller.why == ERR_TIMEDOUT || c.dial->code == 0);
  CHECK(c.dial->waiters.first == NULL || c.dial->waiters.first == &c.caller.wait);
  wait_leave(&c.caller.wait);
  call_release(&c);
  c.turn.world->ops->accept_close(a);
  call_end(&c);
}
