/* The threads of the resolver: see resolve.h.
 *
 * A request is in one place at a time: the queue, the hands of one thread, or the answers; the
 * lock guards the moves.  Who asks belongs to the loop alone: no thread looks at it.
 *
 * getaddrinfo cannot be interrupted, and with a dead name server it takes a minute.  A thread
 * that is stuck in it is left alone and another one takes its place among the few, so that the
 * other names go on. */
#include "resolve.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { FLIGHT_BUCKETS = 64, PATROL_MS = RESOLVE_STUCK_MS / 4 };

/* One who asked; several may ask for the same name. */
struct asker {
  struct asker *prev, *next;
  struct request *request;
  struct lookup *lookup;
};

struct request {
  struct request *next;        /* where it is */
  struct request *next_flight; /* in its bucket of the flights */
  struct asker *first_asker, *last_asker;
  uint64_t since; /* when a thread took it, in nanoseconds */
  int code, n;
  struct addr *list;
  char host[];
};

struct requests {
  struct request *first, *last;
  unsigned n;
};

struct resolver {
  uv_async_t answered;
  uv_timer_t patrol; /* runs while questions are queued */
  /* The loop's alone: */
  unsigned pending;
  struct request *flights[FLIGHT_BUCKETS]; /* all that are not answered yet */
  pthread_mutex_t lock;
  /* Behind the lock: */
  struct requests queue, asking, answers;
  unsigned threads;
  unsigned holders; /* the threads, and the loop for each handle until it is closed */
  bool closed;
};

/* ---- requests -------------------------------------------------------------------- */

static struct request *request_new(const char *host) {
  size_t len = strlen(host) + 1;
  struct request *q = calloc(1, sizeof *q + len);
  if (q) memcpy(q->host, host, len);
  return q;
}

static void request_free(struct request *q) {
  free(q->list);
  free(q);
}

static void requests_push(struct requests *qs, struct request *q) {
  q->next = NULL;
  if (qs->first)
    qs->last->next = q;
  else
    qs->first = q;
  qs->last = q;
  qs->n++;
}

static struct request *requests_pop(struct requests *qs) {
  struct request *q = qs->first;
  if (!q) return NULL;
  qs->first = q->next;
  qs->n--;
  return q;
}

static bool requests_remove(struct requests *qs, struct request *q) {
  struct request *before = NULL;
  for (struct request *at = qs->first; at; before = at, at = at->next) {
    if (at != q) continue;
    *(before ? &before->next : &qs->first) = q->next;
    if (qs->last == q) qs->last = before;
    qs->n--;
    return true;
  }
  return false;
}

static void requests_free(struct requests *qs) {
  for (struct request *q; (q = requests_pop(qs));) request_free(q);
}

/* ---- flights: who asks for a name that is being looked up joins its request --------- */

static struct request **bucket_of(struct resolver *r, const char *host) {
  uint32_t h = 2166136261u; /* FNV-1a */
  for (; *host; host++) h = (h ^ (unsigned char)*host) * 16777619u;
  return &r->flights[h % FLIGHT_BUCKETS];
}

static struct request *flight_to(struct resolver *r, const char *host) {
  struct request *q = *bucket_of(r, host);
  while (q && strcmp(q->host, host) != 0) q = q->next_flight;
  return q;
}

static void flight_begin(struct resolver *r, struct request *q) {
  struct request **bucket = bucket_of(r, q->host);
  q->next_flight = *bucket;
  *bucket = q;
}

static void flight_end(struct resolver *r, struct request *q) {
  struct request **at = bucket_of(r, q->host);
  while (*at != q) at = &(*at)->next_flight;
  *at = q->next_flight;
}

static void asker_join(struct asker *a, struct request *q, struct lookup *l) {
  *a = (struct asker){.request = q, .lookup = l, .prev = q->last_asker};
  *(a->prev ? &a->prev->next : &q->first_asker) = a;
  q->last_asker = a;
  l->request = a;
}

static struct asker *askers_pop(struct request *q) {
  struct asker *a = q->first_asker;
  if (!a) return NULL;
  q->first_asker = a->next;
  *(a->next ? &a->next->prev : &q->last_asker) = NULL;
  return a;
}

static void asker_leave(struct asker *a) {
  if (!a->prev) {
    askers_pop(a->request);
    return;
  }
  a->prev->next = a->next;
  *(a->next ? &a->next->prev : &a->request->last_asker) = a->prev;
}

/* ---- asking the system ----------------------------------------------------------- */

/* A code that elsewhere means "wait" or "our deadline passed" must not come from here. */
static int system_code(int error) {
  return error == 0 || error == EAGAIN || error == ETIMEDOUT ? UV_EAI_AGAIN : -error;
}

static int answer_code(int eai, int error) {
  switch (eai) {
  case EAI_AGAIN:
    return UV_EAI_AGAIN;
  case EAI_MEMORY:
    return ERR_NOMEM;
  case EAI_SYSTEM:
    return system_code(error);
  default:
    return ERR_NOTFOUND;
  }
}

static bool is_listed(const struct request *q, const struct addr *a) {
  for (int i = 0; i < q->n; i++)
    if (q->list[i].kind == a->kind && q->list[i].scope == a->scope &&
        memcmp(q->list[i].ip, a->ip, sizeof a->ip) == 0)
      return true;
  return false;
}

static int count_answers(const struct addrinfo *info) {
  int n = 0;
  for (; info && n < RESOLVE_ADDRESSES; info = info->ai_next) n++;
  return n;
}

static int collect(struct request *q, const struct addrinfo *info) {
  int most = count_answers(info);
  if (most == 0) return ERR_NOTFOUND;
  q->list = calloc((size_t)most, sizeof *q->list);
  if (!q->list) return ERR_NOMEM;
  for (; info && q->n < most; info = info->ai_next) {
    struct addr a = {.kind = ADDR_NONE};
    addr_from_sockaddr(&a, info->ai_addr);
    a.port = 0;
    if (a.kind != ADDR_NONE && !is_listed(q, &a)) q->list[q->n++] = a;
  }
  return q->n ? 0 : ERR_NOTFOUND;
}

/* Without AI_ADDRCONFIG: a host that has only its loopback must find "localhost". */
static void ask_system(struct request *q) {
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *info = NULL;
  errno = 0;
  int r = getaddrinfo(q->host, NULL, &hints, &info);
  q->code = r ? answer_code(r, errno) : collect(q, info);
  if (r == 0) freeaddrinfo(info);
}

/* ---- threads --------------------------------------------------------------------- */

static void resolver_free(struct resolver *r) {
  requests_free(&r->queue);
  requests_free(&r->answers);
  pthread_mutex_destroy(&r->lock);
  free(r);
}

/* Called with the lock held. */
static void leave_and_unlock(struct resolver *r) {
  bool last = --r->holders == 0;
  pthread_mutex_unlock(&r->lock);
  if (last) resolver_free(r);
}

static bool is_stuck(const struct request *q, uint64_t now) {
  return now - q->since >= (uint64_t)RESOLVE_STUCK_MS * 1000000;
}

/* Threads from whose question something is to be hoped for soon.  Called with the lock held. */
static unsigned able_threads(const struct resolver *r) {
  uint64_t now = uv_hrtime();
  unsigned n = r->threads;
  for (struct request *q = r->asking.first; q; q = q->next) n -= is_stuck(q, now);
  return n;
}

/* Takes the next question, or NULL: there is none, or it is left to the others because this
 * thread was stuck and has been replaced.  Called with the lock held. */
static struct request *take_question(struct resolver *r) {
  struct request *q = able_threads(r) > RESOLVE_THREADS ? NULL : requests_pop(&r->queue);
  if (!q) return NULL;
  q->since = uv_hrtime();
  requests_push(&r->asking, q);
  return q;
}

/* The handle is the loop's: it is touched only behind the lock and before the end. */
static void *work(void *arg) {
  struct resolver *r = arg;
  pthread_mutex_lock(&r->lock);
  for (struct request *q; (q = take_question(r));) {
    pthread_mutex_unlock(&r->lock);
    ask_system(q);
    pthread_mutex_lock(&r->lock);
    requests_remove(&r->asking, q);
    requests_push(&r->answers, q);
    if (!r->closed) uv_async_send(&r->answered);
  }
  r->threads--;
  leave_and_unlock(r);
  return NULL;
}

static int thread_create(void *(*run)(void *), void *arg) {
  pthread_attr_t attr;
  pthread_t id;
  int r = pthread_attr_init(&attr);
  if (r) return r;
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attr, RESOLVE_STACK);
  r = pthread_create(&id, &attr, run, arg);
  pthread_attr_destroy(&attr);
  return r;
}

/* A new thread inherits the mask: signals stay with the threads of the program. */
static int thread_create_quiet(void *(*run)(void *), void *arg) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int r = thread_create(run, arg);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return r;
}

static bool wants_thread(const struct resolver *r) {
  unsigned coming = r->threads - r->asking.n; /* they see the queue before they end */
  return r->queue.n > coming && r->threads < RESOLVE_THREADS_MAX &&
         able_threads(r) < RESOLVE_THREADS;
}

/* Called with the lock held.  A thread that cannot be had is a failure only if there is none:
 * otherwise the queue is seen to later. */
static int want_threads(struct resolver *r) {
  while (wants_thread(r)) {
    if (thread_create_quiet(work, r) != 0) return r->threads ? 0 : ERR_NOMEM;
    r->threads++;
    r->holders++;
  }
  return 0;
}

/* ---- the loop's side ------------------------------------------------------------- */

/* Threads may have got stuck since the questions were queued. */
static void on_patrol(uv_timer_t *timer) {
  struct resolver *r = timer->data;
  pthread_mutex_lock(&r->lock);
  want_threads(r);
  bool idle = r->queue.n == 0;
  pthread_mutex_unlock(&r->lock);
  if (idle) uv_timer_stop(timer);
}

/* It is among the askers of no request any more. */
static void settle(struct resolver *r, struct asker *a) {
  a->lookup->request = NULL;
  free(a);
  if (--r->pending == 0) uv_unref((uv_handle_t *)&r->answered);
}

static void deliver(struct resolver *r, struct request *q) {
  flight_end(r, q);
  for (struct asker *a; (a = askers_pop(q));) {
    struct lookup *l = a->lookup;
    settle(r, a);
    l->done(l, q->code, q->list, q->code ? 0 : q->n);
  }
  request_free(q);
}

/* done() may ask and drop: whoever has not been told yet can still leave. */
static void on_answered(uv_async_t *handle) {
  struct resolver *r = handle->data;
  pthread_mutex_lock(&r->lock);
  struct requests ready = r->answers;
  r->answers = (struct requests){NULL, NULL, 0};
  pthread_mutex_unlock(&r->lock);
  for (struct request *q; (q = requests_pop(&ready));) deliver(r, q);
}

/* 0, or a code and q is gone. */
static int request_begin(struct resolver *r, struct request *q) {
  pthread_mutex_lock(&r->lock);
  requests_push(&r->queue, q);
  int failed = want_threads(r);
  if (failed) requests_remove(&r->queue, q);
  pthread_mutex_unlock(&r->lock);
  if (failed) {
    request_free(q);
    return failed;
  }
  flight_begin(r, q);
  if (!uv_is_active((uv_handle_t *)&r->patrol))
    uv_timer_start(&r->patrol, on_patrol, PATROL_MS, PATROL_MS);
  return 0;
}

int resolver_ask(struct resolver *r, const char *host, struct lookup *l) {
  struct asker *a = malloc(sizeof *a);
  struct request *flight = flight_to(r, host), *q = flight ? flight : request_new(host);
  int failed = !a || !q ? ERR_NOMEM : 0;
  if (failed && !flight) free(q);
  if (!failed && !flight) failed = request_begin(r, q);
  if (failed) {
    free(a);
    return failed;
  }
  asker_join(a, q, l);
  if (r->pending++ == 0) uv_ref((uv_handle_t *)&r->answered);
  return 0;
}

/* A question that nobody asks any more, and no thread has begun. */
static void forget_unseen(struct resolver *r, struct request *q) {
  pthread_mutex_lock(&r->lock);
  bool unseen = requests_remove(&r->queue, q);
  pthread_mutex_unlock(&r->lock);
  if (!unseen) return;
  flight_end(r, q);
  request_free(q);
}

void resolver_drop(struct resolver *r, struct lookup *l) {
  struct asker *a = l->request;
  if (!a) return;
  struct request *q = a->request;
  asker_leave(a);
  settle(r, a);
  if (!q->first_asker) forget_unseen(r, q);
}

unsigned resolver_pending(const struct resolver *r) { return r->pending; }

int resolver_open(uv_loop_t *loop, struct resolver **out) {
  struct resolver *r = calloc(1, sizeof *r);
  int failed = r ? uv_async_init(loop, &r->answered, on_answered) : ERR_NOMEM;
  if (failed) {
    free(r);
    return failed;
  }
  uv_timer_init(loop, &r->patrol);
  r->answered.data = r->patrol.data = r;
  r->holders = 2;
  pthread_mutex_init(&r->lock, NULL);
  uv_unref((uv_handle_t *)&r->answered);
  uv_unref((uv_handle_t *)&r->patrol);
  *out = r;
  return 0;
}

static void on_closed(uv_handle_t *handle) {
  struct resolver *r = handle->data;
  pthread_mutex_lock(&r->lock);
  leave_and_unlock(r);
}

static void abandon_askers(struct resolver *r) {
  for (int i = 0; i < FLIGHT_BUCKETS; i++)
    for (struct request *q = r->flights[i]; q; q = q->next_flight)
      for (struct asker *a; (a = askers_pop(q));) free(a);
}

void resolver_close(struct resolver *r) {
  abandon_askers(r);
  pthread_mutex_lock(&r->lock);
  r->closed = true;
  requests_free(&r->queue);
  pthread_mutex_unlock(&r->lock);
  uv_close((uv_handle_t *)&r->answered, on_closed);
  uv_close((uv_handle_t *)&r->patrol, on_closed);
}
