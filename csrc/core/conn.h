/* One connection: its life, its input and output, its deadlines.
 *
 * Life: OPEN -> CLOSING -> CLOSED.  A link that is not up yet is a dial's, not a connection's.
 * It belongs to the loop until CLOSED, to its Lua owner until released, and to a visit that
 * it asked for until that was made; the last of the three frees it (conn_drop).
 *
 * Input is pulled: a receiver asks conn_take(), which reads the link only when what is
 * buffered does not answer.  Output is pushed: what is sent gathers in `out` and leaves in
 * the visit at the end of the turn.
 * What this is not: it knows no tasks (only waits), no names and no servers. */
#ifndef LUNEWIRE_CONN_H
#define LUNEWIRE_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "addr.h"
#include "buf.h"
#include "err.h"
#include "framing.h"
#include "link.h"
#include "turn.h"

enum conn_state { CONN_OPEN, CONN_CLOSING, CONN_CLOSED };
enum conn_holder { CONN_OF_LOOP = 1, CONN_OF_OWNER = 2, CONN_OF_VISIT = 4, CONN_OF_KEEPER = 8 };

/* Who is told how a connection ends, if anybody is: its server.  It outlives the connection or
 * is forgotten first (conn_forget_keeper).  Both functions may only mark and queue.  One that
 * has something to do at the end holds the connection (CONN_OF_KEEPER) until that is done. */
struct keeper {
  void (*ended)(struct keeper *, struct conn *); /* no longer open; once */
  void (*gone)(struct keeper *, struct conn *);  /* its link is closed */
  void (*up)(struct keeper *, struct conn *);    /* its handshake is over, well or not */
};

/* Never changed: the connections that were made with the same share them. */
struct conn_limits {
  size_t line, frame, all, high_water;
};
extern const struct conn_limits conn_default_limits; /* 64 KiB, 1 MiB, 16 MiB, 256 KiB */

enum {
  CONN_READ_AHEAD = 64 * 1024, /* what is read for nobody before interest is dropped */
  CONN_BEGUN = 16 * 1024,      /* of a long message, before it has memory of its own */
  CONN_WRITE_NOW = 64 * 1024,  /* unsent bytes that do not wait for the visit */
  CONN_LONG = 32 * 1024,       /* to copy more than that takes longer than a write of its own */
  CONN_PIECES = 3              /* of a long message, at most */
};

/* The last failure, kept as a number and the name of the call for a later message. */
struct conn_failure {
  int code;
  const char *what; /* static: "recv" */
};

/* What ends with a connection: a timer that is its own.  Intrusive. */
struct attachment {
  struct attachment *next, **at; /* at: whoever points here; NULL: attached to nothing */
  /* Once, when the connection is no longer open; it is detached by then.  Only marks and
   * queues. */
  void (*ended)(struct attachment *);
  bool early; /* also when nothing can come of the open connection any more, and nobody receives */
};

struct conn {
  struct turn *turn;
  struct link *link; /* NULL once CLOSED */
  struct buf in, out;
  union {
    struct { /* OPEN */
      struct scan scan;
      const char *scan_delimiter; /* whose search `scan` belongs to, with scan_kind */
    };
    struct addr local; /* later: the address of this side */
  };
  struct waitq readers, writers;
  const struct framing *framing; /* of recv_frame; borrowed, the owner anchors it */
  const struct conn_limits *limits;
  double timeout; /* default of each call; INFINITY */
  double recv_deadline, send_deadline;
  double recv_due;    /* the earlier of recv_deadline and the end of idleness */
  float idle_timeout; /* seconds without a message; INFINITY */
  float buffer_wait;  /* of quiet after which recv() has everything; 0 */
  union {
    struct attachment *ending; /* OPEN: what ends with it */
    struct conn *next_ended;   /* later: the keeper's own */
  };
  struct timer timer;                    /* CLOSING: no progress, then no end */
  struct conn *next_visit, *prev, *next; /* in the turn's lists: visits, all */
  struct addr peer;
  struct keeper *keeper; /* may be NULL */
  void *user;            /* the owner's own */
  uint64_t consumed;     /* bytes taken off the input: tells whether somebody took some meanwhile */
  uint64_t bytes_in, bytes_out, messages_in, messages_out;
  uint32_t asked, answered;   /* requests sent that await a reply, and replies handed over */
  double opened, last_active; /* last_active: CLOSING: when the peer last took something */
  union {
    double heard; /* OPEN: since when the peer is idle */
    size_t left;  /* CLOSING: what it had not taken when last looked at */
  };
  struct conn_failure failure, recv_failure;
  const char *detail; /* of a TLS failure; static, or NULL */
  int in_end;         /* the end of the input, sticky: ERR_EOF or a code; 0: not yet */
  int out_end;        /* why nothing can be written any more; 0: it can */
  uint8_t state, holders, scan_kind;
  uint8_t skipping; /* the framing whose over-long message is being thrown away, or 0 */
  bool readable : 1, blocked : 1;    /* the link may have input; it took less than it was given */
  bool fin_wanted : 1, fin_sent : 1; /* the end of our output: behind what is unsent; it is out */
  bool delayed : 1;                  /* OPEN: the timer will close it */
  bool handshaking : 1;              /* its link is not up yet */
  bool link_closed : 1;              /* CLOSING: the link was told to close */
  bool desync : 1;   /* a message was too long to be received: no next one is known */
  bool owed : 1;     /* a reply that nobody waits for any more is known to be still to come */
  bool draining : 1; /* the server shuts down: no further message is awaited */
  bool spared : 1;   /* the keeper's own: it does not wait for this one */
  bool accepted : 1; /* this end was accepted (a pipe: the second end), not dialled */
  bool resting : 1;  /* OPEN: nobody uses it; the timer, if armed, will close it */
  bool by_byte : 1;  /* of the last receive: each byte ends the peer's idleness */
};

/* Takes over the link (on failure too: then it is reset). peer may be NULL: asked of the
 * link.  The new connection has an owner. NULL: out of memory. */
struct conn *conn_open(struct turn *t, struct link *l, const struct addr *peer);
/* The holder has no more use for it; the last one frees it.  An owner that drops an open
 * connection closes it. */
void conn_drop(struct conn *c, enum conn_holder holder);

/* The default ones until this. 0, or ERR_NOMEM with nothing changed. */
int conn_set_limits(struct conn *c, const struct conn_limits *l);

static inline bool conn_is_open(const struct conn *c) { return c->state == CONN_OPEN; }

/* ---- receiving ------------------------------------------------------------------- */

/* A message found by conn_take: base[cut.at, cut.at + cut.len).  Valid until the next call on
 * any connection of the loop. */
struct message {
  const char *base;
  struct cut cut;
};

/* A receiving call begins: what an earlier one remembers of its delimiter is dropped (the
 * bytes behind the same pointer may be others by now). */
void conn_begin(struct conn *c, const struct framing *f);
/* The next message, not yet consumed.
 *   0; ERR_AGAIN: wait for readable (conn_want_input); ERR_CLOSED;
 *   ERR_EOF: the end; what is buffered is an incomplete message;
 *   ERR_MSGSIZE, ERR_PROTO: of the framing (counted: and from then on ERR_PROTO);
 *   another code: the stream failed, behind all earlier bytes; ERR_NOMEM. */
int conn_take(struct conn *c, const struct framing *f, struct message *m);
/* Is nothing buffered, and nothing known that could be read?  Then nothing can be taken but the
 * end. */
static inline bool conn_is_dry(const struct conn *c) {
  const struct turn *t = c->turn;
  return !c->readable && t->borrower != c && buf_len(&c->in) == 0;
}
/* The same for who asks in passing: the failure of a counted framing leaves no trace yet. */
int conn_find(struct conn *c, const struct framing *f, struct message *m);
/* Consumes what conn_take found; counts a message. Clamped to what is there. */
void conn_took(struct conn *c, const struct cut *cut);
/* Throws away a piece of an over-long line. 0: its end is behind us; ERR_MSGSIZE: there is more;
 * otherwise as conn_take. */
int conn_skip(struct conn *c, const struct framing *f);
/* The server shuts down: messages that have come are still received, then it is over. */
void conn_drain(struct conn *c);
/* What is buffered now. */
const char *conn_input(const struct conn *c, size_t *n);
/* Has more come than was received, if only a part of what can be buffered? */
bool conn_has_begun(const struct conn *c);
void conn_consume(struct conn *c, size_t n);
/* Puts bytes in front of what is buffered. 0 or ERR_NOMEM. */
int conn_unread(struct conn *c, const char *data, size_t n);
/* Somebody is about to wait for input. */
void conn_want_input(struct conn *c);
/* A call that will not wait: the next read tries the link though it reported nothing. */
void conn_try_link(struct conn *c);
/* Another needs the page, or this connection gives it up: unread bytes move to `in`. */
int conn_spill(struct conn *c);

/* ---- sending --------------------------------------------------------------------- */

/* Why nothing can be sent (ERR_CLOSED, ERR_PIPE after close_write, an earlier failure), or 0. */
static inline int conn_cannot_send(const struct conn *c) {
  if (!conn_is_open(c)) return ERR_CLOSED;
  return c->out_end ? c->out_end : c->fin_wanted ? ERR_PIPE : 0;
}
/* Taken by the link, but not by the system. */
static inline size_t conn_held(const struct conn *c) {
  return c->link && c->link->ops->held ? c->link->ops->held(c->link) : 0;
}
/* What the system has not taken yet. */
static inline size_t conn_unsent(const struct conn *c) { return buf_len(&c->out) + conn_held(c); }
static inline bool conn_has_room(const struct conn *c) {
  return conn_unsent(c) < c->limits->high_water;
}
/* Room for n > 0 bytes of output, to be filled and committed before anything else is done
 * with any connection. NULL: out of memory. */
char *conn_reserve(struct conn *c, size_t n);
/* n bytes become output. at_once: written now, not at the end of the turn. */
void conn_commit(struct conn *c, size_t n, bool at_once);
/* A long message, in a few pieces, is written at once from where it lies, behind what is unsent;
 * only what the link does not take is copied.  ERR_NOMEM: nothing of it was sent. */
int conn_send_long(struct conn *c, const struct iovec *v, int count);
void conn_flush_now(struct conn *c);

/* ---- TLS ------------------------------------------------------------------------- */

struct link_tls_opts;
/* A session takes the place of the link; what is buffered goes to its handshake (`early` is set
 * here).  Nothing may be unsent. 0 or ERR_NOMEM. */
int conn_secure(struct conn *c, const struct link_tls_opts *o);
/* The handshake: 0: it is over, or there is none; ERR_AGAIN; otherwise why it failed. */
int conn_handshake(struct conn *c);
/* The same, after a step with what has come, though the link has reported nothing.  *moved: did it
 * come further?  May be NULL. */
int conn_advance(struct conn *c, bool *moved);
static inline bool conn_is_up(const struct conn *c) { return !c->handshaking; }

/* ---- ends ------------------------------------------------------------------------ */

/* Every waiter gets ERR_CLOSED; output is written for as long as the peer takes it (10 s
 * without progress resets), then FIN, then input is discarded until the peer's end or 2 s.
 * Idempotent, never waits. */
void conn_close(struct conn *c);
void conn_reset(struct conn *c);
/* The same later: the connection works as before until then. 0 or ERR_NOMEM. */
int conn_close_in(struct conn *c, double seconds, bool reset);
/* FIN behind the output; receiving lives on. 0 or a code; idempotent. */
int conn_close_write(struct conn *c);
/* Has everything sent been handed to the system, FIN included, or been given up? */
bool conn_is_flushed(const struct conn *c);
/* a->ended is called when the open connection is so no longer, in whatever way. */
void conn_attach(struct conn *c, struct attachment *a);
/* It is not.  Harmless when detached. */
void conn_detach(struct attachment *a);

/* Is the descriptor a connection's of this loop? */
bool conn_owns(const struct turn *t, int fd);
/* The keeper goes away: connections that are still its own report to nobody. */
void conn_forget_keeper(struct turn *t, const struct keeper *k);

/* ---- at rest (conn_rest.c) -------------------------------------------------------- */

/* Why nothing more can come of it, as far as is known: ERR_CLOSED, ERR_EOF with nothing buffered, a
 * failure; or 0. */
int conn_ended(const struct conn *c);
/* Reads ahead what the link has by now, if nobody waits for it. */
void conn_look(struct conn *c);
/* Nobody uses it for now: it is closed after so many seconds (INFINITY: never), or as soon as
 * anything comes from the peer.  Does not keep the loop going.  false: it cannot be used again: it
 * is closed, has failed once, is in use, or stands within a message. */
bool conn_rest(struct conn *c, double seconds);
/* It is used again. false: it did not rest, or no longer. */
bool conn_resume(struct conn *c);
/* Something came in and nobody received it: ends the rest, tells the early attachments. */
void conn_disturb(struct conn *c);
/* The output failed: tells them, too. */
void conn_tell_end(struct conn *c);
void conn_end_rest(struct conn *c);

/* ---- times and facts ------------------------------------------------------------- */

enum { CONN_RECV = 1, CONN_SEND = 2 };
/* Absolute; INFINITY clears; reaches the calls that are waiting. which: CONN_RECV | CONN_SEND. */
void conn_set_deadline(struct conn *c, unsigned which, double at);
/* Receives time out when the peer was idle for so long: no message complete, or no byte where
 * bytes are received (framing.by_byte).  INFINITY: never.  Begins to count now; reaches the calls
 * that are waiting. */
void conn_set_idle_timeout(struct conn *c, double seconds);
/* The address of this side or the peer; also after the close. */
void conn_name(const struct conn *c, bool peer, struct addr *a);

/* ---- the turn's ------------------------------------------------------------------ */

void conn_ask_visit(struct conn *c);
struct conn *conn_next_visit(struct turn *t); /* off the list */
void conn_visit(struct conn *c);
bool conn_all_settled(struct turn *t);
/* Closes what is open, without waiting for anything. */
void conn_abandon_all(struct turn *t);
/* After the last poll, when no owner can call any more: with the state that owned them. */
void conn_free_all(struct turn *t);

#endif
