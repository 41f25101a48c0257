/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp-conn: what a socket says of itself: its path, its algorithm, and whether
 * it may be watched at all.
 */
#ifndef TCP_CONN_SOCKET_H
#define TCP_CONN_SOCKET_H

#include "tcp_conn.h"

/* Bits of a peer's address that make a path, where it is behind a gateway. */
#define SITE_IPV4 (96 + 24)
#define SITE_IPV6 48

static __always_inline struct dst_entry *route(struct sock *sk)
{
	return BPF_CORE_READ((struct sock___route *)sk, sk_dst_cache);
}

/* To the machine itself, by whatever address. */
static __always_inline bool is_loopback(struct dst_entry *dst)
{
	return dst && BPF_CORE_READ(dst, dev, flags) & IFF_LOOPBACK;
}

/* The path of a socket. */
static __always_inline void path_key(struct sock *sk, struct dst_entry *dst,
				     struct tcp_conn_key *key)
{
	struct net *net = sk->__sk_common.skc_net.net;
	__u32 *words = (__u32 *)key->address;
	bool gateway = false, ipv4 = true;
	int family = sk->__sk_common.skc_family;

	__builtin_memset(key, 0, sizeof(*key));
	key->netns_cookie = net_cookie(net);
	key->netns_inode = net->ns.inum;
	if (family == AF_INET6) {
		bpf_core_read(words, 16, &sk->__sk_common.skc_v6_daddr);
		/* An IPv4 peer on an IPv6 socket is on the IPv4 path. */
		ipv4 = !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
	} else {
		words[2] = bpf_htonl(0xffff);
		words[3] = sk->__sk_common.skc_daddr;
	}
	if (dst && ipv4)
		gateway = BPF_CORE_READ((struct rtable *)dst, rt_gw_family);
	else if (dst)
		gateway = BPF_CORE_READ((struct rt6_info *)dst, rt6i_flags) & RTF_GATEWAY;
	key->prefix = 128;
	if (!gateway)
		return;
	if (ipv4) {
		key->prefix = SITE_IPV4;
		words[3] &= bpf_htonl(0xffffff00);
	} else {
		key->prefix = SITE_IPV6;
		words[1] &= bpf_htonl(0xffff0000);
		words[2] = words[3] = 0;
	}
}

static __always_inline void read_algorithm(struct tcp_sock *tp, char *name)
{
	const struct tcp_congestion_ops *ops = tp->inet_conn.icsk_ca_ops;

	bpf_probe_read_kernel(name, CA_NAME, &ops->name);
}

static __always_inline bool is_name(const char *a, const char *b)
{
	int i;

	for (i = 0; i < CA_NAME; i++) {
		if (a[i] != b[i])
			return false;
		if (!a[i])
			break;
	}
	return true;
}

static __always_inline __u32 arm_of(const char *name)
{
	if (is_name(name, "bbr"))
		return ARM_BBR;
	if (is_name(name, "cubic"))
		return ARM_CUBIC;
	if (is_name(name, "htcp"))
		return ARM_HTCP;
	if (is_name(name, "dctcp"))
		return ARM_DCTCP;
	return ARM_OTHER;
}

/* Whether its algorithm is the application's choice, or the route's. */
static __always_inline bool is_chosen_by_others(struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(&tp->inet_conn, icsk_ca_setsockopt) ||
	       BPF_CORE_READ_BITFIELD(&tp->inet_conn, icsk_ca_dst_locked);
}

/*
 * The connection, if it may be watched: one to another machine, whose algorithm
 * neither the application nor the route has chosen.
 */
static __always_inline struct tcp_sock *may_watch(void *common, struct dst_entry **dst)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(common);
	struct net *net;
	struct sock *sk;

	if (!tp || is_chosen_by_others(tp))
		return NULL;
	sk = &tp->inet_conn.icsk_inet.sk;
	*dst = route(sk);
	if (is_loopback(*dst))
		return NULL;
	net = sk->__sk_common.skc_net.net;
	if (is_closed(net_cookie(net), net->ns.inum))
		return NULL;
	return tp;
}

#endif
