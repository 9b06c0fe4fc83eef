/* Dialling: addresses, names, failures, and giving up at every stage.
 *
 * Names are answered by the stand-in of test_resolve.c. */
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
  uint16_t port;
  c->turn.world->ops->accept_close(listen_here(c, "127.0.0.1", &port));
  TURN_UNTIL(&c->turn, turn_things(&c->turn) == 0);
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
  CHECK(c.dial->link == NULL);
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
  CHECK_EQ(c.dial->link->ops->name(c.dial->link, false, &name), 0);
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

/* ---- giving up ------------------------------------------------------------------- */

TEST(giving_up_what_never_was_is_harmless) { dial_release(NULL); }

TEST(a_dial_can_be_given_up_while_it_connects) {
  struct call c;
  uint16_t port;
  call_open(&c);
  struct acceptor *a = listen_here(&c, "127.0.0.1", &port);
  call_begin(&c, "127.0.0.1", port, NULL);
  CHECK_EQ(c.dial->code, ERR_AGAIN);
  CHECK(c.dial->link != NULL);
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
