/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bpf/tcp_conn_choice.h takes from the kernel, for a program of user space:
 * a clock of its own, no map but that of the algorithms, and nobody who listens
 * to the ring.
 */
#ifndef SIMULATED_HELPERS_H
#define SIMULATED_HELPERS_H

#include <linux/types.h>
#include <stddef.h>

#define SEC(name)
#define __uint(name, value) int (*name)[value]
#define __type(name, value) __typeof__(value) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline, unused))
#define BPF_ANY 0

__u64 bpf_ktime_get_ns(void);
void *bpf_map_lookup_elem(void *map, const void *key);
long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags);
long bpf_ringbuf_output(void *ring, void *data, __u64 size, __u64 flags);
void *bpf_get_current_task(void);

#endif
