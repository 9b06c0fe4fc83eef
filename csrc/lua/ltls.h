/* What the rooms that make connections need of TLS (ltls.c). */
#ifndef LUNEWIRE_LTLS_H
#define LUNEWIRE_LTLS_H

#include "../core/tls.h"
#include "rt.h"

/* [-0, +1] The context of a value of the option `tls` (true, a table, a context): 0; otherwise a
 * code and *why, and what was pushed means nothing but keeps *why alive.  Misuse raises. */
int ltls_context(lua_State *L, struct rt *rt, int idx, const char **why);
/* The same for the key "tls" of the options at idx; nil if there is none. */
int ltls_option(lua_State *L, struct rt *rt, int opts, const char **why);
/* The context at idx; NULL for nil. Borrowed. */
struct tls_context *ltls_to_context(lua_State *L, int idx);
/* Raises unless it can serve. */
void ltls_check_server(lua_State *L, const struct tls_context *c);
/* Whom a client expects: the context's servername, or host; NULL if it verifies nothing and there
 * is neither; raises if it must verify and there is neither. */
const char *ltls_host(lua_State *L, const struct tls_context *c, const char *host);

extern const luaL_Reg ltls_methods[], ltlsinfo_methods[];

#endif
