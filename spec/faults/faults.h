/* Which faults the links of this process have.
 *
 *   LUNEWIRE_FAULTS=MODE[:SEED]     of every link: see modes[] in faults.c
 *   LUNEWIRE_FAULTS=MODE+tls[:SEED] also between each TLS session and its connection
 *   LUNEWIRE_FAULTS_END=first       only of those that dialled, and of a pipe's first ends
 *   LUNEWIRE_FAULTS_LOG=FILE        how many there were is appended to it when the process exits,
 *                                   those above TLS with "tls_" before their names
 *
 * What this is not: the faults themselves (link_fault.h), or their way into the library
 * (world_fault.c). */
#ifndef LUNEWIRE_FAULTS_H
#define LUNEWIRE_FAULTS_H

#include "link_fault.h"

enum fault_end { FAULT_FIRST, FAULT_SECOND }; /* dialled, or a pipe's first; accepted, its second */

/* Puts a faulty link in the place of *l, which is up or connecting; t: where its faults are
 * counted. 0 or ERR_NOMEM: *l is gone. */
int faults_put(struct world *w, struct fault_sleepers *s, enum fault_end end, struct fault_tally *t,
               struct link **l);

/* Are there to be faults above TLS too? */
bool faults_above_tls(void);

/* The next link of this kind gets this plan instead, once. */
void faults_arm(enum fault_end end, const struct fault_plan *plan);

extern struct fault_tally faults_tally, faults_tally_above_tls;

#endif
