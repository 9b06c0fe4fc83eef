/* That nothing is ever waited for in vain, and nothing reported for nothing: one stream.
 *
 * What this is not: what links do with bytes (test_link.c), many in one poll and sleeping
 * (test_poller_many.c). */
#include "poller_probe.h"

/* Here and in the next ones: the read that brings the text is a short one. */
static void end_behind(struct side *s) {
  probe_want(&s->p, LINK_IN);
  peer_says(s, "last", 0);
  peer_gone(s);
  CHECK_COMES(s, "last");
  CHECK_EQ(reported_end(s), 0);
  probe_want(&s->p, 0);
  CHECK(is_calm(s->w));
}

TEST(an_end_behind_a_short_read_is_reported) { run_over_both(end_behind); }

/* It comes when what is before it has been reported, but not read. */
static void end_between(struct side *s) {
  char got[8];
  probe_want(&s->p, LINK_IN);
  peer_says(s, "last", 0);
  AWAIT(s->w, s->p.seen & LINK_IN);
  CHECK_EQ(shutdown(s->fd, SHUT_WR), 0);
  CHECK_EQ(probe_read(&s->p, got, sizeof got), 4);
  CHECK_EQ(reported_end(s), 0);
  probe_want(&s->p, 0);
  CHECK(is_calm(s->w));
}

TEST(an_end_between_report_and_read_is_reported) { run_over_both(end_between); }

static void reset_behind(struct side *s) {
  probe_want(&s->p, LINK_IN);
  peer_says(s, "last", 0);
  AWAIT(s->w, s->p.seen & LINK_IN);
  CHECK_READ(&s->p, "last");
  CHECK(is_calm(s->w));
  peer_reset(s);
  CHECK_EQ(reported_end(s), ERR_RESET);
}

TEST(a_reset_is_reported) { run_over(tcp_ends, reset_behind); }

/* The read stops at the mark, though there is more. */
static void urgent(struct side *s) {
  probe_want(&s->p, LINK_IN);
  peer_says(s, "before", 0);
  peer_says(s, "!", MSG_OOB);
  peer_says(s, "after", 0);
  CHECK_COMES(s, "beforeafter");
  CHECK_EQ(shutdown(s->fd, SHUT_WR), 0);
  CHECK_EQ(reported_end(s), 0);
}

static void urgent_between(struct side *s) {
  char got[16];
  probe_want(&s->p, LINK_IN);
  peer_says(s, "before", 0);
  AWAIT(s->w, s->p.seen & LINK_IN);
  peer_says(s, "!", MSG_OOB);
  peer_says(s, "after", 0);
  CHECK_EQ(probe_read(&s->p, got, sizeof got), 6);
  CHECK_COMES(s, "after");
  peer_says(s, "!", MSG_OOB);
  peer_says(s, "and on", 0);
  CHECK_COMES(s, "and on");
}

TEST(what_follows_urgent_data_is_reported) {
  run_over(tcp_ends, urgent);
  run_over(tcp_ends, urgent_between);
}

/* Nobody takes the urgent byte itself. */
static void only_urgent(struct side *s) {
  char c;
  probe_want(&s->p, LINK_IN);
  peer_says(s, "!", MSG_OOB);
  is_calm(s->w);
  CHECK_EQ(probe_read(&s->p, &c, 1), ERR_AGAIN);
  CHECK(is_calm(s->w));
  peer_says(s, "on", 0);
  CHECK_COMES(s, "on");
}

TEST(urgent_data_alone_keeps_nobody_busy) { run_over(tcp_ends, only_urgent); }

static void send_beside(int to, const char *text, int fd) {
  union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof fd)];
  } control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
  struct iovec v = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
  struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control};
  control.head.cmsg_len = CMSG_LEN(sizeof fd);
  m.msg_controllen = sizeof control.room;
  memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
  CHECK_EQ(sendmsg(to, &m, 0), strlen(text));
}

/* The read stops behind what descriptors came with. */
static void with_descriptors(struct side *s) {
  int lowest = dup(0);
  close(lowest);
  probe_want(&s->p, LINK_IN);
  for (int i = 0; i < 3; i++) {
    peer_says(s, "a", 0);
    send_beside(s->fd, "b", 0);
    send_beside(s->fd, "c", 1);
    peer_says(s, "d", 0);
    CHECK_COMES(s, "abcd");
  }
  int now = dup(0);
  CHECK_EQ(now, lowest); /* they were not left open */
  close(now);
  probe_want(&s->p, LINK_IN);
  CHECK(is_calm(s->w) || reported_read(s, &(char){0}, 1) == ERR_AGAIN);
}

TEST(what_follows_sent_descriptors_is_reported) { run_over(unix_ends, with_descriptors); }

/* ---- interest -------------------------------------------------------------------- */

static void nothing_wanted(struct side *s) {
  peer_says(s, "early", 0);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.reports, 0);
  probe_want(&s->p, LINK_IN);
  CHECK_COMES(s, "early");
  probe_want(&s->p, 0);
  peer_says(s, "late", 0);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.reports, 0);
  peer_gone(s);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.reports, 0);
  probe_want(&s->p, LINK_IN);
  CHECK_COMES(s, "late");
  CHECK_EQ(reported_end(s), 0);
}

TEST(what_came_while_nobody_wanted_it_is_reported_later) { run_over_both(nothing_wanted); }

static void unread(struct side *s) {
  peer_says(s, "0123456789", 0);
  probe_want(&s->p, LINK_IN);
  for (int i = 0; i < 10; i++) {
    char c = 0;
    AWAIT(s->w, s->p.seen & LINK_IN);
    probe_want(&s->p, 0);
    CHECK(i % 5 || is_calm(s->w));
    probe_want(&s->p, LINK_IN);
    CHECK_EQ(reported_read(s, &c, 1), 1);
    CHECK_EQ(c, '0' + i);
  }
  CHECK_EQ(probe_read(&s->p, &(char){0}, 1), ERR_AGAIN);
  CHECK(is_calm(s->w));
}

TEST(what_was_not_read_is_reported_again) { run_over_both(unread); }

static void broken_unwanted(struct side *s) {
  probe_want(&s->p, LINK_IN);
  CHECK(is_calm(s->w));
  probe_want(&s->p, 0);
  peer_reset(s);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.reports, 0);
  probe_want(&s->p, LINK_IN);
  CHECK_EQ(reported_end(s), ERR_RESET);
}

TEST(a_reset_for_which_nobody_waits_keeps_nobody_busy) { run_over(tcp_ends, broken_unwanted); }

/* The peer's end has been read; ours follows; nothing is wanted any more. */
static void both_ends(struct side *s) {
  probe_want(&s->p, LINK_IN);
  CHECK_EQ(shutdown(s->fd, SHUT_WR), 0);
  CHECK_EQ(reported_end(s), 0);
  probe_want(&s->p, 0);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.link->ops->shut(s->p.link), 0);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.reports, 0);
}

TEST(a_connection_ended_both_ways_keeps_nobody_busy) { run_over_both(both_ends); }

/* The system still moves bytes on to the peer's side, which makes room, after the first time. */
static void fill_up(struct side *s) {
  bool full = false;
  for (int i = 0; i < 50 && !full; i++) {
    probe_fill(&s->p, 4 << 20);
    probe_want(&s->p, LINK_OUT);
    full = is_calm(s->w) && s->p.reports == 0;
  }
  CHECK(full);
  CHECK_EQ(s->p.reports, 0);
}

/* Reading stopped because the peer does not read either. */
static void back_pressure(struct side *s) {
  fill_up(s);
  peer_says(s, "waits", 0);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.reports, 0);
  CHECK_EQ(shutdown(s->fd, SHUT_WR), 0);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.reports, 0);
  probe_want(&s->p, LINK_IN | LINK_OUT);
  CHECK_COMES(s, "waits");
  CHECK_EQ(reported_end(s), 0);
}

TEST(data_and_an_end_behind_back_pressure_keep_nobody_busy) { run_over_both(back_pressure); }

static void drain_peer(struct side *s) {
  static char sink[1 << 16];
  while (recv(s->fd, sink, sizeof sink, MSG_DONTWAIT) > 0) continue;
}

/* Each time the write that fills it is a short one, or the one behind that has no room. */
static void room(struct side *s) {
  for (int i = 0; i < 5; i++) {
    probe_want(&s->p, i % 2 ? LINK_OUT : 0);
    probe_fill(&s->p, i % 3 ? 4 << 20 : 1000);
    if (i > 2) fill_up(s);
    probe_want(&s->p, LINK_OUT);
    AWAIT(s->w, (drain_peer(s), s->p.seen & LINK_OUT));
    CHECK(probe_write(&s->p, "x", 1) == 1);
  }
}

TEST(room_for_output_is_reported_whenever_it_comes) { run_over_both(room); }

static void break_blocked(struct side *s) {
  fill_up(s);
  peer_gone(s);
  AWAIT(s->w, s->p.seen & LINK_OUT);
  CHECK(probe_write(&s->p, "x", 1) < 0);
  probe_want(&s->p, 0);
  CHECK(is_calm(s->w));
}

TEST(who_waits_for_room_hears_of_the_end) { run_over_both(break_blocked); }

/* More pieces than the system takes at once: the rest needs no new room. */
static void many_pieces(struct side *s) {
  enum { PIECES = 3000 };
  static struct iovec v[PIECES];
  int done = 0;
  for (int i = 0; i < PIECES; i++) v[i] = (struct iovec){.iov_base = (void *)"p", .iov_len = 1};
  probe_want(&s->p, LINK_OUT);
  for (int i = 0; i < 10 && done < PIECES; i++) {
    ptrdiff_t n;
    s->p.seen = 0;
    AWAIT(s->w, s->p.seen & LINK_OUT);
    n = s->p.link->ops->write(s->p.link, v + done, PIECES - done);
    CHECK(n > 0);
    done += n > 0 ? (int)n : PIECES;
  }
  CHECK_EQ(done, PIECES);
}

TEST(a_write_of_many_pieces_is_no_short_one) { run_over(tcp_ends, many_pieces); }

/* ---- adopted --------------------------------------------------------------------- */

static void adopt_late(void (*ends)(int[2]), void (*before)(struct side *), const char *text,
                       ptrdiff_t end) {
  struct world *w = probe_world();
  struct side s;
  int fd[2];
  ends(fd);
  s.fd = fd[1];
  before(&s);
  fd[1] = s.fd;
  side_open(&s, w, fd);
  probe_want(&s.p, LINK_IN);
  CHECK_COMES(&s, text);
  if (end != ERR_AGAIN) CHECK_EQ(reported_end(&s), end);
  side_close(&s);
  probe_world_end(w);
}

static void say_early(struct side *s) { peer_says(s, "early", 0); }

static void say_and_end(struct side *s) {
  say_early(s);
  CHECK_EQ(shutdown(s->fd, SHUT_WR), 0);
}

static void say_urgently(struct side *s) {
  say_early(s);
  peer_says(s, "!", MSG_OOB);
  peer_says(s, " and late", 0);
}

TEST(what_an_adopted_socket_has_already_is_reported) {
  adopt_late(tcp_ends, say_early, "early", ERR_AGAIN);
  adopt_late(unix_ends, say_early, "early", ERR_AGAIN);
  adopt_late(tcp_ends, say_and_end, "early", 0);
  adopt_late(unix_ends, say_and_end, "early", 0);
  adopt_late(tcp_ends, say_urgently, "early and late", ERR_AGAIN);
}

/* The other descriptor keeps the socket alive behind our back. */
static void shared(struct side *s) {
  int own = -1, other;
  CHECK_EQ(s->p.link->ops->option(s->p.link, LINK_FD, false, &own), 0);
  CHECK((other = dup(own)) >= 0);
  probe_want(&s->p, LINK_IN);
  peer_says(s, "one", 0);
  CHECK_COMES(s, "one");
  peer_says(s, "two", 0);
  probe_close(&s->p, false);
  AWAIT(s->w, s->p.ended == 1);
  peer_says(s, "three", 0);
  CHECK(is_calm(s->w));
  CHECK_EQ(s->p.ended, 1);
  close(other);
}

TEST(a_closed_link_hears_nothing_of_its_duplicated_socket) { run_over_both(shared); }

/* ---- all of it at random --------------------------------------------------------- */

enum { TOTAL = 300000, MOST = 9000 };

/* Both directions of a stream; a '!' among its bytes is an urgent one, of which some are lost. */
struct flow {
  struct side *s;
  uint32_t state;
  size_t said, heard, written, taken; /* by the peer, from it, by us, from us */
  bool blocked, urgent;
};

static size_t any(struct flow *f, size_t most) { return 1 + test_random(&f->state) % most; }
static char letter(size_t i) { return (char)('a' + i % 23); }

static size_t letters(char *to, size_t at, size_t n) {
  if (n > TOTAL - at) n = TOTAL - at;
  for (size_t i = 0; i < n; i++) to[i] = letter(at + i);
  return n;
}

static bool are_letters(const char *p, ptrdiff_t n, size_t *at) {
  for (; n > 0; n--, p++)
    if (*p != '!' && *p != letter((*at)++)) return false;
  return true;
}

static void peer_step(struct flow *f) {
  char data[MOST];
  size_t n = letters(data, f->said, any(f, MOST));
  ssize_t r = n ? send(f->s->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
  f->said += r > 0 ? (size_t)r : 0;
  if (any(f, 8) == 1 && f->urgent) send(f->s->fd, "!", 1, MSG_DONTWAIT | MSG_OOB);
  if (any(f, 8) == 1 && !f->urgent && f->said < TOTAL && r == (ssize_t)n)
    send_beside(f->s->fd, (char[]){letter(f->said++), 0}, 0);
  if (any(f, 3) > 1) return;
  r = recv(f->s->fd, data, any(f, MOST), MSG_DONTWAIT);
  CHECK(are_letters(data, r, &f->taken));
}

/* One read, or one write after the last was a short one, for each report. */
static void own_step(struct flow *f) {
  struct probe *p = &f->s->p;
  char data[MOST];
  size_t n = letters(data, f->written, any(f, MOST));
  ptrdiff_t r = f->blocked || !n ? 0 : probe_write(p, data, n);
  f->blocked = f->blocked || r < (ptrdiff_t)n;
  f->written += r > 0 ? (size_t)r : 0;
  if (!n) f->blocked = false;
  p->seen = 0;
  p->link->ops->want(p->link, (any(f, 4) > 1 ? LINK_IN : 0u) | (f->blocked ? LINK_OUT : 0u));
  f->s->w->ops->poll(f->s->w, 0);
  if (p->seen & LINK_OUT) f->blocked = false;
  r = p->seen & LINK_IN ? probe_read(p, data, any(f, MOST)) : 0;
  CHECK(are_letters(data, r, &f->heard));
}

static void flow_run(struct side *s, bool urgent) {
  struct flow f = {.s = s, .state = 11, .urgent = urgent};
  double limit = s->w->ops->now(s->w) + 20;
  int small = 4096;
  CHECK_EQ(s->p.link->ops->option(s->p.link, LINK_SEND_BUFFER, true, &small), 0);
  while ((f.heard < TOTAL || f.taken < TOTAL) && s->w->ops->now(s->w) < limit) {
    peer_step(&f);
    own_step(&f);
  }
  CHECK_EQ(f.heard, TOTAL);
  CHECK_EQ(f.taken, TOTAL);
}

static void flow_with_urgent(struct side *s) { flow_run(s, true); }
static void flow_with_descriptors(struct side *s) { flow_run(s, false); }

TEST(nothing_is_lost_however_calls_and_reports_fall) {
  run_over(tcp_ends, flow_with_urgent);
  run_over(unix_ends, flow_with_descriptors);
}
