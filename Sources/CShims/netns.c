// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bpftune_netns.h"

#include <errno.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71	/* include/uapi/asm-generic/socket.h */
#endif

int bpftune_netns_enter(int fd)
{
	return setns(fd, CLONE_NEWNET);
}

int bpftune_netns_cookie(uint64_t *cookie)
{
	socklen_t length = sizeof(*cookie);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int result, saved;

	if (fd < 0)
		return -1;
	result = getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie, &length);
	saved = errno;
	close(fd);
	errno = saved;
	return result;
}
