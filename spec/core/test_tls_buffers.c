/* Which sessions keep the buffers of their records: those that are busy, a bounded number, for as
 * long as they are.
 * What this is not: what goes through them (test_link_tls.c, and all specs of TLS). */
#include <malloc.h>

#include "tls_session.h"
#include "tls_wire.h"

enum { BUSY = 64, KEPT_MOST = 256, KIB = 1024 };

static struct link_tls *session(const struct probe *p) {
  return (struct link_tls *)(void *)p->link;
}

static bool releases(const struct link_tls *t) {
  return SSL_get_mode(t->ssl) & SSL_MODE_RELEASE_BUFFERS;
}

/* One message from the client to the server. */
static void exchange(struct wire *w) {
  w->got_len = 0;
  CHECK_EQ(probe_send(&w->client, "hello"), 5);
  TURN_UNTIL(&w->turn, (wire_pump(w), w->got_len >= 5));
  CHECK_MEM(w->got, w->got_len, "hello", 5);
}

static void be_busy(struct wire *w, struct probe *p) {
  w->turn.now = 1000; /* all of it within one second */
  for (int i = 0; i < BUSY; i++) tls_buffers_used(session(p));
  CHECK(session(p)->keeps && !releases(session(p)));
}

/* The time until the next look is over. */
static void period_over(struct wire *w) {
  struct timer *d = &w->turn.tls->period;
  timers_disarm(&w->turn.timers, d);
  d->fire(d);
}

static void with_wire(void (*scenario)(struct wire *)) {
  struct wire w;
  wire_open(&w);
  scenario(&w);
  wire_close(&w);
}

static void begins(struct wire *w) {
  const struct link_tls *t = session(&w->client);
  w->turn.now = 1000;
  CHECK(releases(t));
  for (int i = 0; i < BUSY - 1; i++) tls_buffers_used(session(&w->client));
  CHECK(!t->keeps && releases(t));
  tls_buffers_used(session(&w->client));
  CHECK(t->keeps && !releases(t));
  CHECK(timer_armed(&w->turn.tls->period));
}

TEST(a_session_keeps_its_buffers_when_it_is_busy) { with_wire(begins); }

static void slowly(struct wire *w) {
  for (int i = 0; i < 10 * BUSY; i++) {
    w->turn.now += 0.1;
    tls_buffers_used(session(&w->client));
  }
  CHECK(!session(&w->client)->keeps);
  CHECK(!timer_armed(&w->turn.tls->period));
}

TEST(a_session_with_a_call_now_and_then_is_not_busy) { with_wire(slowly); }

static void ends(struct wire *w) {
  be_busy(w, &w->client);
  be_busy(w, &w->server);
  period_over(w);
  CHECK(session(&w->client)->keeps && session(&w->server)->keeps);
  be_busy(w, &w->server);
  period_over(w);
  CHECK(!session(&w->client)->keeps && releases(session(&w->client)));
  CHECK(session(&w->server)->keeps);
  CHECK_EQ(w->turn.tls->kept, 1);
  period_over(w);
  CHECK_EQ(w->turn.tls->kept, 0);
  CHECK(!timer_armed(&w->turn.tls->period));
  exchange(w);
}

TEST(a_session_that_is_idle_keeps_nothing) { with_wire(ends); }

/* Of the whole process; -1: the allocator does not tell, or is not the system's. */
static long in_use(void) {
#if defined __GLIBC__ && !defined __SANITIZE_ADDRESS__
  return under_valgrind() ? -1 : (long)mallinfo2().uordblks;
#else
  return -1;
#endif
}

static void memory(struct wire *w) {
  exchange(w);
  long before = in_use();
  be_busy(w, &w->client);
  exchange(w);
  long kept = in_use();
  period_over(w);
  period_over(w);
  long after = in_use();
  if (before < 0) return;
  CHECK(kept - before >= 16 * KIB && kept - before <= 20 * KIB);
  CHECK(after - before <= KIB);
}

TEST(buffers_that_are_no_longer_kept_are_freed) { with_wire(memory); }

/* The server is told to release its buffers when so many bytes of a record have come. */
static void release_within(struct wire *w, size_t n) {
  char record[1024];
  w->got_len = 0;
  be_busy(w, &w->server);
  exchange(w);
  CHECK_EQ(probe_send(&w->client, "in two parts"), 12);
  ptrdiff_t len = probe_read(&w->near, record, sizeof record);
  REQUIRE(len > (ptrdiff_t)n);
  w->got_len = 0;
  CHECK_EQ(probe_write(&w->far, record, n), n);
  wire_receive(w); /* reads it, though it was told of nothing */
  period_over(w);
  period_over(w);
  CHECK(!session(&w->server)->keeps);
  CHECK_EQ(probe_write(&w->far, record + n, (size_t)len - n), (size_t)len - n);
  TURN_UNTIL(&w->turn, (wire_receive(w), w->got_len == 12));
  CHECK_MEM(w->got, w->got_len, "in two parts", 12);
  exchange(w);
}

static void midway(struct wire *w) {
  release_within(w, 1);
  release_within(w, 5);
  release_within(w, 6);
  release_within(w, 20);
}

TEST(a_record_of_which_a_part_has_come_is_not_lost) { with_wire(midway); }

static void partly_read(struct wire *w) {
  char c[6];
  be_busy(w, &w->server);
  CHECK_EQ(probe_send(&w->client, "in two parts"), 12);
  wire_pass(&w->near, &w->far, w);
  ptrdiff_t r = ERR_AGAIN;
  TURN_UNTIL(&w->turn, (r = probe_read(&w->server, c, 6)) != ERR_AGAIN);
  CHECK_EQ(r, 6);
  CHECK_MEM(c, 6, "in two", 6);
  period_over(w);
  period_over(w);
  CHECK_EQ(probe_read(&w->server, c, 6), 6);
  CHECK_MEM(c, 6, " parts", 6);
  exchange(w);
}

TEST(a_record_that_was_read_in_part_is_not_lost) { with_wire(partly_read); }

/* Sessions that move nothing. */
static void crowd(struct wire *w) {
  enum { CROWD = KEPT_MOST + 10 };
  struct link_tls *t = calloc(CROWD, sizeof *t);
  unsigned kept = 0;
  for (int i = 0; i < CROWD; i++) {
    t[i] = (struct link_tls){.turn = &w->turn, .root = w->turn.tls};
    t[i].ssl = tls_session_new(w->context, true, NULL);
    for (int k = 0; k < 2 * BUSY; k++) tls_buffers_used(&t[i]);
    kept += t[i].keeps;
    CHECK_EQ(t[i].keeps, !releases(&t[i]));
  }
  CHECK_EQ(kept, KEPT_MOST);
  tls_buffers_release(&t[5]);
  tls_buffers_used(&t[CROWD - 1]);
  CHECK(t[CROWD - 1].keeps);
  for (int i = 0; i < CROWD; i++) {
    tls_buffers_release(&t[i]);
    SSL_free(t[i].ssl);
  }
  CHECK(w->turn.tls->kept == 0 && !w->turn.tls->first_kept);
  free(t);
}

TEST(no_more_than_256_sessions_of_a_loop_keep_their_buffers) { with_wire(crowd); }
