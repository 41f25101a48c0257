// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bpftune_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <unistd.h>

void bpftune_syslog_open(const char *name)
{
	openlog(name, LOG_PID, LOG_DAEMON);
}

void bpftune_syslog(int priority, const char *text)
{
	syslog(priority, "%s", text);
}

int bpftune_daemonize(void)
{
	if (daemon(0, 0))
		return -1;
	/* Whatever else was inherited keeps pipes of the starter open. */
	syscall(SYS_close_range, 3, ~0U, 0);
	return 0;
}

int bpftune_run_soon(void)
{
	struct sched_attr attributes = { .size = sizeof(attributes) };

	/* What it is already, its nice value too. */
	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0))
		return -1;
	/* Set by whoever started it. */
	if (attributes.sched_policy)
		return 0;
	attributes.sched_policy = SCHED_FIFO;
	attributes.sched_priority = 1;
	attributes.sched_flags = SCHED_FLAG_RESET_ON_FORK;
	if (!syscall(SYS_sched_setattr, 0, &attributes, 0))
		return 0;
	attributes.sched_policy = SCHED_NORMAL;
	attributes.sched_priority = 0;
	attributes.sched_runtime = 100000;
	return syscall(SYS_sched_setattr, 0, &attributes, 0);
}

int bpftune_signal_fd(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int bpftune_signal_next(int fd)
{
	struct signalfd_siginfo info;

	return read(fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : -1;
}

pid_t bpftune_lock(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (!fcntl(fd, F_SETLK, &lock))
		return 0;
	if (errno != EAGAIN && errno != EACCES)
		return -1;
	lock = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET };
	if (fcntl(fd, F_GETLK, &lock) || lock.l_type == F_UNLCK || lock.l_pid <= 0)
		return 1;
	return lock.l_pid;
}
