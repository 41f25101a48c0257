// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-listen: walks over the listeners of the namespace that it is read in.
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

/* How the listeners stand that user space has heard of, and that it was all. */
SEC("iter/tcp")
int tcp_listen_report(struct bpf_iter__tcp *ctx)
{
	struct sock *sk = (struct sock *)ctx->sk_common;
	struct bpftune_event event = {};
	struct listener_key key;
	struct listener *known;
	struct net *net;

	if (sk) {
		if (ctx->sk_common->skc_state != TCP_LISTEN)
			return 0;
		net = sock_net(sk);
		key = listener_key(sk, net);
		known = bpf_map_lookup_elem(&tcp_listeners, &key);
		if (!known || !known->told)
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

/* Stands in for the tracepoints: look at each listener now. */
SEC("iter/tcp")
int tcp_listen_poll(struct bpf_iter__tcp *ctx)
{
	struct sock *sk = (struct sock *)ctx->sk_common;
	struct sock___listen *typed = (void *)sk;
	struct listener_key key;
	struct listener *known;
	struct net *net;
	bool cookies;
	__s64 limit;

	if (!sk || ctx->sk_common->skc_state != TCP_LISTEN)
		return 0;
	net = sock_net(sk);
	key = listener_key(sk, net);
	limit = BPF_CORE_READ(typed, sk_max_ack_backlog);
	if (BPF_CORE_READ(typed, sk_ack_backlog) >= limit) {
		known = listener_of(&key);
		if (known)
			tell(sk, net, known, key.port, TCP_LISTEN_ACCEPT_FULL, limit);
	}
	limit = syn_limit(sk, net, &cookies);
	if (!cookies && syn_queue(sk) >= limit - limit / 8) {
		known = listener_of(&key);
		if (known)
			tell(sk, net, known, key.port, TCP_LISTEN_UNANSWERED, limit);
	}
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
