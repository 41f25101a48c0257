// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * igmp-sources: filters of multicast sources that are longer than they may be.
 */
#include "bpftune.bpf.h"

#define ENOBUFS 105

/* include/uapi/linux/in.h */
#define IPPROTO_IP 0
#define IP_MSFILTER 41
#define MCAST_MSFILTER 48
/* Where the number of sources stands in struct ip_msfilter, group_filter. */
#define IP_MSFILTER_COUNT 12
#define MCAST_MSFILTER_COUNT 140

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/net/netns/ipv4.h; what follows the ___ does not count */
struct netns_ipv4___sources {
	int sysctl_igmp_max_msf;
};

/* include/net/net_namespace.h */
struct net___sources {
	struct netns_ipv4___sources ipv4;
};

#pragma clang attribute pop

/* Indices into the scenarios of igmp-sources.swift. */
enum {
	FILTER_REFUSED,
};

/* Numbers of the event, read by igmp-sources.swift. */
enum {
	VALUE_LIMIT,	/* net.ipv4.igmp_max_msf when the filter was refused */
	VALUE_SOURCES,	/* how many sources it names */
};

/* Threads that are about to set a filter, and of how many sources. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} filtering SEC(".maps");

/* kernel/trace/trace.h: struct syscall_trace_enter and _exit, as programs see them */
struct setsockopt_enter {
	__u64 common;
	__s64 nr;
	__s64 fd;
	__s64 level;
	__s64 optname;
	__u64 optval;
};

struct setsockopt_exit {
	__u64 common;
	__s64 nr;
	__s64 ret;
};

SEC("tracepoint/syscalls/sys_enter_setsockopt")
int filter_set(struct setsockopt_enter *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 place = ctx->optval;
	__u32 sources = 0;

	if (ctx->level != IPPROTO_IP)
		return 0;
	if (ctx->optname == IP_MSFILTER)
		place += IP_MSFILTER_COUNT;
	else if (ctx->optname == MCAST_MSFILTER)
		place += MCAST_MSFILTER_COUNT;
	else
		return 0;
	if (!bpf_probe_read_user(&sources, sizeof(sources), (void *)place))
		bpf_map_update_elem(&filtering, &thread, &sources, BPF_ANY);
	return 0;
}

/* ENOBUFS: it names more sources than it may (ip_set_mcast_msfilter). */
SEC("tracepoint/syscalls/sys_exit_setsockopt")
int filter_was_set(struct setsockopt_exit *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct bpftune_event event = {};
	__u32 *found, sources;
	struct net *net;

	found = bpf_map_lookup_elem(&filtering, &thread);
	if (!found)
		return 0;
	sources = *found;
	bpf_map_delete_elem(&filtering, &thread);
	if (ctx->ret != -ENOBUFS)
		return 0;
	net = current_net();
	fill_header(&event.header, net, FILTER_REFUSED);
	event.header.pid = current_tgid();
	event.values[VALUE_LIMIT] =
		BPF_CORE_READ((struct net___sources *)net, ipv4.sysctl_igmp_max_msf);
	event.values[VALUE_SOURCES] = sources;
	/* Another reason: optmem_max is too small for it. */
	if (sources <= event.values[VALUE_LIMIT])
		return 0;
	if (fold(&event.header, event.values[VALUE_LIMIT]))
		emit(&event, sizeof(event));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
