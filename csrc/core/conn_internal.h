/* What conn.c and conn_out.c have of each other; nobody else includes this. */
#ifndef LUNEWIRE_CONN_INTERNAL_H
#define LUNEWIRE_CONN_INTERNAL_H

#include "conn.h"

/* Tells the link what is awaited now; called after anything that changes it. */
void conn_interest(struct conn *c);
/* Is there room to read for nobody in particular? */
bool conn_reads_ahead(const struct conn *c);
/* The link takes output again. */
void conn_unblock(struct conn *c);
/* CLOSING: what comes in is thrown away. */
void conn_discard(struct conn *c);
void conn_forget_page(struct conn *c);
/* It is freed: its limits may go with it. */
void conn_drop_limits(struct conn *c);
/* The link failed: what it has to say beyond its code. */
void conn_note_detail(struct conn *c);

#endif
