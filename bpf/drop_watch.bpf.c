// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Every packet that the kernel drops, for all tuners that look at some of them:
 * what it costs to get into a program is paid once a drop. The tuners' programs
 * stand in an array by the kernel's number for the reason that they are there
 * for. A number that nobody stands at, or one beyond the array, ends here.
 */
#include "bpftune.bpf.h"

/* include/net/dropreason-core.h has a hundred; those of subsystems are above 65,535. */
#define REASONS 512

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u32);
} drop_handlers SEC(".maps");

/* Kernels that give no reason (before 5.17) refuse the program. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(drop_watch, void *skb, void *location, __u32 reason)
{
	bpf_tail_call(ctx, &drop_handlers, reason);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
