/* An independent load generator for echo servers of packages: a 2-byte big-endian length,
 * then so many bytes.
 *
 *   load HOST PORT --conns C --depth D --size S --seconds T
 *
 * Keeps D packages of S bytes in flight on each of C connections, checks every byte that comes
 * back, and prints one line of key=value.  Exits with 1 at the first wrong byte, at a connection
 * that ends early, and when a reply is missing.
 * What this is not: it shares no code with lunewire or libuv, so that it can judge both; it has
 * one thread, and with few bytes a message it costs about what a server in C does. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  HEADER = 2,
  STAMP = 8, /* the payload begins with connection and sequence, as far as they fit */
  SIZE_MOST = 65535,
  SHIFTS = 251,      /* prime: neighbours in connection and in sequence differ in every byte */
  EVENTS = 256,      /* reports taken at once */
  STALL_MS = 5000,   /* a reply that takes longer is missing */
  BUCKETS = 32 * 61, /* any 64-bit number */
};

static const double WARM_UP = 0.2; /* seconds before counting begins */

/* Nanoseconds, 32 buckets to a factor of two: what is read from it is at most 3 % too high. */
struct histogram {
  uint64_t count[BUCKETS];
  uint64_t total, max;
};

/* At most D packages are in flight, so either buffer holds D of them. */
struct conn {
  int fd;
  uint32_t id, sent, seen;
  char *in, *out;
  size_t in_len, out_at, out_len;
  uint64_t *sent_at; /* of package number i at i mod D */
  bool blocked;
};

struct load {
  const char *host;
  int port, conns, depth, size;
  double seconds;
  int epoll;
  bool draining; /* nothing more is sent */
  uint64_t total;
  struct conn *conn;
  struct histogram times;
  char filler[SIZE_MOST + SHIFTS];
};

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("load: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(EXIT_FAILURE);
}

static void *allocate(size_t count, size_t size) {
  void *p = calloc(count, size);
  if (!p) die("out of memory");
  return p;
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t to_ns(double seconds) { return (uint64_t)(seconds * 1e9); }

/* ---- times ----------------------------------------------------------------------- */

static size_t bucket_of(uint64_t ns) {
  if (ns < 64) return (size_t)ns;
  unsigned shift = 58u - (unsigned)__builtin_clzll(ns); /* leaves a number from 32 to 63 */
  return 32 * shift + (size_t)(ns >> shift);
}

/* The least number that belongs to the next bucket. */
static uint64_t bucket_end(size_t i) {
  if (i < 64) return i + 1;
  size_t shift = i / 32 - 1;
  return (uint64_t)(i - 32 * shift + 1) << shift;
}

static void histogram_add(struct histogram *h, uint64_t ns) {
  h->count[bucket_of(ns)]++;
  h->total++;
  if (ns > h->max) h->max = ns;
}

static double histogram_us(const struct histogram *h, double share) {
  uint64_t below = 0, wanted = (uint64_t)(share * (double)h->total);
  for (size_t i = 0; i < BUCKETS; i++) {
    below += h->count[i];
    if (below <= wanted) continue;
    uint64_t ns = bucket_end(i);
    return (double)(ns < h->max ? ns : h->max) / 1e3;
  }
  return (double)h->max / 1e3;
}

/* ---- packages -------------------------------------------------------------------- */

static size_t package_len(const struct load *l) { return HEADER + (size_t)l->size; }

static size_t head_len(const struct load *l) {
  return HEADER + (size_t)(l->size < STAMP ? l->size : STAMP);
}

static void package_head(const struct load *l, uint32_t id, uint32_t seq, char *head) {
  uint16_t length = htons((uint16_t)l->size);
  uint32_t stamp[2] = {htonl(id), htonl(seq)};
  memcpy(head, &length, HEADER);
  memcpy(head + HEADER, stamp, sizeof stamp);
}

static const char *package_rest(const struct load *l, uint32_t id, uint32_t seq) {
  return l->filler + (id + seq) % SHIFTS;
}

static void package_put(const struct load *l, uint32_t id, uint32_t seq, char *out) {
  char head[HEADER + STAMP];
  size_t n = head_len(l);
  package_head(l, id, seq, head);
  memcpy(out, head, n);
  memcpy(out + n, package_rest(l, id, seq), package_len(l) - n);
}

static bool package_is(const struct load *l, uint32_t id, uint32_t seq, const char *in) {
  char head[HEADER + STAMP];
  size_t n = head_len(l);
  package_head(l, id, seq, head);
  return memcmp(in, head, n) == 0 &&
         memcmp(in + n, package_rest(l, id, seq), package_len(l) - n) == 0;
}

static void make_filler(struct load *l) {
  uint32_t state = 1;
  for (size_t i = 0; i < sizeof l->filler; i++) {
    state = state * 1664525u + 1013904223u;
    l->filler[i] = (char)(state >> 24);
  }
}

/* ---- one connection -------------------------------------------------------------- */

static void conn_watch(struct load *l, struct conn *c, int how, bool blocked) {
  struct epoll_event e = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0u), .data.ptr = c};
  if (epoll_ctl(l->epoll, how, c->fd, &e) != 0) die("epoll_ctl: %s", strerror(errno));
  c->blocked = blocked;
}

static void conn_open(struct load *l, struct conn *c, const struct sockaddr_in *to) {
  int on = 1;
  size_t room = (size_t)l->depth * package_len(l);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)to, sizeof *to) != 0)
    die("connect %s:%d: %s", l->host, l->port, strerror(errno));
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  c->in = allocate(room, 1);
  c->out = allocate(room, 1);
  c->sent_at = allocate((size_t)l->depth, sizeof *c->sent_at);
  conn_watch(l, c, EPOLL_CTL_ADD, false);
}

/* Fills up to D packages in flight. */
static void conn_refill(struct load *l, struct conn *c) {
  uint64_t now = now_ns();
  if (l->draining) return;
  memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
  c->out_len -= c->out_at;
  c->out_at = 0;
  while (c->sent - c->seen < (uint32_t)l->depth) {
    package_put(l, c->id, c->sent, c->out + c->out_len);
    c->out_len += package_len(l);
    c->sent_at[c->sent++ % (uint32_t)l->depth] = now;
  }
}

static void conn_flush(struct load *l, struct conn *c) {
  if (c->out_at == c->out_len) return;
  ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN) die("connection %u: send: %s", c->id, strerror(errno));
  if (n > 0) c->out_at += (size_t)n;
  bool blocked = c->out_at < c->out_len;
  if (blocked != c->blocked) conn_watch(l, c, EPOLL_CTL_MOD, blocked);
}

static void conn_check(struct load *l, struct conn *c) {
  size_t at = 0, len = package_len(l);
  uint64_t now = now_ns();
  for (; c->in_len - at >= len; at += len) {
    if (c->seen == c->sent || !package_is(l, c->id, c->seen, c->in + at))
      die("connection %u: package %u came back wrong", c->id, c->seen);
    histogram_add(&l->times, now - c->sent_at[c->seen++ % (uint32_t)l->depth]);
    l->total++;
  }
  memmove(c->in, c->in + at, c->in_len - at);
  c->in_len -= at;
}

static void conn_receive(struct load *l, struct conn *c) {
  size_t room = (size_t)l->depth * package_len(l) - c->in_len;
  ssize_t n = recv(c->fd, c->in + c->in_len, room, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n < 0) die("connection %u: recv: %s", c->id, strerror(errno));
  if (n == 0) die("connection %u: ended early, after %u packages", c->id, c->seen);
  c->in_len += (size_t)n;
  conn_check(l, c);
}

static void conn_serve(struct load *l, struct conn *c, uint32_t events) {
  if (events & ~(uint32_t)EPOLLOUT) conn_receive(l, c);
  conn_refill(l, c);
  conn_flush(l, c);
}

/* ---- all of them ----------------------------------------------------------------- */

static void serve_events(struct load *l) {
  struct epoll_event events[EVENTS];
  int n = epoll_wait(l->epoll, events, EVENTS, STALL_MS);
  if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
  if (n == 0) die("no reply for %d ms", STALL_MS);
  for (int i = 0; i < n; i++) conn_serve(l, events[i].data.ptr, events[i].events);
}

static void serve_until(struct load *l, uint64_t end) {
  while (now_ns() < end) serve_events(l);
}

static bool is_drained(const struct load *l) {
  for (int i = 0; i < l->conns; i++)
    if (l->conn[i].seen != l->conn[i].sent) return false;
  return true;
}

static void drain(struct load *l) {
  uint64_t end = now_ns() + STALL_MS * UINT64_C(1000000);
  l->draining = true;
  while (!is_drained(l)) {
    if (now_ns() > end) die("replies are missing");
    serve_events(l);
  }
}

static void open_all(struct load *l) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)l->port)};
  if (inet_pton(AF_INET, l->host, &to.sin_addr) != 1) die("%s: not an IPv4 address", l->host);
  l->epoll = epoll_create1(0);
  l->conn = allocate((size_t)l->conns, sizeof *l->conn);
  for (int i = 0; i < l->conns; i++) {
    l->conn[i].id = (uint32_t)i;
    conn_open(l, &l->conn[i], &to);
  }
}

static void print_result(const struct load *l, const struct histogram *h, double seconds) {
  double rate = (double)h->total / seconds;
  printf("conns=%d depth=%d size=%d seconds=%.3f messages=%llu messages_per_s=%.0f mb_per_s=%.1f "
         "p50_us=%.1f p99_us=%.1f max_us=%.1f total=%llu\n",
         l->conns, l->depth, l->size, seconds, (unsigned long long)h->total, rate,
         rate * l->size / 1e6, histogram_us(h, 0.5), histogram_us(h, 0.99), (double)h->max / 1e3,
         (unsigned long long)l->total);
}

/* The line is printed last: it says that all of it was right. */
static void run(struct load *l) {
  for (int i = 0; i < l->conns; i++) conn_serve(l, &l->conn[i], EPOLLOUT);
  serve_until(l, now_ns() + to_ns(WARM_UP));
  memset(&l->times, 0, sizeof l->times);
  uint64_t begin = now_ns();
  serve_until(l, begin + to_ns(l->seconds));
  double seconds = (double)(now_ns() - begin) / 1e9;
  struct histogram counted = l->times;
  drain(l);
  print_result(l, &counted, seconds);
}

/* ---- arguments ------------------------------------------------------------------- */

static double number(const char *name, const char *text, double least, double most) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end || !(value >= least && value <= most))
    die("%s must be a number from %g to %g, not %s", name, least, most, text);
  return value;
}

static void read_arguments(struct load *l, int argc, char **argv) {
  static const struct option options[] = {{"conns", required_argument, NULL, 'c'},
                                          {"depth", required_argument, NULL, 'd'},
                                          {"size", required_argument, NULL, 's'},
                                          {"seconds", required_argument, NULL, 't'},
                                          {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
    if (option == 'c') l->conns = (int)number("--conns", optarg, 1, 60000);
    if (option == 'd') l->depth = (int)number("--depth", optarg, 1, 65536);
    if (option == 's') l->size = (int)number("--size", optarg, 0, SIZE_MOST);
    if (option == 't') l->seconds = number("--seconds", optarg, 0.001, 86400);
    if (option == '?') die("there is no such option");
  }
  if (argc - optind != 2) die("HOST PORT [--conns C] [--depth D] [--size S] [--seconds T]");
  l->host = argv[optind];
  l->port = (int)number("PORT", argv[optind + 1], 1, 65535);
}

int main(int argc, char **argv) {
  struct load *l = allocate(1, sizeof *l);
  l->conns = 64;
  l->depth = 1;
  l->size = 64;
  l->seconds = 2;
  read_arguments(l, argc, argv);
  make_filler(l);
  open_all(l);
  run(l);
  return EXIT_SUCCESS;
}
