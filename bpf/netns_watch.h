/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * namespace watch: what its hooks share.
 */
#ifndef NETNS_WATCH_H
#define NETNS_WATCH_H

#include "bpftune.bpf.h"

/* include/uapi/linux/sched.h */
#define CLONE_NEWNET 0x40000000

/* Mirrored by NamespaceWatch in Sources/Kernel/NamespaceWatch.swift. */
enum netns_watch_scenario {
	NETNS_WATCH_CREATED = 1,
	NETNS_WATCH_ENDED = 2,
};

EXPORT_ENUM(netns_watch_scenario);

static __always_inline void tell(struct net *net, __u16 scenario, __u32 pid)
{
	struct bpftune_event event = {};

	fill_header(&event.header, net, scenario);
	event.header.pid = pid;
	emit(&event, sizeof(event));
}

#endif
