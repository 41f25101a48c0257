/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HOST_H
#define HOST_H

#include "bpftune_module.h"

/*
 * Gives up, for good, all that the process could do but read files, compute, and
 * use these two descriptors. NULL, or what went wrong, with errno.
 */
const char *confine(int socket, int module);

/* Sends a packet; ends the process when nobody takes it. */
void say(const void *packet, size_t size);
void say_text(enum bpftune_message_kind kind, const char *text);

/* Tells the daemon what the tuner says of itself. */
void describe(const struct bpftune_tuner *tuner);

#endif
