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
 * Microseconds. What may take the place of TCP_RTO_MIN (include/net/tcp.h): longer
 * than Linux delays an acknowledgement (40 ms in net/ipv4/tcp_output.c, or a round
 * trip), on paths where it makes much of a difference.
 */
#define LOW_RTO_MIN 50000
#define LOW_RTO_RTT 50000
/* More than that beyond the shortest round trip may be what a queue takes, and loses. */
#define MOST_QUEUE (LOW_RTO_MIN / 2)
/* How long new connections of a path begin so, after one has lost much. */
#define LOSSY_NS (600 * NSEC_PER_SEC)
/* From the begin of a trial on. */
#define DECIDING_NS (10 * NSEC_PER_SEC)
/* Times that something was sent again before it is judged how often in vain, and at most. */
#define AGAIN_JUDGED 32
#define AGAIN_MOST 256
/* Rounds in which the peer may tell of what came twice. */
#define ROUNDS_TOLD 3

/* Ticks a second, set by user space before the object is loaded. */
const volatile __u32 hz = 0;

/* Whether nobody has chosen how long it waits: application, administrator or route. */
static __always_inline bool has_usual_rto_min(struct tcp_sock *tp, struct dst_entry *dst)
{
	const void *metrics;
	__u32 locked = 0;

	/* TCP_RTO_MIN */
	if (tp->inet_conn.icsk_rto_min != hz / 5)
		return false;
	if (!dst)
		return true;
	metrics = (const void *)(BPF_CORE_READ(dst, _metrics) & ~DST_METRICS_FLAGS);
	bpf_probe_read_kernel(&locked, sizeof(locked), metrics + 4 * (RTAX_LOCK - 1));
	return !(locked & 1 << RTAX_RTO_MIN);
}

/* Lowered, by this daemon or one before it. */
static __always_inline bool has_low_rto_min(struct tcp_sock *tp)
{
	return tp->inet_conn.icsk_rto_min == (hz * (LOW_RTO_MIN / 1000) + 999) / 1000;
}

/* Whether one of 50 segments was sent again, and a few at least. */
static __always_inline bool loses_much(__u64 segments, __u64 retransmitted)
{
	return retransmitted >= 3 && retransmitted * 50 >= segments;
}

/*
 * Whether so many are lost of what a connection sends, and not just late. What was
 * sent again in this round does not count, as the peer may tell of it in the next;
 * nor does what the handshake of a new connection sent again.
 */
static __always_inline bool is_lossy(struct tcp_sock *tp, const struct tcp_conn *conn)
{
	__u32 in_vain = conn->first_retransmitted + tp->dsack_dups;

	return in_vain < conn->last_retransmitted &&
	       loses_much(tp->data_segs_out, conn->last_retransmitted - in_vain);
}

/* Whether the peer can tell of what comes twice (RFC 2883). */
static __always_inline bool can_tell(struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok);
}

/* False where another path was told of a moment ago. */
static __always_inline bool report_timeouts(struct bpf_sock_ops *ctx, struct tcp_conn *conn,
					    struct tcp_conn_path *path, struct net *net,
					    __u32 scenario)
{
	struct bpftune_event event = {};

	fill_header(&event.header, net, scenario);
	__builtin_memcpy(&event.values[TCP_CONN_PEER_HIGH], conn->key.address, 16);
	if (!fold(&event.header, event.values[TCP_CONN_PEER_HIGH] ^
					 event.values[TCP_CONN_PEER_LOW]))
		return false;
	event.values[TCP_CONN_FROM] = path->chosen;
	event.values[TCP_CONN_TO] = path->chosen;
	event.values[TCP_CONN_PREFIX] = conn->key.prefix;
	event.values[TCP_CONN_RTT_MIN] = path->min_rtt;
	event.values[TCP_CONN_FROM_RTT] = ctx->srtt_us >> 3;
	if (ctx->data_segs_out)
		event.values[TCP_CONN_FROM_LOSS] =
			(__u64)ctx->total_retrans * MILLION / ctx->data_segs_out;
	if (path->again)
		event.values[TCP_CONN_IN_VAIN] = (__u64)path->in_vain * MILLION / path->again;
	__builtin_memcpy(&event.values[TCP_CONN_OTHER_NAME], path->own_name, CA_NAME);
	emit(&event, sizeof(event));
	return true;
}

/*
 * Whether a trial may be decided soon: time-outs stay as they are until then. One
 * that thin connections carry takes long, and may never be.
 */
static __always_inline bool is_deciding(const struct tcp_conn_path *path, __u64 now)
{
	return path->trial < NO_TRIAL && now - path->trial_ns < DECIDING_NS;
}

/* What algorithms did with other time-outs says little of now; nor does their trial. */
static __always_inline void start_anew(struct tcp_conn *conn, struct tcp_conn_path *path)
{
	int i;

	for (i = 0; i < ARM_COUNT; i++)
		clear_record(record_of(path, i));
	clear_sample(conn);
	end_trial(path);
}

/* Whether new connections of a path have a lower least time-out from their start. */
static __always_inline bool has_low_rto(const struct tcp_conn_path *path, __u64 now)
{
	return path->told_rto && now - path->lossy_ns < LOSSY_NS;
}

/* Whether a connection to a near peer has no other least time-out than others. */
static __always_inline bool may_send_again_sooner(struct bpf_sock_ops *ctx, struct tcp_sock *tp,
						  struct dst_entry *dst,
						  const struct tcp_conn_path *path, __u64 now)
{
	__u32 rtt = ctx->srtt_us >> 3;

	return rtt && rtt < LOW_RTO_RTT && path->min_rtt && rtt < path->min_rtt + MOST_QUEUE &&
	       now >= path->high_rto_ns && can_tell(tp) && has_usual_rto_min(tp, dst);
}

static __always_inline bool lower_rto_min(struct bpf_sock_ops *ctx, struct tcp_sock *tp,
					  struct tcp_conn *conn, struct tcp_conn_path *path)
{
	int microseconds = LOW_RTO_MIN;

	if (bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_RTO_MIN, &microseconds, sizeof(microseconds)))
		return false;
	conn->low_rto = 1;
	conn->last_twice = tp->dsack_dups;
	path->low_rto++;
	return true;
}

/*
 * A round of a connection whose time-outs come sooner. Each time that something is
 * sent again, the peer has a few rounds to tell that half of it came twice: then it
 * was in vain. Where that is so most times, segments are late and not lost, and new
 * connections have the kernel's time-outs for an hour. This one keeps what it has:
 * the kernel adapts no better from a higher one.
 */
static __always_inline void judge_rto_min(struct bpf_sock_ops *ctx, struct tcp_sock *tp,
					  struct tcp_conn *conn, struct tcp_conn_path *path,
					  __u32 retransmitted, __u64 now)
{
	__u32 twice = tp->dsack_dups - conn->last_twice;

	conn->last_twice = tp->dsack_dups;
	if (retransmitted && !conn->awaited) {
		conn->awaited = ROUNDS_TOLD;
		conn->again = 0;
		conn->twice = 0;
		path->again++;
	}
	if (!conn->awaited)
		return;
	conn->again += retransmitted;
	conn->twice += twice;
	conn->awaited--;
	if (conn->twice * 2 >= conn->again) {
		conn->awaited = 0;
		path->in_vain++;
	}
	if (path->again >= AGAIN_JUDGED && path->in_vain > path->again - path->again / 4 &&
	    has_low_rto(path, now) && !dry_run && !is_deciding(path, now)) {
		report_timeouts(ctx, conn, path,
				tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net,
				TCP_CONN_LATER);
		path->high_rto_ns = now + HOUR_NS;
		path->told_rto = 0;
		path->again = 0;
		path->in_vain = 0;
		start_anew(conn, path);
	}
	if (path->again > AGAIN_MOST) {
		path->again /= 2;
		path->in_vain /= 2;
	}
}

/* A round, in which a connection may have sent something again. */
static __always_inline void watch_rto_min(struct bpf_sock_ops *ctx, struct tcp_sock *tp,
					  struct tcp_conn *conn, struct tcp_conn_path *path,
					  __u32 retransmitted, __u64 now)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;

	/* No loss for so long: new connections are as others again. */
	if (path->told_rto && !has_low_rto(path, now))
		path->told_rto = 0;
	if (conn->low_rto)
		judge_rto_min(ctx, tp, conn, path, retransmitted, now);
	if (!retransmitted || !is_lossy(tp, conn))
		return;
	path->lossy_ns = now;
	if (conn->low_rto || conn->thin || is_deciding(path, now) ||
	    is_closed(conn->key.netns_cookie, conn->key.netns_inode) ||
	    !may_send_again_sooner(ctx, tp, route(sk), path, now))
		return;
	if (!dry_run && !lower_rto_min(ctx, tp, conn, path))
		return;
	if (path->told_rto ||
	    !report_timeouts(ctx, conn, path, sk->__sk_common.skc_net.net, TCP_CONN_SOONER))
		return;
	path->told_rto = 1;
	if (!dry_run)
		start_anew(conn, path);
}

#endif
