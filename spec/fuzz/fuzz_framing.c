/* Fuzz target: framings, by themselves and through a connection.
 *
 * The same stream at once and in pieces gives the same messages and the same error behind the same
 * bytes; so it does through a connection over a pipe, which meanwhile holds no more memory than is
 * promised; and what is written is found again as it was.
 * What this is not: framings that are written in Lua. */
#include "framing_probe.h"
#include "framing_stream.h"
#include "lib_world.h"
#include "turn_probe.h"

enum { SMALL = 2048, PIECES = 64, FEEDS_MOST = 5000, KIB = 1024 };

/* ---- pieces -------------------------------------------------------------------------- */

/* Bytes of the next piece: one, a few, or many; a long stream in a bounded number of them. */
static size_t piece_len(uint32_t *seed, size_t n) {
  size_t least = n / PIECES, way = fuzz_random(seed) % 4;
  if (way == 0) return least + 1;
  return least + 1 + fuzz_random(seed) % (way == 1 ? 4 : way == 2 ? 100 : n + 1);
}

/* ---- by itself ----------------------------------------------------------------------- */

/* Small ones stand in memory of their own size, so that the sanitizer sees a byte too far. */
static struct answer ask_about(struct stream *st, size_t end, bool ended) {
  struct answer a = {0};
  size_t n = end - st->at;
  if (n <= SMALL) return ask(st->f, &st->scan, st->p + st->at, n, ended);
  a.code = framing_cut(st->f, &st->scan, st->p + st->at, n, ended, &a.cut);
  return a;
}

/* false: the stream is over. */
static bool take_before(struct stream *st, size_t end, bool ended) {
  while (st->got.n < ANSWERS) {
    struct answer a = ask_about(st, end, ended);
    if (a.code == ERR_AGAIN) {
      CHECK(!ended && st->scan.need > end - st->at);
      if (st->n - st->at <= SMALL)
        check_need(st->f, st->scan.need, st->p + st->at, end - st->at, st->n - st->at);
      return true;
    }
    if (a.code == 0) CHECK(a.cut.take <= end - st->at && a.cut.len <= a.cut.take);
    if (a.code == 0) CHECK(a.cut.at <= a.cut.take - a.cut.len);
    st->got.list[st->got.n++] = a;
    if (a.code) return false;
    st->at += a.cut.take;
    st->scan = (struct scan){0};
  }
  return false;
}

static struct answers cut_stream(const struct stream_input *s, bool whole) {
  struct stream st = {.f = &s->f, .p = s->p, .n = s->n};
  uint32_t seed = s->plan.seed;
  bool on = true;
  if (!whole)
    for (size_t end = 0; on && (end += piece_len(&seed, s->n)) < s->n;)
      on = take_before(&st, end, false);
  if (on) take_before(&st, s->n, true);
  return st.got;
}

/* ---- through a connection ------------------------------------------------------------ */

struct pass {
  const struct stream_input *s;
  bool whole;
  struct turn turn;
  struct conn *conn;
  struct probe peer;
  struct waiter reader;
  uint32_t seed;
  size_t fed;
  unsigned feeds;
  struct answers got;
};

/* The promise, twice the limit and 64 KiB; and no memory for what was only announced.  What the
 * program itself puts back is its own affair. */
static void check_memory(const struct pass *p) {
  if (p->s->plan.unreads) return;
  const size_t extra = 64 * KIB;
  size_t limit = stream_wire_limit(&p->s->f), held = p->conn->in.cap;
  CHECK(limit > (SIZE_MAX - extra) / 2 || held <= 2 * limit + extra);
  CHECK(held <= 2 * p->fed + extra);
}

static void end_peer(struct pass *p) {
  if (!p->peer.link) return;
  if (p->s->plan.end == END_SHUT)
    p->peer.link->ops->shut(p->peer.link);
  else
    probe_close(&p->peer, p->s->plan.end == END_RESET);
  if (p->s->plan.end != END_SHUT) p->peer.link = NULL;
}

static void feed(struct pass *p) {
  size_t left = p->s->n - p->fed, n = p->whole ? left : piece_len(&p->seed, p->s->n);
  CHECK(p->feeds++ < FEEDS_MOST);
  if (left == 0) {
    end_peer(p);
    return;
  }
  ptrdiff_t r = probe_write(&p->peer, p->s->p + p->fed, n < left ? n : left);
  CHECK(r > 0 || r == ERR_AGAIN);
  if (r > 0) p->fed += (size_t)r;
}

static void wait_for_input(struct pass *p) {
  waiter_park(&p->reader, &p->conn->readers, INFINITY, true);
  conn_want_input(p->conn);
  feed(p);
  turn_step(&p->turn, false);
  wait_resume(&p->reader.wait);
}

/* Nobody receives, and more comes than is asked for. */
static void rest(struct pass *p) {
  for (uint32_t n = fuzz_random(&p->seed) % 4; n > 0; n--) {
    feed(p);
    turn_step(&p->turn, false);
    check_memory(p);
  }
}

static int take(struct pass *p, bool skip, struct message *m) {
  int r;
  if (p->s->plan.rests && !p->whole) rest(p);
  if (!skip) conn_begin(p->conn, &p->s->f);
  for (;;) {
    r = skip ? conn_skip(p->conn, &p->s->f) : conn_take(p->conn, &p->s->f, m);
    check_memory(p);
    if (skip && r == ERR_MSGSIZE) continue;
    if (r != ERR_AGAIN) break;
    wait_for_input(p);
  }
  wait_leave(&p->reader.wait);
  return r;
}

/* What was taken is put back, and comes again. */
static void unread_and_take(struct pass *p, struct message *m) {
  size_t n = m->cut.take;
  const struct cut cut = m->cut;
  char *bytes = fuzz_copy(m->base, n, 0);
  conn_took(p->conn, &cut);
  CHECK_EQ(conn_unread(p->conn, bytes, n), 0);
  p->conn->consumed -= n;
  CHECK_EQ(conn_find(p->conn, &p->s->f, m), 0);
  if (p->s->f.kind != FRAMING_RAW) CHECK(memcmp(&cut, &m->cut, sizeof cut) == 0);
  free(bytes);
}

static void note(struct pass *p, int code, const struct cut *cut) {
  p->got.list[p->got.n++] = (struct answer){code, *cut};
}

/* false: it is over. */
static bool pass_message(struct pass *p) {
  struct message m = {.base = NULL};
  bool unread = p->s->plan.unreads && (p->got.n + p->s->plan.seed) % 3 == 0;
  bool skips = p->s->plan.skips && !framing_is_counted(&p->s->f) &&
               (p->s->f.kind == FRAMING_LINE || p->s->f.kind == FRAMING_DELIMITER);
  size_t at = (size_t)p->conn->consumed;
  int r = take(p, false, &m);
  if (r == 0 && unread) unread_and_take(p, &m);
  if (r == 0) CHECK_MEM(m.base, m.cut.take, p->s->p + at, m.cut.take);
  note(p, r, &m.cut);
  if (r == 0) conn_took(p->conn, &m.cut);
  if (r == ERR_MSGSIZE && skips) {
    r = take(p, true, &m);
    note(p, r, &(struct cut){.take = (size_t)p->conn->consumed});
  }
  return r == 0 && p->got.n < ANSWERS - 1;
}

static struct answers pass_stream(const struct stream_input *s, bool whole) {
  struct pass p = {.s = s, .whole = whole, .seed = s->plan.seed};
  struct probe own;
  fuzz_turn_open(&p.turn);
  probe_pipe(p.turn.world, &own, &p.peer);
  waiter_init(&p.reader, &p.turn);
  p.conn = conn_open(&p.turn, own.link, NULL);
  CHECK(p.conn);
  while (pass_message(&p)) continue;
  conn_drop(p.conn, CONN_OF_OWNER);
  if (p.peer.link) probe_close(&p.peer, false);
  wait_fini(&p.reader.wait);
  fuzz_turn_close(&p.turn);
  return p.got;
}

/* ---- what is written is found again -------------------------------------------------- */

/* Where the length stands among the data is its value, not the writer's. */
static bool same_but_for_field(const struct framing *f, const struct cut *cut, const char *wire,
                               const char *data) {
  for (size_t i = 0; i < cut->len; i++) {
    size_t at = f->strip + i;
    if (f->kind == FRAMING_LENGTH && at >= f->offset && at < f->offset + (size_t)f->size) continue;
    if (wire[cut->at + i] != data[i]) return false;
  }
  return true;
}

static void check_lead(const struct framing *f, const char *data, size_t n, const char *wire,
                       size_t total) {
  char lead[FRAMING_LEAD_MOST];
  int k = framing_lead(f, n, NULL, lead);
  if (k < 0) return;
  CHECK_EQ((size_t)k + n, total);
  CHECK_MEM(wire, (size_t)k, lead, (size_t)k);
  CHECK_MEM(wire + k, n, data, n);
}

static void check_found(const struct framing *f, const char *data, size_t n, const char *wire,
                        size_t total) {
  bool ends = f->kind == FRAMING_LINE || f->kind == FRAMING_DELIMITER;
  struct cut cut;
  CHECK_EQ(framing_cut(f, &(struct scan){0}, wire, total, f->kind == FRAMING_ALL, &cut), 0);
  CHECK_EQ(cut.take, total);
  if (ends && f->keep) {
    CHECK_EQ(cut.len, total);
    CHECK_MEM(wire, n, data, n);
  } else if (f->kind == FRAMING_LINE && n && data[n - 1] == '\r') {
    CHECK_EQ(cut.len, n - 1); /* it was half of a terminator already */
  } else {
    CHECK_EQ(cut.len, n);
    CHECK(same_but_for_field(f, &cut, wire, data));
  }
  if (f->kind == FRAMING_HEADER) CHECK_EQ(framing_type(f, wire), f->type);
}

static void check_written(const struct framing *f, const char *data, size_t n) {
  size_t total;
  int r = framing_size(f, data, n, 0, &total);
  if (r) CHECK(r == ERR_MSGSIZE || r == ERR_PROTO);
  if (r || total > STREAM_MOST || (n == 0 && f->kind == FRAMING_RAW)) return;
  char *wire = fuzz_copy(NULL, 0, total);
  framing_encode(f, data, n, NULL, wire);
  check_lead(f, data, n, wire, total);
  check_found(f, data, n, wire, total);
  free(wire);
}

/* ---- the target ---------------------------------------------------------------------- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct stream_input s;
  stream_init(&s, data, size);
  struct answers whole = cut_stream(&s, true);
  if (s.f.kind != FRAMING_RAW) {
    struct answers pieces = cut_stream(&s, false);
    CHECK(answers_equal(&whole, &pieces));
  }
  struct answers at_once = pass_stream(&s, true), passed = pass_stream(&s, false);
  if (s.f.kind != FRAMING_RAW) CHECK(answers_equal(&at_once, &passed));
  if (s.f.kind != FRAMING_RAW && s.plan.end != END_RESET && !s.plan.skips && whole.n < ANSWERS - 1)
    CHECK(answers_equal(&whole, &passed));
  check_written(&s.f, s.p, s.n < SMALL ? s.n : SMALL);
  stream_fini(&s);
  return 0;
}
