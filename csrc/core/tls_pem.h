/* Certificates, keys and authorities from PEM: the name of a file, or the text itself.
 *
 * What this is not: a store of anything; all of it goes into an SSL_CTX at once. */
#ifndef LUNEWIRE_TLS_PEM_H
#define LUNEWIRE_TLS_PEM_H

#include <openssl/ssl.h>

#include "tls.h"

/* All: 0, or a code and in `why` what is wrong with which file. */

/* The first certificate is ours, the others are the chain that is sent with it. */
int pem_use_cert(SSL_CTX *ssl, const char *source, char why[TLS_WHY]);
/* password may be NULL: then a key that needs one is refused. */
int pem_use_key(SSL_CTX *ssl, const char *source, const char *password, char why[TLS_WHY]);
/* The authorities at source (a directory, too) and no others are trusted. */
int pem_trust(SSL_CTX *ssl, const char *source, char why[TLS_WHY]);

#endif
