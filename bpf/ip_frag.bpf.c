// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * ip-frag: fragments that are refused since those that wait for the rest of
 * their datagrams hold as much memory as they may. The kernel does not say so:
 * inet_frag_find() in net/ipv4/inet_fragment.c finds no room, and ip_defrag()
 * and ipv6_frag_rcv() free the packet without a reason. So what is freed
 * without a reason, is a fragment, and finds the memory used up, counts.
 */
#include "net_slots.h"

#define AF_INET 2
#define AF_INET6 10

/* include/uapi/linux/if_ether.h */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

/* include/net/ip.h */
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff

/* include/uapi/linux/in6.h */
#define NEXTHDR_FRAGMENT 44

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/net/inet_frag.h */
struct fqdir {
	long high_thresh;
	long low_thresh;
	struct {
		struct {
			int counter;
		} nelems;
	} rhashtable;
	atomic_long_t mem;
};

/* include/net/net_namespace.h */
struct net___frag {
	struct {
		struct fqdir *fqdir;
	} ipv4;
	struct {
		struct fqdir *fqdir;
	} ipv6;
};

/* include/linux/netdevice.h */
struct net_device___frag {
	possible_net_t nd_net;
};

/* include/linux/skbuff.h */
struct sk_buff___frag {
	struct net_device___frag *dev;
	__u16 protocol;
	__u16 network_header;
	unsigned char *head;
};

#pragma clang attribute pop

/* Mirrored by IPFrag.Scenario in Sources/Tuners/IPFrag.swift. */
enum ip_frag_scenario {
	IP_FRAG_REFUSED = 1,
	IP_FRAG_LOOK = 2,	/* on request: how the memory stands */
};

/* Mirrored by IPFrag.Value in Sources/Tuners/IPFrag.swift. */
enum ip_frag_value {
	IP_FRAG_FAMILY,		/* AF_INET or AF_INET6 */
	IP_FRAG_LIMIT,		/* bytes: high_thresh */
	IP_FRAG_HELD,		/* bytes that fragments hold */
	IP_FRAG_WAITING,	/* datagrams that are not complete */
	IP_FRAG_REFUSALS,	/* fragments refused so far */
	IP_FRAG_FIRST,		/* how many of them were the first of a datagram */
	IP_FRAG_LAST,		/* how many the last */
	IP_FRAG_BYTES,		/* bytes in them */
	IP_FRAG_WHOLE,		/* bytes of the datagrams that the last ones end */
};

EXPORT_ENUM(ip_frag_scenario);
EXPORT_ENUM(ip_frag_value);

/* Of struct net_slot's counts. */
enum {
	REFUSALS,
	FIRST,
	LAST,
	BYTES,
	WHOLE,
};

/* What a fragment says of itself. */
struct fragment {
	__u32 family;
	__u32 offset;		/* bytes before it */
	__u32 length;
	bool more;
};

static __always_inline bool read_fragment(struct sk_buff___frag *skb, struct fragment *fragment)
{
	__u16 protocol = bpf_ntohs(skb->protocol), start = skb->network_header, bits;
	unsigned char *header = skb->head + start;
	__u16 words[4];

	if (protocol == ETH_P_IP) {
		/* ihl, tot_len, id, frag_off */
		if (bpf_probe_read_kernel(words, 8, header))
			return false;
		bits = bpf_ntohs(words[3]);
		if (!(bits & (IP_MF | IP_OFFSET)))
			return false;
		fragment->family = AF_INET;
		fragment->offset = (bits & IP_OFFSET) * 8;
		fragment->more = bits & IP_MF;
		fragment->length = bpf_ntohs(words[1]) - (bpf_ntohs(words[0]) >> 8 & 15) * 4;
		return true;
	}
	if (protocol == ETH_P_IPV6) {
		/* payload_len, nexthdr and hop_limit */
		if (bpf_probe_read_kernel(words, 4, header + 4) ||
		    bpf_ntohs(words[1]) >> 8 != NEXTHDR_FRAGMENT)
			return false;
		fragment->length = bpf_ntohs(words[0]) - 8;
		if (bpf_probe_read_kernel(&bits, 2, header + 42))
			return false;
		bits = bpf_ntohs(bits);
		fragment->family = AF_INET6;
		fragment->offset = bits & ~7;
		fragment->more = bits & 1;
		return true;
	}
	return false;
}

static __always_inline struct fqdir *fqdir_of(struct net *net, __u32 family)
{
	struct net___frag *mine = (void *)net;

	return family == AF_INET6 ? BPF_CORE_READ(mine, ipv6.fqdir) :
				    BPF_CORE_READ(mine, ipv4.fqdir);
}

static __always_inline void fill(struct bpftune_event *event, __u32 family,
				 struct net_slot *slot, struct fqdir *fqdir)
{
	event->values[IP_FRAG_FAMILY] = family;
	event->values[IP_FRAG_LIMIT] = BPF_CORE_READ(fqdir, high_thresh);
	event->values[IP_FRAG_HELD] = BPF_CORE_READ(fqdir, mem.counter);
	event->values[IP_FRAG_WAITING] = BPF_CORE_READ(fqdir, rhashtable.nelems.counter);
	/* Nothing was refused lately. */
	if (!slot)
		return;
	event->values[IP_FRAG_REFUSALS] = slot->counts[REFUSALS];
	event->values[IP_FRAG_FIRST] = slot->counts[FIRST];
	event->values[IP_FRAG_LAST] = slot->counts[LAST];
	event->values[IP_FRAG_BYTES] = slot->counts[BYTES];
	event->values[IP_FRAG_WHOLE] = slot->counts[WHOLE];
}

/* The families of a namespace are folded apart. */
static __always_inline bool fold_by_family(struct bpftune_event_header *header, __u32 family,
					   __s64 limit)
{
	struct bpftune_event_header one = *header;
	bool send;

	one.netns_cookie = one.netns_cookie << 1 | (family == AF_INET6);
	send = fold(&one, limit);
	header->folded = one.folded;
	return send;
}

static __always_inline void freed(struct sk_buff___frag *skb)
{
	struct net_device___frag *dev = skb->dev;
	struct fragment fragment = {};
	struct bpftune_event event;
	struct net_slot *slot;
	struct fqdir *fqdir;
	struct net *net;
	__u64 now;

	if (!read_fragment(skb, &fragment))
		return;
	if (!dev)
		return;
	net = dev->nd_net.net;
	if (!net)
		return;
	fqdir = fqdir_of(net, fragment.family);
	if (!fqdir || BPF_CORE_READ(fqdir, mem.counter) <= BPF_CORE_READ(fqdir, high_thresh))
		return;
	now = bpf_ktime_get_ns();
	slot = net_slot_of(net, fragment.family, now);
	if (!slot)
		return;
	slot->last_ns = now;
	__sync_fetch_and_add(&slot->counts[REFUSALS], 1);
	__sync_fetch_and_add(&slot->counts[BYTES], fragment.length);
	if (!fragment.offset)
		__sync_fetch_and_add(&slot->counts[FIRST], 1);
	if (!fragment.more) {
		__sync_fetch_and_add(&slot->counts[LAST], 1);
		__sync_fetch_and_add(&slot->counts[WHOLE], fragment.offset + fragment.length);
	}
	if (!is_slot_due(slot, now))
		return;

	__builtin_memset(&event, 0, sizeof(event));
	fill_slot_header(&event.header, slot, IP_FRAG_REFUSED);
	fill(&event, slot->kind, slot, fqdir);
	if (!fold_by_family(&event.header, slot->kind, event.values[IP_FRAG_LIMIT]))
		return;
	emit(&event, sizeof(event));
}

/*
 * Reached from drop_watch.bpf.c, for packets without a reason alone; attached by
 * itself where the kernel gives none (before 5.17).
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(ip_frag_freed, struct sk_buff___frag *skb)
{
	freed(skb);
	return 0;
}

static __always_inline void report(struct net *net, __u32 family)
{
	struct net_slot *slot = net_slot_known(net, family);
	struct fqdir *fqdir = fqdir_of(net, family);
	struct bpftune_event event;

	if (!fqdir)
		return;
	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, net, IP_FRAG_LOOK);
	fill(&event, family, slot, fqdir);
	emit(&event, sizeof(event));
}

/* Run inside a namespace on behalf of the daemon: reports how it stands. */
SEC("raw_tp/sys_enter")
int ip_frag_report(void *ctx)
{
	report(current_net(), AF_INET);
	report(current_net(), AF_INET6);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
