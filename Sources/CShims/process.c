// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bpftune_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <signal.h>
#include <sys/prctl.h>
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

int bpftune_keep_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	int number;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* Fails without CAP_SETPCAP: whoever withheld that has set the bounds. */
	for (number = 0; prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; number++)
		if (!(keep >> number & 1))
			prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
	if (syscall(SYS_capget, &header, data))
		return -1;
	for (number = 0; number < 2; number++) {
		data[number].permitted &= keep >> (32 * number);
		data[number].effective = data[number].permitted;
		data[number].inheritable = 0;
	}
	return syscall(SYS_capset, &header, data);
}

pid_t bpftune_lock_holder(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_GETLK, &lock) || lock.l_type == F_UNLCK ? 0 : lock.l_pid;
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
