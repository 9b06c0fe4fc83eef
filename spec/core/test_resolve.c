/* Names: what the resolver makes of the system's answers, and what it does when the system
 * takes its time.
 *
 * getaddrinfo here is ours, so that no test asks a name server: "localhost" goes on to the
 * system's, names that begin with "gate" wait until the test opens it, addresses with commas
 * between them are a name that has all of these (also for test_dial.c), the others have fixed
 * answers. */
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
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
static int answer_all(const char *hosts, const struct addrinfo *hints, struct addrinfo **out) {
  char one[64];
  for (size_t len; *hosts; hosts += len + (hosts[len] == ',')) {
    len = strcspn(hosts, ",");
    memcpy(one, hosts, len);
    one[len] = 0;
    int r = ask_system(one, hints, out);
    if (r) return r;
    out = &(*out)->ai_next;
  }
  return 0;
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
  if (strchr(host, ',')) return answer_all(host, hints, out);
  if (strncmp(host, "gate", 4) == 0) {
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
  struct question *to_drop, *to_ask; /* when the answer comes; the same name */
  struct world *world;
  const char *host;
  int code, n, answers;
  struct addr list[8];
};

static void ask(struct world *w, struct question *q, const char *host);

static void on_done(struct lookup *l, int code, const struct addr *list, int n) {
  struct question *q = l->owner;
  q->code = code;
  q->n = n;
  q->answers++;
  for (int i = 0; i < n && i < 8; i++) q->list[i] = list[i];
  if (q->to_drop) q->world->ops->resolve_drop(q->world, &q->to_drop->lookup);
  if (q->to_ask) ask(q->world, q->to_ask, q->host);
}

static void ask(struct world *w, struct question *q, const char *host) {
  *q = (struct question){.world = w, .host = host};
  q->lookup.done = on_done;
  q->lookup.owner = q;
  CHECK_EQ(w->ops->resolve(w, host, &q->lookup), 0);
}

/* Names of their own, so that none shares another's answer. */
static void ask_gates(struct world *w, struct question *qs, int n) {
  char host[24];
  for (int i = 0; i < n; i++) {
    snprintf(host, sizeof host, "gate-%d", i);
    ask(w, &qs[i], host);
  }
}

static int count_answers(const struct question *qs, int n) {
  int answers = 0;
  for (int i = 0; i < n; i++) answers += qs[i].answers;
  return answers;
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
  CHECK_EQ(answer_of("192.0.2.7,192.0.2.7,2001:db8::7", &q), 0);
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
  int threads = count_threads();
  double began = w->ops->now(w);
  gate_shut();
  ask_gates(w, qs, N);
  gate_await(4);
  CHECK_EQ(w->ops->open(w), N);
  gate_open();
  AWAIT(w, w->ops->open(w) == 0);
  CHECK_EQ(count_answers(qs, N), N);
  if (w->ops->now(w) - began < 1) CHECK_EQ(gate.most, 4); /* none can have been stuck */
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
  ask_gates(w, qs, N);
  gate_await(4);
  w->ops->resolve_drop(w, &qs[5].lookup); /* the last of the queue */
  ask(w, &late, "gate-late");
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
static void drop_one_another(const char *host_a, const char *host_b, unsigned questions) {
  struct world *w = probe_world();
  struct question a, b;
  int threads = count_threads();
  gate_shut();
  ask(w, &a, host_a);
  ask(w, &b, host_b);
  a.to_drop = &b;
  b.to_drop = &a;
  gate_await(questions);
  gate_open();
  while (count_threads() > threads)
    ;
  AWAIT(w, w->ops->open(w) == 0);
  CHECK_EQ(a.answers + b.answers, 1);
  CHECK_EQ(gate.asked, questions);
  probe_world_end(w);
}

TEST(an_answer_may_drop_another) { drop_one_another("gate-a", "gate-b", 2); }
TEST(an_answer_may_drop_another_of_the_same_name) { drop_one_another("gate", "gate", 1); }

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
  ask_gates(w, qs, N);
  gate_await(4);
  double before = other->ops->now(other);
  w->ops->close(w);
  CHECK(other->ops->now(other) - before < 1);
  gate_open();
  await_threads(other, threads);
  for (int i = 0; i < N; i++) CHECK_EQ(qs[i].answers, 0);
  probe_world_end(other);
}

/* ---- several who ask for the same name --------------------------------------------- */

TEST(who_asks_for_the_same_name_shares_one_question) {
  enum { N = 6 };
  struct world *w = probe_world();
  struct question qs[N];
  int threads = count_threads();
  gate_shut();
  for (int i = 0; i < N; i++) ask(w, &qs[i], "gate");
  CHECK_EQ(w->ops->open(w), N);
  w->ops->resolve_drop(w, &qs[0].lookup);
  w->ops->resolve_drop(w, &qs[3].lookup);
  w->ops->resolve_drop(w, &qs[5].lookup);
  CHECK_EQ(w->ops->open(w), 3);
  gate_await(1);
  gate_open();
  AWAIT(w, w->ops->open(w) == 0);
  CHECK_EQ(gate.asked, 1);
  for (int i = 0; i < N; i++) {
    bool dropped = i == 0 || i == 3 || i == 5;
    CHECK_EQ(qs[i].answers, dropped ? 0 : 1);
    if (!dropped) CHECK_EQ(qs[i].code, ERR_NOTFOUND);
  }
  await_threads(w, threads);
  probe_world_end(w);
}

TEST(who_asks_for_a_name_that_the_first_gave_up_joins_the_question) {
  struct world *w = probe_world();
  struct question first, second;
  int threads = count_threads();
  gate_shut();
  ask(w, &first, "gate");
  gate_await(1);
  w->ops->resolve_drop(w, &first.lookup);
  CHECK_EQ(w->ops->open(w), 0);
  ask(w, &second, "gate");
  gate_open();
  AWAIT(w, w->ops->open(w) == 0);
  CHECK_EQ(gate.asked, 1);
  CHECK_EQ(first.answers, 0);
  CHECK_EQ(second.answers, 1);
  await_threads(w, threads);
  probe_world_end(w);
}

TEST(an_answer_is_not_kept) {
  struct world *w = probe_world();
  struct question first, second;
  int threads = count_threads();
  gate_shut();
  gate_open();
  ask(w, &first, "gate");
  first.to_ask = &second; /* from within the answer */
  second.answers = 0;
  AWAIT(w, first.answers && second.answers);
  CHECK_EQ(gate.asked, 2);
  await_threads(w, threads);
  probe_world_end(w);
}

/* ---- threads that are stuck --------------------------------------------------------- */

/* Four names whose server is dead, and then one that is known. */
static void ask_behind_stuck_threads(bool given_up) {
  enum { N = 4 };
  struct world *w = probe_world();
  struct question qs[N], q;
  int threads = count_threads();
  gate_shut();
  ask_gates(w, qs, N);
  gate_await(N);
  for (int i = 0; given_up && i < N; i++) w->ops->resolve_drop(w, &qs[i].lookup);
  double began = w->ops->now(w);
  ask(w, &q, "192.0.2.7,192.0.2.8");
  AWAIT(w, q.answers);
  CHECK(w->ops->now(w) - began < 5);
  CHECK_EQ(q.code, 0);
  CHECK_EQ(q.n, 2);
  CHECK_EQ(count_answers(qs, N), 0);
  gate_open();
  AWAIT(w, w->ops->open(w) == 0);
  CHECK_EQ(count_answers(qs, N), given_up ? 0 : N);
  await_threads(w, threads);
  probe_world_end(w);
}

TEST(threads_that_are_stuck_do_not_hold_up_other_names) { ask_behind_stuck_threads(false); }
TEST(threads_that_are_stuck_for_nobody_do_not_either) { ask_behind_stuck_threads(true); }

/* Four more each second. */
TEST(even_with_all_of_them_stuck_there_are_at_most_32_threads) {
  enum { N = 40 };
  struct world *w = probe_world();
  struct question qs[N];
  int threads = count_threads();
  gate_shut();
  ask_gates(w, qs, N);
  AWAIT(w, gate.inside >= 16);
  AWAIT(w, gate.inside >= 32);
  double end = w->ops->now(w) + 1.5;
  AWAIT(w, w->ops->now(w) >= end);
  CHECK_EQ(gate.most, 32);
  gate_open();
  AWAIT(w, w->ops->open(w) == 0);
  CHECK_EQ(count_answers(qs, N), N);
  await_threads(w, threads);
  probe_world_end(w);
}
