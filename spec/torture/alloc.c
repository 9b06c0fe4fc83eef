/* The books and the decision: see alloc.h. */
#include "alloc.h"

#include <execinfo.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* Before each block. */
struct block {
  _Alignas(16) struct block *prev, *next;
  size_t size;
  unsigned long serial;
  int family;
  void *frames[ALLOC_FRAMES];
};

static struct {
  pthread_mutex_t lock; /* the resolver's threads allocate, too */
  struct block *first;
  struct balance balance;
  unsigned long serial;
  unsigned families; /* that are counted; 0: not armed */
  enum mode mode;
  long count, k;
  bool places;
} books = {.lock = PTHREAD_MUTEX_INITIALIZER};

void *__real_malloc(size_t size);
void *__real_realloc(void *p, size_t size);
void __real_free(void *p);

/* ---- the decision ------------------------------------------------------------------- */

static bool is_doomed(long count) {
  if (books.k == 0 || count < books.k) return false;
  return books.mode == MODE_FROM || count == books.k ||
         (books.mode == MODE_PAIR && count == books.k + 1);
}

/* With the lock held. */
static bool may_allocate(int family) {
  if (!(books.families & 1u << family)) return true;
  return !is_doomed(++books.count);
}

void alloc_arm(unsigned families, enum mode mode, long k) {
  pthread_mutex_lock(&books.lock);
  books.families = families;
  books.mode = mode;
  books.k = k;
  books.count = 0;
  pthread_mutex_unlock(&books.lock);
}

long alloc_disarm(void) {
  pthread_mutex_lock(&books.lock);
  books.families = 0;
  long count = books.count;
  pthread_mutex_unlock(&books.lock);
  return count;
}

/* ---- the books ---------------------------------------------------------------------- */

static void enter(struct block *b, int family, size_t size) {
  b->family = family;
  b->size = size;
  b->serial = ++books.serial;
  b->prev = NULL;
  b->next = books.first;
  if (b->next) b->next->prev = b;
  books.first = b;
  books.balance.blocks[family]++;
  books.balance.bytes[family] += (long)size;
  memset(b->frames, 0, sizeof b->frames);
  if (books.places) backtrace(b->frames, ALLOC_FRAMES);
}

static void leave(struct block *b) {
  *(b->prev ? &b->prev->next : &books.first) = b->next;
  if (b->next) b->next->prev = b->prev;
  books.balance.blocks[b->family]--;
  books.balance.bytes[b->family] -= (long)b->size;
}

struct balance alloc_balance(void) {
  pthread_mutex_lock(&books.lock);
  struct balance now = books.balance;
  pthread_mutex_unlock(&books.lock);
  return now;
}

void alloc_note_places(bool on) { books.places = on; }

unsigned long alloc_mark(void) { return books.serial; }

int alloc_held(unsigned long mark, int i, size_t *size, void *frames[ALLOC_FRAMES]) {
  for (const struct block *b = books.first; b && b->serial > mark; b = b->next) {
    if (i-- > 0) continue;
    memcpy(frames, b->frames, sizeof b->frames);
    *size = b->size;
    return b->family;
  }
  return -1;
}

/* ---- allocating --------------------------------------------------------------------- */

static struct block *block_of(void *p) { return (struct block *)p - 1; }

static void *obtain(int family, size_t size) {
  pthread_mutex_lock(&books.lock);
  struct block *b = may_allocate(family) ? __real_malloc(sizeof *b + size) : NULL;
  if (b) enter(b, family, size);
  pthread_mutex_unlock(&books.lock);
  return b ? b + 1 : NULL;
}

static void release(void *p) {
  if (!p) return;
  pthread_mutex_lock(&books.lock);
  leave(block_of(p));
  pthread_mutex_unlock(&books.lock);
  __real_free(block_of(p));
}

/* Moves always, so that who keeps the old address is found out.  To shrink never fails: Lua relies
 * on that. */
static void *resize(int family, void *p, size_t size) {
  if (!p) return obtain(family, size);
  size_t old = block_of(p)->size;
  pthread_mutex_lock(&books.lock);
  struct block *b = size <= old || may_allocate(family) ? __real_malloc(sizeof *b + size) : NULL;
  if (b) enter(b, family, size);
  pthread_mutex_unlock(&books.lock);
  if (!b) return NULL;
  memcpy(b + 1, p, old < size ? old : size);
  release(p);
  return b + 1;
}

static void *obtain_zeroed(int family, size_t n, size_t each) {
  if (each && n > (size_t)-1 / each) return NULL;
  void *p = obtain(family, n * each);
  return p ? memset(p, 0, n * each) : NULL;
}

/* ---- Lua, libuv, OpenSSL -------------------------------------------------------------- */

void *alloc_lua(void *ud, void *old, size_t old_size, size_t size) {
  (void)ud;
  (void)old_size;
  if (size) return resize(FAMILY_LUA, old, size);
  release(old);
  return NULL;
}

static void *uv_obtain(size_t size) { return obtain(FAMILY_UV, size); }
static void *uv_resize(void *p, size_t size) { return resize(FAMILY_UV, p, size); }
static void *uv_obtain_zeroed(size_t n, size_t each) { return obtain_zeroed(FAMILY_UV, n, each); }

static void *ssl_obtain(size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  return obtain(FAMILY_OPENSSL, size);
}

static void *ssl_resize(void *p, size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  if (p && size == 0) {
    release(p);
    return NULL;
  }
  return resize(FAMILY_OPENSSL, p, size);
}

static void ssl_release(void *p, const char *file, int line) {
  (void)file;
  (void)line;
  release(p);
}

void alloc_install(void) {
  void *frame;
  backtrace(&frame, 1); /* loads what it needs, outside the books */
  if (uv_replace_allocator(uv_obtain, uv_resize, uv_obtain_zeroed, release) != 0 ||
      !CRYPTO_set_mem_functions(ssl_obtain, ssl_resize, ssl_release))
    abort();
}

/* ---- the module's own ---------------------------------------------------------------- */

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *p);

void *__wrap_malloc(size_t size) { return obtain(FAMILY_CORE, size); }
void *__wrap_calloc(size_t n, size_t each) { return obtain_zeroed(FAMILY_CORE, n, each); }
void *__wrap_realloc(void *p, size_t size) { return resize(FAMILY_CORE, p, size); }
void __wrap_free(void *p) { release(p); }

char *__wrap_strdup(const char *text) {
  size_t n = strlen(text) + 1;
  char *copy = obtain(FAMILY_CORE, n);
  return copy ? memcpy(copy, text, n) : NULL;
}
