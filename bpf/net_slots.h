/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is counted by namespace, so that it can be reported on request. A slot
 * is told from one whose namespace has gone by the namespace's own numbers.
 */
#ifndef BPFTUNE_NET_SLOTS_H
#define BPFTUNE_NET_SLOTS_H

#include "bpftune.bpf.h"

struct net_slot {
	struct net *net;
	__u64 cookie;
	__u32 inode;
	__u32 kind;		/* such as the address family */
	__u64 last_ns;		/* when it was counted in last */
	__u64 next_ns;		/* no event is thought of before */
	__u64 counts[6];
};

#define NET_SLOTS 256
/* A slot that nothing was counted in for that long is given away. */
#define NET_SLOT_KEPT (900 * NSEC_PER_SEC)
/* How many places there are for a namespace. */
#define NET_SLOT_TRIES 4

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NET_SLOTS);
	__type(key, __u32);
	__type(value, struct net_slot);
} net_slots SEC(".maps");

/* Whether the namespace of the slot is still there. */
static __always_inline bool is_slot_alive(struct net_slot *slot)
{
	struct net *net = slot->net;

	return net && BPF_CORE_READ(net, ns.inum) == slot->inode &&
	       net_cookie(net) == slot->cookie;
}

static __always_inline __u32 net_slot_index(__u32 inode, __u32 kind, __u32 try)
{
	return ((inode + kind) * 0x9e3779b1 >> 16 ^ try) % NET_SLOTS;
}

/* The slot that the namespace has already. */
static __always_inline struct net_slot *net_slot_known(struct net *net, __u32 kind)
{
	__u32 inode = BPF_CORE_READ(net, ns.inum), index, try;
	__u64 cookie = net_cookie(net);
	struct net_slot *slot;

	for (try = 0; try < NET_SLOT_TRIES; try++) {
		index = net_slot_index(inode, kind, try);
		slot = bpf_map_lookup_elem(&net_slots, &index);
		if (slot && slot->inode == inode && slot->kind == kind && slot->cookie == cookie)
			return slot;
	}
	return NULL;
}

/* `net` comes from a tracepoint: the kernel knows its type, and no helper is needed. */
static __always_inline struct net_slot *net_slot_of(struct net *net, __u32 kind, __u64 now)
{
	__u64 cookie = bpf_core_field_exists(net->net_cookie) ? net->net_cookie : 0;
	__u32 inode = net->ns.inum, index, try;
	struct net_slot *slot, *free = NULL;

	for (try = 0; try < NET_SLOT_TRIES; try++) {
		index = net_slot_index(inode, kind, try);
		slot = bpf_map_lookup_elem(&net_slots, &index);
		if (!slot)
			return NULL;
		if (slot->inode == inode && slot->kind == kind && slot->cookie == cookie)
			return slot;
		if (!free && now - slot->last_ns > NET_SLOT_KEPT)
			free = slot;
		else if (!free && !is_slot_alive(slot))
			free = slot;
	}
	if (!free)
		return NULL;
	__builtin_memset(free, 0, sizeof(*free));
	free->net = net;
	free->cookie = cookie;
	free->inode = inode;
	free->kind = kind;
	return free;
}

/*
 * Whether it is time to think of an event: cheaper than to ask fold(), which
 * no more than one in 20 ms has to.
 */
static __always_inline bool is_slot_due(struct net_slot *slot, __u64 now)
{
	if (now < slot->next_ns)
		return false;
	slot->next_ns = now + FOLD_MIN;
	return true;
}

/* The header of an event about the slot's namespace. */
static __always_inline void fill_slot_header(struct bpftune_event_header *header,
					     struct net_slot *slot, __u16 scenario)
{
	__builtin_memset(header, 0, sizeof(*header));
	header->version = BPFTUNE_EVENT_VERSION;
	header->source = source_id;
	header->scenario = scenario;
	header->netns_cookie = slot->cookie;
	header->netns_inode = slot->inode;
	header->ktime_ns = bpf_ktime_get_ns();
}

#endif
