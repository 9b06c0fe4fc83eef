/* send_file: a file becomes output piece by piece, read straight into the connection's queue.
 *
 * The call stands in the line of senders until the last piece is in, so the file is one
 * uninterrupted write.  What this is not: when output is written (conn_out.c); sending what
 * Lua holds already (lsend.c). */
#define _FILE_OFFSET_BITS 64 /* NOLINT: positions past 2 GiB on every system */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rt.h"

enum {
  PIECE = 64 * 1024,
  PIECES_IN_A_GO = 16 /* to a link that takes everything: then others get their turn */
};

enum { ARG_CONN = 1, ARG_FILE, ARG_OFFSET, ARG_COUNT };

/* One call under way. */
struct sending {
  struct owned owned; /* first */
  struct conn *c;
  FILE *own;           /* opened here; NULL: the file is Lua's, or there is none any more */
  luaL_Stream *theirs; /* asked each time: its owner may close it while the call waits */
  off_t at;            /* where the next piece begins; -1: the file has no positions */
  lua_Integer left;    /* of the count; without one LUA_MAXINTEGER */
  lua_Integer sent;
  bool counted;  /* a count was given: a file that ends before it is a failure */
  bool ended;    /* the file's end was seen */
  int file_code; /* why the file cannot be read; 0: it can */
};

static void close_own(struct sending *s) {
  if (s->own) fclose(s->own);
  s->own = NULL;
}

static void sending_end(struct owned *o) { close_own((struct sending *)(void *)o); }

static void abandon(lua_State *L, struct op *o) {
  (void)L;
  close_own(o->on);
}

/* ---- opening ----------------------------------------------------------------------- */

static int open_failed(int fd) {
  int code = -errno;
  close(fd);
  return code;
}

/* O_NONBLOCK: a FIFO without a writer must not stop the loop.  Without a buffer of stdio's own
 * what is read goes straight to its place. */
static int open_path(struct sending *s, const char *path) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return -errno;
  if (fstat(fd, &st) != 0) return open_failed(fd);
  errno = EISDIR;
  if (S_ISDIR(st.st_mode) || !(s->own = fdopen(fd, "rb"))) return open_failed(fd);
  setvbuf(s->own, NULL, _IONBF, 0);
  return 0;
}

static const char *check_path(lua_State *L) {
  size_t n;
  if (lua_type(L, ARG_FILE) != LUA_TSTRING) luaL_typeerror(L, ARG_FILE, "path or open file");
  const char *path = lua_tolstring(L, ARG_FILE, &n);
  luaL_argcheck(L, strlen(path) == n, ARG_FILE, "zero byte in the path");
  return path;
}

/* The file of the call's arguments; a closed one is misuse. 0 or why it cannot be opened. */
static int open_file(lua_State *L, struct sending *s) {
  s->theirs = luaL_testudata(L, ARG_FILE, LUA_FILEHANDLE);
  if (!s->theirs) return open_path(s, check_path(L));
  luaL_argcheck(L, s->theirs->closef, ARG_FILE, "the file is closed; open it again");
  return 0;
}

/* The file as it is now: NULL if its owner has closed it. */
static FILE *file_of(const struct sending *s) {
  return s->own || !s->theirs->closef ? s->own : s->theirs->f;
}

static void set_start(struct sending *s, lua_Integer offset) {
  bool given = offset > 0 || (offset == 0 && s->theirs);
  s->at = given ? (off_t)offset : ftello(file_of(s));
}

/* ---- piece by piece ---------------------------------------------------------------- */

/* A file that was written, or moved by somebody else since the last piece, goes back to where
 * this call is in it. */
static int seek_piece(const struct sending *s, FILE *f) {
  if (s->at < 0 || (s->sent > 0 && ftello(f) == s->at)) return 0;
  return fseeko(f, s->at, SEEK_SET) == 0 ? 0 : -errno;
}

static int read_piece(struct sending *s, char *to, size_t n, size_t *got) {
  FILE *f = file_of(s);
  *got = 0;
  int r = f ? seek_piece(s, f) : -EBADF;
  if (r) return r;
  clearerr(f);
  errno = EIO;
  *got = fread(to, 1, n, f);
  return *got == 0 && ferror(f) ? -errno : 0;
}

static void note_piece(struct sending *s, size_t got) {
  struct conn *c = s->c;
  if (got == 0 || s->sent > 0) c->messages_out--; /* the whole file is one message */
  s->ended = got == 0;
  s->sent += (lua_Integer)got;
  s->left -= (lua_Integer)got;
  if (s->at >= 0) s->at += (off_t)got;
}

static int put_piece(struct rt *rt, struct sending *s) {
  size_t got, n = s->left < PIECE ? (size_t)s->left : PIECE;
  char *to = conn_reserve(s->c, n);
  if (!to) return ERR_NOMEM;
  s->file_code = read_piece(s, to, n, &got);
  conn_commit(s->c, got, !rt_in_task(rt));
  note_piece(s, got);
  return s->file_code;
}

/* 0: all of it is output now; ERR_AGAIN: no room, or this has lasted for long enough. */
static int put_pieces(lua_State *L, struct rt *rt, struct op *o) {
  struct sending *s = o->on;
  for (int pieces = 0;; pieces++) {
    int r = conn_cannot_send(s->c);
    if (r || s->left == 0 || s->ended) return r;
    if (!conn_has_room(s->c)) return ERR_AGAIN;
    if (pieces >= PIECES_IN_A_GO) {
      if (op_expired(rt, o)) return ERR_TIMEDOUT;
      if (op_give_way(L, rt, o)) return ERR_AGAIN;
      pieces = 0;
    }
    if ((r = put_piece(rt, s)) != 0) return r;
  }
}

/* ---- the call ---------------------------------------------------------------------- */

static int file_failed(lua_State *L, struct conn *c, const char *detail, int code) {
  const char *path = lua_type(L, ARG_FILE) == LUA_TSTRING ? lua_tostring(L, ARG_FILE) : "file";
  c->failure = (struct conn_failure){code, "send_file"};
  return push_failure(L, "send_file", path, detail, code);
}

static int sending_done(lua_State *L, struct sending *s, int r) {
  bool is_short = r == 0 && s->counted && s->left > 0;
  close_own(s);
  if (s->file_code)
    file_failed(L, s->c, NULL, s->file_code);
  else if (is_short)
    file_failed(L, s->c, "end of file", ERR_EOF);
  else if (r)
    conn_failed(L, s->c, "send_file", r);
  lua_pushinteger(L, s->sent);
  return r || is_short ? 4 : 1;
}

/* A file that would have to wait (a FIFO) says ERR_AGAIN, too; that is a failure. */
static int sending_run(lua_State *L, struct rt *rt, struct op *o) {
  struct sending *s = o->on;
  int r;
  for (;;) {
    if ((r = op_turn(L, rt, o)) == 0) r = put_pieces(L, rt, o);
    if (r != ERR_AGAIN || s->file_code) break;
    if ((r = op_wait(L, rt, o)) != 0) break;
  }
  op_done(rt, o);
  return sending_done(L, s, r);
}

static lua_Integer opt_count(lua_State *L, int idx, lua_Integer otherwise) {
  if (lua_isnoneornil(L, idx)) return otherwise;
  if (lua_type(L, idx) != LUA_TNUMBER) luaL_typeerror(L, idx, "count of bytes");
  lua_Integer n = luaL_checkinteger(L, idx);
  luaL_argcheck(L, n >= 0, idx, "cannot be negative");
  return n;
}

/***
Sends a file, or a part of it, as one uninterrupted write.

The bytes go from the file into the connection's output without passing through Lua strings, in
pieces of at most 64 KiB; between them the call waits for room and keeps its place in the line
of senders, so memory stays bounded and nothing else comes in between. A path is opened and closed
here. An open Lua file is read from its current position, or from the offset, and its position
is behind the last byte sent afterwards; it stays open. Reading a file stops the loop for as
long as the system takes for a piece. The times that apply are the connection's own: its timeout,
for the whole call, and its send deadline.

Unlike `send`, which accepts all or none, a call that fails midway has sent a part: the fourth
result says how many bytes. They are the file's beginning, so after `ETIMEDOUT` the rest is
`send_file(path, offset + sent)`. A cancel in the middle leaves a part sent, too.
@function Conn:send_file
@tparam string|file file a path, or an open Lua file
@tparam[opt] integer offset bytes from the beginning of the file; default: 0 for a path, the
current position for an open file
@tparam[opt] integer count bytes to send; default: all up to the end of the file
@treturn integer bytes sent
@codes ETIMEDOUT, ECLOSED, EPIPE and others of the connection; ENOENT, EISDIR, EACCES, EMFILE
and others of the file; EOF: the file ended before count bytes; EBADF: the open file was closed
meanwhile, or cannot be read; ESPIPE: an offset in a file without positions (each with the
bytes sent as 4th result)
@waits while there is no room for the next piece
@raise for a closed Lua file, a negative offset or count; where Lua cannot yield
@follows net.TCPConn.ReadFrom of Go
*/
static int l_send_file(lua_State *L) {
  struct rt *rt = rt_of(L);
  struct conn *c = check_conn(L, rt, ARG_CONN);
  lua_settop(L, ARG_COUNT);
  lua_Integer offset = opt_count(L, ARG_OFFSET, -1);
  lua_Integer count = opt_count(L, ARG_COUNT, LUA_MAXINTEGER);
  struct sending *s = owned_by_call(L, rt, sizeof *s, sending_end);
  s->c = c;
  struct op o = {.run = sending_run,
                 .what = "send_file",
                 .q = &c->writers,
                 .deadline = &c->send_deadline,
                 .timeout = c->timeout,
                 .on = s,
                 .outside = c->link && c->link->outside,
                 .abandon = abandon};
  s->left = count;
  s->counted = !lua_isnil(L, ARG_COUNT);
  if ((s->file_code = open_file(L, s)) != 0) return sending_done(L, s, s->file_code);
  set_start(s, offset);
  return sending_run(L, rt, &o);
}

/* core.error_name(errno) -> "ENOSPC": the code of a failure that a function of io reports */
static int l_error_name(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  lua_pushstring(L, err_name(n > 0 && n <= INT_MAX ? -(int)n : -EIO));
  return 1;
}

const luaL_Reg lfile_methods[] = {{"send_file", l_send_file}, {NULL, NULL}};

void lfile_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {{"error_name", l_error_name}, {NULL, NULL}};
  rt_setfuncs(L, rt, functions);
}
