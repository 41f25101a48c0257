/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp-buffer: the judgement shared by its hooks. A hook hands over a socket;
 * send_limited() and receive_limited() say whether the maximum of tcp_wmem or
 * tcp_rmem is what holds it back, and report it with the evidence.
 */
#ifndef TCP_BUFFER_H
#define TCP_BUFFER_H

#include "bpftune.bpf.h"

/* include/net/sock.h */
#define SOCK_SNDBUF_LOCK 1
#define SOCK_RCVBUF_LOCK 2

#define AF_INET6 10
#define TCP_ESTABLISHED 1
#define TCP_CLOSE_WAIT 8

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/net/inet_sock.h, include/net/inet_connection_sock.h */
struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

/* include/linux/win_minmax.h */
struct minmax_sample {
	__u32 t;
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

/* include/linux/tcp.h */
struct tcp_options_received {
	__u16 rcv_wscale:4;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 snd_wnd;
	__u32 mss_cache;
	__u32 snd_cwnd;
	__u32 srtt_us;
	struct minmax rtt_min;
	__u32 packets_out;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 write_seq;
	__u32 rcv_nxt;
	__u32 copied_seq;
	struct tcp_options_received rx_opt;
	struct {
		__u32 rtt_us;
	} rcv_rtt_est;
	struct {
		int space;
		__u32 seq;
		__u64 time;
	} rcvq_space;
};

#pragma clang attribute pop

/* Mirrored by TCPBufferScenario in Sources/Tuners/TCPBuffer.swift. */
enum tcp_buffer_scenario {
	TCP_BUFFER_SEND_LIMIT = 1,
	TCP_BUFFER_RECEIVE_LIMIT = 2,
	TCP_BUFFER_MODERATION_OFF = 3,
	TCP_BUFFER_SEND_QUEUE = 4,	/* tcp_latency.bpf.c */
	TCP_BUFFER_RECEIVE_QUEUE = 5,
};

/* Mirrored by TCPBufferValue in Sources/Tuners/TCPBuffer.swift. */
enum tcp_buffer_value {
	TCP_BUFFER_LIMIT,		/* bytes: tcp_wmem[2] or tcp_rmem[2] */
	TCP_BUFFER_SIZE,		/* bytes: sk_sndbuf or sk_rcvbuf */
	TCP_BUFFER_IN_FLIGHT,		/* bytes sent or copied in a round trip */
	TCP_BUFFER_WINDOW,		/* bytes: congestion window, or the most
					 * that the window scale lets through */
	TCP_BUFFER_RTT,			/* microseconds, smoothed */
	TCP_BUFFER_RTT_MIN,		/* microseconds, 0 when not known */
	TCP_BUFFER_MEMORY,		/* pages allocated to all TCP sockets */
	TCP_BUFFER_MEMORY_LOW,		/* pages: tcp_mem[0..2] */
	TCP_BUFFER_MEMORY_PRESSURE,
	TCP_BUFFER_MEMORY_HIGH,
	TCP_BUFFER_PEER_HIGH,		/* address, network byte order; an */
	TCP_BUFFER_PEER_LOW,		/* IPv4 address is ::ffff:a.b.c.d */
	TCP_BUFFER_PORTS,		/* local << 16 | remote */
	TCP_BUFFER_NEED,		/* bytes: what the paths of the namespace carry */
	TCP_BUFFER_INITIAL,		/* bytes: tcp_wmem[1] or tcp_rmem[1] */
	TCP_BUFFER_CARRIED,		/* bytes that a path of the namespace took in
					 * its shortest round trip, at most */
};

EXPORT_ENUM(tcp_buffer_scenario);
EXPORT_ENUM(tcp_buffer_value);

/*
 * A field of a socket or namespace. Where the verifier knows the pointer's type
 * it is an ordinary load; a kprobe's pointers have none and need a helper.
 */
#ifdef TCP_BUFFER_UNTYPED
#define FIELD(pointer, field) BPF_CORE_READ(pointer, field)
#define SMALL_FIELD(pointer, field) BPF_CORE_READ_BITFIELD_PROBED(pointer, field)
#else
#define FIELD(pointer, field) ((pointer)->field)
/* One that is of another size, or a bit field, on some kernels. */
#define SMALL_FIELD(pointer, field) BPF_CORE_READ_BITFIELD(pointer, field)
#endif

static __always_inline void report(struct sock *sk,
				   struct bpftune_event *event)
{
	atomic_long_t *allocated;
	long *limits;

	allocated = BPF_CORE_READ(sk, __sk_common.skc_prot, memory_allocated);
	event->values[TCP_BUFFER_MEMORY] = BPF_CORE_READ(allocated, counter);
	limits = BPF_CORE_READ(sk, __sk_common.skc_prot, sysctl_mem);
	bpf_probe_read_kernel(&event->values[TCP_BUFFER_MEMORY_LOW],
			      3 * sizeof(long), limits);

	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		bpf_core_read(&event->values[TCP_BUFFER_PEER_HIGH], 16,
			      &sk->__sk_common.skc_v6_daddr);
	} else {
		__u32 mapped[2] = { bpf_htonl(0xffff) };

		mapped[1] = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		__builtin_memcpy(&event->values[TCP_BUFFER_PEER_LOW], mapped, 8);
	}
	event->values[TCP_BUFFER_PORTS] =
		(__u64)BPF_CORE_READ(sk, __sk_common.skc_num) << 16 |
		bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	emit(event, sizeof(*event));
}

/*
 * The buffer stands at the maximum, and with more room the kernel would grow
 * it: the congestion window and the peer's window would both let more out, and
 * the application has filled the buffer. Mirrors tcp_should_expand_sndbuf() in
 * net/ipv4/tcp_input.c.
 */
static __always_inline void send_limited(struct tcp_sock *tp, struct net *net)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	int limit = FIELD(net, ipv4.sysctl_tcp_wmem[2]);
	int size = FIELD(sk, sk_sndbuf);
	struct bpftune_event event = {};
	__u32 in_flight, mss;

	if (size < limit - limit / 8)
		return;
	if (SMALL_FIELD(sk, sk_userlocks) & SOCK_SNDBUF_LOCK)
		return;
	if (FIELD(sk, sk_wmem_queued) < size / 2)
		return;
	mss = FIELD(tp, mss_cache);
	in_flight = FIELD(tp, snd_nxt) - FIELD(tp, snd_una);
	if (FIELD(tp, packets_out) >= FIELD(tp, snd_cwnd) || in_flight + mss >= FIELD(tp, snd_wnd))
		return;
	/* Much that waits to be sent: pacing is the limit, not the buffer. */
	if (FIELD(tp, write_seq) - FIELD(tp, snd_nxt) > in_flight)
		return;

	fill_header(&event.header, net, TCP_BUFFER_SEND_LIMIT);
	if (!fold(&event.header, limit))
		return;
	event.values[TCP_BUFFER_LIMIT] = limit;
	event.values[TCP_BUFFER_SIZE] = size;
	event.values[TCP_BUFFER_IN_FLIGHT] = in_flight;
	event.values[TCP_BUFFER_WINDOW] = (__u64)FIELD(tp, snd_cwnd) * mss;
	event.values[TCP_BUFFER_RTT] = FIELD(tp, srtt_us) >> 3;
	event.values[TCP_BUFFER_RTT_MIN] = FIELD(tp, rtt_min.s[0].v);
	report(sk, &event);
}

/*
 * Sockets whose queue was long when the kernel measured: in this round trip,
 * until it is known whether the reader gets to its end. By a part of their
 * ports; of two with the same, the later counts.
 */
#define LATE_READERS 256

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LATE_READERS);
	__type(key, __u32);
	__type(value, __u64);
} tcp_late_readers SEC(".maps");

static __always_inline __u64 *late_reader(struct sock *sk)
{
	__u32 slot = (FIELD(sk, __sk_common.skc_num) ^ FIELD(sk, __sk_common.skc_dport)) &
		     (LATE_READERS - 1);

	return bpf_map_lookup_elem(&tcp_late_readers, &slot);
}

/*
 * The application reads as fast as data comes, the buffer stands at the
 * maximum, and what it took in a round trip would have the kernel grow it.
 * Mirrors tcp_rcv_space_adjust() in net/ipv4/tcp_input.c, before it does its
 * work; at any other moment (`polled`) the measurement of this round trip is
 * not complete, and the largest so far stands for it.
 *
 * The kernel measures at the first read after a round trip. Where the window is
 * the limit, data comes as one burst each round trip, and all of it waits when a
 * late reader gets to it: that moment does not tell it from a slow one. But a
 * reader that empties the queue before the round trip is over is not slow, and
 * what it has taken by then is the least for that round trip.
 */
static __always_inline void receive_limited(struct tcp_sock *tp, struct net *net, bool polled)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	int limit = FIELD(net, ipv4.sysctl_tcp_rmem[2]);
	int size = FIELD(sk, sk_rcvbuf);
	bool moderate = SMALL_FIELD(net, ipv4.sysctl_tcp_moderate_rcvbuf);
	struct bpftune_event event = {};
	__u64 elapsed, *late = NULL;
	__u32 rtt, copied, unread;

	if (moderate && size < limit - limit / 8)
		return;
	if (SMALL_FIELD(sk, sk_userlocks) & SOCK_RCVBUF_LOCK)
		return;
	rtt = FIELD(tp, rcv_rtt_est.rtt_us) >> 3;
	if (!rtt)
		return;
	elapsed = bpf_ktime_get_ns() / 1000 - FIELD(tp, rcvq_space.time);
	if (elapsed > 4ULL * rtt)
		return;
	unread = FIELD(tp, rcv_nxt) - FIELD(tp, copied_seq);
	if (polled) {
		copied = FIELD(tp, rcvq_space.space);
		elapsed = rtt;
	} else {
		late = late_reader(sk);
		copied = FIELD(tp, copied_seq) - FIELD(tp, rcvq_space.seq);
		if (elapsed < rtt) {
			if (!late || *late != (__u64)sk || unread)
				return;
			*late = 0;
			elapsed = rtt;
		}
	}
	/* A window of data a round trip takes twice that in buffer space. */
	if ((__u64)copied * rtt / elapsed * 4 < (__u64)size)
		return;
	if (unread > copied / 2) {
		if (late)
			*late = (__u64)sk;
		return;
	}

	fill_header(&event.header, net, moderate ? TCP_BUFFER_RECEIVE_LIMIT
						 : TCP_BUFFER_MODERATION_OFF);
	if (!fold(&event.header, moderate ? limit : 0))
		return;
	event.values[TCP_BUFFER_LIMIT] = moderate ? limit : 0;
	event.values[TCP_BUFFER_SIZE] = size;
	event.values[TCP_BUFFER_IN_FLIGHT] = (__u64)copied * rtt / elapsed;
	event.values[TCP_BUFFER_WINDOW] =
		65535ULL << SMALL_FIELD(tp, rx_opt.rcv_wscale);
	event.values[TCP_BUFFER_RTT] = rtt;
	/* From the handshake, if nothing is sent; all ones when not known. */
	event.values[TCP_BUFFER_RTT_MIN] = FIELD(tp, rtt_min.s[0].v);
	report(sk, &event);
}

#endif
