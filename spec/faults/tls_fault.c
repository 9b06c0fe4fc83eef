/* Faulty links above TLS, between a session and its connection: in a mode that ends in "+tls".  The
 * calls that know a TLS link get the one below.
 *
 * What this is not: the faults below TLS, which it does not see (world_fault.c). */
#include "faults.h"
#include "link_tls.h"
#include "turn.h"

int __real_link_tls_open(struct turn *t, struct link *below, const struct link_tls_opts *o,
                         struct link **out);
int __wrap_link_tls_open(struct turn *t, struct link *below, const struct link_tls_opts *o,
                         struct link **out);

int __wrap_link_tls_open(struct turn *t, struct link *below, const struct link_tls_opts *o,
                         struct link **out) {
  int r = __real_link_tls_open(t, below, o, out);
  if (r || !faults_above_tls()) return r;
  return faults_put(t->world, NULL, o->server ? FAULT_SECOND : FAULT_FIRST, &faults_tally_above_tls,
                    out);
}

/* Each of these is called with a link that may have a faulty one in front of it. */
#define BELOW(type, name, ...)                                                                     \
  type __real_##name(__VA_ARGS__);                                                                 \
  type __wrap_##name(__VA_ARGS__);                                                                 \
  type __wrap_##name(__VA_ARGS__)

BELOW(bool, link_is_tls, const struct link *l) { return __real_link_is_tls(link_fault_below(l)); }

BELOW(bool, link_tls_is_silent, const struct link *l) {
  return __real_link_tls_is_silent(link_fault_below(l));
}

BELOW(bool, link_tls_advance, struct link *l) {
  return __real_link_tls_advance(link_fault_below(l));
}

BELOW(const char *, link_tls_fact, const struct link *l, enum tls_fact f, size_t *len) {
  return __real_link_tls_fact(link_fault_below(l), f, len);
}

BELOW(bool, link_tls_resumed, const struct link *l) {
  return __real_link_tls_resumed(link_fault_below(l));
}

BELOW(ptrdiff_t, link_tls_cert, const struct link *l, enum tls_cert_field f, char *out,
      size_t room) {
  return __real_link_tls_cert(link_fault_below(l), f, out, room);
}

BELOW(ptrdiff_t, link_tls_cert_names, const struct link *l, char *out, size_t room) {
  return __real_link_tls_cert_names(link_fault_below(l), out, room);
}
