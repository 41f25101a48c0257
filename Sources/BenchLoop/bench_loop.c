// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bench_loop.h"

#include <bpf/libbpf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

struct run {
	const char *path;
	const char *value;
	uint64_t *nanoseconds;
	size_t count;
	size_t done;
};

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static int write_value(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, value, strlen(value));
	close(fd);
	return n < 0 ? -1 : 0;
}

static int handle(void *context, void *data, size_t size)
{
	struct run *run = context;
	uint64_t at;

	if (size < 32 || run->done == run->count)
		return 0;
	/* ktime_ns of struct bpftune_event_header */
	memcpy(&at, (char *)data + 24, sizeof(at));
	write_value(run->path, run->value);
	run->nanoseconds[run->done++] = now() - at;
	return 0;
}

long bench_loop_run(int ring_fd, const char *path, const char *value,
		    uint64_t *nanoseconds, size_t count)
{
	struct run run = { path, value, nanoseconds, count, 0 };
	struct ring_buffer *ring = ring_buffer__new(ring_fd, handle, &run, NULL);

	if (!ring)
		return -1;
	while (run.done < count)
		if (ring_buffer__poll(ring, 2000) == 0)
			break;
	ring_buffer__free(ring);
	return run.done;
}

pid_t bench_loop_writer(const char *path, const char *value, size_t count,
			unsigned int interval_us)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	usleep(20000);
	for (size_t i = 0; i < count; i++) {
		write_value(path, value);
		usleep(interval_us);
	}
	_exit(0);
}
