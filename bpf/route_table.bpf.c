// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * route-table: IPv6 routes that come near the number from which the kernel
 * refuses more. Not attached where the kernel has no such limit any more.
 */
#include "bpftune.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/percpu_counter.h */
struct percpu_counter___route {
	__s64 count;
};

/* include/net/dst_ops.h */
struct dst_ops___route {
	unsigned int gc_thresh;
	struct percpu_counter___route pcpuc_entries;
};

/* include/net/netns/ipv6.h */
struct netns_sysctl_ipv6___route {
	int ip6_rt_max_size;
};

struct netns_ipv6___route {
	struct dst_ops___route ip6_dst_ops;
	struct netns_sysctl_ipv6___route sysctl;
};

/* include/net/net_namespace.h */
struct net___route {
	struct netns_ipv6___route ipv6;
};

#pragma clang attribute pop

/* Mirrored by RouteTable.Scenario in Sources/Tuners/RouteTable.swift. */
enum route_table_scenario {
	ROUTE_TABLE_FILLING = 1,
	ROUTE_TABLE_EMPTY = 2,
};

/* Mirrored by RouteTable.Value in Sources/Tuners/RouteTable.swift. */
enum route_table_value {
	ROUTE_TABLE_ENTRIES,	/* routes held, to within some dozens */
	ROUTE_TABLE_MAX_SIZE,
	ROUTE_TABLE_GC_THRESH,
};

EXPORT_ENUM(route_table_scenario);
EXPORT_ENUM(route_table_value);

/* What the kernel starts with: nothing comes down below it. */
#define MAX_SIZE 4096

/* A route is looked up. */
SEC("tp_btf/fib6_table_lookup")
int BPF_PROG(route_table_lookup, const struct net *lookup_net)
{
	struct net___route *net = (struct net___route *)lookup_net;
	__s64 entries = BPF_CORE_READ(net, ipv6.ip6_dst_ops.pcpuc_entries.count);
	__s64 most = BPF_CORE_READ(net, ipv6.sysctl.ip6_rt_max_size);
	struct bpftune_event event;
	__u16 scenario;

	if (entries >= most / 4 * 3)
		scenario = ROUTE_TABLE_FILLING;
	else if (most > MAX_SIZE && most < 0x7fffffff && entries < most / 8)
		scenario = ROUTE_TABLE_EMPTY;
	else
		return 0;
	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, (struct net *)lookup_net, scenario);
	if (!fold(&event.header, most))
		return 0;
	event.values[ROUTE_TABLE_ENTRIES] = entries;
	event.values[ROUTE_TABLE_MAX_SIZE] = most;
	event.values[ROUTE_TABLE_GC_THRESH] = BPF_CORE_READ(net, ipv6.ip6_dst_ops.gc_thresh);
	emit(&event, sizeof(event));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
