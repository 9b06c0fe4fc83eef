/* conn:tls_info(): what is known of a session and of the peer's certificate.
 * What this is not: how it is read out of them (core/tls_facts.c). */
#include <string.h>

#include "../core/link_tls.h"
#include "ltls.h"

static void set_fact(lua_State *L, const struct link *l, const char *name, enum tls_fact f) {
  size_t n = 0;
  const char *text = link_tls_fact(l, f, &n);
  if (!text) return;
  lua_pushlstring(L, text, n);
  lua_setfield(L, -2, name);
}

/* A certificate that cannot be read for want of memory must not look as if there were none. */
static size_t check_read(lua_State *L, ptrdiff_t n) {
  if (n < 0) luaL_error(L, "tls_info: %s", err_text((int)n));
  return (size_t)n;
}

static void set_cert(lua_State *L, const struct link *l, const char *name, enum tls_cert_field f) {
  char text[1024];
  lua_pushlstring(L, text, check_read(L, link_tls_cert(l, f, text, sizeof text)));
  lua_setfield(L, -2, name);
}

static void set_cert_names(lua_State *L, const struct link *l) {
  enum { ROOM = 16 * 1024 };
  const char *names = lua_newuserdatauv(L, ROOM, 0);
  size_t total = check_read(L, link_tls_cert_names(l, (char *)(uintptr_t)names, ROOM));
  lua_newtable(L);
  for (size_t at = 0; at < total; at += strlen(names + at) + 1) {
    lua_pushstring(L, names + at);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  }
  lua_setfield(L, -3, "names");
  lua_pop(L, 1);
}

static void set_peer_cert(lua_State *L, const struct link *l) {
  char text[64];
  if (check_read(L, link_tls_cert(l, CERT_SHA256, text, sizeof text)) == 0) return;
  lua_createtable(L, 0, 6);
  set_cert(L, l, "subject", CERT_SUBJECT);
  set_cert(L, l, "issuer", CERT_ISSUER);
  set_cert(L, l, "not_before", CERT_NOT_BEFORE);
  set_cert(L, l, "not_after", CERT_NOT_AFTER);
  set_cert(L, l, "fingerprint", CERT_SHA256);
  set_cert_names(L, l);
  lua_setfield(L, -2, "peer_cert");
}

/***
What is known of the connection's TLS session.
@function Conn:tls_info
@treturn table|nil `version` ("TLSv1.3"), `cipher`, `alpn`, `servername`, `resumed` (boolean), and
`peer_cert`: `subject`, `issuer` (as of RFC 2253), `names` (a list: "DNS:example.org"),
`not_before`, `not_after` (as of RFC 3339), `fingerprint` (SHA-256, in hexadecimal); nil without
TLS, before the handshake and after the close
@waits never
*/
static int l_tls_info(lua_State *L) {
  const struct conn *c = check_conn(L, rt_of(L), 1);
  size_t n;
  if (!conn_is_open(c) || !link_is_tls(c->link) || !link_tls_fact(c->link, TLS_VERSION, &n)) {
    lua_pushnil(L);
    return 1;
  }
  lua_createtable(L, 0, 6);
  set_fact(L, c->link, "version", TLS_VERSION);
  set_fact(L, c->link, "cipher", TLS_CIPHER);
  set_fact(L, c->link, "alpn", TLS_ALPN);
  set_fact(L, c->link, "servername", TLS_SERVERNAME);
  lua_pushboolean(L, link_tls_resumed(c->link));
  lua_setfield(L, -2, "resumed");
  set_peer_cert(L, c->link);
  return 1;
}

const luaL_Reg ltlsinfo_methods[] = {{"tls_info", l_tls_info}, {NULL, NULL}};
