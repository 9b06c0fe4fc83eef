/* Every code has a name and a text.
 *
 * What this is not: a list of libuv's codes; its own map is used. */
#include "../../csrc/core/err.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <uv.h>

#include "test.h"

TEST(gives_our_names_and_texts) {
  static const struct {
    int code;
    const char *name, *text;
  } known[] = {
      {ERR_EOF, "EOF", "end of stream"},
      {ERR_TIMEDOUT, "ETIMEDOUT", "timed out"},
      {ERR_CLOSED, "ECLOSED", "closed"},
      {ERR_MSGSIZE, "EMSGSIZE", "message too long"},
      {ERR_PROTO, "EPROTO", "protocol error"},
      {ERR_AGAIN, "EAGAIN", "would have to wait"},
      {ERR_TLS, "ETLS", "tls failure"},
      {ERR_CERT, "ECERT", "certificate rejected"},
      {ERR_ERROR, "EERROR", "ended by an error"},
      {ERR_CANCELED, "ECANCELED", "canceled"},
      {ERR_NOTFOUND, "ENOTFOUND", "no such host"},
      {UV_EAI_NONAME, "ENOTFOUND", "no such host"},
      {UV_EAI_NODATA, "ENOTFOUND", "no such host"},
      {UV_ECONNREFUSED, "ECONNREFUSED", "connection refused"},
      {ERR_ABORTED, "ECONNABORTED", "connection aborted"},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    CHECK_STR(err_name(known[i].code), known[i].name);
    CHECK_STR(err_text(known[i].code), known[i].text);
  }
}

TEST(answers_for_unknown_codes) {
  static const int codes[] = {0, 1, 12345, -4999, -5005, INT_MIN, INT_MAX};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
    CHECK_STR(err_name(codes[i]), "UNKNOWN");
    CHECK_STR(err_text(codes[i]), "unknown error");
  }
}

static bool any_upper(const char *text) {
  while (*text && !isupper((unsigned char)*text)) text++;
  return *text != 0;
}

TEST(names_every_code_of_the_system) {
#define CHECK_CODE(id, text)                                                                       \
  CHECK(strcmp(err_name(UV_##id), #id) == 0 || strcmp(err_name(UV_##id), "ENOTFOUND") == 0);       \
  CHECK(*err_text(UV_##id) && !any_upper(err_text(UV_##id)));
  UV_ERRNO_MAP(CHECK_CODE)
#undef CHECK_CODE
}
