/* The last words of a TLS connection, its alert, reach the peer also where the link takes them a
 * byte at a time: closing does not overtake them.
 *
 * What this is not: a test of what the alerts say (the specs of TLS). */
#include "link_fault.h"
#include "tls_wire.h"

/* A record with a message that no handshake begins with, and more that nobody reads. */
static const char junk[] = "\x16\x03\x01\0\5\x14\0\0\1\0 and so on";

/* The peer reads until the end -> its bytes, or a code. */
static ptrdiff_t read_to_end(struct turn *t, struct probe *peer, char *to, size_t room) {
  double limit = turn_now(t) + 10;
  size_t total = 0;
  ptrdiff_t r = 1;
  while (r != 0 && turn_now(t) < limit) {
    turn_once(t);
    r = probe_read(peer, to + total, room - total);
    if (r > 0) total += (size_t)r;
    if (r < 0 && r != ERR_AGAIN) return r;
  }
  CHECK_EQ(r, 0);
  return (ptrdiff_t)total;
}

static void refuse_junk(probe_opener *open, unsigned write_most, unsigned again) {
  struct turn t;
  struct probe peer, own;
  struct link *slow = NULL;
  struct fault_tally tally = {0};
  struct fault_plan plan = FAULT_NOTHING;
  char got[64];
  plan.write_most = write_most;
  plan.again = again;
  turn_open(&t);
  struct tls_context *context = wire_make_context(&t);
  open(t.world, &peer, &own);
  REQUIRE(link_fault_open(t.world, own.link, &plan, 1, &tally, NULL, &slow) == 0);
  struct conn *c = conn_open(&t, slow, NULL);
  const struct link_tls_opts o = {.context = context, .server = true};
  CHECK_EQ(conn_secure(c, &o), 0);
  CHECK_EQ(probe_write(&peer, junk, sizeof junk), sizeof junk);
  TURN_UNTIL(&t, conn_handshake(c) == ERR_TLS);
  conn_drop(c, CONN_OF_OWNER);
  ptrdiff_t n = read_to_end(&t, &peer, got, sizeof got);
  CHECK_EQ(n, 7); /* a record's head, and the alert */
  CHECK(n > 0 && got[0] == 21);
  CHECK(write_most + again == 0 || tally.writes + tally.agains > 0);
  probe_close(&peer, false);
  tls_context_drop(context);
  turn_end(&t);
}

TEST(an_alert_is_written_before_the_end) {
  refuse_junk(probe_pair, 0, 0);
  refuse_junk(probe_pipe, 0, 0);
}

TEST(an_alert_that_leaves_byte_by_byte_is_written_before_the_end) {
  refuse_junk(probe_pair, 1, 0);
  refuse_junk(probe_pipe, 1, 0);
}

TEST(an_alert_that_has_to_wait_is_written_before_the_end) {
  refuse_junk(probe_pair, 0, 8);
  refuse_junk(probe_pipe, 0, 8);
}
