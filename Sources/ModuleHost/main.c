// SPDX-License-Identifier: Apache-2.0
/*
 * bpftune-module-host PROTOCOL SOCKET MODULE: loads one tuner from outside, for the daemon
 * that started it. Whatever the tuner does wrong ends this process and no other.
 */
#define _GNU_SOURCE
#include "host.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int connection;
static const struct bpftune_tuner *tuner;
/* The call that is being answered. */
static __u32 current;

void say(const void *packet, size_t size)
{
	if (send(connection, packet, size, MSG_NOSIGNAL) != (ssize_t)size)
		exit(1);
}

void say_text(enum bpftune_message_kind kind, const char *text)
{
	struct bpftune_said_text said = { .message = { .kind = kind, .call = current } };

	/* Too long a text has no end, for the daemon to see. */
	if (text)
		memcpy(said.text, text, strnlen(text, sizeof(said.text)));
	say(&said, sizeof(said));
}

static void adjust(const struct bpftune_reply *reply,
		   const struct bpftune_adjustment *adjustment)
{
	struct bpftune_said_adjustment said = {
		.message = { .kind = BPFTUNE_SAYS_ADJUST, .call = current },
		.tunable = adjustment->tunable,
		.scenario = adjustment->scenario,
		.assumed = adjustment->assumed,
		.wanted = adjustment->wanted,
	};

	(void)reply;
	if (adjustment->reason)
		memcpy(said.reason, adjustment->reason, strnlen(adjustment->reason, sizeof(said.reason)));
	say(&said, sizeof(said));
}

static void leave(const struct bpftune_reply *reply, const char *reason)
{
	(void)reply;
	say_text(BPFTUNE_SAYS_LEAVE, reason);
}

static const struct bpftune_reply reply = { .adjust = adjust, .leave = leave };

static void fail(const char *what)
{
	say_text(BPFTUNE_SAYS_FAILED, what);
	exit(1);
}

static void load(int module)
{
	const struct bpftune_tuner *(*entry)(void);
	char path[32], text[BPFTUNE_TEXT];
	const char *why;
	void *library;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", module);
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		why = dlerror();
		/* The path means nothing to whoever reads it. */
		if (!strncmp(why, path, strlen(path)))
			why += strlen(path) + strspn(why + strlen(path), ": ");
		snprintf(text, sizeof(text), "it cannot be loaded: %s", why);
		fail(text);
	}
	close(module);
	entry = (const struct bpftune_tuner *(*)(void))dlsym(library, "bpftune_tuner");
	if (!entry)
		fail("it has no function bpftune_tuner()");
	tuner = entry();
	if (!tuner)
		fail("its bpftune_tuner() returns nothing");
	if (tuner->abi != BPFTUNE_TUNER_ABI) {
		snprintf(text, sizeof(text), "it is made for version %u of the interface, this is %u",
			 tuner->abi, BPFTUNE_TUNER_ABI);
		fail(text);
	}
}

/* Carries out a call; whether the packet was one. */
static int answer(const struct bpftune_message *call, size_t size)
{
	const struct bpftune_call_namespace *place = (const void *)call;
	struct bpftune_said_score score = {
		.message = { .kind = BPFTUNE_SAYS_SCORE, .call = current },
	};

	switch (call->kind) {
	case BPFTUNE_CALL_INIT:
		if (tuner->init && tuner->init(&reply)) {
			say_text(BPFTUNE_SAYS_FAILED, "");
			return 1;
		}
		break;
	case BPFTUNE_CALL_EVENT:
		if (size != sizeof(struct bpftune_call_event))
			return 0;
		tuner->event(&((const struct bpftune_call_event *)call)->seen, &reply);
		break;
	case BPFTUNE_CALL_OUTCOME:
		if (size != sizeof(struct bpftune_call_outcome))
			return 0;
		if (tuner->outcome)
			tuner->outcome(&((const struct bpftune_call_outcome *)call)->outcome);
		break;
	case BPFTUNE_CALL_NAMESPACE:
		if (size != sizeof(*place))
			return 0;
		if (tuner->namespace_changed)
			tuner->namespace_changed(&place->where, place->appeared);
		break;
	case BPFTUNE_CALL_EVALUATE:
		if (size != sizeof(*place) || !tuner->evaluate)
			return 0;
		score.score = tuner->evaluate(place->strategy, &place->where);
		say(&score, sizeof(score));
		break;
	default:
		return 0;
	}
	say(&(struct bpftune_message){ .kind = BPFTUNE_SAYS_DONE, .call = current },
	    sizeof(struct bpftune_message));
	return 1;
}

int main(int argc, char **argv)
{
	union {
		struct bpftune_message message;
		struct bpftune_call_event event;
		struct bpftune_call_outcome outcome;
		struct bpftune_call_namespace place;
	} call;
	char text[BPFTUNE_TEXT];
	const char *trouble;
	ssize_t size;

	if (argc != 4 || atoi(argv[1]) != BPFTUNE_MODULE_PROTOCOL) {
		fputs("bpftune-module-host is started by the bpftune of its version\n", stderr);
		return 64;
	}
	connection = atoi(argv[2]);
	trouble = confine(connection, atoi(argv[3]));
	if (trouble) {
		snprintf(text, sizeof(text), "its host %s: %s", trouble, strerror(errno));
		fail(text);
	}
	load(atoi(argv[3]));
	describe(tuner);
	while ((size = recv(connection, &call, sizeof(call), 0)) >= (ssize_t)sizeof(call.message)) {
		current = call.message.call;
		if (call.message.kind == BPFTUNE_CALL_FINI || !answer(&call.message, size))
			break;
	}
	if (tuner->fini)
		tuner->fini();
	/* Without the destructors of the module: it had its chance. */
	_exit(0);
}
