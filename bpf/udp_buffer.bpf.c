// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * udp-buffer: datagrams that a socket's receive buffer, or the memory of all of
 * UDP, has no room for. What tells a buffer that is too small for bursts from a
 * reader that is too slow is whether the queue runs empty between the drops; so
 * a socket that drops is remembered, and looked at again on request.
 */
#include "bpftune.bpf.h"

/* include/uapi/asm-generic/errno-base.h, errno.h */
#define ENOMEM 12
#define ENOBUFS 105

/* include/net/sock.h */
#define SOCK_RCVBUF_LOCK 2

/* include/uapi/linux/in.h */
#define IPPROTO_UDP 17

/* include/uapi/linux/if_packet.h */
#define PACKET_BROADCAST 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/skbuff.h */
struct sk_buff___udp {
	__u8 pkt_type : 3;
	unsigned int truesize;
};

struct sk_buff_head___udp {
	struct sk_buff___udp *prev;
};

/* include/net/sock.h */
struct sock___udp {
	struct sock_common __sk_common;
	struct sk_buff_head___udp sk_receive_queue;
	struct {
		struct {
			int counter;
		} rmem_alloc;
	} sk_backlog;
	__u8 sk_userlocks;
	__u16 sk_protocol;	/* before 5.16 a bit field: not read there */
	int sk_rcvbuf;
};

#pragma clang attribute pop

/* Mirrored by UDPBuffer.Scenario in Sources/Tuners/UDPBuffer.swift. */
enum udp_buffer_scenario {
	UDP_BUFFER_FULL = 1,	/* a socket's buffer has no room */
	UDP_BUFFER_MEMORY = 2,	/* all of UDP has no room */
	UDP_BUFFER_LOOK = 3,	/* on request: a socket that dropped lately */
	UDP_BUFFER_REPORT = 4,	/* on request: UDP's memory, after the sockets */
};

/* Mirrored by UDPBuffer.Value in Sources/Tuners/UDPBuffer.swift. */
enum udp_buffer_value {
	UDP_BUFFER_SOCKET,	/* tells sockets apart */
	UDP_BUFFER_LIMIT,	/* its sk_rcvbuf, in bytes */
	UDP_BUFFER_LOCKED,	/* it has chosen that itself */
	UDP_BUFFER_PORT,
	UDP_BUFFER_QUEUED,	/* bytes in its queue */
	UDP_BUFFER_DROPS,	/* datagrams dropped in this episode */
	UDP_BUFFER_BYTES,	/* memory that those would have taken */
	UDP_BUFFER_BROADCAST,	/* how many of them were broadcast */
	UDP_BUFFER_HELD,	/* pages that UDP holds, and the three limits */
	UDP_BUFFER_LOW,
	UDP_BUFFER_PRESSURE,
	UDP_BUFFER_HIGH,
};

EXPORT_ENUM(udp_buffer_scenario);
EXPORT_ENUM(udp_buffer_value);

/* A socket that drops. */
struct udp_slot {
	struct sock___udp *sk;
	struct net *net;
	__u64 cookie;		/* of the namespace */
	__u64 last_ns;
	__u64 drops;
	__u64 bytes;
	__u64 broadcast;
	__u32 inode;
	__u16 port;
	__u16 reserved;
};

#define SLOTS 64
/* Drops that far apart are two episodes. */
#define EPISODE NSEC_PER_SEC
/* For how long a socket is looked at after its last drop. */
#define LOOK_FOR (5 * NSEC_PER_SEC)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct udp_slot);
} udp_slots SEC(".maps");

/* struct proto of UDP, once a socket has been seen. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} udp_proto SEC(".maps");

static __always_inline void fill_memory(struct bpftune_event *event, struct proto *proto)
{
	long limits[3] = {};

	event->values[UDP_BUFFER_HELD] = BPF_CORE_READ(proto, memory_allocated, counter);
	bpf_probe_read_kernel(limits, sizeof(limits), BPF_CORE_READ(proto, sysctl_mem));
	event->values[UDP_BUFFER_LOW] = limits[0];
	event->values[UDP_BUFFER_PRESSURE] = limits[1];
	event->values[UDP_BUFFER_HIGH] = limits[2];
}

static __always_inline void fill_socket(struct bpftune_event *event, struct udp_slot *slot)
{
	struct sock___udp *sk = slot->sk;

	event->values[UDP_BUFFER_SOCKET] = (__u64)sk;
	event->values[UDP_BUFFER_LIMIT] = BPF_CORE_READ(sk, sk_rcvbuf);
	event->values[UDP_BUFFER_LOCKED] =
		!!(BPF_CORE_READ(sk, sk_userlocks) & SOCK_RCVBUF_LOCK);
	event->values[UDP_BUFFER_PORT] = slot->port;
	event->values[UDP_BUFFER_QUEUED] = BPF_CORE_READ(sk, sk_backlog.rmem_alloc.counter);
	event->values[UDP_BUFFER_DROPS] = slot->drops;
	event->values[UDP_BUFFER_BYTES] = slot->bytes;
	event->values[UDP_BUFFER_BROADCAST] = slot->broadcast;
	fill_memory(event, BPF_CORE_READ(sk, __sk_common.skc_prot));
}

/* The socket's slot, also if another has it that has not dropped for long. */
static __always_inline struct udp_slot *slot_of(struct sock___udp *sk, struct net *net, __u64 now)
{
	__u16 port = sk->__sk_common.skc_num;
	struct udp_slot *slot;
	__u64 address = 0;
	__u32 index;

	/* As a number, which the verifier lets one reckon with. */
	bpf_probe_read_kernel(&address, sizeof(address), &sk);
	/* Sockets lie some 1,000 bytes apart. */
	index = (address >> 7 ^ address >> 13) % SLOTS;
	slot = bpf_map_lookup_elem(&udp_slots, &index);
	if (!slot)
		return NULL;
	if (slot->sk == sk && slot->port == port && slot->net == net)
		return slot;
	if (slot->sk && now - slot->last_ns < LOOK_FOR)
		return NULL;
	slot->sk = sk;
	slot->net = net;
	slot->cookie = net_cookie(net);
	slot->inode = BPF_CORE_READ(net, ns.inum);
	slot->port = port;
	slot->last_ns = 0;
	return slot;
}

static __always_inline void count_drop(struct udp_slot *slot, struct sock___udp *sk, __u64 now)
{
	/* One like it is at the end of the queue: older kernels do not pass it. */
	struct sk_buff___udp *like = sk->sk_receive_queue.prev;

	if (now - slot->last_ns > EPISODE) {
		slot->drops = 0;
		slot->bytes = 0;
		slot->broadcast = 0;
	}
	slot->last_ns = now;
	__sync_fetch_and_add(&slot->drops, 1);
	/* An empty queue ends in itself: the reader has taken them all over. */
	if ((void *)like == (void *)sk + bpf_core_field_offset(sk->sk_receive_queue))
		return;
	__sync_fetch_and_add(&slot->bytes, BPF_CORE_READ(like, truesize));
	if (BPF_CORE_READ_BITFIELD_PROBED(like, pkt_type) == PACKET_BROADCAST)
		__sync_fetch_and_add(&slot->broadcast, 1);
}

/* Folded by socket, or over all namespaces. */
static __always_inline bool fold_by(__u64 key, struct bpftune_event_header *header, __s64 limit)
{
	struct bpftune_event_header one = *header;
	bool send;

	one.netns_cookie = key;
	one.netns_inode = 0;
	send = fold(&one, limit);
	header->folded = one.folded;
	return send;
}

static __always_inline void report_drop(struct sock___udp *sk, enum udp_buffer_scenario scenario)
{
	struct net *net = sk->__sk_common.skc_net.net;
	__u64 now = bpf_ktime_get_ns();
	struct bpftune_event event;
	struct udp_slot *slot;
	struct proto *proto;
	__u32 zero = 0;
	bool send;

	slot = slot_of(sk, net, now);
	if (!slot)
		return;
	count_drop(slot, sk, now);

	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, net, scenario);
	fill_socket(&event, slot);
	if (scenario == UDP_BUFFER_FULL)
		send = fold_by(event.values[UDP_BUFFER_SOCKET], &event.header,
			       event.values[UDP_BUFFER_LIMIT]);
	else
		send = fold_by(0, &event.header, event.values[UDP_BUFFER_HIGH]);
	if (!send)
		return;
	proto = sk->__sk_common.skc_prot;
	bpf_map_update_elem(&udp_proto, &zero, &proto, BPF_ANY);
	emit(&event, sizeof(event));
}

/* A datagram found no room; newer kernels pass it as a third argument. */
SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(udp_buffer_drop, int rc, struct sock___udp *sk)
{
	if (rc == -ENOMEM)
		report_drop(sk, UDP_BUFFER_FULL);
	else if (rc == -ENOBUFS)
		report_drop(sk, UDP_BUFFER_MEMORY);
	return 0;
}

/*
 * Linux 6.18 puts datagrams into the queue in batches, and tells of those for
 * which UDP has no memory in no other way (net/ipv4/udp.c). Reached from
 * drop_watch.bpf.c, for packets without memory of their protocol alone.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(udp_buffer_no_memory, void *skb, void *location, int reason, struct sock___udp *sk)
{
	if (sk && sk->sk_protocol == IPPROTO_UDP)
		report_drop(sk, UDP_BUFFER_MEMORY);
	return 0;
}

static __always_inline void look(__u32 index, __u64 now)
{
	struct udp_slot *slot = bpf_map_lookup_elem(&udp_slots, &index);
	struct bpftune_event event;
	struct sock___udp *sk;

	if (!slot || !slot->sk || now - slot->last_ns > LOOK_FOR)
		return;
	/* Memory of sockets is used for other sockets only; is it still this one? */
	sk = slot->sk;
	if (BPF_CORE_READ(sk, __sk_common.skc_num) != slot->port ||
	    BPF_CORE_READ(sk, __sk_common.skc_net.net) != slot->net) {
		slot->sk = NULL;
		return;
	}
	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, current_net(), UDP_BUFFER_LOOK);
	event.header.netns_cookie = slot->cookie;
	event.header.netns_inode = slot->inode;
	fill_socket(&event, slot);
	emit(&event, sizeof(event));
}

/* Run once on behalf of the daemon: reports the sockets that dropped lately. */
SEC("raw_tp/sys_enter")
int udp_buffer_report(void *ctx)
{
	__u64 now = bpf_ktime_get_ns(), *proto;
	struct bpftune_event event;
	__u32 index, zero = 0;

	for (index = 0; index < SLOTS; index++)
		look(index, now);
	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, current_net(), UDP_BUFFER_REPORT);
	proto = bpf_map_lookup_elem(&udp_proto, &zero);
	if (proto && *proto)
		fill_memory(&event, (struct proto *)*proto);
	emit(&event, sizeof(event));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
