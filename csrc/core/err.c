/* Names and texts of every code: see err.h.
 *
 * What this is not: it calls nothing of libuv, which would allocate for a code that it does
 * not know; only its table is used. */
#include "err.h"

#include <stddef.h>
#include <uv.h>

struct entry {
  int code;
  const char *name, *text;
};

/* Our own codes, and the system's where a word of ours says more to a user of this library:
 * a name that programs compare (ENOTFOUND), or a text that fits behind "recv 1.2.3.4:80: ". */
static const struct entry ours[] = {
    {ERR_AGAIN, "EAGAIN", "would have to wait"},
    {ERR_EOF, "EOF", "end of stream"},
    {ERR_TIMEDOUT, "ETIMEDOUT", "timed out"},
    {ERR_ABORTED, "ECONNABORTED", "connection aborted"},
    {ERR_CANCELED, "ECANCELED", "canceled"},
    {ERR_CLOSED, "ECLOSED", "closed"},
    {ERR_TLS, "ETLS", "tls failure"},
    {ERR_CERT, "ECERT", "certificate rejected"},
    {ERR_ERROR, "EERROR", "ended by an error"},
    {ERR_NOTFOUND, "ENOTFOUND", "no such host"},
    {UV_EAI_NONAME, "ENOTFOUND", "no such host"},
    {UV_EAI_NODATA, "ENOTFOUND", "no such host"},
    {UV_ECHARSET, "ECHARSET", "invalid character"},
    {UV_EREMOTEIO, "EREMOTEIO", "remote i/o error"},
};

static const struct entry theirs[] = {
#define ENTRY(name, text) {UV_##name, #name, text},
    UV_ERRNO_MAP(ENTRY)
#undef ENTRY
};

static const struct entry unknown = {UV_UNKNOWN, "UNKNOWN", "unknown error"};

static const struct entry *entry_in(const struct entry *list, size_t n, int code) {
  for (size_t i = 0; i < n; i++)
    if (list[i].code == code) return &list[i];
  return NULL;
}

static const struct entry *entry_of(int code) {
  const struct entry *e = entry_in(ours, sizeof ours / sizeof *ours, code);
  if (!e) e = entry_in(theirs, sizeof theirs / sizeof *theirs, code);
  return e ? e : &unknown;
}

const char *err_name(int code) { return entry_of(code)->name; }

const char *err_text(int code) { return entry_of(code)->text; }
