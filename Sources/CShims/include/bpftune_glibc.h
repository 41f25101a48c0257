/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the C library that Swift's Glibc module leaves out. */
#ifndef BPFTUNE_GLIBC_H
#define BPFTUNE_GLIBC_H

#include <malloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/sysinfo.h>

/* include/uapi/asm-generic/fcntl.h, the same on every processor that we know */
#define BPFTUNE_O_PATH 010000000

#endif
