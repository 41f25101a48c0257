// SPDX-License-Identifier: Apache-2.0
/*
 * Load for listeners and buffers, in the namespace that it runs in:
 *
 *	tcp-load serve PORT BACKLOG PAUSE EACH
 *	tcp-load burst ADDRESS PORT COUNT
 *	tcp-load flood PREFIX ADDRESS PORT COUNT RATE
 *	tcp-load respond PORT BYTES [SNDBUF]
 *	tcp-load request ADDRESS PORT COUNT [RCVBUF]
 *	tcp-load answer PORT BYTES
 *	tcp-load ask ADDRESS PORT COUNT BYTES
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

void fail(const char *what)
{
	fprintf(stderr, "tcp-load: %s: %s\n", what, strerror(errno));
	exit(1);
}

struct sockaddr_in address_of(const char *host, const char *port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(atoi(port)),
	};

	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		fail(host);
	return address;
}

void pause_ms(long milliseconds)
{
	struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

int main(int argc, char **argv)
{
	struct rlimit files = { 65536, 65536 };

	signal(SIGPIPE, SIG_IGN);
	setrlimit(RLIMIT_NOFILE, &files);
	if (argc == 6 && !strcmp(argv[1], "serve"))
		return serve(argc, argv);
	if (argc == 5 && !strcmp(argv[1], "burst"))
		return burst(argc, argv);
	if (argc == 7 && !strcmp(argv[1], "flood"))
		return flood(argc, argv);
	if (argc >= 4 && !strcmp(argv[1], "respond"))
		return respond(argc, argv);
	if (argc >= 5 && !strcmp(argv[1], "request"))
		return request(argc, argv);
	if (argc == 4 && !strcmp(argv[1], "answer"))
		return answer(argc, argv);
	if (argc == 6 && !strcmp(argv[1], "ask"))
		return ask(argc, argv);
	fprintf(stderr, "usage: tcp-load serve|burst|flood|respond|request|answer|ask ...\n");
	return 64;
}
