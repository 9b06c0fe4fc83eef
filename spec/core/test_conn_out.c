/* A connection's output and its end. */
#include "turn_probe.h"

enum { BIG = 256 * 1024 };

static const struct framing raw = {.kind = FRAMING_RAW, .max = PAGE_SIZE_BYTES};

static void put_bytes(struct conn *c, const char *data, size_t n, bool at_once) {
  memcpy(conn_reserve(c, n), data, n);
  conn_commit(c, n, at_once);
}

static void put(struct conn *c, const char *text) { put_bytes(c, text, strlen(text), false); }

static void put_zeros(struct conn *c, size_t n) {
  char *data = calloc(1, n);
  put_bytes(c, data, n, false);
  free(data);
}

/* The peer gets exactly this text in one read, in some later turn. */
#define CHECK_ARRIVES(r, text)                                                                     \
  do {                                                                                             \
    probe_want(&(r)->peer, LINK_IN);                                                               \
    TURN_UNTIL(&(r)->turn, (r)->peer.seen &LINK_IN);                                               \
    CHECK_READ(&(r)->peer, text);                                                                  \
    probe_want(&(r)->peer, 0);                                                                     \
  } while (0)

/* What the peer's next read says, in some later turn. */
static ptrdiff_t peer_end(struct rig *r) {
  char c;
  ptrdiff_t n = ERR_AGAIN;
  TURN_UNTIL(&r->turn, (n = probe_read(&r->peer, &c, 1)) != ERR_AGAIN);
  return n;
}

/* The peer reads all that there is now -> how many bytes. */
static size_t peer_drain(struct rig *r) {
  char *sink = malloc(BIG);
  size_t total = 0;
  for (ptrdiff_t n; (n = probe_read(&r->peer, sink, BIG)) > 0;) total += (size_t)n;
  free(sink);
  return total;
}

/* ---- sending --------------------------------------------------------------------- */

static void gather(struct rig *r) {
  char c;
  put(r->conn, "one ");
  put(r->conn, "two ");
  put(r->conn, "three");
  CHECK_EQ(conn_unsent(r->conn), 13);
  CHECK(!conn_is_flushed(r->conn));
  CHECK(turn_alive(&r->turn));
  CHECK_EQ(probe_read(&r->peer, &c, 1), ERR_AGAIN);
  turn_step(&r->turn, true);
  CHECK_EQ(conn_unsent(r->conn), 0);
  CHECK_EQ(r->conn->bytes_out, 13);
  CHECK_EQ(r->conn->messages_out, 3);
  CHECK_EQ(r->turn.holds, 0);
  CHECK_ARRIVES(r, "one two three"); /* a pipe joins no two writes */
}

TEST(what_is_sent_in_a_turn_leaves_in_one_write) { rig_over_both(gather); }

static void put_hello(struct waiter *w) {
  struct rig *r = (struct rig *)(void *)((char *)w - offsetof(struct rig, reader));
  put(r->conn, "hello");
}

static void job_output(struct rig *r) {
  r->reader.hook = put_hello;
  job_queue(&r->turn, &r->reader.wait.job);
  turn_step(&r->turn, true);
  CHECK_EQ(conn_unsent(r->conn), 0);
  CHECK_ARRIVES(r, "hello");
}

TEST(what_a_job_sends_leaves_in_its_turn) { rig_over_both(job_output); }

static void hasty(struct rig *r) {
  put(r->conn, "a");
  put_bytes(r->conn, "b", 1, true);
  CHECK_EQ(conn_unsent(r->conn), 0);
  CHECK_ARRIVES(r, "ab");
  put(r->conn, "c");
  conn_flush_now(r->conn);
  CHECK_EQ(conn_unsent(r->conn), 0);
  CHECK_ARRIVES(r, "c");
  put_zeros(r->conn, CONN_WRITE_NOW - 1);
  CHECK_EQ(conn_unsent(r->conn), CONN_WRITE_NOW - 1);
  put_zeros(r->conn, 1);
  CHECK_EQ(conn_unsent(r->conn), 0);
}

TEST(what_is_much_or_urgent_is_written_at_once) { rig_over_both(hasty); }

static void await_room(struct rig *r) {
  struct waiter w;
  waiter_init(&w, &r->turn);
  CHECK_EQ(conn_set_limits(r->conn, &(struct conn_limits){.high_water = 100}), 0);
  put_zeros(r->conn, 99);
  CHECK(conn_has_room(r->conn));
  put_zeros(r->conn, 1);
  CHECK(!conn_has_room(r->conn));
  waiter_park(&w, &r->conn->writers, INFINITY, true);
  TURN_UNTIL(&r->turn, w.runs);
  CHECK_EQ(w.why, 0);
  CHECK(conn_has_room(r->conn));
  wait_fini(&w.wait);
}

TEST(who_waits_for_room_is_woken_by_the_write) { rig_over_both(await_room); }

/* Sends until the link takes no more -> how much was sent. */
static size_t block(struct rig *r) {
  size_t total = 0;
  for (; !r->conn->blocked; total += BIG) {
    put_zeros(r->conn, BIG);
    conn_flush_now(r->conn);
  }
  return total;
}

static void blocked(struct rig *r) {
  struct waiter w;
  size_t total = block(r), got = 0;
  waiter_init(&w, &r->turn);
  CHECK_EQ(r->turn.holds, r->conn->link->outside);
  CHECK(turn_is_calm(&r->turn));
  put(r->conn, "tail");
  waiter_park(&w, &r->conn->writers, INFINITY, false);
  TURN_UNTIL(&r->turn, (got += peer_drain(r)) == total + 4);
  CHECK(w.runs > 0);
  CHECK_EQ(conn_unsent(r->conn), 0);
  CHECK(r->conn->out.mem == NULL);
  TURN_UNTIL(&r->turn, r->turn.holds == 0);
  CHECK(turn_is_calm(&r->turn));
  wait_fini(&w.wait);
}

TEST(a_blocked_connection_goes_on_when_the_peer_reads) { rig_over_both(blocked); }

static void broken(struct rig *r) {
  struct waiter w;
  waiter_init(&w, &r->turn);
  block(r);
  waiter_park(&w, &r->conn->writers, INFINITY, true);
  probe_close(&r->peer, true);
  TURN_UNTIL(&r->turn, w.runs);
  CHECK_EQ(conn_cannot_send(r->conn), ERR_RESET);
  CHECK_EQ(conn_unsent(r->conn), 0);
  CHECK(conn_is_flushed(r->conn));
  wait_fini(&w.wait);
  CHECK_EQ(r->turn.holds, 0);
}

TEST(a_reset_ends_the_output_and_wakes_senders) { rig_over_both(broken); }

/* ---- one direction --------------------------------------------------------------- */

static void half(struct rig *r) {
  struct message m = {.base = ""};
  put(r->conn, "question");
  CHECK_EQ(conn_close_write(r->conn), 0);
  CHECK_EQ(conn_close_write(r->conn), 0);
  CHECK_EQ(conn_cannot_send(r->conn), ERR_PIPE);
  CHECK(!conn_is_flushed(r->conn));
  CHECK_ARRIVES(r, "question");
  CHECK_EQ(peer_end(r), 0);
  CHECK(conn_is_flushed(r->conn));
  r->feed = "answer";
  r->feed_len = 6;
  CHECK_EQ(rig_take(r, &raw, &m), 0);
  CHECK_MEM(m.base, m.cut.len, "answer", 6);
  conn_took(r->conn, &m.cut);
  CHECK(conn_is_open(r->conn));
  CHECK(turn_is_calm(&r->turn));
}

TEST(receiving_outlives_the_end_of_sending) { rig_over_both(half); }

/* ---- closing --------------------------------------------------------------------- */

/* Counts what it is told. */
struct counter {
  struct keeper keeper;
  int ended, gone;
};

static void count_ended(struct keeper *k, struct conn *c) {
  CHECK(!conn_is_open(c));
  ((struct counter *)(void *)k)->ended++;
}

static void count_gone(struct keeper *k, struct conn *c) {
  CHECK_EQ(c->state, CONN_CLOSED);
  ((struct counter *)(void *)k)->gone++;
}

static void close_softly(struct rig *r) {
  struct counter closes = {.keeper = {.ended = count_ended, .gone = count_gone}};
  struct message m;
  struct waiter writer;
  waiter_init(&writer, &r->turn);
  r->conn->keeper = &closes.keeper;
  waiter_park(&r->reader, &r->conn->readers, INFINITY, true);
  waiter_park(&writer, &r->conn->writers, INFINITY, true);
  put(r->conn, "bye");
  conn_close(r->conn);
  conn_close(r->conn);
  CHECK_EQ(closes.ended, 1);
  CHECK_EQ(conn_take(r->conn, &raw, &m), ERR_CLOSED);
  CHECK_EQ(conn_cannot_send(r->conn), ERR_CLOSED);
  CHECK_EQ(conn_close_write(r->conn), ERR_CLOSED);
  CHECK_ARRIVES(r, "bye");
  CHECK_EQ(peer_end(r), 0);
  CHECK_EQ(r->reader.runs, 1);
  CHECK_EQ(writer.runs, 1);
  CHECK(r->reader.why == ERR_CLOSED && writer.why == ERR_CLOSED);
  CHECK(conn_is_flushed(r->conn));
  if (r->peer.link) probe_close(&r->peer, false);
  TURN_UNTIL(&r->turn, r->conn->state == CONN_CLOSED);
  CHECK_EQ(closes.ended, 1);
  CHECK_EQ(closes.gone, 1);
  CHECK_EQ(r->turn.holds, 0);
}

TEST(a_close_tells_waiters_and_delivers_what_was_sent) { rig_over_both(close_softly); }

/* Unread bytes would turn the close into a reset. */
static void discard(struct rig *r) {
  conn_close(r->conn);
  CHECK_EQ(peer_end(r), 0);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(probe_send(&r->peer, "for nobody"), 10);
    turn_for(&r->turn, 0.02);
    CHECK_EQ(r->conn->state, CONN_CLOSING);
    CHECK_EQ(r->turn.holds, 1);
  }
  CHECK_EQ(peer_end(r), 0);
  CHECK_EQ(r->peer.link->ops->shut(r->peer.link), 0);
  TURN_UNTIL(&r->turn, r->conn->state == CONN_CLOSED);
}

TEST(a_closing_socket_lingers_for_the_peers_end) { rig_run(probe_pair, discard); }

static void linger(struct rig *r) {
  double begin = turn_now(&r->turn);
  conn_close(r->conn);
  CHECK_EQ(peer_end(r), 0);
  TURN_UNTIL(&r->turn, r->conn->state == CONN_CLOSED);
  CHECK(turn_now(&r->turn) - begin >= 1.9);
  CHECK_EQ(r->turn.timers.n, 0);
}

TEST(a_peer_that_does_not_end_is_not_awaited_for_ever) { rig_run(probe_pair, linger); }

static void deliver_much(struct rig *r) {
  size_t total = block(r), got = 0;
  conn_close(r->conn);
  turn_for(&r->turn, 0.02);
  CHECK_EQ(r->conn->state, CONN_CLOSING);
  TURN_UNTIL(&r->turn, (got += peer_drain(r)) == total);
  CHECK_EQ(peer_end(r), 0);
}

TEST(a_close_waits_until_the_peer_took_everything) { rig_over_both(deliver_much); }

static void reset_twice(struct rig *r) {
  struct counter closes = {.keeper = {.ended = count_ended, .gone = count_gone}};
  r->conn->keeper = &closes.keeper;
  put(r->conn, "never sent");
  conn_reset(r->conn);
  conn_reset(r->conn);
  conn_close(r->conn);
  CHECK_EQ(closes.ended, 1);
  CHECK_EQ(peer_end(r), ERR_RESET);
  TURN_UNTIL(&r->turn, r->conn->state == CONN_CLOSED);
}

TEST(a_reset_is_one_for_the_peer) { rig_over_both(reset_twice); }

static void reset_closing(struct rig *r) {
  block(r);
  conn_close(r->conn);
  turn_once(&r->turn);
  CHECK_EQ(r->conn->state, CONN_CLOSING);
  conn_reset(r->conn);
  peer_drain(r);
  CHECK_EQ(peer_end(r), ERR_RESET);
  CHECK_EQ(r->turn.timers.n, 0);
}

TEST(a_close_under_way_can_be_cut_short) { rig_over_both(reset_closing); }

static void close_later(struct rig *r) {
  double due = turn_now(&r->turn) + 0.03;
  CHECK_EQ(conn_close_in(r->conn, 100, true), 0);
  CHECK_EQ(conn_close_in(r->conn, 0.03, false), 0);
  CHECK_EQ(r->turn.holds, 1);
  put(r->conn, "still here");
  CHECK_ARRIVES(r, "still here");
  CHECK_EQ(peer_end(r), 0);
  CHECK(turn_now(&r->turn) >= due);
  CHECK(!conn_is_open(r->conn));
  CHECK_EQ(conn_close_in(r->conn, 0, true), 0);
}

TEST(a_close_can_be_arranged_for_later) { rig_over_both(close_later); }

static void reset_later(struct rig *r) {
  CHECK_EQ(conn_close_in(r->conn, 0.01, true), 0);
  CHECK_EQ(peer_end(r), ERR_RESET);
}

TEST(so_can_a_reset) { rig_over_both(reset_later); }

/* The timer of the later close is the closing connection's now. */
static void close_before_later(struct rig *r) {
  CHECK_EQ(conn_close_in(r->conn, 0.01, true), 0);
  conn_close(r->conn);
  CHECK_EQ(r->turn.holds, 1);
  turn_for(&r->turn, 0.03);
  CHECK_EQ(peer_end(r), 0);
}

TEST(a_close_overtakes_one_arranged_for_later) { rig_over_both(close_before_later); }

/* ---- who frees it ---------------------------------------------------------------- */

static void owner_last(struct rig *r) {
  struct addr a;
  conn_reset(r->conn);
  TURN_UNTIL(&r->turn, r->conn->state == CONN_CLOSED);
  CHECK_EQ(r->conn->holders, CONN_OF_OWNER);
  CHECK(r->conn->link == NULL);
  conn_name(r->conn, false, &a);
  CHECK(a.kind == ADDR_PIPE || a.port != 0);
  CHECK_EQ(r->turn.conns, 1);
  rig_let_go(r);
  CHECK_EQ(r->turn.conns, 0);
}

TEST(an_owner_may_look_at_what_is_closed) { rig_over_both(owner_last); }

static void loop_last(struct rig *r) {
  struct conn *c = r->conn;
  rig_let_go(r);
  turn_step(&r->turn, true);
  CHECK_EQ(c->holders, CONN_OF_LOOP);
  CHECK_EQ(c->state, CONN_CLOSING);
  probe_close(&r->peer, false);
  TURN_UNTIL(&r->turn, r->turn.conns == 0);
}

TEST(what_is_closing_needs_no_owner) { rig_run(probe_pair, loop_last); }

static void look_at_visited(struct waiter *w) {
  const struct conn *c = w->wait.turn->first_conn;
  w->why = c->holders == CONN_OF_VISIT && c->state == CONN_CLOSED;
}

static void visit_last(struct rig *r) {
  put(r->conn, "never sent");
  conn_reset(r->conn);
  rig_let_go(r);
  r->reader.hook = look_at_visited;
  job_queue(&r->turn, &r->reader.wait.job);
  turn_step(&r->turn, true);
  CHECK_EQ(r->reader.why, 1);
  CHECK_EQ(r->turn.conns, 0);
}

TEST(a_visit_finds_what_it_was_asked_for) { rig_over_both(visit_last); }

/* ---- when the state goes away ---------------------------------------------------- */

/* One connection is closing, the owner of the other never let it go. */
TEST(the_end_of_a_turn_delivers_and_frees) {
  struct turn t;
  struct world *other = probe_world();
  struct addr at, peer;
  struct acceptor *a = probe_listen(other, "127.0.0.1", &at);
  struct probe own[2], far[2];
  ptrdiff_t end;
  char sink[8];
  turn_open(&t);
  for (int i = 0; i < 2; i++) {
    CHECK_EQ(probe_dial(t.world, &own[i], &at), 0);
    REQUIRE(probe_accept(other, a, &far[i], &peer) == 0);
    struct conn *c = conn_open(&t, own[i].link, NULL);
    put(c, "last");
    if (i == 0) conn_drop(c, CONN_OF_OWNER);
  }
  turn_fini(&t, 5);
  CHECK_READ(&far[0], "last");
  CHECK_READ(&far[0], "");
  AWAIT(other, (end = probe_read(&far[1], sink, sizeof sink)) <= 0 && end != ERR_AGAIN);
  CHECK_EQ(end, ERR_RESET);
  probe_close_both(&far[0], &far[1]);
  other->ops->accept_close(a);
  probe_world_end(other);
}
