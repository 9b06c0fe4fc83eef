/* A connection's idle timeout: what counts as a sign of life, and whom it reaches. */
#include "turn_probe.h"

static const struct framing line = {.kind = FRAMING_LINE, .max = 1024};
static const struct framing two = {.kind = FRAMING_FIXED, .count = 2, .max = 2};
static const struct framing two_bytes = {
    .kind = FRAMING_FIXED, .by_byte = true, .count = 2, .max = 2};

/* Lets it arrive while nobody reads. */
static void arrive(struct rig *r, const char *text) {
  uint64_t want = r->conn->bytes_in + strlen(text);
  CHECK_EQ(probe_send(&r->peer, text), strlen(text));
  TURN_UNTIL(&r->turn, r->conn->bytes_in >= want);
}

static void park(struct rig *r) {
  waiter_park(&r->reader, &r->conn->readers, r->conn->recv_due, true);
}

static void leave(struct waiter *w) {
  wait_resume(&w->wait);
  wait_leave(&w->wait);
}

/* ---- what counts ----------------------------------------------------------------- */

static void unset(struct rig *r) {
  CHECK(r->conn->recv_due == INFINITY);
  arrive(r, "one\n");
  CHECK_TAKE(r, &line, "one");
  CHECK(r->conn->recv_due == INFINITY);
}

TEST(without_an_idle_timeout_nothing_is_due) { rig_over_both(unset); }

static void by_message(struct rig *r) {
  struct message m;
  conn_set_idle_timeout(r->conn, 100);
  double first = r->conn->recv_due;
  CHECK(first > turn_now(&r->turn) + 90);
  arrive(r, "on");
  CHECK_EQ(conn_take(r->conn, &line, &m), ERR_AGAIN);
  CHECK(r->conn->recv_due == first);
  arrive(r, "e\n");
  CHECK(r->conn->recv_due == first);
  CHECK_TAKE(r, &line, "one");
  CHECK(r->conn->recv_due > first);
  CHECK(r->conn->recv_due == r->turn.now + 100);
}

TEST(a_message_ends_idleness_and_its_pieces_do_not) { rig_over_both(by_message); }

static void by_byte(struct rig *r) {
  struct message m;
  conn_set_idle_timeout(r->conn, 100);
  double first = r->conn->recv_due;
  CHECK_EQ(conn_take(r->conn, &two, &m), ERR_AGAIN);
  arrive(r, "a");
  CHECK_EQ(conn_take(r->conn, &two, &m), ERR_AGAIN);
  CHECK(r->conn->recv_due == first);
  CHECK_EQ(conn_take(r->conn, &two_bytes, &m), ERR_AGAIN);
  CHECK(r->conn->recv_due == first);
  conn_set_idle_timeout(r->conn, 100);
  first = r->conn->recv_due;
  arrive(r, "b");
  CHECK(r->conn->recv_due > first);
  CHECK_TAKE(r, &two_bytes, "ab");
}

TEST(a_byte_ends_idleness_where_bytes_are_received) { rig_over_both(by_byte); }

static void skipping(struct rig *r) {
  const struct framing brief = {.kind = FRAMING_LINE, .max = 2};
  struct message m;
  conn_set_idle_timeout(r->conn, 100);
  double first = r->conn->recv_due;
  arrive(r, "too long\n");
  CHECK_EQ(conn_take(r->conn, &brief, &m), ERR_MSGSIZE);
  CHECK_EQ(conn_skip(r->conn, &brief), 0);
  CHECK(r->conn->recv_due == first);
}

TEST(a_message_thrown_away_is_no_sign_of_life) { rig_over_both(skipping); }

static void nothing_taken(struct rig *r) {
  const struct framing none = {.kind = FRAMING_FIXED, .by_byte = true};
  conn_set_idle_timeout(r->conn, 100);
  double first = r->conn->recv_due;
  turn_for(&r->turn, 0.02);
  CHECK_TAKE(r, &none, "");
  CHECK(r->conn->recv_due == first);
}

TEST(receiving_no_bytes_is_no_sign_of_life) { rig_over_both(nothing_taken); }

/* The turn's clock stood still since before it was set. */
static void never_backwards(struct rig *r) {
  arrive(r, "one\n");
  turn_for(&r->turn, 0.02);
  double stale = r->turn.now - 50;
  conn_set_idle_timeout(r->conn, 100);
  double first = r->conn->recv_due;
  r->turn.now = stale;
  CHECK_TAKE(r, &line, "one");
  CHECK(r->conn->recv_due == first);
}

TEST(a_message_never_brings_the_end_nearer) { rig_over_both(never_backwards); }

/* ---- whom it reaches ------------------------------------------------------------- */

static void reaches(struct rig *r) {
  waiter_park(&r->reader, &r->conn->readers, INFINITY, true);
  double start = turn_now(&r->turn);
  conn_set_idle_timeout(r->conn, 0.02);
  TURN_UNTIL(&r->turn, r->reader.runs);
  CHECK_EQ(r->reader.why, ERR_TIMEDOUT);
  CHECK(turn_now(&r->turn) >= start + 0.0199);
}

TEST(an_idle_timeout_reaches_who_waits) { rig_over_both(reaches); }

static void with_deadline(struct rig *r) {
  double at = turn_now(&r->turn) + 50;
  conn_set_idle_timeout(r->conn, 100);
  conn_set_deadline(r->conn, CONN_RECV, at);
  CHECK(r->conn->recv_due == at);
  arrive(r, "one\n");
  CHECK_TAKE(r, &line, "one");
  CHECK(r->conn->recv_due == at);
  park(r);
  CHECK(r->reader.wait.due == at);
  conn_set_deadline(r->conn, CONN_RECV, INFINITY);
  CHECK(r->reader.wait.due > at && r->reader.wait.due < INFINITY);
  conn_set_idle_timeout(r->conn, INFINITY);
  CHECK(r->reader.wait.due == INFINITY);
  leave(&r->reader);
}

TEST(the_earlier_of_idleness_and_deadline_counts) { rig_over_both(with_deadline); }

static void those_behind(struct rig *r) {
  struct waiter second;
  waiter_init(&second, &r->turn);
  conn_set_idle_timeout(r->conn, 100);
  park(r);
  waiter_park(&second, &r->conn->readers, r->conn->recv_due, true);
  double first = r->conn->recv_due;
  CHECK_EQ(probe_send(&r->peer, "one\n"), 4);
  TURN_UNTIL(&r->turn, r->reader.runs);
  struct message m;
  CHECK_EQ(conn_take(r->conn, &line, &m), 0);
  conn_took(r->conn, &m.cut);
  CHECK(second.wait.due > first);
  CHECK(second.wait.due == r->conn->recv_due);
  leave(&r->reader);
  leave(&second);
  wait_fini(&second.wait);
}

TEST(a_message_is_heard_by_those_in_line_too) { rig_over_both(those_behind); }

static void closed(struct rig *r) {
  conn_set_idle_timeout(r->conn, 0.01);
  conn_close(r->conn);
  conn_set_idle_timeout(r->conn, 0.01);
  conn_set_deadline(r->conn, CONN_RECV, 1);
  CHECK_EQ(r->conn->left, 0);
}

TEST(a_closed_connection_is_not_idle) { rig_over_both(closed); }

/* ---- a wait that looks again ----------------------------------------------------- */

static void staying(struct rig *r) {
  waiter_park(&r->reader, &r->conn->readers, turn_now(&r->turn) + 0.01, true);
  r->reader.wait.stays = true;
  TURN_UNTIL(&r->turn, r->reader.runs);
  CHECK_EQ(r->reader.why, 0);
  CHECK(r->conn->readers.first == &r->reader.wait);
  waiter_park(&r->reader, &r->conn->readers, INFINITY, true);
  wait_set_due(&r->reader.wait, turn_now(&r->turn));
  TURN_UNTIL(&r->turn, r->reader.runs == 2);
  CHECK_EQ(r->reader.why, 0);
  CHECK(r->conn->readers.first == &r->reader.wait);
  leave(&r->reader);
  r->reader.wait.stays = false;
}

TEST(a_wait_that_stays_keeps_its_place_when_its_time_is_over) { rig_over_both(staying); }
