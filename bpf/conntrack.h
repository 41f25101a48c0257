/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* conntrack: what is done with a packet that netfilter has dropped. */
#ifndef CONNTRACK_H
#define CONNTRACK_H

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

/* Mirrored by Conntrack.Scenario in Sources/Tuners/Conntrack.swift. */
enum conntrack_scenario {
	CONNTRACK_DROP = 1,
	CONNTRACK_LOOK = 2,	/* on request: each namespace that dropped, and the own */
};

/* Mirrored by Conntrack.Value in Sources/Tuners/Conntrack.swift. */
enum conntrack_value {
	CONNTRACK_DROPS,	/* by netfilter, for whatever cause */
};

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

#endif
