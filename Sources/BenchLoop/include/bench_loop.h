/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon's latency is measured against: a bare C loop that sleeps in
 * epoll on the ring buffer and writes the sysctl from libbpf's callback.
 */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Takes `count` events off the ring and writes `value` to `path` for each.
 * `nanoseconds[i]` is the time from the event to the end of the write. Returns
 * how many came within two seconds of each other, or -1 with errno.
 */
long bench_loop_run(int ring_fd, const char *path, const char *value,
		    uint64_t *nanoseconds, size_t count);

/*
 * Starts a process that writes `value` to `path` every `interval_us`, `count`
 * times, and ends. Its pid, or -1 with errno.
 */
pid_t bench_loop_writer(const char *path, const char *value, size_t count,
			unsigned int interval_us);

#endif
