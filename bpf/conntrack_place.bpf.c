// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * conntrack, where the kernel gives no reason with a packet that it frees. In an
 * object of its own: the address comes from /proc/kallsyms, which a sandbox hides,
 * and without that no program of the object can be loaded.
 */
#include "conntrack.h"

/* In nf_hook_slow(), of which the kernel's symbols tell the address. */
extern const void nf_hook_slow __ksym __weak;
#define HOOK_SIZE 0x400

/* By the place that it was freed at. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(conntrack_drop_somewhere, struct sk_buff___ct *skb)
{
	__u64 location = ctx[1], start = (__u64)&nf_hook_slow;

	if (start && location - start < HOOK_SIZE)
		dropped(skb);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
