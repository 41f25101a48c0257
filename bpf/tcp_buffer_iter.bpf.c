// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-buffer: walks over the connections of the namespace that it is read in.
 */
#include "tcp_buffer.h"
#include "tcp_iter.h"

#define SOL_TCP 6
/* include/uapi/linux/bpf.h, since Linux 6.12 */
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008

static __always_inline struct tcp_sock *connection(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	if (!common || (common->skc_state != TCP_ESTABLISHED &&
			common->skc_state != TCP_CLOSE_WAIT))
		return NULL;
	return bpf_skc_to_tcp_sock(common);
}

/* Ask for the round-trip callback on connections older than the daemon. */
SEC("iter/tcp")
int tcp_buffer_adopt(struct bpf_iter__tcp *ctx)
{
	struct tcp_sock *tp = connection(ctx);
	int flags = 0;

	if (!tp)
		return 0;
	bpf_getsockopt(tp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	flags |= BPF_SOCK_OPS_RTT_CB_FLAG;
	bpf_setsockopt(tp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	return 0;
}

/* Stands in for the round-trip callback: look at each connection now. */
SEC("iter/tcp")
int tcp_buffer_poll_send(struct bpf_iter__tcp *ctx)
{
	struct tcp_sock *tp = connection(ctx);

	if (tp)
		send_limited(tp, tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net);
	return 0;
}

/* Stands in for tcp_rcv_space_adjust. */
SEC("iter/tcp")
int tcp_buffer_poll_receive(struct bpf_iter__tcp *ctx)
{
	struct tcp_sock *tp = connection(ctx);

	if (tp)
		receive_limited(tp, tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net, true);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
