// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * namespace watch: as netns_watch_fentry, on kernels without BPF trampolines.
 */
#include <asm/ptrace.h>
#include "netns_watch.h"

/*
 * net/core/net_namespace.c: the caller still is in the namespace that it had,
 * and gets that one back when it did not ask for a new one.
 */
SEC("kretprobe/copy_net_ns")
int BPF_KRETPROBE(netns_watch_created_kprobe, struct net *net)
{
	if ((unsigned long)net < (unsigned long)-4095 && net != current_net())
		tell(net, NETNS_WATCH_CREATED, current_tgid());
	return 0;
}

/* net/core/net_namespace.c */
SEC("kprobe/__put_net")
int BPF_KPROBE(netns_watch_ended_kprobe, struct net *net)
{
	tell(net, NETNS_WATCH_ENDED, 0);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
