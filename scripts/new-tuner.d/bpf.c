// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * @name@: sockets that may not join another multicast group.
 */
#include "bpftune.bpf.h"

#define ENOBUFS 105

/* include/uapi/linux/in.h */
#define IPPROTO_IP 0
#define IP_ADD_MEMBERSHIP 35
#define MCAST_JOIN_GROUP 42

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/net/netns/ipv4.h */
struct netns_ipv4___@id@ {
	int sysctl_igmp_max_memberships;
};

/* include/net/net_namespace.h */
struct net___@id@ {
	struct netns_ipv4___@id@ ipv4;
};

#pragma clang attribute pop

/* Mirrored by @Type@.Scenario in Sources/Tuners/@Type@.swift. */
enum @id@_scenario {
	@ID@_REFUSED = 1,
};

/* Mirrored by @Type@.Value in Sources/Tuners/@Type@.swift. */
enum @id@_value {
	@ID@_LIMIT,	/* net.ipv4.igmp_max_memberships */
};

EXPORT_ENUM(@id@_scenario);
EXPORT_ENUM(@id@_value);

/* Threads that are about to join a group. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} @id@_joining SEC(".maps");

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
int @id@_join(struct setsockopt_enter *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u8 one = 1;

	if (ctx->level != IPPROTO_IP)
		return 0;
	if (ctx->optname == IP_ADD_MEMBERSHIP || ctx->optname == MCAST_JOIN_GROUP)
		bpf_map_update_elem(&@id@_joining, &thread, &one, BPF_ANY);
	return 0;
}

/* ENOBUFS: the socket is in as many groups as it may be (ip_mc_join_group). */
SEC("tracepoint/syscalls/sys_exit_setsockopt")
int @id@_joined(struct setsockopt_exit *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct bpftune_event event = {};
	struct net *net;

	if (bpf_map_delete_elem(&@id@_joining, &thread) || ctx->ret != -ENOBUFS)
		return 0;
	net = current_net();
	fill_header(&event.header, net, @ID@_REFUSED);
	event.header.pid = current_tgid();
	event.values[@ID@_LIMIT] =
		BPF_CORE_READ((struct net___@id@ *)net, ipv4.sysctl_igmp_max_memberships);
	if (fold(&event.header, event.values[@ID@_LIMIT]))
		emit(&event, sizeof(event));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
