// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bpftune_module.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3	/* include/uapi/linux/wait.h */
#endif

/* Passes two descriptors, signals as a program expects them, and nothing else. */
static int spawn(const char *host, int socket, int module, pid_t *pid)
{
	char protocol[12], socket_text[12], module_text[12];
	char *arguments[] = {
		"bpftune-module-host", protocol, socket_text, module_text, NULL
	};
	char *environment[] = { NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int error;

	snprintf(protocol, sizeof(protocol), "%d", BPFTUNE_MODULE_PROTOCOL);
	snprintf(socket_text, sizeof(socket_text), "%d", socket);
	snprintf(module_text, sizeof(module_text), "%d", module);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	/* Onto itself: it stays open when the program is executed. */
	posix_spawn_file_actions_adddup2(&actions, socket, socket);
	posix_spawn_file_actions_adddup2(&actions, module, module);
	error = posix_spawn(pid, host, &actions, &attributes, arguments, environment);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return error;
}

int bpftune_module_start(const char *host, int module, pid_t *pid, int *pidfd)
{
	int ends[2], error;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return -1;
	error = spawn(host, ends[1], module, pid);
	close(ends[1]);
	if (!error) {
		fcntl(ends[0], F_SETFL, O_NONBLOCK);
		*pidfd = syscall(SYS_pidfd_open, *pid, 0);
		if (*pidfd >= 0)
			return ends[0];
		error = errno;
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	close(ends[0]);
	errno = error;
	return -1;
}

int bpftune_module_reap(int pidfd)
{
	siginfo_t info = { .si_pid = 0 };

	/* Whoever starts the daemon may have it ignore SIGCHLD: nothing is known then. */
	if (waitid(P_PIDFD, pidfd, &info, WEXITED | WNOHANG))
		return errno == EINTR ? -1 : 0;
	if (!info.si_pid)
		return -1;
	return info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
}
