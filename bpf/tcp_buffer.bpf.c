// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-buffer: sockets held back by the maximum of tcp_wmem or tcp_rmem.
 * Each program is one hook; user space loads those it needs, one by one.
 */
#include "tcp_buffer.h"

/*
 * Once a round trip for each connection, while its acknowledgements come in.
 * The callback flag is what makes the kernel call again; it is set when the
 * connection is established, and on older ones by tcp_buffer_iter.
 */
SEC("sockops")
int tcp_buffer_sock_ops(struct bpf_sock_ops *ctx)
{
	struct tcp_sock *tp;
	struct bpf_sock *sk;

	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags |
					  BPF_SOCK_OPS_RTT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		sk = ctx->sk;
		if (!sk)
			break;
		tp = bpf_skc_to_tcp_sock(sk);
		if (!tp)
			break;
		send_limited(tp, tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net);
		break;
	}
	return 1;
}

/* Each time that an application has taken data off a socket. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(tcp_buffer_rcv_space_adjust, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (tp)
		receive_limited(tp, sk->__sk_common.skc_net.net, false);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
