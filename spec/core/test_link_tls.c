/* A TLS session as a link: how what is written to it becomes records, what becomes of records in
 * pieces, whose errors count, and how much one call reads and writes, with the wire in the test's
 * hands.
 * What this is not: whether TLS is kept to (the specs of TLS, against other programs). */
#include <openssl/err.h>

#include "tls_session.h"
#include "tls_wire.h"

enum {
  RECORD = 16 * 1024,
  HEAD = 5,         /* of a record */
  ADDED = HEAD + 17 /* what TLS 1.3 adds to the data of one, with AES-GCM */
};

/* The lengths of the records that were on the wire -> how many. */
static size_t records(const struct wire *w, size_t *lens, size_t most) {
  size_t n = 0;
  for (size_t at = 0; at + HEAD <= w->taken_len && n < most; n++) {
    const unsigned char *p = (const unsigned char *)w->taken + at;
    lens[n] = HEAD + ((size_t)p[3] << 8 | p[4]);
    at += lens[n];
  }
  return n;
}

/* All of it goes through, in records that are full but for the last. */
static void check_vector(struct wire *w, const struct iovec *v, int count, const char *data,
                         size_t len) {
  size_t lens[64], full = len / RECORD, rest = len % RECORD;
  CHECK_EQ(w->client.link->ops->write(w->client.link, v, count), len);
  TURN_UNTIL(&w->turn, (wire_pump(w), w->got_len >= len));
  CHECK_MEM(w->got, w->got_len, data, len);
  CHECK_EQ(records(w, lens, 64), full + (rest > 0));
  for (size_t i = 0; i < full; i++) CHECK_EQ(lens[i], RECORD + ADDED);
  if (rest) CHECK_EQ(lens[full], rest + ADDED);
  w->got_len = w->taken_len = 0;
}

static void check_pieces(const size_t *lens, int count) {
  static char data[3 * RECORD];
  struct iovec v[16];
  struct wire w;
  size_t len = 0;
  for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(i * 7 + i / 251);
  for (int i = 0; i < count; len += lens[i++])
    v[i] = (struct iovec){.iov_base = data + len, .iov_len = lens[i]};
  wire_open(&w);
  check_vector(&w, v, count, data, len);
  wire_close(&w);
}

#define CHECK_PIECES(...)                                                                          \
  do {                                                                                             \
    const size_t lens_[] = {__VA_ARGS__};                                                          \
    check_pieces(lens_, (int)(sizeof lens_ / sizeof *lens_));                                      \
  } while (0)

TEST(short_pieces_leave_in_one_record) { CHECK_PIECES(2, 64, 2, 64, 2, 0, 64, 1); }

TEST(a_header_fills_the_record_of_its_message) { CHECK_PIECES(4, 2 * RECORD + 100); }

TEST(pieces_that_end_within_a_record_share_it) {
  CHECK_PIECES(RECORD - 1, 2, RECORD, 0, RECORD - 5);
  CHECK_PIECES(0, RECORD, 1, 0);
}

/* ---- records in pieces ---------------------------------------------------------------- */

/* Two records, cut at n; wherever that is, each is there when the last of it is. */
static void cut_at(struct wire *w, size_t n) {
  char bytes[256];
  CHECK_EQ(probe_send(&w->client, "one"), 3);
  ptrdiff_t first = probe_read(&w->near, bytes, sizeof bytes);
  CHECK_EQ(probe_send(&w->client, "two"), 3);
  ptrdiff_t second = probe_read(&w->near, bytes + first, sizeof bytes - (size_t)first);
  size_t len = (size_t)(first + second);
  w->got_len = 0;
  CHECK_EQ(probe_write(&w->far, bytes, n), n);
  wire_receive(w);
  CHECK_MEM(w->got, w->got_len, "one", n < (size_t)first ? 0 : 3);
  CHECK_EQ(probe_write(&w->far, bytes + n, len - n), len - n);
  wire_receive(w);
  CHECK_MEM(w->got, w->got_len, "onetwo", 6);
}

TEST(records_may_come_in_any_pieces) {
  struct wire w;
  wire_open(&w);
  for (size_t n = 1; n < 2 * (3 + ADDED); n++) cut_at(&w, n);
  wire_close(&w);
}

/* ---- errors of others ---------------------------------------------------------------- */

static void leave_error(void) { ERR_raise(ERR_LIB_USER, ERR_R_INTERNAL_ERROR); }

TEST(what_others_left_in_the_error_queue_is_none_of_ours) {
  struct wire w;
  char bytes[256];
  wire_open(&w);
  leave_error();
  CHECK_EQ(probe_send(&w.client, "one"), 3);
  leave_error();
  ptrdiff_t n = probe_read(&w.near, bytes, sizeof bytes);
  CHECK_EQ(probe_write(&w.far, bytes, 10), 10);
  CHECK_EQ(probe_read(&w.server, w.got, WIRE), ERR_AGAIN);
  leave_error();
  CHECK_EQ(probe_write(&w.far, bytes + 10, (size_t)n - 10), n - 10);
  CHECK_EQ(probe_read(&w.server, w.got, WIRE), 3);
  CHECK_EQ(w.client.link->ops->shut(w.client.link), 0);
  wire_pass(&w.near, &w.far, NULL);
  leave_error();
  CHECK_EQ(probe_read(&w.server, w.got, WIRE), 0);
  wire_close(&w);
}

/* ---- how much at once ---------------------------------------------------------------- */

enum { KIB = 1024, PAGE = 64 * KIB, CALL_MOST = 256 * KIB, MUCH = 600 * KIB };

/* Takes all that is written to it, and gives it back. */
struct store {
  struct link link;
  char *bytes;
  size_t at, len;
  unsigned reads, writes;
};

static struct store *store_of(struct link *l) { return (struct store *)(void *)l; }

static ptrdiff_t store_read(struct link *l, void *to, size_t n) {
  struct store *s = store_of(l);
  size_t left = s->len - s->at;
  if (left == 0) return ERR_AGAIN;
  if (n > left) n = left;
  memcpy(to, s->bytes + s->at, n);
  s->at += n;
  s->reads++;
  return (ptrdiff_t)n;
}

static ptrdiff_t store_write(struct link *l, const struct iovec *v, int count) {
  struct store *s = store_of(l);
  CHECK_EQ(count, 1);
  if (s->len + v->iov_len > WIRE) return ERR_AGAIN;
  memcpy(s->bytes + s->len, v->iov_base, v->iov_len);
  s->len += v->iov_len;
  s->writes++;
  return (ptrdiff_t)v->iov_len;
}

static void store_want(struct link *l, unsigned events) { (void)l, (void)events; }

static const struct link_ops store_ops = {
    .read = store_read, .write = store_write, .want = store_want};

static struct link_tls *session(const struct probe *p) {
  return (struct link_tls *)(void *)p->link;
}

/* What the scenario writes at one end and reads at the other goes through a store. */
static void with_store(void (*scenario)(struct wire *, struct store *)) {
  struct store s = {.link = {.ops = &store_ops}, .bytes = calloc(1, WIRE)};
  struct wire w;
  wire_open(&w);
  struct link *client = session(&w.client)->below, *server = session(&w.server)->below;
  session(&w.client)->below = session(&w.server)->below = &s.link;
  scenario(&w, &s);
  session(&w.client)->below = client;
  session(&w.server)->below = server;
  wire_close(&w);
  free(s.bytes);
}

static void much(struct wire *w, struct store *s) {
  char *data = calloc(1, MUCH);
  for (size_t i = 0; i < MUCH; i++) data[i] = (char)(i * 7 + i / 251);
  CHECK_EQ(probe_write(&w->client, data, MUCH), CALL_MOST);
  CHECK_EQ(s->writes, CALL_MOST / PAGE);
  CHECK_EQ(probe_write(&w->client, data + CALL_MOST, MUCH - CALL_MOST), CALL_MOST);
  ptrdiff_t n = probe_read(&w->server, w->got, WIRE);
  CHECK(n >= CALL_MOST - PAGE && n <= CALL_MOST);
  CHECK_EQ(s->reads, CALL_MOST / PAGE);
  CHECK_MEM(w->got, (size_t)n, data, (size_t)n);
  ptrdiff_t more = probe_read(&w->server, w->got, WIRE);
  CHECK(more >= CALL_MOST - PAGE && more <= CALL_MOST);
  CHECK_MEM(w->got, (size_t)more, data + n, (size_t)more);
  free(data);
}

TEST(one_call_moves_page_after_page_up_to_256_kib) { with_store(much); }

/* A read that has no room for a page more leaves it where it is. */
static void little_room(struct wire *w, struct store *s) {
  char *data = calloc(1, 4 * PAGE);
  CHECK_EQ(probe_write(&w->client, data, 4 * PAGE), 4 * PAGE);
  ptrdiff_t n = probe_read(&w->server, w->got, PAGE + 1000);
  CHECK(n >= PAGE - RECORD && n < PAGE);
  CHECK_EQ(s->reads, 1);
  free(data);
}

TEST(a_page_that_is_full_is_not_read_on) { with_store(little_room); }

/* Nothing moves but what the session has already. */
static void report_again(struct wire *w) {
  char c[8];
  CHECK_EQ(probe_send(&w->client, "0123456789"), 10);
  wire_pass(&w->near, &w->far, NULL);
  probe_want(&w->server, LINK_IN);
  TURN_UNTIL(&w->turn, w->server.reports > 0);
  CHECK_EQ(probe_read(&w->server, c, 4), 4);
  probe_want(&w->server, LINK_IN);
  TURN_UNTIL(&w->turn, w->server.reports >= 3);
  CHECK_EQ(probe_read(&w->server, c, sizeof c), 6);
  turn_once(&w->turn);
  w->server.reports = 0;
  for (int i = 0; i < 3; i++) turn_once(&w->turn);
  CHECK_EQ(w->server.reports, 0);
}

TEST(what_a_read_left_in_the_session_is_reported_again_and_again) {
  struct wire w;
  wire_open(&w);
  report_again(&w);
  wire_close(&w);
}

/* ---- both ends send ------------------------------------------------------------------ */

/* The wire takes nothing of a whole page of records.  It is full to the byte first, with nothing
 * held back: what was is read from it, and takes that place. */
static void hold_a_page(struct wire *w) {
  static char page[PAGE];
  struct link *l = w->client.link;
  for (int step = 0; step < 8 && l->ops->held(l) < PAGE; step++) {
    size_t held = l->ops->held(l);
    if (probe_write(&w->client, page, sizeof page) == ERR_AGAIN)
      CHECK_EQ(probe_read(&w->near, page, held), held);
  }
  CHECK(l->ops->held(l) >= PAGE);
}

/* Otherwise two ends that send would wait for each other for ever. */
static void read_on(struct wire *w) {
  static char rest[4 * PAGE];
  hold_a_page(w);
  CHECK_EQ(probe_send(&w->server, "hello"), 5);
  wire_pass(&w->far, &w->near, NULL);
  probe_want(&w->client, LINK_IN);
  TURN_UNTIL(&w->turn, w->client.reports > 0);
  CHECK_EQ(probe_read(&w->client, w->got, WIRE), 5);
  while (probe_read(&w->near, rest, sizeof rest) > 0) turn_once(&w->turn);
}

TEST(what_nobody_takes_yet_keeps_it_from_reading_nothing) {
  struct wire w;
  wire_open(&w);
  read_on(&w);
  wire_close(&w);
}

/* A server that sends tickets without end, to keep us busy. */
static void tickets(struct wire *w, struct store *s) {
  SSL *ssl = session(&w->server)->ssl;
  while (w->turn.tls->out_len + buf_len(&session(&w->server)->sealed) < MUCH)
    if (!SSL_new_session_ticket(ssl) || SSL_do_handshake(ssl) != 1) break;
  CHECK_EQ(probe_send(&w->server, "data"), 4);
  REQUIRE(s->len >= MUCH);
  char c[16];
  ptrdiff_t r = ERR_AGAIN;
  unsigned calls = 0;
  for (size_t before = s->at; r == ERR_AGAIN && calls < 100; before = s->at, calls++) {
    r = probe_read(&w->client, c, sizeof c);
    CHECK(s->at - before <= CALL_MOST + PAGE);
  }
  CHECK_EQ(r, 4);
  CHECK_MEM(c, 4, "data", 4);
  CHECK(calls > MUCH / (CALL_MOST + PAGE));
}

TEST(one_call_reads_no_more_although_nothing_of_it_is_data) { with_store(tickets); }

/* ---- a broken wire -------------------------------------------------------------------- */

static ptrdiff_t broken_write(struct link *l, const struct iovec *v, int count) {
  (void)l, (void)v, (void)count;
  return ERR_PIPE;
}

static int broken_shut(struct link *l) {
  (void)l;
  return ERR_PIPE;
}

/* Nobody is to believe that his bytes have left. */
static void breaks(struct wire *w, struct store *s) {
  static const struct link_ops broken = {
      .write = broken_write, .shut = broken_shut, .want = store_want};
  s->link.ops = &broken;
  CHECK_EQ(probe_send(&w->client, "lost"), ERR_PIPE);
  CHECK_EQ(probe_send(&w->client, "lost"), ERR_PIPE);
  CHECK_EQ(w->client.link->ops->shut(w->client.link), ERR_PIPE);
  CHECK_EQ(w->server.link->ops->shut(w->server.link), ERR_PIPE); /* its close_notify */
}

TEST(a_write_or_an_end_that_goes_nowhere_says_so_at_once) { with_store(breaks); }
