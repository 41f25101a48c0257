// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-memory: what all TCP sockets hold against tcp_mem, what the kernel does
 * to connections when that is exceeded, and which namespace holds how much.
 */
#include "bpftune.bpf.h"
#include "tcp_iter.h"

#define IPPROTO_TCP 6

/* Queues below this are not worth a smaller maximum: bytes. */
#define SMALL_QUEUE 65536

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/types.h */
typedef struct {
	int counter;
} atomic_t;

/* include/net/sock.h */
struct sock___memory {
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	int sk_wmem_queued;
	struct socket *sk_socket;
	__u16 sk_protocol;
};

/* include/net/rstreason.h, since 6.10 */
enum sk_rst_reason___memory {
	SK_RST_REASON_TCP_ABORT_ON_MEMORY___memory = 13,
};

#pragma clang attribute pop

/* Mirrored by TCPMemory.Scenario in Sources/Tuners/TCPMemory.swift. */
enum tcp_memory_scenario {
	TCP_MEMORY_NEAR = 1,		/* near the point of pressure */
	TCP_MEMORY_EXHAUSTED = 2,	/* at the limit: an allocation failed */
	TCP_MEMORY_RESET = 3,		/* a connection was reset for it */
	TCP_MEMORY_ORPHAN = 4,		/* an orphan was reset below the limit */
	TCP_MEMORY_USE = 5,		/* on request: what a namespace holds */
};

/* Mirrored by TCPMemory.Value in Sources/Tuners/TCPMemory.swift. */
enum tcp_memory_value {
	TCP_MEMORY_PAGES,		/* pages that all sockets hold */
	TCP_MEMORY_LOW,			/* pages: tcp_mem[0..2] */
	TCP_MEMORY_PRESSURE,
	TCP_MEMORY_HIGH,
	TCP_MEMORY_SENDING,		/* bytes in the send queues of the namespace */
	TCP_MEMORY_RECEIVED,		/* bytes in its receive queues */
	TCP_MEMORY_SENDERS,		/* sockets with more than a small queue */
	TCP_MEMORY_RECEIVERS,
	TCP_MEMORY_SEND_LIMIT,		/* bytes: tcp_wmem[2] */
	TCP_MEMORY_RECEIVE_LIMIT,	/* bytes: tcp_rmem[2] */
	TCP_MEMORY_CERTAIN,		/* 1: a reset is known to be for memory or
					 * orphans, 0: it may be */
};

EXPORT_ENUM(tcp_memory_scenario);
EXPORT_ENUM(tcp_memory_value);

/*
 * Where TCP keeps its account and its limits, as the first socket says; for a
 * look at them while there is no socket at all.
 */
struct accounts {
	__u64 allocated;
	__u64 limits;
	__u64 reported_ns;	/* when a namespace was reported last */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct accounts);
} tcp_accounts SEC(".maps");

static __always_inline struct accounts *accounts(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&tcp_accounts, &zero);
}

static __always_inline void remember(struct proto *prot)
{
	struct accounts *known = accounts();

	if (!known || known->limits)
		return;
	known->allocated = (__u64)BPF_CORE_READ(prot, memory_allocated);
	known->limits = (__u64)BPF_CORE_READ(prot, sysctl_mem);
}

/* An event about all of TCP. `limits` are the three numbers of tcp_mem. */
static __always_inline void report(struct net *net, struct proto *prot, __u16 scenario,
				   __s64 pages, const long *limits, bool certain)
{
	struct bpftune_event event = {};

	fill_header(&event.header, net, scenario);
	if (!fold(&event.header, limits[1]))
		return;
	remember(prot);
	event.values[TCP_MEMORY_PAGES] = pages;
	event.values[TCP_MEMORY_LOW] = limits[0];
	event.values[TCP_MEMORY_PRESSURE] = limits[1];
	event.values[TCP_MEMORY_HIGH] = limits[2];
	event.values[TCP_MEMORY_CERTAIN] = certain;
	emit(&event, sizeof(event));
}

/*
 * The account is approximate: each processor keeps up to a megabyte that is
 * not in it yet (SK_MEMORY_PCPU_RESERVE in include/net/sock.h, since 6.0).
 */
static __always_inline void look(struct sock *sk, struct net *net)
{
	struct proto *prot = sk->__sk_common.skc_prot;
	__s64 pages = prot->memory_allocated->counter;
	long limits[3];

	if (bpf_probe_read_kernel(limits, sizeof(limits), prot->sysctl_mem))
		return;
	if (pages < limits[1] - limits[1] / 8)
		return;
	report(net, prot, pages > limits[2] ? TCP_MEMORY_EXHAUSTED : TCP_MEMORY_NEAR, pages, limits,
	       true);
}

/* Each segment that comes in for a connection, of data or an acknowledgement. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(tcp_memory_probe, struct sock *sk)
{
	look(sk, sk->__sk_common.skc_net.net);
	return 0;
}

/* net/core/sock.c: __sk_mem_raise_allocated() has refused, whatever the protocol. */
SEC("tp_btf/sock_exceed_buf_limit")
int BPF_PROG(tcp_memory_exceeded, struct sock *sk)
{
	struct sock___memory *memory = (void *)sk;

	if (BPF_CORE_READ(memory, sk_protocol) == IPPROTO_TCP)
		look(sk, sk->__sk_common.skc_net.net);
	return 0;
}

/*
 * net/ipv4/tcp_output.c: tcp_send_active_reset(), among whose callers are those
 * that tcp_check_oom() has sent. Newer kernels say which; on the others it is a
 * socket that nobody holds any more. Not tp_btf: some verifiers take it that
 * `skb`, which is NULL here, never is.
 */
SEC("raw_tp/tcp_send_reset")
int BPF_PROG(tcp_memory_reset, struct sock *sk, void *skb)
{
	struct sock___memory *memory = (void *)sk;
	struct proto *prot;
	bool certain = false;
	long limits[3];
	__s64 pages;

	if (skb || !sk)
		return 0;
	if (bpf_core_enum_value_exists(enum sk_rst_reason___memory,
				       SK_RST_REASON_TCP_ABORT_ON_MEMORY___memory)) {
		if (ctx[2] != bpf_core_enum_value(enum sk_rst_reason___memory,
						  SK_RST_REASON_TCP_ABORT_ON_MEMORY___memory))
			return 0;
		certain = true;
	} else if (BPF_CORE_READ(memory, sk_socket)) {
		return 0;
	}
	prot = BPF_CORE_READ(sk, __sk_common.skc_prot);
	pages = BPF_CORE_READ(prot, memory_allocated, counter);
	if (bpf_probe_read_kernel(limits, sizeof(limits), BPF_CORE_READ(prot, sysctl_mem)))
		return 0;
	report(BPF_CORE_READ(sk, __sk_common.skc_net.net), prot,
	       pages > limits[2] ? TCP_MEMORY_RESET : TCP_MEMORY_ORPHAN, pages, limits, certain);
	return 0;
}

/* What the sockets hold that this run of the iterator has met so far. */
__s64 sending, received, senders, receivers;

/* An empty namespace is reported at most that often. */
#define EMPTY_EVERY (50 * NSEC_PER_MSEC)

/* After the last socket: one event for the namespace. */
static __always_inline void report_use(void)
{
	struct net *net = current_net();
	struct accounts *known = accounts();
	struct bpftune_event event = {};

	if (!known)
		return;
	fill_header(&event.header, net, TCP_MEMORY_USE);
	if (!sending && !received && event.header.ktime_ns < known->reported_ns + EMPTY_EVERY)
		return;
	known->reported_ns = event.header.ktime_ns;
	if (known->limits) {
		bpf_probe_read_kernel(&event.values[TCP_MEMORY_PAGES], sizeof(long),
				      (void *)known->allocated);
		bpf_probe_read_kernel(&event.values[TCP_MEMORY_LOW], 3 * sizeof(long),
				      (void *)known->limits);
	}
	event.values[TCP_MEMORY_SENDING] = sending;
	event.values[TCP_MEMORY_RECEIVED] = received;
	event.values[TCP_MEMORY_SENDERS] = senders;
	event.values[TCP_MEMORY_RECEIVERS] = receivers;
	event.values[TCP_MEMORY_SEND_LIMIT] = BPF_CORE_READ(net, ipv4.sysctl_tcp_wmem[2]);
	event.values[TCP_MEMORY_RECEIVE_LIMIT] = BPF_CORE_READ(net, ipv4.sysctl_tcp_rmem[2]);
	emit(&event, sizeof(event));
	sending = received = senders = receivers = 0;
}

/* Every socket of the namespace that it is read in, orphans too. */
SEC("iter/tcp")
int tcp_memory_use(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct sock___memory *memory;
	struct sock *sk;
	int queued, alloc;

	if (!common) {
		report_use();
		return 0;
	}
	sk = (void *)bpf_skc_to_tcp_sock(common);
	if (!sk)
		return 0;
	remember(sk->__sk_common.skc_prot);
	memory = (void *)sk;
	queued = BPF_CORE_READ(memory, sk_wmem_queued);
	alloc = BPF_CORE_READ(memory, sk_backlog.rmem_alloc.counter);
	sending += queued;
	received += alloc;
	if (queued > SMALL_QUEUE)
		senders++;
	if (alloc > SMALL_QUEUE)
		receivers++;
	return 0;
}

/* Stands in for tcp_probe: the first socket of each namespace will do. */
SEC("iter/tcp")
int tcp_memory_poll(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct sock *sk;

	if (!common)
		return 0;
	sk = (void *)bpf_skc_to_tcp_sock(common);
	if (sk)
		look(sk, sk->__sk_common.skc_net.net);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
