/* Two ends of a TLS session: see tls_pair.h.
 *
 * Data is a pattern of its position, so that whatever arrives is known to be a prefix of what was
 * sent, and nothing need be kept. */
#include "tls_pair.h"

#include <ctype.h>

enum {
  KIB = 1024,
  MOST = 64 * KIB,                  /* in one call */
  UPDATES_MOST = 32,                /* of keys, that a session takes without data in between */
  CAME_MOST = 128 * KIB,            /* a page and a record, doubled at worst */
  SEALED_MOST = 2 * (64 + 72) * KIB /* unsent before reading stops, and a page more, doubled */
};

static struct link_tls *session_of(const struct tls_end *e) {
  return (struct link_tls *)(void *)e->app.link;
}

static char pattern(uint64_t at) { return (char)(at * 7 + at / 251); }

/* ---- contexts ------------------------------------------------------------------------ */

enum { VERSIONS = 3, PROTOCOLS = 4, VERIFY = 3, CIPHERS = 4, FLAGS = 4 };
enum { KINDS = VERSIONS * PROTOCOLS * VERIFY * CIPHERS * FLAGS };

static const unsigned char both[] = "\2h2\5http/", one[] = "\2h2", another[] = "\3foo";

static void set_protocols(struct tls_opts *o, unsigned which) {
  static const unsigned char *const lists[] = {NULL, both, one, another};
  static const size_t lens[] = {0, sizeof both - 1, sizeof one - 1, sizeof another - 1};
  o->alpn = lists[which];
  o->alpn_len = lens[which];
}

static unsigned next_digit(unsigned *kind, unsigned base) {
  unsigned digit = *kind % base;
  *kind /= base;
  return digit;
}

static struct tls_context *make(struct turn *t, unsigned kind, bool server, bool resumes) {
  static const char *const ciphers[CIPHERS] = {NULL, "ECDHE-ECDSA-AES128-GCM-SHA256",
                                               "ECDHE-ECDSA-CHACHA20-POLY1305", "AES128-SHA"};
  char why[TLS_WHY];
  struct tls_context *c = NULL;
  struct tls_opts o = {.ca = tls_cert, .session = resumes};
  unsigned versions = next_digit(&kind, VERSIONS);
  o.min_version = versions == 1 ? TLS_1_3 : TLS_1_2;
  o.max_version = versions == 2 ? TLS_1_2 : TLS_1_3;
  set_protocols(&o, next_digit(&kind, PROTOCOLS));
  o.verify = (enum tls_verify)next_digit(&kind, VERIFY);
  o.ciphers = ciphers[next_digit(&kind, CIPHERS)];
  if (server || kind & 1) o.cert = tls_cert;
  o.key = o.cert ? tls_key : NULL;
  o.insecure = kind & 2;
  tls_reset_chance();
  CHECK_EQ(tls_context_new(t, &o, &c, why), 0);
  return c;
}

/* To make one takes longer than all that is done with it; so they are kept from one input to the
 * next, but for those that remember something. */
static struct tls_context *context_of(struct tls_pair *p, unsigned kind, bool server, bool fresh,
                                      bool resumes) {
  static struct tls_context *kept[2][KINDS];
  if (fresh || resumes) return make(&p->turn, kind, server, resumes);
  struct tls_context **c = &kept[server][kind];
  if (!*c) *c = make(&p->turn, kind, server, false);
  return tls_context_ref(*c);
}

static struct tls_context *read_context(struct tls_pair *p, struct input *in, bool server,
                                        bool fresh, bool resumes) {
  return context_of(p, input_below(in, KINDS), server, fresh, resumes);
}

struct tls_pair *pair_open(struct input *in) {
  static const char *const hosts[] = {"localhost", NULL, "elsewhere", "127.0.0.1"};
  static struct tls_pair pair; /* with the loop to which the contexts belong */
  struct tls_pair *p = &pair;
  if (!p->turn.world) fuzz_turn_open(&p->turn);
  uint8_t flags = input_byte(in);
  bool has_names = flags & 16;
  p->host = hosts[flags % 4];
  p->client_context = read_context(p, in, false, false, flags & 4);
  p->server_context = read_context(p, in, true, has_names, false);
  p->named = has_names ? read_context(p, in, true, true, false) : NULL;
  tls_reset_chance();
  if (has_names)
    CHECK_EQ(
        tls_context_add_name(p->server_context, flags & 32 ? "localhost" : "*.where", p->named), 0);
  return p;
}

void pair_close(struct tls_pair *p) {
  tls_context_drop(p->client_context);
  tls_context_drop(p->server_context);
  tls_context_drop(p->named);
  fuzz_turn_check(&p->turn);
}

/* ---- connections --------------------------------------------------------------------- */

static void on_report(struct probe *app) {
  struct tls_end *e = (struct tls_end *)(void *)app;
  char page[1000];
  if (!e->eager || !app->link) return;
  ptrdiff_t r = probe_read(app, page, sizeof page);
  for (ptrdiff_t i = 0; i < r; i++) CHECK_EQ(page[i], pattern(e->received++));
}

static void secure(struct tls_pair *p, struct tls_end *e, bool server, size_t early) {
  char first[16 * KIB];
  struct link *l = NULL;
  struct tls_end *other = pair_other(p, e);
  struct link_tls_opts o = {.context = server ? p->server_context : p->client_context,
                            .server = server,
                            .host = server ? NULL : p->host,
                            .early = first};
  ptrdiff_t n = early ? probe_read(&other->wire, first, early) : 0;
  o.early_len = n > 0 ? (size_t)n : 0;
  CHECK_EQ(link_tls_open(&p->turn, e->app.link, &o, &l), 0);
  probe_watch(&e->app, l);
  e->app.hook = on_report;
  e->state = ERR_AGAIN;
  probe_want(&e->app, LINK_IN);
}

void pair_connect(struct tls_pair *p, bool early) {
  p->client = p->server = (struct tls_end){.sent = 0};
  p->clean = true;
  p->up = false;
  p->updates = 0;
  probe_pipe(p->turn.world, &p->client.app, &p->client.wire);
  probe_pipe(p->turn.world, &p->server.wire, &p->server.app);
  secure(p, &p->client, false, 0);
  secure(p, &p->server, true, early ? 100 : 0);
}

static void end_disconnect(struct tls_end *e) {
  if (e->app.link) probe_close(&e->app, false);
  if (e->wire.link) probe_close(&e->wire, false);
  e->app.link = e->wire.link = NULL;
  buf_fini(&e->passing);
}

/* What a probe is told at its end must not find another connection's in its place. */
void pair_disconnect(struct tls_pair *p) {
  end_disconnect(&p->client);
  end_disconnect(&p->server);
  for (int i = 0; i < 10 && turn_things(&p->turn); i++) turn_step(&p->turn, false);
  CHECK_EQ(turn_things(&p->turn), 0);
}

/* ---- the application ------------------------------------------------------------------ */

void pair_write(struct tls_end *e, size_t n, unsigned pieces) {
  static char data[MOST];
  struct iovec v[4];
  if (!e->app.link || n == 0) return;
  if (n > MOST) n = MOST;
  for (size_t i = 0; i < n; i++) data[i] = pattern(e->sent + i);
  size_t each = n / (pieces % 4 + 1), at = 0;
  int count = 0;
  for (; count < 3 && each && at + each < n; at += each)
    v[count++] = (struct iovec){data + at, each};
  v[count++] = (struct iovec){data + at, n - at};
  ptrdiff_t r = e->app.link->ops->write(e->app.link, v, count);
  CHECK(r != 0 && r <= (ptrdiff_t)n);
  if (r > 0) CHECK(!e->shut && e->state == 0);
  if (r > 0) e->sent += (uint64_t)r;
}

/* An end is for ever; only who failed and shut reads on, to throw it away. */
static void note_end(struct tls_pair *p, struct tls_end *e, int r) {
  const struct tls_end *other = pair_other(p, e);
  bool failed = e->app.link->ops->state(e->app.link) != 0;
  if (e->over && !(failed && e->shut)) CHECK_EQ(r, e->ended);
  e->over = true;
  e->ended = r;
  if (r == 0 && !failed) CHECK(other->shut && e->received == other->sent);
  if (r == 0) return;
  const char *text = e->app.link->ops->explain(e->app.link);
  for (const char *c = text; c && *c; c++) CHECK(isprint((unsigned char)*c));
  CHECK(!text || *text);
}

void pair_read(struct tls_pair *p, struct tls_end *e, size_t room) {
  if (!e->app.link) return;
  if (room > MOST) room = MOST;
  char *to = fuzz_copy(NULL, 0, room + 1);
  ptrdiff_t r = probe_read(&e->app, to, room + 1);
  CHECK(r <= (ptrdiff_t)room + 1);
  for (ptrdiff_t i = 0; i < r; i++) CHECK_EQ(to[i], pattern(e->received++));
  free(to);
  if (r > 0) CHECK(!e->over && e->received <= pair_other(p, e)->sent);
  if (r == 0 || (r < 0 && r != ERR_AGAIN)) note_end(p, e, (int)r);
}

/* OpenSSL sends no close_notify in front of an update of keys that pair_update_keys() began. */
static bool may_notify(const struct tls_end *e) {
  return e->app.link->ops->state(e->app.link) == 0 && !SSL_in_init(session_of(e)->ssl);
}

void pair_shut(struct tls_end *e) {
  if (!e->app.link) return;
  if (!e->shut) e->notified = may_notify(e);
  e->app.link->ops->shut(e->app.link);
  e->shut = true;
}

void pair_end(struct tls_pair *p, struct tls_end *e, bool reset) {
  if (!e->app.link) return;
  p->clean = false;
  probe_close(&e->app, reset);
  e->app.link = NULL;
}

static void ask_cert(const struct link *l) {
  char out[300];
  for (int f = CERT_SUBJECT; f <= CERT_SHA256; f++)
    CHECK(link_tls_cert(l, (enum tls_cert_field)f, out, sizeof out) <= (ptrdiff_t)sizeof out);
  CHECK(link_tls_cert(l, CERT_SHA256, out, 3) <= 3);
  CHECK(link_tls_cert_names(l, out, sizeof out) <= (ptrdiff_t)sizeof out);
}

void pair_ask_facts(const struct tls_end *e) {
  size_t n;
  if (!e->app.link) return;
  for (int f = TLS_VERSION; f <= TLS_SERVERNAME; f++) {
    const char *text = link_tls_fact(e->app.link, (enum tls_fact)f, &n);
    CHECK(!text || n < 300);
  }
  link_tls_resumed(e->app.link);
  ask_cert(e->app.link);
}

void pair_update_keys(struct tls_pair *p, struct tls_end *e) {
  if (!e->app.link || e->state != 0 || e->shut) return;
  p->updates++;
  SSL_key_update(session_of(e)->ssl, SSL_KEY_UPDATE_REQUESTED);
  ERR_clear_error();
}

/* ---- the wire ------------------------------------------------------------------------- */

static void deliver_to(struct tls_end *from, struct tls_end *to, size_t n) {
  if (n > buf_len(&from->passing)) n = buf_len(&from->passing);
  if (n == 0 || !to->wire.link) return;
  ptrdiff_t r = probe_write(&to->wire, buf_data(&from->passing), n);
  if (r > 0) buf_consume(&from->passing, (size_t)r);
}

static void collect(struct tls_end *e) {
  static char page[MOST];
  ptrdiff_t n;
  while (e->wire.link && buf_len(&e->passing) < 4 * MOST &&
         (n = probe_read(&e->wire, page, sizeof page)) > 0)
    CHECK_EQ(buf_append(&e->passing, page, (size_t)n), 0);
}

void pair_carry(struct tls_pair *p, struct tls_end *from, size_t n) {
  collect(from);
  deliver_to(from, pair_other(p, from), n);
}

void pair_inject(struct tls_pair *p, struct tls_end *to, const char *data, size_t n) {
  p->clean = false;
  if (n && to->wire.link) probe_write(&to->wire, data, n);
}

void pair_flip(struct tls_pair *p, struct tls_end *from, size_t at, uint8_t with) {
  collect(from);
  if (at >= buf_len(&from->passing) || !with) return;
  p->clean = false;
  from->passing.mem[from->passing.head + at] ^= (char)with;
}

void pair_drop(struct tls_pair *p, struct tls_end *from, size_t n) {
  collect(from);
  if (!buf_len(&from->passing) || n == 0) return;
  p->clean = false;
  buf_consume(&from->passing, n);
}

void pair_cut(struct tls_pair *p, struct tls_end *to, bool reset) {
  if (!to->wire.link) return;
  p->clean = false;
  if (reset) {
    probe_close(&to->wire, true);
    to->wire.link = NULL;
  } else {
    to->wire.link->ops->shut(to->wire.link);
  }
}

/* ---- what must hold ------------------------------------------------------------------- */

static void end_check(struct tls_end *e) {
  if (!e->app.link) return;
  const struct link_tls *t = session_of(e);
  int state = e->app.link->ops->state(e->app.link);
  CHECK(state <= 0);
  if (e->state != ERR_AGAIN && e->state != 0) CHECK_EQ(state, e->state); /* failed for ever */
  if (e->state == 0) CHECK(state != ERR_AGAIN);
  e->state = state;
  CHECK(t->came.cap <= CAME_MOST && t->sealed.cap <= SEALED_MOST);
  CHECK(t->fed_len == 0 && t->root->out_len == 0);
}

/* Nothing but the other's close_notify ends a session on a clean wire. */
static bool goes_on(struct tls_pair *p, const struct tls_end *e) {
  return e->state == 0 && (!e->over || (e->ended == 0 && pair_other(p, e)->notified));
}

static bool must_go_on(const struct tls_pair *p) {
  return p->clean && p->up && p->updates <= UPDATES_MOST;
}

void pair_check(struct tls_pair *p) {
  end_check(&p->client);
  end_check(&p->server);
  if (p->client.state == 0 && p->server.state == 0) p->up = true;
  if (must_go_on(p)) CHECK(goes_on(p, &p->client) && goes_on(p, &p->server));
  CHECK(p->client.received <= p->server.sent && p->server.received <= p->client.sent);
}

/* As long as data arrive; what is no data (a handshake, keys) comes in few steps. */
void pair_settle(struct tls_pair *p) {
  uint64_t arrived = 0;
  if (!p->clean) return;
  for (int still = 0; still < 40; still++) {
    if (arrived != p->client.received + p->server.received) still = 0;
    arrived = p->client.received + p->server.received;
    pair_carry(p, &p->client, MOST);
    pair_carry(p, &p->server, MOST);
    turn_step(&p->turn, false);
    pair_check(p);
    pair_read(p, &p->client, MOST);
    pair_read(p, &p->server, MOST);
  }
  if (must_go_on(p)) {
    CHECK(p->client.received == p->server.sent && p->server.received == p->client.sent);
    CHECK(p->client.over == p->server.notified && p->server.over == p->client.notified);
  } else if (!p->client.shut &&
             !p->server.shut) { /* shut in the middle of the handshake, perhaps */
    CHECK(p->client.state != ERR_AGAIN || p->server.state != ERR_AGAIN);
  }
}
