/* One error space for the whole library.
 *
 * Every failure in the core is a negative int: libuv's own number where the system failed,
 * one of ours below otherwise.  Zero is success.  Numbers are never shown to a user: a
 * failure travels as a text for people and a name for programs.
 * What this is not: a place for messages with operands; those are put together where the
 * operation and its address are known. */
#ifndef LUNEWIRE_ERR_H
#define LUNEWIRE_ERR_H

#include <uv/errno.h>

enum {
  ERR_AGAIN = UV__EAGAIN,         /* would have to wait */
  ERR_EOF = UV__EOF,              /* the peer ended its side in an orderly way */
  ERR_TIMEDOUT = UV__ETIMEDOUT,   /* a timeout or deadline of ours; never the system's own */
  ERR_ABORTED = UV__ECONNABORTED, /* the system gave up on an established connection */
  ERR_MSGSIZE = UV__EMSGSIZE,     /* over a limit */
  ERR_PROTO = UV__EPROTO,         /* not what the framing can be */
  ERR_CANCELED = UV__ECANCELED,   /* the task was cancelled */
  ERR_NOMEM = UV__ENOMEM,
  ERR_INVAL = UV__EINVAL,
  ERR_NOTSUP = UV__ENOTSUP,       /* this transport has no such thing */
  ERR_EXIST = UV__EEXIST,         /* somebody has it already */
  ERR_BADF = UV__EBADF,           /* no descriptor */
  ERR_PROTOTYPE = UV__EPROTOTYPE, /* another kind of socket */
  ERR_PIPE = UV__EPIPE,
  ERR_RESET = UV__ECONNRESET,
  ERR_REFUSED = UV__ECONNREFUSED,
  ERR_NODEV = UV__ENODEV,
  ERR_NOTCONN = UV__ENOTCONN,
  ERR_NOFAMILY = UV__EAFNOSUPPORT, /* this system has no such address family */
  ERR_CLOSED = -5000,              /* this side closed the object, or it is shutting down */
  ERR_TLS = -5001,
  ERR_CERT = -5002,
  ERR_ERROR = -5003,   /* of join: the task died of a Lua error */
  ERR_NOTFOUND = -5004 /* no such host */
};

/* Both accept any negative code and never return NULL.  The result of an unknown code is a
 * generic text; the storage is static. */
const char *err_name(int code); /* "ECONNREFUSED", "EOF", "ECLOSED" */
const char *err_text(int code); /* "connection refused", "end of stream" */

#endif
