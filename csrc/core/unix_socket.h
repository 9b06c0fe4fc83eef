/* Unix sockets that listen: their file is made, taken over from the dead, and removed.
 *
 * What this is not: abstract names have no file, and nothing here to do. */
#ifndef LUNEWIRE_UNIX_SOCKET_H
#define LUNEWIRE_UNIX_SOCKET_H

#include <sys/socket.h>
#include <sys/stat.h>

/* The file that a listening socket made, so that no other is removed. */
struct unix_file {
  const char *path; /* NULL: none */
  dev_t device;
  ino_t inode;
};

/* Binds fd to the name and listens.  A file that is a socket to which nobody listens any more is
 * replaced, by one server at a time.  mode: permissions of the file; -1: as the process makes
 * files.  0 or a code (UV_EADDRINUSE if somebody listens there, or if it is a file of another
 * kind). */
int unix_listen(int fd, const struct sockaddr *sa, socklen_t len, int mode, int backlog,
                struct unix_file *f);
/* Removes the file, if it is still the same. */
void unix_remove(struct unix_file *f);

#endif
