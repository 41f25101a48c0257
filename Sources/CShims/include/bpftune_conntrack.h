/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of netfilter's table of connections, by netlink. */
#ifndef BPFTUNE_CONNTRACK_H
#define BPFTUNE_CONNTRACK_H

#include <stdint.h>

/* What some entries of the calling thread's namespace are. */
struct bpftune_conntrack_sample {
	uint32_t seen;
	uint32_t evictable;	/* the kernel would drop it for another one */
	uint32_t answered;	/* of those: the other side has sent something */
};

/*
 * Looks at about `most` entries; how many there are can be less. Which ones is
 * up to the hash that they are stored by. Returns 0 or an error of libnl.
 */
int bpftune_conntrack_sample(uint32_t most, struct bpftune_conntrack_sample *sample);

#endif
