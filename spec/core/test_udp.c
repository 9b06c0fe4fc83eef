/* Datagram sockets: what is received, by whom, what is kept, what is lost and counted. */
#include <stdio.h>
#include <uv/errno.h>

#include "turn_probe.h"
#include "udp.h"

enum { MANY = 2000 };

struct post_office {
  struct turn turn;
  struct udp *a, *b; /* NULL: the scenario let it go */
  struct waiter first, second;
};

typedef void udp_scenario(struct post_office *);

static struct udp *udp_at(struct turn *t, const char *host, const struct dgram_opts *opts) {
  const struct dgram_opts none = {.recv_buffer = 0};
  struct addr at = probe_ip(host, 0);
  int code = 1;
  struct udp *u = udp_open(t, &at, opts ? opts : &none, &code);
  CHECK_EQ(code, 0);
  return u;
}

static void let_go(struct udp **u) {
  if (*u) udp_release(*u);
  *u = NULL;
}

/* Two sockets of one host; b has these options. */
static void udp_run(const struct dgram_opts *opts, udp_scenario *scenario) {
  struct post_office o = {.a = NULL};
  turn_open(&o.turn);
  waiter_init(&o.first, &o.turn);
  waiter_init(&o.second, &o.turn);
  o.a = udp_at(&o.turn, "127.0.0.1", NULL);
  o.b = udp_at(&o.turn, "127.0.0.1", opts);
  CHECK_EQ(o.turn.udps, 2);
  scenario(&o);
  let_go(&o.a);
  let_go(&o.b);
  wait_fini(&o.first.wait);
  wait_fini(&o.second.wait);
  CHECK_EQ(o.turn.udps, 0);
  CHECK(!o.turn.first_udp);
  turn_end(&o.turn);
}

static int post(struct udp *from, const struct udp *to, const char *text) {
  return udp_send(from, text, strlen(text), &to->local);
}

static void await_input(struct udp *u, struct waiter *w) {
  waiter_park(w, &u->readers, INFINITY, true);
  udp_want_input(u);
}

static void stop_waiting(struct waiter *w) {
  wait_resume(&w->wait);
  wait_leave(&w->wait);
}

/* As a receiving call does. */
static int take(struct udp *u, struct waiter *w, struct datagram *d) {
  double limit = turn_now(u->turn) + 10;
  int r;
  while ((r = udp_take(u, d)) == ERR_AGAIN && turn_now(u->turn) < limit) {
    await_input(u, w);
    for (int before = w->runs; before == w->runs && turn_now(u->turn) < limit;) turn_once(u->turn);
  }
  stop_waiting(w);
  return r;
}

#define CHECK_GET(u, w, text)                                                                      \
  do {                                                                                             \
    struct datagram d_ = {.base = ""};                                                             \
    CHECK_EQ(take((u), (w), &d_), 0);                                                              \
    CHECK_MEM(d_.base, d_.len, (text), strlen(text));                                              \
    udp_took((u), &d_);                                                                            \
  } while (0)

static bool same_place(const struct addr *x, const struct addr *y) {
  return x->kind == y->kind && x->port == y->port && memcmp(x->ip, y->ip, sizeof x->ip) == 0;
}

/* ---- receiving ------------------------------------------------------------------- */

static void comes_with_its_sender(struct post_office *o) {
  struct datagram d = {.base = ""};
  CHECK_EQ(udp_take(o->b, &d), ERR_AGAIN);
  CHECK_EQ(post(o->a, o->b, "hello"), 0);
  CHECK_EQ(take(o->b, &o->first, &d), 0);
  CHECK_MEM(d.base, d.len, "hello", 5);
  CHECK(same_place(&d.about.from, &o->a->local));
  CHECK(!d.about.truncated);
  udp_took(o->b, &d);
  CHECK_EQ(o->b->datagrams_in, 1);
  CHECK_EQ(o->b->bytes_in, 5);
  CHECK_EQ(o->a->datagrams_out, 1);
  CHECK_EQ(o->a->bytes_out, 5);
  CHECK_EQ(udp_drops(o->b), 0);
}

TEST(a_datagram_comes_with_its_sender) { udp_run(NULL, comes_with_its_sender); }

static void empty_and_in_order(struct post_office *o) {
  CHECK_EQ(post(o->a, o->b, "one"), 0);
  CHECK_EQ(post(o->a, o->b, ""), 0);
  CHECK_EQ(post(o->a, o->b, "three"), 0);
  CHECK_GET(o->b, &o->first, "one");
  CHECK_GET(o->b, &o->first, "");
  CHECK_GET(o->b, &o->first, "three");
}

TEST(empty_datagrams_are_datagrams_and_keep_their_place) { udp_run(NULL, empty_and_in_order); }

static void truncated(struct post_office *o) {
  struct datagram d = {.base = ""};
  o->b->max = 4;
  CHECK_EQ(post(o->a, o->b, "12345"), 0);
  CHECK_EQ(post(o->a, o->b, "1234"), 0);
  CHECK_EQ(take(o->b, &o->first, &d), 0);
  CHECK_MEM(d.base, d.len, "1234", 4);
  CHECK(d.about.truncated);
  udp_took(o->b, &d);
  CHECK_EQ(take(o->b, &o->first, &d), 0);
  CHECK(!d.about.truncated);
  udp_took(o->b, &d);
}

TEST(a_datagram_over_the_limit_says_so) { udp_run(NULL, truncated); }

static void largest(struct post_office *o) {
  enum { LARGEST = 65507 };
  char *data = calloc(1, LARGEST + 1);
  struct datagram d = {.base = ""};
  memset(data, 'x', LARGEST);
  CHECK_EQ(udp_send(o->a, data, LARGEST + 1, &o->b->local), ERR_MSGSIZE);
  CHECK_EQ(udp_send(o->a, data, LARGEST, &o->b->local), 0);
  CHECK_EQ(take(o->b, &o->first, &d), 0);
  CHECK_MEM(d.base, d.len, data, LARGEST);
  CHECK(!d.about.truncated);
  udp_took(o->b, &d);
  CHECK_EQ(o->a->datagrams_out, 1);
  free(data);
}

TEST(the_largest_datagram_passes_and_a_larger_one_is_refused) { udp_run(NULL, largest); }

/* ---- who receives ---------------------------------------------------------------- */

static void stays_with_the_system(struct post_office *o) {
  for (int i = 0; i < 10; i++) CHECK_EQ(post(o->a, o->b, "x"), 0);
  CHECK(turn_is_calm(&o->turn));
  await_input(o->b, &o->first);
  TURN_UNTIL(&o->turn, o->first.runs == 1);
  stop_waiting(&o->first);
  turn_once(&o->turn); /* the report is taken back */
  CHECK(turn_is_calm(&o->turn));
  CHECK_EQ(o->b->datagrams_in, 0);
}

TEST(what_nobody_wants_stays_with_the_system_and_wakes_nobody) {
  udp_run(NULL, stays_with_the_system);
}

static void one_each(struct post_office *o) {
  await_input(o->b, &o->first);
  await_input(o->b, &o->second);
  CHECK_EQ(post(o->a, o->b, "1"), 0);
  CHECK_EQ(post(o->a, o->b, "2"), 0);
  TURN_UNTIL(&o->turn, o->first.runs > 0);
  CHECK_EQ(o->second.runs, 0);
  CHECK_GET(o->b, &o->first, "1"); /* and leaves the line */
  TURN_UNTIL(&o->turn, o->second.runs > 0);
  CHECK_GET(o->b, &o->second, "2");
}

TEST(each_datagram_goes_to_the_first_in_line) { udp_run(NULL, one_each); }

static void deadline(struct post_office *o) {
  await_input(o->b, &o->first);
  udp_set_deadline(o->b, UDP_SEND, turn_now(&o->turn));
  turn_once(&o->turn);
  CHECK_EQ(o->first.runs, 0);
  udp_set_deadline(o->b, UDP_RECV, turn_now(&o->turn) + 0.02);
  TURN_UNTIL(&o->turn, o->first.runs == 1);
  CHECK_EQ(o->first.why, ERR_TIMEDOUT);
  CHECK_EQ(post(o->a, o->b, "late"), 0);
  CHECK_GET(o->b, &o->first, "late"); /* the deadline lost no datagram */
}

TEST(a_deadline_reaches_who_waits_and_loses_nothing) { udp_run(NULL, deadline); }

/* ---- reading ahead --------------------------------------------------------------- */

static void reads_ahead(struct post_office *o) {
  enum { AHEAD = 3 };
  char text[16];
  udp_set_ahead(o->b, AHEAD);
  for (int i = 0; i < 5; i++) {
    snprintf(text, sizeof text, "%d", i);
    CHECK_EQ(post(o->a, o->b, text), 0);
  }
  TURN_UNTIL(&o->turn, o->b->queued == AHEAD);
  CHECK(turn_is_calm(&o->turn));
  CHECK_EQ(o->b->queued, AHEAD);
  CHECK_EQ(udp_drops(o->b), 0);
  CHECK_GET(o->b, &o->first, "0");
  TURN_UNTIL(&o->turn, o->b->queued == AHEAD); /* there was room again */
  for (int i = 1; i < 5; i++) {
    snprintf(text, sizeof text, "%d", i);
    CHECK_GET(o->b, &o->first, text);
  }
  CHECK_EQ(o->b->datagrams_in, 5);
  CHECK_EQ(udp_drops(o->b), 0);
}

TEST(reading_ahead_is_bounded_and_in_order) { udp_run(NULL, reads_ahead); }

static void closed_with_some(struct post_office *o) {
  struct datagram d = {.base = ""};
  udp_set_ahead(o->b, 3);
  for (int i = 0; i < 3; i++) CHECK_EQ(post(o->a, o->b, "x"), 0);
  TURN_UNTIL(&o->turn, o->b->queued == 3);
  CHECK_GET(o->b, &o->first, "x");
  CHECK_EQ(udp_take(o->b, &d), 0); /* and memory runs out before it is handed over */
  udp_close(o->b);
  CHECK_EQ(udp_drops(o->b), 2);
  CHECK_EQ(o->b->queued, 0);
}

TEST(what_was_read_ahead_and_not_received_counts_as_dropped) { udp_run(NULL, closed_with_some); }

static void refused_in_its_place(struct post_office *o) {
  struct addr gone = o->a->local;
  struct datagram d = {.base = ""};
  udp_set_ahead(o->b, 3);
  CHECK_EQ(udp_connect(o->b, &gone), 0);
  CHECK_EQ(post(o->a, o->b, "last words"), 0);
  let_go(&o->a);
  turn_once(&o->turn);
  CHECK_EQ(udp_send(o->b, "x", 1, NULL), 0);
  TURN_UNTIL(&o->turn, o->b->queued == 2);
  CHECK_GET(o->b, &o->first, "last words");
  CHECK_EQ(take(o->b, &o->first, &d), ERR_REFUSED);
  CHECK_EQ(udp_take(o->b, &d), ERR_AGAIN);
  CHECK_EQ(udp_drops(o->b), 0);
}

TEST(a_failure_that_was_read_ahead_is_told_in_its_place) { udp_run(NULL, refused_in_its_place); }

/* ---- what is lost ---------------------------------------------------------------- */

static unsigned take_all(struct udp *u) {
  struct datagram d = {.base = ""};
  unsigned n = 0;
  udp_ask_system(u);
  for (; udp_take(u, &d) == 0; n++) udp_took(u, &d);
  return n;
}

static void overflow(struct post_office *o) {
  for (int i = 0; i < MANY; i++) CHECK_EQ(post(o->a, o->b, "0123456789"), 0);
  unsigned got = take_all(o->b);
  CHECK(got > 0 && got < MANY);
  CHECK_EQ(o->b->datagrams_in, got);
#ifdef __linux__
  CHECK_EQ(udp_drops(o->b), MANY - got);
#endif
  uint64_t drops = udp_drops(o->b);
  udp_close(o->b);
  CHECK_EQ(udp_drops(o->b), drops);
}

TEST(what_had_no_room_with_the_system_is_counted) {
  const struct dgram_opts small = {.recv_buffer = 4096};
  udp_run(&small, overflow);
}

/* ---- connected ------------------------------------------------------------------- */

static void no_strangers(struct post_office *o) {
  struct udp *c = udp_at(&o->turn, "127.0.0.1", NULL);
  struct datagram d = {.base = ""};
  CHECK_EQ(post(c, o->b, "early"), 0);
  CHECK_EQ(udp_connect(o->b, &o->a->local), 0);
  CHECK_EQ(post(c, o->b, "late"), 0);
  CHECK_EQ(post(o->a, o->b, "peer"), 0);
  CHECK_GET(o->b, &o->first, "peer");
  CHECK_EQ(udp_take(o->b, &d), ERR_AGAIN);
  CHECK_EQ(udp_drops(o->b), 1); /* the early one */
  CHECK_EQ(udp_send(o->b, "reply", 5, NULL), 0);
  CHECK_GET(o->a, &o->first, "reply");
  udp_release(c);
}

TEST(a_connected_socket_receives_from_its_peer_alone) { udp_run(NULL, no_strangers); }

static void refused(struct post_office *o) {
  struct addr gone = o->a->local;
  struct datagram d = {.base = ""};
  CHECK_EQ(udp_send(o->b, "x", 1, NULL), ERR_NOTCONN);
  let_go(&o->a);
  CHECK_EQ(udp_connect(o->b, &gone), 0);
  CHECK_EQ(udp_send(o->b, "x", 1, NULL), 0);
  CHECK_EQ(take(o->b, &o->first, &d), ERR_REFUSED);
  CHECK_EQ(udp_take(o->b, &d), ERR_AGAIN);
  CHECK_EQ(udp_send(o->b, "x", 1, NULL), 0);
  CHECK_EQ(udp_send(o->b, "x", 1, NULL), ERR_REFUSED);
  CHECK_EQ(o->b->datagrams_out, 2);
}

TEST(a_refusal_is_told_once_and_the_socket_lives) { udp_run(NULL, refused); }

static void refused_then_heard(struct post_office *o) {
  struct datagram d = {.base = ""};
  struct udp *gone = udp_at(&o->turn, "127.0.0.1", NULL);
  struct addr nobody = gone->local;
  udp_release(gone);
  CHECK_EQ(udp_connect(o->b, &nobody), 0);
  CHECK_EQ(udp_take(o->b, &d), ERR_AGAIN);
  await_input(o->b, &o->first);
  turn_once(&o->turn);
  CHECK_EQ(udp_send(o->b, "x", 1, NULL), 0);
  TURN_UNTIL(&o->turn, o->first.runs > 0);
  CHECK_EQ(udp_take(o->b, &d), ERR_REFUSED);
  stop_waiting(&o->first);
  CHECK_EQ(udp_connect(o->b, &o->a->local), 0);
  CHECK_EQ(udp_take(o->b, &d), ERR_AGAIN);
  int runs = o->first.runs;
  await_input(o->b, &o->first);
  CHECK_EQ(post(o->a, o->b, "here"), 0);
  TURN_UNTIL(&o->turn, o->first.runs > runs);
  stop_waiting(&o->first);
  CHECK_GET(o->b, &o->first, "here");
}

TEST(reports_go_on_after_a_refusal) { udp_run(NULL, refused_then_heard); }

/* ---- neighbours and ends --------------------------------------------------------- */

/* Leaves the rest of "first\nsecond\n" in the page. */
static void borrow_page(struct rig *r) {
  const struct framing line = {.kind = FRAMING_LINE, .max = 100};
  r->feed = "first\nsecond\n";
  r->feed_len = strlen(r->feed);
  CHECK_TAKE(r, &line, "first");
  CHECK(r->turn.borrower == r->conn);
}

static void page_is_given_up(struct rig *r) {
  const struct framing line = {.kind = FRAMING_LINE, .max = 100};
  struct udp *u = udp_at(&r->turn, "127.0.0.1", NULL);
  CHECK_EQ(post(u, u, "datagram"), 0);
  borrow_page(r);
  CHECK_GET(u, &r->reader, "datagram");
  CHECK(!r->turn.borrower);
  CHECK_TAKE(r, &line, "second");
  udp_release(u);
}

TEST(a_connection_gives_up_the_page_and_keeps_its_bytes) { rig_run(probe_pair, page_is_given_up); }

static void closing(struct post_office *o) {
  struct datagram d = {.base = ""};
  udp_hold(o->b);
  udp_hold(o->b);
  CHECK_EQ(o->turn.holds, 1);
  await_input(o->b, &o->first);
  waiter_park(&o->second, &o->b->writers, INFINITY, true);
  udp_want_output(o->b);
  udp_close(o->b);
  udp_close(o->b);
  TURN_UNTIL(&o->turn, o->first.runs == 1 && o->second.runs == 1);
  CHECK_EQ(o->first.why, ERR_CLOSED);
  CHECK_EQ(o->second.why, ERR_CLOSED);
  CHECK_EQ(o->turn.holds, 0);
  CHECK_EQ(udp_take(o->b, &d), ERR_CLOSED);
  CHECK_EQ(post(o->b, o->a, "x"), ERR_CLOSED);
  CHECK_EQ(udp_connect(o->b, &o->a->local), ERR_CLOSED);
  udp_hold(o->b);
  CHECK_EQ(o->turn.holds, 0);
}

TEST(closing_tells_all_who_wait_and_every_later_call) { udp_run(NULL, closing); }

TEST(the_turn_frees_what_its_owner_forgot) {
  struct turn t;
  turn_open(&t);
  struct udp *u = udp_at(&t, "127.0.0.1", NULL);
  udp_hold(u);
  udp_set_ahead(u, 10);
  CHECK_EQ(post(u, u, "x"), 0);
  TURN_UNTIL(&t, u->queued == 1);
  turn_fini(&t, 0);
}

/* ---- families -------------------------------------------------------------------- */

static bool sends_to(struct udp *u, const struct udp *at, const char *host) {
  struct addr to = probe_ip(host, at->local.port);
  bool reaches = u->dgram->ops->reaches(u->dgram, &to);
  int r = udp_send(u, "x", 1, &to);
  CHECK_EQ(r == ERR_NOFAMILY, !reaches);
  return r == 0;
}

TEST(a_socket_of_both_families_speaks_both_and_shows_ipv4_as_such) {
  const struct dgram_opts none = {.recv_buffer = 0};
  struct addr any = probe_ip("::", 0);
  struct turn t;
  struct waiter w;
  struct datagram d = {.base = ""};
  int code;
  turn_open(&t);
  waiter_init(&w, &t);
  struct udp *dual = udp_open(&t, &any, &none, &code);
  struct udp *four = udp_at(&t, "127.0.0.1", NULL);
  struct udp *six = dual ? udp_at(&t, "::1", NULL) : NULL;
  if (dual && six) {
    CHECK(sends_to(dual, four, "127.0.0.1"));
    CHECK(sends_to(dual, six, "::1"));
    CHECK(!sends_to(four, six, "::1"));
    CHECK(!sends_to(six, four, "127.0.0.1"));
    CHECK(sends_to(four, dual, "127.0.0.1"));
    CHECK_EQ(take(dual, &w, &d), 0);
    CHECK(same_place(&d.about.from, &four->local));
    udp_took(dual, &d);
    udp_release(six);
  }
  if (dual) udp_release(dual);
  udp_release(four);
  wait_fini(&w.wait);
  turn_end(&t);
}

TEST(ipv6_only_leaves_ipv4_out) {
  const struct dgram_opts only = {.ipv6_only = true};
  struct addr any = probe_ip("::", 0);
  struct turn t;
  int code;
  turn_open(&t);
  struct udp *six = udp_open(&t, &any, &only, &code), *four = udp_at(&t, "127.0.0.1", NULL);
  if (six) {
    CHECK(!sends_to(six, four, "127.0.0.1"));
    udp_release(six);
  }
  udp_release(four);
  turn_end(&t);
}

TEST(a_port_of_datagrams_is_taken_once_or_shared_by_wish) {
  const struct dgram_opts none = {.recv_buffer = 0}, shared = {.reuse_addr = true};
  struct turn t;
  int code;
  turn_open(&t);
  struct udp *one = udp_at(&t, "127.0.0.1", &none);
  CHECK(udp_open(&t, &one->local, &none, &code) == NULL);
  CHECK_EQ(code, UV__EADDRINUSE);
  udp_release(one);
  one = udp_at(&t, "127.0.0.1", &shared);
  struct udp *two = udp_open(&t, &one->local, &shared, &code);
  CHECK_EQ(code, 0);
  if (two) udp_release(two);
  udp_release(one);
  turn_end(&t);
}

TEST(an_address_of_nobody_here_is_a_failure) {
  const struct dgram_opts none = {.recv_buffer = 0};
  struct addr at = probe_ip("192.0.2.1", 0);
  struct turn t;
  int code = 0;
  turn_open(&t);
  CHECK(udp_open(&t, &at, &none, &code) == NULL);
  CHECK_EQ(code, UV__EADDRNOTAVAIL);
  at.kind = ADDR_PIPE;
  CHECK(udp_open(&t, &at, &none, &code) == NULL);
  CHECK_EQ(code, ERR_INVAL);
  turn_end(&t);
}
