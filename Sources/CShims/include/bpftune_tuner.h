/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tuner from outside: what a shared object tells bpftune, and what it is told.
 * bpftune_tuner(3) explains it, Samples/ of the sources has two.
 *
 * The object is loaded into a process of its own, which may neither write a file
 * nor make a socket: a tuner asks for adjustments, and the daemon makes them,
 * within bounds, on record, and only where no administrator has set the tunable.
 */
#ifndef BPFTUNE_TUNER_H
#define BPFTUNE_TUNER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Increased when anything below changes its layout or meaning. */
#define BPFTUNE_TUNER_ABI 1

/* At most so many of each, */
#define BPFTUNE_MOST_TUNABLES 8
#define BPFTUNE_MOST_SCENARIOS 16
#define BPFTUNE_MOST_SIGNALS 8
#define BPFTUNE_MOST_PROGRAMS 4
#define BPFTUNE_MOST_STRATEGIES 4
/* in the answer to one event, */
#define BPFTUNE_MOST_ADJUSTMENTS 16
/* bytes of the BPF object, */
#define BPFTUNE_MOST_OBJECT (4 << 20)
/* and bytes of a name and of any other text, with the NUL at their end. */
#define BPFTUNE_NAME 64
#define BPFTUNE_TEXT 256
/* Numbers in an event: BPFTUNE_EVENT_VALUES of bpftune_event.h. */
#define BPFTUNE_VALUES 16

/* What the file of a tunable holds. */
enum bpftune_arity {
	BPFTUNE_SCALAR = 1,
	/* A minimum, a starting value and a maximum; the maximum is tuned. */
	BPFTUNE_TRIPLE = 3,
};

/* What a value or a state is about. */
enum bpftune_scope {
	BPFTUNE_PER_NAMESPACE = 0,	/* one network namespace */
	BPFTUNE_GLOBAL = 1,		/* the whole machine */
};

/* A kernel parameter that this tuner alone changes. */
struct bpftune_tunable {
	const char *name;		/* as sysctl(8) writes it, below net. */
	enum bpftune_arity arity;
	enum bpftune_scope scope;
	/* No value outside of these is ever asked for. */
	int64_t minimum;
	int64_t maximum;
};

/* Something that the kernel can tell. */
struct bpftune_signal {
	const char *name;		/* in words: group refused */
	/*
	 * Programs of the BPF object that can tell it, the cheapest first: the
	 * first that this kernel takes is attached where its section says
	 * (tp_btf/, raw_tp/, tracepoint/, fentry/, fexit/, kprobe/, kretprobe/,
	 * sockops, cgroup/ but for cgroup/sysctl). A NULL ends the list.
	 */
	const char *programs[BPFTUNE_MOST_PROGRAMS];
};

/* A network namespace. */
struct bpftune_namespace {
	uint64_t cookie;		/* never used again; 0 before Linux 5.14 */
	uint32_t inode;			/* as lsns(8) shows it */
	uint32_t reserved;
};

struct bpftune_value {
	int64_t numbers[3];		/* a scalar has one */
	uint32_t is_there;		/* 0: not on this kernel, or not readable */
	uint32_t reserved;
};

/* An event of the BPF programs, and how things stand. */
struct bpftune_observation {
	struct bpftune_namespace where;
	uint32_t scenario;		/* index into scenarios */
	uint32_t folded;		/* repeats before it that were not sent */
	uint32_t strategy;		/* index into strategies: tune this way */
	int32_t process;		/* that it is about, or 0 */
	uint64_t time;			/* nanoseconds of CLOCK_MONOTONIC */
	int64_t free_memory;		/* bytes */
	int64_t values[BPFTUNE_VALUES];	/* as the BPF program put them */
	/* Of each tunable, in the order of tunables. */
	struct bpftune_value current[BPFTUNE_MOST_TUNABLES];
};

/* What should be changed, and why. */
struct bpftune_adjustment {
	uint32_t tunable;		/* index into tunables */
	uint32_t scenario;		/* index into scenarios */
	/*
	 * What the decision assumes to be in force: the limit that the event
	 * carries. If the tunable holds another number by now, the event is older
	 * than the last change, and nothing is done.
	 */
	int64_t assumed;
	int64_t wanted;
	/* The evidence, in words and numbers. */
	const char *reason;
};

/* Where answers go; valid until the call that it was given to returns. */
struct bpftune_reply {
	void (*adjust)(const struct bpftune_reply *reply,
		       const struct bpftune_adjustment *adjustment);
	/* Nothing is to be changed, and why: for those who debug. */
	void (*leave)(const struct bpftune_reply *reply, const char *reason);
};

/* What became of an adjustment. */
enum bpftune_result {
	BPFTUNE_APPLIED = 0,
	BPFTUNE_ADVISED = 1,		/* dry run: nothing was written */
	BPFTUNE_STALE = 2,		/* the tunable holds something else */
	BPFTUNE_REFUSED = 3,		/* by an administrator, or it is not there */
	BPFTUNE_RECALLED = 4,		/* a daemon before this one had applied it */
};

struct bpftune_outcome {
	struct bpftune_namespace where;
	uint32_t tunable;
	enum bpftune_result result;
	int64_t old_value;		/* applied, advised: the number before */
	int64_t new_value;		/* what it is now, or was to be */
};

struct bpftune_tuner {
	uint32_t abi;			/* BPFTUNE_TUNER_ABI */
	/* What one state of the tuner is about, and a strategy is tried in. */
	enum bpftune_scope scope;
	/* Lower case, digits and dashes, and the name of the file before ".so". */
	const char *name;
	const char *description;	/* one line */

	const struct bpftune_tunable *tunables;
	size_t tunable_count;
	/* Such as "need to allow more multicast groups". */
	const char *const *scenarios;
	size_t scenario_count;
	const struct bpftune_signal *signals;
	size_t signal_count;
	/* Several ways to tune, by name, if there are; the first is tried first. */
	const char *const *strategies;
	size_t strategy_count;

	/* The BPF object: an ELF file in memory. */
	const void *object;
	size_t object_size;

	/*
	 * All but event may be NULL. They are called one after the other, by one
	 * thread, and each has one second.
	 */

	/* Before anything else. Not 0: the tuner cannot work here; leave() says why. */
	int (*init)(const struct bpftune_reply *reply);
	void (*event)(const struct bpftune_observation *seen, const struct bpftune_reply *reply);
	void (*outcome)(const struct bpftune_outcome *outcome);
	/* A network namespace has appeared (1), or is gone (0). */
	void (*namespace_changed)(const struct bpftune_namespace *where, int appeared);
	/*
	 * How well it went there (for a tuner about the machine: everywhere) since
	 * the strategy was chosen; more is better. Needed where there are strategies.
	 */
	double (*evaluate)(uint32_t strategy, const struct bpftune_namespace *where);
	void (*fini)(void);
};

/* The one symbol that a tuner exports. What it returns stays as it is. */
__attribute__((visibility("default")))
const struct bpftune_tuner *bpftune_tuner(void);

/*
 * Takes a file into the object, as `symbol` up to `symbol_end`. The file is found
 * in the directories that -I names.
 */
#define BPFTUNE_EMBED(symbol, file)						\
	extern const unsigned char symbol[], symbol##_end[];			\
	__asm__(".pushsection .rodata\n"					\
		".balign 16\n"							\
		".globl " #symbol ", " #symbol "_end\n"				\
		".hidden " #symbol ", " #symbol "_end\n"			\
		#symbol ":\n"							\
		".incbin \"" file "\"\n"					\
		#symbol "_end:\n"						\
		".popsection\n")

#ifdef __cplusplus
}
#endif

#endif
