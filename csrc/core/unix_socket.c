/* Unix sockets: see unix_socket.h. */
#include "unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "err.h"
#include "platform.h"

static const char *path_of(const struct sockaddr *sa) {
  return ((const struct sockaddr_un *)(const void *)sa)->sun_path;
}

/* Only a refusal says that nobody listens; a full backlog is somebody. */
static bool is_dead(const struct sockaddr *sa, socklen_t len) {
  struct stat st;
  if (lstat(path_of(sa), &st) != 0 || !S_ISSOCK(st.st_mode)) return false;
  int fd = platform_socket(AF_UNIX, SOCK_STREAM);
  if (fd < 0) return false;
  bool refused = connect(fd, sa, len) != 0 && errno == ECONNREFUSED;
  close(fd);
  return refused;
}

static int bind_name(int fd, const struct sockaddr *sa, socklen_t len) {
  if (bind(fd, sa, len) == 0) return 0;
  if (errno != EADDRINUSE || !*path_of(sa)) return -errno;
  if (!is_dead(sa, len)) return UV__EADDRINUSE;
  unlink(path_of(sa));
  return bind(fd, sa, len) == 0 ? 0 : -errno;
}

/* Nobody can connect before listen(), so the mode is never too wide for anybody to use. */
static int note_file(const char *path, int mode, struct unix_file *f) {
  struct stat st;
  if ((mode >= 0 && chmod(path, (mode_t)mode) != 0) || lstat(path, &st) != 0) {
    int code = -errno;
    unlink(path);
    return code;
  }
  *f = (struct unix_file){path, st.st_dev, st.st_ino};
  return 0;
}

static int start(int fd, const struct sockaddr *sa, socklen_t len, int mode, int backlog,
                 struct unix_file *f) {
  int r = bind_name(fd, sa, len);
  if (r == 0 && *path_of(sa)) r = note_file(path_of(sa), mode, f);
  if (r || listen(fd, backlog) == 0) return r;
  r = -errno;
  unix_remove(f);
  return r;
}

/* A stranger's lock must not hold us up for long: everybody may lock /tmp. */
static void lock_soon(int fd) {
  const struct timespec moment = {.tv_nsec = 1000 * 1000};
  for (int i = 0; i < 100 && flock(fd, LOCK_EX | LOCK_NB) != 0; i++) nanosleep(&moment, NULL);
}

/* Between bind() and listen() a socket looks dead.  So that no other server of ours takes it for
 * that, the directory is locked meanwhile; whoever cannot read it does without. */
static int lock_directory(const char *path) {
  char name[sizeof((struct sockaddr_un){0}).sun_path];
  const char *slash = strrchr(path, '/');
  size_t n = slash ? (size_t)(slash - path) : 0;
  if (!*path) return -1;
  memcpy(name, slash && n ? path : slash ? "/" : ".", slash && n ? n : 1);
  name[slash && n ? n : 1] = 0;
  int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) lock_soon(fd);
  return fd;
}

int unix_listen(int fd, const struct sockaddr *sa, socklen_t len, int mode, int backlog,
                struct unix_file *f) {
  int lock = lock_directory(path_of(sa));
  int r = start(fd, sa, len, mode, backlog, f);
  if (lock >= 0) close(lock);
  return r;
}

void unix_remove(struct unix_file *f) {
  struct stat st;
  if (!f->path) return;
  if (lstat(f->path, &st) == 0 && st.st_dev == f->device && st.st_ino == f->inode) unlink(f->path);
  f->path = NULL;
}
