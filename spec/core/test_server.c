/* Servers: both ways of taking connections, resting, and the end. */
#include <uv/errno.h>

#include "server.h"
#include "turn_probe.h"

enum { CLIENTS = 5 };

struct stand {
  struct turn turn;
  struct world *far; /* of the clients: that they dial lets the server do nothing */
  struct server server;
  struct probe clients[CLIENTS], taken[CLIENTS];
  int announced, accepted, dialled;
};

static void stand_open(struct stand *s) {
  const struct listen_opts opts = {.backlog = 64};
  struct addr at = probe_ip("127.0.0.1", 0);
  int failed;
  *s = (struct stand){.far = probe_world()};
  turn_open(&s->turn);
  CHECK_EQ(server_open(&s->server, &s->turn, &at, 1, &opts, &failed), 0);
  CHECK(server_is_open(&s->server));
  CHECK_EQ(s->turn.servers, 1);
}

/* All clients are connected as far as they can tell. */
static void stand_dial(struct stand *s, int n) {
  for (; s->dialled < n; s->dialled++)
    CHECK_EQ(probe_dial(s->far, &s->clients[s->dialled], &s->server.listeners[0].at), 0);
}

static int stand_accept(struct stand *s) {
  struct link *l;
  struct addr peer = {.kind = ADDR_NONE};
  int r = server_accept(&s->server, &l, &peer);
  if (r) return r;
  CHECK_EQ(peer.kind, ADDR_IP4);
  CHECK_EQ(l->ops->state(l), 0);
  probe_watch(&s->taken[s->accepted++], l);
  return 0;
}

static void accept_all(struct stand *s) {
  while (stand_accept(s) == 0) continue;
}

static void stand_end(struct stand *s) {
  for (int i = 0; i < s->dialled; i++) probe_close(&s->clients[i], true);
  for (int i = 0; i < s->accepted; i++) probe_close(&s->taken[i], true);
  server_fini(&s->server);
  CHECK(!server_is_open(&s->server));
  turn_end(&s->turn);
  probe_world_end(s->far);
}

static struct stand *stand_of(struct server *s) {
  return (struct stand *)(void *)((char *)s - offsetof(struct stand, server));
}

static void announce(struct server *server) { stand_of(server)->announced++; }

static void serve(struct server *server) {
  announce(server);
  accept_all(stand_of(server));
}

static void serve_last(struct server *server) {
  announce(server);
  server_close(server);
}

/* ---- callers that wait ----------------------------------------------------------- */

TEST(a_free_port_is_known_once_it_is_open) {
  struct stand s;
  stand_open(&s);
  CHECK(s.server.listeners[0].at.port != 0);
  CHECK_EQ(s.server.listeners[0].at.kind, ADDR_IP4);
  CHECK_EQ(stand_accept(&s), ERR_AGAIN);
  CHECK_EQ(s.turn.holds, 0);
  CHECK(!turn_alive(&s.turn));
  stand_end(&s);
}

TEST(a_port_that_is_taken_leaves_no_server) {
  const struct listen_opts opts = {.backlog = 8};
  struct server second;
  int failed;
  struct stand s;
  stand_open(&s);
  CHECK_EQ(server_open(&second, &s.turn, &s.server.listeners[0].at, 1, &opts, &failed),
           UV__EADDRINUSE);
  CHECK(!server_is_open(&second));
  CHECK_EQ(s.turn.servers, 1);
  server_close(&second);
  CHECK_EQ(s.turn.servers, 1);
  stand_end(&s);
}

TEST(callers_take_connections_in_turn) {
  struct stand s;
  struct waiter w[2];
  stand_open(&s);
  for (int i = 0; i < 2; i++) {
    waiter_init(&w[i], &s.turn);
    waiter_park(&w[i], &s.server.accepters, INFINITY, true);
  }
  server_want(&s.server);
  turn_for(&s.turn, 0.02);
  CHECK_EQ(w[0].runs + w[1].runs, 0);
  stand_dial(&s, 2);
  for (int i = 0; i < 2; i++) {
    TURN_UNTIL(&s.turn, w[i].runs);
    CHECK_EQ(stand_accept(&s), 0);
    wait_leave(&w[i].wait); /* wakes the next */
  }
  CHECK_EQ(stand_accept(&s), ERR_AGAIN);
  stand_end(&s);
}

TEST(clients_wait_in_peace_for_who_accepts) {
  struct stand s;
  struct waiter w;
  stand_open(&s);
  waiter_init(&w, &s.turn);
  stand_dial(&s, CLIENTS);
  turn_once(&s.turn);
  CHECK(turn_is_calm(&s.turn));
  CHECK(!turn_alive(&s.turn));
  waiter_park(&w, &s.server.accepters, INFINITY, true);
  server_want(&s.server);
  TURN_UNTIL(&s.turn, w.runs);
  wait_leave(&w.wait);
  accept_all(&s);
  CHECK_EQ(s.accepted, CLIENTS);
  stand_end(&s);
}

TEST(a_close_wakes_all_who_accept) {
  struct stand s;
  struct waiter w[3];
  stand_open(&s);
  for (int i = 0; i < 3; i++) {
    waiter_init(&w[i], &s.turn);
    waiter_park(&w[i], &s.server.accepters, INFINITY, true);
  }
  CHECK_EQ(s.turn.holds, 3);
  server_close(&s.server);
  server_close(&s.server);
  CHECK_EQ(s.turn.servers, 0);
  turn_step(&s.turn, true);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(w[i].runs, 1);
    CHECK_EQ(w[i].why, ERR_CLOSED);
  }
  CHECK_EQ(stand_accept(&s), ERR_CLOSED);
  server_want(&s.server);
  stand_end(&s);
}

TEST(connections_outlive_their_server) {
  struct stand s;
  stand_open(&s);
  stand_dial(&s, 1);
  turn_once(&s.turn);
  CHECK_EQ(stand_accept(&s), 0);
  server_close(&s.server);
  CHECK_EQ(probe_send(&s.clients[0], "hello"), 5);
  probe_want(&s.taken[0], LINK_IN);
  TURN_UNTIL(&s.turn, s.taken[0].seen);
  CHECK_READ(&s.taken[0], "hello");
  stand_end(&s);
}

/* ---- serving --------------------------------------------------------------------- */

TEST(a_server_that_serves_announces_and_holds_the_loop) {
  struct stand s;
  stand_open(&s);
  server_serve(&s.server, serve);
  CHECK_EQ(s.turn.holds, 1);
  CHECK(turn_alive(&s.turn));
  CHECK(turn_is_calm(&s.turn));
  stand_dial(&s, CLIENTS);
  TURN_UNTIL(&s.turn, s.accepted == CLIENTS);
  CHECK(s.announced > 0);
  CHECK(turn_is_calm(&s.turn));
  server_close(&s.server);
  CHECK_EQ(s.turn.holds, 0);
  stand_end(&s);
}

/* Whoever serves may take a batch only; he is told again. */
TEST(an_announcement_comes_again_while_clients_wait) {
  struct stand s;
  stand_open(&s);
  server_serve(&s.server, announce);
  stand_dial(&s, 2);
  TURN_UNTIL(&s.turn, s.announced >= 2);
  CHECK_EQ(stand_accept(&s), 0);
  s.announced = 0;
  TURN_UNTIL(&s.turn, s.announced >= 2);
  CHECK_EQ(stand_accept(&s), 0);
  stand_end(&s);
}

TEST(a_server_may_close_when_a_client_comes) {
  struct stand s;
  stand_open(&s);
  server_serve(&s.server, serve_last);
  stand_dial(&s, 1);
  TURN_UNTIL(&s.turn, !server_is_open(&s.server));
  turn_for(&s.turn, 0.02);
  CHECK_EQ(s.announced, 1);
  stand_end(&s);
}

/* ---- out of descriptors ---------------------------------------------------------- */

TEST(out_of_descriptors_a_server_rests_and_loses_no_client) {
  if (under_valgrind()) return;
  struct stand s;
  stand_open(&s);
  server_serve(&s.server, serve);
  stand_dial(&s, 2);
  struct rlimit before = leave_no_descriptors();
  double begin = turn_now(&s.turn);
  turn_for(&s.turn, 0.25);
  CHECK(s.announced >= 2 && s.announced <= 1 + (int)((turn_now(&s.turn) - begin) / 0.1));
  CHECK_EQ(s.accepted, 0);
  TURN_UNTIL(&s.turn, timer_armed(&s.server.pause));
  server_want(&s.server); /* ends no rest */
  CHECK_EQ(stand_accept(&s), ERR_AGAIN);
  CHECK(turn_is_calm(&s.turn));
  setrlimit(RLIMIT_NOFILE, &before);
  TURN_UNTIL(&s.turn, s.accepted == 2);
  CHECK(!timer_armed(&s.server.pause));
  stand_end(&s);
}

TEST(a_server_can_close_while_it_rests) {
  if (under_valgrind()) return;
  struct stand s;
  stand_open(&s);
  server_serve(&s.server, serve);
  stand_dial(&s, 1);
  struct rlimit before = leave_no_descriptors();
  TURN_UNTIL(&s.turn, timer_armed(&s.server.pause));
  setrlimit(RLIMIT_NOFILE, &before);
  server_close(&s.server);
  CHECK_EQ(s.turn.timers.n, 0);
  turn_for(&s.turn, 0.12);
  CHECK_EQ(s.accepted, 0);
  stand_end(&s);
}

TEST(serving_may_begin_when_clients_wait_already) {
  struct stand s;
  stand_open(&s);
  stand_dial(&s, 1);
  turn_once(&s.turn); /* nobody accepts: the interest is dropped */
  server_serve(&s.server, serve);
  TURN_UNTIL(&s.turn, s.accepted == 1);
  stand_end(&s);
}

/* ---- more than one listening socket ------------------------------------------------ */

TEST(all_addresses_are_listened_on_or_none) {
  const struct listen_opts opts = {.backlog = 8};
  struct server several;
  struct stand s;
  int failed = -1;
  stand_open(&s);
  const struct addr at[] = {probe_ip("127.0.0.1", 0), s.server.listeners[0].at,
                            probe_ip("127.0.0.1", 0)};
  unsigned open = s.turn.world->ops->open(s.turn.world);
  CHECK_EQ(server_open(&several, &s.turn, at, 3, &opts, &failed), UV__EADDRINUSE);
  CHECK_EQ(failed, 1);
  CHECK(!server_is_open(&several));
  CHECK_EQ(s.turn.servers, 1);
  TURN_UNTIL(&s.turn, s.turn.world->ops->open(s.turn.world) == open);
  stand_end(&s);
}

TEST(each_listening_socket_gets_its_turn) {
  const struct listen_opts opts = {.backlog = 8};
  const struct addr at[] = {probe_ip("127.0.0.1", 0), probe_ip("127.0.0.1", 0)};
  struct probe clients[4];
  struct stand s;
  int failed;
  stand_open(&s);
  server_fini(&s.server);
  CHECK_EQ(server_open(&s.server, &s.turn, at, 2, &opts, &failed), 0);
  server_serve(&s.server, announce);
  for (int i = 0; i < 4; i++)
    CHECK_EQ(probe_dial(s.far, &clients[i], &s.server.listeners[i / 2].at), 0);
  server_look(&s.server);
  for (int i = 0; i < 4; i++) {
    CHECK_EQ(s.server.next, i % 2);
    TURN_UNTIL(&s.turn, stand_accept(&s) == 0);
  }
  for (int i = 0; i < 4; i++) probe_close(&clients[i], true);
  stand_end(&s);
}

TEST(a_full_server_leaves_clients_waiting_until_it_is_not) {
  struct stand s;
  stand_open(&s);
  server_serve(&s.server, serve);
  server_set_full(&s.server, true);
  stand_dial(&s, 2);
  turn_for(&s.turn, 0.02);
  CHECK_EQ(s.announced, 0);
  server_look(&s.server);
  CHECK_EQ(stand_accept(&s), ERR_AGAIN);
  CHECK(turn_is_calm(&s.turn));
  server_set_full(&s.server, false);
  TURN_UNTIL(&s.turn, s.accepted == 2);
  stand_end(&s);
}
