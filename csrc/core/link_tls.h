/* A link over a link: what is written to it leaves sealed, what comes is opened.
 *
 * It drives its handshake itself whenever the link below is ready; until then state() is
 * ERR_AGAIN and nothing is read or written.  A stream that ends without close_notify is ERR_TLS.
 * What this is not: it keeps no time (who waits for the handshake does) and has no context of its
 * own (tls.c). */
#ifndef LUNEWIRE_LINK_TLS_H
#define LUNEWIRE_LINK_TLS_H

#include "link.h"
#include "tls.h"

struct link_tls_opts {
  struct tls_context *context;
  bool server;
  const char *host;  /* whom a client asks for and verifies; NULL: nobody */
  const char *early; /* bytes of the handshake that were read already */
  size_t early_len;
};

/* Takes the link below over, which is up; on failure it is left as it is. 0 or ERR_NOMEM. */
int link_tls_open(struct turn *t, struct link *below, const struct link_tls_opts *o,
                  struct link **out);

bool link_is_tls(const struct link *l);
/* A server's end to which no byte has come? */
bool link_tls_is_silent(const struct link *l);
/* A step of the handshake with what the link below has, though it reported nothing; once it is
 * over, its last words are written as far as the link below takes them.  Did a byte move? */
bool link_tls_advance(struct link *l);

/* ---- what is known of a session that is up; NULL or 0 for a link that is no TLS link -------- */

enum tls_fact { TLS_VERSION, TLS_CIPHER, TLS_ALPN, TLS_SERVERNAME };
/* The text, without a NUL; NULL: there is none. Valid as long as the link. */
const char *link_tls_fact(const struct link *l, enum tls_fact f, size_t *len);
bool link_tls_resumed(const struct link *l);

enum tls_cert_field { CERT_SUBJECT, CERT_ISSUER, CERT_NOT_BEFORE, CERT_NOT_AFTER, CERT_SHA256 };
/* Of the peer's certificate: the text into out[room] -> its length, cut to what fits; 0: no
 * certificate, or nothing is in that field; ERR_NOMEM.  Times are as of RFC 3339, fingerprints in
 * lower-case hexadecimal. */
ptrdiff_t link_tls_cert(const struct link *l, enum tls_cert_field f, char *out, size_t room);
/* Its alternative names, each with a NUL behind it: "DNS:example.org", "IP Address:127.0.0.1" ...
 * As many as fit -> bytes, or ERR_NOMEM. */
ptrdiff_t link_tls_cert_names(const struct link *l, char *out, size_t room);

#endif
