// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-start: which buffer sizes finished connections have ended with, counted
 * by service, so that user space hears of dozens of them at once.
 */
#include "bpftune.bpf.h"

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define TCP_LISTEN 10

/* include/net/sock.h */
#define SOCK_SNDBUF_LOCK 1
#define SOCK_RCVBUF_LOCK 2

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/tcp.h */
struct tcp_sock {
	__u64 bytes_received;
	__u64 bytes_acked;
};

/* include/net/inet_sock.h */
struct inet_sock___start {
	__u16 inet_sport;	/* network byte order */
};

/* include/linux/percpu_counter.h */
struct percpu_counter___start {
	__s64 count;
};

/* include/net/sock.h */
struct proto___start {
	struct percpu_counter___start *sockets_allocated;
};

/* include/linux/bpf.h */
struct bpf_iter_meta;
struct bpf_iter__tcp {
	union {
		struct bpf_iter_meta *meta;
		__u64 aligned_meta;
	};
	union {
		struct sock_common *sk_common;
		__u64 aligned_sk;
	};
	__u32 uid;
};

#pragma clang attribute pop

/* Mirrored by TCPStart.Scenario in Sources/Tuners/TCPStart.swift. */
enum tcp_start_scenario {
	TCP_START_FINISHED = 1,
};

/* Mirrored by TCPStart.Value in Sources/Tuners/TCPStart.swift. */
enum tcp_start_value {
	TCP_START_PORT,			/* local, or remote with TCP_START_OUTGOING */
	TCP_START_COUNT,		/* connections that the counts below are of */
	TCP_START_SEND_GROWN,		/* of them ended above the starting size */
	TCP_START_RECEIVE_GROWN,
	TCP_START_SEND_LOW,		/* how many needed a send buffer of each */
	TCP_START_SEND_HIGH,		/* size, 16 counts of one byte */
	TCP_START_RECEIVE_LOW,
	TCP_START_RECEIVE_HIGH,
	TCP_START_SEND_SIZE,		/* tcp_wmem[1], tcp_wmem[2] */
	TCP_START_SEND_MAXIMUM,
	TCP_START_RECEIVE_SIZE,		/* tcp_rmem[1], tcp_rmem[2] */
	TCP_START_RECEIVE_MAXIMUM,
	TCP_START_SOCKETS,		/* TCP sockets, about */
	TCP_START_MEMORY,		/* pages that they hold */
	TCP_START_MEMORY_LOW,		/* tcp_mem[0] */
};

#define TCP_START_OUTGOING (1 << 16)

EXPORT_ENUM(tcp_start_scenario);
EXPORT_ENUM(tcp_start_value);

#define SIZES 16
/* Reported when so many have been counted. */
#define ENOUGH 32
/* Halved when so many have: a count fits into a byte. */
#define MOST 192
/* A connection that carried less fits into any buffer. */
#define SMALL 16384

struct service_key {
	__u64 netns_cookie;
	__u32 netns_inode;
	__u32 port;
};

struct service {
	__u32 count;
	__u32 send_grown;
	__u32 receive_grown;
	__u32 reserved;
	__u8 send[SIZES];
	__u8 receive[SIZES];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct service_key);
	__type(value, struct service);
} tcp_services SEC(".maps");

/* Two sizes an octave, from 32 KiB on: 32, 48, 64, 96 KiB, ... 6 MiB. */
static __always_inline __u32 index_of(__u64 size)
{
	__u32 i;

#pragma clang loop unroll(full)
	for (i = 0; i < SIZES - 1; i++) {
		if (size <= (i & 1 ? 3ULL << (14 + i / 2) : 1ULL << (15 + i / 2)))
			break;
	}
	return i & (SIZES - 1);
}

static __always_inline void halve(struct service *service)
{
	__u32 i;

	service->count /= 2;
	service->send_grown /= 2;
	service->receive_grown /= 2;
#pragma clang loop unroll(full)
	for (i = 0; i < SIZES; i++) {
		service->send[i] /= 2;
		service->receive[i] /= 2;
	}
}

static __always_inline void report(struct sock *sk, struct net *net, struct service *service,
				   __u32 port)
{
	struct bpftune_event event = {};
	struct proto___start *typed;
	struct proto *proto;
	__u64 cookie;

	fill_header(&event.header, net, TCP_START_FINISHED);
	cookie = event.header.netns_cookie;
	/* The services of a namespace are folded apart. */
	event.header.netns_cookie = cookie << 17 ^ port;
	event.values[TCP_START_SEND_SIZE] = BPF_CORE_READ(net, ipv4.sysctl_tcp_wmem[1]);
	event.values[TCP_START_RECEIVE_SIZE] = BPF_CORE_READ(net, ipv4.sysctl_tcp_rmem[1]);
	if (!fold(&event.header, event.values[TCP_START_SEND_SIZE] << 32 |
					 event.values[TCP_START_RECEIVE_SIZE]))
		return;
	event.header.netns_cookie = cookie;
	event.values[TCP_START_PORT] = port;
	event.values[TCP_START_COUNT] = service->count;
	event.values[TCP_START_SEND_GROWN] = service->send_grown;
	event.values[TCP_START_RECEIVE_GROWN] = service->receive_grown;
	__builtin_memcpy(&event.values[TCP_START_SEND_LOW], service->send, SIZES);
	__builtin_memcpy(&event.values[TCP_START_RECEIVE_LOW], service->receive, SIZES);
	event.values[TCP_START_SEND_MAXIMUM] = BPF_CORE_READ(net, ipv4.sysctl_tcp_wmem[2]);
	event.values[TCP_START_RECEIVE_MAXIMUM] = BPF_CORE_READ(net, ipv4.sysctl_tcp_rmem[2]);
	proto = BPF_CORE_READ(sk, __sk_common.skc_prot);
	typed = (void *)proto;
	event.values[TCP_START_SOCKETS] = BPF_CORE_READ(typed, sockets_allocated, count);
	event.values[TCP_START_MEMORY] = BPF_CORE_READ(proto, memory_allocated, counter);
	bpf_probe_read_kernel(&event.values[TCP_START_MEMORY_LOW], sizeof(long),
			      BPF_CORE_READ(proto, sysctl_mem));
	emit(&event, sizeof(event));
	__builtin_memset(service, 0, sizeof(*service));
}

/*
 * Counts a connection by the sizes it needed: what it ended with, but no more
 * than all that it carried would take, should it have begun with more. A send
 * buffer grows at the start already, for what may never come; a receive buffer
 * grows for what has come.
 */
static __always_inline void count(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct service_key key = {};
	struct service *service;
	__u64 sent, received, size;
	struct net *net;
	__u32 remote;
	__u8 locks;
	bool grown;

	if (!tp)
		return;
	sent = tp->bytes_acked;
	received = tp->bytes_received;
	if (sent < SMALL && received < SMALL)
		return;
	net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
	key.netns_cookie = net_cookie(net);
	key.netns_inode = BPF_CORE_READ(net, ns.inum);
	/* Nothing tells any more who called whom; a service has the lower port. */
	remote = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	key.port = bpf_ntohs(BPF_CORE_READ((struct inet_sock___start *)sk, inet_sport));
	if (remote < key.port)
		key.port = remote | TCP_START_OUTGOING;
	service = bpf_map_lookup_elem(&tcp_services, &key);
	if (!service) {
		struct service first = {};

		bpf_map_update_elem(&tcp_services, &key, &first, BPF_NOEXIST);
		service = bpf_map_lookup_elem(&tcp_services, &key);
		if (!service)
			return;
	}
	locks = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks);
	service->count++;
	if (sent >= SMALL && !(locks & SOCK_SNDBUF_LOCK)) {
		size = BPF_CORE_READ(sk, sk_sndbuf);
		service->send_grown += size > (__u64)BPF_CORE_READ(net, ipv4.sysctl_tcp_wmem[1]);
		sent = 2 * sent + 65536;
		service->send[index_of(size < sent ? size : sent)]++;
	}
	if (received >= SMALL && !(locks & SOCK_RCVBUF_LOCK)) {
		size = BPF_CORE_READ(sk, sk_rcvbuf);
		grown = size > (__u64)BPF_CORE_READ(net, ipv4.sysctl_tcp_rmem[1]);
		service->receive_grown += grown;
		received = 4 * received + 65536;
		service->receive[index_of(grown || size < received ? size : received)]++;
	}
	if (service->count >= ENOUGH)
		report(sk, net, service, key.port);
	if (service->count >= MOST)
		halve(service);
}

/* A connection has ended. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_start_state, struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_CLOSE && oldstate != TCP_LISTEN && oldstate != TCP_CLOSE &&
	    oldstate != TCP_SYN_SENT && oldstate != TCP_SYN_RECV)
		count(sk);
	return 0;
}

/* Stands in for it: what those that are there have come to. */
SEC("iter/tcp")
int tcp_start_poll(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	if (common && common->skc_state == TCP_ESTABLISHED)
		count((struct sock *)common);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
