// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-conn: reaches the connections that are older than the daemon, in the
 * namespace that the iterator is read in.
 */
#include "tcp_conn_choice.h"
#include "tcp_conn_socket.h"

/* include/uapi/linux/bpf.h, since Linux 6.12 */
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008

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

/* Established, and one that may be watched. */
static __always_inline struct tcp_sock *connection(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct dst_entry *dst;

	if (!common || common->skc_state != TCP_ESTABLISHED)
		return NULL;
	return may_watch(common, &dst);
}

/* Asks for the callbacks: the first of them begins to watch the connection. */
SEC("iter/tcp")
int tcp_conn_adopt(struct bpf_iter__tcp *ctx)
{
	struct tcp_sock *tp = connection(ctx);
	int flags = 0;

	if (!tp)
		return 0;
	bpf_getsockopt(tp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	flags |= BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG |
		 BPF_SOCK_OPS_STATE_CB_FLAG;
	bpf_setsockopt(tp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	return 0;
}

/*
 * Where the callbacks cannot be asked for: a connection that has lost much gets
 * what newer ones have found to be better on its path.
 */
SEC("iter/tcp")
int tcp_conn_poll(struct bpf_iter__tcp *ctx)
{
	struct tcp_sock *tp = connection(ctx);
	struct tcp_conn_path *path;
	struct tcp_conn_key key;
	char name[CA_NAME];
	struct sock *sk;

	if (!tp || dry_run)
		return 0;
	if (tp->total_retrans < 16 || tp->total_retrans * 50 < tp->data_segs_out)
		return 0;
	sk = &tp->inet_conn.icsk_inet.sk;
	path_key(sk, route(sk), &key);
	path = bpf_map_lookup_elem(&tcp_conn_paths, &key);
	/* Only an arm that has a name, and no need of marks. */
	if (!path || path->chosen == path->own || path->chosen == ARM_OTHER ||
	    path->chosen == ARM_DCTCP)
		return 0;
	__builtin_memcpy(name, names[slot(path->chosen)], CA_NAME);
	bpf_setsockopt(tp, SOL_TCP, TCP_CONGESTION, name, CA_NAME);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
