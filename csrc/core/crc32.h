/* CRC-32 as Ethernet, gzip and PNG have it: polynomial 04c11db7, bits reflected.
 * What this is not: protection from anybody who changes bytes on purpose. */
#ifndef LUNEWIRE_CRC32_H
#define LUNEWIRE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* crc32_of("123456789", 9) is 0xcbf43926. */
uint32_t crc32_of(const char *p, size_t n);

#endif
