/* Accepting: what a listening socket reports, gives, and survives. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv/errno.h>
#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#endif

#include "probe.h"

static int announcements;

static void on_acceptable(struct acceptor *a) {
  (void)a;
  announcements++;
}

TEST(an_acceptor_reports_while_wanted_and_gives_all_clients) {
  enum { N = 5 };
  struct world *w = probe_world();
  struct addr at, peer;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at);
  struct probe out[N], in[N];
  struct link *l;
  announcements = 0;
  a->ready = on_acceptable;
  CHECK_EQ(w->ops->accept(a, &l, &peer), ERR_AGAIN);
  for (int i = 0; i < N; i++) CHECK_EQ(probe_dial(w, &out[i], &at), 0);
  CHECK_EQ(announcements, 0);
  w->ops->accept_want(a, true);
  AWAIT(w, announcements >= 3);
  w->ops->accept_want(a, false);
  for (int i = 0; i < N; i++) CHECK_EQ(probe_accept(w, a, &in[i], &peer), 0);
  CHECK_EQ(w->ops->accept(a, &l, &peer), ERR_AGAIN);
  CHECK_EQ(w->ops->open(w), 2 * N + 1);
  for (int i = 0; i < N; i++) {
    probe_close(&out[i], true);
    probe_close(&in[i], true);
  }
  w->ops->accept_close(a);
  probe_world_end(w);
}

TEST(descriptors_are_not_inherited_and_do_not_block) {
  struct world *w = probe_world();
  struct probe ends[2];
  probe_pair(w, &ends[0], &ends[1]);
  for (int i = 0; i < 2; i++) {
    int fd = -1;
    CHECK_EQ(ends[i].link->ops->option(ends[i].link, LINK_FD, false, &fd), 0);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    probe_close(&ends[i], false);
  }
  probe_world_end(w);
}

TEST(running_out_of_descriptors_loses_no_client) {
  if (under_valgrind()) return;
  struct world *w = probe_world();
  struct addr at, peer;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at);
  struct probe p, q;
  struct link *l;
  CHECK_EQ(probe_dial(w, &p, &at), 0);
  struct rlimit before = leave_no_descriptors();
  CHECK_EQ(probe_accept(w, a, &q, &peer), UV__EMFILE);
  CHECK_EQ(w->ops->accept(a, &l, &peer), UV__EMFILE);
  CHECK_EQ(w->ops->dial(w, &at, NULL, &l), UV__EMFILE);
  setrlimit(RLIMIT_NOFILE, &before);
  CHECK_EQ(probe_accept(w, a, &q, &peer), 0);
  CHECK_EQ(probe_send(&p, "hello"), 5);
  probe_want(&q, LINK_IN);
  AWAIT(w, q.seen);
  CHECK_READ(&q, "hello");
  probe_close(&p, false);
  probe_close(&q, false);
  w->ops->accept_close(a);
  probe_world_end(w);
}

TEST(a_client_that_reset_before_the_accept_is_no_failure) {
  struct world *w = probe_world();
  struct addr at, peer;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at);
  struct probe p, q;
  char c;
  CHECK_EQ(probe_dial(w, &p, &at), 0);
  probe_close(&p, true);
  AWAIT(w, p.ended);
  CHECK_EQ(probe_accept(w, a, &q, &peer), 0);
  CHECK_EQ(probe_read(&q, &c, 1), ERR_RESET);
  probe_close(&q, false);
  w->ops->accept_close(a);
  probe_world_end(w);
}

TEST(a_port_is_taken_once_or_shared_by_wish) {
  struct listen_opts opts = {.backlog = 8};
  struct world *w = probe_world();
  struct addr at;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at), *b;
  CHECK_EQ(w->ops->listen(w, &at, &opts, &b), UV__EADDRINUSE);
  w->ops->accept_close(a);
  opts.reuse_port = true;
  at.port = 0;
  CHECK_EQ(w->ops->listen(w, &at, &opts, &a), 0);
  CHECK_EQ(w->ops->accept_name(a, &at), 0);
  CHECK_EQ(w->ops->listen(w, &at, &opts, &b), 0);
  w->ops->accept_close(a);
  w->ops->accept_close(b);
  probe_world_end(w);
}

/* Dials over IPv4 an acceptor that listens on "::". */
static int dial_wildcard(struct world *w, bool ipv6_only, struct addr *peer) {
  const struct listen_opts opts = {.backlog = 8, .ipv6_only = ipv6_only};
  struct addr at = probe_ip("::", 0);
  struct acceptor *a;
  struct probe p, q;
  int r = w->ops->listen(w, &at, &opts, &a);
  if (r) return r;
  w->ops->accept_name(a, &at);
  at = probe_ip("127.0.0.1", at.port);
  r = probe_dial(w, &p, &at);
  if (r == 0 && probe_accept(w, a, &q, peer) == 0) probe_close(&q, true);
  if (p.link) probe_close(&p, true);
  w->ops->accept_close(a);
  AWAIT(w, w->ops->open(w) == 0); /* the probes live here */
  return r;
}

TEST(an_ipv6_wildcard_takes_ipv4_unless_told_not_to) {
  struct world *w = probe_world();
  struct addr peer = {.kind = ADDR_NONE};
  int r = dial_wildcard(w, false, &peer);
  if (r != UV__EAFNOSUPPORT) {
    CHECK_EQ(r, 0);
    CHECK_EQ(peer.kind, ADDR_IP4);
    CHECK_EQ(dial_wildcard(w, true, &peer), UV__ECONNREFUSED);
  }
  probe_world_end(w);
}

TEST(a_wildcard_destination_is_this_host) {
  struct world *w = probe_world();
  struct addr at, peer;
  struct acceptor *a = probe_listen(w, "0.0.0.0", &at);
  struct probe p, q;
  CHECK_EQ(probe_dial(w, &p, &at), 0);
  CHECK_EQ(probe_accept(w, a, &q, &peer), 0);
  probe_close(&p, true);
  probe_close(&q, true);
  w->ops->accept_close(a);
  probe_world_end(w);
}

#ifdef __linux__
/* ---- clients that are gone ------------------------------------------------------- */

/* From now on the system says of every client that it is gone; for this process there is no way
 * back. */
static bool lose_clients(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_accept4, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ECONNABORTED),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog filter = {.len = sizeof code / sizeof *code, .filter = code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/* In a process of its own. */
static bool is_reported_again(void) {
  struct world *w = probe_world();
  struct addr at, peer;
  struct acceptor *a = probe_listen(w, "127.0.0.1", &at);
  struct probe client;
  struct link *l;
  bool good = probe_dial(w, &client, &at) == 0 && lose_clients();
  a->ready = on_acceptable;
  w->ops->accept_want(a, true);
  for (int i = 0; i < 3 && good; i++) {
    announcements = 0;
    AWAIT(w, announcements);
    good = announcements && w->ops->accept(a, &l, &peer) == ERR_AGAIN;
  }
  w->ops->accept_close(a);
  probe_close(&client, true);
  probe_world_end(w);
  return good;
}

/* It gave up after some, but there may be more. */
TEST(many_clients_that_are_gone_do_not_hide_those_behind_them) {
  int status = -1;
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) exit(is_reported_again() ? 0 : 1);
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}
#endif

static int option_of(const struct probe *p, enum link_option what) {
  int value = -1;
  CHECK_EQ(p->link->ops->option(p->link, what, false, &value), 0);
  return value;
}

/* Dials an acceptor with these settings -> the accepted end. */
static void accept_with(struct world *w, const struct listen_opts *opts, struct probe *accepted) {
  struct addr at = probe_ip("127.0.0.1", 0), peer;
  struct acceptor *a = NULL;
  struct probe p;
  CHECK_EQ(w->ops->listen(w, &at, opts, &a), 0);
  CHECK_EQ(w->ops->accept_name(a, &at), 0);
  CHECK_EQ(probe_dial(w, &p, &at), 0);
  CHECK_EQ(probe_accept(w, a, accepted, &peer), 0);
  probe_close(&p, false);
  AWAIT(w, p.ended);
  w->ops->accept_close(a);
}

TEST(accepted_links_begin_with_the_acceptors_settings) {
  const struct listen_opts with = {
      .backlog = 8,
      .settings = {{LINK_NODELAY, 1}, {LINK_KEEPALIVE, 1}, {LINK_KEEP_IDLE, 33}},
      .settings_n = 3};
  const struct listen_opts without = {.backlog = 8};
  struct world *w = probe_world();
  struct probe p;
  accept_with(w, &with, &p);
  CHECK_EQ(option_of(&p, LINK_NODELAY), 1);
  CHECK_EQ(option_of(&p, LINK_KEEPALIVE), 1);
  CHECK_EQ(option_of(&p, LINK_KEEP_IDLE), 33);
  probe_close(&p, false);
  AWAIT(w, p.ended);
  accept_with(w, &without, &p);
  CHECK_EQ(option_of(&p, LINK_NODELAY), 0);
  CHECK_EQ(option_of(&p, LINK_KEEPALIVE), 0);
  probe_close(&p, false);
  AWAIT(w, p.ended);
  probe_world_end(w);
}
