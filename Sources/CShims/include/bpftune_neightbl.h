/* SPDX-License-Identifier: Apache-2.0 */
/* Neighbour tables by netlink, in the network namespace of the calling thread. */
#ifndef BPFTUNE_NEIGHTBL_H
#define BPFTUNE_NEIGHTBL_H

#include <stdint.h>

/*
 * Sets gc_thresh1, 2 or 3 of the table of an address family, "arp_cache" or
 * "ndisc_cache" (RTM_SETNEIGHTBL, net/core/neighbour.c). Returns 0 or a
 * negative error of libnl.
 */
int bpftune_neightbl_set(int family, const char *table, int threshold, uint32_t value);

/*
 * How many neighbours the prefixes configured here could have, in all: a /24
 * counts 256. Leaves out devices that resolve no addresses or are down, and
 * stops at `most`. Returns 0 or a negative error of libnl.
 */
int bpftune_neightbl_need(int family, uint64_t most, uint64_t *need);

/* A negative error of libnl, in words. */
const char *bpftune_netlink_error(int error);

#endif
