/* What fuzz targets do to OpenSSL: a key and a certificate that are always the same, random numbers
 * that are none, so that a handshake is the same each time; and an allocator that does not ask
 * AddressSanitizer, which takes most of the time otherwise.
 *
 * The key protects nothing: everybody has it.
 * What this is not: for anything but fuzzing. */
#ifndef LUNEWIRE_FUZZ_OPENSSL_H
#define LUNEWIRE_FUZZ_OPENSSL_H

/* In PEM; the certificate is its own authority and for localhost and 127.0.0.1. */
extern const char tls_key[], tls_cert[];

/* OpenSSL's random numbers begin again. */
void tls_reset_chance(void);
/* How many pieces of memory OpenSSL holds; 0 where that is not counted. */
long tls_memory(void);

#endif
