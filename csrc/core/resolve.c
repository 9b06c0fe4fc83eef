/* The threads of the resolver: see resolve.h.
 *
 * A request is in one place at a time: the queue, the hands of one thread, or the answers; the
 * lock guards the moves.  request.lookup belongs to the loop alone: no thread looks at it. */
#include "resolve.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct request {
  struct request *next;
  struct lookup *lookup; /* NULL once dropped */
  int code, n;
  struct addr *list;
  char host[];
};

struct requests {
  struct request *first, *last;
};

struct resolver {
  uv_async_t answered;
  unsigned pending; /* the loop's alone */
  pthread_mutex_t lock;
  /* Behind the lock: */
  struct requests queue, answers;
  unsigned threads;
  unsigned holders; /* the threads, and the loop until the handle is closed */
  bool closed;
};

/* ---- requests -------------------------------------------------------------------- */

static struct request *request_new(const char *host, struct lookup *l) {
  size_t len = strlen(host) + 1;
  struct request *q = calloc(1, sizeof *q + len);
  if (!q) return NULL;
  memcpy(q->host, host, len);
  q->lookup = l;
  l->request = q;
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
}

static struct request *requests_pop(struct requests *qs) {
  struct request *q = qs->first;
  if (q) qs->first = q->next;
  return q;
}

static bool requests_remove(struct requests *qs, struct request *q) {
  struct request *before = NULL;
  for (struct request *at = qs->first; at; before = at, at = at->next) {
    if (at != q) continue;
    *(before ? &before->next : &qs->first) = q->next;
    if (qs->last == q) qs->last = before;
    return true;
  }
  return false;
}

static void requests_free(struct requests *qs) {
  for (struct request *q; (q = requests_pop(qs));) request_free(q);
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
static void look_up(struct request *q) {
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

/* The handle is the loop's: it is touched only behind the lock and before the end. */
static void *work(void *arg) {
  struct resolver *r = arg;
  pthread_mutex_lock(&r->lock);
  for (struct request *q; (q = requests_pop(&r->queue));) {
    pthread_mutex_unlock(&r->lock);
    look_up(q);
    pthread_mutex_lock(&r->lock);
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

/* Called with the lock held: a thread that is there sees the queue before it ends.  So one
 * that cannot be had is a failure only if there is none. */
static int want_thread(struct resolver *r) {
  if (r->threads == RESOLVE_THREADS) return 0;
  if (thread_create_quiet(work, r) != 0) return r->threads ? 0 : ERR_NOMEM;
  r->threads++;
  r->holders++;
  return 0;
}

/* ---- the loop's side ------------------------------------------------------------- */

static void settle(struct resolver *r, struct lookup *l) {
  l->request = NULL;
  if (--r->pending == 0) uv_unref((uv_handle_t *)&r->answered);
}

static void deliver(struct resolver *r, struct request *q) {
  struct lookup *l = q->lookup;
  if (l) {
    settle(r, l);
    l->done(l, q->code, q->list, q->code ? 0 : q->n);
  }
  request_free(q);
}

/* done() may ask and drop: the answers that it could drop are still whole. */
static void on_answered(uv_async_t *handle) {
  struct resolver *r = handle->data;
  pthread_mutex_lock(&r->lock);
  struct requests ready = r->answers;
  r->answers = (struct requests){NULL, NULL};
  pthread_mutex_unlock(&r->lock);
  for (struct request *q; (q = requests_pop(&ready));) deliver(r, q);
}

int resolver_ask(struct resolver *r, const char *host, struct lookup *l) {
  struct request *q = request_new(host, l);
  if (!q) return ERR_NOMEM;
  pthread_mutex_lock(&r->lock);
  int failed = want_thread(r);
  if (!failed) requests_push(&r->queue, q);
  pthread_mutex_unlock(&r->lock);
  if (failed) {
    l->request = NULL;
    request_free(q);
    return failed;
  }
  if (r->pending++ == 0) uv_ref((uv_handle_t *)&r->answered);
  return 0;
}

void resolver_drop(struct resolver *r, struct lookup *l) {
  struct request *q = l->request;
  if (!q) return;
  settle(r, l);
  q->lookup = NULL;
  pthread_mutex_lock(&r->lock);
  bool unseen = requests_remove(&r->queue, q);
  pthread_mutex_unlock(&r->lock);
  if (unseen) request_free(q);
}

unsigned resolver_pending(const struct resolver *r) { return r->pending; }

int resolver_open(uv_loop_t *loop, struct resolver **out) {
  struct resolver *r = calloc(1, sizeof *r);
  int failed = r ? uv_async_init(loop, &r->answered, on_answered) : ERR_NOMEM;
  if (failed) {
    free(r);
    return failed;
  }
  r->answered.data = r;
  r->holders = 1;
  pthread_mutex_init(&r->lock, NULL);
  uv_unref((uv_handle_t *)&r->answered);
  *out = r;
  return 0;
}

static void on_closed(uv_handle_t *handle) {
  struct resolver *r = handle->data;
  pthread_mutex_lock(&r->lock);
  leave_and_unlock(r);
}

void resolver_close(struct resolver *r) {
  pthread_mutex_lock(&r->lock);
  r->closed = true;
  requests_free(&r->queue);
  pthread_mutex_unlock(&r->lock);
  uv_close((uv_handle_t *)&r->answered, on_closed);
}
