/* The few things that systems do differently, or only some of them can.
 *
 * What this is not: a portability layer.  What POSIX and libuv give is used as it is. */
#ifndef LUNEWIRE_PLATFORM_H
#define LUNEWIRE_PLATFORM_H

#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#ifndef TCP_KEEPIDLE
#define TCP_KEEPIDLE TCP_KEEPALIVE /* the BSD name that macOS kept */
#endif

/* Does an accepted socket have the options that the listening one had when the client came? */
#ifdef __linux__
enum { PLATFORM_OPTIONS_INHERITED = true };
#else
enum { PLATFORM_OPTIONS_INHERITED = false }; /* where nobody promises it */
#endif

#ifdef MSG_NOSIGNAL
enum { PLATFORM_SEND_FLAGS = MSG_NOSIGNAL };
#else
enum { PLATFORM_SEND_FLAGS = 0 };            /* platform_socket and platform_accept set SO_NOSIGPIPE */
#endif

/* Both: a descriptor that neither blocks nor survives exec, or -1 and errno. */
int platform_socket(int family, int type);
int platform_accept(int fd, struct sockaddr *peer, socklen_t *len);

/* A socket that somebody else made neither blocks any more, nor survives exec, nor raises
 * signals. */
void platform_own(int fd);

/* Bytes that the peer has not acknowledged; 0 where nobody can tell. */
size_t platform_in_flight(int fd);

/* Datagrams that a socket has lost for lack of room, modulo 2^32; 0 where nobody can tell. */
uint32_t platform_drops(int fd);

#endif
