/* What lserve.c and lserver.c need of handshakes under way (lhandshake.c). */
#ifndef LUNEWIRE_LHANDSHAKE_H
#define LUNEWIRE_LHANDSHAKE_H

#include "lserver.h"

/* A connection in its handshake, or behind it and not yet taken by its server. */
struct hello {
  struct keeper keeper; /* first */
  struct timer timer;
  struct hello *prev, *next; /* in rt's list, then in the server's */
  struct lserver *ls;
  struct conn *c;
  int ref; /* anchors its Conn */
};

/* The new Conn at idx, a connection of the server, begins its handshake. 0, or a code and it is
 * reset. */
int hello_begin(lua_State *L, struct lserver *ls, int idx);
/* [-0, +1] The next Conn whose handshake is over, well or not (then it is closed); or false and
 * nothing is pushed. */
bool hello_pop(lua_State *L, struct lserver *ls);
/* Nobody will take those whose handshake is over: they are closed. */
void hello_drop_all(lua_State *L, struct lserver *ls);
/* The server shuts down: who has not said a word yet is closed. */
void hello_drain(struct lserver *ls);
/* Whoever is in its handshake is reset -> was there anybody? */
bool hello_reset_all(struct lserver *ls);
/* The server's userdata goes away. */
void hello_forget_all(struct lserver *ls);

#endif
