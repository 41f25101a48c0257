/* SPDX-License-Identifier: Apache-2.0 */
/* A local socket that listens, and who is at the other end of one. */
#ifndef BPFTUNE_PEER_H
#define BPFTUNE_PEER_H

#include <stdbool.h>
#include <sys/types.h>

/* The id of a group, or -1 when there is none of that name. */
gid_t bpftune_group(const char *name);

/*
 * A stream socket bound to `path`, in the place of what was there, with that
 * group and mode from before the first client can connect; -1 with errno.
 */
int bpftune_local_socket(const char *path, gid_t group, mode_t mode);

/*
 * Who connected (SO_PEERCRED), and whether that process was in a group, by its
 * first or by any other (SO_PEERGROUPS, since Linux 4.13). 0 or -1 with errno.
 */
int bpftune_peer(int fd, gid_t group, uid_t *uid, pid_t *pid, bool *in_group);

#endif
