/* Fuzz target: TLS sessions, of both sides, while the wire between them does what it likes.
 *
 * The first bytes are the options of both; then a script: what the applications do, and how the
 * wire carries, changes, loses, invents and cuts.  Whatever that is, what is received is a prefix
 * of what was sent, an end is an end, memory is bounded; and where the wire was honest, all
 * arrives. What this is not: OpenSSL's own parsers, which are not instrumented. */
#include "tls_pair.h"

enum { STEPS_MOST = 200 };

static struct tls_end *read_end(struct tls_pair *p, struct input *in) {
  return input_bool(in) ? &p->client : &p->server;
}

/* Few or many. */
static size_t read_len(struct input *in) {
  return input_bool(in) ? input_below(in, 256) : input_below(in, 70000);
}

static void run_app(struct tls_pair *p, struct input *in, uint8_t what) {
  struct tls_end *e = read_end(p, in);
  if (what == 0) {
    size_t n = read_len(in);
    pair_write(e, n, input_byte(in));
  } else if (what == 1) {
    pair_read(p, e, read_len(in));
  } else if (what == 2) {
    pair_shut(e);
  } else if (what == 3) {
    pair_end(p, e, input_bool(in));
  } else if (what == 4) {
    if (e->app.link) probe_want(&e->app, input_byte(in) & 3);
  } else if (what == 5) {
    pair_ask_facts(e);
  } else if (what == 6) {
    e->eager = !e->eager && !p->client.shut && !p->server.shut;
  } else {
    pair_update_keys(p, e);
  }
}

static void run_wire(struct tls_pair *p, struct input *in, uint8_t what) {
  struct tls_end *e = read_end(p, in);
  size_t n;
  const char *data;
  if (what == 0) {
    pair_carry(p, e, read_len(in));
  } else if (what == 1) {
    n = input_byte(in);
    data = input_take(in, n, &n);
    pair_inject(p, e, data, n);
  } else if (what == 2) {
    n = read_len(in);
    pair_flip(p, e, n, input_byte(in));
  } else if (what == 3) {
    pair_drop(p, e, read_len(in));
  } else {
    pair_cut(p, e, input_bool(in));
  }
}

/* As an honest wire does. */
static void run_on(struct tls_pair *p) {
  pair_carry(p, &p->client, SIZE_MAX);
  pair_carry(p, &p->server, SIZE_MAX);
  turn_step(&p->turn, false);
}

static void run_step(struct tls_pair *p, struct input *in) {
  uint8_t what = input_byte(in) % 20;
  if (what < 8) {
    run_app(p, in, what);
  } else if (what < 13) {
    run_wire(p, in, what - 8);
  } else if (what < 17) {
    run_on(p);
  } else if (what < 19) {
    turn_step(&p->turn, what == 17);
  } else {
    pair_settle(p);
    pair_disconnect(p);
    pair_connect(p, input_bool(in));
  }
  pair_check(p);
}

static void run(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  struct tls_pair *p = pair_open(&in);
  pair_connect(p, input_bool(&in));
  for (int i = 0; i < STEPS_MOST && in.left; i++) run_step(p, &in);
  pair_settle(p);
  pair_disconnect(p);
  pair_close(p);
}

/* OpenSSL keeps what it makes at the first use of something; what grows each time is a leak. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  long before = tls_memory();
  run(data, size);
  for (int i = 0; i < 3 && tls_memory() > before; i++) {
    before = tls_memory();
    run(data, size);
  }
  FUZZ_CHECK(tls_memory() <= before);
  return 0;
}
