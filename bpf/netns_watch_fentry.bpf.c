// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * namespace watch: the functions that make a namespace and let it go, where the
 * kernel allows programs there.
 */
#include "netns_watch.h"

/*
 * net/core/net_namespace.c: clone(), clone3() and unshare() all come here, and
 * get back the namespace that they had or a new one.
 */
SEC("fexit/copy_net_ns")
int BPF_PROG(netns_watch_created, unsigned long flags, void *user_ns, struct net *old,
	     struct net *net)
{
	if (flags & CLONE_NEWNET && (unsigned long)net < (unsigned long)-4095)
		tell(net, NETNS_WATCH_CREATED, current_tgid());
	return 0;
}

/* net/core/net_namespace.c: the last reference is gone, the rest is clearing up. */
SEC("fentry/__put_net")
int BPF_PROG(netns_watch_ended, struct net *net)
{
	tell(net, NETNS_WATCH_ENDED, 0);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
