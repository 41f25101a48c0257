/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's figures of TCP connections, by sock_diag(7). */
#ifndef BPFTUNE_TCP_H
#define BPFTUNE_TCP_H

#include <stdint.h>

struct bpftune_tcp_connection {
	/* Never used again for another socket. */
	uint64_t cookie;
	/* The peer's address in network byte order; IPv4 as ::ffff:a.b.c.d. */
	uint8_t peer[16];
	/* Bytes. */
	uint64_t acknowledged;
	uint64_t received;
	/* Bytes a second, as the sender measured it last. */
	uint64_t delivery_rate;
	/* Bytes that the reader took in a round trip, and microseconds of that. */
	uint32_t receive_space;
	uint32_t receive_rtt;
	/* Microseconds, smoothed. */
	uint32_t rtt;
	uint32_t data_segments;
	uint32_t retransmits;
};

/*
 * The established connections of the thread's network namespace, at most
 * `most` of each family. How many, or -1 with errno.
 */
int bpftune_tcp_connections(struct bpftune_tcp_connection *connections, int most);

#endif
