/* TLS contexts: what the sessions of one configuration share; and what all sessions of one loop
 * share.
 *
 * A context serves both roles.  It belongs to whoever made it and to its sessions; the last one
 * frees it.  What this is not: a session (link_tls.c); it moves no bytes. */
#ifndef LUNEWIRE_TLS_H
#define LUNEWIRE_TLS_H

#include <stdbool.h>
#include <stddef.h>

struct tls_context;
struct tls_root;
struct turn;

enum tls_version { TLS_1_2, TLS_1_3 };
enum tls_verify { TLS_VERIFY_NONE, TLS_VERIFY_OPTIONAL, TLS_VERIFY_REQUIRED };

enum { TLS_WHY = 256 }; /* bytes of a message, with its NUL */

/* Texts may be NULL; cert, key and ca are names of files or texts in PEM. */
struct tls_opts {
  const char *cert, *key, *password, *ca, *servername, *ciphers, *ciphersuites, *keylog;
  const unsigned char *alpn; /* as on the wire: each name behind its length */
  size_t alpn_len;
  double handshake_timeout; /* seconds */
  enum tls_version min_version, max_version;
  enum tls_verify verify; /* of a client's certificate */
  bool insecure;          /* a client verifies nothing */
  bool session;           /* a client resumes sessions */
};

/* Copies what it needs. 0; or a code, and `why` says what is wrong: ERR_TLS, or the system's own
 * for a file. */
int tls_context_new(struct turn *t, const struct tls_opts *o, struct tls_context **out,
                    char why[TLS_WHY]);
struct tls_context *tls_context_ref(struct tls_context *c);
void tls_context_drop(struct tls_context *c);
/* Clients that ask for this name get the other context, which is kept. 0 or ERR_NOMEM. */
int tls_context_add_name(struct tls_context *c, const char *name, struct tls_context *other);
/* Reads the files again, those of its names too: new sessions use what they say now.  As
 * tls_context_new; on failure all stays as it was. */
int tls_context_reload(struct tls_context *c, char why[TLS_WHY]);

const struct tls_opts *tls_context_opts(const struct tls_context *c);
bool tls_context_has_cert(const struct tls_context *c);

/* What all sessions of a loop share goes with the loop. NULL is harmless. */
void tls_root_close(struct tls_root *root);

#endif
