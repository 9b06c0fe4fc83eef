/* Names: resolve, and taking an address apart.
 * What this is not: the threads that look up (core/resolve.c), trying addresses (core/dial.c). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rt.h"

struct llookup {
  struct owned owned; /* first */
  struct lookup lookup;
  struct world *world; /* NULL: nothing under way */
  struct waitq waiters;
  struct addr *list;
  int n, code; /* code ERR_AGAIN: no answer yet */
};

/* Nobody is told any more. */
static void llookup_drop(struct llookup *ll) {
  if (ll->world) ll->world->ops->resolve_drop(ll->world, &ll->lookup);
  ll->world = NULL;
}

static void llookup_end(struct owned *o) {
  struct llookup *ll = (struct llookup *)(void *)o;
  waitq_wake_all(&ll->waiters, ERR_CLOSED);
  llookup_drop(ll);
  free(ll->list);
}

static void abandon(lua_State *L, struct op *o) {
  (void)L;
  llookup_drop(o->on);
}

static void on_found(struct lookup *l, int code, const struct addr *list, int n) {
  struct llookup *ll = l->owner;
  ll->world = NULL;
  ll->code = code;
  if (code == 0) {
    ll->list = malloc((size_t)n * sizeof *list);
    ll->n = n;
    if (ll->list)
      memcpy(ll->list, list, (size_t)n * sizeof *list);
    else
      ll->code = ERR_NOMEM;
  }
  waitq_wake_first(&ll->waiters);
}

static int push_list(lua_State *L, const struct addr *list, int n) {
  char text[ADDR_TEXT_MAX];
  lua_createtable(L, n, 0);
  for (int i = 0; i < n; i++) {
    lua_pushlstring(L, text, addr_print_host(&list[i], text));
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int resolve_run(lua_State *L, struct rt *rt, struct op *o) {
  struct llookup *ll = o->on;
  int r = 0;
  while ((op_spent(L, rt, o) || ll->code == ERR_AGAIN) && r == 0) r = op_wait(L, rt, o);
  op_done(rt, o);
  llookup_drop(ll);
  if (ll->code != ERR_AGAIN) r = ll->code;
  if (r) return push_failure(L, o->what, lua_tostring(L, 1), NULL, r);
  return push_list(L, ll->list, ll->n);
}

/***
Looks up the IP addresses of a host, without blocking the loop.

The system's own resolver is asked (hosts file, DNS, whatever it is set up for), on at most four
threads; a thread that has got no answer for a second is not counted among them, up to 32. Calls
that ask for the same name at the same time share one lookup, each with its own timeout; nothing
is kept beyond that. An IP address is its own answer.
@function wire.resolve
@tparam string host a name or an IP address
@tparam[opt] table|number opts a timeout, or a table:
@tparam[opt=math.huge] number opts.timeout seconds
@treturn {string,...} IP addresses, each once, in the system's order
@codes ENOTFOUND, EAI_AGAIN (the name servers do not answer), ETIMEDOUT
@waits until the answer is there
@raise a zero byte in the host; where Lua cannot yield
@follows net.Resolver of Go
*/
static int l_resolve(lua_State *L) {
  static const struct opt keys[] = {{"timeout", OPT_SECONDS, 0}, {NULL, OPT_ANY, 0}};
  struct rt *rt = rt_of(L);
  struct addr a;
  double timeout = INFINITY;
  size_t n;
  const char *host = luaL_checklstring(L, 1, &n);
  luaL_argcheck(L, strlen(host) == n, 1, "a host name has no zero byte");
  refuse_in_finalizer(L, "resolve");
  opts_read(L, 2, keys, &timeout);
  struct llookup *ll = owned_by_call(L, rt, sizeof *ll, llookup_end);
  ll->code = ERR_AGAIN;
  ll->lookup = (struct lookup){.done = on_found, .owner = ll};
  struct op o = {.run = resolve_run,
                 .what = "resolve",
                 .on = ll,
                 .q = &ll->waiters,
                 .timeout = timeout,
                 .outside = true,
                 .abandon = abandon};
  if (addr_from_ip(&a, host, 0) == 0) {
    on_found(&ll->lookup, 0, &a, 1);
    return resolve_run(L, rt, &o);
  }
  int r = rt->turn.world->ops->resolve(rt->turn.world, host, &ll->lookup);
  if (r) return push_failure(L, o.what, host, NULL, r);
  ll->world = rt->turn.world;
  return resolve_run(L, rt, &o);
}

/* split_address(addr) -> host, port, is it numeric (no host and a Unix socket count as such) |
 * nothing if addr is no address */
static int l_split_address(lua_State *L) {
  char host[ADDR_HOST_MAX];
  const char *why;
  uint16_t port;
  struct addr a;
  if (check_address(L, 1, host, &port, &why) != 0) return 0;
  lua_pushstring(L, host);
  lua_pushinteger(L, port);
  lua_pushboolean(L, !*host || addr_is_unix(host) || addr_from_ip(&a, host, port) == 0);
  return 3;
}

void lresolve_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"resolve", l_resolve}, {"split_address", l_split_address}, {NULL, NULL}};
  rt_setfuncs(L, rt, functions);
}
