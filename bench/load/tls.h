/* TLS 1.3 as a transformer of bytes: what was received goes in, what was sealed comes out into one
 * buffer that all sessions share.  A read of the socket brings many records, a write takes many.
 * What this is not: it reads no socket. */
#ifndef LOAD_TLS_H
#define LOAD_TLS_H

#include <stdbool.h>
#include <stddef.h>

struct tls;     /* what all sessions share */
struct session; /* one connection's */

/* trusted: a file in PEM of certificates, one of which the server's must be or come from; NULL:
 * the server may have any.  lean: sessions hold no buffers while they are idle, which costs time.
 */
struct tls *tls_new(const char *trusted, bool lean);

/* A client's, which has sealed its first words already. */
struct session *session_new(struct tls *t, unsigned id);

/* Gives what was received to the session; it must be read until nothing is left. */
void session_feed(struct session *s, const char *bytes, size_t n);

/* Goes on with the handshake -> whether it is over. */
bool session_shake(struct session *s);

/* -> bytes opened, 0 if more have to be received, -1 at an orderly end. */
int session_read(struct session *s, char *bytes, size_t room);

void session_write(struct session *s, const char *bytes, size_t n);

/* Sends what was sealed -> false if some of it is left, which comes first the next time. */
bool session_flush(struct session *s, int fd);

#endif
