/* What the parts of TLS have of each other; nobody else includes this. */
#ifndef LUNEWIRE_TLS_INTERNAL_H
#define LUNEWIRE_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <stdint.h>

#include "timer.h"
#include "tls.h"

enum {
  TLS_RECORD = 16 * 1024, /* data of one record, at most */
  TLS_PAGE = 72 * 1024,   /* 64 KiB of data sealed in such records, and what they add */
  TLS_SESSIONS = 64,      /* kept by a context for its next connections */
  TLS_HANDSHAKE_STEPS = 8 /* in one turn of the loop */
};

/* What all sessions of one loop share. */
struct tls_root {
  BIO_METHOD *bio;    /* through which they get and give their bytes */
  X509_STORE *system; /* the system's authorities, loaded once; NULL: not asked for yet */
  char *in;           /* PAGE_SIZE_BYTES: what was just read */
  char *out;          /* TLS_PAGE: what was just sealed */
  char *record;       /* TLS_RECORD: short pieces that become one record */
  size_t out_len;
  unsigned long count; /* of turns: whose steps are counted */
  unsigned steps;
  struct turn *turn;
  struct link_tls *first_kept;       /* sessions that keep their buffers */
  unsigned kept;                     /* how many */
  struct timer period;               /* looks whether they are still busy */
  uint64_t contexts;                 /* built so far: what tells their sessions apart */
  struct tls_context *first_context; /* all; those whose owners died without a word go with it */
};

/* The root of this loop, made at the first call. NULL: out of memory. */
struct tls_root *tls_root_of(struct turn *t);
BIO_METHOD *tls_bio_method(void);

/* 0 or ERR_TLS. */
int tls_set_ciphers(SSL_CTX *ssl, const struct tls_opts *o, char why[TLS_WHY]);

/* A new session in its role. host: whom a client asks for and verifies, or NULL; it outlives the
 * session. NULL: out of memory. */
SSL *tls_session_new(struct tls_context *c, bool server, const char *host);

#endif
