// SPDX-License-Identifier: Apache-2.0
/*
 * One direction of the path. A packet read from one device is lost, dropped
 * or given the time at which it is due at the other end, and waits until then
 * in memory taken once at the start. Packets never overtake each other, so
 * the oldest one is always the next one due.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "emulator.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES	(1u << 20)
#define BLOCK_COUNT	(MEMORY_BYTES / BLOCK_BYTES)
/* A 64 KiB packet, the header in front of it, and room to spare. */
#define READ_BYTES	(65536u + 256u)

struct packet {
	uint64_t due;
	uint32_t length;		/* with the virtio_net_hdr */
	uint32_t unused;
	unsigned char data[];
};

/* Packets lie back to back in a block; the last one freed is used first. */
struct block {
	struct block *next;
	unsigned char *memory;
	uint32_t filled;
};

struct store {
	struct block blocks[BLOCK_COUNT];
	struct block *oldest, *newest;	/* never NULL */
	struct block *unused;
	uint32_t taken;			/* bytes already taken from the oldest */
};

static uint32_t packet_space(uint32_t length)
{
	return (sizeof(struct packet) + length + 15) & ~15u;
}

/* Room for the largest packet, or NULL. */
static struct packet *store_reserve(struct store *store)
{
	struct block *block = store->newest;

	if (BLOCK_BYTES - block->filled < packet_space(READ_BYTES)) {
		block = store->unused;
		if (!block)
			return NULL;
		store->unused = block->next;
		block->next = NULL;
		block->filled = 0;
		store->newest->next = block;
		store->newest = block;
	}
	return (void *)(block->memory + block->filled);
}

/* Keeps the packet last reserved. */
static void store_keep(struct store *store, const struct packet *packet)
{
	store->newest->filled += packet_space(packet->length);
}

static struct packet *store_first(struct store *store)
{
	struct block *block = store->oldest;

	if (store->taken == block->filled && block != store->newest) {
		store->oldest = block->next;
		store->taken = 0;
		block->next = store->unused;
		store->unused = block;
		block = store->oldest;
	}
	if (store->taken == block->filled) {
		store->taken = block->filled = 0;
		return NULL;
	}
	return (void *)(block->memory + store->taken);
}

static void store_take(struct store *store, const struct packet *packet)
{
	store->taken += packet_space(packet->length);
}

void path_prepare(struct path *path)
{
	struct store *store = calloc(1, sizeof(*store));
	unsigned char *memory;

	if (!store)
		fail("packet memory", errno);
	/* Pages are only taken when first written to. */
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		fail("packet memory", errno);
	for (size_t i = BLOCK_COUNT; i-- > 0;) {
		store->blocks[i].memory = memory + i * BLOCK_BYTES;
		store->blocks[i].next = store->unused;
		store->unused = &store->blocks[i];
	}
	store->oldest = store->newest = store->unused;
	store->unused = store->unused->next;
	store->newest->next = NULL;
	path->store = store;
}

uint64_t monotonic_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * NS_PER_S + time.tv_nsec;
}

/* splitmix64, as a number from 0 up to but not including 1. */
static double next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	z ^= z >> 31;
	return (z >> 11) * 0x1p-53;
}

/* Sets the CE codepoint on a packet whose sender supports ECN. */
static bool mark(unsigned char *ip, uint32_t length)
{
	if (length >= 20 && ip[0] >> 4 == 4) {
		unsigned int before = ip[0] << 8 | ip[1], after = before | 3;
		uint32_t sum;

		if ((before & 3) == 0 || before == after)
			return false;
		/* RFC 1624: only one word of the checksummed header changes. */
		sum = (~(ip[10] << 8 | ip[11]) & 0xffff) + (~before & 0xffff) + after;
		sum = (sum & 0xffff) + (sum >> 16);
		sum = ~((sum & 0xffff) + (sum >> 16));
		ip[1] = after;
		ip[10] = sum >> 8;
		ip[11] = sum;
		return true;
	}
	if (length >= 40 && ip[0] >> 4 == 6) {
		if ((ip[1] & 0x30) == 0 || (ip[1] & 0x30) == 0x30)
			return false;
		ip[1] |= 0x30;
		return true;
	}
	return false;
}

/* Puts an arrived packet through the conditions; false if it goes no further. */
static bool admit(struct path *path, struct packet *packet, uint64_t arrived)
{
	const struct conditions *conditions = &path->conditions;
	struct counters *counters = &path->counters;
	uint32_t bytes = packet->length - sizeof(struct virtio_net_hdr);
	double queued = 0;

	if (conditions->loss > 0 && next_random(&path->random) < conditions->loss) {
		counters->dropped_loss++;
		return false;
	}
	if (conditions->ns_per_byte == 0) {
		packet->due = arrived + conditions->delay_ns;
		return true;
	}

	/* The queue is what the line has yet to send of what it was given. */
	if (path->line_free > arrived)
		queued = (path->line_free - arrived) / conditions->ns_per_byte;
	else
		path->line_free = arrived;
	if (queued > 0 && queued + bytes > conditions->queue_bytes) {
		counters->dropped_queue++;
		return false;
	}
	if (conditions->marks && queued > conditions->ecn_threshold &&
	    mark(packet->data + sizeof(struct virtio_net_hdr), bytes))
		counters->marked++;
	if (queued + bytes > counters->max_queue_bytes)
		counters->max_queue_bytes = queued + bytes;
	path->line_free += bytes * conditions->ns_per_byte;
	packet->due = (uint64_t)path->line_free + conditions->delay_ns;
	return true;
}

/* Reads one packet; false if there is none to read. */
static bool receive(struct path *path)
{
	struct packet *packet = store_reserve(path->store);
	unsigned char overflow[sizeof(struct virtio_net_hdr)];
	ssize_t got;

	if (packet)
		got = read(path->in, packet->data, READ_BYTES);
	else
		got = read(path->in, overflow, sizeof(overflow));
	if (got < 0) {
		if (errno != EAGAIN && errno != EINTR)
			fail("reading from a TUN device", errno);
		return false;
	}
	if (!packet) {
		path->counters.dropped_queue++;
		return true;
	}
	packet->length = got;
	if (admit(path, packet, monotonic_ns()))
		store_keep(path->store, packet);
	return true;
}

/* Counts a large packet as the packets that the wire would carry for it. */
static void count_forwarded(struct path *path, const struct packet *packet)
{
	const struct virtio_net_hdr *header = (const void *)packet->data;
	const unsigned char *ip = packet->data + sizeof(*header);
	uint64_t bytes = packet->length - sizeof(*header), packets = 1;

	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE && header->gso_size &&
	    header->csum_start + 20u <= bytes) {
		uint64_t headers = header->csum_start +
				   (ip[header->csum_start + 12] >> 4) * 4;

		if (headers < bytes) {
			packets = (bytes - headers + header->gso_size - 1) / header->gso_size;
			bytes += (packets - 1) * headers;
		}
	}
	path->counters.forwarded_packets += packets;
	path->counters.forwarded_bytes += bytes;
}

static void deliver(struct path *path, const struct packet *packet)
{
	ssize_t sent;

	do
		sent = write(path->out, packet->data, packet->length);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		path->counters.write_failed++;
	else
		count_forwarded(path, packet);
	store_take(path->store, packet);
}

bool path_step(struct path *path, uint64_t time, uint64_t *next)
{
	struct packet *packet = store_first(path->store);
	bool due = packet && packet->due <= time;

	/* One of each in turn, so that neither can hold up the other. */
	if (due)
		deliver(path, packet);
	else if (packet && packet->due < *next)
		*next = packet->due;
	if (path->readable)
		path->readable = receive(path);
	return due || path->readable;
}
