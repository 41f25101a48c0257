// SPDX-License-Identifier: Apache-2.0
/* Connections that transfer something, and how often the kernel grew their buffers. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK 4096

static int buffer_size(int fd, int option)
{
	socklen_t size = sizeof(int);
	int value = 0;

	getsockopt(fd, SOL_SOCKET, option, &value, &size);
	return value;
}

static void set_buffer(int fd, int option, const char *text)
{
	int value = atoi(text);

	if (setsockopt(fd, SOL_SOCKET, option, &value, sizeof(value)))
		fail("set buffer");
}

struct response {
	int fd;
	int start;	/* of the listener, which the connection began with */
	long bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long grown, served;

static void *send_response(void *argument)
{
	static const char data[CHUNK];
	struct response *response = argument;
	int size = response->start, growths = 0;
	long left;

	for (left = response->bytes; left > 0; left -= CHUNK) {
		int now = buffer_size(response->fd, SO_SNDBUF);

		growths += now != size;
		size = now;
		if (send(response->fd, data, left < CHUNK ? left : CHUNK, MSG_NOSIGNAL) < 0)
			break;
	}
	/* Until the peer has it all: the buffer grows while acknowledgements come. */
	shutdown(response->fd, SHUT_WR);
	while (recv(response->fd, (char[CHUNK]){ 0 }, CHUNK, 0) > 0)
		;
	growths += buffer_size(response->fd, SO_SNDBUF) != size;
	close(response->fd);
	free(response);
	pthread_mutex_lock(&lock);
	grown += growths;
	served++;
	printf("served %ld grown %ld\n", served, grown);
	fflush(stdout);
	pthread_mutex_unlock(&lock);
	return NULL;
}

/*
 * Sends BYTES on each connection. Prints how many it has served so far, and how
 * often it saw that a send buffer had grown.
 */
int respond(int argc, char **argv)
{
	struct sockaddr_in address = address_of("0.0.0.0", argv[2]);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&address, sizeof(address)))
		fail("bind");
	if (argc > 4)
		set_buffer(fd, SO_SNDBUF, argv[4]);
	if (listen(fd, 512))
		fail("listen");
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		struct response *response = malloc(sizeof(*response));
		pthread_t thread;

		if (!response)
			fail("memory");
		response->fd = accept(fd, NULL, NULL);
		response->start = buffer_size(fd, SO_SNDBUF);
		response->bytes = atol(argv[3]);
		if (response->fd < 0 || pthread_create(&thread, NULL, send_response, response))
			fail("accept");
		pthread_detach(thread);
	}
}

/*
 * COUNT connections, 16 at a time, each read to its end. Prints how many were
 * complete and how often it saw that a receive buffer had grown.
 */
int request(int argc, char **argv)
{
	struct sockaddr_in address = address_of(argv[2], argv[3]);
	static char data[1 << 16];
	int count = atoi(argv[4]), done = 0, i;
	long growths = 0, bytes = 0;

	while (done < count) {
		int fds[16], sizes[16], many = count - done < 16 ? count - done : 16;
		int open = many;

		for (i = 0; i < many; i++) {
			fds[i] = socket(AF_INET, SOCK_STREAM, 0);
			if (fds[i] < 0)
				fail("socket");
			if (argc > 5)
				set_buffer(fds[i], SO_RCVBUF, argv[5]);
			sizes[i] = buffer_size(fds[i], SO_RCVBUF);
			if (connect(fds[i], (void *)&address, sizeof(address)))
				fail("connect");
		}
		while (open) {
			int moved = 0;

			for (i = 0; i < many; i++) {
				ssize_t n;
				int now;

				if (fds[i] < 0)
					continue;
				n = recv(fds[i], data, sizeof(data), MSG_DONTWAIT);
				if (n < 0 && errno == EAGAIN)
					continue;
				moved = 1;
				now = buffer_size(fds[i], SO_RCVBUF);
				growths += now != sizes[i];
				sizes[i] = now;
				if (n > 0) {
					bytes += n;
					continue;
				}
				close(fds[i]);
				fds[i] = -1;
				open--;
				done++;
			}
			if (!moved)
				pause_ms(1);
		}
	}
	printf("done %d bytes %ld grown %ld\n", done, bytes, growths);
	return 0;
}
