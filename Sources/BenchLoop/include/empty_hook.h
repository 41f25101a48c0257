/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What BPF programs are measured against: one that does nothing. */
#ifndef EMPTY_HOOK_H
#define EMPTY_HOOK_H

/*
 * Runs a program `empty_hook` that returns at once at each `tracepoint`, such as
 * kfree_skb, until the descriptor is closed. The descriptor, or -1 with errno.
 */
int empty_hook_attach(const char *tracepoint);

#endif
