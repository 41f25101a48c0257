// SPDX-License-Identifier: Apache-2.0
/* The parts of path-emulator; main.c says what the program is for. */
#ifndef PATH_EMULATOR_H
#define PATH_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MTU		1500
#define MAX_ADDRESSES	16
#define NS_PER_S	1000000000ull
/* The memory one direction may fill, and so the most that can be in flight. */
#define MEMORY_BYTES	(256u << 20)

/* An interface address with its prefix length. */
struct address {
	unsigned char bytes[16];
	unsigned char family;
	unsigned char prefix;
};

/* One end of the path: a TUN device in a network namespace. */
struct device {
	const char *netns;
	const char *name;
	struct address addresses[MAX_ADDRESSES];
	size_t address_count;
	int fd;
	int index;
	int netlink;
};

/* What every packet of a direction goes through. */
struct conditions {
	uint64_t delay_ns;
	double ns_per_byte;		/* 0: no rate limit */
	uint64_t queue_bytes;
	double loss;			/* probability, 0 to 1 */
	bool marks;			/* whether ecn_threshold is set */
	uint64_t ecn_threshold;
};

struct counters {
	uint64_t forwarded_packets;
	uint64_t forwarded_bytes;
	uint64_t dropped_loss;
	uint64_t dropped_queue;
	uint64_t marked;
	uint64_t max_queue_bytes;
	uint64_t write_failed;
	uint64_t dropped_device;
};

struct store;

/* One direction of the path. */
struct path {
	int in, out;
	bool readable;			/* whether in may have a packet */
	struct conditions conditions;
	uint64_t random;
	double line_free;		/* when the rate limit has sent all it holds */
	struct store *store;
	struct counters counters;
};

/* Prints "path-emulator: what: strerror(error)" and exits with status 1. */
void fail(const char *what, int error) __attribute__((noreturn));

/* Creates the device, addresses it and brings it up, or does not return. */
void device_open(struct device *device, int home_netns, bool large_packets);

/* Packets that did not wait for us because the device's own queue was full. */
uint64_t device_dropped(const struct device *device);

/* Reads "address/prefix"; false if it is neither IPv4 nor IPv6. */
bool address_parse(const char *text, struct address *address);

/* Takes the path's memory, or does not return. */
void path_prepare(struct path *path);

/*
 * Delivers one packet if one is due, or else lowers *next to the time at which
 * one will be, and reads one if the path is readable. False if that leaves
 * nothing to do until *next or until there is something to read.
 */
bool path_step(struct path *path, uint64_t time, uint64_t *next);

uint64_t monotonic_ns(void);

#endif
