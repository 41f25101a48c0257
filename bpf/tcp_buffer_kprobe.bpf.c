// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-buffer: as tcp_buffer_fentry, on kernels without BPF trampolines.
 */
#include <asm/ptrace.h>
#define TCP_BUFFER_UNTYPED
#include "tcp_buffer.h"

/* net/ipv4/tcp_input.c */
SEC("kprobe/tcp_sndbuf_expand")
int BPF_KPROBE(tcp_buffer_sndbuf_expand_kprobe, struct sock *sk)
{
	send_limited((struct tcp_sock *)sk, BPF_CORE_READ(sk, __sk_common.skc_net.net));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
