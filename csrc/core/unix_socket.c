/* Unix sockets: see unix_socket.h. */
#include "unix_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/un.h>
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

int unix_bind(int fd, const struct sockaddr *sa, socklen_t len, int mode, struct unix_file *f) {
  int r = bind_name(fd, sa, len);
  return r || !*path_of(sa) ? r : note_file(path_of(sa), mode, f);
}

void unix_remove(struct unix_file *f) {
  struct stat st;
  if (!f->path) return;
  if (lstat(f->path, &st) == 0 && st.st_dev == f->device && st.st_ino == f->inode) unlink(f->path);
  f->path = NULL;
}
