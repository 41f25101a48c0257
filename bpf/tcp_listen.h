/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp-listen: what its programs know of a listener: the connections that it
 * got, the SYN/ACKs that nobody answered, and who called listen().
 */
#ifndef TCP_LISTEN_H
#define TCP_LISTEN_H

#include "bpftune.bpf.h"

#define IPPROTO_TCP 6

/* include/net/tcp_states.h */
#define TCP_SYN_RECV 3
#define TCP_LISTEN 10

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t___listen;

/* include/net/request_sock.h */
struct request_sock_queue___listen {
	atomic_t___listen qlen;		/* asked for, and not established yet */
	atomic_t___listen young;	/* of those, SYN/ACK sent once only */
};

/* include/net/inet_connection_sock.h */
struct inet_connection_sock___listen {
	struct request_sock_queue___listen icsk_accept_queue;
};

/* include/net/sock.h */
struct sock___listen {
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	__u16 sk_protocol;
};

/* include/net/netns/core.h, include/net/netns/ipv4.h */
struct netns_core___listen {
	int sysctl_somaxconn;
};

struct netns_ipv4___listen {
	int sysctl_max_syn_backlog;
	__u8 sysctl_tcp_syncookies;	/* an int on older kernels */
};

struct net___listen {
	struct netns_core___listen core;
	struct netns_ipv4___listen ipv4;
};

#pragma clang attribute pop

/* Mirrored by TCPListen.Scenario in Sources/Tuners/TCPListen.swift. */
enum tcp_listen_scenario {
	TCP_LISTEN_ACCEPT_FULL = 1,	/* no room for another that is established */
	TCP_LISTEN_SYN_FULL = 2,	/* none for another SYN, and connections come */
	TCP_LISTEN_UNANSWERED = 3,	/* none for another SYN, SYN/ACKs go nowhere */
	TCP_LISTEN_REPORT = 4,		/* on request; the last one has port 0 */
};

/* Mirrored by TCPListen.Value in Sources/Tuners/TCPListen.swift. */
enum tcp_listen_value {
	TCP_LISTEN_PORT,
	TCP_LISTEN_SYN_QUEUE,
	TCP_LISTEN_YOUNG,
	TCP_LISTEN_ACCEPT_QUEUE,
	TCP_LISTEN_BACKLOG,		/* of this listener, for either queue */
	TCP_LISTEN_SYN_BACKLOG,		/* tcp_max_syn_backlog */
	TCP_LISTEN_SYNCOOKIES,
	TCP_LISTEN_SOMAXCONN,
	TCP_LISTEN_ADDED,		/* connections established so far */
	TCP_LISTEN_REPEATED,		/* SYN/ACKs sent again so far */
	TCP_LISTEN_CLAMP,		/* somaxconn when listen() was called, or 0 */
	TCP_LISTEN_PROCESS,		/* that called listen(), or 0 */
	TCP_LISTEN_COMM_LOW,
	TCP_LISTEN_COMM_HIGH,
	TCP_LISTEN_INODE,		/* of the socket, in a report */
	TCP_LISTEN_SINCE,		/* milliseconds since the counts began */
};

EXPORT_ENUM(tcp_listen_scenario);
EXPORT_ENUM(tcp_listen_value);

struct listener_key {
	__u64 netns_cookie;
	__u32 netns_inode;
	__u32 port;
};

struct listener {
	__u64 sk;		/* where it is, as long as it is one */
	__u64 since_ns;
	__u64 added;
	__u64 repeated;
	__u32 clamp;
	__u32 tgid;
	char comm[BPFTUNE_COMM];
	__u64 told_ns;		/* when user space heard of it last */
};

/*
 * By namespace and port; listeners that share a port count together. Port 0
 * stands for what the namespace has told in this second.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct listener_key);
	__type(value, struct listener);
} tcp_listeners SEC(".maps");

static __always_inline struct net *sock_net(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net);
}

static __always_inline struct listener_key listener_key(struct sock *sk, struct net *net)
{
	struct listener_key key = {
		.netns_cookie = net_cookie(net),
		.netns_inode = BPF_CORE_READ(net, ns.inum),
		.port = BPF_CORE_READ(sk, __sk_common.skc_num),
	};

	return key;
}

/* What is known of a listener, made when it is not known yet. */
static __always_inline struct listener *listener_of(const struct listener_key *key)
{
	struct listener *known = bpf_map_lookup_elem(&tcp_listeners, key);
	struct listener first = {};

	if (known)
		return known;
	first.since_ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&tcp_listeners, key, &first, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tcp_listeners, key);
}

/* The listener itself; NULL when it is not known where, or something else is there. */
static __always_inline struct sock *listening_socket(struct listener *known, struct net *net,
						     __u32 port)
{
	struct sock *sk = (struct sock *)known->sk;

	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN ||
	    BPF_CORE_READ(sk, __sk_common.skc_num) != port || sock_net(sk) != net)
		return NULL;
	return sk;
}

static __always_inline void fill_namespace(struct bpftune_event *event, struct net *net)
{
	struct net___listen *typed = (void *)net;

	event->values[TCP_LISTEN_SYN_BACKLOG] = BPF_CORE_READ(typed, ipv4.sysctl_max_syn_backlog);
	event->values[TCP_LISTEN_SYNCOOKIES] =
		BPF_CORE_READ_BITFIELD_PROBED(typed, ipv4.sysctl_tcp_syncookies);
	event->values[TCP_LISTEN_SOMAXCONN] = BPF_CORE_READ(typed, core.sysctl_somaxconn);
}

static __always_inline __s64 syn_queue(struct sock *sk)
{
	struct inet_connection_sock___listen *icsk = (void *)sk;

	return BPF_CORE_READ(icsk, icsk_accept_queue.qlen.counter);
}

/* `sk` is the listener, or what was copied from it a moment ago. */
static __always_inline void fill_listener(struct bpftune_event *event, struct sock *sk,
					  const struct listener *known)
{
	struct inet_connection_sock___listen *icsk = (void *)sk;
	struct sock___listen *typed = (void *)sk;

	event->values[TCP_LISTEN_PORT] = BPF_CORE_READ(sk, __sk_common.skc_num);
	event->values[TCP_LISTEN_SYN_QUEUE] = syn_queue(sk);
	event->values[TCP_LISTEN_YOUNG] = BPF_CORE_READ(icsk, icsk_accept_queue.young.counter);
	event->values[TCP_LISTEN_ACCEPT_QUEUE] = BPF_CORE_READ(typed, sk_ack_backlog);
	event->values[TCP_LISTEN_BACKLOG] = BPF_CORE_READ(typed, sk_max_ack_backlog);
	event->values[TCP_LISTEN_ADDED] = known->added;
	event->values[TCP_LISTEN_REPEATED] = known->repeated;
	event->values[TCP_LISTEN_CLAMP] = known->clamp;
	event->values[TCP_LISTEN_PROCESS] = known->tgid;
	__builtin_memcpy(&event->values[TCP_LISTEN_COMM_LOW], known->comm, BPFTUNE_COMM);
	event->values[TCP_LISTEN_SINCE] = (bpf_ktime_get_ns() - known->since_ns) / NSEC_PER_MSEC;
}

/* The listeners of a namespace are folded apart. */
static __always_inline bool fold_by_port(struct bpftune_event_header *header, __u32 port,
					 __s64 limit)
{
	struct bpftune_event_header one = *header;
	bool send;

	one.netns_cookie = header->netns_cookie << 16 ^ port;
	send = fold(&one, limit);
	header->folded = one.folded;
	return send;
}

/* Whoever opens thousands of ports is heard of no more often than this a second. */
#define MOST_A_SECOND 64

static __always_inline bool is_heard(const struct listener_key *key)
{
	struct listener_key all = {
		.netns_cookie = key->netns_cookie,
		.netns_inode = key->netns_inode,
	};
	struct listener *sum = listener_of(&all);
	__u64 now = bpf_ktime_get_ns();

	if (!sum)
		return false;
	if (now - sum->since_ns > NSEC_PER_SEC) {
		sum->since_ns = now;
		sum->added = 0;
	}
	__sync_fetch_and_add(&sum->added, 1);
	return sum->added <= MOST_A_SECOND;
}

static __always_inline void tell(struct sock *sk, struct net *net, struct listener *known,
				 const struct listener_key *key, __u16 scenario, __s64 limit)
{
	struct bpftune_event event = {};

	fill_header(&event.header, net, scenario);
	if (!fold_by_port(&event.header, key->port, limit) || !is_heard(key))
		return;
	known->told_ns = event.header.ktime_ns;
	fill_namespace(&event, net);
	fill_listener(&event, sk, known);
	emit(&event, sizeof(event));
}

/*
 * How many SYNs this listener keeps: without cookies a quarter of
 * tcp_max_syn_backlog is only for peers known before, and the kernel looks at
 * it at no other time (tcp_conn_request in net/ipv4/tcp_input.c).
 */
static __always_inline __s64 syn_limit(struct sock *sk, struct net *net, bool *cookies)
{
	struct sock___listen *typed = (void *)sk;
	struct net___listen *sysctls = (void *)net;
	__s64 limit = BPF_CORE_READ(typed, sk_max_ack_backlog);
	__s64 most;

	*cookies = BPF_CORE_READ_BITFIELD_PROBED(sysctls, ipv4.sysctl_tcp_syncookies);
	most = BPF_CORE_READ(sysctls, ipv4.sysctl_max_syn_backlog);
	most -= most / 4;
	return !*cookies && most < limit ? most : limit;
}

#endif
