/* A TLS session as a link: see link_tls.h.
 *
 * Input: what one read of the link below brings stands in the loop's page, and the session takes
 * it from there; only what it has no room for is kept (`came`).  Output: records are sealed into
 * the loop's second page and written at once; only what the link below refuses is kept
 * (`sealed`).  So an idle session holds nothing but its SSL object. */
#include "link_tls.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "err.h"
#include "tls_session.h"
#include "turn.h"

enum {
  SEAL_AT_ONCE = 64 * 1024, /* bytes of data in one write of the link below */
  CALL_MOST = 256 * 1024,   /* read or written by one call, about: the others wait meanwhile */
  OVERHEAD = 512,           /* what a record may add to its data, generously */
  /* Unsent: no more is read meanwhile, since reading may cause output.  A page of data alone stays
   * below it: two ends that both send must not both stop reading. */
  SEALED_MOST = TLS_PAGE + 24 * 1024
};

static const struct link_ops link_tls_ops;

static struct link_tls *tls_of(const struct link *l) {
  return (struct link_tls *)(void *)(uintptr_t)l;
}

bool link_is_tls(const struct link *l) { return l->ops == &link_tls_ops; }

/* ---- to and from the link below -------------------------------------------------------- */

static void want_below(struct link_tls *t) {
  size_t held = buf_len(&t->sealed);
  bool may_seal = t->phase != HANDSHAKE && !t->stuck;
  unsigned in = t->phase == HANDSHAKE || t->stuck || (t->wanted & LINK_IN) ? LINK_IN : 0;
  unsigned out = held || (may_seal && (t->wanted & LINK_OUT)) ? LINK_OUT : 0;
  if (held >= SEALED_MOST) in = 0;
  t->below->ops->want(t->below, in | out);
}

/* -> bytes taken */
static size_t write_below(struct link_tls *t, const char *data, size_t n) {
  struct iovec v = {.iov_base = (char *)(uintptr_t)data, .iov_len = n};
  ptrdiff_t r = t->below->ops->write(t->below, &v, 1);
  if (r >= 0) return (size_t)r;
  if (r == ERR_AGAIN) return 0;
  t->out_end = t->lost = (int)r;
  return n;
}

static int flush_page(struct link_tls *t) {
  struct tls_root *root = t->root;
  size_t n = root->out_len, done = n ? write_below(t, root->out, n) : 0;
  root->out_len = 0;
  return done < n ? buf_append(&t->sealed, root->out + done, n - done) : 0;
}

static void shut_below(struct link_tls *t) {
  if (!t->shut || t->below_shut || buf_len(&t->sealed)) return;
  t->below_shut = true;
  t->below->ops->shut(t->below);
}

/* Could be read although the link below has nothing. */
static bool is_pending(const struct link_tls *t) {
  if (t->phase == HANDSHAKE || (t->phase == FAILED && t->shut)) return false;
  return buf_len(&t->came) || t->end || t->partly;
}

static void post_pending(struct link_tls *t) {
  if ((t->wanted & LINK_IN) && is_pending(t)) world_post(t->turn->world, &t->post);
}

/* Every call that may have made output ends here. */
static void flush(struct link_tls *t) {
  if (buf_len(&t->sealed)) {
    if (tls_keep_page(t) != 0) tls_fail(t, ERR_NOMEM, NULL);
    buf_consume(&t->sealed, write_below(t, buf_data(&t->sealed), buf_len(&t->sealed)));
  } else if (flush_page(t) != 0) {
    tls_fail(t, ERR_NOMEM, NULL);
  }
  shut_below(t);
  want_below(t);
}

/* Without close_notify an end is no end: somebody may have cut the stream (RFC 8446, 6.1). */
static int cut_off(struct link_tls *t, int code) {
  if (code == 0)
    t->detail = t->phase == HANDSHAKE ? "the peer closed during the handshake"
                                      : "the stream was cut off without close_notify";
  return t->end = code ? code : ERR_TLS;
}

/* Lets the session have what came: what was kept, or one read of at most `room` bytes.
 * 0; ERR_AGAIN: nothing came; another code: the end. *dry: the link below has no more. */
static int feed(struct link_tls *t, size_t room, bool *dry) {
  struct tls_root *root = t->root;
  if (buf_len(&t->came)) {
    t->fed = buf_data(&t->came);
    t->fed_len = buf_len(&t->came);
    return 0;
  }
  *dry = true;
  if (buf_len(&t->sealed) >= SEALED_MOST) return ERR_AGAIN;
  if (room > PAGE_SIZE_BYTES) room = PAGE_SIZE_BYTES;
  ptrdiff_t r = t->below->ops->read(t->below, root->in, room);
  if (r == ERR_AGAIN) return ERR_AGAIN;
  if (r <= 0) return cut_off(t, (int)r);
  *dry = (size_t)r < room;
  t->fed = root->in;
  t->fed_len = (size_t)r;
  return 0;
}

/* What the session did not take is kept: the page is everybody's. */
static int unfeed(struct link_tls *t) {
  int r = 0;
  if (buf_len(&t->came))
    buf_consume(&t->came, buf_len(&t->came) - t->fed_len);
  else if (t->fed_len)
    r = buf_append(&t->came, t->fed, t->fed_len);
  t->fed_len = 0;
  return r ? tls_fail(t, ERR_NOMEM, NULL) : 0;
}

/* ---- the handshake -------------------------------------------------------------------- */

/* A step: what the peer sent, and our answer to it. -> did it send anything? */
static bool handshake(struct link_tls *t) {
  bool dry = false, fed = false;
  int r = 0;
  while (t->phase == HANDSHAKE && r == 0) {
    r = feed(t, PAGE_SIZE_BYTES, &dry);
    if (r) break;
    fed = true;
    if (tls_begin(t) == 0 && (r = tls_advance(t)) == ERR_AGAIN && !dry) r = 0;
    unfeed(t);
  }
  if (r && r != ERR_AGAIN && t->phase == HANDSHAKE) tls_fail(t, r, t->detail);
  flush(t);
  return fed;
}

/* Handshakes cost much; the connections that are up go first. */
static bool may_step(struct link_tls *t) {
  struct tls_root *root = t->root;
  if (root->count != t->turn->count) root->steps = 0;
  root->count = t->turn->count;
  return root->steps++ < TLS_HANDSHAKE_STEPS;
}

/* ---- readiness ------------------------------------------------------------------------ */

static void report(struct link_tls *t, unsigned events) {
  unsigned seen = events & t->wanted;
  if (seen) t->link.ready(&t->link, seen);
}

/* -> what the owner is told: everything once it is over. */
static unsigned step(struct link_tls *t) {
  if (!may_step(t)) return 0;
  handshake(t);
  return t->phase == HANDSHAKE ? 0 : LINK_IN | LINK_OUT;
}

/* What the session was refused in this turn it gets in the next; what is still so afterwards is
 * reported again in the next poll. */
static void on_post(struct post *p) {
  struct link_tls *t = (struct link_tls *)(void *)((char *)p - offsetof(struct link_tls, post));
  unsigned seen = t->phase == HANDSHAKE ? step(t) : is_pending(t) ? LINK_IN : 0;
  if (t->phase == HANDSHAKE && buf_len(&t->came)) world_post(t->turn->world, p);
  report(t, seen);
  post_pending(t);
}

static void on_ready(struct link *below, unsigned events) {
  struct link_tls *t = below->owner;
  if (events & LINK_OUT) flush(t);
  unsigned seen = (events & LINK_IN) | (buf_len(&t->sealed) ? 0 : events & LINK_OUT);
  if (t->stuck && (events & LINK_IN)) seen |= LINK_OUT;
  if (t->phase == HANDSHAKE) seen = events & LINK_IN ? step(t) : 0;
  report(t, seen);
}

bool link_tls_is_silent(const struct link *l) { return link_is_tls(l) && !tls_of(l)->ssl; }

bool link_tls_advance(struct link *l) {
  struct link_tls *t = tls_of(l);
  size_t held = buf_len(&t->sealed);
  if (t->phase == HANDSHAKE && handshake(t)) return true;
  if (t->phase != HANDSHAKE && held) flush(t);
  return buf_len(&t->sealed) != held;
}

static void link_tls_want(struct link *l, unsigned events) {
  struct link_tls *t = tls_of(l);
  t->wanted = (uint8_t)events;
  want_below(t);
  post_pending(t);
}

static int link_tls_state(struct link *l) {
  const struct link_tls *t = tls_of(l);
  if (t->phase == UP) return 0;
  return t->phase == FAILED ? t->end : ERR_AGAIN;
}

/* ---- bytes ------------------------------------------------------------------------------ */

static ptrdiff_t read_end(const struct link_tls *t) { return t->end == ERR_EOF ? 0 : t->end; }

/* Is it worth while to read the link below again?  Not for what would nearly all be kept. */
static bool reads_on(ptrdiff_t got, size_t total, size_t room) {
  if (got < 0 && got != ERR_AGAIN) return false;
  return total == 0 || room - total >= PAGE_SIZE_BYTES;
}

/* Reads below until something could be opened and the room is used, or there is no more. */
static ptrdiff_t read_records(struct link_tls *t, char *to, size_t room) {
  bool dry = false;
  ptrdiff_t got = tls_open(t, to, room); /* what an earlier call had no room for */
  size_t total = got > 0 ? (size_t)got : 0, fed = 0;
  while (!dry && fed < CALL_MOST && reads_on(got, total, room)) {
    if ((got = feed(t, room - total + OVERHEAD, &dry)) != 0) break;
    fed += t->fed_len;
    got = tls_open(t, to + total, room - total);
    if (got > 0) total += (size_t)got;
    if (unfeed(t) != 0) got = t->end;
  }
  return total ? (ptrdiff_t)total : got; /* an end is sticky, and comes next time */
}

/* The session failed and its alert is on its way: what still comes is thrown away unopened, for
 * closing a socket with unread input would take the alert from the peer. */
static ptrdiff_t discard_below(struct link_tls *t) {
  ptrdiff_t r = t->below->ops->read(t->below, t->root->in, PAGE_SIZE_BYTES);
  return r > 0 ? ERR_AGAIN : r;
}

static ptrdiff_t link_tls_read(struct link *l, void *to, size_t room) {
  struct link_tls *t = tls_of(l);
  if (t->phase == FAILED && t->shut) return discard_below(t);
  if (t->phase == HANDSHAKE) return ERR_AGAIN;
  if (t->end) return read_end(t);
  ptrdiff_t got = read_records(t, to, room);
  flush(t);
  if (got > 0 || got == ERR_AGAIN) return got;
  return read_end(t);
}

/* It got no input: it waits for that, or there will be none. */
static ptrdiff_t unstick(struct link_tls *t) {
  if (t->end && !t->out_end) t->out_end = ERR_PIPE;
  want_below(t);
  return t->out_end ? t->out_end : ERR_AGAIN;
}

/* A page after the other, as long as the link below takes them. */
static size_t write_records(struct link_tls *t, struct pieces p) {
  size_t total = 0, n = SEAL_AT_ONCE;
  while (n == SEAL_AT_ONCE && total < CALL_MOST && !buf_len(&t->sealed)) {
    n = tls_seal(t, &p, SEAL_AT_ONCE);
    total += n;
    flush(t);
  }
  return total;
}

static ptrdiff_t link_tls_write(struct link *l, const struct iovec *v, int count) {
  struct link_tls *t = tls_of(l);
  bool dry, fed = t->stuck;
  if (count == 0) return t->lost;
  if (t->phase == HANDSHAKE) return ERR_AGAIN;
  if (!t->out_end && buf_len(&t->sealed)) flush(t);
  if (t->out_end) return t->out_end;
  if (t->shut) return ERR_PIPE;
  if (buf_len(&t->sealed)) return ERR_AGAIN;
  if (fed && feed(t, PAGE_SIZE_BYTES, &dry) != 0) return unstick(t);
  size_t total = write_records(t, (struct pieces){.v = v, .count = count});
  if (fed) unfeed(t);
  if (t->phase == FAILED) post_pending(t); /* whoever reads hears of it, too */
  if (total && !t->lost) return (ptrdiff_t)total;
  return t->out_end ? t->out_end : ERR_AGAIN;
}

static size_t link_tls_held(struct link *l) { return buf_len(&tls_of(l)->sealed); }

/* A part of a record is there. */
static bool link_tls_midway(struct link *l) {
  const struct link_tls *t = tls_of(l);
  return t->phase == UP && (t->head_len || t->body || buf_len(&t->came));
}

static const char *link_tls_explain(struct link *l) { return tls_of(l)->detail; }

/* ---- ends ------------------------------------------------------------------------------- */

/* close_notify, then the end of the stream below: behind what it has not taken yet. */
static int link_tls_shut(struct link *l) {
  struct link_tls *t = tls_of(l);
  if (t->shut) return 0;
  t->shut = true;
  if (t->phase == UP) {
    ERR_clear_error();
    SSL_shutdown(t->ssl);
  }
  flush(t);
  return t->lost;
}

static size_t link_tls_in_flight(struct link *l) {
  struct link_tls *t = tls_of(l);
  return buf_len(&t->sealed) + t->below->ops->in_flight(t->below);
}

static void link_tls_free(struct link_tls *t) {
  ERR_clear_error();
  tls_buffers_release(t);
  SSL_free(t->ssl);
  ERR_clear_error();
  tls_context_drop(t->context);
  buf_fini(&t->came);
  buf_fini(&t->sealed);
  free(t->host);
  free(t);
}

static void on_closed(struct link *below) {
  struct link_tls *t = below->owner;
  if (t->link.closed) t->link.closed(&t->link);
  link_tls_free(t);
}

static void link_tls_close(struct link *l, bool reset) {
  struct link_tls *t = tls_of(l);
  world_unpost(t->turn->world, &t->post);
  t->wanted = 0;
  t->below->ops->close(t->below, reset);
}

/* ---- facts ------------------------------------------------------------------------------ */

static int link_tls_name(struct link *l, bool peer, struct addr *a) {
  struct link *below = tls_of(l)->below;
  return below->ops->name(below, peer, a);
}

static int link_tls_option(struct link *l, enum link_option what, bool set, int *value) {
  struct link *below = tls_of(l)->below;
  return below->ops->option(below, what, set, value);
}

/* ---- beginning -------------------------------------------------------------------------- */

static const struct link_ops link_tls_ops = {
    .state = link_tls_state,
    .read = link_tls_read,
    .write = link_tls_write,
    .want = link_tls_want,
    .shut = link_tls_shut,
    .in_flight = link_tls_in_flight,
    .held = link_tls_held,
    .midway = link_tls_midway,
    .explain = link_tls_explain,
    .close = link_tls_close,
    .name = link_tls_name,
    .option = link_tls_option,
};

static struct link_tls *link_tls_new(struct turn *t, const struct link_tls_opts *o) {
  struct link_tls *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  l->link.ops = &link_tls_ops;
  l->post.run = on_post;
  l->turn = t;
  l->root = tls_root_of(t);
  l->context = tls_context_ref(o->context);
  l->server = o->server;
  bool ok = !o->host || (l->host = strdup(o->host));
  if (ok && o->early_len) ok = buf_append(&l->came, o->early, o->early_len) == 0;
  if (ok) return l;
  link_tls_free(l);
  return NULL;
}

/* A client speaks first; what a server was given already is dealt with in the next poll. */
static void start(struct link_tls *t) {
  if (t->server) {
    if (buf_len(&t->came)) world_post(t->turn->world, &t->post);
    want_below(t);
    return;
  }
  if (tls_begin(t) == 0) tls_advance(t);
  flush(t);
}

int link_tls_open(struct turn *t, struct link *below, const struct link_tls_opts *o,
                  struct link **out) {
  struct link_tls *l = link_tls_new(t, o);
  if (!l) return ERR_NOMEM;
  l->below = below;
  l->link.outside = below->outside;
  below->owner = l;
  below->ready = on_ready;
  below->closed = on_closed;
  start(l);
  *out = &l->link;
  return 0;
}
