/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every BPF program of bpftune shares: the ring buffer, the folding of
 * repeats, and the kernel types, declared with only the fields that are used.
 */
#ifndef BPFTUNE_BPF_H
#define BPFTUNE_BPF_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include "bpftune_event.h"

#define NSEC_PER_MSEC 1000000ULL
#define NSEC_PER_SEC 1000000000ULL

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/ns_common.h */
struct ns_common {
	unsigned int inum;
};

struct ipv4_devconf;

/* include/net/netns/ipv4.h */
struct netns_ipv4 {
	struct ipv4_devconf *devconf_all;
	int sysctl_tcp_wmem[3];
	int sysctl_tcp_rmem[3];
	__u8 sysctl_tcp_moderate_rcvbuf;
};

/* include/net/net_namespace.h */
struct net {
	__u64 net_cookie;	/* before 5.12 an atomic64_t: not this field */
	__u32 hash_mix;		/* random, one a namespace */
	struct ns_common ns;
	struct netns_ipv4 ipv4;
};

/* include/linux/nsproxy.h */
struct nsproxy {
	struct net *net_ns;
};

/* include/linux/sched.h */
struct task_struct {
	struct nsproxy *nsproxy;
	int tgid;
	char comm[BPFTUNE_COMM];
};

/* include/net/net_namespace.h */
typedef struct {
	struct net *net;
} possible_net_t;

/* include/linux/types.h */
typedef struct {
	__s64 counter;
} atomic_long_t;

/* include/net/sock.h */
struct proto {
	atomic_long_t *memory_allocated;
	long *sysctl_mem;
};

struct in6_addr {
	__u8 in6_u[16];
};

struct sock_common {
	__u32 skc_daddr;
	__u16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct proto *skc_prot;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
};

struct sock {
	struct sock_common __sk_common;
	__u8 sk_userlocks;
	int sk_rcvbuf;
	int sk_sndbuf;
	int sk_wmem_queued;
};

#pragma clang attribute pop

/*
 * Keeps an enum in the type information of the object, where a test compares
 * it with its mirror in Swift.
 */
#define EXPORT_ENUM(name) const volatile enum name name##_exported = (enum name)0

/* The source number of this object, set by user space before it is loaded. */
const volatile __u16 source_id = 0;

/* Shared by all objects: user space gives each the same map. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* Records that found the ring full, one counter a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

struct fold_key {
	__u64 netns_cookie;
	__u32 netns_inode;
	__u16 source;
	__u16 scenario;
};

struct fold_state {
	__u64 next_ns;		/* nothing is sent before */
	__u64 window_ns;
	__s64 limit;		/* what the last record said is in force */
	__u32 folded;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fold_key);
	__type(value, struct fold_state);
} folds SEC(".maps");

/*
 * Fold repeats: at most one record for a (scenario, namespace) in a window.
 * While the limit stays what the last record said, nothing has changed that
 * user space does not know, and the window doubles, up to FOLD_MAX; a new
 * limit starts over. Returns false when the caller should send nothing.
 */
#define FOLD_MIN (20 * NSEC_PER_MSEC)
#define FOLD_MAX (10 * NSEC_PER_SEC)

static __always_inline bool fold(struct bpftune_event_header *header, __s64 limit)
{
	struct fold_key key = {
		.netns_cookie = header->netns_cookie,
		.netns_inode = header->netns_inode,
		.source = header->source,
		.scenario = header->scenario,
	};
	struct fold_state first = {
		.next_ns = header->ktime_ns + FOLD_MIN,
		.window_ns = FOLD_MIN,
		.limit = limit,
	};
	struct fold_state *state;

	state = bpf_map_lookup_elem(&folds, &key);
	if (!state) {
		bpf_map_update_elem(&folds, &key, &first, BPF_ANY);
		return true;
	}
	if (state->limit == limit && header->ktime_ns < state->next_ns) {
		__sync_fetch_and_add(&state->folded, 1);
		return false;
	}
	if (state->limit != limit)
		state->window_ns = FOLD_MIN;
	else if (header->ktime_ns > state->next_ns + FOLD_MAX)
		state->window_ns = FOLD_MIN;	/* quiet for long: start over */
	else if (state->window_ns < FOLD_MAX)
		state->window_ns *= 2;
	state->limit = limit;
	state->next_ns = header->ktime_ns + state->window_ns;
	header->folded = state->folded;
	state->folded = 0;
	return true;
}

/* 0 where the kernel gives a namespace its number only when it is asked for. */
static __always_inline __u64 net_cookie(struct net *net)
{
	if (!bpf_core_field_exists(net->net_cookie))
		return 0;
	return BPF_CORE_READ(net, net_cookie);
}

static __always_inline void fill_header(struct bpftune_event_header *header,
					struct net *net, __u16 scenario)
{
	__builtin_memset(header, 0, sizeof(*header));
	header->version = BPFTUNE_EVENT_VERSION;
	header->source = source_id;
	header->scenario = scenario;
	header->netns_cookie = net_cookie(net);
	header->netns_inode = BPF_CORE_READ(net, ns.inum);
	header->ktime_ns = bpf_ktime_get_ns();
}

static __always_inline void count_lost(void)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&lost, &zero);

	if (count)
		(*count)++;
}

static __always_inline void emit(void *record, __u64 size)
{
	if (bpf_ringbuf_output(&events, record, size, 0))
		count_lost();
}

/* Read from the task: bpf_get_current_pid_tgid() is not to be had everywhere. */
static __always_inline __u32 current_tgid(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, tgid);
}

static __always_inline struct net *current_net(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, net_ns);
}

#endif
