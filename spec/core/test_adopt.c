/* Links over sockets that somebody else made. */
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "turn_probe.h"

static void check_refused(struct world *w, int fd, int code) {
  struct link *l = NULL;
  int status = fcntl(fd, F_GETFL), flags = fcntl(fd, F_GETFD);
  CHECK_EQ(w->ops->adopt(w, fd, &l), code);
  CHECK(!l);
  CHECK_EQ(fcntl(fd, F_GETFL), status);
  CHECK_EQ(fcntl(fd, F_GETFD), flags);
  CHECK_EQ(w->ops->open(w), 0);
}

TEST(what_is_no_connected_stream_socket_is_refused_and_left_alone) {
  struct world *w = probe_world();
  int ends[2], datagrams[2];
  CHECK_EQ(pipe(ends), 0);
  check_refused(w, ends[0], UV__ENOTSOCK);
  CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams), 0);
  check_refused(w, datagrams[0], ERR_PROTOTYPE);
  int alone = socket(AF_INET, SOCK_STREAM, 0);
  check_refused(w, alone, UV__ENOTCONN);
  CHECK_EQ(listen(alone, 1), 0);
  check_refused(w, alone, UV__ENOTCONN);
  close(alone);
  check_refused(w, alone, ERR_BADF);
  check_refused(w, -1, ERR_BADF);
  for (int i = 0; i < 2; i++) {
    close(ends[i]);
    close(datagrams[i]);
  }
  probe_world_end(w);
}

/* Two links over the ends of a socketpair. */
static void adopt_pair(struct world *w, struct probe *a, struct probe *b) {
  int fds[2];
  struct link *l;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  CHECK_EQ(w->ops->adopt(w, fds[0], &l), 0);
  probe_watch(a, l);
  CHECK_EQ(w->ops->adopt(w, fds[1], &l), 0);
  probe_watch(b, l);
}

static void adopted(struct world *w, struct probe *a, struct probe *b) {
  struct addr name;
  char c;
  int fd, value = 1;
  CHECK_EQ(a->link->ops->state(a->link), 0);
  CHECK_EQ(probe_read(b, &c, 1), ERR_AGAIN);
  CHECK_EQ(probe_send(a, "hello"), 5);
  probe_want(b, LINK_IN);
  AWAIT(w, b->seen & LINK_IN);
  CHECK_READ(b, "hello");
  CHECK_EQ(a->link->ops->option(a->link, LINK_FD, false, &fd), 0);
  CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
  CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  CHECK_EQ(a->link->ops->name(a->link, true, &name), 0);
  CHECK_EQ(name.kind, ADDR_UNIX);
  CHECK_EQ(a->link->ops->option(a->link, LINK_NODELAY, true, &value), ERR_NOTSUP);
  CHECK_EQ(a->link->ops->option(a->link, LINK_TOS, false, &value), ERR_NOTSUP);
  probe_close(a, false);
  CHECK_EQ(fcntl(fd, F_GETFD), -1);
  AWAIT(w, b->seen & LINK_IN);
  CHECK_EQ(probe_read(b, &c, 1), 0);
  probe_close(b, false);
}

TEST(an_adopted_socket_is_a_link_like_any_other) { probe_run(adopt_pair, adopted); }

static void wanted_twice(struct world *w, struct probe *a, struct probe *b) {
  struct link *l = NULL;
  int fd;
  CHECK_EQ(a->link->ops->option(a->link, LINK_FD, false, &fd), 0);
  probe_want(a, LINK_IN);
  CHECK_EQ(w->ops->adopt(w, fd, &l), ERR_EXIST);
  CHECK_EQ(probe_send(b, "x"), 1);
  AWAIT(w, a->seen & LINK_IN);
  CHECK_READ(a, "x");
  probe_close_both(a, b);
}

TEST(a_link_s_descriptor_is_not_adopted_again) { probe_run(adopt_pair, wanted_twice); }

/* Known from the connection, as long as that holds the descriptor. */
static void owned(struct rig *r) {
  int fd;
  CHECK_EQ(r->conn->link->ops->option(r->conn->link, LINK_FD, false, &fd), 0);
  CHECK(conn_owns(&r->turn, fd) == (fd >= 0));
  CHECK(!conn_owns(&r->turn, 19999));
  CHECK(!conn_owns(&r->turn, -1));
  conn_close(r->conn);
  CHECK(conn_owns(&r->turn, fd) == (fd >= 0));
  conn_reset(r->conn);
  CHECK(!conn_owns(&r->turn, fd));
}

TEST(a_connection_owns_its_descriptor_until_it_is_closed) { rig_over_both(owned); }

TEST(a_connection_owns_its_end_of_a_socketpair) { rig_run(adopt_pair, owned); }
