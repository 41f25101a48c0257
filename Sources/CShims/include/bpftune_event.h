/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause OR Apache-2.0) */
/*
 * The layout of the records in the ring buffer: written by the programs in
 * bpf/, read by Sources/Kernel. This is the only place where it is defined;
 * the static asserts below are checked by both compilers.
 */
#ifndef BPFTUNE_EVENT_H
#define BPFTUNE_EVENT_H

#include <linux/types.h>

/* Increased when a field moves; user space refuses any other. */
#define BPFTUNE_EVENT_VERSION 1

/* How many numbers an event can carry as evidence. */
#define BPFTUNE_EVENT_VALUES 16

/* Longest sysctl name ("net/ipv4/tcp_wmem") and value carried, with the NUL. */
#define BPFTUNE_SYSCTL_NAME 64
#define BPFTUNE_SYSCTL_VALUE 64
#define BPFTUNE_COMM 16

/* What every record starts with. */
struct bpftune_event_header {
	__u16 version;		/* BPFTUNE_EVENT_VERSION */
	__u16 source;		/* set by user space at load; says which stream */
	__u16 scenario;		/* enumerator of the source's scenarios */
	__u16 reserved;
	__u32 folded;		/* repeats not sent since the last record */
	__u32 netns_inode;	/* of the network namespace concerned */
	__u64 netns_cookie;	/* 0 where the kernel has none */
	__u64 ktime_ns;		/* CLOCK_MONOTONIC */
	__u32 pid;		/* thread group that ran, 0 in softirq */
	__u32 reserved2;
};

/* A scenario with its numbers; which number is which is up to the source. */
struct bpftune_event {
	struct bpftune_event_header header;
	__s64 values[BPFTUNE_EVENT_VALUES];
};

/* A write to a watched sysctl, seen before the kernel carries it out. */
struct bpftune_sysctl_event {
	struct bpftune_event_header header;
	char comm[BPFTUNE_COMM];
	char name[BPFTUNE_SYSCTL_NAME];
	char old_value[BPFTUNE_SYSCTL_VALUE];
	char new_value[BPFTUNE_SYSCTL_VALUE];
};

_Static_assert(sizeof(struct bpftune_event_header) == 40, "header layout");
_Static_assert(sizeof(struct bpftune_event) == 168, "event layout");
_Static_assert(sizeof(struct bpftune_sysctl_event) == 248, "sysctl layout");

#endif
