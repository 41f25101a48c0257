/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends packets as fast as the kernel takes them, from processor 0:
 *
 *   packet-sender send ADDRESS PORT BURSTS PACKETS PAUSE
 *	bursts of UDP packets, PAUSE microseconds after one another; prints how
 *	many were sent.
 *   packet-sender steady ADDRESS PORT PACKETS PAUSE
 *	one UDP packet in PAUSE microseconds; prints how many were sent.
 *   packet-sender take PORT WORK
 *	binds a UDP socket and never reads from it; every packet that comes in
 *	costs WORK divisions. Prints "ready", and stays until it is killed.
 *   packet-sender unknown DEVICE RATE SECONDS
 *	packets of a protocol that nobody knows, which the kernel drops when they
 *	come back; so many a second, prints how many were sent, in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define AT_ONCE 512
#define TAPS 4

static void die(const char *what)
{
	fprintf(stderr, "packet-sender: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* And before others: a flood that stands still now and then is none. */
static void pin(void)
{
	cpu_set_t processors;

	CPU_ZERO(&processors);
	CPU_SET(0, &processors);
	if (sched_setaffinity(0, sizeof(processors), &processors))
		die("sched_setaffinity");
	if (setpriority(PRIO_PROCESS, 0, -20))
		die("setpriority");
}

/* Sends so many copies of a small packet, there or where `fd` is connected to; how many. */
static long send_many(int fd, long count, struct sockaddr_ll *to)
{
	static char payload[32];
	struct iovec part = { payload, sizeof(payload) };
	struct mmsghdr messages[AT_ONCE] = {};
	long sent = 0;
	int i;

	for (i = 0; i < AT_ONCE; i++) {
		messages[i].msg_hdr.msg_iov = &part;
		messages[i].msg_hdr.msg_iovlen = 1;
		messages[i].msg_hdr.msg_name = to;
		messages[i].msg_hdr.msg_namelen = to ? sizeof(*to) : 0;
	}
	while (sent < count) {
		long left = count - sent;
		int taken = sendmmsg(fd, messages, left < AT_ONCE ? left : AT_ONCE, 0);

		if (taken < 0) {
			if (errno == ENOBUFS || errno == ECONNREFUSED)
				continue;
			die("sendmmsg");
		}
		sent += taken;
	}
	return sent;
}

static int connected(const char *address, const char *port)
{
	struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	int room = 1 << 29;

	/* Else the sender waits while its packets stand in a backlog. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)))
		die("SO_SNDBUFFORCE");
	if (inet_pton(AF_INET, address, &peer.sin_addr) != 1)
		die(address);
	if (fd < 0 || connect(fd, (struct sockaddr *)&peer, sizeof(peer)))
		die("connect");
	return fd;
}

static void send_bursts(int fd, long bursts, long size, long pause)
{
	long sent = 0;

	while (bursts--) {
		sent += send_many(fd, size, NULL);
		if (pause && bursts)
			usleep(pause);
	}
	printf("%ld\n", sent);
}

/* Work for whoever receives: a filter that divides, and takes nothing. */
static void add_work(int divisions)
{
	struct sock_filter *code;
	struct sock_fprog program;
	int i, tap;

	divisions = divisions / TAPS > 4000 ? 4000 : divisions / TAPS;
	code = calloc(divisions + 2, sizeof(*code));
	if (!code)
		die("calloc");
	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, 1);
	for (i = 1; i <= divisions; i++)
		code[i] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 3);
	code[i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	program.len = divisions + 2;
	program.filter = code;
	for (tap = 0; tap < TAPS; tap++) {
		int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

		if (fd < 0 ||
		    setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)))
			die("tap");
	}
}

static void take(const char *port, int divisions)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof(here)))
		die("bind");
	if (divisions)
		add_work(divisions);
	printf("ready\n");
	fflush(stdout);
	pause();
}

static void send_unknown(const char *device, long rate, long seconds)
{
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(0x88b5),	/* IEEE 802 local experimental */
		.sll_ifindex = if_nametoindex(device),
		.sll_halen = 6,
	};
	int fd = socket(AF_PACKET, SOCK_DGRAM, 0);
	long begin, sent = 0, now;

	if (fd < 0 || !to.sll_ifindex)
		die(device);
	begin = now_us();
	while ((now = now_us()) < begin + seconds * 1000000) {
		if (sent > (now - begin) * rate / 1000000)
			continue;
		sent += send_many(fd, 64, &to);
	}
	printf("%ld %ld\n", sent, now - begin);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (!strcmp(mode, "take") && argc == 4) {
		take(argv[2], atoi(argv[3]));
		return 0;
	}
	pin();
	if (!strcmp(mode, "send") && argc == 7)
		send_bursts(connected(argv[2], argv[3]), atol(argv[4]), atol(argv[5]), atol(argv[6]));
	else if (!strcmp(mode, "steady") && argc == 6)
		send_bursts(connected(argv[2], argv[3]), atol(argv[4]), 1, atol(argv[5]));
	else if (!strcmp(mode, "unknown") && argc == 5)
		send_unknown(argv[2], atol(argv[3]), atol(argv[4]));
	else
		return fprintf(stderr, "packet-sender: see the head of its source\n"), 2;
	return 0;
}
