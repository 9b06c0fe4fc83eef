/* Which sessions keep the buffers of their records.
 *
 * The library needs 16 KiB for a record that comes and as much for one that goes.  Released after
 * each record, they cost an idle session nothing, but a busy one two blocks of the allocator for
 * each message, of a size for which it tidies up everything.  So who is busy keeps them, as long
 * as that lasts, and no more than KEPT_MOST sessions of a loop do: 8 MiB.
 * What this is not: it owns no buffers; they are the library's. */
#include <openssl/ssl.h>
#include <string.h>

#include "tls_session.h"
#include "turn.h"

enum {
  BUSY = 64,      /* calls in a PERIOD that make it worth while */
  KEPT_MOST = 256 /* sessions of a loop */
};

static const double PERIOD = 1; /* seconds */

/* Nothing of a record is in the buffers.  The library's own look at this misses a record of which
 * only the head has come (CVE-2024-4741, repaired in 3.0.14). */
static bool is_between_records(const SSL *ssl) {
  return !SSL_has_pending(ssl) && strcmp(SSL_rstate_string(ssl), "RH") == 0;
}

void tls_buffers_release(struct link_tls *t) {
  if (!t->keeps) return;
  t->keeps = false;
  t->root->kept--;
  *t->kept_at = t->next_kept;
  if (t->next_kept) t->next_kept->kept_at = t->kept_at;
  SSL_set_mode(t->ssl, SSL_MODE_RELEASE_BUFFERS);
  if (is_between_records(t->ssl)) SSL_free_buffers(t->ssl); /* otherwise behind the record */
}

static struct tls_root *root_of(struct timer *d) {
  return (struct tls_root *)(void *)((char *)d - offsetof(struct tls_root, period));
}

static int arm(struct tls_root *root) {
  return timers_arm(&root->turn->timers, &root->period, turn_now(root->turn) + PERIOD);
}

/* Who was not busy since the last time keeps them no longer. */
static void on_period(struct timer *d) {
  struct tls_root *root = root_of(d);
  for (struct link_tls *next, *t = root->first_kept; t; t = next) {
    next = t->next_kept;
    if (t->uses < BUSY) tls_buffers_release(t);
    t->uses = 0;
  }
  if (root->kept) arm(root); /* its place in the heap was just freed */
}

static void keep(struct link_tls *t) {
  struct tls_root *root = t->root;
  root->period.fire = on_period;
  if (root->kept >= KEPT_MOST) return;
  if (!timer_armed(&root->period) && arm(root) != 0) return;
  SSL_clear_mode(t->ssl, SSL_MODE_RELEASE_BUFFERS);
  t->keeps = true;
  root->kept++;
  t->next_kept = root->first_kept;
  t->kept_at = &root->first_kept;
  if (t->next_kept) t->next_kept->kept_at = &t->next_kept;
  root->first_kept = t;
}

void tls_buffers_used(struct link_tls *t) {
  unsigned period = (unsigned)(t->turn->now / PERIOD);
  if (!t->keeps && t->period != period) {
    t->period = period;
    t->uses = 0;
  }
  if (++t->uses >= BUSY && !t->keeps) keep(t);
}
