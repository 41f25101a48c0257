/* SPDX-License-Identifier: Apache-2.0 */
/* The process as a daemon: syslog, background, signals, lock file. */
#ifndef BPFTUNE_PROCESS_H
#define BPFTUNE_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

/* syslog(3) without its variable arguments; priority 0 to 7. */
void bpftune_syslog_open(const char *name);
void bpftune_syslog(int priority, const char *text);

/* Goes into the background as daemon(3) does. 0 or -1 with errno. */
int bpftune_daemonize(void);

/*
 * Lets the calling thread run as soon as it wakes, before all that has no
 * real-time priority (SCHED_FIFO, at the lowest priority; not inherited). Where
 * that is not allowed, it asks for a slice of 100 us (since Linux 6.12), which
 * comes soon but can be over before the work is. 0 or -1 with errno.
 */
int bpftune_run_soon(void);

/* Blocks SIGTERM, SIGINT and SIGHUP; a descriptor that reports them, or -1. */
int bpftune_signal_fd(void);

/* The number of the next signal from that descriptor, or -1 when none is. */
int bpftune_signal_next(int fd);

/*
 * Gives up, for good, every capability that is not in `keep` (a bit for each),
 * and what executed files could give: of the calling thread and of those that
 * it starts later. 0 or -1 with errno.
 */
int bpftune_keep_capabilities(uint64_t keep);

/* Who holds the lock below: 0 if nobody, not positive where it cannot be seen. */
pid_t bpftune_lock_holder(int fd);

/*
 * Takes a lock on the whole file that ends with the process. Returns 0; the
 * pid of the holder (1 where it cannot be seen) when it is taken; -1 with errno.
 */
pid_t bpftune_lock(int fd);

#endif
