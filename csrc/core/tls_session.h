/* One TLS session, as link_tls.c, tls_session.c and tls_buffers.c have it; nobody else includes
 * this.
 *
 * The session opens what it is fed and seals into the loop's page; it moves no bytes to or from
 * the link below. */
#ifndef LUNEWIRE_TLS_SESSION_H
#define LUNEWIRE_TLS_SESSION_H

#include <stdbool.h>

#include "buf.h"
#include "link.h"
#include "tls_internal.h"
#include "world.h"

enum phase { HANDSHAKE, UP, FAILED };

struct link_tls {
  struct link link;
  struct post post; /* reports what is pending here, which the link below knows nothing of */
  struct link *below;
  struct turn *turn;
  struct tls_root *root;
  struct tls_context *context;
  SSL *ssl; /* NULL until the first byte: a silent client costs nothing */
  char *host;
  struct buf came, sealed;
  const char *fed; /* what the session may take now, only inside a call */
  size_t fed_len;
  unsigned char head[5], head_len; /* of the record that is being fed, as far as it has come */
  size_t body;                     /* what of it was not fed yet, behind its head */
  const char *detail;
  int end;     /* of reading, sticky: ERR_EOF or a code; 0: not yet */
  int out_end; /* why nothing can be written any more; 0: it can */
  int lost;    /* why what was sealed did not get out, and nothing will: of the link below, or 0 */
  uint8_t phase, wanted;
  bool server, shut, below_shut;
  bool starved;          /* the session asked for more than it was fed */
  bool stuck;            /* the session cannot seal before it has got more input */
  bool partly;           /* a record is open of which there was no room for all */
  bool keeps;            /* its buffers, between two records: tls_buffers.c */
  uint16_t updates;      /* key updates since the last data */
  unsigned uses, period; /* calls that moved data, in which second */
  struct link_tls *next_kept, **kept_at;
};

/* Its end, of both directions, for this reason. -> code */
int tls_fail(struct link_tls *t, int code, const char *detail);
/* The loop's page goes behind what is kept already. 0 or ERR_NOMEM. */
int tls_keep_page(struct link_tls *t);
/* The SSL object is made, at the first byte. 0 or a code. */
int tls_begin(struct link_tls *t);
/* A step of the handshake with what was fed. 0: up; ERR_AGAIN: it wants more; or its failure. */
int tls_advance(struct link_tls *t);
/* What can be opened of what was fed -> bytes; ERR_AGAIN, or the end. */
ptrdiff_t tls_open(struct link_tls *t, char *to, size_t room);
/* What of a vector is not taken yet. */
struct pieces {
  const struct iovec *v;
  int count; /* of the pieces from v on */
  size_t at; /* where it goes on in the first */
};
/* Seals at most `room` bytes in as few records as can be, however short the pieces -> bytes
 * taken.  Fewer than there are: stuck, or out_end. */
size_t tls_seal(struct link_tls *t, struct pieces *p, size_t room);

/* Data was opened or sealed: a session that is busy keeps its buffers from now on. */
void tls_buffers_used(struct link_tls *t);
/* It keeps them no more.  Harmless when it does not; to be called before it is freed. */
void tls_buffers_release(struct link_tls *t);

#endif
