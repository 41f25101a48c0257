// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * net-buffer: packets dropped since the backlog of a processor is full. The
 * program tells only that it has begun; user space reads how many from the
 * kernel's counters.
 */
#include "bpftune.bpf.h"

#define IFNAMSIZ 16

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/device.h */
struct device___drop {
	struct device___drop *parent;
};

/* include/linux/netdevice.h */
struct net_device___drop {
	char name[IFNAMSIZ];
	possible_net_t nd_net;
	struct device___drop dev;
};

/* include/linux/skbuff.h */
struct sk_buff___drop {
	struct net_device___drop *dev;
};

#pragma clang attribute pop

/* Mirrored by NetBuffer.Scenario in Sources/Tuners/NetBuffer.swift. */
enum net_buffer_scenario {
	NET_BUFFER_DROPS = 1,
};

/* Mirrored by NetBuffer.Value in Sources/Tuners/NetBuffer.swift. */
enum net_buffer_value {
	NET_BUFFER_CPU,		/* the processor that wanted to queue the packet */
	NET_BUFFER_VIRTUAL,	/* 1: the device is no hardware */
	NET_BUFFER_NAME_LOW,	/* name of the device */
	NET_BUFFER_NAME_HIGH,
};

EXPORT_ENUM(net_buffer_scenario);
EXPORT_ENUM(net_buffer_value);

struct pace {
	__u64 next_ns;		/* nothing is sent before */
	__u64 window_ns;
	__u32 folded;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pace);
} net_buffer_paces SEC(".maps");

#define PACE_MIN (100 * NSEC_PER_MSEC)
#define PACE_MAX (10 * NSEC_PER_SEC)
#define PACE_QUIET NSEC_PER_SEC

/*
 * One report a processor in a window that doubles while drops go on: user space
 * keeps looking by itself as long as there is something to see.
 */
static __always_inline struct pace *due(__u64 now)
{
	__u32 zero = 0;
	struct pace *pace = bpf_map_lookup_elem(&net_buffer_paces, &zero);

	if (!pace)
		return NULL;
	if (now < pace->next_ns) {
		pace->folded++;
		return NULL;
	}
	if (!pace->window_ns || now > pace->next_ns + PACE_QUIET)
		pace->window_ns = PACE_MIN;
	else if (pace->window_ns < PACE_MAX)
		pace->window_ns *= 2;
	pace->next_ns = now + pace->window_ns;
	return pace;
}

/* Reached from drop_watch.bpf.c, for this reason alone. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(net_buffer_drop, struct sk_buff___drop *skb)
{
	struct net_device___drop *dev;
	struct bpftune_event event;
	struct pace *pace;

	pace = due(bpf_ktime_get_ns());
	if (!pace)
		return 0;
	dev = BPF_CORE_READ(skb, dev);
	if (!dev)
		return 0;
	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, BPF_CORE_READ(dev, nd_net.net), NET_BUFFER_DROPS);
	event.header.folded = pace->folded;
	pace->folded = 0;
	event.values[NET_BUFFER_CPU] = bpf_get_smp_processor_id();
	event.values[NET_BUFFER_VIRTUAL] = !BPF_CORE_READ(dev, dev.parent);
	bpf_core_read(&event.values[NET_BUFFER_NAME_LOW], IFNAMSIZ, &dev->name);
	emit(&event, sizeof(event));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
