// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-buffer: the function that grows a send buffer, where the kernel allows
 * programs there.
 */
#include "tcp_buffer.h"

/*
 * net/ipv4/tcp_input.c: called when acknowledgements have made room, the
 * application waits for more, and tcp_should_expand_sndbuf() agrees.
 */
SEC("fentry/tcp_sndbuf_expand")
int BPF_PROG(tcp_buffer_sndbuf_expand, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (tp)
		send_limited(tp, sk->__sk_common.skc_net.net);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
