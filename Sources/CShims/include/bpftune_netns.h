/* SPDX-License-Identifier: Apache-2.0 */
/* Network namespaces: entering one, and its cookie. */
#ifndef BPFTUNE_NETNS_H
#define BPFTUNE_NETNS_H

#include <stdint.h>

/* Moves the calling thread into the network namespace. 0 or -1 with errno. */
int bpftune_netns_enter(int fd);

/*
 * The cookie of the calling thread's network namespace (SO_NETNS_COOKIE, since
 * Linux 5.14). 0 or -1 with errno.
 */
int bpftune_netns_cookie(uint64_t *cookie);

#endif
