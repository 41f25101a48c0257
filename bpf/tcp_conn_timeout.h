/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp-conn: how long a connection waits before it sends again what nobody has
 * acknowledged. The kernel waits 200 ms beyond the round trip at the least, which
 * is many round trips of a near peer: where much is lost, a connection stands
 * still for most of its time. There 50 ms do, unless the peer shows that what
 * was sent again had arrived all the same.
 */
#ifndef TCP_CONN_TIMEOUT_H
#define TCP_CONN_TIMEOUT_H

#include "tcp_conn_choice.h"
#include "tcp_conn_socket.h"

/* include/uapi/linux/tcp.h, include/uapi/linux/bpf.h */
#define TCP_THIN_LINEAR_TIMEOUTS 16
#define TCP_BPF_RTO_MIN 1004
/* include/uapi/linux/rtnetlink.h */
#define RTAX_LOCK 1
#define RTAX_RTO_MIN 13
/* include/net/dst.h: what of _metrics is not the address */
#define DST_METRICS_FLAGS 3UL

/*
 * Microseconds. TCP_RTO_MIN of include/net/tcp.h, and what may take its place:
 * longer than a peer delays an acknowledgement (40 ms in net/ipv4/tcp_output.c,
 * or a round trip), on paths where it makes much of a difference.
 */
#define RTO_MIN 200000
#define LOW_RTO_MIN 50000
#define LOW_RTO_RTT 50000
/* Rounds with something sent again before it is judged how many were too early. */
#define AGAIN_JUDGED 32
#define AGAIN_MOST 256

/* Ticks a second, set by user space before the object is loaded. */
const volatile __u32 hz = 0;

/* Whether nobody has chosen how long it waits: application, administrator or route. */
static __always_inline bool has_usual_rto_min(struct tcp_sock *tp, struct dst_entry *dst)
{
	const void *metrics;
	__u32 locked = 0;

	if (tp->inet_conn.icsk_rto_min != hz / 5)
		return false;
	if (!dst)
		return true;
	metrics = (const void *)(BPF_CORE_READ(dst, _metrics) & ~DST_METRICS_FLAGS);
	bpf_probe_read_kernel(&locked, sizeof(locked), metrics + 4 * (RTAX_LOCK - 1));
	return !(locked & 1 << RTAX_RTO_MIN);
}

static __always_inline bool set_rto_min(struct bpf_sock_ops *ctx, int microseconds)
{
	return !bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_RTO_MIN, &microseconds,
			       sizeof(microseconds));
}

/* Whether one of 50 segments was sent again, and a few at least. */
static __always_inline bool loses_much(__u64 segments, __u64 retransmitted)
{
	return retransmitted >= 3 && retransmitted * 50 >= segments;
}

/* Whether so many are lost of what a connection sends, and not just late. */
static __always_inline bool is_lossy(struct tcp_sock *tp)
{
	__u32 again = tp->total_retrans, twice = tp->dsack_dups;

	return twice < again && loses_much(tp->data_segs_out, again - twice);
}

/* Whether the peer can tell of what comes twice (RFC 2883). */
static __always_inline bool can_tell(struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok);
}

static __always_inline void report_timeouts(struct bpf_sock_ops *ctx, struct tcp_conn *conn,
					    struct tcp_conn_path *path, struct net *net,
					    __u32 scenario)
{
	struct bpftune_event event = {};

	fill_header(&event.header, net, scenario);
	event.values[TCP_CONN_FROM] = path->chosen;
	event.values[TCP_CONN_TO] = path->chosen;
	__builtin_memcpy(&event.values[TCP_CONN_PEER_HIGH], conn->key.address, 16);
	if (!fold(&event.header, event.values[TCP_CONN_PEER_LOW]))
		return;
	event.values[TCP_CONN_PREFIX] = conn->key.prefix;
	event.values[TCP_CONN_RTT_MIN] = path->min_rtt;
	event.values[TCP_CONN_FROM_RTT] = ctx->srtt_us >> 3;
	if (ctx->data_segs_out)
		event.values[TCP_CONN_FROM_LOSS] =
			(__u64)ctx->total_retrans * MILLION / ctx->data_segs_out;
	if (path->again)
		event.values[TCP_CONN_EARLY] = (__u64)path->twice * MILLION / path->again;
	__builtin_memcpy(&event.values[TCP_CONN_OTHER_NAME], path->own_name, CA_NAME);
	emit(&event, sizeof(event));
}

/* Lets a connection send again sooner, if nobody has said how long it waits. */
static __always_inline bool lower_rto_min(struct bpf_sock_ops *ctx, struct tcp_sock *tp,
					  struct dst_entry *dst, struct tcp_conn *conn,
					  struct tcp_conn_path *path, __u64 now)
{
	if (ctx->srtt_us >> 3 >= LOW_RTO_RTT || now < path->high_rto_ns || !can_tell(tp) ||
	    !has_usual_rto_min(tp, dst))
		return false;
	if (dry_run)
		return true;
	if (!set_rto_min(ctx, LOW_RTO_MIN))
		return false;
	conn->low_rto = 1;
	conn->last_twice = tp->dsack_dups;
	path->low_rto++;
	return true;
}

/*
 * A connection that loses much has sent again; after a time-out, or since the
 * peer told it what was missing.
 */
static __always_inline void wait_less(struct bpf_sock_ops *ctx, struct tcp_sock *tp,
				      struct tcp_conn *conn, struct tcp_conn_path *path,
				      bool timed_out)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	int i;

	if (conn->low_rto || is_closed(conn->key.netns_cookie, conn->key.netns_inode) ||
	    !is_lossy(tp) ||
	    !lower_rto_min(ctx, tp, route(sk), conn, path, bpf_ktime_get_ns()))
		return;
	if (path->told_rto)
		return;
	path->told_rto = 1;
	report_timeouts(ctx, conn, path, sk->__sk_common.skc_net.net, TCP_CONN_SOONER);
	if (dry_run || !timed_out)
		return;
	/* What algorithms did while time-outs took longer says little of now. */
	for (i = 0; i < ARM_COUNT; i++)
		clear_record(record_of(path, i));
	clear_sample(conn);
}

/*
 * A round of a connection that sends again sooner. Where the peer tells after most
 * of those with something sent again that it came twice, it was not lost, but late.
 * A single time-out may send hundreds of segments again: rounds count, not segments.
 */
static __always_inline void judge_rto_min(struct bpf_sock_ops *ctx, struct tcp_sock *tp,
					  struct tcp_conn *conn, struct tcp_conn_path *path,
					  __u32 retransmitted, __u64 now)
{
	bool came_twice = tp->dsack_dups != conn->last_twice;

	conn->last_twice = tp->dsack_dups;
	if (!retransmitted && !came_twice)
		return;
	if (path->again > AGAIN_MOST) {
		path->again /= 2;
		path->twice /= 2;
	}
	path->again += retransmitted > 0;
	path->twice += came_twice;
	if (path->again >= AGAIN_JUDGED && path->twice > path->again - path->again / 4) {
		report_timeouts(ctx, conn, path,
				tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net,
				TCP_CONN_LATER);
		path->high_rto_ns = now + HOUR_NS;
		path->again = 0;
		path->twice = 0;
		path->told_rto = 0;
	}
	if (now < path->high_rto_ns && set_rto_min(ctx, RTO_MIN))
		conn->low_rto = 0;
}

#endif
