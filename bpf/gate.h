/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For programs that act by themselves, on a socket: where they may. User space
 * enters here what it would refuse to write to.
 */
#ifndef GATE_H
#define GATE_H

#include "bpftune.bpf.h"

/* Set by user space before the object is loaded: advise, change nothing. */
const volatile __u8 dry_run = 0;

/* No namespace at all stands for every one. */
struct gate_key {
	__u64 netns_cookie;
	__u32 netns_inode;
	__u32 source;
};

/* Tuners that an administrator has disabled, or that a namespace is held out from. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct gate_key);
	__type(value, __u32);
} closed_gates SEC(".maps");

static __always_inline bool is_closed(__u64 netns_cookie, __u32 netns_inode)
{
	struct gate_key key = { .source = source_id };

	if (bpf_map_lookup_elem(&closed_gates, &key))
		return true;
	key.netns_cookie = netns_cookie;
	key.netns_inode = netns_inode;
	return bpf_map_lookup_elem(&closed_gates, &key);
}

#endif
