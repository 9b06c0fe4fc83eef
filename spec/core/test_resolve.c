/* Names: what the resolver makes of the system's answers, and what it does when the system
 * takes its time.
 *
 * getaddrinfo here is ours, so that no test asks a name server: "localhost" goes on to the
 * system's, "gate" waits until the test opens it, the others have fixed answers. */
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <uv/errno.h>

#include "probe.h"

/* ---- the system that answers ----------------------------------------------------- */

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool open;
  unsigned inside, most;  /* threads at the gate; the most at once */
  unsigned masked, asked; /* calls with signals blocked; calls */
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static const struct {
  const char *host;
  int eai, error;
} failures[] = {
    {"none.invalid", EAI_NONAME, 0},      {"empty.invalid", EAI_NODATA, 0},
    {"fail.invalid", EAI_FAIL, 0},        {"again.invalid", EAI_AGAIN, 0},
    {"memory.invalid", EAI_MEMORY, 0},    {"files.invalid", EAI_SYSTEM, EMFILE},
    {"wait.invalid", EAI_SYSTEM, EAGAIN},
};

typedef int system_lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int ask_system(const char *host, const struct addrinfo *hints, struct addrinfo **out) {
  system_lookup *next;
  *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
  return next(host, NULL, hints, out);
}

/* Numeric, so that the system answers without asking anybody. */
static int answer_twice(const struct addrinfo *hints, struct addrinfo **out) {
  int r = ask_system("192.0.2.7", hints, out);
  if (r == 0) r = ask_system("192.0.2.7", hints, &(*out)->ai_next);
  return r ? r : ask_system("2001:db8::7", hints, &(*out)->ai_next->ai_next);
}

static void pass_gate(void) {
  pthread_mutex_lock(&gate.lock);
  if (++gate.inside > gate.most) gate.most = gate.inside;
  pthread_cond_broadcast(&gate.changed);
  while (!gate.open) pthread_cond_wait(&gate.changed, &gate.lock);
  gate.inside--;
  pthread_mutex_unlock(&gate.lock);
}

static void note_call(void) {
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  pthread_mutex_lock(&gate.lock);
  gate.asked++;
  gate.masked += sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1;
  pthread_mutex_unlock(&gate.lock);
}

int getaddrinfo(const char *restrict host, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict out) {
  (void)service;
  note_call();
  for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
    if (strcmp(host, failures[i].host) != 0) continue;
    errno = failures[i].error;
    return failures[i].eai;
  }
  if (strcmp(host, "twice") == 0) return answer_twice(hints, out);
  if (strcmp(host, "gate") == 0) {
    pass_gate();
    return EAI_NONAME;
  }
  return ask_system(host, hints, out);
}

static void gate_shut(void) {
  pthread_mutex_lock(&gate.lock);
  gate.open = false;
  gate.inside = gate.most = gate.asked = gate.masked = 0;
  pthread_mutex_unlock(&gate.lock);
}

static void gate_open(void) {
  pthread_mutex_lock(&gate.lock);
  gate.open = true;
  pthread_cond_broadcast(&gate.changed);
  pthread_mutex_unlock(&gate.lock);
}

static void gate_await(unsigned n) {
  pthread_mutex_lock(&gate.lock);
  while (gate.inside < n) pthread_cond_wait(&gate.changed, &gate.lock);
  pthread_mutex_unlock(&gate.lock);
}

static int count_threads(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/task");
  while (d && readdir(d)) n++;
  if (d) closedir(d);
  return n - 2; /* "." and ".." */
}

/* A leak check must not see a thread on its way out. */
static void await_threads(struct world *w, int n) { AWAIT(w, count_threads() <= n); }

/* ---- the one who asks ------------------------------------------------------------ */

struct question {
  struct lookup lookup;
  struct question *to_drop;
  struct world *world;
  int code, n, answers;
  struct addr list[8];
};

static void on_done(struct lookup *l, int code, const struct addr *list, int n) {
  struct question *q = l->owner;
  q->code = code;
  q->n = n;
  q->answers++;
  for (int i = 0; i < n && i < 8; i++) q->list[i] = list[i];
  if (q->to_drop) q->world->ops->resolve_drop(q->world, &q->to_drop->lookup);
}

static void ask(struct world *w, struct question *q, const char *host) {
  *q = (struct question){.world = w};
  q->lookup.done = on_done;
  q->lookup.owner = q;
  CHECK_EQ(w->ops->resolve(w, host, &q->lookup), 0);
}

static int answer_of(const char *host, struct question *q) {
  struct world *w = probe_world();
  int threads = count_threads();
  ask(w, q, host);
  CHECK_EQ(q->answers, 0);
  CHECK_EQ(w->ops->open(w), 1);
  while (w->ops->poll(w, INFINITY))
    ;
  CHECK_EQ(q->answers, 1);
  w->ops->resolve_drop(w, &q->lookup);
  await_threads(w, threads);
  probe_world_end(w);
  return q->code;
}

TEST(localhost_is_found) {
  struct question q;
  CHECK_EQ(answer_of("localhost", &q), 0);
  CHECK(q.n >= 1);
  CHECK_EQ(q.list[0].port, 0);
  CHECK(q.list[0].kind == ADDR_IP4 || q.list[0].kind == ADDR_IP6);
}

TEST(an_address_is_listed_once) {
  struct question q;
  CHECK_EQ(answer_of("twice", &q), 0);
  CHECK_EQ(q.n, 2);
  CHECK_EQ(q.list[0].kind, ADDR_IP4);
  CHECK_EQ(q.list[1].kind, ADDR_IP6);
}

TEST(failures_have_codes_of_this_library) {
  struct question q;
  CHECK_EQ(answer_of("none.invalid", &q), ERR_NOTFOUND);
  CHECK_EQ(answer_of("empty.invalid", &q), ERR_NOTFOUND);
  CHECK_EQ(answer_of("fail.invalid", &q), ERR_NOTFOUND);
  CHECK_EQ(answer_of("again.invalid", &q), UV__EAI_AGAIN);
  CHECK_EQ(answer_of("memory.invalid", &q), ERR_NOMEM);
  CHECK_EQ(answer_of("files.invalid", &q), UV__EMFILE);
  CHECK_EQ(answer_of("wait.invalid", &q), UV__EAI_AGAIN);
  CHECK_EQ(q.n, 0);
}

TEST(at_most_four_ask_at_once_and_all_are_answered) {
  enum { N = 11 };
  struct world *w = probe_world();
  struct question qs[N];
  int threads = count_threads(), answers = 0;
  gate_shut();
  for (int i = 0; i < N; i++) ask(w, &qs[i], "gate");
  gate_await(4);
  CHECK_EQ(w->ops->open(w), N);
  gate_open();
  AWAIT(w, w->ops->open(w) == 0);
  for (int i = 0; i < N; i++) answers += qs[i].answers;
  CHECK_EQ(answers, N);
  CHECK_EQ(gate.most, 4);
  CHECK_EQ(gate.masked, N);
  await_threads(w, threads);
  probe_world_end(w);
}

TEST(a_dropped_question_is_not_answered) {
  enum { N = 6 };
  struct world *w = probe_world();
  struct question qs[N], late;
  int threads = count_threads();
  gate_shut();
  for (int i = 0; i < N; i++) ask(w, &qs[i], "gate");
  gate_await(4);
  w->ops->resolve_drop(w, &qs[5].lookup); /* the last of the queue */
  ask(w, &late, "gate");
  w->ops->resolve_drop(w, &qs[4].lookup); /* the first of it */
  w->ops->resolve_drop(w, &qs[0].lookup); /* in a thread */
  w->ops->resolve_drop(w, &qs[0].lookup);
  CHECK_EQ(w->ops->open(w), 4);
  gate_open();
  AWAIT(w, w->ops->open(w) == 0);
  await_threads(w, threads);
  CHECK_EQ(qs[0].answers + qs[4].answers + qs[5].answers, 0);
  CHECK_EQ(qs[1].answers + qs[2].answers + qs[3].answers + late.answers, 4);
  CHECK_EQ(gate.asked, 5);
  probe_world_end(w);
}

/* Both answers are in one delivery: the first to be told drops the other. */
TEST(an_answer_may_drop_another) {
  struct world *w = probe_world();
  struct question a, b;
  int threads = count_threads();
  gate_shut();
  ask(w, &a, "gate");
  ask(w, &b, "gate");
  a.to_drop = &b;
  b.to_drop = &a;
  gate_await(2);
  gate_open();
  while (count_threads() > threads)
    ;
  AWAIT(w, w->ops->open(w) == 0);
  CHECK_EQ(a.answers + b.answers, 1);
  probe_world_end(w);
}

TEST(a_dropped_question_keeps_nobody_waiting) {
  struct world *w = probe_world();
  struct question q;
  int threads = count_threads();
  gate_shut();
  ask(w, &q, "gate");
  gate_await(1);
  w->ops->resolve_drop(w, &q.lookup);
  CHECK(!w->ops->poll(w, INFINITY));
  gate_open();
  await_threads(w, threads);
  probe_world_end(w);
}

TEST(a_world_closes_while_the_system_still_thinks) {
  enum { N = 6 };
  struct world *w = probe_world(), *other = probe_world();
  struct question qs[N];
  int threads = count_threads();
  gate_shut();
  for (int i = 0; i < N; i++) ask(w, &qs[i], "gate");
  gate_await(4);
  double before = other->ops->now(other);
  w->ops->close(w);
  CHECK(other->ops->now(other) - before < 1);
  gate_open();
  await_threads(other, threads);
  for (int i = 0; i < N; i++) CHECK_EQ(qs[i].answers, 0);
  probe_world_end(other);
}
