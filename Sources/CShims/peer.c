// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bpftune_peer.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

gid_t bpftune_group(const char *name)
{
	gid_t gid = (gid_t)-1;
	struct group *group;
	/*
	 * sysusers.d makes it there. Not getgrnam(3): that loads what
	 * nsswitch.conf names, which a static executable cannot.
	 */
	FILE *file = fopen("/etc/group", "re");

	if (!file)
		return gid;
	while ((group = fgetgrent(file))) {
		if (!strcmp(group->gr_name, name)) {
			gid = group->gr_gid;
			break;
		}
	}
	fclose(file);
	return gid;
}

int bpftune_local_socket(const char *path, gid_t group, mode_t mode)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	/* Of a daemon that is gone: whoever calls this holds the lock. */
	unlink(path);
	/* Nobody can connect before listen(2), which comes after this. */
	if (!bind(fd, (struct sockaddr *)&address, sizeof(address)) &&
	    !chown(path, (uid_t)-1, group) && !chmod(path, mode))
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

static bool among_groups(int fd, gid_t group)
{
	socklen_t size = 0;
	bool found = false;
	gid_t *groups;

	/* Says how much room it needs. */
	if (!getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) || errno != ERANGE)
		return false;
	groups = malloc(size);
	if (groups && !getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size)) {
		for (size_t i = 0; i < size / sizeof(*groups); i++)
			found |= groups[i] == group;
	}
	free(groups);
	return found;
}

int bpftune_peer(int fd, gid_t group, uid_t *uid, pid_t *pid, bool *in_group)
{
	struct ucred peer = { 0 };
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return -1;
	*uid = peer.uid;
	*pid = peer.pid;
	*in_group = group != (gid_t)-1 && (peer.gid == group || among_groups(fd, group));
	return 0;
}
