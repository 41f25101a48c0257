// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-listen: queues of listeners that are full.
 */
#include "tcp_listen.h"

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
	known->clamp = BPF_CORE_READ(typed, core.sysctl_somaxconn);
	known->tgid = BPF_CORE_READ(task, tgid);
	BPF_CORE_READ_INTO(&known->comm, task, comm);
}

/*
 * A connection is established: its socket has been copied from the listener's
 * this moment, with the queues as they stand, and nothing in it is changed yet
 * (inet_csk_clone_lock in net/ipv4/inet_connection_sock.c).
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
		tell(sk, net, known, key.port, TCP_LISTEN_ACCEPT_FULL, backlog);
	limit = syn_limit(sk, net, &cookies);
	/* This one has just made room for another. */
	if (syn_queue(sk) >= limit - 1)
		tell(sk, net, known, key.port, TCP_LISTEN_SYN_FULL, limit);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(tcp_listen_state, struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_SYN_RECV) {
		if (oldstate == TCP_LISTEN && is_tcp(sk))
			established(sk);
	} else if (newstate == TCP_LISTEN && is_tcp(sk)) {
		listening(sk);
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
	__sync_fetch_and_add(&known->repeated, 1);
	limit = syn_limit(sk, net, &cookies);
	if (!cookies && syn_queue(sk) >= limit - limit / 8)
		tell(sk, net, known, key.port, TCP_LISTEN_UNANSWERED, limit);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
