/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the daemon and bpftune-module-host of the same version: packets over a
 * SOCK_SEQPACKET pair, each one of these structures. The host speaks first; after
 * that it answers calls, one at a time, with any number of packets of which the
 * last is BPFTUNE_SAYS_DONE or BPFTUNE_SAYS_FAILED. The daemon trusts no length,
 * number or text that comes back.
 */
#ifndef BPFTUNE_MODULE_H
#define BPFTUNE_MODULE_H

#include <linux/types.h>
#include <sys/types.h>

#include "bpftune_event.h"
#include "bpftune_tuner.h"

/* Increased with each change: an update may leave a daemon beside a newer host. */
#define BPFTUNE_MODULE_PROTOCOL 1

enum bpftune_message_kind {
	BPFTUNE_CALL_INIT = 1,
	BPFTUNE_CALL_EVENT,
	BPFTUNE_CALL_OUTCOME,
	BPFTUNE_CALL_NAMESPACE,
	BPFTUNE_CALL_EVALUATE,
	BPFTUNE_CALL_FINI,

	BPFTUNE_SAYS_DESCRIPTION = 64,
	BPFTUNE_SAYS_OBJECT,
	BPFTUNE_SAYS_ADJUST,
	BPFTUNE_SAYS_LEAVE,
	BPFTUNE_SAYS_SCORE,
	BPFTUNE_SAYS_DONE,
	BPFTUNE_SAYS_FAILED,
};

/* A call without arguments, and BPFTUNE_SAYS_DONE. */
struct bpftune_message {
	__u32 kind;
	__u32 call;		/* which one is answered; 0 at the start */
};

struct bpftune_call_event {
	struct bpftune_message message;
	struct bpftune_observation seen;
};

struct bpftune_call_outcome {
	struct bpftune_message message;
	struct bpftune_outcome outcome;
};

struct bpftune_call_namespace {
	struct bpftune_message message;
	struct bpftune_namespace where;
	__u32 appeared;
	__u32 strategy;		/* of BPFTUNE_CALL_EVALUATE */
};

/* As an element of a list, for Swift. */
struct bpftune_name_text {
	char bytes[BPFTUNE_NAME];
};

struct bpftune_said_tunable {
	char name[BPFTUNE_NAME];
	__u32 arity;
	__u32 scope;
	__s64 minimum;
	__s64 maximum;
};

struct bpftune_said_signal {
	char name[BPFTUNE_NAME];
	char programs[BPFTUNE_MOST_PROGRAMS][BPFTUNE_NAME];
};

/* BPFTUNE_SAYS_DESCRIPTION; then come object_size bytes in BPFTUNE_SAYS_OBJECT. */
struct bpftune_said_description {
	struct bpftune_message message;
	__u32 scope;
	__u32 object_size;
	__u32 tunable_count;
	__u32 scenario_count;
	__u32 signal_count;
	__u32 strategy_count;
	__u32 hears_namespaces;		/* namespace_changed is there */
	__u32 evaluates;
	char name[BPFTUNE_NAME];
	char description[BPFTUNE_TEXT];
	struct bpftune_said_tunable tunables[BPFTUNE_MOST_TUNABLES];
	char scenarios[BPFTUNE_MOST_SCENARIOS][BPFTUNE_NAME];
	struct bpftune_said_signal signals[BPFTUNE_MOST_SIGNALS];
	char strategies[BPFTUNE_MOST_STRATEGIES][BPFTUNE_NAME];
};

#define BPFTUNE_OBJECT_CHUNK 16384

struct bpftune_said_object {
	struct bpftune_message message;
	unsigned char bytes[BPFTUNE_OBJECT_CHUNK];	/* the last one is shorter */
};

struct bpftune_said_adjustment {
	struct bpftune_message message;
	__u32 tunable;
	__u32 scenario;
	__s64 assumed;
	__s64 wanted;
	char reason[BPFTUNE_TEXT];
};

/* BPFTUNE_SAYS_LEAVE, BPFTUNE_SAYS_FAILED */
struct bpftune_said_text {
	struct bpftune_message message;
	char text[BPFTUNE_TEXT];
};

struct bpftune_said_score {
	struct bpftune_message message;
	double score;
};

_Static_assert(BPFTUNE_VALUES == BPFTUNE_EVENT_VALUES, "numbers of an event");
_Static_assert(sizeof(struct bpftune_observation) == 432, "observation layout");
_Static_assert(sizeof(struct bpftune_call_event) == 440, "event call layout");
_Static_assert(sizeof(struct bpftune_call_outcome) == 48, "outcome call layout");
_Static_assert(sizeof(struct bpftune_call_namespace) == 32, "namespace call layout");
_Static_assert(sizeof(struct bpftune_said_adjustment) == 288, "adjustment layout");
_Static_assert(sizeof(struct bpftune_said_score) == 16, "score layout");

/*
 * Starts `host` with a module to load and the other end of the socket that is
 * returned, non-blocking; `pid` and `pidfd` are of the child, which the caller
 * reaps. The module's descriptor stays the caller's. -1 with errno.
 */
int bpftune_module_start(const char *host, int module, pid_t *pid, int *pidfd);

/*
 * How the child ended: as waitpid(2) has it, 0 also where that cannot be told; -1
 * while it has not.
 */
int bpftune_module_reap(int pidfd);

#endif
