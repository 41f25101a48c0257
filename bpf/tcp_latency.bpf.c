// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-buffer: connections whose buffers let a queue stand on their path, that
 * carries no more for it.
 */
#include "tcp_buffer.h"
#include "tcp_iter.h"

/* What is in flight on a connection that buffers matter to: bytes. */
#define BULK 32768
/* A queue that matters: microseconds. */
#define LONG_QUEUE 5000

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/tcp.h */
struct tcp_sock___latency {
	__u32 rate_delivered;		/* packets, in the next */
	__u32 rate_interval_us;
	__u8 scaling_ratio;		/* window in 256 of buffer; since 6.6 */
};

#pragma clang attribute pop

/* The most that a path of the namespace took in its shortest round trip lately. */
struct carried {
	__u64 since_ns;
	__u64 now;
	__u64 before;		/* in the window before this one */
};

#define CARRIED_WINDOW (10 * NSEC_PER_SEC)

/* By namespace and, in place of a scenario, direction. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fold_key);
	__type(value, struct carried);
} tcp_carried SEC(".maps");

/* Takes note of what a connection's path took; the most in its namespace. */
static __always_inline __u64 most_carried(struct bpftune_event_header *header, __u64 bytes)
{
	struct fold_key key = {
		.netns_cookie = header->netns_cookie,
		.netns_inode = header->netns_inode,
		.source = header->source,
		.scenario = header->scenario,
	};
	struct carried first = { .since_ns = header->ktime_ns, .now = bytes };
	struct carried *known;
	__u64 age;

	known = bpf_map_lookup_elem(&tcp_carried, &key);
	if (!known) {
		bpf_map_update_elem(&tcp_carried, &key, &first, BPF_ANY);
		return bytes;
	}
	age = header->ktime_ns - known->since_ns;
	if (age > CARRIED_WINDOW) {
		known->before = age > 2 * CARRIED_WINDOW ? 0 : known->now;
		known->now = 0;
		known->since_ns = header->ktime_ns;
	}
	if (bytes > known->now)
		known->now = bytes;
	return known->now > known->before ? known->now : known->before;
}

/* The round trip has doubled, and by more than is worth no mention. */
static __always_inline bool queue_stands(__u32 rtt, __u32 rtt_min)
{
	return rtt >= 2ULL * rtt_min && rtt - rtt_min >= LONG_QUEUE;
}

/*
 * Once a round trip: what the path delivers in a round trip without a queue is
 * all that has to be in flight. A writer is woken when a third of the buffer is
 * free (sk_stream_min_wspace() in include/net/sock.h), so the buffer is half as
 * large again, and a sixth for what is counted in it beside the data.
 */
static __always_inline void send_queue(struct tcp_sock *tp)
{
	struct tcp_sock___latency *rate = (void *)tp;
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	struct net *net = sk->__sk_common.skc_net.net;
	__u32 in_flight = tp->snd_nxt - tp->snd_una;
	__u32 rtt = tp->srtt_us >> 3;
	__u32 rtt_min = tp->rtt_min.s[0].v;
	struct bpftune_event event = {};
	__u64 carried, interval, need;
	int limit;

	if (in_flight < BULK || !rtt || rtt_min > rtt)
		return;
	carried = (__u64)rate->rate_delivered * tp->mss_cache;
	interval = rate->rate_interval_us;
	if (!carried || !interval) {
		carried = in_flight;
		interval = rtt;
	}
	carried = carried * rtt_min / interval;
	fill_header(&event.header, net, TCP_BUFFER_SEND_QUEUE);
	carried = most_carried(&event.header, carried);
	need = carried * 7 / 4;
	if (!queue_stands(rtt, rtt_min))
		return;
	limit = net->ipv4.sysctl_tcp_wmem[2];
	if (need > (__u64)limit / 4 * 3 || SMALL_FIELD(sk, sk_userlocks) & SOCK_SNDBUF_LOCK)
		return;
	if (!fold(&event.header, limit))
		return;
	event.values[TCP_BUFFER_LIMIT] = limit;
	event.values[TCP_BUFFER_SIZE] = sk->sk_sndbuf;
	event.values[TCP_BUFFER_IN_FLIGHT] = in_flight;
	event.values[TCP_BUFFER_CARRIED] = carried;
	event.values[TCP_BUFFER_RTT] = rtt;
	event.values[TCP_BUFFER_RTT_MIN] = rtt_min;
	event.values[TCP_BUFFER_NEED] = need;
	event.values[TCP_BUFFER_INITIAL] = net->ipv4.sysctl_tcp_wmem[1];
	report(sk, &event);
}

/*
 * Once a round trip, when the application has taken what came in it. The window
 * that is offered is a part of the buffer: a half, where the kernel does not
 * measure it (net.ipv4.tcp_adv_win_scale). At any other moment (`polled`) the
 * largest measurement so far stands for this one.
 */
static __always_inline void receive_queue(struct tcp_sock *tp, bool polled)
{
	struct tcp_sock___latency *rate = (void *)tp;
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	struct net *net = sk->__sk_common.skc_net.net;
	__u32 rtt = tp->rcv_rtt_est.rtt_us >> 3;
	__u32 rtt_min = tp->rtt_min.s[0].v;
	struct bpftune_event event = {};
	__u64 elapsed, copied, carried, ratio = 128, need;
	int limit;

	if (!rtt || rtt_min > rtt)
		return;
	elapsed = bpf_ktime_get_ns() / 1000 - tp->rcvq_space.time;
	if (elapsed > 4ULL * rtt)
		return;
	copied = tp->copied_seq - tp->rcvq_space.seq;
	if (polled) {
		copied = tp->rcvq_space.space;
		elapsed = rtt;
	}
	if (elapsed < rtt || copied * rtt / elapsed < BULK)
		return;
	if (bpf_core_field_exists(rate->scaling_ratio) && rate->scaling_ratio)
		ratio = rate->scaling_ratio;
	fill_header(&event.header, net, TCP_BUFFER_RECEIVE_QUEUE);
	carried = copied * rtt_min / elapsed;
	carried = most_carried(&event.header, carried);
	need = carried * 256 / ratio * 21 / 16;
	if (!queue_stands(rtt, rtt_min))
		return;
	limit = net->ipv4.sysctl_tcp_rmem[2];
	if (need > (__u64)limit / 4 * 3 || SMALL_FIELD(sk, sk_userlocks) & SOCK_RCVBUF_LOCK)
		return;
	if (!fold(&event.header, limit))
		return;
	event.values[TCP_BUFFER_LIMIT] = limit;
	event.values[TCP_BUFFER_SIZE] = sk->sk_rcvbuf;
	event.values[TCP_BUFFER_IN_FLIGHT] = copied * rtt / elapsed;
	event.values[TCP_BUFFER_CARRIED] = carried;
	event.values[TCP_BUFFER_RTT] = rtt;
	event.values[TCP_BUFFER_RTT_MIN] = rtt_min;
	event.values[TCP_BUFFER_NEED] = need;
	event.values[TCP_BUFFER_INITIAL] = net->ipv4.sysctl_tcp_rmem[1];
	report(sk, &event);
}

SEC("sockops")
int tcp_latency_sock_ops(struct bpf_sock_ops *ctx)
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
		if (tp)
			send_queue(tp);
		break;
	}
	return 1;
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(tcp_latency_rcv_space_adjust, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (tp)
		receive_queue(tp, false);
	return 0;
}

/* Stand in for the two above: look at each connection now. */
SEC("iter/tcp")
int tcp_latency_poll_send(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;

	if (!common || common->skc_state != TCP_ESTABLISHED)
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	if (tp)
		send_queue(tp);
	return 0;
}

SEC("iter/tcp")
int tcp_latency_poll_receive(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;

	if (!common || common->skc_state != TCP_ESTABLISHED)
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	if (tp)
		receive_queue(tp, true);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
