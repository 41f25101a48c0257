// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-listen: queues of listeners that are full.
 */
#include "tcp_listen.h"

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

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/fs.h, include/linux/net.h, include/net/sock.h */
struct inode___listen {
	unsigned long i_ino;
};

struct file___listen {
	struct inode___listen *f_inode;
};

struct socket___listen {
	struct file___listen *file;
};

struct sock___file {
	struct socket___listen *sk_socket;
};

#pragma clang attribute pop

static __always_inline bool is_tcp(struct sock *sk)
{
	struct sock___listen *typed = (void *)sk;

	return typed->sk_protocol == IPPROTO_TCP;
}

/* listen() was called: by whom, and what its backlog was clamped to. */
static __always_inline void listening(struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct net *net = sock_net(sk);
	struct listener_key key = listener_key(sk, net);
	struct net___listen *typed = (void *)net;
	struct listener *known = listener_of(&key);

	if (!known)
		return;
	known->sk = (__u64)sk;
	known->clamp = BPF_CORE_READ(typed, core.sysctl_somaxconn);
	known->tgid = BPF_CORE_READ(task, tgid);
	BPF_CORE_READ_INTO(&known->comm, task, comm);
}

/*
 * A connection is established: its socket has been copied from the listener's
 * this moment, with the length of the accept queue (inet_csk_clone_lock in
 * net/ipv4/inet_connection_sock.c). That of the queue of SYNs is in the
 * listener alone.
 */
static __always_inline void established(struct sock *sk)
{
	struct sock___listen *typed = (void *)sk;
	struct net *net = sock_net(sk);
	struct listener_key key = listener_key(sk, net);
	struct listener *known = listener_of(&key);
	__s64 limit, waiting, backlog;
	bool cookies;

	if (!known)
		return;
	__sync_fetch_and_add(&known->added, 1);
	waiting = typed->sk_ack_backlog;
	backlog = typed->sk_max_ack_backlog;
	if (waiting >= backlog)
		tell(sk, net, known, &key, TCP_LISTEN_ACCEPT_FULL, backlog);
	sk = listening_socket(known, net, key.port);
	if (!sk)
		return;
	limit = syn_limit(sk, net, &cookies);
	/* Those that came with this one may have made room already. */
	if (syn_queue(sk) >= limit - limit / 8 - 1)
		tell(sk, net, known, &key, TCP_LISTEN_SYN_FULL, limit);
}

/* It listens no more. */
static __always_inline void closed(struct sock *sk)
{
	struct net *net = sock_net(sk);
	struct listener_key key = listener_key(sk, net);
	struct listener *known = bpf_map_lookup_elem(&tcp_listeners, &key);

	if (known && known->sk == (__u64)sk)
		known->sk = 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_listen_state, struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_SYN_RECV) {
		if (oldstate == TCP_LISTEN && is_tcp(sk))
			established(sk);
	} else if (newstate == TCP_LISTEN && is_tcp(sk)) {
		listening(sk);
	} else if (oldstate == TCP_LISTEN) {
		closed(sk);
	}
	return 0;
}

/* A SYN/ACK is sent again, since nobody has answered it. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_listen_repeat, struct sock *sk)
{
	struct net *net = sock_net(sk);
	struct listener_key key = listener_key(sk, net);
	struct listener *known = listener_of(&key);
	bool cookies;
	__s64 limit;

	if (!known)
		return 0;
	known->sk = (__u64)sk;
	__sync_fetch_and_add(&known->repeated, 1);
	limit = syn_limit(sk, net, &cookies);
	if (!cookies && syn_queue(sk) >= limit - limit / 8)
		tell(sk, net, known, &key, TCP_LISTEN_UNANSWERED, limit);
	return 0;
}

/* User space looks again sooner than that. */
#define LATELY (2 * NSEC_PER_SEC)

/* How the listeners stand that user space has heard of lately, and that it was all. */
SEC("iter/tcp")
int tcp_listen_report(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct sock *sk = (struct sock *)common;
	struct bpftune_event event = {};
	struct listener_key key;
	struct listener *known;
	struct net *net;

	if (common) {
		if (common->skc_state != TCP_LISTEN)
			return 0;
		net = sock_net(sk);
		key = listener_key(sk, net);
		known = bpf_map_lookup_elem(&tcp_listeners, &key);
		if (!known || bpf_ktime_get_ns() - known->told_ns > LATELY)
			return 0;
		fill_listener(&event, sk, known);
		event.values[TCP_LISTEN_INODE] =
			BPF_CORE_READ((struct sock___file *)sk, sk_socket, file, f_inode, i_ino);
	} else {
		net = current_net();
	}
	fill_header(&event.header, net, TCP_LISTEN_REPORT);
	fill_namespace(&event, net);
	emit(&event, sizeof(event));
	return 0;
}

/* Where the listeners are that are older than the daemon. */
SEC("iter/tcp")
int tcp_listen_adopt(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct sock *sk = (struct sock *)common;
	struct listener_key key;
	struct listener *known;

	if (!common || common->skc_state != TCP_LISTEN)
		return 0;
	key = listener_key(sk, sock_net(sk));
	known = listener_of(&key);
	if (known)
		known->sk = (__u64)sk;
	return 0;
}

/* Stands in for the tracepoints: look at each listener now. */
SEC("iter/tcp")
int tcp_listen_poll(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct sock *sk = (struct sock *)common;
	struct sock___listen *typed = (void *)sk;
	struct listener_key key;
	struct listener *known;
	struct net *net;
	bool cookies;
	__s64 limit;

	if (!common || common->skc_state != TCP_LISTEN)
		return 0;
	net = sock_net(sk);
	key = listener_key(sk, net);
	limit = BPF_CORE_READ(typed, sk_max_ack_backlog);
	if (BPF_CORE_READ(typed, sk_ack_backlog) >= limit) {
		known = listener_of(&key);
		if (known)
			tell(sk, net, known, &key, TCP_LISTEN_ACCEPT_FULL, limit);
	}
	limit = syn_limit(sk, net, &cookies);
	if (!cookies && syn_queue(sk) >= limit - limit / 8) {
		known = listener_of(&key);
		if (known)
			tell(sk, net, known, &key, TCP_LISTEN_UNANSWERED, limit);
	}
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
