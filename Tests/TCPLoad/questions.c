// SPDX-License-Identifier: Apache-2.0
/* Connections that stay open while one side asks and the other answers. */
#define _GNU_SOURCE
#include "load.h"

#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 65536

static const int one = 1;

static void answer_all(int fd, size_t bytes)
{
	static const char data[MOST];
	char question;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (recv(fd, &question, 1, 0) == 1) {
		if (send(fd, data, bytes, MSG_NOSIGNAL) < 0)
			break;
	}
	close(fd);
}

/* Answers each byte with BYTES, on one connection after the other. */
int answer(int argc, char **argv)
{
	struct sockaddr_in address = address_of("0.0.0.0", argv[2]);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	size_t bytes = atol(argv[3]);

	(void)argc;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bytes > MOST || bind(fd, (void *)&address, sizeof(address)) || listen(fd, 16))
		fail("listen");
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		int connection = accept(fd, NULL, NULL);

		if (connection < 0)
			fail("accept");
		answer_all(connection, bytes);
	}
}

/* Microseconds until an answer is complete. */
static long ask_once(int fd, size_t bytes)
{
	static char data[MOST];
	struct timespec before, after;
	ssize_t got;

	clock_gettime(CLOCK_MONOTONIC, &before);
	if (send(fd, data, 1, MSG_NOSIGNAL) != 1)
		fail("send");
	for (; bytes; bytes -= got) {
		got = recv(fd, data, bytes, 0);
		if (got <= 0)
			fail("receive");
	}
	clock_gettime(CLOCK_MONOTONIC, &after);
	return (after.tv_sec - before.tv_sec) * 1000000 +
	       (after.tv_nsec - before.tv_nsec) / 1000;
}

/* Asks COUNT times on one connection. Prints the mean of the times in microseconds. */
int ask(int argc, char **argv)
{
	struct sockaddr_in address = address_of(argv[2], argv[3]);
	int fd = socket(AF_INET, SOCK_STREAM, 0), count = atoi(argv[4]), i;
	size_t bytes = atol(argv[5]);
	long sum = 0;

	(void)argc;
	if (bytes > MOST || connect(fd, (void *)&address, sizeof(address)))
		fail("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (i = 0; i < count; i++)
		sum += ask_once(fd, bytes);
	printf("answers %d mean %ld\n", count, sum / (count ? count : 1));
	return 0;
}
