// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * conntrack: packets that netfilter drops. Whether it was since the table of
 * connections is full, or since a rule says so, the kernel does not tell here;
 * user space reads the counters of the namespace.
 */
#include "conntrack.h"

EXPORT_ENUM(conntrack_scenario);
EXPORT_ENUM(conntrack_value);

/* Reached from drop_watch.bpf.c, for this reason alone. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(conntrack_drop, struct sk_buff___ct *skb)
{
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
