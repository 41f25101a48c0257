// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * conntrack: packets that netfilter drops. Whether it was since the table of
 * connections is full, or since a rule says so, the kernel does not tell here;
 * user space reads the counters of the namespace.
 */
#include "net_slots.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/netdevice.h */
struct net_device___ct {
	possible_net_t nd_net;
};

/* include/linux/skbuff.h */
struct sk_buff___ct {
	struct net_device___ct *dev;
	struct sock *sk;
};

#pragma clang attribute pop

/* include/net/dropreason.h; the numbers differ from kernel to kernel. */
enum skb_drop_reason {
	SKB_DROP_REASON_NETFILTER_DROP = 12,
};

/* Mirrored by Conntrack.Scenario in Sources/Tuners/Conntrack.swift. */
enum conntrack_scenario {
	CONNTRACK_DROP = 1,
	CONNTRACK_LOOK = 2,	/* on request: each namespace that dropped, and the own */
};

/* Mirrored by Conntrack.Value in Sources/Tuners/Conntrack.swift. */
enum conntrack_value {
	CONNTRACK_DROPS,	/* by netfilter, for whatever cause */
};

EXPORT_ENUM(conntrack_scenario);
EXPORT_ENUM(conntrack_value);

/* In nf_hook_slow(), of which the kernel's symbols tell the address. */
extern const void nf_hook_slow __ksym __weak;
#define HOOK_SIZE 0x400

static __always_inline void dropped(struct sk_buff___ct *skb)
{
	struct net_device___ct *dev = skb->dev;
	struct sock *sk = skb->sk;
	__u64 now = bpf_ktime_get_ns();
	struct bpftune_event event;
	struct net_slot *slot;
	struct net *net = NULL;

	/* What this host sends has no device yet. */
	if (dev)
		net = dev->nd_net.net;
	else if (sk)
		net = sk->__sk_common.skc_net.net;
	if (!net)
		return;
	slot = net_slot_of(net, 0, now);
	if (!slot)
		return;
	slot->last_ns = now;
	__sync_fetch_and_add(&slot->counts[0], 1);
	if (!is_slot_due(slot, now))
		return;

	__builtin_memset(&event, 0, sizeof(event));
	fill_slot_header(&event.header, slot, CONNTRACK_DROP);
	if (!fold(&event.header, 0))
		return;
	event.values[CONNTRACK_DROPS] = slot->counts[0];
	emit(&event, sizeof(event));
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(conntrack_drop, struct sk_buff___ct *skb, void *location, int reason)
{
	if (reason == (int)bpf_core_enum_value(enum skb_drop_reason,
					       SKB_DROP_REASON_NETFILTER_DROP))
		dropped(skb);
	return 0;
}

/* Where there is no reason, by the place that it was freed at. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(conntrack_drop_somewhere, struct sk_buff___ct *skb)
{
	__u64 location = ctx[1], start = (__u64)&nf_hook_slow;

	if (start && location - start < HOOK_SIZE)
		dropped(skb);
	return 0;
}

/* Run once on behalf of the daemon: reports which namespaces dropped. */
SEC("raw_tp/sys_enter")
int conntrack_report(void *ctx)
{
	struct bpftune_event event;
	struct net_slot *slot;
	__u32 index, at;

	for (index = 0; index < NET_SLOTS; index++) {
		at = index;
		slot = bpf_map_lookup_elem(&net_slots, &at);
		if (!slot || !slot->last_ns || !is_slot_alive(slot))
			continue;
		__builtin_memset(&event, 0, sizeof(event));
		fill_slot_header(&event.header, slot, CONNTRACK_LOOK);
		event.values[CONNTRACK_DROPS] = slot->counts[0];
		emit(&event, sizeof(event));
	}
	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, current_net(), CONNTRACK_LOOK);
	emit(&event, sizeof(event));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
