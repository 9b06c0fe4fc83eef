/* The options of a connection's socket: conn:option(), and those that whoever makes connections
 * takes for them.
 * What this is not: what an option does (the system's), or how it is named there (link_uv.c). */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "rt.h"

/* ---- keepalive -------------------------------------------------------------------- */

enum { KEEP_SECONDS_MAX = 32767, KEEP_COUNT_MAX = 127 }; /* Linux's; nobody has higher ones */

/* The system counts whole seconds: a fraction is rounded up. nan: not given. */
static int keep_seconds(lua_State *L, const char *name, double s) {
  if (isnan(s)) return 0;
  if (s <= 0 || s > KEEP_SECONDS_MAX)
    luaL_error(L, "option '%s' of keepalive must be more than 0 and at most %d seconds", name,
               KEEP_SECONDS_MAX);
  return (int)ceil(s);
}

static int keep_count(lua_State *L, int n) {
  if (n < 0) return 0;
  if (n < 1 || n > KEEP_COUNT_MAX)
    luaL_error(L, "option 'count' of keepalive must be from 1 to %d", KEEP_COUNT_MAX);
  return n;
}

static struct keepalive keepalive_table(lua_State *L, int idx) {
  struct times {
    double idle, interval;
    int count;
  } times = {NAN, NAN, -1};
  static const struct opt keys[] = {{"idle", OPT_SECONDS, offsetof(struct times, idle)},
                                    {"interval", OPT_SECONDS, offsetof(struct times, interval)},
                                    {"count", OPT_INT, offsetof(struct times, count)},
                                    {NULL, OPT_ANY, 0}};
  opts_read(L, idx, keys, &times);
  return (struct keepalive){.on = true,
                            .idle = keep_seconds(L, "idle", times.idle),
                            .interval = keep_seconds(L, "interval", times.interval),
                            .count = keep_count(L, times.count)};
}

struct keepalive check_keepalive(lua_State *L, int idx) {
  if (lua_istable(L, idx)) return keepalive_table(L, idx);
  if (!lua_isboolean(L, idx))
    luaL_error(L,
               "option 'keepalive' must be a boolean or a table {idle=, interval=, count=}, not %s",
               luaL_typename(L, idx));
  return (struct keepalive){.on = lua_toboolean(L, idx)};
}

static int set_number(struct link *l, enum link_option what, int value) {
  return l->ops->option(l, what, true, &value);
}

/* -> how many */
static int keepalive_settings(const struct keepalive *k, struct link_setting *list) {
  const struct link_setting times[] = {
      {LINK_KEEP_IDLE, k->idle}, {LINK_KEEP_INTERVAL, k->interval}, {LINK_KEEP_COUNT, k->count}};
  int n = 0;
  list[n++] = (struct link_setting){LINK_KEEPALIVE, k->on};
  for (int i = 0; i < 3; i++)
    if (times[i].value) list[n++] = times[i];
  return n;
}

static int set_keepalive(struct link *l, const struct keepalive *k) {
  struct link_setting list[LISTEN_SETTINGS];
  int r = 0, n = keepalive_settings(k, list);
  for (int i = 0; i < n && r == 0; i++) r = set_number(l, list[i].what, list[i].value);
  return r;
}

/* Off is how the system makes a socket. */
int conn_opts_settings(const struct conn_opts *o, struct link_setting *list) {
  list[0] = (struct link_setting){LINK_NODELAY, o->nodelay};
  return 1 + (o->keepalive.on ? keepalive_settings(&o->keepalive, list + 1) : 0);
}

/* A transport without them is none the worse. */
void conn_opts_apply(struct link *l, const struct conn_opts *o) {
  struct link_setting list[LISTEN_SETTINGS];
  if (!l->outside) return;
  int n = conn_opts_settings(o, list);
  for (int i = 0; i < n; i++) set_number(l, list[i].what, list[i].value);
}

/* ---- the option method ------------------------------------------------------------ */

enum value { FLAG, SIZE, SERVICE, LINGER, KEEPALIVE };

struct conn_option {
  const char *name, *what;
  enum link_option id;
  enum value value;
};

static const struct conn_option options[] = {
    {"nodelay", "option nodelay", LINK_NODELAY, FLAG},
    {"keepalive", "option keepalive", LINK_KEEPALIVE, KEEPALIVE},
    {"linger", "option linger", LINK_LINGER, LINGER},
    {"recv_buffer", "option recv_buffer", LINK_RECV_BUFFER, SIZE},
    {"send_buffer", "option send_buffer", LINK_SEND_BUFFER, SIZE},
    {"tos", "option tos", LINK_TOS, SERVICE},
};

static const struct conn_option *check_option(lua_State *L) {
  return &options[check_name(L, 2, options, sizeof *options, sizeof options / sizeof *options)];
}

/* Whole seconds, rounded up; -1: off. */
static int check_linger(lua_State *L) {
  const int most = 65535;
  if (lua_isnil(L, 3) || (lua_isboolean(L, 3) && !lua_toboolean(L, 3))) return -1;
  double s = opt_seconds(L, 3, 0);
  luaL_argcheck(L, s >= 0 && s <= most, 3, "must be from 0 to 65535 seconds, nil or false");
  return (int)ceil(s);
}

static int check_number(lua_State *L, enum value kind) {
  switch (kind) {
  case FLAG:
    luaL_checktype(L, 3, LUA_TBOOLEAN);
    return lua_toboolean(L, 3);
  case SERVICE:
    return check_between(L, 3, 0, 255);
  case LINGER:
    return check_linger(L);
  default:
    return check_between(L, 3, 1, INT_MAX);
  }
}

static int option_set(lua_State *L, struct conn *c, const struct conn_option *o) {
  struct keepalive k = {.on = false};
  int n = 0, r = ERR_CLOSED;
  if (o->value == KEEPALIVE)
    k = check_keepalive(L, 3);
  else
    n = check_number(L, o->value);
  if (conn_is_open(c))
    r = o->value == KEEPALIVE ? set_keepalive(c->link, &k) : set_number(c->link, o->id, n);
  if (r) return conn_failed(L, c, o->what, r);
  lua_pushboolean(L, true);
  return 1;
}

static void set_time(lua_State *L, struct link *l, const char *name, enum link_option what) {
  int value;
  if (l->ops->option(l, what, false, &value) != 0) return; /* no TCP */
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

/* -> boolean[, the times of keepalive] */
static int push_keepalive(lua_State *L, struct link *l, bool on) {
  lua_pushboolean(L, on);
  if (!on) return 1;
  lua_createtable(L, 0, 3);
  set_time(L, l, "idle", LINK_KEEP_IDLE);
  set_time(L, l, "interval", LINK_KEEP_INTERVAL);
  set_time(L, l, "count", LINK_KEEP_COUNT);
  return 2;
}

static int option_get(lua_State *L, struct conn *c, const struct conn_option *o) {
  int n, r = ERR_CLOSED;
  if (conn_is_open(c)) r = c->link->ops->option(c->link, o->id, false, &n);
  if (r) return conn_failed(L, c, o->what, r);
  if (o->value == KEEPALIVE) return push_keepalive(L, c->link, n != 0);
  if (o->value == FLAG || (o->value == LINGER && n < 0))
    lua_pushboolean(L, n > 0);
  else
    lua_pushinteger(L, n);
  return 1;
}

/***
Reads an option of the connection's socket, or sets it.

`nodelay`: a boolean; small sends leave at once.  `keepalive`: a boolean, or a table `{idle=,
interval=, count=}` that also sets the times (seconds, which the system counts whole: fractions
are rounded up); read, it is a boolean, and where it is true a table of the times follows.
`linger`: seconds (rounded up as well), `nil` or `false` for none; read, `false` is none.  0
makes the close of the descriptor a reset; other values change nothing, as `close` does its own
lingering.  `recv_buffer`, `send_buffer`: bytes of the system's buffers; the system may round
them, and Linux reads back double.  `tos`: 0 to 255, the type of service, IPv6's traffic class.
@function Conn:option
@tparam string name the option
@tparam[opt] any value sets it; without, it is read
@treturn any the value; `true` when it was set
@codes ECLOSED, ENOTSUP (a transport that has no such option: a pipe, or `nodelay` of a Unix
  socket), EINVAL (a value that the system refuses)
@waits never
@raise an unknown name, a value of the wrong type or out of range
@follows setsockopt(2), socket(7), tcp(7)
*/
static int l_option(lua_State *L) {
  struct conn *c = check_conn(L, rt_of(L), 1);
  const struct conn_option *o = check_option(L);
  return lua_isnone(L, 3) ? option_get(L, c, o) : option_set(L, c, o);
}

const luaL_Reg lconnopt_methods[] = {{"option", l_option}, {NULL, NULL}};
