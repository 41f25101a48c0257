// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * igmp-groups: sockets that may not join another multicast group.
 */
#include "bpftune.bpf.h"

#define ENOBUFS 105

/* include/uapi/linux/in.h */
#define IPPROTO_IP 0
#define IP_ADD_MEMBERSHIP 35
#define MCAST_JOIN_GROUP 42

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/net/netns/ipv4.h; what follows the ___ does not count */
struct netns_ipv4___groups {
	int sysctl_igmp_max_memberships;
};

/* include/net/net_namespace.h */
struct net___groups {
	struct netns_ipv4___groups ipv4;
};

#pragma clang attribute pop

/* Indices into the scenarios of igmp-groups.c. */
enum {
	GROUP_REFUSED,
};

/* Numbers of the event, read by igmp-groups.c. */
enum {
	VALUE_LIMIT,	/* net.ipv4.igmp_max_memberships when a join was refused */
};

/* Threads that are about to join a group. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} joining SEC(".maps");

/* kernel/trace/trace.h: struct syscall_trace_enter and _exit, as programs see them */
struct setsockopt_enter {
	__u64 common;
	__s64 nr;
	__s64 fd;
	__s64 level;
	__s64 optname;
};

struct setsockopt_exit {
	__u64 common;
	__s64 nr;
	__s64 ret;
};

SEC("tracepoint/syscalls/sys_enter_setsockopt")
int group_join(struct setsockopt_enter *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u8 one = 1;

	if (ctx->level != IPPROTO_IP)
		return 0;
	if (ctx->optname == IP_ADD_MEMBERSHIP || ctx->optname == MCAST_JOIN_GROUP)
		bpf_map_update_elem(&joining, &thread, &one, BPF_ANY);
	return 0;
}

/* ENOBUFS: the socket is in as many groups as it may be (ip_mc_join_group). */
SEC("tracepoint/syscalls/sys_exit_setsockopt")
int group_joined(struct setsockopt_exit *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct bpftune_event event = {};
	struct net *net;

	if (bpf_map_delete_elem(&joining, &thread) || ctx->ret != -ENOBUFS)
		return 0;
	net = current_net();
	fill_header(&event.header, net, GROUP_REFUSED);
	event.header.pid = current_tgid();
	event.values[VALUE_LIMIT] =
		BPF_CORE_READ((struct net___groups *)net, ipv4.sysctl_igmp_max_memberships);
	/* The first one, and then again when the limit is another, or after a while. */
	if (fold(&event.header, event.values[VALUE_LIMIT]))
		emit(&event, sizeof(event));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
