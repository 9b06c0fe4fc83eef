/* Long messages, which are written from where they lie, and the memory that outputs share.
 *
 * What this is not: all else of a connection's output (test_conn_out.c). */
#include "turn_probe.h"

enum { CAPACITY = 64 * 1024, BODY = 40000, MANY = 100 };

/* The bytes of one stream, so that each tells its place. */
static char byte_at(size_t i) { return (char)(i * 31 + i / 251); }

static size_t written, read_so_far;

static void next_bytes(char *to, size_t n) {
  for (size_t i = 0; i < n; i++) to[i] = byte_at(written++);
}

static void put_next(struct conn *c, size_t n) {
  next_bytes(conn_reserve(c, n), n);
  conn_commit(c, n, false);
}

static int send_long(struct conn *c, size_t head, size_t body) {
  char *data = malloc(head + body);
  next_bytes(data, head + body);
  const struct iovec v[] = {{data, head}, {data + head, body}};
  int r = head ? conn_send_long(c, v, 2) : conn_send_long(c, v + 1, 1);
  memset(data, 0, head + body); /* nothing stays borrowed */
  free(data);
  return r;
}

/* The peer reads what there is, at most `most` at once -> have all bytes come, as they are? */
static bool all_came(struct rig *r, size_t most) {
  static char got[CAPACITY];
  for (ptrdiff_t n; (n = probe_read(&r->peer, got, most)) > 0;)
    for (ptrdiff_t i = 0; i < n; i++)
      if (got[i] != byte_at(read_so_far++)) return test_true(false, __FILE__, __LINE__, "order");
  return read_so_far == written;
}

static void check_all_comes(struct rig *r) {
  TURN_UNTIL(&r->turn, all_came(r, CAPACITY));
  TURN_UNTIL(&r->turn, conn_unsent(r->conn) == 0);
  CHECK(r->conn->out.mem == NULL);
  CHECK(!r->conn->blocked);
}

/* ---- where the write stops ------------------------------------------------------- */

/* The link has room for so many bytes; some are unsent, of the message before. */
static void stop_at(struct rig *r, size_t before, size_t head, size_t room) {
  static char filling[CAPACITY];
  struct link *l = r->conn->link;
  struct iovec v = {filling, CAPACITY - room};
  size_t total = before + head + BODY, taken = room < total ? room : total;
  uint64_t out = r->conn->bytes_out;
  next_bytes(filling, CAPACITY - room);
  CHECK_EQ(l->ops->write(l, &v, 1), CAPACITY - room);
  if (before) put_next(r->conn, before);
  CHECK_EQ(send_long(r->conn, head, BODY), 0);
  CHECK_EQ(r->conn->bytes_out - out, taken);
  CHECK_EQ(conn_unsent(r->conn), total - taken);
  CHECK_EQ(r->conn->blocked, taken < total);
  check_all_comes(r);
}

static void stop_everywhere(struct rig *r) {
  static const size_t heads[] = {0, 4};
  for (size_t before = 0; before <= 10; before += 10)
    for (int h = 0; h < 2; h++) {
      size_t lead = before + heads[h];
      const size_t rooms[] = {0,        1,        before / 2,      before,      before + 1, lead,
                              lead + 1, lead + 9, lead + BODY - 1, lead + BODY, CAPACITY};
      for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++)
        if (rooms[i] || lead) stop_at(r, before, heads[h], rooms[i]);
    }
}

TEST(a_long_message_goes_on_wherever_the_write_stopped) {
  written = read_so_far = 0;
  rig_run(probe_pipe, stop_everywhere);
}

/* The system stops where it likes. */
static void narrow(struct rig *r) {
  uint32_t state = 7;
  int small = 2048;
  struct link *l = r->conn->link;
  CHECK_EQ(l->ops->option(l, LINK_SEND_BUFFER, true, &small), 0);
  for (int i = 0; i < MANY; i++) {
    if (test_random(&state) % 2) put_next(r->conn, 1 + test_random(&state) % 3000);
    CHECK_EQ(send_long(r->conn, test_random(&state) % 9, 1 + test_random(&state) % 90000), 0);
    for (uint32_t n = test_random(&state) % 4; n; n--) {
      all_came(r, 1 + test_random(&state) % CAPACITY);
      turn_step(&r->turn, false);
    }
  }
  check_all_comes(r);
  CHECK_EQ(r->conn->bytes_out, written);
}

TEST(long_messages_and_short_ones_keep_their_order) {
  written = read_so_far = 0;
  rig_run(probe_pair, narrow);
}

/* ---- what fails ------------------------------------------------------------------ */

static void into_reset(struct rig *r) {
  put_next(r->conn, 5);
  probe_close(&r->peer, true);
  CHECK_EQ(send_long(r->conn, 4, BODY), 0); /* as of any output: the next call is told */
  CHECK_EQ(conn_cannot_send(r->conn), ERR_RESET);
  CHECK_EQ(conn_unsent(r->conn), 0);
  CHECK(r->conn->out.mem == NULL);
  CHECK_EQ(r->conn->bytes_out, 0);
}

TEST(a_long_message_into_a_broken_link_is_given_up) { rig_run(probe_pipe, into_reset); }

/* More than any memory is refused without a trace, also of the memory that was at hand. */
static void too_long(struct rig *r) {
  struct iovec v = {NULL, SIZE_MAX - 16};
  written = read_so_far = 0;
  put_next(r->conn, 300);
  check_all_comes(r);
  size_t spare = r->turn.spares.bytes;
  CHECK(spare > 0);
  CHECK_EQ(conn_send_long(r->conn, &v, 1), ERR_NOMEM);
  CHECK(conn_reserve(r->conn, v.iov_len) == NULL);
  CHECK(r->conn->out.mem == NULL);
  CHECK_EQ(r->turn.spares.bytes, spare);
  put_next(r->conn, 3);
  CHECK_EQ(conn_send_long(r->conn, &v, 1), ERR_NOMEM);
  CHECK_EQ(r->conn->messages_out, 2);
  CHECK_EQ(conn_unsent(r->conn), 3);
  check_all_comes(r);
}

TEST(a_message_for_which_there_is_no_memory_leaves_no_trace) { rig_over_both(too_long); }

/* ---- spares ---------------------------------------------------------------------- */

static struct rig others[MANY];

static void round_of_all(struct turn *t, size_t n) {
  char got[16];
  for (int i = 0; i < MANY; i++) {
    memset(conn_reserve(others[i].conn, n), i, n);
    conn_commit(others[i].conn, n, false);
  }
  turn_step(t, false);
  CHECK(t->spares.bytes <= SPARES_MOST);
  for (int i = 0; i < MANY; i++) {
    CHECK(others[i].conn->out.mem == NULL);
    CHECK_EQ(probe_read(&others[i].peer, got, sizeof got), sizeof got);
    CHECK_EQ(got[0], i);
    CHECK_EQ(got[15], i);
    while (probe_read(&others[i].peer, &(char[4096]){0}, 4096) > 0) continue;
  }
}

TEST(many_connections_share_spares_and_keep_none) {
  struct turn t;
  turn_open(&t);
  for (int i = 0; i < MANY; i++) others[i].conn = rig_connect(&t, probe_pipe, &others[i].peer);
  for (size_t n = 16; n <= 32768; n *= 8) round_of_all(&t, n);
  round_of_all(&t, 16);
  for (int i = 0; i < MANY; i++) {
    conn_drop(others[i].conn, CONN_OF_OWNER);
    probe_close(&others[i].peer, false);
  }
  turn_end(&t);
}
