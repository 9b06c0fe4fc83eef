/* A connection's input: messages across pieces, the shared page, limits and ends. */
#include "turn_probe.h"

enum { LONG = 300 * 1024 };

static const struct framing raw = {.kind = FRAMING_RAW, .max = PAGE_SIZE_BYTES};
static const struct framing line = {.kind = FRAMING_LINE, .max = 1024};
static const struct framing prefix = {.kind = FRAMING_LENGTH, .size = 2, .strip = 2, .max = 1024};

static struct framing fixed(size_t n) {
  return (struct framing){.kind = FRAMING_FIXED, .count = n, .max = n};
}

static size_t buffered(const struct rig *r) {
  size_t n;
  conn_input(r->conn, &n);
  return n;
}

/* Sends and lets it arrive, whoever may be interested. */
static void arrive(struct rig *r, const char *data, size_t n) {
  uint64_t want = r->conn->bytes_in + n;
  CHECK_EQ(probe_write(&r->peer, data, n), n);
  TURN_UNTIL(&r->turn, r->conn->bytes_in >= want);
}

/* ---- messages -------------------------------------------------------------------- */

static const char mixed[] = "abcdeone line\r\n\0\3xyz\nrest\n";

static void take_mixed(struct rig *r) {
  const struct framing five = fixed(5);
  CHECK_TAKE(r, &five, "abcde");
  CHECK_TAKE(r, &line, "one line");
  CHECK_TAKE(r, &prefix, "xyz");
  CHECK_TAKE(r, &line, "");
  CHECK_TAKE(r, &line, "rest");
  CHECK_EQ(r->conn->messages_in, 5);
  CHECK_EQ(r->conn->bytes_in, sizeof mixed - 1);
  CHECK_EQ(r->conn->consumed, sizeof mixed - 1);
}

static void take_from_one_piece(struct rig *r) {
  arrive(r, mixed, sizeof mixed - 1);
  take_mixed(r);
}

TEST(one_piece_may_hold_many_messages) { rig_over_both(take_from_one_piece); }

static void take_as_it_comes(struct rig *r) {
  r->feed = mixed;
  r->feed_len = sizeof mixed - 1;
  take_mixed(r);
}

TEST(a_receiver_waits_for_the_first_byte) { rig_over_both(take_as_it_comes); }

/* The scan goes on where it stopped; each byte finds nobody waiting. */
static void take_split(struct rig *r) {
  const struct framing five = fixed(5);
  const struct framing *const order[] = {&five, &line, &prefix, &line, &line};
  size_t taken = 0;
  for (size_t i = 0; i < sizeof mixed - 1; i++) {
    struct message m;
    arrive(r, &mixed[i], 1);
    int code = conn_take(r->conn, order[taken], &m);
    if (code == 0) {
      conn_took(r->conn, &m.cut);
      taken++;
    } else {
      CHECK_EQ(code, ERR_AGAIN);
    }
  }
  CHECK_EQ(taken, 5);
  CHECK_EQ(buffered(r), 0);
}

TEST(messages_come_together_from_single_bytes) { rig_over_both(take_split); }

static void take_twice(struct rig *r) {
  struct message m, again;
  arrive(r, "one\ntwo\n", 8);
  CHECK_EQ(conn_take(r->conn, &line, &m), 0);
  CHECK_EQ(conn_take(r->conn, &line, &again), 0);
  CHECK_MEM(again.base + again.cut.at, again.cut.len, "one", 3);
  CHECK_EQ(r->conn->consumed + r->conn->messages_in, 0);
  conn_took(r->conn, &again.cut);
  CHECK_EQ(r->conn->consumed, 4);
  CHECK_TAKE(r, &line, "two");
  conn_consume(r->conn, 100);
  CHECK_EQ(conn_take(r->conn, &line, &m), ERR_AGAIN);
}

TEST(only_what_was_consumed_is_gone) { rig_over_both(take_twice); }

static void unread(struct rig *r) {
  const struct framing five = fixed(5);
  arrive(r, "456", 3);
  CHECK_EQ(conn_unread(r->conn, "", 0), 0);
  CHECK_EQ(conn_unread(r->conn, "3", 1), 0);
  CHECK_EQ(conn_unread(r->conn, "12", 2), 0);
  CHECK_EQ(buffered(r), 6);
  CHECK_TAKE(r, &five, "12345");
  CHECK_EQ(conn_unread(r->conn, "5", 1), 0);
  CHECK_EQ(r->peer.link->ops->shut(r->peer.link), 0);
  TURN_UNTIL(&r->turn, r->conn->in_end == ERR_EOF);
  CHECK_TAKE(r, &raw, "56");
  CHECK_EQ(conn_unread(r->conn, "late\n", 5), 0);
  CHECK_TAKE(r, &line, "late");
}

TEST(what_is_put_back_comes_first) { rig_over_both(unread); }

/* ---- the page -------------------------------------------------------------------- */

static void borrow(struct rig *r, probe_opener *open) {
  struct turn *t = &r->turn;
  struct probe peer;
  struct conn *a = r->conn, *b = rig_connect(t, open, &peer);
  r->feed = "first\nsec";
  r->feed_len = 9;
  CHECK_TAKE(r, &line, "first");
  CHECK(t->borrower == a);
  CHECK_EQ(buffered(r), 3);
  r->conn = b;
  struct probe own = r->peer;
  r->peer = peer;
  r->peer.link->owner = &r->peer;
  r->feed = "others\npart";
  r->feed_len = 11;
  CHECK_TAKE(r, &line, "others");
  CHECK(t->borrower == b);
  rig_let_go(r);
  CHECK(t->borrower == NULL);
  probe_close(&r->peer, false);
  TURN_UNTIL(t, t->conns == 1 && !r->peer.link);
  r->conn = a;
  r->peer = own;
  CHECK_EQ(buffered(r), 3);
  r->feed = "ond\n";
  r->feed_len = 4;
  CHECK_TAKE(r, &line, "second");
  CHECK(t->borrower == NULL);
}

static void borrow_pair(struct rig *r) { borrow(r, probe_pair); }
static void borrow_pipe(struct rig *r) { borrow(r, probe_pipe); }

TEST(bytes_survive_that_another_needs_the_page) {
  rig_run(probe_pair, borrow_pair);
  rig_run(probe_pipe, borrow_pipe);
}

/* Bytes that are known from their position. */
static char *pattern_new(size_t n) {
  char *p = malloc(n);
  for (size_t i = 0; i < n; i++) p[i] = (char)('a' + (i * 7 + i / 251) % 26);
  return p;
}

/* Takes a long message whose last bytes are its terminator, which leave with it. */
static void take_long(struct rig *r, const struct framing *f, size_t before, size_t most) {
  static const char header[4] = {0, 4, (char)0xaf, (char)0xfc}; /* LONG - 4 */
  struct message m = {.base = ""};
  char *data = pattern_new(LONG);
  if (before == 4) memcpy(data, header, sizeof header);
  if (f->kind == FRAMING_LINE) data[LONG - 1] = '\n';
  size_t len = LONG - before - (f->kind == FRAMING_LINE);
  r->feed = data;
  r->feed_len = LONG;
  CHECK_EQ(rig_take(r, f, &m), 0);
  CHECK_MEM(m.base + m.cut.at, m.cut.len, data + before, len);
  CHECK(m.base == buf_data(&r->conn->in));
  CHECK(r->conn->in.cap >= LONG && r->conn->in.cap <= most);
  conn_took(r->conn, &m.cut);
  CHECK(r->conn->in.mem == NULL);
  free(data);
}

static void take_all_long(struct rig *r) {
  const struct framing exact = fixed(LONG), text = {.kind = FRAMING_LINE, .max = LONG};
  const struct framing framed = {.kind = FRAMING_LENGTH, .size = 4, .strip = 4, .max = LONG};
  take_long(r, &exact, 0, LONG);
  take_long(r, &framed, 4, LONG);
  take_long(r, &text, 0, LONG + 3);
}

TEST(a_long_message_lies_where_it_will_stay) { rig_over_both(take_all_long); }

/* ---- reading ahead --------------------------------------------------------------- */

static void feed_for(struct rig *r, int turns) {
  while (turns-- > 0) {
    rig_feed(r);
    turn_once(&r->turn);
  }
}

static void read_ahead(struct rig *r) {
  enum { MORE = 4 * CONN_READ_AHEAD };
  char *data = pattern_new(MORE);
  struct message m = {.base = ""};
  const struct framing exact = fixed(MORE);
  r->feed = data;
  r->feed_len = MORE;
  feed_for(r, 20);
  CHECK_EQ(buffered(r), CONN_READ_AHEAD);
  CHECK_EQ(r->conn->bytes_in, CONN_READ_AHEAD);
  CHECK(turn_is_calm(&r->turn));
  conn_want_input(r->conn); /* somebody who then changed his mind */
  feed_for(r, 3);
  CHECK_EQ(buffered(r), CONN_READ_AHEAD);
  CHECK(turn_is_calm(&r->turn));
  CHECK_EQ(rig_take(r, &exact, &m), 0);
  CHECK_MEM(m.base, m.cut.len, data, MORE);
  conn_took(r->conn, &m.cut);
  free(data);
}

TEST(a_little_is_read_for_nobody) { rig_over_both(read_ahead); }

/* What was read for nobody is received later, with something of the page or without it: it leaves
 * nothing behind that would grow with every time. */
static void read_ahead_and_take(struct rig *r) {
  char data[400] = {0};
  const struct framing exact = fixed(sizeof data);
  struct message m;
  for (int i = 0; i < 20; i++) {
    r->feed = data;
    r->feed_len = sizeof data;
    feed_for(r, 3);
    conn_look(r->conn);
    CHECK_EQ(buf_len(&r->conn->in), sizeof data);
    CHECK_EQ(rig_take(r, &exact, &m), 0);
    conn_took(r->conn, &m.cut);
    CHECK(r->conn->in.mem == NULL);
    CHECK_EQ(r->turn.spares.bytes, 0);
  }
}

TEST(what_was_read_for_nobody_becomes_no_spare) { rig_over_both(read_ahead_and_take); }

/* However its pieces fall, so that growing would make it twice as much. */
static void read_ahead_in_pieces(struct rig *r) {
  enum { FIRST = CONN_READ_AHEAD - 5000, MORE = 1000 };
  char *data = pattern_new(FIRST);
  CHECK_EQ(probe_write(&r->peer, data, FIRST), FIRST);
  TURN_UNTIL(&r->turn, buffered(r) == FIRST);
  CHECK_EQ(probe_write(&r->peer, data, MORE), MORE);
  TURN_UNTIL(&r->turn, buffered(r) == FIRST + MORE);
  CHECK(r->conn->in.cap <= CONN_READ_AHEAD);
  free(data);
}

TEST(no_more_memory_is_held_than_is_read_ahead) { rig_over_both(read_ahead_in_pieces); }

/* Who receives between the first report and the second one reads it without a copy. */
static void not_at_once(struct rig *r) {
  CHECK_EQ(probe_send(&r->peer, "hello"), 5);
  TURN_UNTIL(&r->turn, r->conn->readable);
  CHECK_EQ(buffered(r), 0);
  CHECK_TAKE(r, &raw, "hello");
  CHECK(r->conn->in.mem == NULL);
  CHECK_EQ(probe_send(&r->peer, "again"), 5);
  TURN_UNTIL(&r->turn, r->conn->readable);
  turn_step(&r->turn, true);
  CHECK_EQ(buffered(r), 5);
  CHECK_TAKE(r, &raw, "again");
}

TEST(it_is_not_read_before_it_is_reported_again) { rig_over_both(not_at_once); }

/* ---- limits ---------------------------------------------------------------------- */

static void limits(struct rig *r) {
  const struct conn_limits odd = {.line = 1, .frame = 2, .all = 3, .high_water = 4};
  struct probe peer;
  struct conn *c = rig_connect(&r->turn, probe_pipe, &peer);
  CHECK(r->conn->limits == &conn_default_limits);
  CHECK_EQ(conn_set_limits(r->conn, &odd), 0);
  CHECK_EQ(r->conn->limits->frame, 2);
  CHECK(c->limits == &conn_default_limits);
  CHECK_EQ(conn_set_limits(c, &odd), 0);
  CHECK(c->limits == r->conn->limits);
  CHECK_EQ(conn_set_limits(r->conn, &(struct conn_limits){.line = 5}), 0);
  CHECK_EQ(r->conn->limits->line, 5);
  CHECK_EQ(c->limits->line, 1);
  CHECK_EQ(conn_set_limits(r->conn, &odd), 0);
  CHECK_EQ(r->conn->limits->line, 1);
  CHECK_EQ(conn_set_limits(r->conn, &conn_default_limits), 0);
  CHECK(r->conn->limits == &conn_default_limits);
  conn_drop(c, CONN_OF_OWNER);
  probe_close(&peer, false);
  TURN_UNTIL(&r->turn, peer.ended);
}

TEST(limits_are_each_connections_own_and_in_memory_once) { rig_run(probe_pipe, limits); }

/* ---- over the limit -------------------------------------------------------------- */

static void desync(struct rig *r) {
  struct message m;
  arrive(r, "\4\1too long\n", 11);
  CHECK_EQ(conn_take(r->conn, &prefix, &m), ERR_MSGSIZE);
  CHECK(r->conn->desync);
  CHECK_EQ(conn_take(r->conn, &prefix, &m), ERR_PROTO);
  CHECK_TAKE(r, &line, "\4\1too long");
  CHECK_EQ(conn_take(r->conn, &prefix, &m), ERR_PROTO);
}

TEST(behind_a_frame_too_long_no_next_one_is_known) { rig_over_both(desync); }

static void senseless_frame(struct rig *r) {
  const struct framing f = {.kind = FRAMING_LENGTH, .size = 1, .includes_header = true, .max = 9};
  struct message m;
  arrive(r, "\0", 1);
  CHECK_EQ(conn_take(r->conn, &f, &m), ERR_PROTO);
  CHECK(r->conn->desync);
}

TEST(a_frame_shorter_than_its_header_ends_the_framing) { rig_over_both(senseless_frame); }

/* As a call that receives lines does it; waits a turn if there is too little. */
static int skip_some(struct rig *r, const struct framing *f) {
  int code = conn_skip(r->conn, f);
  if (code) CHECK_EQ(r->conn->skipping, f->kind);
  if (code != ERR_AGAIN) return code;
  conn_want_input(r->conn);
  feed_for(r, 1);
  return code;
}

static void skip(struct rig *r) {
  static const char end[6] = {'\n', 'n', 'e', 'x', 't', '\n'};
  const struct framing eight = {.kind = FRAMING_LINE, .max = 8};
  char *data = pattern_new(LONG);
  struct message m;
  memcpy(data + LONG - sizeof end, end, sizeof end);
  r->feed = data;
  r->feed_len = LONG;
  CHECK_EQ(rig_take(r, &eight, &m), ERR_MSGSIZE);
  int code;
  do code = skip_some(r, &eight);
  while (code == ERR_MSGSIZE || code == ERR_AGAIN);
  CHECK_EQ(code, 0);
  CHECK_EQ(r->conn->skipping, 0);
  CHECK_TAKE(r, &eight, "next");
  CHECK_EQ(r->conn->consumed, LONG);
  free(data);
}

TEST(a_line_too_long_can_be_skipped) { rig_over_both(skip); }

/* ---- ends ------------------------------------------------------------------------ */

static void end_of_stream(struct rig *r) {
  struct message m;
  arrive(r, "half", 4);
  CHECK_EQ(r->peer.link->ops->shut(r->peer.link), 0);
  CHECK_EQ(rig_take(r, &line, &m), ERR_EOF);
  CHECK_EQ(buffered(r), 4);
  CHECK_EQ(conn_take(r->conn, &line, &m), ERR_EOF);
  CHECK_TAKE(r, &raw, "half");
  for (int i = 0; i < 3; i++) CHECK_EQ(conn_take(r->conn, &raw, &m), ERR_EOF);
  CHECK(conn_is_open(r->conn));
  CHECK_EQ(conn_cannot_send(r->conn), 0);
  CHECK(turn_is_calm(&r->turn));
}

TEST(the_end_stays_and_is_behind_all_bytes) { rig_over_both(end_of_stream); }

static void reset_of_stream(struct rig *r) {
  struct message m;
  arrive(r, "half", 4);
  probe_close(&r->peer, true);
  TURN_UNTIL(&r->turn, r->conn->in_end != 0);
  CHECK_TAKE(r, &raw, "half");
  CHECK_EQ(conn_take(r->conn, &raw, &m), ERR_RESET);
  CHECK_EQ(conn_take(r->conn, &line, &m), ERR_RESET);
  CHECK(turn_is_calm(&r->turn));
}

TEST(a_reset_stays_and_is_behind_all_bytes) { rig_over_both(reset_of_stream); }

/* ---- deadlines ------------------------------------------------------------------- */

static void deadline(struct rig *r) {
  double at = turn_now(&r->turn) + 0.02;
  waiter_park(&r->reader, &r->conn->readers, INFINITY, true);
  conn_set_deadline(r->conn, CONN_SEND, at);
  CHECK(r->reader.wait.due == INFINITY);
  conn_set_deadline(r->conn, CONN_RECV, at);
  TURN_UNTIL(&r->turn, r->reader.runs);
  CHECK_EQ(r->reader.why, ERR_TIMEDOUT);
  CHECK(turn_now(&r->turn) >= at);
  waiter_park(&r->reader, &r->conn->readers, at + 100, true);
  r->reader.wait.call_due = at + 100;
  conn_set_deadline(r->conn, CONN_RECV, at + 200);
  CHECK(r->reader.wait.due == at + 100);
  conn_set_deadline(r->conn, CONN_RECV, INFINITY);
  CHECK(r->reader.wait.due == at + 100);
  wait_resume(&r->reader.wait);
  wait_leave(&r->reader.wait);
}

TEST(a_deadline_reaches_who_waits_and_prolongs_nothing) { rig_over_both(deadline); }
