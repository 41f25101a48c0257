// SPDX-License-Identifier: Apache-2.0
/* Listeners, bursts of connections to them, and floods of SYNs. */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t reload;

static void on_hangup(int number)
{
	(void)number;
	reload = 1;
}

/*
 * Accepts EACH connections (0: all that wait) every PAUSE milliseconds, and
 * closes them. On SIGHUP it calls listen() again.
 */
int serve(int argc, char **argv)
{
	struct sockaddr_in address = address_of("0.0.0.0", argv[2]);
	int backlog = atoi(argv[3]), one = 1;
	long pause = atol(argv[4]), each = atol(argv[5]);
	struct sigaction action = { .sa_handler = on_hangup };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	(void)argc;
	sigaction(SIGHUP, &action, NULL);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&address, sizeof(address)) || listen(fd, backlog))
		fail("listen");
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		long i;

		if (reload) {
			reload = 0;
			if (listen(fd, backlog))
				fail("listen");
			printf("listening again\n");
			fflush(stdout);
		}
		for (i = 0; !each || i < each; i++) {
			int connection = accept(fd, NULL, NULL);

			if (connection < 0)
				break;
			close(connection);
		}
		pause_ms(pause);
	}
}

/* COUNT connections at once; waits for each for up to 15 seconds. */
int burst(int argc, char **argv)
{
	struct sockaddr_in address = address_of(argv[2], argv[3]);
	int count = atoi(argv[4]), open = 0, established = 0, i;
	struct pollfd *polls = calloc(count, sizeof(*polls));

	(void)argc;
	if (!polls)
		fail("memory");
	for (i = 0; i < count; i++) {
		polls[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		polls[i].events = POLLOUT;
		if (polls[i].fd < 0)
			fail("socket");
		if (connect(polls[i].fd, (void *)&address, sizeof(address)) &&
		    errno != EINPROGRESS)
			fail("connect");
		open++;
	}
	while (open && poll(polls, count, 15000) > 0) {
		for (i = 0; i < count; i++) {
			int error = 0;
			socklen_t size = sizeof(error);

			if (polls[i].fd < 0 || !polls[i].revents)
				continue;
			getsockopt(polls[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);
			established += !error;
			close(polls[i].fd);
			polls[i].fd = -1;
			open--;
		}
	}
	printf("established %d\n", established);
	return 0;
}

static uint16_t checksum(const void *data, size_t size, uint32_t sum)
{
	const uint16_t *words = data;

	for (; size > 1; size -= 2)
		sum += *words++;
	sum = (sum >> 16) + (sum & 0xffff);
	return ~(sum + (sum >> 16));
}

/*
 * COUNT SYNs, RATE a second, each from another address in PREFIX/16. Nobody
 * has these addresses, so nobody answers.
 */
int flood(int argc, char **argv)
{
	struct sockaddr_in address = address_of(argv[3], argv[4]);
	struct sockaddr_in prefix = address_of(argv[2], "0");
	long count = atol(argv[5]), rate = atol(argv[6]), i;
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);

	(void)argc;
	if (fd < 0)
		fail("raw socket");
	for (i = 0; i < count; i++) {
		struct {
			struct iphdr ip;
			struct tcphdr tcp;
		} packet = {
			.ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP },
			.tcp = { .syn = 1, .doff = 5 },
		};
		struct {
			uint32_t from, to;
			uint16_t protocol, size;
		} pseudo;
		uint32_t sum = 0;
		size_t word;

		packet.ip.tot_len = htons(sizeof(packet));
		packet.ip.saddr = htonl(ntohl(prefix.sin_addr.s_addr) + 1 + i % 65000);
		packet.ip.daddr = address.sin_addr.s_addr;
		packet.ip.check = checksum(&packet.ip, sizeof(packet.ip), 0);
		packet.tcp.source = htons(1024 + i % 60000);
		packet.tcp.dest = address.sin_port;
		packet.tcp.seq = htonl(i * 2654435761u);
		packet.tcp.window = htons(65535);
		pseudo.from = packet.ip.saddr;
		pseudo.to = packet.ip.daddr;
		pseudo.protocol = htons(IPPROTO_TCP);
		pseudo.size = htons(sizeof(packet.tcp));
		for (word = 0; word < sizeof(pseudo) / 2; word++)
			sum += ((uint16_t *)&pseudo)[word];
		packet.tcp.check = checksum(&packet.tcp, sizeof(packet.tcp), sum);
		if (sendto(fd, &packet, sizeof(packet), 0, (void *)&address,
			   sizeof(address)) < 0)
			fail("send");
		if (i % 64 == 63)
			pause_ms(64000 / rate);
	}
	printf("sent %ld\n", count);
	return 0;
}
