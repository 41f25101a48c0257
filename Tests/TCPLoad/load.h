/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of tcp-load share. */
#ifndef TCP_LOAD_H
#define TCP_LOAD_H

#include <netinet/in.h>

/* Prints what failed, with errno, and exits with 1. */
void fail(const char *what) __attribute__((noreturn));

struct sockaddr_in address_of(const char *host, const char *port);
void pause_ms(long milliseconds);

int serve(int argc, char **argv);
int burst(int argc, char **argv);
int flood(int argc, char **argv);
int respond(int argc, char **argv);
int request(int argc, char **argv);
int answer(int argc, char **argv);
int ask(int argc, char **argv);

#endif
