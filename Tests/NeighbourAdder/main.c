// SPDX-License-Identifier: Apache-2.0
/*
 * Adds neighbours to a device of the namespace that it runs in, as fast as the
 * kernel takes them: raw rtnetlink, many requests in one send, answers only to
 * those that the kernel refuses.
 *
 *	neighbour-adder DEVICE FIRST-ADDRESS COUNT STATE [BEGIN]
 *
 * STATE is "reachable", "stale" or "permanent". BEGIN is a time of
 * CLOCK_MONOTONIC in milliseconds: several adders begin together. Prints
 * "added N refused M held H microseconds T": what the kernel took, what it
 * refused for want of room, what the device has afterwards, and the time that
 * adding took. Exits with 0 also when entries were refused.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Requests in one send: more keep the CPU in the kernel for longer at a time. */
#define BATCH 256

struct request {
	struct nlmsghdr header;
	struct ndmsg neighbour;
	char attributes[48];
};

static long added, refused;

static void fail(const char *what)
{
	fprintf(stderr, "neighbour-adder: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void add_attribute(struct request *request, int type, const void *data, int length)
{
	struct rtattr *attribute = (void *)((char *)request +
					    NLMSG_ALIGN(request->header.nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(length);
	memcpy(RTA_DATA(attribute), data, length);
	request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) +
				    RTA_ALIGN(attribute->rta_len);
}

/* The address `index` steps after the first. */
static void nth_address(const unsigned char *first, int length, uint32_t index,
			unsigned char *address)
{
	uint32_t low;

	memcpy(address, first, length);
	memcpy(&low, first + length - 4, 4);
	low = htonl(ntohl(low) + index);
	memcpy(address + length - 4, &low, 4);
}

/* Reads the refusals that have come so far. */
static void drain(int fd)
{
	static char buffer[1 << 16];
	ssize_t size;

	while ((size = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
		struct nlmsghdr *header = (void *)buffer;

		for (; NLMSG_OK(header, size); header = NLMSG_NEXT(header, size)) {
			struct nlmsgerr *error = NLMSG_DATA(header);

			if (header->nlmsg_type != NLMSG_ERROR || !error->error)
				continue;
			if (error->error != -ENOBUFS) {
				errno = -error->error;
				fail("the kernel");
			}
			refused++;
		}
	}
	if (size < 0 && errno == ENOBUFS)
		fail("answers were lost");
}

static long held(int fd, int family, unsigned int device)
{
	static char buffer[1 << 17];
	struct request request = {
		.header = {
			.nlmsg_len = NLMSG_LENGTH(sizeof(struct ndmsg)),
			.nlmsg_type = RTM_GETNEIGH,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
		},
		.neighbour = { .ndm_family = family },
	};
	long count = 0;
	ssize_t size;

	add_attribute(&request, NDA_IFINDEX, &device, sizeof(device));
	if (send(fd, &request, request.header.nlmsg_len, 0) < 0)
		fail("send");
	while ((size = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
		struct nlmsghdr *header = (void *)buffer;

		for (; NLMSG_OK(header, size); header = NLMSG_NEXT(header, size)) {
			struct ndmsg *neighbour = NLMSG_DATA(header);

			if (header->nlmsg_type == NLMSG_DONE)
				return count;
			if (header->nlmsg_type == RTM_NEWNEIGH &&
			    neighbour->ndm_ifindex == (int)device &&
			    neighbour->ndm_state & (NUD_REACHABLE | NUD_STALE | NUD_PERMANENT |
						    NUD_DELAY | NUD_PROBE))
				count++;
		}
	}
	fail("receive");
	return -1;
}

int main(int argc, char **argv)
{
	static char batch[BATCH * sizeof(struct request)];
	unsigned char first[16], address[16];
	int family, length, state, fd, one = 1, large = 64 << 20;
	struct timespec start, end;
	unsigned int device;
	long count, done = 0;

	if (argc < 5) {
		fprintf(stderr, "usage: neighbour-adder DEVICE FIRST-ADDRESS COUNT STATE [BEGIN]\n");
		return 64;
	}
	device = if_nametoindex(argv[1]);
	if (!device)
		fail(argv[1]);
	family = strchr(argv[2], ':') ? AF_INET6 : AF_INET;
	length = family == AF_INET6 ? 16 : 4;
	if (inet_pton(family, argv[2], first) != 1)
		fail(argv[2]);
	count = atol(argv[3]);
	state = !strcmp(argv[4], "permanent") ? NUD_PERMANENT :
		!strcmp(argv[4], "stale") ? NUD_STALE : NUD_REACHABLE;

	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof(large));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));

	if (argc > 5) {
		long begin = atol(argv[5]);

		start = (struct timespec){ begin / 1000, begin % 1000 * 1000000 };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &start, NULL);
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (done < count) {
		size_t used = 0;
		int i;

		for (i = 0; i < BATCH && done < count; i++, done++) {
			struct request *request = (void *)(batch + used);
			unsigned char link[6] = { 2, 0, done >> 24, done >> 16, done >> 8, done };

			memset(request, 0, sizeof(*request));
			request->header.nlmsg_len = NLMSG_LENGTH(sizeof(struct ndmsg));
			request->header.nlmsg_type = RTM_NEWNEIGH;
			request->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE |
						      NLM_F_REPLACE;
			request->neighbour.ndm_family = family;
			request->neighbour.ndm_ifindex = device;
			request->neighbour.ndm_state = state;
			nth_address(first, length, done, address);
			add_attribute(request, NDA_DST, address, length);
			add_attribute(request, NDA_LLADDR, link, sizeof(link));
			used += NLMSG_ALIGN(request->header.nlmsg_len);
		}
		if (send(fd, batch, used, 0) < 0)
			fail("send");
		drain(fd);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	drain(fd);
	added = count - refused;
	printf("added %ld refused %ld held %ld microseconds %ld\n", added, refused,
	       held(fd, family, device),
	       (end.tv_sec - start.tv_sec) * 1000000 + (end.tv_nsec - start.tv_nsec) / 1000);
	return 0;
}
