// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * socket-buffer: what applications ask for with SO_SNDBUF and SO_RCVBUF: more
 * than the kernel allows, or less than their path needs.
 */
#include "gate.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define SOL_SOCKET 1
#define SO_SNDBUF 7
#define SO_RCVBUF 8

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define TCP_LISTEN 10

/* include/net/sock.h */
#define SOCK_SNDBUF_LOCK 1
#define SOCK_RCVBUF_LOCK 2

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/net/inet_sock.h */
struct inet_sock___buffer {
	__u16 inet_sport;	/* network byte order */
};

/* include/linux/tcp.h */
struct tcp_sock {
	__u64 bytes_received;
	__u64 bytes_acked;
	__u32 srtt_us;
	__u32 chrono_stat[3];	/* jiffies: busy, limited by the peer, by the buffer */
	struct {
		__u32 rtt_us;
	} rcv_rtt_est;
	struct {
		int space;
	} rcvq_space;
};

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

#pragma clang attribute pop

/* Mirrored by SocketBuffer.Scenario in Sources/Tuners/SocketBuffer.swift. */
enum socket_buffer_scenario {
	SOCKET_BUFFER_SEND_CLAMPED = 1,
	SOCKET_BUFFER_RECEIVE_CLAMPED = 2,
	SOCKET_BUFFER_SEND_LOCKED = 3,		/* and too small for its path */
	SOCKET_BUFFER_RECEIVE_LOCKED = 4,
	SOCKET_BUFFER_SEND_REPORT = 5,		/* on request */
	SOCKET_BUFFER_RECEIVE_REPORT = 6,
};

/* Mirrored by SocketBuffer.Value in Sources/Tuners/SocketBuffer.swift. */
enum socket_buffer_value {
	SOCKET_BUFFER_SIZE,		/* bytes asked for, or locked; in a report
					 * the most asked for since the last */
	SOCKET_BUFFER_LIMIT,		/* wmem_max or rmem_max at the start */
	SOCKET_BUFFER_LOCAL,		/* ports, 0 when not known yet */
	SOCKET_BUFFER_REMOTE,
	SOCKET_BUFFER_PROCESS,
	SOCKET_BUFFER_COMM_LOW,
	SOCKET_BUFFER_COMM_HIGH,
	SOCKET_BUFFER_RTT,		/* microseconds */
	SOCKET_BUFFER_PERCENT,		/* of its time that the buffer was the limit */
	SOCKET_BUFFER_BYTES,		/* that the connection carried */
};

EXPORT_ENUM(socket_buffer_scenario);
EXPORT_ENUM(socket_buffer_value);

/* net.core.wmem_max and rmem_max when the program was loaded, set by user space. */
const volatile __u32 wmem_max = 0;
const volatile __u32 rmem_max = 0;

/* Ports whose sockets may not lock their buffers, set by user space; 0 ends it. */
#define MOST_PORTS 16
const volatile __u16 override_ports[MOST_PORTS] = {};

/* The most asked for since the last report: send, receive. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} socket_buffer_most SEC(".maps");

static __always_inline bool is_overridden(__u32 local, __u32 remote)
{
	struct net *net;
	int i;

	if (!override_ports[0] || dry_run)
		return false;
	/* Of the process: a socket is hardly ever another one's. */
	net = current_net();
	if (is_closed(net_cookie(net), BPF_CORE_READ(net, ns.inum)))
		return false;
	for (i = 0; i < MOST_PORTS; i++) {
		if (!override_ports[i])
			return false;
		if (override_ports[i] == local || override_ports[i] == remote)
			return true;
	}
	return false;
}

/* Sizes of another order are folded apart, and so are ports. */
static __always_inline bool fold_by(struct bpftune_event_header *header, __u64 what)
{
	struct bpftune_event_header one = *header;
	bool send;

	one.netns_cookie = header->netns_cookie << 24 ^ what;
	send = fold(&one, 0);
	header->folded = one.folded;
	return send;
}

/* Rounded down to a power of two, as its exponent. */
static __always_inline __u32 order(__u32 size)
{
	__u32 exponent = 0, step;

#pragma clang loop unroll(full)
	for (step = 16; step; step >>= 1) {
		if (size >> step) {
			size >>= step;
			exponent += step;
		}
	}
	return exponent;
}

static __always_inline void note_most(__u32 index, __u32 size)
{
	__u32 *most = bpf_map_lookup_elem(&socket_buffer_most, &index);

	if (most && *most < size)
		*most = size;
}

/* A buffer of that size is asked for, for a socket of the running process. */
static __always_inline void requested(bool send, __u32 size, __u32 local, __u32 remote)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 limit = send ? wmem_max : rmem_max;
	struct bpftune_event event = {};

	if (!limit || size <= limit)
		return;
	note_most(!send, size);
	fill_header(&event.header, current_net(),
		    send ? SOCKET_BUFFER_SEND_CLAMPED : SOCKET_BUFFER_RECEIVE_CLAMPED);
	if (!fold_by(&event.header, order(size)))
		return;
	event.values[SOCKET_BUFFER_SIZE] = size;
	event.values[SOCKET_BUFFER_LIMIT] = limit;
	event.values[SOCKET_BUFFER_LOCAL] = local;
	event.values[SOCKET_BUFFER_REMOTE] = remote;
	event.values[SOCKET_BUFFER_PROCESS] = BPF_CORE_READ(task, tgid);
	bpf_core_read(&event.values[SOCKET_BUFFER_COMM_LOW], BPFTUNE_COMM, &task->comm);
	emit(&event, sizeof(event));
}

/* Seen before the kernel clamps it. */
SEC("cgroup/setsockopt")
int socket_buffer_request(struct bpf_sockopt *ctx)
{
	int *value = ctx->optval;
	struct bpf_sock *sk;
	__u32 local, remote;

	if (ctx->level != SOL_SOCKET ||
	    (ctx->optname != SO_SNDBUF && ctx->optname != SO_RCVBUF)) {
		/* The kernel takes a long option only when it is as it was. */
		if (ctx->optlen > 4096)
			ctx->optlen = 0;
		return 1;
	}
	sk = ctx->sk;
	if (!sk || (void *)(value + 1) > ctx->optval_end)
		return 1;
	if (sk->family != AF_INET && sk->family != AF_INET6)
		return 1;
	local = sk->src_port;
	remote = bpf_ntohs(sk->dst_port);
	if (*value > 0)
		requested(ctx->optname == SO_SNDBUF, *value, local, remote);
	/* Taken for done: the socket stays as it is, and the kernel sizes it. */
	if (sk->protocol == IPPROTO_TCP && is_overridden(local, remote))
		ctx->optlen = -1;
	return 1;
}

/* A connection that carried less says nothing about its path. */
#define MUCH (1 << 20)
/* Microseconds: any buffer will do on a shorter path. */
#define FAR 1000

static __always_inline void report_locked(struct sock *sk, __u16 scenario, __u64 size, __u64 rtt,
					  __u64 percent, __u64 bytes)
{
	__u32 remote = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	__u32 local = bpf_ntohs(BPF_CORE_READ((struct inet_sock___buffer *)sk, inet_sport));
	struct bpftune_event event = {};

	fill_header(&event.header, BPF_CORE_READ(sk, __sk_common.skc_net.net), scenario);
	if (!fold_by(&event.header, local < remote ? local : remote))
		return;
	event.values[SOCKET_BUFFER_SIZE] = size;
	event.values[SOCKET_BUFFER_LOCAL] = local;
	event.values[SOCKET_BUFFER_REMOTE] = remote;
	event.values[SOCKET_BUFFER_RTT] = rtt;
	event.values[SOCKET_BUFFER_PERCENT] = percent;
	event.values[SOCKET_BUFFER_BYTES] = bytes;
	emit(&event, sizeof(event));
}

/*
 * A locked send buffer was the limit for a fifth of the time that the
 * connection was busy; a locked receive buffer was read empty of a whole window
 * in a round trip.
 */
static __always_inline void judge(struct sock *sk)
{
	__u8 locks = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks);
	struct tcp_sock *tp;
	__u64 all, limited, size, space;

	if (!(locks & (SOCK_SNDBUF_LOCK | SOCK_RCVBUF_LOCK)))
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	if (locks & SOCK_SNDBUF_LOCK && tp->bytes_acked >= MUCH && tp->srtt_us >> 3 >= FAR) {
		limited = tp->chrono_stat[2];
		all = limited + tp->chrono_stat[0] + tp->chrono_stat[1];
		if (all && limited * 5 >= all)
			report_locked(sk, SOCKET_BUFFER_SEND_LOCKED,
				      BPF_CORE_READ(sk, sk_sndbuf), tp->srtt_us >> 3,
				      limited * 100 / all, tp->bytes_acked);
	}
	if (locks & SOCK_RCVBUF_LOCK && tp->bytes_received >= MUCH &&
	    tp->rcv_rtt_est.rtt_us >> 3 >= FAR) {
		size = BPF_CORE_READ(sk, sk_rcvbuf);
		space = tp->rcvq_space.space;
		if (space * 4 >= size)
			report_locked(sk, SOCKET_BUFFER_RECEIVE_LOCKED, size,
				      tp->rcv_rtt_est.rtt_us >> 3, 0, tp->bytes_received);
	}
}

/* A connection has ended. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_buffer_state, struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_CLOSE && oldstate != TCP_LISTEN && oldstate != TCP_CLOSE &&
	    oldstate != TCP_SYN_SENT && oldstate != TCP_SYN_RECV)
		judge(sk);
	return 0;
}

/* Stands in for it: those that are there. */
SEC("iter/tcp")
int socket_buffer_poll(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	if (common && common->skc_state == TCP_ESTABLISHED)
		judge((struct sock *)common);
	return 0;
}

static __always_inline void report_most(__u32 index, __u16 scenario)
{
	__u32 *most = bpf_map_lookup_elem(&socket_buffer_most, &index);
	struct bpftune_event event = {};

	if (!most)
		return;
	fill_header(&event.header, current_net(), scenario);
	event.values[SOCKET_BUFFER_SIZE] = *most;
	*most = 0;
	emit(&event, sizeof(event));
}

/* Run once on behalf of the daemon: what has been asked for. */
SEC("raw_tp/sys_enter")
int socket_buffer_report(void *ctx)
{
	report_most(0, SOCKET_BUFFER_SEND_REPORT);
	report_most(1, SOCKET_BUFFER_RECEIVE_REPORT);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
