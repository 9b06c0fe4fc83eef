/* A connection at rest: what ends its rest, and which connection may not rest at all. */
#include "turn_probe.h"

static const struct framing line = {.kind = FRAMING_LINE, .max = 1024};

static void settle(struct rig *r) { turn_for(&r->turn, 0.02); }

static void undisturbed(struct rig *r) {
  CHECK_EQ(conn_ended(r->conn), 0);
  CHECK(conn_rest(r->conn, 100));
  CHECK(!turn_alive(&r->turn)); /* nobody waits for its end */
  settle(r);
  CHECK(conn_resume(r->conn));
  CHECK(!timer_armed(&r->conn->timer));
  CHECK(!conn_resume(r->conn)); /* it does not rest any more */
  CHECK(conn_is_open(r->conn));
}

TEST(what_nothing_disturbs_is_as_before) { rig_over_both(undisturbed); }

static void for_ever(struct rig *r) {
  CHECK(conn_rest(r->conn, INFINITY));
  CHECK(!timer_armed(&r->conn->timer));
  CHECK(conn_resume(r->conn));
}

TEST(a_rest_without_end_needs_no_timer) { rig_over_both(for_ever); }

static void time_over(struct rig *r) {
  CHECK(conn_rest(r->conn, 0.02));
  TURN_UNTIL(&r->turn, !conn_is_open(r->conn));
  CHECK(!conn_resume(r->conn));
  CHECK_EQ(conn_ended(r->conn), ERR_CLOSED);
}

TEST(time_closes_it) { rig_over_both(time_over); }

static void spoken_to(struct rig *r) {
  CHECK(conn_rest(r->conn, 100));
  CHECK_EQ(probe_send(&r->peer, "x"), 1);
  TURN_UNTIL(&r->turn, !conn_is_open(r->conn));
  CHECK(!conn_resume(r->conn));
}

TEST(a_byte_of_the_peer_closes_it) { rig_over_both(spoken_to); }

static void hung_up(struct rig *r) {
  CHECK(conn_rest(r->conn, 100));
  probe_close(&r->peer, false);
  TURN_UNTIL(&r->turn, !conn_is_open(r->conn));
  CHECK(!conn_resume(r->conn));
}

TEST(the_end_of_the_peer_closes_it) { rig_over_both(hung_up); }

/* Only a socket shows without a poll what came. */
static void unseen(struct rig *r) {
  CHECK(conn_rest(r->conn, 100));
  CHECK_EQ(probe_send(&r->peer, "x"), 1);
  CHECK(!conn_resume(r->conn));
  CHECK(conn_is_open(r->conn)); /* whoever asked closes it */
}

TEST(resuming_looks_at_what_no_turn_has_seen) { rig_run(probe_pair, unseen); }

static void reused(struct rig *r) {
  CHECK(conn_rest(r->conn, 0.02));
  CHECK(conn_resume(r->conn));
  turn_for(&r->turn, 0.05);
  CHECK_EQ(probe_send(&r->peer, "one\n"), 4);
  CHECK_TAKE(r, &line, "one");
  CHECK(conn_is_open(r->conn));
}

TEST(what_was_resumed_is_closed_by_nothing) { rig_over_both(reused); }

static void closed_meanwhile(struct rig *r) {
  CHECK(conn_rest(r->conn, 100));
  conn_reset(r->conn);
  CHECK(!timer_armed(&r->conn->timer));
  CHECK(!conn_resume(r->conn));
}

TEST(a_close_ends_the_rest) { rig_over_both(closed_meanwhile); }

static void dropped(struct rig *r) {
  CHECK(conn_rest(r->conn, 100));
  rig_let_go(r);
}

TEST(an_owner_that_lets_go_ends_the_rest) { rig_over_both(dropped); }

/* ---- unfit ----------------------------------------------------------------------- */

static void with_input(struct rig *r) {
  CHECK_EQ(probe_send(&r->peer, "one\ntwo\n"), 8);
  CHECK_TAKE(r, &line, "one");
  CHECK(!conn_rest(r->conn, 100));
  CHECK_TAKE(r, &line, "two");
  CHECK(conn_rest(r->conn, 100));
}

TEST(unread_input_does_not_rest) { rig_over_both(with_input); }

static void ended(struct rig *r) {
  CHECK_EQ(probe_send(&r->peer, "one\n"), 4);
  probe_close(&r->peer, false);
  TURN_UNTIL(&r->turn, r->conn->in_end);
  CHECK_EQ(conn_ended(r->conn), 0); /* there is still something to receive */
  CHECK_TAKE(r, &line, "one");
  CHECK_EQ(conn_ended(r->conn), ERR_EOF);
  CHECK(!conn_rest(r->conn, 100));
}

TEST(a_stream_that_ended_does_not_rest) { rig_over_both(ended); }

static void in_use(struct rig *r) {
  waiter_park(&r->reader, &r->conn->readers, INFINITY, true);
  CHECK(!conn_rest(r->conn, 100));
  wait_resume(&r->reader.wait);
  wait_leave(&r->reader.wait);
  CHECK(conn_rest(r->conn, 100));
}

TEST(what_somebody_waits_for_does_not_rest) { rig_over_both(in_use); }

static void failed(struct rig *r) {
  r->conn->failure.code = ERR_TIMEDOUT;
  CHECK(!conn_rest(r->conn, 100));
}

TEST(what_has_failed_once_does_not_rest) { rig_over_both(failed); }

static void half_closed(struct rig *r) {
  CHECK_EQ(conn_close_write(r->conn), 0);
  CHECK(!conn_rest(r->conn, 100));
}

TEST(a_half_closed_one_does_not_rest) { rig_over_both(half_closed); }

static void to_be_closed(struct rig *r) {
  CHECK_EQ(conn_close_in(r->conn, 100, false), 0);
  CHECK(!conn_rest(r->conn, 100));
}

TEST(one_that_will_be_closed_does_not_rest) { rig_over_both(to_be_closed); }
