// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * namespace watch: network namespaces as they come into being.
 */
#include "netns_watch.h"

/*
 * The hooks below see a namespace that was there before, too: tell once. Where
 * there are no cookies the inode number alone does not say whether it was.
 */
static __always_inline void created(struct net *net, __u32 pid)
{
	struct bpftune_event event = {};

	fill_header(&event.header, net, NETNS_WATCH_CREATED);
	event.header.pid = pid;
	if (fold(&event.header, BPF_CORE_READ(net, hash_mix)))
		emit(&event, sizeof(event));
}

/* clone() and clone3(): the child stands complete, but has not run yet. */
SEC("tp_btf/task_newtask")
int BPF_PROG(netns_watch_clone, struct task_struct *task, unsigned long clone_flags)
{
	if (clone_flags & CLONE_NEWNET)
		created(BPF_CORE_READ(task, nsproxy, net_ns), BPF_CORE_READ(task, tgid));
	return 0;
}

/* kernel/trace/trace.h: struct syscall_trace_exit, as the program sees it */
struct unshare_exit {
	__u64 common;
	__s64 nr;
	__s64 ret;
};

/*
 * unshare(): the caller is in the namespace by now. Other unshare() calls come
 * here too and are folded, since theirs is one that was reported before.
 */
SEC("tracepoint/syscalls/sys_exit_unshare")
int netns_watch_unshare(struct unshare_exit *ctx)
{
	if (!ctx->ret)
		created(current_net(), current_tgid());
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
