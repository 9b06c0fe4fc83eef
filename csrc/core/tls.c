/* TLS contexts: see tls.h. */
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/uio.h>
#include <unistd.h>

#include "err.h"
#include "tls_internal.h"
#include "tls_pem.h"
#include "turn.h"

/* A session that a server gave, for the next connection to the same name. */
struct kept {
  char *host;
  SSL_SESSION *session;
};

struct named {
  char *name;
  struct tls_context *context;
};

struct tls_context {
  struct tls_root *root;
  struct tls_context *prev, *next; /* in the root's list */
  SSL_CTX *ssl, *fresh;            /* fresh: built by a reload under way */
  unsigned refs;
  struct tls_opts opts; /* its texts are copies */
  struct named *names;
  size_t n_names;
  struct kept kept[TLS_SESSIONS];
  size_t next_kept;
};

/* ---- the root ---------------------------------------------------------------------- */

static struct tls_root *root_new(struct turn *t) {
  struct tls_root *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->turn = t;
  r->in = malloc(PAGE_SIZE_BYTES);
  r->out = malloc(TLS_PAGE);
  r->record = malloc(TLS_RECORD);
  r->bio = tls_bio_method();
  if (r->in && r->out && r->record && r->bio) return r;
  tls_root_close(r);
  return NULL;
}

struct tls_root *tls_root_of(struct turn *t) {
  if (!t->tls) t->tls = root_new(t);
  return t->tls;
}

static void context_free(struct tls_context *c);

void tls_root_close(struct tls_root *r) {
  if (!r) return;
  for (struct tls_context *next, *c = r->first_context; c; c = next) {
    next = c->next;
    context_free(c);
  }
  X509_STORE_free(r->system);
  BIO_meth_free(r->bio);
  free(r->in);
  free(r->out);
  free(r->record);
  free(r);
}

/* ---- what is trusted --------------------------------------------------------------- */

static X509_STORE *system_store(struct tls_root *r) {
  if (r->system) return r->system;
  r->system = X509_STORE_new();
  if (r->system) X509_STORE_set_default_paths(r->system);
  return r->system;
}

static int trust_system(struct tls_context *c, SSL_CTX *ssl) {
  X509_STORE *store = system_store(c->root);
  if (!store) return ERR_NOMEM;
  SSL_CTX_set1_cert_store(ssl, store);
  return 0;
}

static int trust(struct tls_context *c, SSL_CTX *ssl, char why[TLS_WHY]) {
  if (!c->opts.ca) return trust_system(c, ssl);
  return pem_trust(ssl, c->opts.ca, why);
}

/* ---- names that clients ask for ---------------------------------------------------- */

static struct tls_context *context_of(const SSL_CTX *ssl) { return SSL_CTX_get_app_data(ssl); }

/* "*.example.org" stands for one label more. */
static bool is_name(const char *pattern, const char *asked) {
  if (strcasecmp(pattern, asked) == 0) return true;
  const char *dot = strchr(asked, '.');
  return pattern[0] == '*' && pattern[1] == '.' && dot && strcasecmp(pattern + 1, dot) == 0;
}

static void verify_as(SSL *ssl, const struct tls_opts *o);

/* An exact name goes before a pattern. */
static struct tls_context *find_name(const struct tls_context *c, const char *asked) {
  for (size_t i = 0; i < c->n_names; i++)
    if (strcasecmp(c->names[i].name, asked) == 0) return c->names[i].context;
  for (size_t i = 0; i < c->n_names; i++)
    if (is_name(c->names[i].name, asked)) return c->names[i].context;
  return NULL;
}

/* RFC 6066, 3: a list of names behind its length, of which only the first kind exists. */
static bool asked_name(SSL *ssl, char out[TLS_WHY]) {
  const unsigned char *p;
  size_t n;
  if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &p, &n) || n < 5) return false;
  size_t len = (size_t)p[3] << 8 | p[4];
  if (p[2] != TLSEXT_NAMETYPE_host_name || len > n - 5 || len >= TLS_WHY || memchr(p + 5, 0, len))
    return false;
  memcpy(out, p + 5, len);
  out[len] = 0;
  return true;
}

static int number_of(enum tls_version v);

static void set_versions(SSL *ssl, const struct tls_opts *o) {
  SSL_set_min_proto_version(ssl, number_of(o->min_version));
  SSL_set_max_proto_version(ssl, number_of(o->max_version));
}

/* The name's context serves from the very beginning, before any ticket of another one could be
 * taken: its versions, its verification, its sessions. */
static int on_hello(SSL *ssl, int *alert, void *arg) {
  const struct tls_context *c = arg;
  char asked[TLS_WHY];
  struct tls_context *other = asked_name(ssl, asked) ? find_name(c, asked) : NULL;
  if (!other) return SSL_CLIENT_HELLO_SUCCESS;
  if (!SSL_set_SSL_CTX(ssl, other->ssl)) {
    *alert = SSL_AD_INTERNAL_ERROR;
    return SSL_CLIENT_HELLO_ERROR;
  }
  set_versions(ssl, &other->opts);
  verify_as(ssl, &other->opts);
  return SSL_CLIENT_HELLO_SUCCESS;
}

/* The name was dealt with; this only says that it was welcome. */
static int on_servername(SSL *ssl, int *alert, void *arg) {
  (void)ssl, (void)alert, (void)arg;
  return SSL_TLSEXT_ERR_OK;
}

/* RFC 7301: without a protocol in common there is no connection. */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *len,
                   const unsigned char *theirs, unsigned theirs_len, void *arg) {
  const struct tls_context *c = arg;
  unsigned char *chosen;
  (void)ssl;
  int r = SSL_select_next_proto(&chosen, len, c->opts.alpn, (unsigned)c->opts.alpn_len, theirs,
                                theirs_len);
  *out = chosen;
  return r == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* ---- sessions kept for the next connection ------------------------------------------ */

static void kept_free(struct kept *k) {
  SSL_SESSION_free(k->session);
  free(k->host);
  *k = (struct kept){NULL, NULL};
}

static void forget_sessions(struct tls_context *c) {
  for (size_t i = 0; i < TLS_SESSIONS; i++) kept_free(&c->kept[i]);
}

static struct kept *find_kept(struct tls_context *c, const char *host) {
  for (size_t i = 0; i < TLS_SESSIONS; i++)
    if (c->kept[i].host && strcmp(c->kept[i].host, host) == 0) return &c->kept[i];
  return NULL;
}

static struct kept *room_for(struct tls_context *c, const char *host) {
  struct kept *k = find_kept(c, host);
  if (!k) k = &c->kept[c->next_kept++ % TLS_SESSIONS];
  kept_free(k);
  return k;
}

/* 1: the session is ours now. */
static int on_session(SSL *ssl, SSL_SESSION *session) {
  struct tls_context *c = context_of(SSL_get_SSL_CTX(ssl));
  const char *host = SSL_get_app_data(ssl);
  if (SSL_get_SSL_CTX(ssl) != c->ssl) return 0; /* of before a reload: verified by what was */
  if (!host || !c->opts.session || !SSL_SESSION_is_resumable(session)) return 0;
  char *copy = strdup(host);
  if (!copy) return 0;
  *room_for(c, host) = (struct kept){copy, session};
  return 1;
}

/* A ticket is used once (RFC 8446, C.4): the next connection gets the next one. */
static void resume(struct tls_context *c, SSL *ssl, const char *host) {
  struct kept *k = host ? find_kept(c, host) : NULL;
  if (!k) return;
  SSL_set_session(ssl, k->session);
  if (SSL_SESSION_get_protocol_version(k->session) >= TLS1_3_VERSION) kept_free(k);
}

/* ---- making the context ------------------------------------------------------------- */

/* For its owner's eyes only: whoever has it can read what was sent. */
static void on_keylog(const SSL *ssl, const char *line) {
  const struct tls_context *c = context_of(SSL_get_SSL_CTX(ssl));
  struct iovec v[] = {{.iov_base = (char *)(uintptr_t)line, .iov_len = strlen(line)},
                      {.iov_base = (char *)(uintptr_t) "\n", .iov_len = 1}};
  int fd = open(c->opts.keylog, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return;
  ssize_t written = writev(fd, v, 2); /* a full disk is no reason to fail */
  (void)written;
  close(fd);
}

static int set_identity(SSL_CTX *ssl, const struct tls_opts *o, char why[TLS_WHY]) {
  int r = 0;
  if (o->cert) r = pem_use_cert(ssl, o->cert, why);
  if (r == 0 && o->key) r = pem_use_key(ssl, o->key, o->password, why);
  if (r || !o->cert || SSL_CTX_check_private_key(ssl)) return r;
  snprintf(why, TLS_WHY, "the key does not belong to the certificate");
  return ERR_TLS;
}

static int number_of(enum tls_version v) { return v == TLS_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION; }

/* Without the server's cache sessions go to the clients as tickets, so memory stays bounded. */
static void set_habits(struct tls_context *c, SSL_CTX *ssl) {
  uint64_t id = ++c->root->contexts; /* a session of one context is none of another */
  SSL_CTX_set_app_data(ssl, c);
  SSL_CTX_set_min_proto_version(ssl, number_of(c->opts.min_version));
  SSL_CTX_set_max_proto_version(ssl, number_of(c->opts.max_version));
  SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                            SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(ssl, 1);
  SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_set_session_id_context(ssl, (const unsigned char *)&id, sizeof id);
  SSL_CTX_sess_set_new_cb(ssl, on_session);
  SSL_CTX_set_tlsext_servername_callback(ssl, on_servername);
  SSL_CTX_set_client_hello_cb(ssl, on_hello, c);
  if (c->opts.keylog) SSL_CTX_set_keylog_callback(ssl, on_keylog);
}

/* What a client offers is set for each session; this is what a server chooses from. */
static void set_alpn(struct tls_context *c, SSL_CTX *ssl) {
  if (c->opts.alpn) SSL_CTX_set_alpn_select_cb(ssl, on_alpn, c);
}

static int configure(struct tls_context *c, SSL_CTX *ssl, char why[TLS_WHY]) {
  set_habits(c, ssl);
  set_alpn(c, ssl);
  int r = tls_set_ciphers(ssl, &c->opts, why);
  if (r == 0) r = set_identity(ssl, &c->opts, why);
  if (r == 0) r = trust(c, ssl, why);
  return r;
}

static int build(struct tls_context *c, SSL_CTX **out, char why[TLS_WHY]) {
  ERR_clear_error();
  SSL_CTX *ssl = SSL_CTX_new(TLS_method());
  int r = ssl ? configure(c, ssl, why) : ERR_NOMEM;
  ERR_clear_error();
  if (r == ERR_NOMEM) snprintf(why, TLS_WHY, "not enough memory");
  if (r) {
    SSL_CTX_free(ssl);
    return r;
  }
  *out = ssl;
  return 0;
}

/* ---- copies of the options ---------------------------------------------------------- */

static bool copy_text(const char **text) {
  if (!*text) return true;
  *text = strdup(*text);
  return *text != NULL;
}

static const char **texts_of(struct tls_opts *o, size_t i) {
  const char **all[] = {&o->cert,       &o->key,     &o->password,     &o->ca,
                        &o->servername, &o->ciphers, &o->ciphersuites, &o->keylog};
  return i < sizeof all / sizeof *all ? all[i] : NULL;
}

/* What could not be copied is left NULL, so that all of it can be freed. */
static bool copy_opts(struct tls_opts *to, const struct tls_opts *from) {
  bool ok = true;
  *to = *from;
  for (size_t i = 0; texts_of(to, i); i++) ok = copy_text(texts_of(to, i)) && ok;
  size_t n = to->servername ? strlen(to->servername) : 0;
  if (n > 1 && to->servername[n - 1] == '.') ((char *)(uintptr_t)to->servername)[n - 1] = 0;
  to->alpn = NULL;
  if (!from->alpn_len) return ok;
  unsigned char *alpn = malloc(from->alpn_len);
  if (!alpn) return false;
  memcpy(alpn, from->alpn, from->alpn_len);
  to->alpn = alpn;
  return ok;
}

static void free_opts(struct tls_opts *o) {
  if (o->password) OPENSSL_cleanse((char *)(uintptr_t)o->password, strlen(o->password));
  for (size_t i = 0; texts_of(o, i); i++) free((char *)(uintptr_t)*texts_of(o, i));
  free((unsigned char *)(uintptr_t)o->alpn);
}

/* ---- life --------------------------------------------------------------------------- */

int tls_context_new(struct turn *t, const struct tls_opts *o, struct tls_context **out,
                    char why[TLS_WHY]) {
  struct tls_root *root = tls_root_of(t);
  struct tls_context *c = root ? calloc(1, sizeof *c) : NULL;
  snprintf(why, TLS_WHY, "not enough memory");
  if (!c) return ERR_NOMEM;
  c->root = root;
  c->next = root->first_context;
  if (c->next) c->next->prev = c;
  root->first_context = c;
  c->refs = 1;
  int r = copy_opts(&c->opts, o) ? build(c, &c->ssl, why) : ERR_NOMEM;
  if (r) {
    tls_context_drop(c);
    return r;
  }
  *out = c;
  return 0;
}

struct tls_context *tls_context_ref(struct tls_context *c) {
  c->refs++;
  return c;
}

static void context_free(struct tls_context *c) {
  *(c->prev ? &c->prev->next : &c->root->first_context) = c->next;
  if (c->next) c->next->prev = c->prev;
  forget_sessions(c);
  for (size_t i = 0; i < c->n_names; i++) free(c->names[i].name);
  free(c->names);
  SSL_CTX_free(c->ssl);
  free_opts(&c->opts);
  free(c);
}

void tls_context_drop(struct tls_context *c) {
  if (!c || --c->refs) return;
  for (size_t i = 0; i < c->n_names; i++) tls_context_drop(c->names[i].context);
  context_free(c);
}

int tls_context_add_name(struct tls_context *c, const char *name, struct tls_context *other) {
  struct named *names = realloc(c->names, (c->n_names + 1) * sizeof *names);
  if (!names) return ERR_NOMEM;
  c->names = names;
  char *copy = strdup(name);
  if (!copy) return ERR_NOMEM;
  c->names[c->n_names++] = (struct named){copy, tls_context_ref(other)};
  return 0;
}

static int prepare(struct tls_context *c, char why[TLS_WHY]) {
  int r = c->fresh ? 0 : build(c, &c->fresh, why);
  for (size_t i = 0; i < c->n_names && r == 0; i++) r = prepare(c->names[i].context, why);
  return r;
}

/* The sessions of the old one hold it. */
static void commit(struct tls_context *c, bool take) {
  if (c->fresh && take) {
    SSL_CTX_free(c->ssl);
    c->ssl = c->fresh;
    forget_sessions(c);
  } else {
    SSL_CTX_free(c->fresh);
  }
  c->fresh = NULL;
  for (size_t i = 0; i < c->n_names; i++) commit(c->names[i].context, take);
}

/* All are built before the first is replaced. */
int tls_context_reload(struct tls_context *c, char why[TLS_WHY]) {
  int r = prepare(c, why);
  commit(c, r == 0);
  return r;
}

const struct tls_opts *tls_context_opts(const struct tls_context *c) { return &c->opts; }

bool tls_context_has_cert(const struct tls_context *c) { return c->opts.cert != NULL; }

/* ---- sessions ------------------------------------------------------------------------ */

static void verify_as(SSL *ssl, const struct tls_opts *o) {
  int mode = SSL_VERIFY_NONE;
  if (o->verify != TLS_VERIFY_NONE) mode = SSL_VERIFY_PEER;
  if (o->verify == TLS_VERIFY_REQUIRED) mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  SSL_set_verify(ssl, mode, NULL);
}

static bool is_ip(const char *host) {
  unsigned char ip[16];
  return inet_pton(AF_INET, host, ip) == 1 || inet_pton(AF_INET6, host, ip) == 1;
}

/* SNI is for names only (RFC 6066, 3); what is verified is a name or an address, among the
 * alternative names alone (RFC 9525, 6.3). */
static bool expect(SSL *ssl, const char *host) {
  if (is_ip(host)) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
  SSL_set_hostflags(ssl,
                    X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  return SSL_set_tlsext_host_name(ssl, host) == 1 && SSL_set1_host(ssl, host) == 1;
}

static bool set_client(struct tls_context *c, SSL *ssl, const char *host) {
  const struct tls_opts *o = &c->opts;
  SSL_set_connect_state(ssl);
  SSL_set_verify(ssl, o->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
  if (o->alpn && SSL_set_alpn_protos(ssl, o->alpn, (unsigned)o->alpn_len) != 0) return false;
  SSL_set_app_data(ssl, (char *)(uintptr_t)host);
  resume(c, ssl, host);
  return !host || expect(ssl, host);
}

SSL *tls_session_new(struct tls_context *c, bool server, const char *host) {
  ERR_clear_error();
  SSL *ssl = SSL_new(c->ssl);
  if (!ssl) return NULL;
  if (server) {
    SSL_set_accept_state(ssl);
    verify_as(ssl, &c->opts);
    return ssl;
  }
  if (set_client(c, ssl, host)) return ssl;
  SSL_free(ssl);
  return NULL;
}
