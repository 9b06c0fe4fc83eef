/* Signals: functions of the user's, and what ends wire.run from outside.
 * What this is not: how a shutdown goes (lua/lunewire/quit.lua), how signals arrive (core). */
#include <signal.h>
#include <string.h>

#include "rt.h"

#define SIGNAL_NAME "lunewire.Signal"

static const int quit_signals[2] = {SIGINT, SIGTERM};

static const struct signal_name {
  const char *name;
  int number;
} names[] = {{"SIGHUP", SIGHUP},     {"SIGINT", SIGINT},   {"SIGQUIT", SIGQUIT},
             {"SIGTERM", SIGTERM},   {"SIGUSR1", SIGUSR1}, {"SIGUSR2", SIGUSR2},
             {"SIGCHLD", SIGCHLD},   {"SIGCONT", SIGCONT}, {"SIGALRM", SIGALRM},
             {"SIGWINCH", SIGWINCH}, {"SIGPIPE", SIGPIPE}, {NULL, 0}};

static const struct world_ops *ops_of(const struct rt *rt) { return rt->turn.world->ops; }

/* ---- jobs that are not lost ----------------------------------------------------------- */

static const double RETRY = 0.01; /* seconds */

static void on_retry(struct timer *t) {
  struct errand *a = (struct errand *)(void *)((char *)t - offsetof(struct errand, timer));
  job_queue(&a->rt->turn, &a->job);
}

static void errand_init(struct errand *a, struct rt *rt, void (*run)(struct job *)) {
  *a = (struct errand){.job.run = run, .timer.fire = on_retry, .rt = rt};
}

static void errand_begin(struct errand *a) { job_queue(&a->rt->turn, &a->job); }

static void errand_end(struct errand *a) {
  job_remove(&a->rt->turn, &a->job);
  timers_disarm(&a->rt->turn.timers, &a->timer);
}

/* Runs f(p), as rt_protect() does; once more after a while if there is no memory for it. */
static void errand_run(struct errand *a, lua_CFunction f, void *p) {
  lua_State *L = a->rt->driver;
  bool done = a->told ? rt_try(L, f, p, 0) : rt_protect(L, f, p, 0);
  if (!done && a->told) lua_pop(L, 1);
  a->told = !done;
  if (done) return;
  struct turn *t = &a->rt->turn;
  if (timers_arm(&t->timers, &a->timer, turn_now(t) + RETRY) != 0) errand_begin(a);
}

/* ---- the end of wire.run ------------------------------------------------------------ */

/* A second signal of either kind meets the system's default action, for the loop may be busy: the
 * first gave its own place up, and the other one's is given up here. */
static void on_quit(struct signal_watch *w) {
  struct quit *q = w->owner;
  int other = w == &q->watches[0];
  if (q->begun) return;
  q->begun = true;
  if (!q->replaced[other]) signal(quit_signals[other], SIG_DFL);
  errand_begin(&q->errand);
}

/* Protected: quit.lua's function in a task of its own. */
static int spawn_quit(lua_State *L) {
  struct rt *rt = lua_touserdata(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, rt->quit.fn);
  task_spawn(L, rt, 0, 0);
  return 0;
}

static void run_quit(struct job *j) {
  struct errand *a = (struct errand *)(void *)j;
  errand_run(a, spawn_quit, a->rt);
}

/* Watches what has to be watched now.  A system that refuses leaves its own action. */
static void quit_update(struct rt *rt) {
  struct quit *q = &rt->quit;
  for (int i = 0; i < 2; i++) {
    struct signal_watch *w = &q->watches[i];
    bool wanted = q->running && !q->replaced[i];
    if (!wanted)
      ops_of(rt)->signal_stop(rt->turn.world, w);
    else if (!w->handle && !q->begun)
      ops_of(rt)->signal_start(rt->turn.world, w, quit_signals[i], true);
  }
}

static void quit_begin(struct rt *rt) {
  struct quit *q = &rt->quit;
  q->running = true;
  q->begun = false;
  errand_init(&q->errand, rt, run_quit);
  for (int i = 0; i < 2; i++) q->watches[i] = (struct signal_watch){.fired = on_quit, .owner = q};
  quit_update(rt);
}

static void quit_end(struct rt *rt) {
  rt->quit.running = false;
  errand_end(&rt->quit.errand);
  quit_update(rt);
}

void rt_run(lua_State *L, struct rt *rt, bool (*done)(void *), void *arg) {
  quit_begin(rt);
  rt_drive_until(L, rt, done, arg);
  quit_end(rt);
}

/* core.on_quit(fn): what the first SIGINT or SIGTERM runs while wire.run runs */
static int l_on_quit(lua_State *L) {
  struct rt *rt = rt_of(L);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, rt->quit.fn);
  rt->quit.fn = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

/* ---- handlers of the user's --------------------------------------------------------- */

/* Userdata: user value 1 the function.  Anchored until cancelled. */
struct lsignal {
  struct errand errand; /* first */
  struct signal_watch watch;
  struct rt *rt;
  int ref;
  int number;
  bool active;
};

/* Counts the handlers that stand in the place of the end of wire.run. */
static void replace_quit(const struct lsignal *ls, bool on) {
  for (int i = 0; i < 2; i++)
    if (quit_signals[i] == ls->number) ls->rt->quit.replaced[i] += on ? 1u : -1u;
  quit_update(ls->rt);
}

static void on_signal(struct signal_watch *w) {
  struct lsignal *ls = w->owner;
  errand_begin(&ls->errand);
}

/* Protected. */
static int signal_fire(lua_State *L) {
  struct lsignal *ls = lua_touserdata(L, 1);
  rt_push_anchored(L, ls->rt, ls->ref);
  lua_getiuservalue(L, -1, 1);
  task_spawn(L, ls->rt, 0, 0);
  return 0;
}

static void signal_run(struct job *j) {
  struct lsignal *ls = (struct lsignal *)(void *)j;
  errand_run(&ls->errand, signal_fire, ls);
}

static void signal_end(lua_State *L, struct lsignal *ls) {
  if (!ls->active) return;
  ls->active = false;
  ops_of(ls->rt)->signal_stop(ls->rt->turn.world, &ls->watch);
  errand_end(&ls->errand);
  replace_quit(ls, false);
  rt_release(L, ls->rt, ls->ref);
}

/* "SIGHUP" or "HUP" -> its number; raises for anything else. */
static int check_signal(lua_State *L, int idx) {
  const char *name = luaL_checkstring(L, idx);
  for (const struct signal_name *s = names; s->name; s++)
    if (strcmp(name, s->name) == 0 || strcmp(name, s->name + 3) == 0) return s->number;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (const struct signal_name *s = names; s->name; s++) {
    if (s != names) luaL_addstring(&b, ", ");
    luaL_addstring(&b, s->name);
  }
  luaL_pushresult(&b);
  return luaL_error(L, "unknown signal '%s'; known are %s", name, lua_tostring(L, -1));
}

/***
Runs a function, in a task of its own, each time this process gets a signal.
Signals that come faster than the loop turns are one. For SIGINT and SIGTERM it replaces what
`wire.run` does about them. It does not keep `wire.run` going.
@function wire.on_signal
@tparam string name "SIGHUP" or "HUP", and so on
@tparam function fn called without arguments
@treturn Signal its `cancel()` ends this
@codes EINVAL (a signal that cannot be caught)
@waits never
@raise for an unknown name
*/
static int l_on_signal(lua_State *L) {
  struct rt *rt = rt_of(L);
  int number = check_signal(L, 1);
  check_callable(L, 2);
  refuse_in_finalizer(L, "on_signal");
  struct lsignal *ls = lua_newuserdatauv(L, sizeof *ls, 1);
  memset(ls, 0, sizeof *ls);
  ls->rt = rt;
  ls->ref = LUA_NOREF;
  ls->number = number;
  errand_init(&ls->errand, rt, signal_run);
  ls->watch = (struct signal_watch){.fired = on_signal, .owner = ls};
  luaL_setmetatable(L, SIGNAL_NAME);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, -1);
  ls->ref = rt_anchor(L, rt);
  int r = ops_of(rt)->signal_start(rt->turn.world, &ls->watch, number, false);
  if (r) {
    rt_release(L, rt, ls->ref);
    return push_failure(L, "on_signal", lua_tostring(L, 1), NULL, r);
  }
  ls->active = true;
  replace_quit(ls, true);
  return 1;
}

/***
Ends the handling; a run under way goes on.
@function Signal:cancel
@treturn boolean true, or false if it was over already
@waits never
*/
static int l_cancel(lua_State *L) {
  struct lsignal *ls = luaL_checkudata(L, 1, SIGNAL_NAME);
  lua_pushboolean(L, ls->active);
  signal_end(L, ls);
  return 1;
}

static int l_tostring(lua_State *L) {
  const struct lsignal *ls = luaL_checkudata(L, 1, SIGNAL_NAME);
  lua_pushfstring(L, "Signal (%d, %s): %p", ls->number, ls->active ? "handled" : "over",
                  lua_topointer(L, 1));
  return 1;
}

/* Only with the state: until it is cancelled it is anchored. */
static int lsignal_gc(lua_State *L) {
  struct lsignal *ls = lua_touserdata(L, 1);
  if (!ls->rt->closed) signal_end(L, ls);
  return 0;
}

void lsignal_register(lua_State *L, struct rt *rt) {
  static const luaL_Reg functions[] = {
      {"on_signal", l_on_signal}, {"on_quit", l_on_quit}, {NULL, NULL}};
  static const luaL_Reg methods[] = {
      {"cancel", l_cancel}, {"__close", l_cancel}, {"__tostring", l_tostring}, {NULL, NULL}};
  rt_metatable(L, rt, SIGNAL_NAME, methods, lsignal_gc);
  lua_pop(L, 1);
  rt_setfuncs(L, rt, functions);
}
